"""What the admin endpoint shows: ``/healthz``, ``/readyz`` and ``/metrics``."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.http import Request as HTTPRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

log = Logger()


class _Page(Resource):
    """A path that answers GET and HEAD with a status, a content type and a body."""

    isLeaf = True

    def __init__(self, answer: Callable[[Request], Awaitable[_Answer]]) -> None:
        Resource.__init__(self)
        self._answer = answer

    def render_GET(self, request: Request) -> int:
        gone: list[object] = []
        request.notifyFinish().addErrback(gone.append)
        Deferred.fromCoroutine(self._render(request, gone))
        return NOT_DONE_YET

    async def _render(self, request: Request, gone: list[object]) -> None:
        try:
            answer = await self._answer(request)
        except Exception:
            log.failure("{path} failed", path=request.path.decode("latin-1"))
            answer = _json(500, {"status": "internal error, see the log"})
        if gone:
            return
        request.setResponseCode(answer.status)
        request.setHeader(b"Content-Type", answer.content_type)
        request.setHeader(b"Cache-Control", b"no-store")
        if request.method != b"HEAD":
            request.write(answer.body)
        request.finish()


@frozen
class _Answer:
    status: int
    content_type: bytes
    body: bytes


def _json(status: int, body: Mapping[str, object]) -> _Answer:
    return _Answer(status, b"application/json", json.dumps(body).encode() + b"\n")


class _QuietSite(Site):
    """A site without an access log: probes come every second."""

    displayTracebacks = False
    noisy = False

    def __init__(self, root: Resource, clock: IReactorTime) -> None:
        Site.__init__(self, root, timeout=60, reactor=clock)

    def log(self, request: HTTPRequest) -> None:
        """Nothing."""


class Relay(Protocol):
    """What is asked for the pages."""

    async def missing(self) -> Mapping[str, str]:
        """What is missing to take mail, by name; empty when ready."""

    def breakers(self) -> Mapping[str, str]:
        """The state of each platform's breaker, by URL; shown beside the verdict."""

    async def exposition(self, accept: str) -> tuple[bytes, bytes]:
        """The metrics: Content-Type and body for an Accept header."""


def make_site(relay: Relay, clock: IReactorTime) -> Site:
    """The HTTP factory of the admin endpoint."""

    async def healthz(request: Request) -> _Answer:
        return _json(200, {"status": "ok"})

    async def readyz(request: Request) -> _Answer:
        missing = await relay.missing()
        verdict: dict[str, object] = {"status": "not ready", "missing": missing} if missing else {"status": "ready"}
        breakers = relay.breakers()
        return _json(503 if missing else 200, {**verdict, "breakers": breakers} if breakers else verdict)

    async def exposition(request: Request) -> _Answer:
        return _Answer(200, *await relay.exposition(request.getHeader("accept") or ""))

    root = Resource()
    root.putChild(b"healthz", _Page(healthz))
    root.putChild(b"readyz", _Page(readyz))
    root.putChild(b"metrics", _Page(exposition))
    return _QuietSite(root, clock)
