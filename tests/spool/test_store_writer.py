"""The writer: one commit for all who wait, answers after it, and each failure for itself."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relay.errors import Reason, TemporaryFailure
from relay.spool.database import SQLite
from relay.spool.writer import BATCH, PAUSE, Inline, Transaction, Writer, WriterThread

table = sa.Table("t", sa.MetaData(), sa.Column("name", sa.Text, primary_key=True))


def put(transaction: Transaction, names: Sequence[str]) -> list[str]:
    """Insert all of *names* in one statement."""
    transaction.connection.execute(sa.insert(table), [{"name": name} for name in names])
    return list(names)


def defect(transaction: Transaction, items: Sequence[str]) -> list[str]:
    """Insert something, and then fail."""
    put(transaction, ["half"])
    raise ZeroDivisionError


def fetch(transaction: Transaction, items: Sequence[None]) -> list[list[str]]:
    found = list(transaction.connection.execute(sa.select(table.c.name).order_by(table.c.name)).scalars())
    return [found] * len(items)


class Held(Inline):
    """A thread that works when it is told to."""

    def __init__(self) -> None:
        self.works: list[Callable[[], None]] = []

    def run(self, work: Callable[[], None]) -> None:
        self.works.append(work)

    def release(self) -> None:
        works, self.works = self.works, []
        for work in works:
            work()


class WriterCase(SynchronousTestCase):
    """A writer on a database with one table."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.database = SQLite(self.path)
        with self.database.connect() as connection, connection.begin():
            connection.exec_driver_sql("CREATE TABLE spool_meta (name TEXT PRIMARY KEY, value BLOB)")
            table.create(connection)
        self.commits = 0
        self.committed: list[Transaction] = []
        self.clock = Clock()
        self.thread = Held()
        self.writer = self.open(self.thread)
        sa.event.listen(self.database._engine, "commit", self.count)

    def open(self, thread: Any) -> Writer:
        writer = Writer(
            self.database, thread, self.clock.seconds, lambda _: None, self.committed.append, self.clock.seconds
        )
        self.opened = writer.open()
        if isinstance(thread, Held):
            thread.release()
        return writer

    def count(self, connection: sa.Connection) -> None:
        self.commits += 1

    def failed(self, done: Deferred[Any]) -> Reason:
        return self.failureResultOf(done, TemporaryFailure).value.reason

    def names(self) -> list[str]:
        done = self.writer.submit(fetch, None)
        self.thread.release()
        return self.successResultOf(done)


class CommitTests(WriterCase):
    """Commits."""

    def test_together(self) -> None:
        """What waits is committed once, and each gets its own answer, after the commit and not before."""
        done = [self.writer.submit(put, str(number)) for number in range(50)]
        for each in done:
            self.assertNoResult(each)
        self.thread.release()
        self.assertEqual([self.successResultOf(each) for each in done], [str(number) for number in range(50)])
        self.assertEqual(self.commits, 1)

    def test_bounded(self) -> None:
        """No commit has more than so many operations."""
        done = [self.writer.submit(put, str(number)) for number in range(2 * BATCH + 1)]
        self.thread.release()
        self.assertEqual(self.commits, 3)
        for each in done:
            self.successResultOf(each)

    def test_one_at_fault(self) -> None:
        """One that fails for a reason of its own fails alone, and leaves nothing; the others are kept."""
        before, failing, after = (
            self.writer.submit(put, "a"),
            self.writer.submit(defect, "x"),
            self.writer.submit(put, "b"),
        )
        self.thread.release()
        self.assertEqual((self.successResultOf(before), self.successResultOf(after)), ("a", "b"))
        self.failureResultOf(failing, ZeroDivisionError)
        self.assertEqual(self.names(), ["a", "b"])

    def test_refused_by_the_database(self) -> None:
        """What the database itself does not take is refused for now, alone."""
        first, again, other = (self.writer.submit(put, name) for name in ("a", "a", "b"))
        self.thread.release()
        self.successResultOf(first)
        self.assertEqual(self.failed(again), Reason.SPOOL_FAILED)
        self.successResultOf(other)
        self.assertEqual(self.names(), ["a", "b"])

    def test_wrong_number_of_answers(self) -> None:
        """A defect in the relay itself is an error for who asked, and the writer goes on."""
        failing = self.writer.submit(lambda transaction, items: [], None)
        self.thread.release()
        self.failureResultOf(failing, ValueError)
        self.assertEqual(self.names(), [])

    def test_close(self) -> None:
        """Closing lets what waits be committed; what comes later is refused for now."""
        done = self.writer.submit(put, "a")
        closed = Deferred.fromCoroutine(self.writer.close())
        self.assertNoResult(closed)
        self.assertEqual(self.failed(self.writer.submit(put, "b")), Reason.SPOOL_FAILED)
        self.thread.release()
        self.successResultOf(closed)
        self.assertEqual(self.successResultOf(done), "a")


class FailureTests(WriterCase):
    """The disk fails; tests/integration/test_spool_durability.py does it with a real one."""

    def setUp(self) -> None:
        super().setUp()
        self.trouble = False
        sa.event.listen(self.database._engine, "commit", self.fail_commit)

    def fail_commit(self, connection: sa.Connection) -> None:
        if self.trouble:
            orig = OSError("disk I/O error: /secret/path")
            raise sa.exc.OperationalError("COMMIT", {"key": "secret"}, orig)

    def put(self, name: str) -> Deferred[str]:
        done = self.writer.submit(put, name)
        self.thread.release()
        return done

    def test_commit_fails(self) -> None:
        """When the commit fails nobody of the batch is promised anything, and nothing of it is kept."""
        self.trouble = True
        done = [self.writer.submit(put, name) for name in "abc"]
        self.thread.release()
        self.assertEqual({self.failed(each) for each in done}, {Reason.SPOOL_FAILED})
        self.trouble = False
        self.clock.advance(PAUSE)
        self.assertEqual(self.names(), [])
        self.successResultOf(self.put("d"))

    def test_pause(self) -> None:
        """A database that cannot be opened again is not asked at every message."""
        self.trouble = True
        self.assertEqual(self.failed(self.put("a")), Reason.SPOOL_FAILED)
        self.trouble = False
        self.assertEqual(self.failed(self.put("b")), Reason.SPOOL_FAILED)
        self.clock.advance(PAUSE)
        self.successResultOf(self.put("c"))
        self.assertEqual(self.names(), ["c"])

    def test_logged_once(self) -> None:
        """A fault is logged when it comes and when it goes, in one line each, without what was to be written."""
        logged: list[str] = []
        self.patch(Writer, "log", Lines(logged))
        self.trouble = True
        for _ in range(3):
            self.put("a").addErrback(lambda _: None)
            self.clock.advance(PAUSE)
        self.trouble = False
        self.successResultOf(self.put("b"))
        self.successResultOf(self.put("c"))
        self.assertEqual(len(logged), 2)
        self.assertIn("disk I/O error", logged[0])
        self.assertIn("works again", logged[1])
        self.assertNotIn("key", logged[0])


class Lines:
    """A log that keeps its lines."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def error(self, line: str, **fields: Any) -> None:
        self._lines.append(line.format(**fields))

    info = error


class Reactor:
    """Takes calls from another thread; the test makes them."""

    def __init__(self) -> None:
        self.calls: queue.Queue[Callable[[], None]] = queue.Queue()

    def callFromThread(self, call: Callable[[], None]) -> None:
        self.calls.put(call)


class ThreadTests(WriterCase):
    """The real thread."""

    def test_thread(self) -> None:
        """Answers come to the reactor's thread, in one call a commit, and the thread ends with the writer."""
        reactor = Reactor()
        thread = WriterThread(reactor)
        writer = self.open(thread)
        reactor.calls.get(timeout=60)()
        self.successResultOf(self.opened)
        done = writer.submit(put, "a")
        call = reactor.calls.get(timeout=60)
        self.assertNoResult(done)
        call()
        self.assertEqual(self.successResultOf(done), "a")
        closed = Deferred.fromCoroutine(writer.close())
        reactor.calls.get(timeout=60)()
        self.successResultOf(closed)
        self.assertFalse(thread._thread.is_alive())
