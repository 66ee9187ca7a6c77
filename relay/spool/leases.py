"""Who may post which row, and what becomes of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from attrs import define, evolve, frozen

from relay.errors import Reason
from relay.spool.crypto import Cipher, Unreadable
from relay.spool.database import chunks, insert
from relay.spool.deposits import text
from relay.spool.failures import notice_body
from relay.spool.notices import named
from relay.spool.removal import remove_rows
from relay.spool.schema import accounts, attachments, contents, messages, notices, recipients
from relay.spool.values import Delivered, Failed, Leased, Retry, Settlement
from relay.spool.writer import Transaction
from relay.values import Attachment, Submission
from relay.wire import WireError, decode_submission

_now: sa.BindParameter[float] = sa.bindparam("now")
_wanted: sa.BindParameter[int] = sa.bindparam("wanted", expanding=True)
_row: sa.BindParameter[int] = sa.bindparam("row_")
_by: sa.BindParameter[str] = sa.bindparam("by")

_due = sa.exists().where(recipients.c.account == accounts.c.id, recipients.c.ready <= _now)
#: Accounts with due rows, in a fixed order that starts after the one that was served last.
_accounts = (
    sa.select(accounts.c.id)
    .where(accounts.c.id > sa.bindparam("after"), accounts.c.id <= sa.bindparam("upto"))
    .where(accounts.c.digest.not_in(sa.bindparam("excluded", expanding=True)))
    .where(_due)
    .order_by(accounts.c.id)
    .limit(sa.bindparam("most"))
)
_oldest = (
    sa.select(recipients)
    .where(recipients.c.account == sa.bindparam("account_"), recipients.c.ready <= _now)
    .order_by(recipients.c.ready, recipients.c.row)
    .limit(sa.bindparam("most"))
    .offset(sa.bindparam("passed"))
    .with_for_update(skip_locked=True)
)
_lease = sa.update(recipients).where(recipients.c.row.in_(_wanted)).values(owner=_by, ready=sa.bindparam("until"))
_renew = _lease.where(recipients.c.owner == _by)

_messages = (
    sa.select(messages, contents.c.fields)
    .join(contents, contents.c.message == messages.c.seq)
    .where(messages.c.seq.in_(_wanted))
)
_sizes = sa.select(messages.c.seq, messages.c.size).where(messages.c.seq.in_(_wanted))
_attachments = sa.select(attachments).where(attachments.c.message.in_(_wanted)).order_by(attachments.c.position)
_keys = sa.select(accounts).where(accounts.c.id.in_(_wanted))

_mine = sa.and_(recipients.c.row == _row, recipients.c.owner == _by)
_retry = (
    sa.update(recipients)
    .where(_mine)
    .values(
        attempts=recipients.c.attempts + 1,
        ready=sa.bindparam("until"),
        owner=None,
        last_answer=sa.bindparam("answer"),
        platform=sa.bindparam("at"),
    )
)
_fail = (
    sa.update(recipients)
    .where(_mine)
    .values(
        attempts=recipients.c.attempts + sa.bindparam("more"),
        ready=None,
        owner=None,
        failed=_now,
        reason=sa.bindparam("why"),
        last_answer=sa.bindparam("answer"),
    )
)
_failing = (
    sa.select(recipients, messages.c.request_id, messages.c.tag, messages.c.created, accounts)
    .join(messages, messages.c.seq == recipients.c.message)
    .join(accounts, accounts.c.id == recipients.c.account)
    .where(_mine)
)

#: One look into the index for each account.
_earliest = sa.select(
    sa.func.min(
        sa.select(sa.func.min(recipients.c.ready)).where(recipients.c.account == accounts.c.id).scalar_subquery()
    )
)

#: Above every account's number.
_LAST = 2**62

#: Most content that one take reads into memory, in bytes; a single message may be bigger.
BUDGET = 64 * 1024 * 1024


@frozen
class Request:
    """How many rows are wanted, and of whom none: digests of accounts."""

    limit: int
    exclude: frozenset[str] = frozenset()


@define
class Leases:
    """Gives rows out and takes them back.

    :param owner: who this process is.
    :param lease: how long others leave a row alone, in seconds.
    :param tells: whether a failure makes a notice for ``failures.webhook``.
    """

    _cipher: Cipher
    _owner: str
    _lease: float
    _tells: bool
    _last: int = 0

    def take(self, transaction: Transaction, requests: Sequence[Request]) -> list[list[Leased]]:
        """Due rows for each of *requests*: round robin over the accounts, the longest due first within one."""
        return [self._take(transaction, each) for each in requests]

    def _take(self, transaction: Transaction, request: Request) -> list[Leased]:
        connection = transaction.connection
        rows = self._pick(transaction, request)
        reader = Reader(connection, self._cipher, transaction.now)
        rows = reader.load(rows)
        until = transaction.now + self._lease
        for part in chunks([row.row for row in rows]):
            connection.execute(_lease, {"wanted": part, "by": self._owner, "until": until})
        leased: list[Leased] = []
        for row in rows:
            try:
                leased.append(reader.leased(row))
            except (Unreadable, WireError):
                # Or it would stand before all others for ever.
                self._fail(transaction, Failed(row.row, Reason.INTERNAL.value, "the spool cannot read it back"))
        return leased

    def _pick(self, transaction: Transaction, request: Request) -> list[Any]:
        """Due rows, an equal share for each account, and what is left over for those with more."""
        turn = self._due_accounts(transaction, request)
        passed = dict.fromkeys(turn, 0)
        found: dict[int, Any] = {}
        while turn and len(found) < request.limit:
            having_more = []
            equal = -(-(request.limit - len(found)) // len(turn))
            for account in turn:
                share = min(equal, request.limit - len(found))
                parameters = {"account_": account, "now": transaction.now, "most": share, "passed": passed[account]}
                rows = transaction.connection.execute(_oldest, parameters).all()
                found.update((row.row, row) for row in rows)
                passed[account] += len(rows)
                if 0 < len(rows) == share:
                    having_more.append(account)
            turn = having_more
        return list(found.values())

    def _due_accounts(self, transaction: Transaction, request: Request) -> list[int]:
        """At most as many accounts with due rows as rows are wanted, those first whose turn it is."""
        turn: list[int] = []
        for after, upto in ((self._last, _LAST), (-1, self._last)):
            parameters = {
                "after": after,
                "upto": upto,
                "excluded": sorted(request.exclude),
                "now": transaction.now,
                "most": request.limit - len(turn),
            }
            turn += transaction.connection.execute(_accounts, parameters).scalars()
            if len(turn) >= request.limit:
                break
        if turn:
            self._last = turn[-1]
        return turn

    def renew(self, transaction: Transaction, asked: Sequence[Iterable[int]]) -> list[None]:
        """Hold the rows that are still ours for a whole lease from now on."""
        rows = sorted({row for part in asked for row in part})
        for part in chunks(rows):
            parameters = {"wanted": part, "by": self._owner, "until": transaction.now + self._lease}
            transaction.connection.execute(_renew, parameters)
        return [None] * len(asked)

    def settle(self, transaction: Transaction, asked: Sequence[Sequence[Settlement]]) -> list[None]:
        """Note what became of rows.  One that somebody else has taken meanwhile is his, unless it was delivered."""
        settlements = sorted((each for part in asked for each in part), key=lambda each: each.row)
        delivered = [each.row for each in settlements if isinstance(each, Delivered)]
        if delivered:
            transaction.shrink(*remove_rows(transaction.connection, delivered))
        retries = [
            {
                "row_": each.row,
                "by": self._owner,
                "until": transaction.now + max(0.0, each.delay),
                "answer": text(each.last_answer),
                "at": text(each.platform),
            }
            for each in settlements
            if isinstance(each, Retry)
        ]
        if retries:
            transaction.connection.execute(_retry, retries)
        for each in settlements:
            if isinstance(each, Failed):
                self._fail(transaction, each)
        return [None] * len(asked)

    def _fail(self, transaction: Transaction, failure: Failed) -> None:
        connection = transaction.connection
        mine = {"row_": failure.row, "by": self._owner}
        row = connection.execute(_failing, mine).one_or_none()
        if row is None:
            return
        more = 1 if failure.last_answer else 0
        answer = text(failure.last_answer) or row.last_answer
        parameters = {**mine, "now": transaction.now, "more": more, "why": failure.reason, "answer": answer}
        connection.execute(_fail, parameters)
        if self._tells:
            now = transaction.now
            body = notice_body(
                named(row.request_id, row.recipient, row.tag, row.name or self._cipher.decrypt(row.key, row.digest)),
                row.name,
                reason=failure.reason,
                answer=answer,
                attempts=row.attempts + more,
                accepted_at=row.created,
                failed_at=now,
            )
            (number,) = transaction.database.numbers(connection, 1)
            insert(connection, notices, [(number, row.row, body, now, 0, now, None)])

    def next_due(self, transaction: Transaction, asked: Sequence[None]) -> list[float | None]:
        """Seconds until the earliest row is due, or a lease ends; None without rows."""
        found = transaction.connection.execute(_earliest).scalar()
        return [None if found is None else max(0.0, found - transaction.now)] * len(asked)


class Reader:
    """Makes submissions of rows again; what rows share is read once."""

    def __init__(self, connection: sa.Connection, cipher: Cipher, now: float) -> None:
        self._connection = connection
        self._cipher = cipher
        self._now = now
        self._accounts: dict[int, Any] = {}
        self._messages: dict[int, Any] = {}
        self._attachments: dict[int, list[Attachment]] = {}
        self._shared: dict[int, Submission] = {}

    def load(self, rows: Sequence[Any]) -> list[Any]:
        """Read what *rows* need; those of them whose contents are in :data:`BUDGET`, at least one."""
        sizes = dict(self._all(_sizes, {row.message for row in rows}))
        left = BUDGET
        kept: list[Any] = []
        for row in rows:
            left -= sizes.pop(row.message, 0)
            if left < 0 and kept:
                break
            kept.append(row)
        wanted = {row.message for row in kept}
        self._messages = {each.seq: each for each in self._all(_messages, wanted)}
        for each in self._all(_attachments, wanted):
            filename = bytes(each.filename).decode("utf-8", "surrogatepass")
            attachment = Attachment(filename, each.content_type, bytes(each.content))
            self._attachments.setdefault(each.message, []).append(attachment)
        self._accounts = {each.id: each for each in self._all(_keys, {row.account for row in kept})}
        return kept

    def leased(self, row: Any) -> Leased:
        """The value of *row*.

        :raises Unreadable: its key cannot be decrypted, or its content is gone.
        :raises WireError: its content is not what was written.
        """
        account = self._accounts[row.account]
        submission = evolve(
            self._submission(row),
            to=row.recipient,
            toname=bytes(row.toname).decode("utf-8", "surrogatepass"),
            idempotency_key=row.idempotency_key,
        )
        return Leased(
            row.row,
            submission,
            account.digest,
            account.name,
            row.attempts,
            self._messages[row.message].created,
            self._now - row.since,
            row.platform,
        )

    def _submission(self, row: Any) -> Submission:
        """What the recipients of *row*'s message share."""
        found = self._shared.get(row.message)
        if found is None:
            account = self._accounts[row.account]
            message = self._messages.get(row.message)
            if message is None:
                raise Unreadable("the content is gone")
            found = evolve(
                decode_submission(bytes(message.fields), request_id=message.request_id),
                api_key=self._cipher.decrypt(account.key, account.digest),
                attachments=tuple(self._attachments.get(row.message, ())),
            )
            self._shared[row.message] = found
        return found

    def _all(self, statement: sa.Select[Any], wanted: set[int]) -> list[Any]:
        found: list[Any] = []
        for part in chunks(sorted(wanted)):
            found += self._connection.execute(statement, {"wanted": part}).all()
        return found
