"""Finds messages of an account: by filters, newest first, in steps of a bounded cost.

No filter costs more on a large log than on a small one: a step looks at so many messages at most, along the index
that fits the filters best, and says how far it came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from attrs import frozen

from relay.embedded import words
from relay.embedded.database import is_postgresql
from relay.embedded.schema import messages
from relay.embedded.store import ENTRY, Entry, Status, entry

#: Between two messages the order of ``seq`` and of ``created`` may differ, by as many rows as this: several backends
#: have several clocks.
DISORDER = 1_000

Condition = sa.ColumnElement[bool]

#: What a column with the key of a message must meet to lie in a range.
Range = Callable[[sa.ColumnElement[int]], list[Condition]]

#: Statuses that most messages have, so that the index of statuses finds too many.
_COMMON = (Status.CAPTURED, Status.DELIVERED)

#: How many messages are asked for by their keys at once; first.
_PIECE = 100

#: Above every key.
_NONE = 2**62


@frozen
class Filter:
    """Which messages are wanted; ``""`` and None are any.

    :ivar to: the recipient's address, in any case; without an @ beginnings of words of it, or of the name.
    :ivar sender: the sender's, likewise.
    :ivar subject: beginnings of words of the subject.
    :ivar search: beginnings of words of any of these.
    :ivar since: the earliest time, in seconds since the epoch.
    :ivar until: the time before which they came.
    :ivar before: the id of a message: only older ones.
    """

    to: str = ""
    sender: str = ""
    subject: str = ""
    id: str = ""
    request_id: str = ""
    tag: str = ""
    route: str = ""
    status: str = ""
    search: str = ""
    since: float | None = None
    until: float | None = None
    before: str = ""


@frozen
class Listing:
    """Messages that were found, newest first.

    :ivar before: the id to go on from with :attr:`Filter.before`, ``""`` when there are no more.
    :ivar looked: when fewer were found than asked for and there may be more: the time back to which all were looked
        at.
    """

    entries: tuple[Entry, ...]
    before: str = ""
    looked: float | None = None


@frozen
class Steps:
    """How much is looked at, in messages.

    :ivar examined: most, along an index.
    :ivar recent: of the newest ones, before the index of words is asked.  Words that many messages have are found
        here at once, and few messages have those that are not.
    """

    examined: int = 20_000
    recent: int = 2_000


def key(connection: sa.Connection, account: int, id: str) -> int | None:
    """The key in the tables of a message."""
    query = sa.select(messages.c.seq).where(messages.c.account == account, messages.c.id == id)
    return connection.execute(query).scalar()


def of_keys(connection: sa.Connection, account: int, wanted: Filter, keys: Iterable[int]) -> list[Entry]:
    """Those of the messages with these *keys* that are wanted, newest first."""
    along, conditions = _conditions(account, wanted)
    holds = [_holds(group) for group in _groups(account, wanted)]
    query = sa.select(*ENTRY).where(messages.c.seq.in_(list(keys)), *along, *conditions, *holds)
    return [entry(row) for row in connection.execute(query.order_by(messages.c.seq.desc()))]


def listed(
    connection: sa.Connection, account: int, wanted: Filter, limit: int, steps: Steps | None = None
) -> Listing | None:
    """At most *limit* messages; None where ``before`` names no message of this account."""
    before, steps = None, steps or Steps()
    if wanted.before:
        before = key(connection, account, wanted.before)
        if before is None:
            return None
    within = _range(connection, wanted, before)
    along, conditions = _conditions(account, wanted)
    groups = _groups(account, wanted)
    if not groups:
        return _walk(connection, account, [*along, *within(messages.c.seq)], conditions, limit, steps.examined)
    holds = [_holds(group) for group in groups]
    recent = _walk(connection, account, [*along, *within(messages.c.seq)], [*conditions, *holds], limit, steps.recent)
    if len(recent.entries) == limit or not recent.before:
        return recent
    keys = list(connection.execute(_hits(connection, groups, within).limit(steps.examined)).scalars())
    rows = _of(connection, keys, [*along, *conditions], limit)
    if len(rows) > limit or len(keys) < steps.examined:
        return _listing(rows, limit)
    return _stopped(connection, account, rows, keys[-1])


def _of(connection: sa.Connection, keys: Sequence[int], conditions: list[Condition], limit: int) -> list[Entry]:
    """Those of the messages with these *keys*, newest first, that meet the conditions: one more than *limit*.

    They are asked for in pieces: for a subquery, PostgreSQL would walk down the log.
    """
    found: list[Entry] = []
    begin, size = 0, _PIECE
    while begin < len(keys) and len(found) <= limit:
        some = messages.c.seq.in_(keys[begin : begin + size])
        found += _found(connection, [some, *conditions], limit - len(found))
        begin, size = begin + size, 10 * _PIECE
    return found


def _walk(
    connection: sa.Connection,
    account: int,
    along: list[Condition],
    conditions: list[Condition],
    limit: int,
    most: int,
) -> Listing:
    """Those that meet the *conditions* of the newest *most* messages *along* an index."""
    last = None
    if conditions:
        step = sa.select(messages.c.seq).where(*along).order_by(messages.c.seq.desc()).offset(most - 1).limit(1)
        last = connection.execute(step).scalar()
    end = [] if last is None else [messages.c.seq >= last]
    rows = _found(connection, [*along, *conditions, *end], limit)
    return _listing(rows, limit) if last is None or len(rows) > limit else _stopped(connection, account, rows, last)


def _found(connection: sa.Connection, conditions: list[Condition], limit: int) -> list[Entry]:
    """One more than *limit*, where there are as many."""
    query = sa.select(*ENTRY).where(*conditions).order_by(messages.c.seq.desc()).limit(limit + 1)
    return [entry(row) for row in connection.execute(query)]


def _listing(found: list[Entry], limit: int) -> Listing:
    return Listing(tuple(found[:limit]), found[limit - 1].id if len(found) > limit else "")


def _stopped(connection: sa.Connection, account: int, found: list[Entry], last: int) -> Listing:
    """What a step found that ended at *last*, before the end of the log."""
    query = sa.select(messages.c.id, messages.c.created)
    id, created = connection.execute(query.where(messages.c.account == account, messages.c.seq == last)).one()
    return Listing(tuple(found), id, created)


def _range(connection: sa.Connection, wanted: Filter, before: int | None) -> Range:
    """Between which keys the wanted messages lie."""
    low, high = None, before
    if wanted.since is not None:
        query = sa.select(messages.c.seq).where(messages.c.created >= wanted.since).order_by(messages.c.created)
        first = connection.execute(query.limit(1)).scalar()
        low = _NONE if first is None else first - DISORDER
    if wanted.until is not None:
        query = sa.select(messages.c.seq).where(messages.c.created < wanted.until).order_by(messages.c.created.desc())
        last = (connection.execute(query.limit(1)).scalar() or 0) + DISORDER
        high = last if high is None else min(high, last)

    def within(seq: sa.ColumnElement[int]) -> list[Condition]:
        return [*([] if low is None else [seq >= low]), *([] if high is None else [seq < high])]

    return within


def _conditions(account: int, wanted: Filter) -> tuple[list[Condition], list[Condition]]:
    """What the index is walked along, and what else a message must meet."""
    columns = messages.c
    given = {name: getattr(wanted, name) for name in ("id", "request_id", "status", "tag", "route")}
    given["tag"] = wanted.tag.lower()
    checks = {name: columns[name] == value for name, value in given.items() if value}
    if "@" in wanted.to:
        checks["to"] = sa.func.lower(columns.recipient) == sa.func.lower(wanted.to)
    if "@" in wanted.sender:
        checks["sender"] = sa.func.lower(columns.fromemail) == sa.func.lower(wanted.sender)
    if wanted.since is not None:
        checks["since"] = columns.created >= wanted.since
    if wanted.until is not None:
        checks["until"] = columns.created < wanted.until
    best = ("id", "request_id", "to", *(("tag", "status") if wanted.status in _COMMON else ("status", "tag")))
    chosen = next((name for name in best if name in checks), None)
    along = [columns.account == account, *([checks.pop(chosen)] if chosen else [])]
    return along, list(checks.values())


def _groups(account: int, wanted: Filter) -> list[list[str]]:
    """Of each group a message must have one word, as it stands in ``words``; they are beginnings."""
    exact = "@" in wanted.sender
    asked = (
        ((words.TO,), wanted.to if "@" not in wanted.to else ""),
        ((words.FROM,), "" if exact else wanted.sender),
        ((words.SUBJECT,), wanted.subject),
        (words.EVERYWHERE, wanted.search),
    )
    groups = [[f"{account}{words.whole(wanted.sender)}"]] if exact else []
    for signs, text in asked:
        found = words.split(text)
        # What has no letter and no digit is in no message.
        groups += [[f"{account}{sign}{word}" for sign in signs] for word in found] or (
            [[words.NOTHING]] if text else []
        )
    return groups


def _holds(group: list[str]) -> Condition:
    """That a message has one of these words, without the index of words."""
    return sa.or_(*(messages.c.words.contains(each) for each in group))


def _hits(connection: sa.Connection, groups: list[list[str]], within: Range) -> sa.Select[Any]:
    """The newest messages that have the words, from the index of words."""
    seq = messages.c.seq
    if is_postgresql(connection):
        # Imported here: see upsert in relay.embedded.database.
        from sqlalchemy.dialects import postgresql

        held = sa.func.array_to_tsvector(sa.func.string_to_array(messages.c.words, sa.literal_column("' '")))
        asked = sa.cast(_query(groups, "'{}':*", " & ", " | "), postgresql.TSQUERY)
        matches = held.op("@@", is_comparison=True)(asked)
        # Materialized, so that it goes by the index of words and not down the log.
        hits = sa.select(seq).where(matches, *within(seq)).cte("hits").prefix_with("MATERIALIZED")
        return sa.select(hits.c.seq).order_by(hits.c.seq.desc())
    rowid: sa.ColumnClause[int] = sa.column("rowid")
    matches = sa.column("search").op("MATCH", is_comparison=True)(_query(groups, '"{}"*', " AND ", " OR "))
    found = sa.select(rowid.label("seq")).select_from(sa.table("search")).where(matches, *within(rowid))
    return found.order_by(rowid.desc())


def _query(groups: list[list[str]], beginning: str, all_of: str, one_of: str) -> str:
    """What is asked of an index of words, in its language; only letters, digits and our signs stand in it."""
    return all_of.join(f"({one_of.join(beginning.format(each) for each in group)})" for group in groups)
