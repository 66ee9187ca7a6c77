"""The relay's connections beneath treq, for who wants that interface: ``treq_client(make_client(reactor))``.

The relay itself exchanges without it; ``benchmarks/client.py`` shows what each layer costs.
"""

from __future__ import annotations

from functools import lru_cache
from http.cookiejar import DefaultCookiePolicy
from typing import Any, cast

from attrs import frozen
from hyperlink import EncodedURL
from treq.client import HTTPClient
from treq.cookies import IndexableCookieJar
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer, IProtocol
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from relay.client.answers import Answer, End
from relay.client.request import Exchange, Request, target
from relay.policy import Platform


class TreqClient(HTTPClient):
    """treq on :class:`Agent`; no cookies."""

    def __init__(self, agent: IAgent) -> None:
        no_cookies = IndexableCookieJar(policy=DefaultCookiePolicy(allowed_domains=[]))
        super().__init__(agent, cookiejar=no_cookies, data_to_body_producer=Content)

    def request(self, method: str, url: Any, **options: Any) -> Deferred[Any]:
        """As :meth:`treq.client.HTTPClient.request`, on a URL that is in its final form, as text."""
        return super().request(method, prepared(url) if isinstance(url, str) else url, **options)


def treq_client(exchange: Exchange, policy: Platform | None = None) -> TreqClient:
    """treq, on connections of the relay's.

    :param exchange: :func:`relay.client.pool.make_client`.
    """
    return TreqClient(Agent(exchange, policy or Platform()))


class PreparedURL(EncodedURL):
    """A URL that treq need not encode: it would do so for each request, and fails on an IPv6 address."""

    def to_uri(self) -> PreparedURL:
        """This one."""
        return self


@lru_cache(maxsize=64)
def prepared(url: str) -> PreparedURL:
    """*url*, ASCII and percent-encoded already."""
    return cast("PreparedURL", PreparedURL.from_text(url))


@implementer(IAgent)
@frozen
class Agent:
    """Gives a response when all of it is there: within ``platform.timeout``, and no longer than ``answer_size``.

    It takes back that treq offers gzip with every request, and would inflate an answer without a bound.
    """

    _exchange: Exchange
    _policy: Platform

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        """As :meth:`twisted.web.iweb.IAgent.request`; fails with :exc:`~relay.client.answers.NoAnswer`."""
        return Deferred.fromCoroutine(self._request(method, uri, headers or Headers(), bodyProducer))

    async def _request(self, method: bytes, uri: bytes, headers: Headers, content: IBodyProducer | None) -> IResponse:
        fields = tuple(
            (name.decode("ascii"), value.decode("utf-8"))
            for name, values in headers.getAllRawHeaders()
            for value in values
            if name.lower() not in (b"accept-encoding", b"host", b"content-length")
        )
        body = None if content is None else [await _all_of(content)]
        to = target(method.decode("ascii"), uri.decode("ascii"), (("Accept-Encoding", "identity"),))
        request = Request(to, fields, body)
        answer = await self._exchange.exchange(request, seconds=self._policy.timeout, limit=self._policy.answer_size)
        return Response(request, answer)


async def _all_of(producer: IBodyProducer) -> bytes:
    """What *producer* writes."""
    if isinstance(producer, Content):
        return producer.content
    pieces: list[bytes] = []
    await producer.startProducing(_Collector(pieces))
    return b"".join(pieces)


@implementer(IConsumer)
@frozen
class _Collector:
    """Takes what a producer has, at its own speed."""

    _pieces: list[bytes]

    def write(self, data: bytes) -> None:
        self._pieces.append(data)

    def registerProducer(self, producer: object, streaming: bool) -> None:
        """Never to be paused."""

    def unregisterProducer(self) -> None:
        """Done."""


@implementer(IBodyProducer)
class Content:
    """The bytes of a request, written at once."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.length = len(content)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """Write all."""
        consumer.write(self.content)
        return succeed(None)

    def pauseProducing(self) -> None:
        """Too late: all is written."""

    resumeProducing = stopProducing = pauseProducing


@implementer(IResponse)
class Response:
    """An answer, as treq reads it."""

    version = (b"HTTP", 1, 1)
    phrase = b""
    previousResponse = None

    def __init__(self, request: Request, answer: Answer) -> None:
        self.request = request
        self.code = answer.status
        self.length = len(answer.body)
        self.headers = Headers()
        for name, value in answer.headers:
            if name.lower() != b"content-encoding":
                self.headers.addRawHeader(name, value)
        self._answer = answer

    def setPreviousResponse(self, response: IResponse) -> None:
        """As :meth:`twisted.web.iweb.IResponse.setPreviousResponse`; no redirect is followed."""

    def deliverBody(self, protocol: IProtocol) -> None:
        """Give the body to *protocol*, and how it ended."""
        protocol.makeConnection(cast("Any", _Over()))
        protocol.dataReceived(self._answer.body)
        ends: dict[End, Exception] = {End.COMPLETE: ResponseDone(), End.OPEN: PotentialDataLoss()}
        protocol.connectionLost(Failure(ends.get(self._answer.end) or ResponseFailed([])))


class _Over:
    """The transport of a body that is there already."""

    def pauseProducing(self) -> None:
        """Nothing more comes."""

    resumeProducing = stopProducing = loseConnection = abortConnection = pauseProducing
