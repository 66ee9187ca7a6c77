"""``/admin/users``: who may sign in."""

from __future__ import annotations

from functools import partial

from twisted.web.server import Request

from relay.embedded import accounts, passwords, people
from relay.embedded.people import User
from relay.embedded.resource import Answer, argument
from relay.embedded.rules import Refused
from relay.embedded.web.frame import AdminPage, Form, FormPage, Viewer, below, html, number, record


class Users(FormPage, AdminPage):
    """``/admin/users`` lists and adds; a POST to ``…/ID/password``, ``disable`` or ``enable`` changes one."""

    async def of(self, viewer: Viewer, request: Request) -> Answer:
        if below(request):
            raise Refused(404, "Not found", "There is no such page")
        return await self._listed(viewer, argument(request, "account"))

    async def submitted(self, viewer: Viewer, request: Request, form: Form) -> Answer:
        parts = below(request)
        if not parts:
            return await self._add(viewer, form)
        change = {"password": self._password, "disable": self._disable, "enable": self._enable}.get(parts[-1])
        if change is None or len(parts) != 2:
            raise Refused(404, "Not found", "There is no such page")
        user = await self.frontend.platform.read(partial(people.one, id=number(parts[0])))
        if user is None:
            raise Refused(404, "Not found", "There is no such user")
        return await change(viewer, request, user)

    async def _listed(self, viewer: Viewer, chosen: str, email: str = "", problem: Refused | None = None) -> Answer:
        platform = self.frontend.platform
        users, rows = await platform.read(people.listed), await platform.read(accounts.listed)
        status = problem.status if problem else 200
        return html(
            "users.html", viewer, status, users=users, accounts=rows, chosen=chosen, email=email, problem=problem
        )

    async def _add(self, viewer: Viewer, form: Form) -> Answer:
        platform, chosen = self.frontend.platform, form.text("account")
        try:
            email = people.normal(form.text("email"))
            account = None if chosen == "administrator" else number(chosen)
            password = passwords.check(form["password"]) if form.get("password") else passwords.new_password()
            hashed = await self.frontend.passwords.hashed(password)
            add = partial(people.add, email=email, hashed=hashed, account=account, now=platform.now())
            await platform.write(add)
        except Refused as refused:
            problem = refused
            if refused.status == 404:
                problem = Refused(400, "No account", "Choose the account, or Administrator")
            return await self._listed(viewer, chosen, form.text("email"), problem)
        record(viewer, f"added the user {email}{' as an administrator' if account is None else ''}")
        return html("user.html", viewer, email=email, password="" if form.get("password") else password, new=True)

    async def _password(self, viewer: Viewer, request: Request, user: User) -> Answer:
        """A random one, shown this once: an administrator need not know what somebody chose."""
        password = passwords.new_password()
        hashed = await self.frontend.passwords.hashed(password)
        keep = viewer.session if user.id == viewer.user.id else ""
        await self.frontend.platform.write(partial(people.set_password, id=user.id, hashed=hashed, keep=keep))
        record(viewer, f"gave {user.email} a new password")
        return html("user.html", viewer, email=user.email, password=password, new=False)

    async def _disable(self, viewer: Viewer, request: Request, user: User) -> Answer:
        await self.frontend.platform.write(partial(people.disable, id=user.id, now=self.frontend.platform.now()))
        record(viewer, f"disabled {user.email}")
        return self.see_other(request, "/admin/users", f"{user.email} is disabled, and signed out everywhere.")

    async def _enable(self, viewer: Viewer, request: Request, user: User) -> Answer:
        await self.frontend.platform.write(partial(people.enable, id=user.id))
        return self.see_other(request, "/admin/users", f"{user.email} may sign in again.")
