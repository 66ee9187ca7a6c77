"""An exchange through treq, or anything with its interface, under a deadline: for who embeds the relay.

The relay's own way is :mod:`relay.client.pool`; ``benchmarks/client.py`` shows what each layer costs.
"""

from __future__ import annotations

from collections.abc import Iterator

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web._newclient import RequestNotSent
from twisted.web.client import RequestTransmissionFailed, ResponseDone, ResponseFailed, ResponseNeverReceived
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse

from relay.client import connecting
from relay.client.answers import Answer, End, NoAnswer
from relay.client.request import Client, Request

log = Logger()


class ThroughTreq:
    """An :class:`~relay.client.request.Exchange` through *client*; redirects, and decoding, are its own."""

    def __init__(self, client: Client, clock: IReactorTime) -> None:
        self._client = client
        self._clock = clock

    async def exchange(self, request: Request, *, seconds: float, limit: int) -> Answer:
        """As :meth:`relay.client.request.Exchange.exchange`."""

        def expired(result: Answer | Failure, _: float) -> Answer:
            if isinstance(result, Failure):
                # What the deadline cut short has failed by now, and knows how far it was.
                raise NoAnswer("timeout", sent=result.value.sent if isinstance(result.value, NoAnswer) else True)
            return result

        conversation = Deferred.fromCoroutine(self._converse(request, limit))
        return await conversation.addTimeout(seconds, self._clock, onTimeoutCancel=expired)

    async def _converse(self, request: Request, limit: int) -> Answer:
        headers = Headers()
        for name, value in request.target.fields + request.fields:
            headers.addRawHeader(name, value)
        try:
            response = await self._client.request(
                request.target.method,
                request.target.url,
                headers=headers,
                data=None if request.body is None else b"".join(request.body),
                allow_redirects=False,
                unbuffered=True,
                reactor=self._clock,  # or treq imports the global one, for a timeout that is not used
            )
        except Exception as error:
            raise no_answer(error) from error
        read = _Body(limit)
        response.deliverBody(read)
        end = await read.finished
        return _answer(response, b"".join(read.pieces), end)


def _answer(response: IResponse, body: bytes, end: End) -> Answer:
    headers = tuple((name, value) for name, values in response.headers.getAllRawHeaders() for value in values)
    return Answer(response.code, body, end, headers)


class _Body(Protocol):
    """Collects a body up to a limit.

    :ivar finished: fires when the body has ended; cancelling it aborts the connection.
    """

    def __init__(self, limit: int) -> None:
        self.pieces: list[bytes] = []
        self.finished: Deferred[End] = Deferred(lambda _: self._abort())
        self._left = limit
        self._ended = False

    def dataReceived(self, data: bytes) -> None:
        """Keep *data*, or give up when it is too much."""
        if self._ended:
            return
        self._left -= len(data)
        if self._left < 0:
            self._end(End.TOO_LONG)
            self._abort()
        else:
            self.pieces.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The body is over: all of it, a part, or nobody knows."""
        if isinstance(reason.value, ResponseDone):
            self._end(End.COMPLETE)
        else:
            self._end(End.OPEN if isinstance(reason.value, PotentialDataLoss) else End.CUT)

    def _end(self, end: End) -> None:
        if not self._ended:
            self._ended = True
            self.finished.callback(end)

    def _abort(self) -> None:
        self._ended = True
        # Twisted's response gives its body only loseConnection.
        if self.transport is not None:
            abort = getattr(self.transport, "abortConnection", self.transport.loseConnection)
            abort()


#: What tells of a request that was written, at least in part.
_SENT = (ResponseNeverReceived, RequestTransmissionFailed, ResponseFailed)


def no_answer(error: Exception) -> NoAnswer:
    """What *error*, raised by treq or the agent beneath it, means for the request.

    Called while *error* is handled, and logs it when it is none of those that a network makes.  A client that is
    not ours may report a failed TLS handshake as a response that never came; so is TLS that fails later.
    """
    if isinstance(error, NoAnswer):  # by an agent that is ours
        return error
    label = next(filter(None, map(connecting.label, _causes(error))), "")
    if label:
        return NoAnswer(label, sent=isinstance(error, _SENT))
    if isinstance(error, RequestNotSent):
        return NoAnswer("lost", sent=False)
    if isinstance(error, ResponseNeverReceived | RequestTransmissionFailed):
        return NoAnswer("lost", sent=True)
    if isinstance(error, ResponseFailed):
        return NoAnswer("truncated", sent=True)
    if isinstance(error, ConnectError | OSError):
        return NoAnswer("error", sent=False)
    if not isinstance(error, CancelledError):
        log.failure("unexpected error in a request to the platform")
    return NoAnswer("error", sent=True)


def _causes(error: Exception) -> Iterator[Exception]:
    """*error*, and what Twisted's wrapped exceptions hold within."""
    yield error
    for reason in getattr(error, "reasons", ()):
        if isinstance(reason, Failure) and isinstance(reason.value, Exception):
            yield from _causes(reason.value)
