"""The dashboard of an account, and the administrator's over all accounts."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from attrs import frozen
from twisted.web.server import Request

from relay.embedded import tallies
from relay.embedded.api.core import instant
from relay.embedded.resource import Answer, argument
from relay.embedded.rules import Refused
from relay.embedded.schema import deliveries
from relay.embedded.tallies import PERIODS, Counts, Period
from relay.embedded.web.chart import HEIGHT, STACK, WIDTH, chart
from relay.embedded.web.frame import AccountPage, AdminPage, Viewer, html, tenant_of
from relay.embedded.web.log import url

#: What the periods are called.
NAMES = {"24h": "24 hours", "7d": "7 days", "30d": "30 days"}

#: Most rows of the tables; the API has the rest.
MOST_ROWS = 100

#: Up to how many waiting messages are counted.
MOST_COUNTED = 10_000


@frozen
class _Line:
    """A row of the table.

    :ivar href: where its messages are, ``""``: one has to look at the account first.
    :ivar account: to look at, 0 for none.
    """

    name: str
    href: str
    account: int
    failures: str
    counts: Counts


@frozen
class Waiting:
    """The queue.

    :ivar number: of messages, at most one more than :data:`MOST_COUNTED`.
    :ivar since: of the one that waits longest; None when nothing waits.
    """

    number: int
    since: float | None


class Dashboard(AccountPage):
    """``/``: what the account sent, over time and by tag."""

    async def of(self, viewer: Viewer, request: Request) -> Answer:
        if request.postpath and request.postpath != [b""]:
            raise Refused(404, "Not found", "There is no such page")
        account, period, now = tenant_of(viewer).id, _period(request), self.frontend.platform.now()
        steps, tags = await self.frontend.platform.look(
            lambda connection: tallies.by_time_and_tag(connection, account, period, now)
        )
        since = instant(steps[0][0])
        lines = [_line(tag, {"tag": tag, "since": since}, counts) for tag, counts in tags]
        return _shown(viewer, period, steps, lines, "/", since=since)


class Overview(AdminPage):
    """``/admin/overview``: all accounts, and the queue."""

    async def of(self, viewer: Viewer, request: Request) -> Answer:
        if request.postpath:
            raise Refused(404, "Not found", "There is no such page")
        period, now = _period(request), self.frontend.platform.now()
        steps, accounts, waits = await self.frontend.platform.look(
            lambda connection: (
                tallies.over_time(connection, None, period, now),
                tallies.by_account(connection, period, now),
                waiting(connection),
            )
        )
        lines = [_Line(name, "", id, _percent(counts.failure_rate), counts) for id, name, counts in accounts]
        path = "/admin/overview"
        return _shown(viewer, period, steps, lines, path, since="", waits=waits)


def waiting(connection: sa.Connection) -> Waiting:
    """How many messages wait for their route."""
    some = sa.select(deliveries.c.message).limit(MOST_COUNTED + 1).subquery()
    number = connection.execute(sa.select(sa.func.count()).select_from(some)).scalar_one()
    since = connection.execute(sa.select(sa.func.min(deliveries.c.since))).scalar() if number else None
    return Waiting(number, since)


def _shown(
    viewer: Viewer,
    period: Period,
    steps: Sequence[tuple[float, Counts]],
    lines: Sequence[_Line],
    path: str,
    *,
    since: str,
    waits: Waiting | None = None,
) -> Answer:
    total = Counts.of([(status, getattr(counts, status)) for _, counts in steps for status in STACK])
    return html(
        "dashboard.html",
        viewer,
        period=period,
        periods=[(each, NAMES[each.name], url({"period": each.name}, path)) for each in PERIODS],
        total=total,
        chart=chart(period, steps),
        size=(WIDTH, HEIGHT),
        stack=[status for status in STACK if getattr(total, status)],
        lines=lines[:MOST_ROWS],
        left_out=max(len(lines) - MOST_ROWS, 0),
        most_counted=MOST_COUNTED,
        since=since,
        waiting=waits,
    )


def _line(name: str, filters: dict[str, str], counts: Counts) -> _Line:
    return _Line(name, url(filters), 0, _percent(counts.failure_rate), counts)


def _percent(rate: float) -> str:
    """A part of 1 in percent; what is there is not called 0."""
    if 0 < rate < 0.001:
        return "< 0.1 %"
    return f"{rate * 100:.1f} %" if 0 < rate < 0.1 else f"{rate * 100:.0f} %"


def _period(request: Request) -> Period:
    asked = argument(request, "period")
    return next((period for period in PERIODS if period.name == asked), PERIODS[0])
