"""``GET /api/transactional/log``: the messages of an account."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import attrs
from twisted.web.server import Request

from relay import wire
from relay.embedded import listing, rules, store
from relay.embedded.accounts import Tenant
from relay.embedded.api.core import AccountEndpoint, instant
from relay.embedded.api.tree import segment
from relay.embedded.resource import Answer, argument
from relay.embedded.rules import Refused

#: Most messages in one answer of the log, and how many when the client names no number.
MOST_LISTED = 500
LISTED = 50

_FILTERS = tuple(each.name for each in attrs.fields(listing.Filter))


class LogEntry(AccountEndpoint):
    """``GET /api/transactional/log/{id}``: a message with its content."""

    async def of(self, tenant: Tenant, request: Request) -> Answer:
        id = segment(request, 3)
        found = await self._platform.read(lambda connection: store.one(connection, tenant.id, rules.storable(id)))
        if found is None:
            raise Refused(404, "Not found", "This account has no such message")
        return Answer(wire.dump(whole(*found)))


class Log(AccountEndpoint):
    """``GET /api/transactional/log``: the messages, newest first."""

    async def of(self, tenant: Tenant, request: Request) -> Answer:
        return await self._list(tenant, request)

    async def _list(self, tenant: Tenant, request: Request) -> Answer:
        wanted, limit = wanted_of(request), _limit(request)
        unknown = [name for name in request.args if name.decode("latin-1") not in (*_FILTERS, "limit")]
        if unknown:
            raise rules.wrong(f"{unknown[0].decode('latin-1')[:100]}: no such filter; {', '.join(_FILTERS)}, limit are")
        found = await self._platform.read(lambda connection: listing.listed(connection, tenant.id, wanted, limit))
        if found is None:
            raise rules.wrong("before: this account has no such message")
        return Answer(wire.dump({"messages": [row(each) for each in found.entries], "before": found.before or None}))


def wanted_of(request: Request) -> listing.Filter:
    """The filters in the query of a request.

    :raises Refused: 400, a time is none.
    """
    given: dict[str, Any] = {name: rules.storable(argument(request, name)) for name in _FILTERS}
    times = {name: _time(name, given[name]) for name in ("since", "until")}
    return listing.Filter(**{**given, **times})


def _time(name: str, given: str) -> float | None:
    """Seconds since the epoch of a day or a time as RFC 3339 has it; UTC where it names no zone."""
    if not given:
        return None
    # Python 3.10 does not know the Z.
    text = given[:-1] + "+00:00" if given[-1] in "zZ" else given
    try:
        time = datetime.fromisoformat(text)
        return (time if time.tzinfo else time.replace(tzinfo=timezone.utc)).timestamp()
    except (ValueError, OverflowError):
        raise rules.wrong(f"{name}: must be a time like 2026-11-23 or 2026-11-23T14:42:00Z") from None


def _limit(request: Request) -> int:
    given = argument(request, "limit")
    if not given:
        return LISTED
    if not (given.isascii() and given.isdecimal() and len(given) < 5 and 1 <= int(given) <= MOST_LISTED):
        raise rules.wrong(f"limit: must be a number from 1 to {MOST_LISTED}")
    return int(given)


def row(entry: store.Entry) -> dict[str, Any]:
    """A line of the log as JSON; the fields have the names of the contract."""
    fields = attrs.asdict(entry.fields)
    fields["to"] = fields.pop("recipient")
    return {
        "id": entry.id,
        "created": instant(entry.created),
        "status": entry.status,
        "size": entry.size,
        "attachments": entry.attachments,
        "updated": instant(entry.updated),
        "attempts": entry.attempts,
        "answer": entry.answer,
        "resent": entry.resent,
        **fields,
    }


def whole(entry: store.Entry, content: store.Content | None) -> dict[str, Any]:
    """A message as JSON: its line of the log, what was posted, and the body that would be sent.

    Where the content is no longer kept, all that comes of it is null.
    """
    if content is None:
        return {**row(entry), "attachments": None, "body": None, "posted": None}
    posted = json.loads(content.posted, parse_constant=str)
    files = [{"filename": name, "content_type": kind, "size": size} for name, kind, size in content.attachments]
    body = posted.get("body") or "" if content.rendered is None else content.rendered
    return {**row(entry), "attachments": files, "body": body, "posted": posted}
