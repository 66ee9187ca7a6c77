"""What a relay imports until it greets: each second that it takes is one in which nobody can send."""

from __future__ import annotations

import os
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.support import PATIENCE

#: What the first greeting can do without, by how much of a start each took.
LATE = (
    "alembic",
    "jinja2",
    "relay.embedded.api",
    "relay.embedded.backend",
    "relay.embedded.web",
    "relay.message",
    "relay.pipeline",
    "relay.workers",
    "sqlalchemy.dialects.postgresql",
    "treq",
    "twisted.web",
)

#: Starts a relay until its reactor runs, and says what was imported then, and what when it is ready.
START = """
import os, sys
from twisted.internet.testing import MemoryReactorClock
from relay import service
from relay.config import Config
from relay.intake import GREETED
from relay.spool.writer import Inline

reactor = MemoryReactorClock()
made = service.makeService(Config(data=sys.argv[1], hostname="relay.example", backend=tuple(sys.argv[2:])), reactor)
made.spool_thread = lambda reactor: Inline()
made.privilegedStartService()
made.startService()
print(*sys.modules)
reactor.run()
reactor.advance(GREETED)
print(*sys.modules, flush=True)
os._exit(0)  # this reactor would wait for threads
"""


class ImportTests(SynchronousTestCase):
    """In a process of its own: what is imported once stays."""

    def imported(self, data: str, *backend: str) -> tuple[set[str], set[str]]:
        """What a relay has imported until it greets, and until it is ready."""
        ran = subprocess.run(
            [sys.executable, "-c", START, data, *backend], capture_output=True, text=True, timeout=PATIENCE
        )
        self.assertEqual(ran.returncode, 0, ran.stderr)
        greeting, ready = (set(line.split()) for line in ran.stdout.splitlines())
        return greeting, ready

    def test_platform_elsewhere(self) -> None:
        """A relay before a platform of one's own greets before it imports a parser or HTTP, at its first start too."""
        data = os.path.abspath(self.mktemp())
        for start in ("first", "later"):
            with self.subTest(start):
                greeting, ready = self.imported(data, "http://127.0.0.1:1")
                self.assertEqual(greeting & {*LATE, "relay.embedded"}, set())
                self.assertLessEqual({"relay.message", "relay.pipeline", "twisted.web"}, ready)
                self.assertEqual(ready & {"alembic", "relay.embedded", "sqlalchemy.dialects.postgresql"}, set())

    def test_embedded(self) -> None:
        """With the embedded backend it opens its database, and makes the pages later."""
        data = os.path.abspath(self.mktemp())
        for start in ("first", "later"):
            with self.subTest(start):
                greeting, ready = self.imported(data)
                self.assertEqual(greeting & set(LATE), set())
                self.assertLessEqual({"relay.embedded.api", "relay.embedded.web", "relay.message"}, ready)
                self.assertEqual(ready & {"alembic", "sqlalchemy.dialects.postgresql"}, set())
