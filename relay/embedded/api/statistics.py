"""``/api/transactional/stats``, ``tags`` and ``tag/{tag}``: what was counted (:mod:`relay.embedded.statistics`)."""

from __future__ import annotations

from typing import Any

from twisted.web.server import Request

from relay import wire
from relay.embedded import rules, statistics
from relay.embedded.accounts import Tenant
from relay.embedded.api.core import AccountEndpoint, instant, moment, parameters
from relay.embedded.api.tree import segment
from relay.embedded.resource import Answer, argument
from relay.embedded.rules import Refused, wrong
from relay.embedded.statistics import HOUR, Counts, Span, Statistics

#: The intervals: hours of a step, most steps of an answer, and how many when the client does not say from when.
INTERVALS = {"hour": (1, 744, 24), "day": (24, 366, 30)}


class Stats(AccountEndpoint):
    """``…/stats``: messages over time, by status and tag."""

    async def of(self, tenant: Tenant, request: Request) -> Answer:
        parameters(request, "from", "to", "interval", "tag")
        tag, span = rules.storable(argument(request, "tag")).lower(), _span(request, self._platform.now())
        found = await self._platform.look(lambda connection: statistics.statistics(connection, tenant.id, span, tag))
        return Answer(wire.dump(_counted(request, span, found)))


class OneTag(AccountEndpoint):
    """``…/tag/{tag}``: the messages of a tag over time, by status."""

    async def of(self, tenant: Tenant, request: Request) -> Answer:
        parameters(request, "from", "to", "interval")
        tag, span = segment(request, 3).lower(), _span(request, self._platform.now())
        used = await self._platform.look(lambda connection: statistics.used(connection, tenant.id))
        about = next((each for each in used if each.tag == tag), None)
        if about is None:
            raise Refused(404, "Not found", "This account has used no such tag")
        found = await self._platform.look(lambda connection: statistics.statistics(connection, tenant.id, span, tag))
        counted = _counted(request, span, found)
        del counted["tags"]
        return Answer(wire.dump({**_about(about), **counted}))


class Tags(AccountEndpoint):
    """``…/tags``: every tag that was used, with its messages by status."""

    async def of(self, tenant: Tenant, request: Request) -> Answer:
        parameters(request, "from", "to")
        begin, end = moment(request, "from"), moment(request, "to")
        span = None
        if begin is not None or end is not None:
            now = self._platform.now()
            span = _bounded(begin or 0.0, now + 1 if end is None else end, 1, now)
        found = await self._platform.look(lambda connection: statistics.used(connection, tenant.id, span))
        return Answer(wire.dump({"tags": [_about(each) for each in found]}))


def _span(request: Request, now: float) -> Span:
    """What a request asks for, in whole hours or days (UTC).

    :raises Refused: 400, it asks for nothing, or too much.
    """
    interval = argument(request, "interval") or "hour"
    if interval not in INTERVALS:
        raise wrong(f"interval: must be one of {', '.join(INTERVALS)}")
    step, most, some = INTERVALS[interval]
    end = moment(request, "to")
    # The second that is now, too.
    end = now + 1 if end is None else end
    begin = moment(request, "from")
    span = _bounded(end - (some - 1) * step * HOUR - 1 if begin is None else begin, end, step, now)
    if len(span.steps) > most:
        raise wrong(f"from: is more than {most} {interval}s before to")
    return span


def _bounded(begin: float, end: float, step: int, now: float) -> Span:
    """The span from *begin* to *end*, or to the step that is now."""
    span = Span.around(max(begin, 0.0), min(end, now + 1), step)
    if not span.steps:
        raise wrong("from: must be before to, and not in the future")
    return span


def _counted(request: Request, span: Span, found: Statistics) -> dict[str, Any]:
    return {
        "from": instant(span.begin * HOUR),
        "to": instant(span.end * HOUR),
        "interval": argument(request, "interval") or "hour",
        **_sums(found.all),
        "steps": [{"at": instant(at * HOUR), **_sums(counts)} for at, counts in found.steps.items()],
        "tags": [{"tag": tag, **_sums(counts)} for tag, counts in sorted(found.tags.items())],
    }


def _about(tag: statistics.Tag) -> dict[str, Any]:
    return {"tag": tag.tag, "created": None if tag.created is None else instant(tag.created), **_sums(tag.counts)}


def _sums(counts: Counts) -> dict[str, Any]:
    return {"messages": sum(counts.values()), "statuses": counts}
