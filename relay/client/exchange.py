"""One HTTP exchange under a deadline: a request goes out, an :class:`~relay.client.answers.Answer` comes back.

This is the only place of the relay that calls treq; what an answer means stands in :mod:`relay.client.answers`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from OpenSSL.SSL import Error as SSLError
from service_identity import CertificateError, VerificationError
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    ConnectionRefusedError,
    DNSLookupError,
    TimeoutError,
)
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web._newclient import RequestNotSent
from twisted.web.client import RequestTransmissionFailed, ResponseDone, ResponseFailed, ResponseNeverReceived
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse

from relay.client.answers import Answer, End, NoAnswer

log = Logger()


class Client(Protocol):
    """What the relay needs of treq: a :class:`treq.client.HTTPClient`, or one of its fakes."""

    def request(self, method: str, url: str, **options: Any) -> Deferred[Any]:
        """Fire with the response once its headers are there."""


class TLSFailure(Exception):
    """The TLS handshake failed, the certificate is not good or is another's: nothing was sent."""


async def exchange(
    client: Client,
    clock: IReactorTime,
    method: str,
    url: str,
    headers: Headers,
    body: bytes | None = None,
    *,
    seconds: float,
    limit: int,
) -> Answer:
    """Send one request and read its answer, within *seconds* from connecting to the end of the body.

    At the deadline, and when whoever awaits this cancels it, the connection is aborted.  No redirect is followed.

    :param limit: bytes of the body that are read; past it the connection is aborted.
    :raises NoAnswer: no status came.
    """

    def expired(result: Answer | Failure, _: float) -> Answer:
        if isinstance(result, Failure):
            # What the deadline cut short has failed by now, and knows how far it was.
            raise NoAnswer("timeout", sent=result.value.sent if isinstance(result.value, NoAnswer) else True)
        return result

    conversation = Deferred.fromCoroutine(_converse(client, clock, method, url, headers, body, limit))
    return await conversation.addTimeout(seconds, clock, onTimeoutCancel=expired)


async def _converse(
    client: Client, clock: IReactorTime, method: str, url: str, headers: Headers, body: bytes | None, limit: int
) -> Answer:
    try:
        response = await client.request(
            method,
            url,
            headers=headers,
            data=body,
            allow_redirects=False,
            unbuffered=True,
            reactor=clock,  # or treq imports the global one, for a timeout that is not used
        )
    except Exception as error:
        raise no_answer(error) from error
    read = _Body(limit)
    response.deliverBody(read)
    end = await read.finished
    return _answer(response, b"".join(read.pieces), end)


def _answer(response: IResponse, body: bytes, end: End) -> Answer:
    def header(name: str) -> str:
        values = response.headers.getRawHeaders(name)
        return str(values[0]) if values else ""

    return Answer(response.code, body, end, header("retry-after"), header("date"), header("location"))


class _Body(TwistedProtocol):
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
        # Twisted's response gives its body only loseConnection; relay.client.agent makes that an abort.
        if self.transport is not None:
            abort = getattr(self.transport, "abortConnection", self.transport.loseConnection)
            abort()


#: What a connection that could not be made is called; an error not listed is ``error``.
_CONNECTING: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
    (ConnectionRefusedError, "refused"),
    (DNSLookupError, "dns"),
    ((TLSFailure, SSLError, VerificationError, CertificateError), "tls"),
    ((TimeoutError, ConnectingCancelledError), "timeout"),
)
#: What tells of a request that was written, at least in part.
_SENT = (ResponseNeverReceived, RequestTransmissionFailed, ResponseFailed)


def no_answer(error: Exception) -> NoAnswer:
    """What *error*, raised by treq or the agent beneath it, means for the request.

    Called while *error* is handled, and logs it when it is none of those that a network makes.  A client that is
    not ours may report a failed TLS handshake as a response that never came; so is TLS that fails later.
    """
    causes = list(_causes(error))
    for kinds, label in _CONNECTING:
        if any(isinstance(cause, kinds) for cause in causes):
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
