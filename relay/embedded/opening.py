"""What the embedded backend needs before it works: its database, the right key file, and somebody to sign in."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa
from attrs import field, frozen
from sqlalchemy.exc import DatabaseError, OperationalError

from relay.embedded import first, keys, schema
from relay.embedded.database import change, is_postgresql, open_postgresql, open_sqlite
from relay.embedded.migrations import REVISIONS
from relay.errors import ConfigError
from relay.policy import Embedded
from relay.spool.crypto import Cipher

#: The files under the data folder.
DATABASE = "platform.sqlite3"
CIPHER_FILE = "platform.key"
KEY_FILE = "api-key"

#: What the database keeps encrypted, so that a wrong key file is noticed before anything is written with it.
_CHECK_NAME = "key_check"
_CHECK = "smtp-relay embedded"


@frozen
class Opened:
    """A database that is ready.

    :ivar key: the first account's API key.
    :ivar first: who is to sign in first, and does not exist yet; None where there is somebody.
    """

    engine: sa.Engine = field(repr=False)
    cipher: Cipher = field(repr=False)
    key: str = field(repr=False)
    first: first.People | None = field(repr=False)


def open_store(data: Path, policy: Embedded, now: Callable[[], float] = time.time) -> Opened:
    """Open what stands under *data* or in PostgreSQL, making what is missing.

    :raises ConfigError: the folder, a file in it, the database or the key file cannot be used.
    """
    where = "embedded.database" if policy.database else f"data: {data / DATABASE}"
    cipher = Cipher(Path(policy.key_file) if policy.key_file else data / CIPHER_FILE, "embedded.key_file")
    try:
        engine = open_postgresql(policy.database) if policy.database else open_sqlite(data / DATABASE)
        try:
            change(engine, schema.prepare)
            change(engine, lambda connection: unlock(connection, cipher))
            key = keys.settle(engine, data / KEY_FILE, cipher, now())
            people = first.chosen(engine, data)
        except BaseException:
            engine.dispose()
            raise
    except OSError as error:
        raise ConfigError([f"data: {error.filename}: {error.strerror}"]) from None
    except DatabaseError as error:
        raise ConfigError([f"{where}: {_said(error, bool(policy.database))}"]) from None
    return Opened(engine, cipher, key, people)


def open_existing(data: Path, policy: Embedded) -> tuple[sa.Engine, Cipher]:
    """What a backend has made, for the command line; the backend may be running.

    :raises ConfigError: there is none, or the database or the key file cannot be used.
    """
    where = "embedded.database" if policy.database else f"data: {data / DATABASE}"
    cipher = Cipher(Path(policy.key_file) if policy.key_file else data / CIPHER_FILE, "embedded.key_file")
    try:
        if not policy.database and not (data / DATABASE).exists():
            raise ConfigError([f"{where}: there is no such file; start the relay once, or name its --data or --config"])
        engine = open_postgresql(policy.database) if policy.database else open_sqlite(data / DATABASE)
        with engine.connect() as connection:
            found = REVISIONS.current(connection)
            if found != REVISIONS.head:
                raise ConfigError([f"{where}: has schema revision {found}; start this version of the relay once"])
            unlock(connection, cipher)
    except OSError as error:
        hint = "; run this as the user that the relay runs as" if isinstance(error, PermissionError) else ""
        raise ConfigError([f"data: {error.filename}: {error.strerror}{hint}"]) from None
    except DatabaseError as error:
        raise ConfigError([f"{where}: {_said(error, bool(policy.database))}"]) from None
    return engine, cipher


def unlock(connection: sa.Connection, cipher: Cipher) -> None:
    """Give *cipher* its key, a new one for a new database.

    :raises ConfigError: the key file is missing or another.
    """
    loaded = cipher.load()
    mine = schema.meta.c.name == _CHECK_NAME
    check = connection.execute(sa.select(schema.meta.c.value).where(mine)).scalar_one_or_none()
    if check is None:
        if not loaded:
            cipher.make()
        sealed = cipher.encrypt(_CHECK, _CHECK_NAME).hex()
        connection.execute(sa.insert(schema.meta).values(name=_CHECK_NAME, value=sealed))
    elif not loaded:
        hint = "copy it from the relay that made the database" if is_postgresql(connection) else "restore it"
        raise ConfigError([f"embedded.key_file: {cipher.path} is missing, and the database needs it: {hint}"])
    elif not cipher.reads(bytes.fromhex(check), _CHECK_NAME, _CHECK):
        raise ConfigError(
            [
                f"embedded.key_file: {cipher.path} is not the key file that the database was made with; "
                "copy it from the relay that made it, or restore it from a backup"
            ]
        )


def _said(error: DatabaseError, server: bool) -> str:
    """The driver's words alone: SQLAlchemy's would show the statement."""
    words = " ".join(str(error.orig).split())
    if server:
        return words
    use = "is locked by another process" if isinstance(error, OperationalError) else "is not a database of ours"
    return f"{words} (perhaps it {use})"
