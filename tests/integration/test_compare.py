"""benchmarks/compare.py with few messages: whether its rows come and its counts are right; no time is looked at."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from .support import ROOT

COMPARE = ROOT / "benchmarks" / "compare.py"

#: The extra ``bench``; without it the third program is left out.
PEERS = ["aiosmtpd"] if importlib.util.find_spec("aiosmtpd") and importlib.util.find_spec("aiohttp") else []

MESSAGES = 12


class CompareTests(SynchronousTestCase):
    """The whole tool."""

    def compare(self, *options: str) -> tuple[dict[str, Any], str]:
        """What it wrote as JSON, and what it printed."""
        folder = Path(tempfile.mkdtemp(prefix="relay-compare-"))
        self.addCleanup(shutil.rmtree, folder)
        ran = subprocess.run(
            [sys.executable, str(COMPARE), "--quick", "--messages", str(MESSAGES), "--json", folder / "json", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        self.assertEqual(ran.returncode, 0, ran.stdout)
        return json.loads((folder / "json").read_text()), ran.stdout

    def test_table(self) -> None:
        """Each program has a row under each workload, and the platform has counted every message of it."""
        programs = ["relay", "twisted", *PEERS]
        said, printed = self.compare(
            *(word for each in ("W1", "W2", "W3", "W4", "W5") for word in ("--only", each)),
            *(word for each in programs for word in ("--program", each)),
        )
        rows = {(row["workload"], row["program"]): row for row in said["rows"]}
        self.assertEqual(len(rows), 5 * len(programs) + 3)  # W4 and W5 have the yardstick of W2
        for (workload, program), row in rows.items():
            self.assertTrue(row["good"], row)
            self.assertEqual(row["counted"], None if program == "smtp-sink" else MESSAGES, row)
            self.assertGreater(row["ratio"], 0)
            self.assertRegex(printed, rf"(?m)^{workload} +{program.replace('+', '.')} ")

    def test_the_rest(self) -> None:
        """Signing in, latency, idle sessions, start and memory have their rows and figures."""
        parts = ("sign-in", "latency", "idle", "start", "memory")
        said, _ = self.compare(
            *(word for each in parts for word in ("--only", each)),
            *("--program", "relay", "--idle-sessions", "20", "--large-clients", "3", "--large-size", "2000000"),
        )
        workloads = {row["workload"] for row in said["rows"]}
        self.assertTrue({f"{name} {kind}" for name in ("W1", "W4") for kind in ("AUTH", "STARTTLS")} < workloads)
        self.assertEqual([row for row in said["rows"] if row["counted"] not in (None, MESSAGES)], [])
        self.assertEqual({each["part"] for each in said["figures"]}, {*parts} - {"sign-in"})
        self.assertTrue(all(each["good"] for each in said["figures"]), said["figures"])

    def test_missing(self) -> None:
        """Without a compiler it says which packages to install, and measures nothing."""
        ran = subprocess.run(
            [sys.executable, str(COMPARE), "--quick", "--program", "relay"],
            env={"PATH": "/nowhere"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual(ran.returncode, 2)
        self.assertRegex(ran.stderr, "apt-get install --no-install-recommends gcc libc6-dev")
        self.assertNotIn("Traceback", ran.stderr)
