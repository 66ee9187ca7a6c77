"""Messages on their way: what waits for its route, who has it in hand, and what became of it.

A row is leased to the backend that hands it over; should that one be killed, another takes the row when the lease is
over.  A message whose route is gone, or is its account's no more, is never handed over.  Every change of status is a
step of the message's timeline, in the same transaction.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import attrs
import sqlalchemy as sa
from attrs import frozen

from relay.embedded import rules, store
from relay.embedded.accounts import Tenant
from relay.embedded.routes import table
from relay.embedded.routes.building import Outgoing
from relay.embedded.schema import account_routes, accounts, attachments, contents, deliveries, messages
from relay.embedded.store import Status
from relay.spool.runner import EXPIRED
from relay.spool.values import Delivered, Failed, Leased, Retry, Settlement
from relay.values import Attachment, Submission

#: Rows of one statement.
_MOST = 500

#: The accounts that may use a route.
_holders = account_routes.alias()

#: What is known of a row without its content.
_WAITING = (
    sa.select(deliveries, messages.c.id, messages.c.recipient, messages.c.tag, messages.c.created, messages.c.answer,
              accounts.c.name)
    .join(messages, messages.c.seq == deliveries.c.message)
    .join(accounts, accounts.c.id == deliveries.c.account)
)  # fmt: skip


@frozen
class Answer:
    """What became of one attempt.

    :ivar at: when, seconds since the epoch.
    :ivar text: the exact words, with line ends where there are several.
    :ivar by: who spoke.
    """

    at: float
    text: str
    by: str


@frozen
class Waiting:
    """A message that its route has yet to take, as an administrator sees it: no content.

    :ivar ready: when it is tried next, or while it is in hand, when the lease ends.
    """

    seq: int
    id: str
    account: str
    route: str
    recipient: str
    tag: str
    created: float
    ready: float
    in_hand: bool
    attempts: int
    answer: str


# --- coming


def accept(connection: sa.Connection, new: store.New) -> store.Added:
    """Store a message and, unless its route only stores, let it wait for the route.

    :raises Refused: as :func:`relay.embedded.store.add`.
    """
    sends = table.kind_of(connection, new.fields.route) not in ("", "capture")
    status = Status.QUEUED if sends else Status.CAPTURED
    added = store.add(connection, attrs.evolve(new, status=status))
    if sends and added.seq is not None:
        enqueue(connection, added.seq, new.account, new.fields.route, new.created)
    return added


def enqueue(connection: sa.Connection, seq: int, account: int, route: str, now: float) -> None:
    """Let a message wait for its route, from now on."""
    row = {"message": seq, "account": account, "route": route, "since": now, "ready": now}
    connection.execute(sa.insert(deliveries).values(row))
    store.note(connection, seq, now, Status.QUEUED, detail=f"for the route {route}")


def resend(connection: sa.Connection, tenant: Tenant, id: str, new_id: str, now: float) -> tuple[str, str]:
    """Send a message again, as a message of its own; its id and its route.

    :raises Refused: 404 it is not this account's, 409 it was never accepted or its content is no longer kept, or
        what is wrong with its route.
    """
    found = store.one(connection, tenant.id, id)
    if found is None:
        raise rules.Refused(404, "Not found", "This account has no such message")
    old, content = found
    if old.status == Status.REFUSED:
        raise rules.Refused(409, "Never accepted", "This message was refused when it came, so it cannot be sent again")
    if content is None:
        raise rules.Refused(409, "Content not kept", "The content of this message is no longer kept")
    new = store.New(
        account=tenant.id,
        id=new_id,
        created=now,
        fields=attrs.evolve(old.fields, route=rules.route_of(_still(old.fields.route, tenant), tenant)),
        posted=content.posted,
        rendered=content.rendered,
        size=old.size,
        idempotency_key="",
        fingerprint="",
        attachments=_attachments(connection, old.seq),
        resent=old.id,
    )
    accept(connection, new)
    store.note(connection, old.seq, now, "resent", detail=new_id)
    return new_id, new.fields.route


def _still(route: str, tenant: Tenant) -> str:
    """The route it had, or none where the account has lost it: its default is taken then."""
    return route if any(each.id == route for each in tenant.routes) else ""


# --- in hand


def take(
    connection: sa.Connection, route: str, owner: str, limit: int, now: float, lease: float, after: int = 0
) -> list[Leased]:
    """At most *limit* messages that are due for *route*, leased to *owner*: in turn of each account that may use it,
    the longest due first, so that one with many keeps no other waiting.

    :param after: the account that had the last turn.
    """
    turn = _in_turn(connection, route, now, limit, after)
    seqs: list[int] = []
    while turn and len(seqs) < limit:
        share = -(-(limit - len(seqs)) // len(turn))
        turn = [each for each in turn if _pick(connection, route, each, now, min(share, limit - len(seqs)), seqs)]
    if not seqs:
        return []
    rows = {row.message: row for row in connection.execute(_WAITING.where(deliveries.c.message.in_(seqs)))}
    leased = {"owner": owner, "ready": now + lease}
    connection.execute(sa.update(deliveries).where(deliveries.c.message.in_(seqs)).values(leased))
    return [_leased(rows[seq], now) for seq in seqs]


def _in_turn(connection: sa.Connection, route: str, now: float, most: int, after: int) -> list[int]:
    """At most *most* accounts that have something due for *route*, those behind *after* first."""
    due = _of(_holders, route).where(deliveries.c.ready <= now).exists()
    query = sa.select(_holders.c.account).where(_holders.c.route == route, due).order_by(_holders.c.account)
    found = list(connection.execute(query.where(_holders.c.account > after).limit(most)).scalars())
    if len(found) < most:
        rest = query.where(_holders.c.account <= after).limit(most - len(found))
        found += connection.execute(rest).scalars()
    return found


def _of(holders: sa.FromClause, route: str) -> sa.Select[Any]:
    """What waits for *route* of an account of *holders*, without the other rows of the query."""
    mine = (deliveries.c.route == route, deliveries.c.account == holders.c.account)
    return sa.select(deliveries.c.message).where(*mine).correlate(holders)


def _pick(connection: sa.Connection, route: str, account: int, now: float, share: int, seqs: list[int]) -> bool:
    """Put at most *share* due messages of an account behind *seqs*; whether it may have more."""
    mine = (deliveries.c.route == route, deliveries.c.account == account, deliveries.c.ready <= now)
    due = sa.select(deliveries.c.message).where(*mine, deliveries.c.message.not_in(seqs))
    oldest = due.order_by(deliveries.c.ready, deliveries.c.message).limit(share).with_for_update(skip_locked=True)
    found = list(connection.execute(oldest).scalars()) if share > 0 else []
    seqs += found
    return 0 < len(found) == share


def renew(connection: sa.Connection, owner: str, seqs: Sequence[int], until: float) -> None:
    """Hold the rows that are still *owner*'s until then."""
    mine = (deliveries.c.message.in_(seqs), deliveries.c.owner == owner)
    connection.execute(sa.update(deliveries).where(*mine).values(ready=until))


def are_in_hand(connection: sa.Connection) -> bool:
    """Whether a backend has anything in hand."""
    query = sa.select(deliveries.c.message).where(deliveries.c.owner.is_not(None))
    return connection.execute(query.limit(1)).first() is not None


def release(connection: sa.Connection, now: float) -> None:
    """Nobody has anything in hand: for the start of the only backend of a database."""
    connection.execute(sa.update(deliveries).where(deliveries.c.owner.is_not(None)).values(owner=None, ready=now))


def next_due(connection: sa.Connection, route: str) -> float | None:
    """When the next message for *route* is due, or its lease ends."""
    first = _of(_holders, route).with_only_columns(sa.func.min(deliveries.c.ready)).scalar_subquery()
    return connection.execute(sa.select(sa.func.min(first)).where(_holders.c.route == route)).scalar()


def content(connection: sa.Connection, seq: int) -> Outgoing | None:
    """What is to be sent; None when it is no longer kept."""
    row = connection.execute(sa.select(*store.ENTRY).where(messages.c.seq == seq)).one_or_none()
    big = connection.execute(sa.select(contents).where(contents.c.message == seq)).one_or_none()
    if row is None or big is None:
        return None
    entry = store.entry(row)
    body = json.loads(big.posted, parse_constant=str).get("body") or "" if big.rendered is None else big.rendered
    return Outgoing(entry.id, entry.created, entry.fields, body, _attachments(connection, seq))


def settle(
    connection: sa.Connection, owner: str, settlements: Sequence[tuple[Settlement, Answer | None]], now: float
) -> None:
    """Note what became of messages.  One that is not *owner*'s any more is left alone, unless it was delivered.

    :param settlements: each with its attempt's answer, None where there was no attempt.
    """
    for settlement, answer in sorted(settlements, key=lambda each: each[0].row):
        _settle(connection, owner, settlement, answer, now)


def _settle(connection: sa.Connection, owner: str, settlement: Settlement, answer: Answer | None, now: float) -> None:
    row = connection.execute(sa.select(deliveries).where(deliveries.c.message == settlement.row)).one_or_none()
    if not isinstance(settlement, Delivered) and (row is None or row.owner != owner):
        return
    mine = deliveries.c.message == settlement.row
    attempts = (row.attempts if row is not None else 0) + (answer is not None)
    given = answer or Answer(now, "", "")
    if isinstance(settlement, Retry):
        # Without an attempt the route had gone down meanwhile: it is due, as it was.
        ready = now + (settlement.delay if answer is not None else 0.0)
        changed = {"attempts": attempts, "ready": ready, "owner": None}
        connection.execute(sa.update(deliveries).where(mine).values(changed))
        if answer is None:
            return
        detail = f"{given.by}; next attempt in {settlement.delay:.0f} s"
        _come_to(connection, settlement.row, Status.DEFERRED, attempts, attrs.evolve(given, by=detail))
        return
    connection.execute(sa.delete(deliveries).where(mine))
    if isinstance(settlement, Failed):
        if settlement.reason == EXPIRED:
            by = f"given up after {attempts} attempts" + (f", the last at {given.by}" if given.by else "")
            given = Answer(given.at, given.text or _last_answer(connection, settlement.row), by)
        _come_to(connection, settlement.row, Status.FAILED, attempts, given)
    else:
        _come_to(connection, settlement.row, Status.DELIVERED, max(attempts, 1), given)


def _come_to(connection: sa.Connection, seq: int, status: str, attempts: int, answer: Answer) -> None:
    store.change_status(connection, seq, status, at=answer.at, answer=answer.text, attempts=attempts)
    store.note(connection, seq, answer.at, status, answer.text, answer.by)


# --- an administrator


def waiting(
    connection: sa.Connection, route: str = "", *, account: int | None = None, limit: int = 100
) -> list[Waiting]:
    """What waits, the next one due first; of one route or one account only, where that is given."""
    query = _WAITING.order_by(deliveries.c.ready, deliveries.c.message).limit(limit)
    if route:
        query = query.where(deliveries.c.route == route)
    if account is not None:
        query = query.where(deliveries.c.account == account)
    return [_waiting(row) for row in connection.execute(query)]


def retry(connection: sa.Connection, now: float, *, route: str = "", id: str = "") -> set[str]:
    """Let what waits be due now, all, that of a route, or one message; the routes that have some."""
    chosen = [*_chosen(route, id), deliveries.c.owner.is_(None)]
    routes = set(connection.execute(sa.select(deliveries.c.route).where(*chosen).distinct()).scalars())
    connection.execute(sa.update(deliveries).where(*chosen, deliveries.c.ready > now).values(ready=now))
    return routes


def give_up(connection: sa.Connection, now: float, who: str, *, route: str = "", id: str = "") -> int:
    """Let what waits fail, that of a route or one message; how many.  What is in hand is left to its attempt.

    :param who: for the timeline.
    """
    rows = connection.execute(sa.select(deliveries).where(*_chosen(route, id), deliveries.c.owner.is_(None))).all()
    for row in rows:
        _fail(connection, row, Answer(now, _last_answer(connection, row.message), f"given up by {who}"))
    return len(rows)


def are_stranded(connection: sa.Connection) -> bool:
    """Whether something waits in vain."""
    return bool(_stranded(connection))


def fail_stranded(connection: sa.Connection, now: float) -> int:
    """Let fail what waits for a route that is gone, or is its account's no more; how many did, a number at a time.

    A row in hand is left to its attempt until the lease ends.
    """
    free = sa.or_(deliveries.c.owner.is_(None), deliveries.c.ready <= now)
    count = 0
    for route, account in _stranded(connection):
        text = f"550 5.7.1 The route {route} is not available to this account any more"
        mine = (deliveries.c.route == route, deliveries.c.account == account, free)
        for row in connection.execute(sa.select(deliveries).where(*mine).limit(_MOST)).all():
            _fail(connection, row, Answer(now, text, "this platform"))
            count += 1
    return count


def _stranded(connection: sa.Connection) -> list[tuple[str, int]]:
    """The routes that something waits for, each with an account that has it no more.

    The index is walked from pair to pair, so that it takes as long whether one message waits or a million.
    """
    found: list[tuple[str, int]] = []
    pair = _next_pair(connection, "", 0)
    while pair is not None:
        if not _has(connection, *pair):
            found.append(pair)
        pair = _next_pair(connection, *pair)
    return found


def _next_pair(connection: sa.Connection, route: str, account: int) -> tuple[str, int] | None:
    """The pair behind that one; SQLite does not seek by both columns at once."""
    columns = deliveries.c
    query = sa.select(columns.route, columns.account).order_by(columns.route, columns.account).limit(1)
    for behind in (sa.and_(columns.route == route, columns.account > account), columns.route > route):
        row = connection.execute(query.where(behind)).one_or_none()
        if row is not None:
            return row.route, row.account
    return None


def _has(connection: sa.Connection, route: str, account: int) -> bool:
    mine = (account_routes.c.account == account, account_routes.c.route == route)
    return connection.execute(sa.select(account_routes.c.route).where(*mine)).first() is not None


def _fail(connection: sa.Connection, row: sa.Row[Any], answer: Answer) -> None:
    connection.execute(sa.delete(deliveries).where(deliveries.c.message == row.message))
    _come_to(connection, row.message, Status.FAILED, row.attempts, answer)


def _last_answer(connection: sa.Connection, seq: int) -> str:
    return connection.execute(sa.select(messages.c.answer).where(messages.c.seq == seq)).scalar() or ""


def _chosen(route: str, id: str) -> list[sa.ColumnElement[bool]]:
    chosen: list[sa.ColumnElement[bool]] = []
    if route:
        chosen.append(deliveries.c.route == route)
    if id:
        chosen.append(deliveries.c.message.in_(sa.select(messages.c.seq).where(messages.c.id == id)))
    return chosen


def _attachments(connection: sa.Connection, seq: int) -> tuple[Attachment, ...]:
    query = sa.select(attachments).where(attachments.c.message == seq).order_by(attachments.c.position)
    return tuple(Attachment(row.filename, row.content_type, bytes(row.content)) for row in connection.execute(query))


def _leased(row: sa.Row[Any], now: float) -> Leased:
    """What the runner works with; the content is read when it is handed over."""
    submission = Submission(
        api_key="",
        request_id=row.id,
        idempotency_key=str(row.message),
        fromname="",
        fromemail="",
        to=row.recipient,
        toname="",
        subject="",
        replyto="",
        returnpath="",
        body="",
        tag=row.tag,
        route=row.route,
        template="",
        variables=None,
    )
    return Leased(row.message, submission, str(row.account), row.name, row.attempts, row.created, now - row.since)


def _waiting(row: sa.Row[Any]) -> Waiting:
    return Waiting(
        row.message, row.id, row.name, row.route, row.recipient, row.tag, row.created, row.ready,
        row.owner is not None, row.attempts, row.answer,
    )  # fmt: skip
