"""What a database needs before the spool works with it: its tables, the right key file, and times that can be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from relay.errors import ConfigError
from relay.policy import Spool
from relay.spool.clock import SteadyClock
from relay.spool.crypto import Cipher
from relay.spool.deposits import CHECK, CHECK_NAME, key_check
from relay.spool.migrations import REVISIONS
from relay.spool.schema import accounts, make, memories, messages, meta, notices, recipients
from relay.spool.writer import Transaction


def prepare(transaction: Transaction, *, cipher: Cipher, clock: SteadyClock, policy: Spool, keep: float) -> None:
    """Make the database of *transaction* ready, whoever left it.

    :raises ConfigError: it is of a newer version, or its keys are not encrypted with the key file.
    """
    connection = transaction.connection
    transaction.database.exclude(connection)
    REVISIONS.upgrade(connection, make)
    _unlock(connection, cipher, shared=transaction.database.shared)
    server = transaction.database.now(connection)
    if server is not None:
        clock.set(server)
    now = clock.now()
    if not transaction.database.shared:
        free_rows(connection, now)
    _clamp(connection, now, policy.retry_maximum, keep)


def join(transaction: Transaction, *, cipher: Cipher, clock: SteadyClock, free: Iterable[str]) -> None:
    """Take part in the work on a database that is ready, as :func:`prepare` left it.

    :param free: owners that are gone.
    :raises ConfigError: its keys are not encrypted with the key file.
    """
    connection = transaction.connection
    _unlock(connection, cipher, shared=True)
    server = transaction.database.now(connection)
    if server is not None:
        clock.set(server)
    for owner in free:
        free_rows(connection, clock.now(), owner)


def _unlock(connection: sa.Connection, cipher: Cipher, *, shared: bool) -> None:
    """Give *cipher* its key, a new one where nothing is kept that another could read.

    :param shared: whether other relays may use the database with the key that it has, also while it is empty.
    """
    loaded = cipher.load()
    check = key_check(connection)
    if loaded and check is not None and cipher.reads(check, CHECK_NAME, CHECK):
        return
    if shared and check is not None:
        raise ConfigError(
            [
                f"spool.key_file: {cipher.path} is not the key file that this database was set up with; "
                "copy it from the relay that did, or give this relay a database of its own"
            ]
        )
    if connection.execute(sa.select(recipients.c.row).limit(1)).first() is not None:
        wrong = "is not the key file that this spool was written with" if loaded else "is missing"
        raise ConfigError(
            [
                f"spool.key_file: {cipher.path} {wrong}, and the spool holds messages that need it; "
                "restore it, or set --spool-key-file"
            ]
        )
    if not loaded:
        cipher.make()
    connection.execute(sa.delete(accounts))
    connection.execute(sa.delete(meta).where(meta.c.name == CHECK_NAME))
    connection.execute(sa.insert(meta).values(name=CHECK_NAME, value=cipher.encrypt(CHECK, CHECK_NAME)))


def free_rows(connection: sa.Connection, now: float, owner: str | None = None) -> None:
    """End the leases of *owner*, or of whoever had this database before: it is gone."""
    for table in (recipients, notices):
        held = table.c.owner == owner if owner is not None else table.c.owner.is_not(None)
        connection.execute(sa.update(table).where(held, table.c.ready > now).values(ready=now))
        connection.execute(sa.update(table).where(held).values(owner=None))


def _clamp(connection: sa.Connection, now: float, retry_maximum: float, keep: float) -> None:
    """Bring times back that only a clock which was wrong can have set."""
    latest: list[tuple[sa.Column[Any], float]] = [
        (recipients.c.ready, now + retry_maximum),
        (recipients.c.since, now),
        (recipients.c.failed, now),
        (messages.c.created, now),
        (notices.c.ready, now + retry_maximum),
        (memories.c.expires, now + keep),
    ]
    for column, limit in latest:
        connection.execute(sa.update(column.table).where(column > limit).values({column: limit}))
