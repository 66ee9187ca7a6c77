"""The pages of the embedded backend: every page has its row in one table."""

from __future__ import annotations

from attrs import frozen
from twisted.web.resource import Resource
from twisted.web.server import Request

from relay.embedded.resource import Endpoint
from relay.embedded.web.accounts import Accounts, Leave
from relay.embedded.web.dashboard import Dashboard, Overview
from relay.embedded.web.events import Events
from relay.embedded.web.frame import Frontend, Link, Page
from relay.embedded.web.integrate import Integrate
from relay.embedded.web.log import Log
from relay.embedded.web.message import Message
from relay.embedded.web.password import ChangePassword
from relay.embedded.web.queue import Queue
from relay.embedded.web.reference import Reference
from relay.embedded.web.routes import Routes
from relay.embedded.web.settings import Settings
from relay.embedded.web.sign_in import SignIn, SignOut
from relay.embedded.web.static_files import Static
from relay.embedded.web.templates import Templates
from relay.embedded.web.users import Users


@frozen
class Row:
    """A page, which gets all paths below its own too.

    :ivar path: without the slash before it.
    :ivar page: made with the :class:`~relay.embedded.web.frame.Frontend`.
    :ivar label: in the navigation, ``""`` where it is not in it.
    :ivar group: see :class:`~relay.embedded.web.frame.Link`.
    """

    path: str
    page: type[Endpoint]
    label: str = ""
    group: str = ""


#: Every page, in the order of the navigation.
TABLE = (
    Row("", Dashboard, "Dashboard", "account"),
    Row("log", Log, "Log", "account"),
    Row("events", Events),
    Row("message", Message),
    Row("templates", Templates, "Templates", "account"),
    Row("integrate", Integrate, "Integrate", "account"),
    Row("reference", Reference),
    Row("settings", Settings, "Settings", "account"),
    Row("sign-in", SignIn),
    Row("sign-out", SignOut),
    Row("password", ChangePassword),
    Row("admin/overview", Overview, "Overview", "admin"),
    Row("admin/accounts", Accounts, "Accounts", "admin"),
    Row("admin/users", Users, "Users", "admin"),
    Row("admin/routes", Routes, "Routes", "admin"),
    Row("admin/queue", Queue, "Queue", "admin"),
    Row("admin/leave", Leave),
)

LINKS = tuple(Link(f"/{row.path}", row.label, row.group) for row in TABLE if row.label)


class _Folder(Page):
    """A path that only has others below it."""

    isLeaf = False

    def getChild(self, path: bytes, request: Request) -> Resource:
        return Page(self.frontend)


def pages(frontend: Frontend) -> Resource:
    """The tree of the pages."""
    root = _Folder(frontend)
    root.putChild(b"static", Static())
    for row in TABLE:
        folder: Resource = root
        *above, last = row.path.encode().split(b"/")
        for name in above:
            inner = folder.children.get(name) or _Folder(frontend)
            folder.putChild(name, inner)
            folder = inner
        page: type = row.page
        folder.putChild(last, page(frontend))
    return root
