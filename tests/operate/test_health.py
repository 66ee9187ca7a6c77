"""The admin endpoint, spoken to over HTTP in memory."""

from __future__ import annotations

import json

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from relay.operate.health import make_site
from relay.operate.metrics import Metrics
from relay.operate.readiness import PLATFORM_REMEMBERED, Readiness


class Relay:
    """A relay that is as ready as *readiness* says."""

    def __init__(self, readiness: Readiness) -> None:
        self.missing = readiness.missing

    def breakers(self) -> dict[str, str]:
        return {}

    async def exposition(self, accept: str) -> tuple[bytes, bytes]:
        return Metrics().exposition(accept)


class HealthTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.asked: list[Deferred[bool]] = []
        self.answer: bool | None = True
        self.readiness = Readiness(self.reachable, self.clock)
        self.readiness.listening = True
        self.site = make_site(Relay(self.readiness), self.clock)

    async def reachable(self) -> bool:
        self.asked.append(Deferred())
        if self.answer is not None:
            self.asked[-1].callback(self.answer)
        return await self.asked[-1]

    def request(self, path: str, method: str = "GET", accept: str = "*/*") -> StringTransport:
        channel = self.site.buildProtocol(None)
        transport = StringTransport()
        channel.makeConnection(transport)
        lines = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAccept: {accept}\r\n\r\n"
        channel.dataReceived(lines.encode())
        self.channel = channel
        return transport

    def get(self, path: str, **options: str) -> tuple[int, str]:
        head, _, body = self.request(path, **options).value().decode().partition("\r\n\r\n")
        if "chunked" in head and body:
            body = body.split("\r\n")[1]
        return int(head.split(" ")[1]), body

    def test_healthz(self) -> None:
        """/healthz is 200, and asks nobody."""
        self.answer = False
        self.assertEqual(self.get("/healthz")[0], 200)
        self.assertEqual(self.asked, [])

    def test_ready(self) -> None:
        """/readyz is 200 when the relay listens and the platform answers."""
        status, body = self.get("/readyz")
        self.assertEqual((status, json.loads(body)), (200, {"status": "ready"}))

    def test_platform_down(self) -> None:
        """/readyz is 503 and says so when the platform does not answer."""
        self.answer = False
        status, body = self.get("/readyz")
        self.assertEqual(status, 503)
        self.assertEqual(json.loads(body)["missing"], {"platform": "does not answer"})

    def test_not_listening(self) -> None:
        """/readyz is 503 before the listeners are there."""
        self.readiness.listening = False
        self.assertEqual(json.loads(self.get("/readyz")[1])["missing"], {"listeners": "not listening yet"})

    def test_stopping(self) -> None:
        """/readyz is 503 while the relay drains."""
        self.readiness.stopping = True
        status, body = self.get("/readyz")
        self.assertEqual((status, json.loads(body)["missing"]), (503, {"relay": "stopping"}))

    def test_platform_is_asked_rarely(self) -> None:
        """Many probes in a second ask the platform once; then it is asked again."""
        for _ in range(5):
            self.get("/readyz")
        self.assertEqual(len(self.asked), 1)
        self.clock.advance(PLATFORM_REMEMBERED)
        self.answer = False
        self.assertEqual(self.get("/readyz")[0], 503)
        self.assertEqual(len(self.asked), 2)

    def test_probes_share_an_answer(self) -> None:
        """Probes that come while the platform is asked wait for its one answer."""
        self.answer = None
        first, second = self.request("/readyz"), self.request("/readyz")
        self.assertEqual((first.value(), second.value(), len(self.asked)), (b"", b"", 1))
        self.asked[0].callback(True)
        self.assertIn(b"200 OK", first.value())
        self.assertIn(b"200 OK", second.value())

    def test_probe_that_left(self) -> None:
        """A probe that hangs up before the answer does no harm."""
        self.answer = None
        transport = self.request("/readyz")
        from twisted.internet.error import ConnectionDone
        from twisted.python.failure import Failure

        self.channel.connectionLost(Failure(ConnectionDone()))
        self.asked[0].callback(True)
        self.assertEqual(transport.value(), b"")
        self.assertEqual(self.get("/readyz")[0], 200)

    def test_broken_question(self) -> None:
        """An error while asking counts as no answer, and is logged."""

        async def broken() -> bool:
            raise ValueError("broken")

        self.site = make_site(Relay(Readiness(broken, self.clock)), self.clock)
        self.assertEqual(self.get("/readyz")[0], 503)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_metrics(self) -> None:
        """/metrics is text, or OpenMetrics for who accepts it; HEAD has no body."""
        self.assertIn(b"text/plain", self.request("/metrics").value())
        self.assertIn(b"openmetrics", self.request("/metrics", accept="application/openmetrics-text").value())
        self.assertEqual(self.get("/metrics", method="HEAD"), (200, ""))

    def test_nothing_else(self) -> None:
        """Other paths are 404, other methods 405."""
        self.assertEqual(self.get("/")[0], 404)
        self.assertEqual(self.get("/admin")[0], 404)
        self.assertEqual(self.get("/readyz", method="POST")[0], 405)
