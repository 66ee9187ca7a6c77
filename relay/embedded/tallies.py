"""How many messages of each hour and tag have which status: what the dashboard counts."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import sqlalchemy as sa
from attrs import frozen

from relay.embedded.database import upsert
from relay.embedded.schema import accounts, tallies

#: Seconds that one row stands for.
HOUR = 3600


def hour(at: float) -> int:
    """The hour, since the epoch, that the time *at* lies in."""
    return int(at // HOUR)


def count(connection: sa.Connection, account: int, created: float, tag: str, status: str) -> None:
    """One message more has *status*."""
    row = {"account": account, "hour": hour(created), "tag": tag, "status": status, "messages": 1}
    connection.execute(_count(connection.dialect.name), row)


def move(connection: sa.Connection, account: int, created: float, tag: str, before: str, after: str) -> None:
    """A message has the status *after*, and no longer *before*."""
    if before == after:
        return
    row = {"of": account, "at": hour(created), "with": tag, "was": before}
    connection.execute(_UNCOUNT, row)
    count(connection, account, created, tag, after)


@frozen
class Period:
    """What the dashboard looks back over.

    :ivar hours: all of it.
    :ivar step: one bar of its chart, in hours.
    """

    name: str
    hours: int
    step: int


PERIODS = (Period("24h", 24, 1), Period("7d", 168, 6), Period("30d", 720, 24))


@frozen
class Counts:
    """Messages by status; what was not refused was accepted."""

    captured: int = 0
    queued: int = 0
    deferred: int = 0
    delivered: int = 0
    failed: int = 0
    refused: int = 0

    @classmethod
    def of(cls, rows: Iterable[tuple[str, int]]) -> Counts:
        """The sums of (status, messages)."""
        sums: dict[str, int] = {}
        for status, number in rows:
            sums[status] = sums.get(status, 0) + number
        return cls(**sums)

    @property
    def all(self) -> int:
        return self.accepted + self.refused

    @property
    def accepted(self) -> int:
        return self.captured + self.queued + self.deferred + self.delivered + self.failed

    @property
    def failure_rate(self) -> float:
        """The part of those that came which failed or were refused, from 0 to 1."""
        return (self.failed + self.refused) / self.all if self.all else 0.0


def over_time(connection: sa.Connection, account: int | None, period: Period, now: float) -> list[tuple[float, Counts]]:
    """(begin in seconds, counts) of each step of *period* up to *now*, oldest first.

    :param account: None is all of them.
    """
    begin = _begin(period, now)
    steps: list[list[tuple[str, int]]] = [[] for _ in range(period.hours // period.step)]
    for at, status, number in _sums(connection, account, begin, tallies.c.hour):
        place = (at - begin) // period.step
        if place < len(steps):
            steps[place].append((status, number))
    return [(float((begin + n * period.step) * HOUR), Counts.of(rows)) for n, rows in enumerate(steps)]


def by_tag(connection: sa.Connection, account: int | None, period: Period, now: float) -> list[tuple[str, Counts]]:
    """The counts of each tag within *period*, the one with most messages first."""
    return _by(_sums(connection, account, _begin(period, now), tallies.c.tag))


def by_time_and_tag(
    connection: sa.Connection, account: int, period: Period, now: float
) -> tuple[list[tuple[float, Counts]], list[tuple[str, Counts]]]:
    """What :func:`over_time` and :func:`by_tag` count, in one walk through the rows."""
    begin = _begin(period, now)
    step = (tallies.c.hour - begin) // period.step
    query = sa.select(step, tallies.c.tag, tallies.c.status, sa.cast(sa.func.sum(tallies.c.messages), sa.Integer))
    query = query.where(tallies.c.account == account, tallies.c.hour >= begin)
    found = connection.execute(query.group_by(step, tallies.c.tag, tallies.c.status)).all()
    steps: list[list[tuple[str, int]]] = [[] for _ in range(period.hours // period.step)]
    for place, _, status, number in found:
        if place < len(steps):
            steps[place].append((status, number))
    times = [(float((begin + n * period.step) * HOUR), Counts.of(rows)) for n, rows in enumerate(steps)]
    return times, _by([(tag, status, number) for _, tag, status, number in found])


def by_account(connection: sa.Connection, period: Period, now: float) -> list[tuple[int, str, Counts]]:
    """The counts of each account (id, name) that had messages within *period*, the one with most first."""
    counted = _by(_sums(connection, None, _begin(period, now), tallies.c.account))
    names = dict(connection.execute(sa.select(accounts.c.id, accounts.c.name)).tuples().all())
    return [(id, names[id], counts) for id, counts in counted]


def _begin(period: Period, now: float) -> int:
    """The first hour of *period*; steps of several hours begin at midnight, UTC."""
    end = hour(now) + 1
    return end + -end % period.step - period.hours


def _sums(connection: sa.Connection, account: int | None, begin: int, column: sa.Column[Any]) -> list[Any]:
    """(value of *column*, status, messages) since the hour *begin*."""
    query = sa.select(column, tallies.c.status, sa.cast(sa.func.sum(tallies.c.messages), sa.Integer))
    mine = [] if account is None else [tallies.c.account == account]
    query = query.where(tallies.c.hour >= begin, *mine).group_by(column, tallies.c.status)
    return list(connection.execute(query))


def _by(rows: list[Any]) -> list[tuple[Any, Counts]]:
    found: dict[Any, list[tuple[str, int]]] = {}
    for value, status, number in rows:
        found.setdefault(value, []).append((status, number))
    counted = [(value, Counts.of(each)) for value, each in found.items()]
    return sorted(
        ((value, counts) for value, counts in counted if counts.all), key=lambda each: (-each[1].all, each[0])
    )


# Made once: they run with every message.


@cache
def _count(dialect: str) -> sa.Executable:
    insert = upsert(tallies, dialect)
    more = tallies.c.messages + insert.excluded.messages
    return insert.on_conflict_do_update(index_elements=list(tallies.primary_key), set_={"messages": more})


_UNCOUNT = (
    sa.update(tallies)
    .where(
        tallies.c.account == sa.bindparam("of"),
        tallies.c.hour == sa.bindparam("at"),
        tallies.c.tag == sa.bindparam("with"),
        tallies.c.status == sa.bindparam("was"),
        tallies.c.messages > 0,
    )
    .values(messages=tallies.c.messages - 1)
)
