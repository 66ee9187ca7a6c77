"""How full the spool is, and whether another message fits."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import sqlalchemy as sa
from attrs import define, field

from relay.policy import Spool
from relay.spool.schema import messages, recipients
from relay.spool.values import Counts
from relay.spool.writer import Transaction

#: Of the writer's time, about this part goes into counting.
SHARE = 0.01

#: What counting a row takes, in seconds: on SQLite 0.1 µs, and the oldest's age as much again, or more.
COST = 2e-7

#: So many rows are counted whenever somebody else has changed something: it costs less than the commit that follows.
FEW = 1000

#: The counts of a server that others use too are at most so old, in seconds, unless there is much to count.
FRESH = 1.0

#: So often, in seconds, we look whether the command line has changed a file of ours.
LOOK = 0.2

#: Space on the volume, in bytes, with which nobody asks how much the file itself has unused.
PLENTY = 256 * 1024 * 1024

_rows = sa.select(sa.func.count()).select_from(recipients)
_octets = sa.select(sa.func.coalesce(sa.func.sum(messages.c.size), 0))
_failed = sa.select(sa.func.count()).select_from(recipients).where(recipients.c.failed.is_not(None))
_in_flight = (
    sa.select(sa.func.count())
    .select_from(recipients)
    .where(recipients.c.owner.is_not(None), recipients.c.ready > sa.bindparam("now"))
)
_states = sa.select(_rows.scalar_subquery(), _failed.scalar_subquery(), _in_flight.scalar_subquery())
#: Messages are numbered as they come.
_oldest = (
    sa.select(messages.c.created)
    .where(sa.exists().where(recipients.c.message == messages.c.seq, recipients.c.failed.is_(None)))
    .order_by(messages.c.seq)
    .limit(1)
)


@define
class Usage:
    """Rows and content kept.  Counted when the database is opened, and kept up with each commit of ours; counted
    again when somebody else may have changed something.

    :ivar rows: recipients.
    :ivar octets: size of the contents.
    """

    policy: Spool
    _monotonic: Callable[[], float] = time.monotonic
    rows: int = 0
    octets: int = 0
    _changes: int | None = None
    _next: float = field(default=0.0)

    def refresh(self, transaction: Transaction) -> None:
        """Count again where that is due."""
        started = self._monotonic()
        if self._changes is not None and started < self._next:
            return
        database = transaction.database
        # A server is not asked without need; that another process has changed a shared file is seen at once.
        fresh = FRESH if database.served else 0.0 if database.shared else LOOK
        changes = database.changes(transaction.connection)
        if changes == self._changes and not database.served:
            self._next = started + fresh
            return
        self._changes = changes
        # As they were before this transaction; what it changes is added when it is committed.
        self.rows = int(transaction.connection.execute(_rows).scalar_one()) - transaction.rows
        self.octets = int(transaction.connection.execute(_octets).scalar_one()) - transaction.octets
        self._next = started + max(fresh, pause(self.rows))

    def forget(self) -> None:
        """Count at the next occasion."""
        self._changes = None

    def committed(self, transaction: Transaction) -> None:
        """Keep up with what *transaction* changed."""
        self.rows += transaction.rows
        self.octets += transaction.octets

    def room(self, transaction: Transaction) -> Room:
        """What may still come now."""
        self.refresh(transaction)
        free = transaction.database.free(transaction.connection, self.policy.min_free + PLENTY)
        octets = self.policy.max_bytes - self.octets
        if free is not None:
            octets = min(octets, free - self.policy.min_free)
        return Room(self.policy.max_rows - self.rows, octets)


@define
class Census:
    """Counts what is waiting, in flight and failed: of a big spool not at every question."""

    _monotonic: Callable[[], float] = time.monotonic
    _last: Counts = field(factory=Counts)
    _next: float = 0.0

    def count(self, transaction: Transaction, asked: Sequence[None]) -> list[Counts]:
        """How full the spool is."""
        now = self._monotonic()
        if now >= self._next:
            self._last = found = count(transaction)
            self._next = now + pause(found.waiting + found.in_flight + found.failed)
        return [self._last] * len(asked)


@define
class Room:
    """What still fits.

    :ivar rows: recipients.
    :ivar octets: size of contents.
    """

    rows: int
    octets: int

    def take(self, rows: int, octets: int) -> bool:
        """Whether so much fits; then it is taken."""
        if rows > self.rows or octets > self.octets:
            return False
        self.rows -= rows
        self.octets -= octets
        return True


def pause(rows: int) -> float:
    """Seconds until *rows* are counted again.

    By their number, not by how long it took: that says more about what else the machine does, and while a first
    count that was slow is paid for, messages would pass a limit that another process has reached.
    """
    return 0.0 if rows <= FEW else rows * COST / SHARE


def count(transaction: Transaction) -> Counts:
    """How full the spool is."""
    connection, now = transaction.connection, transaction.now
    rows, failed, in_flight = connection.execute(_states, {"now": now}).one()
    octets = connection.execute(_octets).scalar_one()
    oldest = connection.execute(_oldest).scalar()
    return Counts(
        waiting=rows - failed - in_flight,
        in_flight=in_flight,
        failed=failed,
        octets=int(octets),
        oldest=0.0 if oldest is None else max(0.0, now - oldest),
    )
