"""The pages: a list of the messages, and each as it would be shown, as source and as it was posted.

They need no JavaScript and have none.  Who may look: a browser on this machine that says so in its Host header
(a page elsewhere that lets its name point to 127.0.0.1 does not), and who gives the API key as password (HTTP
Basic, any user name).
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import re
import shlex
from collections.abc import Callable
from datetime import datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import attrs
from attrs import frozen
from twisted.web.resource import Resource
from twisted.web.server import Request

from relay.embedded import accounts, listing, store
from relay.embedded.accounts import Tenant
from relay.embedded.api.core import Platform, header, instant
from relay.embedded.api.log import wanted_of
from relay.embedded.resource import Answer, Endpoint, argument
from relay.embedded.rules import Refused

if TYPE_CHECKING:
    from jinja2 import Environment

#: Rows of the list.
ROWS = 50

#: Most of a source that is shown, in characters: browsers grow slow in larger ones.
LONGEST_SHOWN = 1_000_000

_HTML = "text/html; charset=utf-8"
_VIEWS = (("preview", "Preview"), ("source", "Source"), ("json", "JSON as posted"))

#: For every page.  Nothing comes from elsewhere, nothing runs, nobody frames it.
_HEADERS = (
    (
        "Content-Security-Policy",
        "default-src 'none'; style-src 'self'; img-src 'self' data:; frame-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'",
    ),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("X-DNS-Prefetch-Control", "off"),
)

#: For a message's own HTML (THREATS.md, "Web"): no script, no origin, no request, wherever it is opened.
_PREVIEW_HEADERS = (
    (
        "Content-Security-Policy",
        "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'",
    ),
    *_HEADERS[1:],
)

#: No policy keeps Chromium from connecting ahead for ``<link rel=preconnect>`` and for frames; what else these
#: elements could do, the policy forbids already.
_CONNECTING = re.compile(r"<(?=(?:link|i?frame)[\s/>])", re.IGNORECASE)


@frozen
class Hint:
    """How a first message is sent, for the page that has none yet.

    :ivar tls: whether the SMTP side offers STARTTLS.
    """

    host: str = "127.0.0.1"
    port: int = 2525
    tls: bool = True

    def swaks(self, key_file: Path) -> str:
        """A command line that sends a message; it reads the key, so that no page holds it."""
        server = ["swaks", "--server", self.host, "--port", str(self.port), *(["--tls"] if self.tls else [])]
        lines = (
            shlex.join(server),
            "--auth PLAIN --auth-user api",
            f'--auth-password "$(cat {shlex.quote(str(key_file))})"',
            "--from you@example.com --to someone@example.org",
            "--header 'Subject: Hello' --header 'X-Transactional-Tag: first'",
            "--header 'Content-Type: text/html' --body '<h1>It works</h1>'",
        )
        return " \\\n  ".join(lines)


@frozen
class Frontend:
    """What the pages work with; *hint* is asked each time, because ports are known late."""

    platform: Platform
    key_file: Path
    hint: Callable[[], Hint]


def pages(frontend: Frontend) -> Resource:
    """The tree of the pages."""
    root = _Folder(frontend)
    root.putChild(b"", Messages(frontend))
    root.putChild(b"message", Message(frontend))
    root.putChild(b"style.css", Style())
    return root


def is_local(peer: str, host: str, forwarded: bool) -> bool:
    """Whether a request comes from a browser on this machine that knows it.

    :param peer: the client's address.
    :param host: the Host header; a name of ours only when it is ``localhost`` or a loopback address, so that no
        other name can be made to point here (DNS rebinding).
    :param forwarded: a proxy says that it stands between; then its own address says nothing.
    """
    if forwarded or not _is_loopback(peer):
        return False
    name = host.strip().lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    return name == "localhost" or name.endswith(".localhost") or _is_loopback(name)


def _is_loopback(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


class _Page(Endpoint):
    """A page for an account."""

    def __init__(self, frontend: Frontend) -> None:
        super().__init__()
        self._frontend = frontend

    async def answer(self, request: Request) -> Answer:
        return await self.of(await self._tenant(request), request)

    async def of(self, tenant: Tenant, request: Request) -> Answer:
        """The page that the account sees."""
        raise Refused(404, "Not found", "There is no such page")

    def refusal(self, request: Request, refused: Refused) -> Answer:
        return _html("error.html", refused.status, refused.headers, refused=refused, account="")

    async def _tenant(self, request: Request) -> Tenant:
        """Whose messages are shown.

        :raises Refused: 401, the browser asks for the key.
        """
        peer = getattr(request.getClientAddress(), "host", "")
        proxies = ("Forwarded", "Via", "X-Forwarded-For", "X-Real-IP")
        forwarded = any(request.requestHeaders.hasHeader(name) for name in proxies)
        if is_local(peer, header(request, "Host"), forwarded):
            return await self._frontend.platform.read(accounts.first)
        try:
            return await self._frontend.platform.tenant(_password(header(request, "Authorization")))
        except Refused as refused:
            if refused.status != 401:
                raise
        challenge = ("WWW-Authenticate", 'Basic realm="smtp-relay: the API key as password", charset="UTF-8"')
        raise Refused(401, "API key needed", "Sign in with the API key as password, under any user name", [challenge])


class _Folder(_Page):
    isLeaf = False

    def getChild(self, path: bytes, request: Request) -> Endpoint:
        return _Page(self._frontend)


class Messages(_Page):
    """``/``: the list, newest first, with every filter in the URL."""

    async def of(self, tenant: Tenant, request: Request) -> Answer:
        wanted = wanted_of(request)
        found = await self._frontend.platform.read(
            lambda connection: listing.listed(connection, tenant.id, wanted, ROWS)
        )
        if found is None:
            raise Refused(404, "Not found", "The message that this page starts from is not there")
        given = {name: text for name in attrs.asdict(wanted) if (text := argument(request, name))}
        filters = {name: value for name, value in given.items() if name != "before"}
        hint = self._frontend.hint()
        return _html(
            "list.html",
            account=tenant.name,
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
            key_file=self._frontend.key_file,
            swaks=hint.swaks(self._frontend.key_file),
        )


class Message(_Page):
    """``/message/ID``, and below it ``preview``, the HTML itself, and ``posted.json``."""

    async def of(self, tenant: Tenant, request: Request) -> Answer:
        id, *rest = [part.decode("ascii", "replace") for part in request.postpath or ()] or [""]
        shown = {(): _shown, ("preview",): _preview, ("posted.json",): _posted}.get(tuple(rest))
        found = await self._frontend.platform.read(lambda connection: store.one(connection, tenant.id, id))
        if shown is None or found is None:
            raise Refused(404, "Not found", "There is no such message")
        entry, content = found
        if content is None:
            raise Refused(410, "No longer kept", "The content of this message is no longer kept")
        return shown(tenant, request, entry, content)


class Style(Endpoint):
    """``/style.css``, for anyone: it tells nothing."""

    async def answer(self, request: Request) -> Answer:
        headers = (*_HEADERS, ("Cache-Control", "no-cache"))
        return Answer(_file("static", "style.css"), "text/css; charset=utf-8", headers=headers)


def _shown(tenant: Tenant, request: Request, entry: store.Entry, content: store.Content) -> Answer:
    view = argument(request, "view")
    view = view if view in dict(_VIEWS) else "preview"
    text = {"source": _body, "json": _pretty}.get(view, _nothing)(content)
    return _html(
        "message.html",
        account=tenant.name,
        entry=entry,
        facts=_facts(entry),
        attachments=content.attachments,
        views=_VIEWS,
        view=view,
        text=text[:LONGEST_SHOWN],
        cut=LONGEST_SHOWN if len(text) > LONGEST_SHOWN else 0,
    )


def _preview(tenant: Tenant, request: Request, entry: store.Entry, content: store.Content) -> Answer:
    return Answer(_CONNECTING.sub("<x-", _body(content)).encode("utf-8", "replace"), _HTML, headers=_PREVIEW_HEADERS)


def _posted(tenant: Tenant, request: Request, entry: store.Entry, content: store.Content) -> Answer:
    download = ("Content-Disposition", f'attachment; filename="{entry.id}.json"')
    return Answer(content.posted, headers=(*_HEADERS, download))


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


def _password(authorization: str) -> str | None:
    """The password of HTTP Basic (RFC 7617)."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(encoded, validate=True).decode("utf-8", "replace").partition(":")[2]
    except (binascii.Error, ValueError):
        return None


def _url(given: dict[str, str], **changed: str) -> str:
    """The list's URL with the filters *given*, some of them *changed*; ``""`` leaves one out."""
    query = urlencode({name: value for name, value in {**given, **changed}.items() if value})
    return f"/?{query}" if query else "/"


def _html(page: str, status: int = 200, headers: tuple[tuple[str, str], ...] = (), **values: object) -> Answer:
    text = _environment().get_template(page).render(values)
    return Answer(text.encode("utf-8", "replace"), _HTML, status, (*_HEADERS, *headers))


def _file(folder: str, name: str) -> bytes:
    return resources.files("relay.embedded.web").joinpath(folder, name).read_bytes()


@cache
def _environment() -> Environment:
    """The pages' own templates; imported when the first page is asked for."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    loader = FunctionLoader(lambda name: _file("html", name).decode())
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["instant"] = instant
    environment.filters["clock"] = lambda seconds: datetime.fromtimestamp(seconds).strftime("%d %b %H:%M:%S")
    environment.filters["full"] = lambda seconds: datetime.fromtimestamp(seconds).strftime("%d %B %Y, %H:%M:%S")
    return environment
