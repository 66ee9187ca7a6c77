"""Transactions: what waits is committed together, and one that fails fails alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from relay.embedded.database import BATCH, Database, open_sqlite
from relay.embedded.schema import meta, metadata
from tests.embedded.inmemory import Held, Inline


def put(name: str) -> Any:
    """A change that stores *name* and returns it."""

    def change(connection: sa.Connection) -> str:
        connection.execute(sa.insert(meta).values(name=name, value=""))
        return name

    return change


def fail(connection: sa.Connection) -> None:
    """A change that stores something and then fails."""
    put("half")(connection)
    raise ZeroDivisionError


def names(connection: sa.Connection) -> list[str]:
    return sorted(connection.execute(sa.select(meta.c.name)).scalars())


class DatabaseTests(SynchronousTestCase):
    """A database with a writer that works when told to."""

    def setUp(self) -> None:
        path = Path(self.mktemp())
        self.engine = open_sqlite(path)
        self.addCleanup(self.engine.dispose)
        with self.engine.begin() as connection:
            metadata.create_all(connection)
        self.commits = 0
        sa.event.listen(self.engine, "commit", self.committed)
        self.writer = Held()
        self.database = Database(self.engine, Inline(), self.writer)

    def committed(self, connection: sa.Connection) -> None:
        self.commits += 1

    def names(self) -> list[str]:
        return self.successResultOf(self.database.read(names))

    def test_alone(self) -> None:
        """A change is visible once it is committed, and not before."""
        done = self.database.write(put("a"))
        self.assertNoResult(done)
        self.assertEqual(self.names(), [])
        self.writer.release()
        self.assertEqual(self.successResultOf(done), "a")
        self.assertEqual(self.names(), ["a"])

    def test_together(self) -> None:
        """Changes that wait for a commit share the next one, and each gets its own result."""
        done = [self.database.write(put(str(number))) for number in range(50)]
        self.writer.release()
        self.writer.release()
        self.assertEqual([self.successResultOf(each) for each in done], [str(number) for number in range(50)])
        self.assertEqual(self.commits, 2)

    def test_bounded(self) -> None:
        """No commit has more than so many changes."""
        done = [self.database.write(put(str(number))) for number in range(2 * BATCH + 1)]
        for _ in range(3):
            self.writer.release()
        self.assertEqual(self.commits, 3)
        for each in done:
            self.successResultOf(each)

    def test_failure_alone(self) -> None:
        """A change that fails is undone and reported; those beside it stand."""
        first = self.database.write(put("first"))
        beside, failing, after = (self.database.write(each) for each in (put("a"), fail, put("b")))
        self.writer.release()
        self.writer.release()
        for done in (first, beside, after):
            self.successResultOf(done)
        self.failureResultOf(failing, ZeroDivisionError)
        self.assertEqual(self.names(), ["a", "b", "first"])

    def test_failed_commit(self) -> None:
        """When the commit itself fails, nobody is told that his change stands, and the next one works."""
        first, second = self.database.write(put("a")), self.database.write(put("b"))
        (_, done), self.writer.jobs = self.writer.jobs[0], []
        done.errback(OSError("no space"))
        self.failureResultOf(first, OSError)
        self.writer.release()
        self.assertEqual(self.successResultOf(second), "b")
        self.assertEqual(self.names(), ["b"])

    def test_close(self) -> None:
        """Closing waits for what is under way."""
        done = [self.database.write(put("a")), self.database.write(put("b"))]
        closed = Deferred.fromCoroutine(self.database.close())
        self.assertNoResult(closed)
        self.assertFalse(self.writer.stopped)
        self.writer.release()
        self.assertNoResult(closed)
        self.writer.release()
        self.successResultOf(closed)
        self.assertTrue(self.writer.stopped)
        for each in done:
            self.successResultOf(each)
