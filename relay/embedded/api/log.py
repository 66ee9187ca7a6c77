"""``GET /api/transactional/log``: the messages of an account."""

from __future__ import annotations

import json
from typing import Any

import attrs
from twisted.web.server import Request

from relay import wire
from relay.embedded import rules, store
from relay.embedded.accounts import Tenant
from relay.embedded.api.core import AccountEndpoint, header, instant
from relay.embedded.resource import Answer, argument
from relay.embedded.rules import Refused

#: Most messages in one answer of the log, and how many when the client names no number.
MOST_LISTED = 500
LISTED = 50

_FILTERS = ("to", "tag", "status", "route", "request_id", "search", "before")


class Log(AccountEndpoint):
    """``GET /api/transactional/log``: the messages, newest first; ``…/log/ID``: one with its content."""

    async def answer(self, request: Request) -> Answer:
        return await self.of(await self._platform.tenant(header(request, "X-Auth-APIKey")), request)

    async def of(self, tenant: Tenant, request: Request) -> Answer:
        if not request.postpath:
            return await self._list(tenant, request)
        if len(request.postpath) > 1:
            raise Refused(404, "Not found", "There is nothing at this path")
        id = request.postpath[0].decode("ascii", "replace")
        found = await self._platform.read(lambda connection: store.one(connection, tenant.id, id))
        if found is None:
            raise Refused(404, "Not found", "This account has no such message")
        return Answer(wire.dump(whole(*found)))

    async def _list(self, tenant: Tenant, request: Request) -> Answer:
        wanted, limit = wanted_of(request), _limit(request)
        unknown = [name for name in request.args if name.decode("latin-1") not in (*_FILTERS, "limit")]
        if unknown:
            raise rules.wrong(f"{unknown[0].decode('latin-1')[:100]}: no such filter; {', '.join(_FILTERS)}, limit are")
        found = await self._platform.read(lambda connection: store.listed(connection, tenant.id, wanted, limit + 1))
        if found is None:
            raise rules.wrong("before: this account has no such message")
        more = found[limit - 1].id if len(found) > limit else None
        return Answer(wire.dump({"messages": [row(each) for each in found[:limit]], "before": more}))


def wanted_of(request: Request) -> store.Filter:
    """The filters in the query of a request."""
    return store.Filter(**{name: rules.storable(argument(request, name)) for name in _FILTERS})


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
        **fields,
    }


def whole(entry: store.Entry, content: store.Content) -> dict[str, Any]:
    """A message as JSON: its line of the log, what was posted, and the body that would be sent."""
    posted = json.loads(content.posted, parse_constant=str)
    files = [{"filename": name, "content_type": kind, "size": size} for name, kind, size in content.attachments]
    body = posted.get("body") or "" if content.rendered is None else content.rendered
    return {**row(entry), "attachments": files, "body": body, "posted": posted}
