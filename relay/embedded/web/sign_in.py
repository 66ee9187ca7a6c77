"""Signing in and out."""

from __future__ import annotations

from math import ceil
from typing import ClassVar

import sqlalchemy as sa
from twisted.logger import Logger
from twisted.web.server import Request

from relay.embedded import people, sessions
from relay.embedded.resource import Answer, Endpoint, argument
from relay.embedded.rules import Refused
from relay.embedded.throttle import network
from relay.embedded.web.frame import (
    SESSION,
    Form,
    FormPage,
    Frontend,
    Viewer,
    html,
    inside,
    posted,
    redirect,
    viewer_of,
)

#: How long a browser keeps the cookie of a session, in seconds: the most that browsers do.  When the session is over is
#: the server's to say, which knows when it was used last.
KEPT = 34_560_000.0

_log = Logger()

#: The cookie of who is yet to sign in: the form is bound to it.
VISIT = "visit"


class SignIn(Endpoint):
    """``/sign-in``: e-mail address and password; afterwards on to ``next``."""

    methods: ClassVar[tuple[str, ...]] = ("GET", "HEAD", "POST")

    def __init__(self, frontend: Frontend) -> None:
        super().__init__()
        self._frontend = frontend

    async def answer(self, request: Request) -> Answer:
        if request.method == b"POST":
            return await self._sign_in(request)
        if await viewer_of(self._frontend, request) is not None:
            return redirect(inside(argument(request, "next")))
        return self._form(request, argument(request, "next"))

    def refusal(self, request: Request, refused: Refused) -> Answer:
        if request.method != b"POST" or refused.status in (405, 413):
            return html("error.html", None, refused.status, refused.headers, refused=refused)
        return self._form(request, "", problem=refused)

    def _form(self, request: Request, next: str, email: str = "", problem: Refused | None = None) -> Answer:
        cookies = self._frontend.cookies
        visit = cookies.read(request, VISIT) or sessions.new_token()
        return html(
            "sign-in.html",
            None,
            200 if problem is None else problem.status,
            (cookies.write(request, VISIT, visit), *(problem.headers if problem else ())),
            csrf=cookies.token(visit),
            next=inside(next),
            email=email,
            problem=problem,
            passwords_file=self._frontend.passwords_file(),
        )

    async def _sign_in(self, request: Request) -> Answer:
        frontend = self._frontend
        visit = frontend.cookies.read(request, VISIT)
        form = posted(frontend, request, frontend.cookies.token(visit) if visit else sessions.new_token())
        next, email = inside(form.get("next", "")), form.text("email").lower()[:254]
        try:
            user = await self._known(request, email, form.get("password", ""))
        except Refused as refused:
            return self._form(request, next, email, refused)
        token, old = sessions.new_token(), frontend.cookies.read(request, SESSION)
        now = frontend.platform.now()

        def begin(connection: sa.Connection) -> None:
            if old:
                sessions.end(connection, sessions.digest(old))
            sessions.begin(connection, user.id, token, now, now - frontend.policy.session)

        await frontend.platform.write(begin)
        await frontend.signed_in()
        headers = (
            frontend.cookies.write(request, SESSION, token, KEPT),
            frontend.cookies.drop(request, VISIT),
        )
        return Answer(b"", status=303, headers=(*redirect(next).headers, *headers))

    async def _known(self, request: Request, email: str, password: str) -> people.User:
        """Who it is.

        :raises Refused: 403, the words for an address that is unknown and for a wrong password are the same; 429.
        """
        throttle, platform = self._frontend.throttle, self._frontend.platform
        peer = getattr(request.getClientAddress(), "host", "")
        address = ("address", network(peer))
        wait = ceil(throttle.wait(address, ("email", email)))
        if wait:
            words = f"Too many attempts failed; try again in {wait} second{'' if wait == 1 else 's'}"
            raise Refused(429, "Wait a moment", words, [("Retry-After", str(wait))])
        throttle.tried(address, ("email", email))
        found = await platform.read(lambda connection: people.credentials(connection, email))
        user, hashed = found or (None, None)
        if not await self._frontend.passwords.match(hashed, password) or user is None:
            # What is no user's address may be a password that was typed in the wrong place.
            who = user.email if user else "a stranger"
            _log.warn("embedded: {email} from {peer} not signed in", email=who, peer=peer)
            raise Refused(403, "Not signed in", "The e-mail address or the password is wrong")
        _log.info("embedded: {email} from {peer} signed in", email=user.email, peer=peer)
        throttle.undo(address)
        throttle.forget(("email", email))
        return user


class SignOut(FormPage):
    """``/sign-out``: a POST ends the session; a GET asks."""

    async def of(self, viewer: Viewer, request: Request) -> Answer:
        return html("sign-out.html", viewer)

    async def submitted(self, viewer: Viewer, request: Request, form: Form) -> Answer:
        await self.frontend.platform.write(lambda connection: sessions.end(connection, viewer.session))
        self.frontend.live.end(viewer.session)
        answer = redirect("/sign-in")
        return Answer(b"", status=303, headers=(*answer.headers, self.frontend.cookies.drop(request, SESSION)))
