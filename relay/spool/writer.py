"""One thread, one connection, one commit for all who wait (group commit).

Operations of one kind that wait together are run as one: a flush of the disk and a set of statements for each
would bound the rate.  Nobody is answered before the commit has returned.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa
from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import Logger
from twisted.python.failure import Failure

from relay.errors import ConfigError, Reason, TemporaryFailure
from relay.spool.database import Database, Trouble, chunks, explain, mark
from relay.spool.removal import remove_messages
from relay.spool.schema import messages

A = TypeVar("A")
R = TypeVar("R")

#: Most operations in one commit.
BATCH = 500

#: Seconds for which a thread may go on while another wants the interpreter.
SWITCH = 0.0002

#: How long a database that could not be opened is not asked again, in seconds.
PAUSE = 1.0


@define
class Transaction:
    """What an operation works with.

    :ivar now: the time by the store's clock.
    :ivar puts: the numbers of the messages that it inserted.
    :ivar rows: how many recipients it added, or removed when negative.
    :ivar octets: how much content.
    :ivar committed: what to do when it is committed, for instance to remember that.
    """

    connection: sa.Connection
    database: Database
    now: float
    puts: list[int] = field(factory=list)
    rows: int = 0
    octets: int = 0
    committed: list[Callable[[], None]] = field(factory=list)

    def grow(self, rows: int, octets: int) -> None:
        """Note that so much was added."""
        self.rows += rows
        self.octets += octets

    def shrink(self, rows: int, octets: int) -> None:
        """Note that so much was removed."""
        self.grow(-rows, -octets)


#: One kind of operation: runs any number at once and gives one result, or the error, for each, in order.
Work = Callable[[Transaction, Sequence[A]], Sequence["R | Exception"]]


class Thread(Protocol):
    """Where the writer works."""

    def run(self, work: Callable[[], None]) -> None:
        """Run *work* there, one after the other."""

    def answer(self, reply: Callable[[], None]) -> None:
        """Run *reply* where the answers are awaited."""

    def wait_for(self, done: Deferred[R]) -> R:
        """What *done* fires with, for a caller before the reactor runs.

        :raises Exception: what it fails with.
        """

    def stop(self) -> None:
        """Let go of it; no more work comes."""


class WriterThread:
    """A thread of its own; a daemon, because what is committed needs no end and the rest was not promised.

    It sets the process's switch interval to :data:`SWITCH`: SQLite's calls let go of the interpreter's lock many
    times a commit, and a reactor that is busy, but enters the system often, gets it back first each time; only
    after a whole interval is it made to wait.  With Python's 5 ms a busy relay would commit a few times a second.

    :param waits: whether :meth:`wait_for` comes first.
    """

    def __init__(self, reactor: IReactorFromThreads, *, waits: bool = False) -> None:
        self._reactor = reactor
        self._works: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._early: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._waits = waits
        sys.setswitchinterval(min(SWITCH, sys.getswitchinterval()))
        self._thread = threading.Thread(target=self._loop, name="spool-write", daemon=True)
        self._thread.start()

    def run(self, work: Callable[[], None]) -> None:
        self._works.put(work)

    def answer(self, reply: Callable[[], None]) -> None:
        if self._waits:
            self._early.put(reply)
        else:
            self._reactor.callFromThread(reply)

    def wait_for(self, done: Deferred[R]) -> R:
        outcome: list[R | Failure] = []
        done.addBoth(outcome.append)
        while not outcome:
            self._early.get()()
        self._waits = False
        return _result(outcome)

    def stop(self) -> None:
        self._works.put(None)
        self._thread.join()

    def _loop(self) -> None:
        for work in iter(self._works.get, None):
            work()


class Inline:
    """The calling thread: for tests, and for programs without a reactor."""

    def run(self, work: Callable[[], None]) -> None:
        work()

    def answer(self, reply: Callable[[], None]) -> None:
        reply()

    def wait_for(self, done: Deferred[R]) -> R:
        outcome: list[R | Failure] = []
        done.addBoth(outcome.append)
        return _result(outcome)

    def stop(self) -> None:
        """Nothing to stop."""


def _result(outcome: Sequence[R | Failure]) -> R:
    """The one result in *outcome*."""
    (result,) = outcome
    if isinstance(result, Failure):
        result.raiseException()
    return result


@define(eq=False)
class _Job:
    """An operation that waits."""

    work: Work[Any, Any]
    item: Any
    done: Deferred[Any] = field(factory=Deferred)


class Writer:
    """Runs operations in transactions.

    :param thread: where; all but :meth:`submit` and :meth:`close` happens there.
    :param now: the store's clock.
    :param opened: what to do with each new connection, within a transaction, before anything else.
    :param committed: told of each transaction that is durable.
    :param monotonic: for the pause between two attempts to open the database.
    """

    log = Logger()

    def __init__(
        self,
        database: Database,
        thread: Thread,
        now: Callable[[], float],
        opened: Callable[[Transaction], None],
        committed: Callable[[Transaction], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._thread = thread
        self._now = now
        self._opened = opened
        self._committed = committed
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._waiting: list[_Job] = []
        self._working = False
        self._closed = False
        self._connection: sa.Connection | None = None
        self._closed_until = 0.0
        #: Messages of commits that failed and may be found all the same when the database is back.
        self._suspects: set[int] = set()
        self._problem = ""

    def submit(self, work: Work[A, R], item: A) -> Deferred[R]:
        """What *work* gives for *item*, once it is committed.

        Operations that are submitted without waiting for one another have no order.
        The Deferred fails with :class:`~relay.errors.TemporaryFailure` when the database does.
        """
        job = _Job(work, item)
        with self._lock:
            if self._closed:
                job.done.errback(TemporaryFailure(Reason.SPOOL_FAILED))
                return job.done
            self._waiting.append(job)
            start, self._working = not self._working, True
        if start:
            self._thread.run(self._work)
        return job.done

    def open(self) -> Deferred[None]:
        """Connect, in the thread; fails with whatever comes."""
        done: Deferred[None] = Deferred()

        def attempt() -> None:
            try:
                self._open()
            except Exception as error:
                self._disconnect()
                self._thread.answer(partial(done.errback, error))
            else:
                self._thread.answer(partial(done.callback, None))

        self._thread.run(attempt)
        return done

    async def close(self) -> None:
        """Run what waits, then let go of the database and the thread."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        done: Deferred[None] = Deferred()

        def last() -> None:
            self._disconnect()
            self._thread.answer(partial(done.callback, None))

        # It runs after the work that is under way.
        self._thread.run(last)
        await done
        self._thread.stop()

    def _work(self) -> None:
        """Run batches until nothing waits."""
        while True:
            with self._lock:
                batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
                if not batch:
                    self._working = False
                    return
            try:
                results = self._run(batch)
            except Exception as defect:
                # Not of the database.  The thread has to live on, and nobody may wait for ever.
                self._disconnect()
                results = [defect] * len(batch)
            self._thread.answer(partial(_fire, batch, results))

    def _run(self, batch: list[_Job], again: bool = True) -> list[Any]:
        """A result or an exception for each of *batch*.

        :param again: whether one that fails for a reason of its own is tried once more, alone.
        """
        if self._connection is None:
            if self._monotonic() < self._closed_until:
                return _refused(batch)
            if self._reopen([]) is None:
                return _refused(batch)
        results, error, repeatable = self._transact(batch)
        if error is None:
            self._tell("")
            return results
        if again and repeatable:
            return self._run(batch, again=False)
        trouble = self._database.trouble(error)
        if trouble is Trouble.BROKEN:
            return _refused(batch)
        if again:
            # One of them is at fault, or too big: each for itself.
            return [result for job in batch for result in self._run([job], again=False)]
        if trouble is Trouble.FULL:
            return [TemporaryFailure(Reason.SPOOL_FULL)]
        if isinstance(error, sa.exc.DBAPIError | ConfigError | OSError):
            self._tell(explain(error))
            return _refused(batch)
        return [error]

    def _transact(self, batch: list[_Job]) -> tuple[list[Any], Exception | None, bool]:
        """Run *batch* in one transaction.

        A commit that failed and turns out to have happened has happened.

        :return: the results, None or the error that undid it, and whether a session with a server was lost before
            the commit and there is a new one.
        """
        connection = self._connection
        assert connection is not None
        transaction = Transaction(connection, self._database, self._now())
        results: list[Any] | None = None
        try:
            with self._database.turn(), connection.begin():
                results = _perform(transaction, batch)
        except Exception as error:
            if self._database.trouble(error) is not Trouble.BROKEN:
                return [], error, False
            self._tell(explain(error))
            if results is not None:
                self._database.void(connection)
            self._disconnect()
            committed = self._reopen(transaction.puts)
            if results is None or not committed:
                return [], error, self._database.served and results is None and committed is not None
        self._finish(transaction)
        return results, None, False

    def _reopen(self, puts: list[int]) -> bool | None:
        """Connect again; whether the messages *puts* of a failed commit are there and stay, None when it fails."""
        try:
            return self._open(puts)
        except Exception as error:
            self._disconnect()
            self._suspects.update(puts)
            self._closed_until = self._monotonic() + PAUSE
            self._tell(explain(error))
            return None

    def _open(self, puts: Sequence[int] = ()) -> bool:
        """Connect, and settle what failed commits left: their clients were told that it is not there.

        Only a server may keep what its commit was not heard of to have done; a disk whose flush failed may show
        what it will forget.  Nobody was answered yet.
        """
        self._connection = connection = self._database.connect()
        with self._database.turn(), connection.begin():
            transaction = Transaction(connection, self._database, self._now())
            stay = bool(self._database.served and puts and present(connection, puts))
            self._suspects.update(() if stay else puts)
            remove_messages(connection, sorted(self._suspects))
            self._opened(transaction)
            if not self._database.served:
                # Shows that the disk takes commits again.
                mark(connection)
        self._suspects.clear()
        self._finish(transaction)
        return stay

    def _finish(self, transaction: Transaction) -> None:
        """Do what had to wait for the commit."""
        self._committed(transaction)
        for each in transaction.committed:
            each()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            connection.invalidate()
            connection.close()
        except Exception as error:
            self._tell(explain(error))

    def _tell(self, problem: str) -> None:
        """Log a change of what is wrong, ``""`` for nothing."""
        if problem == self._problem:
            return
        self._problem = problem
        place = self._database.place
        if problem:
            self._thread.answer(partial(self.log.error, "spool {place}: {problem}", place=place, problem=problem))
        else:
            self._thread.answer(partial(self.log.info, "spool {place} works again", place=place))


def present(connection: sa.Connection, puts: Sequence[int]) -> list[int]:
    """Those of the messages *puts* that are there."""
    found = (connection.execute(sa.select(messages.c.seq).where(messages.c.seq.in_(part))) for part in chunks(puts))
    return [seq for each in found for seq in each.scalars()]


def _perform(transaction: Transaction, batch: list[_Job]) -> list[Any]:
    """The results of *batch*, those of one kind run together."""
    kinds: dict[Work[Any, Any], list[int]] = {}
    for position, job in enumerate(batch):
        kinds.setdefault(job.work, []).append(position)
    results: list[Any] = [None] * len(batch)
    for work, positions in kinds.items():
        found = work(transaction, [batch[position].item for position in positions])
        for position, result in zip(positions, found, strict=True):
            results[position] = result
    return results


def _refused(batch: list[_Job]) -> list[Any]:
    return [TemporaryFailure(Reason.SPOOL_FAILED) for _ in batch]


def _fire(batch: list[_Job], results: list[Any]) -> None:
    for job, result in zip(batch, results, strict=True):
        if isinstance(result, Exception):
            job.done.errback(result)
        else:
            job.done.callback(result)
