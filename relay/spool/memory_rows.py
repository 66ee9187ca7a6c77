"""What :class:`relay.spool.memory.MemoryStore` holds: messages, their rows, notices; times are those of its clock."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from attrs import define, field

from relay.spool.deposits import Deposit, text
from relay.spool.failures import notice_body
from relay.spool.operators import Selection, Shown
from relay.spool.values import Entry, Failed, Leased, Notice, Retry, Row
from relay.values import Submission

#: When a spool in memory begins, in seconds since the epoch.
EPOCH = 1_700_000_000.0


@define(eq=False)
class Shared:
    """A message: what its rows share, gone with the last of them."""

    deposit: Deposit
    created: float

    @property
    def account(self) -> str:
        """Its digest."""
        return self.deposit.message.account

    def shown(self, rows: Sequence[Row]) -> Shown:
        """The message as an operator sees it."""
        fields = json.loads(self.deposit.fields)
        return Shown(
            id=rows[0].id,
            account=self.account,
            account_name=rows[0].account_name,
            created=rows[0].created,
            size=self.deposit.size,
            fields={name: value for name, value in fields.items() if name not in ("body", "variables")},
            attachments=tuple(
                (each.filename, each.content_type, len(each.content)) for each in self.deposit.attachments
            ),
            rows=tuple(rows),
        )


@define(eq=False)
class Held:
    """A row.

    :ivar since: when its age began.
    :ivar ready: when it may be taken, -infinity when an operator hurried it, None for a failure.
    :ivar leased: whether somebody has it, until *ready*; what he says of it counts until another takes it.
    """

    number: int
    message: Shared
    submission: Submission = field(repr=False)
    since: float
    ready: float | None
    leased: bool
    attempts: int
    last_answer: str
    platform: str
    failed: float | None = None
    reason: str = ""

    @classmethod
    def begin(cls, number: int, message: Shared, entry: Entry, now: float) -> Held:
        """The row of *entry*."""
        return cls(
            number,
            message,
            entry.submission,
            since=now,
            ready=now + (entry.in_flight or max(0.0, entry.delay)),
            leased=entry.in_flight > 0,
            attempts=entry.attempts,
            last_answer=text(entry.last_answer),
            platform=text(entry.platform),
        )

    def lend(self, until: float) -> None:
        """Begin a lease."""
        self.leased, self.ready = True, until

    def answered(self, settlement: Retry | Failed, now: float) -> None:
        """Note what was answered, and when it is to be tried again; one that failed has to :meth:`fail` then."""
        if isinstance(settlement, Retry):
            self.leased, self.ready = False, now + max(0.0, settlement.delay)
            self.platform = text(settlement.platform)
        elif not settlement.last_answer:
            return  # given up unposted
        self.attempts += 1
        self.last_answer = text(settlement.last_answer)

    def fail(self, reason: str, now: float) -> None:
        """It is given up."""
        self.leased, self.ready = False, None
        self.failed, self.reason = now, reason

    def hurry(self, now: float) -> None:
        """Make it due; for a failure everything begins anew."""
        self.leased, self.ready = False, -math.inf
        if self.failed is not None:
            self.failed, self.reason, self.attempts, self.since = None, "", 0, now

    def state(self, now: float) -> str:
        """As in :class:`~relay.spool.values.Row`."""
        if self.ready is None:
            return "failed"
        if self.ready <= now:
            return "due"
        return "in flight" if self.leased else "waiting"

    def lent(self, now: float, account_name: str) -> Leased:
        """The row for who is to post it."""
        return Leased(
            self.number,
            self.submission,
            self.message.account,
            account_name,
            self.attempts,
            EPOCH + self.message.created,
            now - self.since,
            self.platform,
        )

    def shown(self, now: float, account_name: str) -> Row:
        """The row as an operator sees it."""
        shared = self.message.deposit
        return Row(
            row=self.number,
            id=text(shared.message.id),
            account=self.message.account,
            account_name=account_name,
            recipient=self.submission.to,
            tag=shared.tag,
            state=self.state(now),
            created=EPOCH + self.message.created,
            attempts=self.attempts,
            # One that the operator hurried has no time.
            next_attempt=None if self.ready is None else EPOCH + (now if self.ready == -math.inf else self.ready),
            last_answer=self.last_answer,
            reason=self.reason,
            size=shared.size,
        )

    def notice(self, now: float, account_name: str) -> bytes:
        """What the webhook is told of a failure."""
        return notice_body(
            self.submission,
            account_name,
            reason=self.reason,
            answer=self.last_answer,
            attempts=self.attempts,
            accepted_at=EPOCH + self.message.created,
            failed_at=EPOCH + now,
        )


@define(eq=False)
class HeldNotice:
    """A failure that the webhook is to be told of; *recipient* is the number of its row."""

    number: int
    recipient: int
    body: bytes
    created: float
    ready: float
    attempts: int = 0

    def lent(self, now: float) -> Notice:
        """The notice for who is to POST it."""
        return Notice(self.number, self.body, self.attempts, EPOCH + self.created, now - self.created)


def selects(selection: Selection, row: Row) -> bool:
    """Whether all that *selection* gives holds for *row*."""
    digits = len(selection.account) >= 8 and row.account.startswith(selection.account)
    return (
        selection.id in ("", row.id)
        and (digits or selection.account in ("", row.account, row.account_name))
        and selection.failed in (None, row.state == "failed")
    )
