"""The schema's revisions."""

from __future__ import annotations

import subprocess
import sys

from alembic.script import ScriptDirectory
from twisted.trial.unittest import SynchronousTestCase

from relay.spool.migrations import REVISIONS


class MigrationsTests(SynchronousTestCase):
    """:mod:`relay.spool.migrations`."""

    def test_head(self) -> None:
        """The newest revision is the one that the program takes for it."""
        self.assertEqual(ScriptDirectory(REVISIONS.folder).get_current_head(), REVISIONS.head)

    def test_import(self) -> None:
        """A relay whose database is up to date does not wait for Alembic to be imported."""
        check = "import sys, relay.service; print('alembic' in sys.modules)"
        ran = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=60, check=True)
        self.assertEqual(ran.stdout, "False\n")
