"""What differs between SQLite and PostgreSQL: how to connect, what an error means, where numbers come from."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.pool import NullPool

from relay.errors import ConfigError
from relay.spool.schema import messages, meta, notices, recipients

#: Most values in one IN: SQLite before 3.32 takes 999 parameters.
CHUNK = 500

#: Most parameters of one INSERT.
PARAMETERS = 900 if sqlite3.sqlite_version_info < (3, 32) else 8000

#: How long SQLite waits for the command line's lock, in milliseconds.
BUSY = 10_000

#: Unused pages of 4 KiB in the file that are worth giving back at a start.
BIG = 4096

#: Name of the fact that :func:`mark` changes.
MARK = "mark"

#: Name of the next number, divided by :data:`STRIDE`, where several processes number rows.
SERIAL = "serial"

#: More than there are processes: of so many numbers each has one for itself.
STRIDE = 1024

#: What psycopg is told, unless the URL says otherwise: a server that is gone is noticed, and one that hangs.
_POSTGRESQL = {
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
    "application_name": "smtp-relay",
}


_serial = sa.select(meta.c.value).where(meta.c.name == SERIAL)
_set_serial = sa.update(meta).where(meta.c.name == SERIAL).values(value=sa.bindparam("next"))
_add_serial = sa.insert(meta).values(name=SERIAL, value=sa.bindparam("next"))


class Trouble(Enum):
    """What an error of the database means."""

    #: The statement's own fault; the connection is good.
    OWN = "own"
    #: No space; the connection is good.
    FULL = "full"
    #: The connection cannot be trusted: close it and open it again.
    BROKEN = "broken"


class Database(Protocol):
    """One of the two; used by the writer thread only.

    :ivar shared: whether other processes may put and take rows.
    :ivar served: whether a server keeps it, which knows what it has committed when our connection is lost.
    :ivar place: what to call it in a message to people, without a password.
    """

    shared: bool
    served: bool
    place: str

    def lock(self) -> None:
        """Keep other relays away where they must be.

        :raises ConfigError: another one is there.
        """

    def unlock(self) -> None:
        """Let others in."""

    def connect(self) -> sa.Connection:
        """A new connection, ready for transactions that write."""

    def turn(self) -> AbstractContextManager[None]:
        """What a transaction that writes is within."""

    def exclude(self, connection: sa.Connection) -> None:
        """Let nobody else prepare the database until the transaction ends."""

    def now(self, connection: sa.Connection) -> float | None:
        """The server's time, None where the machine's counts."""

    def numbers(self, connection: sa.Connection, count: int) -> Sequence[int]:
        """*count* new numbers for rows, ascending."""

    def free(self, connection: sa.Connection, enough: int) -> int | None:
        """Bytes that the volume has left, *enough* or more when it has more; None where nobody knows."""

    def changes(self, connection: sa.Connection) -> int:
        """Another number than before when another process may have changed something."""

    def void(self, connection: sa.Connection) -> None:
        """Do what can be done against a commit that failed showing up again; before the connection is closed."""

    def trouble(self, error: BaseException) -> Trouble:
        """What *error* means."""


def database(url: str, number: int | None = None) -> Database:
    """The database at *url*, not yet opened.

    :param number: which of several processes of a relay this one is; None: it is the only one.
    :raises ConfigError: no such kind of database, or its driver is missing.
    """
    try:
        parsed = sa.make_url(url)
    except exc.ArgumentError:
        raise ConfigError(["spool.url: not a URL; use postgresql://user:password@host/database"]) from None
    kind = parsed.drivername.partition("+")[0]
    if kind == "sqlite" and parsed.database:
        return SQLite(Path(parsed.database), number)
    if kind in ("postgresql", "postgres"):
        return PostgreSQL(parsed)
    raise ConfigError([f"spool.url: {parsed.drivername} is not known; use postgresql://user:password@host/database"])


class SQLite:
    """A file, for one relay and for the command line beside it.

    :param number: which of the relay's processes this one is; None: the only one, which keeps all others away.
    """

    served = False

    def __init__(self, path: Path, number: int | None = None) -> None:
        self.path = path
        self.place = str(path)
        self.shared = number is not None
        self._number = number or 0
        self._lock: int | None = None
        self._next = 0
        self._file: tuple[int, int] | None = None  # device and inode
        self._engine = sa.create_engine(
            sa.URL.create("sqlite", database=str(path)),
            poolclass=NullPool,
            hide_parameters=True,
            # One statement a table and number of rows is kept compiled.
            connect_args={"check_same_thread": False, "cached_statements": 512},
        )
        sa.event.listen(self._engine, "connect", _prepare_sqlite)
        sa.event.listen(self._engine, "begin", _begin)

    def lock(self) -> None:
        path = self.path.with_name(f"{self.path.name}.lock")
        try:
            self._lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError([f"data: cannot write {path}: {error.strerror}"]) from None
        try:
            fcntl.flock(self._lock, (fcntl.LOCK_SH if self.shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError:
            self.unlock()
            raise ConfigError(
                [f"data: another smtp-relay uses {self.path}; stop it, or choose another folder with --data"]
            ) from None

    def unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def connect(self) -> sa.Connection:
        if not self.path.exists():
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        self._next = 0
        connection = self._engine.connect()
        self._file = self._inode()
        if self._lock is not None and not self.shared:
            _compact(connection.connection.driver_connection)
        return connection

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Of several processes each gets its turn: to SQLite alone, one that commits without a pause leaves none.

        A first lock is the queue, a second the turn: who has had it stands in the queue behind who waits for it.
        """
        if not self.shared or self._lock is None:
            yield
            return
        fcntl.lockf(self._lock, fcntl.LOCK_EX, 1, 0)
        fcntl.lockf(self._lock, fcntl.LOCK_EX, 1, 1)
        fcntl.lockf(self._lock, fcntl.LOCK_UN, 1, 0)
        try:
            yield
        finally:
            fcntl.lockf(self._lock, fcntl.LOCK_UN, 1, 1)

    def exclude(self, connection: sa.Connection) -> None:
        """Its transaction does."""

    def now(self, connection: sa.Connection) -> float | None:
        return None

    def numbers(self, connection: sa.Connection, count: int) -> Sequence[int]:
        """The only process that inserts counts itself; of several each has numbers that no other one ever uses.

        A number must not come again while somebody may still speak of the row that had it: of one that he has
        delivered after his lease, or of one whose commit failed.
        """
        if not self._next:
            columns = (messages.c.seq, recipients.c.row, notices.c.row)
            highest = (connection.execute(sa.select(sa.func.max(column))).scalar() for column in columns)
            self._next = 1 + max(found or 0 for found in highest)
        if not self.shared:
            first, self._next = self._next, self._next + count
            return range(first, first + count)
        kept = connection.execute(_serial).scalar()
        serial = max(int(kept or 0), self._next // STRIDE + 1)
        change = _set_serial if kept is not None else _add_serial
        connection.execute(change, {"next": b"%d" % (serial + count)})
        return range(serial * STRIDE + self._number, (serial + count) * STRIDE, STRIDE)

    def free(self, connection: sa.Connection, enough: int) -> int | None:
        """Pages of the file that hold nothing are as good as space on the volume.

        :raises OSError: the file was moved or removed, and what is written to it would be gone at the next start.
        """
        if self._inode() != self._file:
            raise FileNotFoundError(errno.ENOENT, "the file was replaced, start the relay again", str(self.path))
        free = shutil.disk_usage(self.path.parent).free
        if free < enough:
            unused = connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
            free += int(unused) * int(connection.exec_driver_sql("PRAGMA page_size").scalar_one())
        return free

    def _inode(self) -> tuple[int, int]:
        found = self.path.stat()
        return found.st_dev, found.st_ino

    def changes(self, connection: sa.Connection) -> int:
        return int(connection.exec_driver_sql("PRAGMA data_version").scalar_one())

    def void(self, connection: sa.Connection) -> None:
        """Overwrite it in the log, where it stands complete when only its flush failed.

        While this connection is open SQLite does not count it; whoever opens the file next would find it.
        """
        with contextlib.suppress(exc.DBAPIError), connection.begin():
            mark(connection)

    def trouble(self, error: BaseException) -> Trouble:
        if not isinstance(error, exc.DBAPIError) or isinstance(error, exc.IntegrityError | exc.ProgrammingError):
            return Trouble.OWN
        # sqlite3 gives the result code from Python 3.11 on only.
        return Trouble.FULL if "disk is full" in str(error.orig) else Trouble.BROKEN


class PostgreSQL:
    """A server, for several relays."""

    shared = True
    served = True

    def __init__(self, url: sa.URL) -> None:
        self.place = url.render_as_string(hide_password=True)
        query = {**_POSTGRESQL, **url.query}
        try:
            self._engine = sa.create_engine(
                url.set(drivername="postgresql+psycopg", query=query), poolclass=NullPool, hide_parameters=True
            )
        except ImportError:
            raise ConfigError(
                ["spool.url: PostgreSQL needs psycopg; install it with: pip install 'smtp-relay[postgres]'"]
            ) from None
        sa.event.listen(self._engine, "connect", _prepare_postgresql)

    def lock(self) -> None:
        """Several relays are welcome."""

    def unlock(self) -> None:
        """There is no lock."""

    def connect(self) -> sa.Connection:
        return self._engine.connect()

    def turn(self) -> AbstractContextManager[None]:
        """Its own affair."""
        return contextlib.nullcontext()

    def exclude(self, connection: sa.Connection) -> None:
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        # Any number that other programs do not use.
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(2041890573)")

    def now(self, connection: sa.Connection) -> float | None:
        return float(connection.exec_driver_sql("SELECT extract(epoch FROM clock_timestamp())").scalar_one())

    def numbers(self, connection: sa.Connection, count: int) -> Sequence[int]:
        found = connection.exec_driver_sql(
            "SELECT nextval('spool_serial') FROM generate_series(1, %s)", (count,)
        ).scalars()
        return sorted(int(number) for number in found)

    def free(self, connection: sa.Connection, enough: int) -> int | None:
        return None

    def changes(self, connection: sa.Connection) -> int:
        return 0

    def void(self, connection: sa.Connection) -> None:
        """A server knows what it has committed."""

    def trouble(self, error: BaseException) -> Trouble:
        if not isinstance(error, exc.DBAPIError) or isinstance(
            error, exc.IntegrityError | exc.ProgrammingError | exc.DataError
        ):
            return Trouble.OWN
        state = str(getattr(error.orig, "sqlstate", None) or "")
        if state in ("53100", "53200"):
            return Trouble.FULL
        # Deadlocks and the like: a rerun may do.
        return Trouble.OWN if state.startswith("40") else Trouble.BROKEN


def mark(connection: sa.Connection) -> None:
    """Change something that nobody reads."""
    connection.execute(sa.delete(meta).where(meta.c.name == MARK))
    connection.execute(sa.insert(meta).values(name=MARK, value=secrets.token_bytes(8)))


def insert(connection: sa.Connection, table: sa.Table, rows: Sequence[Sequence[Any]]) -> None:
    """Insert *rows*, with the values of all columns of *table* in order.

    One statement for many rows, and past SQLAlchemy's own compilation: :mod:`sqlite3` lets go of the interpreter's
    lock for each row of an ``executemany``, and while another thread computes it may get it back only a switch
    interval later.
    """
    step = PARAMETERS // len(table.columns)
    for part in (rows[start : start + step] for start in range(0, len(rows), step)):
        values = tuple([value for row in part for value in row])
        connection.exec_driver_sql(_insertion(table, connection.dialect.paramstyle, len(part)), values)


@lru_cache(maxsize=1024)
def _insertion(table: sa.Table, paramstyle: str, rows: int) -> str:
    mark = "?" if paramstyle == "qmark" else "%s"
    columns = ", ".join(f'"{column.name}"' for column in table.columns)
    row = "(" + ", ".join([mark] * len(table.columns)) + ")"
    return f'INSERT INTO "{table.name}" ({columns}) VALUES {", ".join([row] * rows)}'


def chunks(items: Sequence[Any]) -> Iterable[Sequence[Any]]:
    """*items*, :data:`CHUNK` at a time."""
    return (items[start : start + CHUNK] for start in range(0, len(items), CHUNK))


def explain(error: BaseException) -> str:
    """What *error* says, in one line that holds no content of a row."""
    cause = error.orig if isinstance(error, exc.DBAPIError) and error.orig is not None else error
    lines = str(cause).strip().splitlines()
    # A URL in a driver's message may hold a password.
    said = re.sub(r"://[^@\s]*@", "://", lines[0]) if lines else ""
    return f"{type(cause).__name__}: {said}" if said else type(cause).__name__


def _prepare_sqlite(connection: Any, record: object) -> None:
    # SQLAlchemy says BEGIN itself (below).
    connection.isolation_level = None
    for pragma in (
        f"busy_timeout={BUSY}",
        "journal_mode=WAL",
        # A commit is on the disk when it returns: the client's 250 follows it.
        "synchronous=FULL",
        "foreign_keys=ON",
        # After a burst the log shrinks again.
        "journal_size_limit=67108864",
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _compact(connection: Any) -> None:
    """Give the space of an outage back to the volume, once nothing is kept any more: that costs no time then."""
    try:
        (unused,) = connection.execute("PRAGMA freelist_count").fetchone()
        if unused > BIG and connection.execute("SELECT 1 FROM spool_message LIMIT 1").fetchone() is None:
            connection.execute("VACUUM")
    except sqlite3.Error:
        # It was not needed, and what is wrong shows soon.
        return


def _begin(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("writes", True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _prepare_postgresql(connection: Any, record: object) -> None:
    """A commit is on the server's disk when it returns, whatever the server's default."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config('synchronous_commit', 'on', false) "
            "WHERE current_setting('synchronous_commit') IN ('off', 'local')"
        )
        cursor.execute("SET statement_timeout = '60s'")
    connection.commit()
