"""The API of a running relay against its own document, by schemathesis."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.support import running

#: What a program sends that keeps to the schemas may still be refused: a template with a mistake is a string, too.
UNCHECKED = "positive_data_acceptance"


class DocTests(SynchronousTestCase):
    """``/api/doc``."""

    def test_kept(self) -> None:
        """Whatever is asked of it, in the document's words or against them, no answer is another than it says."""
        script = Path(sys.executable).with_name("schemathesis")
        with tempfile.TemporaryDirectory() as folder, running() as relay:
            url = f"http://127.0.0.1:{relay.dashboard}/api/doc"
            command = [str(script), "run", url, "--header", f"X-Auth-APIKey: {relay.api_key}", "--seed", "1"]
            # The key that the others need must not be reset under them.
            command += ["--exclude-operation-id", "reset_key", "--exclude-checks", UNCHECKED, "--max-examples", "8"]
            command += ["--no-shrink", "--warnings", "off", "--phases", "coverage,fuzzing,stateful"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
            self.assertEqual(done.returncode, 0, done.stdout[-4000:] + done.stderr[-2000:])
            self.assertNotIn("Traceback", relay.output)
