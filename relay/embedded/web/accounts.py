"""``/admin/accounts``: the accounts, and looking at one ("impersonating" it)."""

from __future__ import annotations

from functools import partial

import sqlalchemy as sa
from twisted.web.server import Request

from relay.embedded import accounts, keys, people, sessions
from relay.embedded.accounts import Row
from relay.embedded.resource import Answer
from relay.embedded.rules import Refused, wrong
from relay.embedded.web.frame import AdminPage, Form, FormPage, Viewer, below, html, number, record, redirect


class Accounts(FormPage, AdminPage):
    """``/admin/accounts`` lists and adds; ``…/ID`` shows one; a POST below that changes it or looks at it."""

    async def of(self, viewer: Viewer, request: Request) -> Answer:
        parts = below(request)
        if not parts:
            return await self._listed(viewer)
        if len(parts) > 1:
            raise Refused(404, "Not found", "There is no such page")
        return await self._shown(viewer, number(parts[0]))

    async def submitted(self, viewer: Viewer, request: Request, form: Form) -> Answer:
        parts = below(request)
        if not parts:
            return await self._add(viewer, request, form)
        change = {
            "look": self._look,
            "rename": self._rename,
            "disable": self._disable,
            "enable": self._enable,
            "reset": self._reset,
        }.get(parts[-1])
        if change is None or len(parts) != 2:
            raise Refused(404, "Not found", "There is no such page")
        row = await self._row(number(parts[0]))
        said = await change(viewer, row, form)
        return redirect("/") if not said else self.see_other(request, f"/admin/accounts/{row.id}", said)

    async def _listed(self, viewer: Viewer, problem: Refused | None = None, name: str = "") -> Answer:
        rows = await self.frontend.platform.read(accounts.listed)
        status = problem.status if problem else 200
        return html("accounts.html", viewer, status, accounts=rows, problem=problem, given=name)

    async def _shown(self, viewer: Viewer, id: int) -> Answer:
        row = await self._row(id)
        found = await self.frontend.platform.read(people.listed)
        tenant = await self.frontend.platform.read(partial(accounts.by_id, id=id))
        users = [user for user, _ in found if user.account == id]
        return html("account.html", viewer, account=row, users=users, tenant=tenant)

    async def _row(self, id: int) -> Row:
        found = await self.frontend.platform.read(partial(accounts.row, id=id))
        if found is None:
            raise Refused(404, "Not found", "There is no such account")
        return found

    async def _add(self, viewer: Viewer, request: Request, form: Form) -> Answer:
        platform, name = self.frontend.platform, form.text("name")

        def add(connection: sa.Connection) -> int:
            account = accounts.add(connection, name, platform.now())
            keys.reset(connection, account, platform.cipher, platform.now())
            return account

        try:
            account = await platform.write(add)
        except accounts.WrongName as error:
            return await self._listed(viewer, wrong(str(error)), name)
        said = f"{name} was added, with an API key and the route that stores messages."
        return self.see_other(request, f"/admin/accounts/{account}", said)

    async def _look(self, viewer: Viewer, row: Row, form: Form) -> str:
        """Show the account to the administrator."""
        await self.frontend.platform.write(partial(sessions.look_at, id=viewer.session, account=row.id))
        record(viewer, f"looks at account {row.id}")
        return ""

    async def _rename(self, viewer: Viewer, row: Row, form: Form) -> str:
        try:
            await self.frontend.platform.write(partial(accounts.rename, id=row.id, name=form.text("name")))
        except accounts.WrongName as error:
            raise wrong(str(error)) from None
        return "The account has its new name."

    async def _disable(self, viewer: Viewer, row: Row, form: Form) -> str:
        platform = self.frontend.platform
        stopped = await platform.write(partial(accounts.disable, id=row.id, now=platform.now()))
        platform.keys.forget(stopped)
        record(viewer, f"disabled account {row.id}")
        return f"{row.name} is disabled: its API key and its users are refused."

    async def _enable(self, viewer: Viewer, row: Row, form: Form) -> str:
        await self.frontend.platform.write(partial(accounts.enable, id=row.id))
        return f"{row.name} is enabled again."

    async def _reset(self, viewer: Viewer, row: Row, form: Form) -> str:
        await self.frontend.platform.keys.reset(row.id)
        record(viewer, f"reset the API key of account {row.id}")
        return f"The API key of {row.name} was reset: the old one works no more, and its users see the new one."


class Leave(FormPage, AdminPage):
    """``/admin/leave``: look at the account no more."""

    async def of(self, viewer: Viewer, request: Request) -> Answer:
        return redirect("/admin/accounts")

    async def submitted(self, viewer: Viewer, request: Request, form: Form) -> Answer:
        await self.frontend.platform.write(partial(sessions.look_at, id=viewer.session, account=None))
        return redirect("/admin/accounts")
