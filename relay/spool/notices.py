"""What ``failures.webhook`` is told of each failure."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from relay.spool.schema import notices
from relay.spool.values import Notice, Retry, Settlement
from relay.spool.writer import Transaction
from relay.values import Submission

_take = (
    sa.select(notices.c.row, notices.c.body, notices.c.attempts, notices.c.created)
    .where(notices.c.ready <= sa.bindparam("now"))
    .order_by(notices.c.ready)
    .limit(sa.bindparam("most"))
    .with_for_update(skip_locked=True)
)
_lease = (
    sa.update(notices)
    .where(notices.c.row == sa.bindparam("wanted"))
    .values(owner=sa.bindparam("by"), ready=sa.bindparam("until"))
)
_retry = (
    sa.update(notices)
    .where(notices.c.row == sa.bindparam("wanted"))
    .values(owner=None, ready=sa.bindparam("until"), attempts=notices.c.attempts + 1)
)
_remove = sa.delete(notices).where(notices.c.row == sa.bindparam("wanted"))
_next = sa.select(sa.func.min(notices.c.ready))


def named(request_id: str, recipient: str, tag: str, api_key: str) -> Submission:
    """As much of a submission as a notice tells."""
    return Submission(
        api_key=api_key,
        request_id=request_id,
        idempotency_key="",
        fromname="",
        fromemail="",
        to=recipient,
        toname="",
        subject="",
        replyto="",
        returnpath="",
        body="",
        tag=tag,
        route="",
        template="",
        variables=None,
    )


class Notices:
    """Takes and settles notices.

    :param lease: how long another relay leaves a notice alone, in seconds.
    """

    def __init__(self, owner: str, lease: float) -> None:
        self._owner = owner
        self._lease = lease

    def take(self, transaction: Transaction, limits: Sequence[int]) -> list[list[Notice]]:
        """So many due notices, under a lease, oldest first, for each of *limits*."""
        now = transaction.now
        answers = []
        for limit in limits:
            found = transaction.connection.execute(_take, {"now": now, "most": limit}).all()
            leases = [{"wanted": each.row, "by": self._owner, "until": now + self._lease} for each in found]
            if leases:
                transaction.connection.execute(_lease, leases)
            answers.append(
                [Notice(each.row, bytes(each.body), each.attempts, each.created, now - each.created) for each in found]
            )
        return answers

    def settle(self, transaction: Transaction, settlements: Sequence[Sequence[Settlement]]) -> list[None]:
        """Told, or given up: gone.  To be tried again: in so many seconds."""
        for each in (settlement for part in settlements for settlement in part):
            if isinstance(each, Retry):
                parameters = {"wanted": each.row, "until": transaction.now + max(0.0, each.delay)}
                transaction.connection.execute(_retry, parameters)
            else:
                transaction.connection.execute(_remove, {"wanted": each.row})
        return [None] * len(settlements)

    def next_due(self, transaction: Transaction, asked: Sequence[None]) -> list[float | None]:
        """Seconds until the earliest notice is due, None without one."""
        found = transaction.connection.execute(_next).scalar()
        return [None if found is None else max(0.0, found - transaction.now)] * len(asked)
