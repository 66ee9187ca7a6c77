"""The log: newest first, with every filter in the URL; it goes on by itself where there is JavaScript."""

from __future__ import annotations

from datetime import datetime, timezone
from functools import partial
from urllib.parse import urlencode

from twisted.web.server import Request

from relay.embedded import listing, store
from relay.embedded.api.log import rows, wanted_of
from relay.embedded.database import Query, T
from relay.embedded.resource import Answer, argument
from relay.embedded.rules import Refused
from relay.embedded.web.frame import HEADERS, AccountPage, Viewer, html, redirect, tenant_of

#: Rows of the page, and of the CSV file.
ROWS = 50
MOST_EXPORTED = 10_000

#: The filters, as the chips call them.
_NAMES = {
    "search": "search",
    "to": "recipient",
    "sender": "sender",
    "subject": "subject",
    "id": "id",
    "request_id": "queued as",
    "tag": "tag",
    "route": "route",
    "status": "status",
    "since": "from",
    "until": "until",
}


class Log(AccountPage):
    """``/log``, and ``/log/export.csv``: the same messages as a file."""

    async def of(self, viewer: Viewer, request: Request) -> Answer:
        below = tuple(request.postpath or ())
        if below not in ((), (b"export.csv",)):
            raise Refused(404, "Not found", "There is no such page")
        given = {name: argument(request, name) for name in (*_NAMES, "before")}
        filled = {name: text for name, text in given.items() if text}
        if not below and any(name.encode() in request.args for name in given if name not in filled):
            # What a form sends of the fields that are empty makes no nice address.
            return redirect(url(filled))
        wanted = wanted_of(request)
        account = tenant_of(viewer).id
        if below:
            export = partial(rows, account=account, wanted=wanted, limit=MOST_EXPORTED, as_csv=True)
            return _csv((await self._found(export))[0])
        found = await self._found(lambda connection: listing.listed(connection, account, wanted, ROWS))
        return self._shown(viewer, wanted, filled, found)

    async def _found(self, query: Query[T | None]) -> T:
        """What *query* finds.

        :raises Refused: 404.
        """
        found = await self.frontend.platform.look(query)
        if found is None:
            raise Refused(404, "Not found", "The message that this page starts from is not there")
        return found

    def _shown(self, viewer: Viewer, wanted: listing.Filter, given: dict[str, str], found: listing.Listing) -> Answer:
        filters = {name: value for name, value in given.items() if name != "before"}
        hint = self.frontend.hint()
        newest = found.entries[0].id if found.entries else ""
        live = {**filters, "after": newest}
        return html(
            "log.html",
            viewer,
            entries=found.entries,
            wanted=wanted,
            first=not found.entries and not given,
            more=[name for name in filters if name not in ("search", "tag", "status")],
            times={name: _field(getattr(wanted, name)) for name in ("since", "until")},
            chips=[(_NAMES[name], value, url({**filters, name: ""})) for name, value in filters.items()],
            statuses=store.STATUSES,
            routes=tenant_of(viewer).routes,
            refresh=url(given),
            newest=url(filters),
            older=url({**filters, "before": found.before}) if found.before else "",
            looked=found.looked,
            export=url(given, "/log/export.csv"),
            live="" if wanted.before else url(live, "/events"),
            hint=hint,
            key_file=hint.key_file,
            swaks=hint.swaks(),
            kept=kept(self.frontend.policy.keep_log),
            content_kept=kept(self.frontend.policy.keep_content),
        )


def url(given: dict[str, str], path: str = "/log") -> str:
    """The address of *path* with the filters *given*; ``""`` leaves one out."""
    query = urlencode({name: value for name, value in given.items() if value})
    return f"{path}?{query}" if query else path


def kept(seconds: float) -> str:
    """How long something is kept, in words; ``""`` is for ever."""
    for size, name in ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= size:
            number = round(seconds / size)
            return f"{number} {name}" if number == 1 else f"{number} {name}s"
    return ""


def _field(seconds: float | None) -> str:
    """A time as the field of a form has it, in UTC."""
    return "" if seconds is None else datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M")


def _csv(table: bytes) -> Answer:
    """The messages as a file for spreadsheets, as the API has it."""
    download = ("Content-Disposition", 'attachment; filename="log.csv"')
    return Answer(table, "text/csv; charset=utf-8", headers=(*HEADERS, download))
