"""``/password``: another password for who is signed in."""

from __future__ import annotations

from twisted.web.server import Request

from relay.embedded import passwords, people
from relay.embedded.resource import Answer
from relay.embedded.rules import Refused
from relay.embedded.web.frame import Form, FormPage, Viewer, html


class ChangePassword(FormPage):
    """Asks for the old one; other sessions of the user end."""

    async def of(self, viewer: Viewer, request: Request) -> Answer:
        return self._form(viewer)

    def _form(self, viewer: Viewer, problem: Refused | None = None) -> Answer:
        status, headers = (problem.status, problem.headers) if problem else (200, ())
        return html("password.html", viewer, status, headers, problem=problem, shortest=passwords.SHORTEST)

    async def submitted(self, viewer: Viewer, request: Request, form: Form) -> Answer:
        try:
            await self._change(viewer, form)
        except Refused as problem:
            return self._form(viewer, problem)
        return self.see_other(request, "/", "Your password was changed, and other devices are signed out.")

    async def _change(self, viewer: Viewer, form: Form) -> None:
        new = passwords.check(form.get("new", ""))
        platform, user, source = self.frontend.platform, viewer.user, ("email", viewer.user.email)
        if self.frontend.throttle.wait(source):
            raise Refused(429, "Wait a moment", "Too many attempts failed; try again in a few minutes")
        self.frontend.throttle.tried(source)
        found = await platform.read(lambda connection: people.credentials(connection, user.email))
        if not await self.frontend.passwords.match(found[1] if found else None, form.get("old", "")):
            raise Refused(403, "Wrong password", "The password that you have now is another")
        self.frontend.throttle.forget(source)
        hashed = await self.frontend.passwords.hashed(new)
        await platform.write(lambda connection: people.set_password(connection, user.id, hashed, viewer.session))
