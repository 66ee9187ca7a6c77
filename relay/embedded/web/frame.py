"""The frame of the pages: who looks, what each page and form has in common, and how HTML is made.

A page says in :meth:`Page.of` what one sees who may; :class:`AccountPage` has an account to show,
:class:`AdminPage` is for administrators, and :class:`FormPage`, mixed in before either, takes what is posted.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import parse_qs, quote, urlsplit

import attrs
from attrs import field, frozen
from twisted.logger import Logger
from twisted.web.server import Request

from relay.embedded import sessions
from relay.embedded.accounts import Tenant
from relay.embedded.api.core import Platform, body, header, instant
from relay.embedded.live import Live
from relay.embedded.passwords import Passwords
from relay.embedded.people import User
from relay.embedded.resource import Answer, Endpoint
from relay.embedded.rules import Refused, storable
from relay.embedded.throttle import Throttle
from relay.embedded.web.cookies import Cookies
from relay.embedded.web.hint import Hint
from relay.embedded.web.turns import Turns
from relay.policy import Embedded

if TYPE_CHECKING:
    from jinja2 import Environment

HTML = "text/html; charset=utf-8"

#: Most of a form, in bytes, and most of its fields: a template's source is the largest of them.
LARGEST_FORM = 16_777_216
MOST_FIELDS = 500

#: For every page.  Nothing comes from elsewhere, no script but ours runs, nobody frames it.  The referrer stays:
#: without it a browser does not say where a form of ours was sent from.
HEADERS = (
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    ("Referrer-Policy", "same-origin"),
    ("X-Frame-Options", "DENY"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("X-DNS-Prefetch-Control", "off"),
)

#: A path of ours: no host, and nothing that a browser takes for the beginning of one.
_PATH = re.compile(r"/(?![/\\])[!-\[\]-~]*")

_log = Logger()

SESSION = "session"
NOTICE = "notice"


@frozen
class Link:
    """A page in the navigation.

    :ivar group: ``account`` for a page that shows an account, ``admin`` for one for administrators.
    """

    path: str
    label: str
    group: str


@frozen
class Frontend:
    """What the pages work with; *hint* is asked each time, because ports are known late.

    :ivar signed_in: called after somebody has signed in.
    :ivar passwords_file: the name of the file with the first passwords, ``""`` once they have served.
    :ivar live: tells who looks at a log what is new.
    :ivar turns: let pages give way to messages.
    """

    platform: Platform
    policy: Embedded
    passwords: Passwords
    throttle: Throttle
    cookies: Cookies
    links: tuple[Link, ...]
    signed_in: Callable[[], Awaitable[None]]
    passwords_file: Callable[[], str]
    hint: Callable[[], Hint]
    live: Live
    turns: Turns


@frozen
class Viewer:
    """Who looks at a page.

    :ivar tenant: the account whose data is shown; None for an administrator who looks at none.
    :ivar session: the id of the session.
    :ivar csrf: what each form has to hold.
    :ivar notice: what to say on the next page, ``""`` for nothing.
    :ivar path: of the page.
    """

    user: User
    tenant: Tenant | None
    session: str = field(repr=False)
    csrf: str = field(repr=False)
    notice: str
    path: str
    _links: tuple[Link, ...] = field(repr=False)

    @property
    def impersonating(self) -> bool:
        """Whether an administrator looks at an account; the API key is not shown then."""
        return self.user.administrator and self.tenant is not None

    def links(self, group: str) -> list[tuple[Link, bool]]:
        """The pages of *group* that this viewer has, and which of them this is."""
        if (group == "admin" and not self.user.administrator) or (group == "account" and self.tenant is None):
            return []
        return [(link, self._is_at(link.path)) for link in self._links if link.group == group]

    def _is_at(self, path: str) -> bool:
        return self.path == path or (path != "/" and self.path.startswith(f"{path}/"))


class Form(dict[str, str]):
    """What was posted: the last value of each field.

    :ivar every: all values of each field.
    """

    def __init__(self, every: Mapping[str, list[str]]) -> None:
        super().__init__({name: values[-1] for name, values in every.items()})
        self.every = every

    def text(self, name: str) -> str:
        """A field without the spaces around it, ``""`` where it is missing."""
        return self.get(name, "").strip()


class Page(Endpoint):
    """A page for who is signed in; others come to the sign-in page and from there back."""

    def __init__(self, frontend: Frontend) -> None:
        super().__init__()
        self.frontend = frontend

    async def of(self, viewer: Viewer, request: Request) -> Answer:
        """The page that *viewer* sees."""
        raise Refused(404, "Not found", "There is no such page")

    def elsewhere(self, viewer: Viewer) -> Answer | None:
        """Where *viewer* has to go instead, None when the page is for it.

        :raises Refused: 403.
        """
        return None

    async def answer(self, request: Request) -> Answer:
        viewer = await viewer_of(self.frontend, request)
        if viewer is None:
            return redirect("/sign-in" if request.method == b"POST" else f"/sign-in?next={quote(_wanted(request))}")
        try:
            answer = self.elsewhere(viewer)
            if answer is None:
                answer = await self.frontend.turns.run(self.respond(viewer, request))
        except Refused as refused:
            answer = _refusal(refused, viewer)
        if viewer.notice and answer.content_type == HTML and answer.status != 303:
            answer = attrs.evolve(answer, headers=(*answer.headers, self.frontend.cookies.drop(request, NOTICE)))
        return answer

    async def respond(self, viewer: Viewer, request: Request) -> Answer:
        """The answer for one who may see this page."""
        return await self.of(viewer, request)

    def see_other(self, request: Request, path: str, notice: str = "") -> Answer:
        """To *path* after a form was taken; the page there says *notice*."""
        answer = redirect(path)
        if not notice:
            return answer
        said = self.frontend.cookies.write(request, NOTICE, notice, 60)
        return attrs.evolve(answer, headers=(*answer.headers, said))

    def refusal(self, request: Request, refused: Refused) -> Answer:
        return _refusal(refused, None)


class AccountPage(Page):
    """A page that shows an account's data: ``viewer.tenant`` is there."""

    def elsewhere(self, viewer: Viewer) -> Answer | None:
        return redirect("/admin/accounts") if viewer.tenant is None else None


class AdminPage(Page):
    """A page for administrators."""

    def elsewhere(self, viewer: Viewer) -> Answer | None:
        if not viewer.user.administrator:
            raise Refused(403, "For administrators", "This page is for administrators of this platform only")
        return None


class FormPage(Page):
    """A page with a form: a GET shows it and changes nothing, a POST is :meth:`submitted`."""

    methods: ClassVar[tuple[str, ...]] = ("GET", "HEAD", "POST")

    async def submitted(self, viewer: Viewer, request: Request, form: Form) -> Answer:
        """The form was sent from a page of ours.

        :raises Refused: what is wrong with it.
        """
        raise Refused(405, "Method not allowed", "There is no form here")

    async def respond(self, viewer: Viewer, request: Request) -> Answer:
        if request.method != b"POST":
            return await super().respond(viewer, request)
        return await self.submitted(viewer, request, posted(self.frontend, request, viewer.csrf))


def record(viewer: Viewer, what: str) -> None:
    """Write to the log what *viewer* did that others may ask about later."""
    _log.info("embedded: {email} {what}", email=viewer.user.email, what=what)


def tenant_of(viewer: Viewer) -> Tenant:
    """The account that an :class:`AccountPage` shows."""
    if viewer.tenant is None:
        raise RuntimeError("no account: not an AccountPage")
    return viewer.tenant


async def viewer_of(frontend: Frontend, request: Request) -> Viewer | None:
    """Who looks, None where nobody is signed in."""
    token = frontend.cookies.read(request, SESSION)
    if not token:
        return None
    platform = frontend.platform
    now = platform.now()
    found = await platform.read(lambda connection: sessions.find(connection, token, now - frontend.policy.session))
    if found is None:
        return None
    if now - found.seen > sessions.SEEN:
        await platform.write(lambda connection: sessions.touch(connection, found.id, now))
    return Viewer(
        user=found.user,
        tenant=found.tenant,
        session=found.id,
        csrf=frontend.cookies.token(token),
        notice=frontend.cookies.read(request, NOTICE),
        path=request.path.decode("latin-1"),
        links=frontend.links,
    )


def posted(frontend: Frontend, request: Request, csrf: str) -> Form:
    """The form in a POST, once it is known that a page of ours sent it (THREATS.md, "Web").

    :param csrf: what it has to hold.
    :raises Refused: 403, it may come from elsewhere; 400 or 413, it is no form.
    """
    if not _is_own(frontend, request):
        raise Refused(403, "Sent from elsewhere", "The form was not sent from a page of this server")
    if header(request, "Content-Type").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise Refused(400, "Not a form", "The request does not hold a form")
    content = body(request)
    if len(content) > LARGEST_FORM:
        raise Refused(413, "Too large", "The form is larger than this server takes")
    try:
        text = content.decode("ascii")
        found = parse_qs(text, keep_blank_values=True, max_num_fields=MOST_FIELDS, errors="replace")
    except ValueError:
        raise Refused(400, "Not a form", "The request does not hold a form") from None
    form = Form({name: [storable(value).replace("\r\n", "\n") for value in values] for name, values in found.items()})
    if not hmac.compare_digest(form.pop("csrf", "").encode(), csrf.encode()):
        raise Refused(403, "The form has expired", "Go back, load the page again, and send the form once more")
    return form


def _is_own(frontend: Frontend, request: Request) -> bool:
    """Whether the browser says that a page of ours sent the request, or is too old to say."""
    site = header(request, "Sec-Fetch-Site")
    origin = header(request, "Origin") or header(request, "Referer")
    if site and site != "same-origin":
        return False
    if not origin:
        return True
    sent = urlsplit(origin)
    public = urlsplit(frontend.policy.public_url)
    ours = {header(request, "Host").lower(), public.netloc.lower()} - {""}
    return sent.netloc.lower() in ours


def _wanted(request: Request) -> str:
    return inside(request.uri.decode("latin-1"))


def inside(path: str) -> str:
    """*path* where it leads to a page of ours, else ``/``."""
    return path if _PATH.fullmatch(path) else "/"


def number(text: str) -> int:
    """An id in a path.

    :raises Refused: 404, it is none.
    """
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise Refused(404, "Not found", "There is no such page")
    return int(text)


def below(request: Request) -> list[str]:
    """The parts of the path below the page's own."""
    return [part.decode("utf-8", "replace") for part in request.postpath or ()]


def redirect(path: str) -> Answer:
    """303: GET *path* next."""
    return Answer(b"", HTML, 303, (*HEADERS, ("Location", path)))


def html(
    name: str,
    viewer: Viewer | None,
    status: int = 200,
    headers: tuple[tuple[str, str], ...] = (),
    **values: object,
) -> Answer:
    """The page that the template *name* makes of *values*; ``viewer`` is one of them.

    :param viewer: None where nobody is signed in.
    """
    text = _environment().get_template(name).render(values, viewer=viewer)
    return Answer(text.encode("utf-8", "replace"), HTML, status, (*HEADERS, *headers))


def fragment(name: str, **values: object) -> str:
    """What the template *name*, a part of a page, makes of *values*."""
    return _environment().get_template(name).render(values)


def _refusal(refused: Refused, viewer: Viewer | None) -> Answer:
    return html("error.html", viewer, refused.status, refused.headers, refused=refused)


@cache
def static(name: str) -> str:
    """The path of a file in ``static/``; another one when the file changes, so that browsers may keep it."""
    return f"/static/{name}?v={hashlib.sha256(asset('static', name)).hexdigest()[:16]}"


def asset(folder: str, name: str) -> bytes:
    """A file beside this module."""
    return resources.files("relay.embedded.web").joinpath(folder, name).read_bytes()


@cache
def _environment() -> Environment:
    """The pages' own templates; imported when the first page is asked for."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    loader = FunctionLoader(lambda name: asset("html", name).decode())
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.globals["static"] = static
    environment.filters["instant"] = instant
    environment.filters["clock"] = lambda seconds: datetime.fromtimestamp(seconds).strftime("%d %b %H:%M:%S")
    environment.filters["full"] = lambda seconds: datetime.fromtimestamp(seconds).strftime("%d %B %Y, %H:%M:%S")
    return environment
