"""What is older than it is to be kept goes, in the background and in small batches.

Each batch is a transaction of the one writer, with a pause behind it, so that messages never wait for more than one.
SQLite's file does not shrink: what is free in it is used again.  A message whose route has yet to take it stays, with
all of its content.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import sqlalchemy as sa
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from relay.embedded import tallies
from relay.embedded.database import Database, Query
from relay.embedded.schema import attachments, contents, deliveries, idempotency, messages, sessions, transactions
from relay.embedded.schema import tallies as tallies_table
from relay.embedded.store import REMEMBERED
from relay.policy import Embedded

#: Most rows that go in one transaction.
BATCH = 200

#: Seconds between two batches, and between two rounds; the first begins a little after the start.
PAUSE = 0.05
EVERY = 600.0
FIRST = 5.0

#: How long the dashboard can look back, in seconds: so long its numbers are kept at least.
DASHBOARD = 32 * 86_400.0

log = Logger()


def drop_contents(connection: sa.Connection, before: float) -> int:
    """Forget what is big of messages that came *before*; how many, at most :data:`BATCH`."""
    newest = connection.execute(
        sa.select(messages.c.seq).where(messages.c.created < before).order_by(messages.c.created.desc()).limit(1)
    ).scalar()
    if newest is None:
        return 0
    found = (
        sa.select(contents.c.message)
        .join(messages, messages.c.seq == contents.c.message)
        .where(contents.c.message <= newest, messages.c.created < before, _sent(contents.c.message))
        .order_by(contents.c.message)
        .limit(BATCH)
    )
    keys = list(connection.execute(found).scalars())
    connection.execute(sa.delete(attachments).where(attachments.c.message.in_(keys)))
    connection.execute(sa.delete(contents).where(contents.c.message.in_(keys)))
    return len(keys)


def drop_messages(connection: sa.Connection, before: float) -> int:
    """Forget messages that came *before*; how many, at most :data:`BATCH`."""
    found = sa.select(messages.c.seq).where(messages.c.created < before, _sent(messages.c.seq))
    keys = list(connection.execute(found.order_by(messages.c.created).limit(BATCH)).scalars())
    connection.execute(sa.delete(messages).where(messages.c.seq.in_(keys)))
    return len(keys)


def drop_oldest(connection: sa.Connection, column: sa.Column[float], before: float) -> int:
    """Forget rows whose time in *column* lies *before*, the oldest of them; how many."""
    after = connection.execute(
        sa.select(column).where(column < before).order_by(column).offset(BATCH).limit(1)
    ).scalar()
    limit = column < before if after is None else column <= after
    return int(connection.execute(sa.delete(column.table).where(limit)).rowcount)


def drop_tallies(connection: sa.Connection, before: float) -> int:
    """Forget what was counted *before*."""
    hour = tallies_table.c.hour < tallies.hour(before)
    connection.execute(sa.delete(tallies_table).where(hour))
    return 0


def _sent(message: sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
    """That no route has yet to take the message."""
    return ~sa.exists().where(deliveries.c.message == message)


class Retention:
    """Lets go what is old, again and again.

    :param now: seconds since the epoch.
    """

    def __init__(self, database: Database, policy: Embedded, now: Callable[[], float], clock: IReactorTime) -> None:
        self._database = database
        self._policy = policy
        self._now = now
        self._clock = clock
        self._call: IDelayedCall | None = None
        self._pause: Deferred[None] | None = None
        self._stopped = False

    def start(self) -> None:
        """Begin soon, and go on until :meth:`stop`."""
        self._call = self._clock.callLater(FIRST, self._begin)

    def stop(self) -> None:
        """Begin nothing more; what is under way ends with its batch."""
        self._stopped = True
        if self._call is not None and self._call.active():
            self._call.cancel()
        if self._pause is not None:
            self._pause.cancel()

    async def round(self) -> None:
        """Let go all that is old by now."""
        for drop in self._due():
            while not self._stopped and await self._database.write(drop) >= BATCH:
                self._pause = deferLater(self._clock, PAUSE)
                await self._pause
                self._pause = None

    def _due(self) -> list[Query[int]]:
        policy, now = self._policy, self._now()
        due: list[Query[int]] = [
            partial(drop_oldest, column=idempotency.c.created, before=now - REMEMBERED),
            partial(drop_oldest, column=sessions.c.seen, before=now - policy.session),
        ]
        if policy.keep_content:
            due.append(partial(drop_contents, before=now - policy.keep_content))
        if policy.keep_log:
            due.append(partial(drop_messages, before=now - policy.keep_log))
            due.append(partial(drop_oldest, column=transactions.c.created, before=now - policy.keep_log))
            due.append(partial(drop_tallies, before=now - max(policy.keep_log, DASHBOARD)))
        return due

    def _begin(self) -> None:
        self._call = None
        done = Deferred.fromCoroutine(self.round())
        done.addErrback(_failed)
        done.addCallback(self._again)

    def _again(self, result: None) -> None:
        if not self._stopped:
            self._call = self._clock.callLater(EVERY, self._begin)


def _failed(failure: Failure) -> None:
    """The next round may do better."""
    if failure.check(CancelledError):
        return
    log.failure("embedded: what is old could not be removed", failure)
