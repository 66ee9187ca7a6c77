"""A message: as a mail program would show it, as source, as it was posted, and what became of it.

Nothing here needs JavaScript.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

import attrs
import sqlalchemy as sa
from attrs import frozen
from twisted.web.server import Request

from relay.embedded import deliveries, store, transactions
from relay.embedded.refusals import UNSEEN
from relay.embedded.resource import Answer, argument
from relay.embedded.routes.building import Outgoing, build
from relay.embedded.rules import Refused
from relay.embedded.schema import deliveries as waiting
from relay.embedded.store import Content, Entry, Event, Status
from relay.embedded.transactions import Transaction
from relay.embedded.web.frame import HEADERS, AccountPage, Form, FormPage, Viewer, html, tenant_of
from relay.embedded.web.log import kept
from relay.embedded.web.preview import harmless
from relay.errors import PermanentFailure
from relay.values import Attachment

#: Most of a source that is shown, in characters: browsers grow slow in larger ones.
LONGEST_SHOWN = 1_000_000

_VIEWS = (("preview", "Preview"), ("source", "Source"), ("json", "JSON as posted"), ("variables", "Variables"))


@frozen
class _Found:
    """All that there is of a message."""

    entry: Entry
    content: Content | None
    timeline: list[Event]
    transaction: Transaction | None
    next_attempt: float | None = None
    files: tuple[Attachment, ...] = ()
    content_kept: str = ""


class Message(FormPage, AccountPage):
    """``/message/ID``, and below it ``preview``, the HTML itself, ``posted.json``, ``message.eml`` and ``resend``."""

    async def of(self, viewer: Viewer, request: Request) -> Answer:
        id, *rest = [part.decode("ascii", "replace") for part in request.postpath or ()] or [""]
        show = _BELOW.get("/".join(rest))
        account = tenant_of(viewer).id
        with_files = show is _raw
        found = await self.frontend.platform.look(lambda connection: _find(connection, account, id, with_files))
        if show is None or found is None:
            raise Refused(404, "Not found", "There is no such message")
        return show(viewer, request, attrs.evolve(found, content_kept=kept(self.frontend.policy.keep_content)))

    async def submitted(self, viewer: Viewer, request: Request, form: Form) -> Answer:
        """A POST to ``resend`` sends it again, as a message of its own."""
        platform, tenant = self.frontend.platform, tenant_of(viewer)
        id, *rest = [part.decode("ascii", "replace") for part in request.postpath or ()] or [""]
        if rest != ["resend"]:
            raise Refused(405, "Method not allowed", "Use GET or HEAD here", [("Allow", "GET, HEAD")])
        again = partial(deliveries.resend, tenant=tenant, id=id, new_id=platform.new_id(), now=platform.now())
        new, route = await platform.write(again)
        platform.carriers.wake(route)
        return self.see_other(request, f"/message/{new}", "Sent again: this is the new message.")


def _find(connection: sa.Connection, account: int, id: str, with_files: bool) -> _Found | None:
    found = store.one(connection, account, id)
    if found is None:
        return None
    entry, content = found
    if content is not None and content.posted == UNSEEN:
        content = None
    told = transactions.one(connection, account, entry.fields.request_id)
    files = store.files(connection, entry.seq) if with_files else ()
    ready = connection.execute(sa.select(waiting.c.ready).where(waiting.c.message == entry.seq)).scalar()
    return _Found(entry, content, store.timeline(connection, entry), told, ready, files)


def _shown(viewer: Viewer, request: Request, found: _Found) -> Answer:
    entry, content = found.entry, found.content
    variables = "" if content is None else _variables(content)
    views = [each for each in _VIEWS if each[0] != "variables" or variables]
    asked = argument(request, "view")
    view = asked if content is not None and asked in dict(views) else "preview"
    text = ""
    if content is not None and view != "preview":
        text = {"source": _body, "json": _pretty, "variables": _variables}[view](content)
    return html(
        "message.html",
        viewer,
        entry=entry,
        facts=_facts(entry),
        content=content,
        content_kept=found.content_kept,
        timeline=found.timeline,
        told=found.transaction,
        removed=[] if found.transaction is None else _removed(found.transaction),
        resend=content is not None and entry.status != Status.REFUSED,
        next_attempt=found.next_attempt,
        views=views,
        view=view,
        text=text[:LONGEST_SHOWN],
        cut=LONGEST_SHOWN if len(text) > LONGEST_SHOWN else 0,
    )


def _preview(viewer: Viewer, request: Request, found: _Found) -> Answer:
    return harmless(_body(_kept(found)))


def _posted(viewer: Viewer, request: Request, found: _Found) -> Answer:
    download = ("Content-Disposition", f'attachment; filename="{found.entry.id}.json"')
    return Answer(_kept(found).posted, headers=(*HEADERS, download))


def _raw(viewer: Viewer, request: Request, found: _Found) -> Answer:
    """The message as its route sends it."""
    entry = found.entry
    try:
        built = build(Outgoing(entry.id, entry.created, entry.fields, _body(_kept(found)), found.files))
    except PermanentFailure as failure:
        raise Refused(409, "Not a message", f"This message cannot be sent: {failure.text}") from None
    download = ("Content-Disposition", f'attachment; filename="{entry.id}.eml"')
    return Answer(built.content, "message/rfc822", headers=(*HEADERS, download))


_BELOW: dict[str, Callable[[Viewer, Request, _Found], Answer]] = {
    "": _shown,
    "preview": _preview,
    "posted.json": _posted,
    "message.eml": _raw,
}


def _kept(found: _Found) -> Content:
    """The content.

    :raises Refused: 410, it is gone.
    """
    if found.content is None:
        raise Refused(410, "No longer kept", "The content of this message is no longer kept")
    return found.content


def _removed(told: Transaction) -> list[str]:
    """What was left out of the message, in words."""
    counts = (
        (told.images, "image", "images", "removed"),
        (told.attachments, "attachment", "attachments", "removed"),
        (told.cids, "reference", "references", "to embedded images (cid:) left, which nothing shows"),
    )
    return [f"{number} {one if number == 1 else many} {what}" for number, one, many, what in counts if number]


def _facts(entry: Entry) -> list[tuple[str, str, bool]]:
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


def _body(content: Content) -> str:
    """The body that would be sent."""
    if content.rendered is not None:
        return content.rendered
    body = json.loads(content.posted).get("body")
    return body if isinstance(body, str) else ""


def _variables(content: Content) -> str:
    """The variables, set out; ``""`` without any."""
    variables = json.loads(content.posted).get("variables")
    return _set_out(variables) if variables else ""


def _pretty(content: Content) -> str:
    """The JSON as posted, set out."""
    return _set_out(json.loads(content.posted)) or content.posted.decode("utf-8", "replace")


def _set_out(value: object) -> str:
    """JSON over several lines; no more of it than is shown, for depth makes its lines long; ``""``: too deep."""
    pieces: list[str] = []
    length = 0
    try:
        for piece in json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(value):
            pieces.append(piece)
            length += len(piece)
            if length > LONGEST_SHOWN:
                break
    except RecursionError:
        return ""
    return "".join(pieces)
