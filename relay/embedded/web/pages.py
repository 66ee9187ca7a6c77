"""The pages: a list of the messages, and each as it would be shown, as source and as it was posted.

They need no JavaScript and have none.
"""

from __future__ import annotations

import json
from urllib.parse import urlencode

import attrs
from twisted.web.server import Request

from relay.embedded import listing, store
from relay.embedded.api.log import wanted_of
from relay.embedded.resource import Answer, argument
from relay.embedded.rules import Refused
from relay.embedded.web.frame import HEADERS, AccountPage, Viewer, html, tenant_of
from relay.embedded.web.preview import harmless

#: Rows of the list.
ROWS = 50

#: Most of a source that is shown, in characters: browsers grow slow in larger ones.
LONGEST_SHOWN = 1_000_000

_VIEWS = (("preview", "Preview"), ("source", "Source"), ("json", "JSON as posted"))


class Messages(AccountPage):
    """``/log``: the list, newest first, with every filter in the URL."""

    async def of(self, viewer: Viewer, request: Request) -> Answer:
        tenant, wanted = tenant_of(viewer), wanted_of(request)
        found = await self.frontend.platform.read(
            lambda connection: listing.listed(connection, tenant.id, wanted, ROWS)
        )
        if found is None:
            raise Refused(404, "Not found", "The message that this page starts from is not there")
        given = {name: text for name in attrs.asdict(wanted) if (text := argument(request, name))}
        filters = {name: value for name, value in given.items() if name != "before"}
        hint = self.frontend.hint()
        return html(
            "list.html",
            viewer,
            entries=found.entries,
            wanted=wanted,
            filtered=bool(given),
            kept=[(name, filters[name]) for name in ("to", "route", "request_id") if name in filters],
            chips=[(name, value, _url(filters, **{name: ""})) for name, value in filters.items()],
            statuses=store.STATUSES,
            refresh=_url(given),
            newest=_url(filters),
            older=_url(filters, before=found.before) if found.before else "",
            hint=hint,
            key_file=hint.key_file,
            swaks=hint.swaks(),
        )


class Message(AccountPage):
    """``/message/ID``, and below it ``preview``, the HTML itself, and ``posted.json``."""

    async def of(self, viewer: Viewer, request: Request) -> Answer:
        tenant = tenant_of(viewer)
        id, *rest = [part.decode("ascii", "replace") for part in request.postpath or ()] or [""]
        shown = {(): _shown, ("preview",): _preview, ("posted.json",): _posted}.get(tuple(rest))
        found = await self.frontend.platform.read(lambda connection: store.one(connection, tenant.id, id))
        if shown is None or found is None:
            raise Refused(404, "Not found", "There is no such message")
        entry, content = found
        if content is None:
            raise Refused(410, "No longer kept", "The content of this message is no longer kept")
        return shown(viewer, request, entry, content)


def _shown(viewer: Viewer, request: Request, entry: store.Entry, content: store.Content) -> Answer:
    view = argument(request, "view")
    view = view if view in dict(_VIEWS) else "preview"
    text = {"source": _body, "json": _pretty}.get(view, _nothing)(content)
    return html(
        "message.html",
        viewer,
        entry=entry,
        facts=_facts(entry),
        attachments=content.attachments,
        views=_VIEWS,
        view=view,
        text=text[:LONGEST_SHOWN],
        cut=LONGEST_SHOWN if len(text) > LONGEST_SHOWN else 0,
    )


def _preview(viewer: Viewer, request: Request, entry: store.Entry, content: store.Content) -> Answer:
    return harmless(_body(content))


def _posted(viewer: Viewer, request: Request, entry: store.Entry, content: store.Content) -> Answer:
    download = ("Content-Disposition", f'attachment; filename="{entry.id}.json"')
    return Answer(content.posted, headers=(*HEADERS, download))


def _facts(entry: store.Entry) -> list[tuple[str, str, bool]]:
    """(label, value, whether it is set in a fixed width) of what the message has."""
    fields = entry.fields
    facts = [
        ("From", _mailbox(fields.fromname, fields.fromemail), False),
        ("To", _mailbox(fields.toname, fields.recipient), False),
        ("Reply-To", fields.replyto, False),
        ("Return path", fields.returnpath or "<>", False),
        ("Tag", fields.tag, False),
        ("Route", fields.route, False),
        ("Template", fields.template, False),
        ("Queued as", fields.request_id, True),
        ("Id", entry.id, True),
    ]
    return [fact for fact in facts if fact[1]]


def _mailbox(name: str, address: str) -> str:
    return f"{name} <{address}>" if name else address


def _body(content: store.Content) -> str:
    """The body that would be sent."""
    if content.rendered is not None:
        return content.rendered
    body = json.loads(content.posted).get("body")
    return body if isinstance(body, str) else ""


def _pretty(content: store.Content) -> str:
    """The JSON as posted, set out; no more of it than is shown, for depth makes its lines long."""
    pieces: list[str] = []
    length = 0
    try:
        for piece in json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(json.loads(content.posted)):
            pieces.append(piece)
            length += len(piece)
            if length > LONGEST_SHOWN:
                break
    except RecursionError:
        return content.posted.decode("utf-8", "replace")
    return "".join(pieces)


def _nothing(content: store.Content) -> str:
    return ""


def _url(given: dict[str, str], **changed: str) -> str:
    """The list's URL with the filters *given*, some of them *changed*; ``""`` leaves one out."""
    query = urlencode({name: value for name, value in {**given, **changed}.items() if value})
    return f"/log?{query}" if query else "/log"
