"""The embedded backend without sockets, threads or processes: HTTP bytes in, HTTP bytes out."""

from __future__ import annotations

import http.client
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import frozen
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Site

from relay.embedded import template
from relay.embedded.backend import Backend


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
        return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, body)


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
    """A backend in a folder of its own, on a clock."""

    def setUp(self) -> None:
        self.data = Path(self.mktemp())
        self.data.mkdir()
        self.clock = Clock()
        self.clock.advance(1_795_440_000)
        self.start()

    def start(self, **options: Any) -> None:
        """Open the backend of ``self.data``, again."""
        options = {"executor": lambda threads, name: Inline(), "render": render, **options}
        self.backend = Backend.open(self.data, reactor=self.clock, now=self.clock.seconds, **options)
        self.addCleanup(lambda: self.successResultOf(self.backend.close()))
        self.site = self.backend.site(largest=300_000)

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
