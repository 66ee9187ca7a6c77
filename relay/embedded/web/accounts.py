"""``/admin/accounts``: the accounts, and looking at one ("impersonating" it)."""

from __future__ import annotations

from twisted.web.server import Request

from relay.embedded import accounts, sessions
from relay.embedded.resource import Answer
from relay.embedded.rules import Refused
from relay.embedded.web.frame import AdminPage, Form, FormPage, Viewer, html, redirect


class Accounts(FormPage, AdminPage):
    """The list; a POST to ``/admin/accounts/ID/look`` shows the account to the administrator."""

    async def of(self, viewer: Viewer, request: Request) -> Answer:
        if request.postpath:
            raise Refused(404, "Not found", "There is no such page")
        found = await self.frontend.platform.read(accounts.listed)
        return html("accounts.html", viewer, accounts=found)

    async def submitted(self, viewer: Viewer, request: Request, form: Form) -> Answer:
        parts = [part.decode("ascii", "replace") for part in request.postpath or ()]
        if len(parts) != 2 or parts[1] != "look" or not (parts[0].isdecimal() and len(parts[0]) < 10):
            raise Refused(404, "Not found", "There is no such page")
        account = int(parts[0])
        platform = self.frontend.platform
        if await platform.read(lambda connection: accounts.by_id(connection, account)) is None:
            raise Refused(404, "Not found", "There is no such account")
        await platform.write(lambda connection: sessions.look_at(connection, viewer.session, account))
        return redirect("/")


class Leave(FormPage, AdminPage):
    """``/admin/leave``: look at the account no more."""

    async def of(self, viewer: Viewer, request: Request) -> Answer:
        return redirect("/admin/accounts")

    async def submitted(self, viewer: Viewer, request: Request, form: Form) -> Answer:
        await self.frontend.platform.write(lambda connection: sessions.look_at(connection, viewer.session, None))
        self.frontend.live.end(viewer.session)
        return redirect("/admin/accounts")
