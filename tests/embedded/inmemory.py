"""The embedded backend without sockets, threads or processes: HTTP bytes in, HTTP bytes out."""

from __future__ import annotations

import http.client
import io
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import sqlalchemy as sa
from argon2 import PasswordHasher
from attrs import frozen
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Site

from relay.embedded import accounts, keys, people, template
from relay.embedded.backend import Backend
from relay.embedded.database import T, change, open_postgresql, open_sqlite
from relay.embedded.first import USER
from relay.policy import Embedded

#: As fast as argon2 can be.
HASHER = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


class Inline:
    """Runs each job at once, in the calling thread."""

    def run(self, job: Callable[[], Any]) -> Deferred[Any]:
        return maybeDeferred(job)

    def stop(self) -> None:
        """Nothing to stop."""


class Held:
    """Keeps the jobs until :meth:`release`; stands for a busy thread."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Callable[[], Any], Deferred[Any]]] = []
        self.stopped = False

    def run(self, job: Callable[[], Any]) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self.jobs.append((job, done))
        return done

    def release(self) -> None:
        """Run what is there now, first come first served."""
        jobs, self.jobs = self.jobs, []
        for job, done in jobs:
            maybeDeferred(job).chainDeferred(done)

    def stop(self) -> None:
        self.stopped = True


async def render(source: str, variables: Mapping[str, Any] | None) -> template.Rendered:
    """Rendering in this process."""
    return template.render(source, variables)


@frozen
class Reply:
    """An HTTP response; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    cookies: tuple[str, ...] = ()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


class _Socket:
    def __init__(self, received: bytes) -> None:
        self.received = received

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self.received)


class Exchange:
    """One HTTP connection with one request on it."""

    def __init__(self, site: Site, peer: str) -> None:
        self.transport = StringTransportWithDisconnection(peerAddress=IPv4Address("TCP", peer, 40000))
        self.protocol = site.buildProtocol(self.transport.getPeer())
        self.transport.protocol = self.protocol
        self.protocol.makeConnection(self.transport)

    def send(self, method: str, path: str, headers: list[tuple[str, str]], body: bytes) -> None:
        """Write the request."""
        names = {name.lower() for name, _ in headers}
        length = [] if {"content-length", "transfer-encoding"} & names else [("Content-Length", str(len(body)))]
        host = [] if "host" in names else [("Host", "localhost:8080")]
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in host + length + headers)]
        self.protocol.dataReceived("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    @property
    def answered(self) -> bool:
        return bool(self.transport.value())

    def reply(self, method: str = "GET") -> Reply:
        """What came back."""
        response = http.client.HTTPResponse(_Socket(self.transport.value()), method=method)  # type: ignore[arg-type]
        response.begin()
        body = response.read()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, headers, body, tuple(response.headers.get_all("Set-Cookie") or ()))


def ask(
    site: Site,
    method: str,
    path: str,
    headers: Mapping[str, str] | list[tuple[str, str]] = (),
    body: bytes = b"",
    peer: str = "127.0.0.1",
) -> Reply:
    """One request and its answer, on a connection of its own."""
    exchange = Exchange(site, peer)
    exchange.send(method, path, list(dict(headers).items()) if not isinstance(headers, list) else headers, body)
    return exchange.reply(method)


class Browser:
    """One who looks at the pages: keeps cookies, and sends forms as the pages have them.

    :ivar cookies: by name.
    """

    def __init__(self, site: Site, peer: str = "127.0.0.1") -> None:
        self.site = site
        self.peer = peer
        self.cookies: dict[str, str] = {}

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Reply:
        """Look at a page."""
        return self._ask("GET", path, dict(headers or {}), b"")

    def post(
        self,
        path: str,
        fields: Mapping[str, str | list[str]] | None = None,
        *,
        page: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send a form.

        :param fields: beside the token, which is the one of *page*; ``csrf`` among them stands for itself.
        :param page: that has the form; by default the one at *path*, or where that has none, the password page.
        """
        given = dict(fields or {})
        if "csrf" not in given:
            given["csrf"] = self.csrf(page or path) or self.csrf("/password")
        sent = {"Content-Type": "application/x-www-form-urlencoded", "Origin": "http://localhost:8080"}
        return self._ask("POST", path, {**sent, **(headers or {})}, urlencode(given, doseq=True).encode())

    def csrf(self, page: str) -> str:
        """The token that the forms of *page* hold, ``""`` where there is none."""
        found = re.search(r'name="csrf" value="([^"]*)"', self.get(page).text)
        return found[1] if found else ""

    def follow(self, reply: Reply) -> Reply:
        """The page that *reply* leads to."""
        assert reply.status == 303, (reply.status, reply.text)
        return self.get(reply.headers["location"])

    def _ask(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Reply:
        if self.cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        reply = ask(self.site, method, path, headers, body, self.peer)
        for each in reply.cookies:
            name, _, value = each.partition(";")[0].partition("=")
            self.cookies.pop(name, None)
            if value:
                self.cookies[name] = value
        return reply


#: A submission that nothing is wrong with.
MESSAGE: dict[str, Any] = {
    "fromname": "Example Shop",
    "fromemail": "shop@example.com",
    "to": "jane@example.org",
    "toname": "Jane Doe",
    "subject": "Hello",
    "replyto": "Help <help@example.com>",
    "returnpath": "bounce@example.com",
    "body": "<p>Hello</p>",
    "tag": "welcome",
    "route": "",
    "template": "",
    "variables": None,
}


class BackendCase(SynchronousTestCase):
    """A backend in a folder of its own, on a clock.

    :cvar sqlite_only: whether the tests are about SQLite's file; all others run on PostgreSQL too
        (tests/integration/test_embedded_postgresql.py).
    :ivar passwords: of everybody who may sign in, by e-mail address.
    """

    sqlite_only = False

    def setUp(self) -> None:
        self.data = Path(self.mktemp())
        self.data.mkdir()
        self.policy = Embedded(database=self.database_url())
        self.clock = Clock()
        self.clock.advance(1_795_440_000)
        self.passwords: dict[str, str] = {}
        self.start()

    def database_url(self) -> str:
        """``""`` for SQLite."""
        return ""

    def start(self, **options: Any) -> None:
        """Open the backend of ``self.data``, again."""
        options = {"executor": lambda threads, name: Inline(), "render": render, "hasher": HASHER, **options}
        options = {"policy": self.policy, **options}
        self.backend = Backend.open(self.data, reactor=self.clock, now=self.clock.seconds, **options)
        self.addCleanup(lambda: self.successResultOf(self.backend.close()))
        self.site = self.backend.site(largest=300_000)
        first = self.backend.first
        if first is not None:
            self.passwords[first.administrator] = first.administrator_password
            self.passwords[first.user] = first.user_password

    def engine(self) -> sa.Engine:
        """The database, beside the backend's own way to it."""
        url = self.policy.database
        engine = open_postgresql(url) if url else open_sqlite(self.data / "platform.sqlite3")
        self.addCleanup(engine.dispose)
        return engine

    def change(self, query: Callable[[sa.Connection], T]) -> T:
        """Run *query* in a transaction."""
        return change(self.engine(), query)

    def add_account(self, name: str, key: str = "") -> int:
        """Another account, with the capture route; its id."""

        def add(connection: sa.Connection) -> int:
            account = accounts.add(connection, name, self.clock.seconds())
            if key:
                keys.add_key(connection, account, key, self.clock.seconds())
            return account

        return self.change(add)

    def add_user(self, email: str, account: int | None) -> None:
        """Another user of *account*, or another administrator."""
        password = self.passwords[email] = f"the password of {email}"
        hashed = HASHER.hash(password)
        self.change(lambda connection: people.add(connection, email, hashed, account, self.clock.seconds()))

    def browser(self, email: str = USER, peer: str = "127.0.0.1") -> Browser:
        """One who has signed in, with ``""`` nobody: ``user@localhost`` is of the first account,
        ``admin@localhost`` an administrator."""
        browser = Browser(self.site, peer)
        if email:
            reply = browser.post("/sign-in", {"email": email, "password": self.passwords[email]})
            self.assertEqual(reply.status, 303, reply.text)
        return browser

    def get(self, path: str, key: str | None = None, **headers: str) -> Reply:
        """GET with the API key."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return ask(self.site, "GET", path, {"X-Auth-APIKey": key or self.backend.api_key, **given})

    def post(self, fields: object, key: str | None = None, **headers: str) -> Reply:
        """POST a submission with the API key."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {"X-Auth-APIKey": key or self.backend.api_key, "Content-Type": "application/json", **given}
        return ask(self.site, "POST", "/api/transactional/send", sent, json.dumps(fields).encode())

    def sent(self, **changed: Any) -> str:
        """Post :data:`MESSAGE`, changed; its id."""
        reply = self.post({**MESSAGE, **changed})
        self.assertEqual(reply.status, 200, reply.body)
        return reply.json["id"]

    def logged(self, query: str = "") -> list[dict[str, Any]]:
        """The messages in the log."""
        reply = self.get(f"/api/transactional/log{query}")
        self.assertEqual(reply.status, 200, reply.body)
        return reply.json["messages"]
