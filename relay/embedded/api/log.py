"""``GET /api/transactional/log``: the messages of an account."""

from __future__ import annotations

import json
from functools import partial
from typing import Any
from urllib.parse import urlencode

import attrs
import sqlalchemy as sa
from twisted.web.server import Request

from relay import wire
from relay.embedded import listing, rules, store
from relay.embedded.accounts import Tenant
from relay.embedded.api import csv_table
from relay.embedded.api.core import AccountEndpoint, header, instant, moment, parameters
from relay.embedded.api.tree import segment
from relay.embedded.resource import Answer, argument
from relay.embedded.rules import Refused
from relay.embedded.store import Content, Entry, Event

#: Most messages in one answer of the log, and how many when the client names no number.
MOST_LISTED = 500
LISTED = 50

#: Most rows of a table.
MOST_ROWS = 10_000

#: The columns of the table, as the fields are called in JSON.
COLUMNS = (
    *("id", "created", "status", "to", "toname", "fromname", "fromemail", "subject", "tag", "route", "template"),
    *("answer", "attempts", "updated", "replyto", "returnpath", "size", "attachments", "request_id", "resent"),
)

_FILTERS = tuple(each.name for each in attrs.fields(listing.Filter))


class LogEntry(AccountEndpoint):
    """``GET /api/transactional/log/{id}``: a message with its content and its timeline."""

    async def of(self, tenant: Tenant, request: Request) -> Answer:
        id = rules.storable(segment(request, 3))
        found = await self._platform.read(partial(_entry, account=tenant.id, id=id))
        if found is None:
            raise Refused(404, "Not found", "This account has no such message")
        entry, content, events = found
        timeline = [{**attrs.asdict(each), "at": instant(each.at)} for each in events]
        return Answer(wire.dump({**whole(entry, content), "timeline": timeline}))


class Log(AccountEndpoint):
    """``GET /api/transactional/log``: the messages, newest first, as JSON or as CSV."""

    async def of(self, tenant: Tenant, request: Request) -> Answer:
        parameters(request, *_FILTERS, "limit", "format")
        as_csv, wanted = _as_csv(request), wanted_of(request)
        if wanted.status not in ("", *store.STATUSES):
            raise rules.wrong(f"status: must be one of {', '.join(store.STATUSES)}")
        limit = _limit(request, MOST_ROWS, MOST_ROWS) if as_csv else _limit(request, LISTED, MOST_LISTED)
        found = await self._platform.read(lambda connection: listing.listed(connection, tenant.id, wanted, limit))
        if found is None:
            raise rules.wrong("before: this account has no such message")
        if as_csv:
            return _csv(request, found)
        return Answer(wire.dump({"messages": [row(each) for each in found.entries], "before": found.before or None}))


def wanted_of(request: Request) -> listing.Filter:
    """The filters in the query of a request.

    :raises Refused: 400, a time is none.
    """
    given: dict[str, Any] = {name: rules.storable(argument(request, name)) for name in _FILTERS}
    return listing.Filter(**{**given, **{name: moment(request, name) for name in ("since", "until")}})


def _entry(connection: sa.Connection, account: int, id: str) -> tuple[Entry, Content | None, list[Event]] | None:
    found = store.one(connection, account, id)
    return None if found is None else (*found, store.timeline(connection, found[0]))


def _as_csv(request: Request) -> bool:
    """Whether the client wants CSV: it says so in the query, or asks for nothing else."""
    given = argument(request, "format").lower()
    if given not in ("", "csv", "json"):
        raise rules.wrong("format: must be json or csv")
    return given == "csv" or (not given and header(request, "Accept").lower().startswith("text/csv"))


def _csv(request: Request, found: listing.Listing) -> Answer:
    """The messages as a table, with a link to the rest where there is one (RFC 8288)."""
    headers = [("Content-Disposition", 'attachment; filename="log.csv"')]
    if found.before:
        query = {name: argument(request, name) for name in (*_FILTERS, "limit") if argument(request, name)}
        rest = urlencode({**query, "format": "csv", "before": found.before})
        headers.append(("Link", f'</api/transactional/log?{rest}>; rel="next"'))
    text = csv_table.written(COLUMNS, (row(each) for each in found.entries))
    return Answer(text.encode("utf-8", "replace"), "text/csv; charset=utf-8", headers=tuple(headers))


def _limit(request: Request, usual: int, most: int) -> int:
    given = argument(request, "limit")
    if not given:
        return usual
    if not (given.isascii() and given.isdecimal() and len(given) < 6 and 1 <= int(given) <= most):
        raise rules.wrong(f"limit: must be a number from 1 to {most}")
    return int(given)


def row(entry: Entry) -> dict[str, Any]:
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


def whole(entry: Entry, content: Content | None) -> dict[str, Any]:
    """A message as JSON: its line of the log, what was posted, and the body that would be sent.

    Where the content is no longer kept, all that comes of it is null.
    """
    if content is None:
        return {**row(entry), "attachments": None, "body": None, "posted": None}
    posted = json.loads(content.posted, parse_constant=str)
    files = [{"filename": name, "content_type": kind, "size": size} for name, kind, size in content.attachments]
    body = posted.get("body") or "" if content.rendered is None else content.rendered
    return {**row(entry), "attachments": files, "body": body, "posted": posted}
