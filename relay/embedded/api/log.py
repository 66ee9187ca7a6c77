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
from relay.embedded.store import Content, Entry

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
        found = await self._platform.look(partial(_message, account=tenant.id, id=id))
        if found is None:
            raise Refused(404, "Not found", "This account has no such message")
        return Answer(found)


class Log(AccountEndpoint):
    """``GET /api/transactional/log``: the messages, newest first, as JSON or as CSV."""

    async def of(self, tenant: Tenant, request: Request) -> Answer:
        parameters(request, *_FILTERS, "limit", "format")
        as_csv, wanted = _as_csv(request), wanted_of(request)
        if wanted.status not in ("", *store.STATUSES):
            raise rules.wrong(f"status: must be one of {', '.join(store.STATUSES)}")
        limit = _limit(request, MOST_ROWS, MOST_ROWS) if as_csv else _limit(request, LISTED, MOST_LISTED)
        query = partial(rows, account=tenant.id, wanted=wanted, limit=limit, as_csv=as_csv)
        found = await self._platform.look(query)
        if found is None:
            raise rules.wrong("before: this account has no such message")
        text, before = found
        return Answer(text, "text/csv; charset=utf-8", headers=_rest(request, before)) if as_csv else Answer(text)


def wanted_of(request: Request) -> listing.Filter:
    """The filters in the query of a request.

    :raises Refused: 400, a time is none.
    """
    given: dict[str, Any] = {name: rules.storable(argument(request, name)) for name in _FILTERS}
    return listing.Filter(**{**given, **{name: moment(request, name) for name in ("since", "until")}})


# Both make the body where they read, beside the reactor: it may be long.


def _message(connection: sa.Connection, account: int, id: str) -> bytes | None:
    """A message with its timeline."""
    found = store.one(connection, account, id)
    if found is None:
        return None
    timeline = [{**attrs.asdict(each), "at": instant(each.at)} for each in store.timeline(connection, found[0])]
    return wire.dump({**whole(*found), "timeline": timeline})


def rows(
    connection: sa.Connection, account: int, wanted: listing.Filter, limit: int, as_csv: bool
) -> tuple[bytes, str] | None:
    """The messages that are wanted, and where the rest of them begins, ``""`` where there is none."""
    found = listing.listed(connection, account, wanted, limit)
    if found is None:
        return None
    listed = (row(each) for each in found.entries)
    if as_csv:
        return csv_table.written(COLUMNS, listed).encode("utf-8", "replace"), found.before
    return wire.dump({"messages": list(listed), "before": found.before or None}), found.before


def _as_csv(request: Request) -> bool:
    """Whether the client wants CSV: it says so in the query, or asks for nothing else."""
    given = argument(request, "format").lower()
    if given not in ("", "csv", "json"):
        raise rules.wrong("format: must be json or csv")
    return given == "csv" or (not given and header(request, "Accept").lower().startswith("text/csv"))


def _rest(request: Request, before: str) -> tuple[tuple[str, str], ...]:
    """The headers of a table: a file, with a link to the rest where there is one (RFC 8288)."""
    file = ("Content-Disposition", 'attachment; filename="log.csv"')
    if not before:
        return (file,)
    query = {name: argument(request, name) for name in (*_FILTERS, "limit") if argument(request, name)}
    rest = urlencode({**query, "format": "csv", "before": before})
    return file, ("Link", f'</api/transactional/log?{rest}>; rel="next"')


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
