"""How many messages an account had when, of which tags, and what became of them: read from the tallies."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa
from attrs import frozen

from relay.embedded.schema import tags, tallies
from relay.embedded.store import STATUSES

HOUR = 3600

#: Messages by status.
Counts = dict[str, int]


@frozen
class Span:
    """Whole steps of time, from ``begin`` to before ``end``; both in hours since the epoch.

    :ivar step: in hours.
    """

    begin: int
    end: int
    step: int

    @classmethod
    def around(cls, begin: float, end: float, step: int) -> Span:
        """The steps that have a part of the seconds from *begin* to before *end*."""
        seconds = step * HOUR
        return cls(int(begin // seconds) * step, -int(-end // seconds) * step, step)

    @property
    def steps(self) -> range:
        """Where each step begins."""
        return range(self.begin, self.end, self.step)


@frozen
class Statistics:
    """What was counted within a span.

    :ivar steps: of each step of the span, by its first hour.
    :ivar tags: of each tag that has a message in it.
    """

    all: Counts
    steps: dict[int, Counts]
    tags: dict[str, Counts]


@frozen
class Tag:
    """A tag and its messages; *created* is when it was used first, None where it has no such time."""

    tag: str
    created: float | None
    counts: Counts


def statistics(connection: sa.Connection, account: int, span: Span, tag: str = "") -> Statistics:
    """The messages of *span*.

    :param tag: theirs; ``""`` is any.
    """
    step = (tallies.c.hour // span.step) * span.step
    query = sa.select(step, tallies.c.tag, tallies.c.status, _sum()).where(*_mine(account, span, tag))
    rows = connection.execute(query.group_by(step, tallies.c.tag, tallies.c.status)).all()
    found = Statistics(_counts(()), {each: _counts(()) for each in span.steps}, {})
    for begin, name, status, number in rows:
        for counts in (found.all, found.steps[begin], found.tags.setdefault(name, _counts(()))):
            counts[status] += number
    return found


def used(connection: sa.Connection, account: int, span: Span | None = None) -> list[Tag]:
    """Every tag that the account has used, by name, with the messages of *span*; None: of all time."""
    query = sa.select(tallies.c.tag, tallies.c.status, _sum()).where(*_mine(account, span))
    counted: dict[str, list[tuple[str, int]]] = {}
    for name, status, number in connection.execute(query.group_by(tallies.c.tag, tallies.c.status)):
        counted.setdefault(name, []).append((status, number))
    known = connection.execute(sa.select(tags.c.tag, tags.c.created).where(tags.c.account == account))
    created: dict[str, float | None] = {row.tag: row.created for row in known}
    # Blank tags, and tags of messages that were refused, have no row of their own.
    created = {**dict.fromkeys(counted), **created}
    return [Tag(name, created[name], _counts(counted.get(name, ()))) for name in sorted(created)]


def _mine(account: int, span: Span | None, tag: str = "") -> list[sa.ColumnElement[bool]]:
    conditions = [tallies.c.account == account]
    if span is not None:
        conditions += [tallies.c.hour >= span.begin, tallies.c.hour < span.end]
    return [*conditions, tallies.c.tag == tag] if tag else conditions


def _sum() -> sa.ColumnElement[int]:
    # PostgreSQL's sum of integers is a numeric, which JSON does not have.
    return sa.cast(sa.func.sum(tallies.c.messages), sa.Integer)


def _counts(rows: Iterable[tuple[str, int]]) -> Counts:
    return {**dict.fromkeys(STATUSES, 0), **dict(rows)}
