"""HTTP under the API and the pages: a coroutine answers a request with a value; every refusal has one form."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any, ClassVar

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from relay import wire
from relay.embedded.rules import Refused

#: Largest request body, in bytes: a message of 30 MiB whose every second character JSON escapes.
LARGEST_REQUEST = 67_108_864

#: Seconds of silence before a connection is closed.  Longer than a client keeps an idle connection in its
#: pool (Twisted: 240 s), so that no POST goes out on one that we are just closing.
IDLE = 600

_log = Logger()


@frozen
class Answer:
    """An HTTP response.

    :ivar follow: where the body goes on after *body*: writes and finishes the request, whose headers are out.
    """

    body: bytes
    content_type: str = "application/json"
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    follow: Callable[[Request], None] | None = None


def refusal_json(refused: Refused) -> Answer:
    """The error of the contract: ``{"title": ..., "description": ...}``."""
    body = wire.encode_error(refused.title, refused.description)
    return Answer(body, status=refused.status, headers=refused.headers)


def argument(request: Request, name: str) -> str:
    """The last value of *name* in the query, ``""`` where there is none."""
    value: bytes = request.args.get(name.encode(), [b""])[-1]
    return value.decode("utf-8", "replace").strip()


def nothing() -> Refused:
    """404: there is no such path."""
    return Refused(404, "Not found", "There is nothing at this path")


class Endpoint(Resource):
    """One path.  Subclasses say how to :meth:`answer`.

    :cvar methods: the HTTP methods allowed.
    """

    isLeaf = True
    methods: ClassVar[tuple[str, ...]] = ("GET", "HEAD")

    def __init__(self) -> None:
        Resource.__init__(self)

    async def answer(self, request: Request) -> Answer:
        """The response.

        :raises Refused: an error, for :meth:`refusal`.
        """
        raise nothing()

    def refusal(self, request: Request, refused: Refused) -> Answer:
        """How an error looks here."""
        return refusal_json(refused)

    def render(self, request: Request) -> int:
        answering = Deferred.fromCoroutine(self._answer(request))
        gone: list[bool] = []

        def lost(reason: Failure) -> None:
            gone.append(True)

        request.notifyFinish().addErrback(lost)
        answering.addCallback(lambda answer: None if gone else write(request, answer))
        answering.addErrback(lambda failure: _log.failure("embedded: the answer was not written", failure))
        return NOT_DONE_YET

    async def _answer(self, request: Request) -> Answer:
        try:
            if request.method.decode("latin-1") not in self.methods:
                allow = ("Allow", ", ".join(self.methods))
                raise Refused(405, "Method not allowed", f"Use {' or '.join(self.methods)} here", [allow])
            return await self.answer(request)
        except Refused as refused:
            return self.refusal(request, refused)
        except Exception:
            _log.failure("embedded: {path} failed", path=request.path.decode("latin-1"))
            internal = Refused(500, "Internal error", "The request failed, the reason is in the server's log")
            return self.refusal(request, internal)


def write(request: Request, answer: Answer) -> None:
    """Send *answer*."""
    request.setResponseCode(answer.status, HTTPStatus(answer.status).phrase.encode())
    headers = {
        "Content-Type": answer.content_type,
        "Content-Length": str(len(answer.body)),
        "Server": "smtp-relay",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
        **{name: value for name, value in answer.headers if name != "Set-Cookie"},
    }
    for name, value in headers.items():
        request.setHeader(name, value)
    for name, value in answer.headers:
        if name == "Set-Cookie":
            request.responseHeaders.addRawHeader(name, value)
    if answer.follow is not None:
        request.responseHeaders.removeHeader("Content-Length")
    if request.method != b"HEAD":
        request.write(answer.body)
        if answer.follow is not None:
            answer.follow(request)
            return
    request.finish()


class _Oversized(Endpoint):
    """What a request gets whose body was not kept."""

    async def _answer(self, request: Request) -> Answer:
        return refusal_json(Refused(413, "Too large", "The request's body is larger than this server takes"))


class CappedRequest(Request):
    """A request whose body has a bound.

    Past the bound the body is read and dropped, so that the client reads its 413; far past it the
    connection is cut.
    """

    def __init__(self, channel: http.HTTPChannel, *args: Any, largest: int, **kwargs: Any) -> None:
        Request.__init__(self, channel, *args, **kwargs)
        self._largest = largest
        self._got = 0

    def gotLength(self, length: int | None) -> None:
        if length is not None and length > self._largest:
            self.content = io.BytesIO()
        else:
            Request.gotLength(self, length)

    def handleContentChunk(self, data: bytes) -> None:
        self._got += len(data)
        if self._got <= self._largest:
            Request.handleContentChunk(self, data)
        elif self._got > 4 * self._largest:
            self.channel.forceAbortClient()

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Keep Twisted from reading forms: its own parser of multipart/form-data is slow and unbounded."""
        self.posted_type = self.requestHeaders.getRawHeaders(b"Content-Type")
        self.requestHeaders.removeHeader(b"Content-Type")
        Request.requestReceived(self, command, path, version)

    def process(self) -> None:
        if self.posted_type:
            self.requestHeaders.setRawHeaders(b"Content-Type", self.posted_type)
        Request.process(self)

    def render(self, resrc: Any) -> None:
        Request.render(self, _Oversized() if self._got > self._largest else resrc)


class QuietSite(Site):
    """A site that writes no access log: each message has its line in the relay's log already."""

    displayTracebacks = False

    def __init__(self, root: Resource, reactor: IReactorTime, largest: int) -> None:
        Site.__init__(self, root, requestFactory=partial(CappedRequest, largest=largest), timeout=IDLE, reactor=reactor)

    def startFactory(self) -> None:
        """Nothing to open, and no clock to keep for log lines."""

    def stopFactory(self) -> None:
        """Nothing to close."""

    def log(self, request: http.Request) -> None:
        """Nothing."""


def site(root: Resource, reactor: IReactorTime, largest: int = LARGEST_REQUEST) -> Site:
    """What to listen with.

    :param largest: bound of a request's body, in bytes; a larger one is answered 413.
    """
    return QuietSite(root, reactor, largest)
