"""The database off the reactor thread: readers side by side, one writer, and one commit for all who wait."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from relay.errors import ConfigError

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql

T = TypeVar("T")

#: What runs with a connection, within a transaction.
Query = Callable[[sa.Connection], T]

#: Most changes in one commit.
BATCH = 200

#: How long one look at a page may keep a thread, in seconds.
PATIENCE = 5.0

#: SQLite's steps between two looks at the clock: a few milliseconds.
_STEPS = 100_000

#: How often a commit is tried again that was undone for the sake of another backend's.
RERUNS = 5


class Executor(Protocol):
    """Where blocking work runs."""

    def run(self, job: Callable[[], T]) -> Deferred[T]:
        """Run *job* and answer with what it returned or raised."""

    def stop(self) -> None:
        """Take no more work; called when none is under way."""


class Threads:
    """At most *most* threads of our own, started when there is work."""

    def __init__(self, reactor: IReactorFromThreads, most: int, name: str) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(0, most, name)
        self._pool.start()

    def run(self, job: Callable[[], T]) -> Deferred[T]:
        return deferToThreadPool(self._reactor, self._pool, job)

    def stop(self) -> None:
        self._pool.stop()


def open_sqlite(path: Path) -> sa.Engine:
    """The SQLite database at *path*, made 0600 where it is missing: it holds people's mail.

    WAL lets readers and the writer go side by side; ``synchronous=FULL`` makes a commit durable, because a 200
    follows it.  SQLAlchemy says BEGIN itself: the driver's own timing would leave SELECTs outside transactions.

    :raises OSError: the file cannot be made.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(path)))

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: Any, record: object) -> None:
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def open_postgresql(url: str) -> sa.Engine:
    """The database at *url*, ``postgresql://user:password@host/database``; several backends may share it.

    :raises ConfigError: its driver is missing.
    """
    try:
        return sa.create_engine(
            sa.make_url(url).set(drivername="postgresql+psycopg"),
            hide_parameters=True,
            pool_pre_ping=True,
            connect_args={
                "connect_timeout": 5,
                "application_name": "smtp-relay",
                # What is compiled is never asked often enough to be worth it.
                "options": "-c statement_timeout=60s -c jit=off",
            },
        )
    except ImportError:
        raise ConfigError(
            ["embedded.database: PostgreSQL needs psycopg; install it with: pip install 'smtp-relay[postgres]'"]
        ) from None


def is_postgresql(connection: sa.Connection) -> bool:
    """Whether several backends may share the database of *connection*."""
    return connection.dialect.name == "postgresql"


def upsert(table: sa.Table, dialect: str) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that can say what happens where the row is there already."""
    if dialect == "postgresql":
        # Imported here: it is as large as a fifth of SQLAlchemy, and SQLite is what most have.
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table)
    return sqlite.insert(table)


def change(engine: sa.Engine, query: Query[T]) -> T:
    """Run *query* in a transaction that writes, in this thread."""
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        return query(connection)


class TooSlow(Exception):
    """A look at a page took too long, and was broken off."""


class Database:
    """Transactions as Deferreds.

    :param engine: where the tables are.
    :param reading: runs queries; it may have several threads.
    :param writing: runs commits; one thread, so that changes queue here and not at the database's lock.
    :param looking: runs the queries of pages, so that no page keeps a message waiting; None: *reading* does.
    :ivar on_commit: called after each commit.
    """

    def __init__(
        self, engine: sa.Engine, reading: Executor, writing: Executor, looking: Executor | None = None
    ) -> None:
        self._engine = engine
        self._reading = reading
        self._writing = writing
        self._looking = looking or reading
        self.on_commit: Callable[[], None] = _ignore
        self._waiting: list[tuple[Query[Any], Deferred[Any]]] = []
        self._committing = False
        self._pending: set[Deferred[Any]] = set()

    def read(self, query: Query[T]) -> Deferred[T]:
        """What *query* finds in one transaction that changes nothing."""
        return self._track(self._reading.run(partial(_read, self._engine, query)))

    def look(self, query: Query[T]) -> Deferred[T]:
        """What *query* finds for a page; it gives way to all else.

        :raises TooSlow: it took longer than :data:`PATIENCE`.
        """
        return self._track(self._looking.run(partial(_look, self._engine, query)))

    def write(self, query: Query[T]) -> Deferred[T]:
        """What *query* returned, once its change is durable.

        Changes that arrive while a commit runs share the next one: a disk flush each would bound the rate.
        What one of them raises undoes that one only.
        """
        done: Deferred[T] = Deferred()
        self._waiting.append((query, done))
        if not self._committing:
            self._commit()
        return self._track(done)

    async def close(self) -> None:
        """Finish what is under way, then let go of threads and files."""
        while self._pending:
            await DeferredList([_settled(each) for each in self._pending])
        for executor in {id(each): each for each in (self._reading, self._writing, self._looking)}.values():
            executor.stop()
        self._engine.dispose()

    def _commit(self) -> None:
        self._committing = True
        batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
        committed = self._writing.run(partial(_commit, self._engine, [query for query, _ in batch]))
        committed.addBoth(self._committed, [done for _, done in batch])

    def _committed(self, results: list[Any] | Failure, batch: list[Deferred[Any]]) -> None:
        self._committing = False
        if self._waiting:
            self._commit()
        each = [results] * len(batch) if isinstance(results, Failure) else results
        for done, result in zip(batch, each, strict=True):
            # A Failure goes down the errback chain.
            done.callback(result)
        self.on_commit()

    def _track(self, done: Deferred[T]) -> Deferred[T]:
        """Remember *done* until it has fired, for :meth:`close`."""
        self._pending.add(done)

        def forget(result: T) -> T:
            self._pending.discard(done)
            return result

        return done.addBoth(forget)


def _settled(done: Deferred[Any]) -> Deferred[None]:
    """Fires with None when *done* has fired, and leaves its result to its owner."""
    settled: Deferred[None] = Deferred()

    def tell(result: T) -> T:
        settled.callback(None)
        return result

    done.addBoth(tell)
    return settled


def _read(engine: sa.Engine, query: Query[T]) -> T:
    with engine.connect() as connection:
        return query(connection)


def _look(engine: sa.Engine, query: Query[T]) -> T:
    with engine.connect() as connection:
        if is_postgresql(connection):
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = {int(PATIENCE * 1000)}")
            return _unless_slow(connection, query)
        end = time.monotonic() + PATIENCE
        driver: Any = connection.connection.driver_connection
        driver.set_progress_handler(lambda: time.monotonic() > end, _STEPS)
        try:
            return _unless_slow(connection, query)
        finally:
            driver.set_progress_handler(None, 0)


def _unless_slow(connection: sa.Connection, query: Query[T]) -> T:
    try:
        return query(connection)
    except sa.exc.OperationalError as error:
        # SQLSTATE 57014: query canceled.
        if str(error.orig) == "interrupted" or getattr(error.orig, "sqlstate", "") == "57014":
            raise TooSlow from None
        raise


def _ignore() -> None:
    """Nobody is told."""


def _commit(engine: sa.Engine, queries: list[Query[Any]]) -> list[Any]:
    for _ in range(RERUNS):
        with contextlib.suppress(_Rerun):
            return change(engine, lambda connection: [_attempt(connection, query) for query in queries])
    return change(engine, lambda connection: [_attempt(connection, query, last=True) for query in queries])


class _Rerun(Exception):
    """The server undid the transaction for the sake of another one, as in a deadlock: it may succeed now."""


def _attempt(connection: sa.Connection, query: Query[Any], *, last: bool = False) -> Any:
    """The result of *query*, or the Failure of what it raised, its own changes undone."""
    try:
        with connection.begin_nested():
            return query(connection)
    except Exception as error:
        # SQLSTATE class 40: transaction rollback.
        if not last and str(getattr(getattr(error, "orig", None), "sqlstate", "")).startswith("40"):
            raise _Rerun from error
        return Failure()
