"""The schema's revisions."""

from __future__ import annotations

from alembic.script import ScriptDirectory
from twisted.trial.unittest import SynchronousTestCase

from relay.spool.migrations import REVISIONS


class MigrationsTests(SynchronousTestCase):
    """:mod:`relay.spool.migrations`."""

    def test_head(self) -> None:
        """The newest revision is the one that the program takes for it."""
        self.assertEqual(ScriptDirectory(REVISIONS.folder).get_current_head(), REVISIONS.head)
