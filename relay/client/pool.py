"""The connections to the platform: made, verified, kept, repeated on, closed.

Twisted's connection protocol does the HTTP.  The pool is ours, because Twisted's closes a connection in a way that
waits for the peer (DESIGN.md, number 9), reuses the oldest connection first, and repeats no POST.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, cast

from attrs import frozen
from service_identity import CertificateError, VerificationError
from service_identity.pyopenssl import verify_hostname, verify_ip_address
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IDelayedCall,
    IHandshakeListener,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, connectionDone
from twisted.python.failure import Failure
from twisted.web._newclient import HTTP11ClientProtocol, Request, RequestNotSent
from twisted.web.client import RequestTransmissionFailed, ResponseNeverReceived
from twisted.web.iweb import IBodyProducer, IResponse
from zope.interface import implementer

from relay.client.exchange import TLSFailure

#: Seconds an unused connection is kept: less than the keep-alive of common servers and balancers (60 and more).
KEPT = 20.0


@implementer(IBodyProducer)
class Content:
    """The bytes of a request, written at once; they can be written again when the request is repeated."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.length = len(content)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """Write all."""
        consumer.write(self._content)
        return succeed(None)

    def pauseProducing(self) -> None:
        """Too late: all is written."""

    resumeProducing = stopProducing = pauseProducing


class _Transport:
    """A transport that, told to lose the connection, aborts it.

    ``loseConnection`` waits until the peer has read what is written and, in TLS, until it says goodbye too.  This
    is called only when an answer is complete, or not wanted: there is nothing left to wait for.
    """

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self.loseConnection = transport.abortConnection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


@implementer(IHandshakeListener)
class Connection(HTTP11ClientProtocol):
    """One connection to the platform.

    :ivar ready: fires with this connection when a request may be written to it: at once, or in TLS when the
        certificate is known to be the platform's; fails with :exc:`TLSFailure`.
    """

    def __init__(self, pool: Pool, key: Hashable, tls_host: str) -> None:
        # HTTP11ClientProtocol's constructor is not annotated.
        cast("Any", super()).__init__(quiescentCallback=self._finished)
        self.ready: Deferred[Connection] = Deferred(lambda _: self._give_up())
        self.key = key
        self._pool = pool
        self._tls_host = tls_host
        self._left = pool.answer_size

    def makeConnection(self, transport: Any) -> None:
        """As :meth:`twisted.internet.interfaces.IProtocol.makeConnection`."""
        cast("Any", super()).makeConnection(_Transport(transport))  # not annotated

    def connectionMade(self) -> None:
        """Switch off Nagle's algorithm, whatever the transport calls itself."""
        nodelay = getattr(self.transport, "setTcpNoDelay", None)
        if nodelay is not None:
            nodelay(True)
        if not self._tls_host:
            self._done(self)

    def handshakeCompleted(self) -> None:
        """Check the name in the certificate.

        Twisted has done so; but it takes a certificate whose names cannot be read, or that has none, for good.
        """
        transport = cast("Any", self.transport)
        if transport.disconnecting:
            return  # Twisted found fault with the certificate; the reason comes with connectionLost
        literal = isIPAddress(self._tls_host) or isIPv6Address(self._tls_host)
        try:
            (verify_ip_address if literal else verify_hostname)(transport.getHandle(), self._tls_host)
        except (VerificationError, CertificateError, ValueError) as error:
            self.drop()
            self._done(TLSFailure(str(error)))
        else:
            self._done(self)

    def request(self, request: Request) -> Deferred[IResponse]:
        """As :meth:`twisted.web._newclient.HTTP11ClientProtocol.request`."""
        self._left = self._pool.answer_size
        return super().request(request)

    def dataReceived(self, data: bytes) -> None:
        """Refuse what was not asked for, and headers without end."""
        self._left -= len(data)
        if self.state == "QUIESCENT" or self._left < 0:
            self.expire()
        else:
            cast("Any", super()).dataReceived(data)  # not annotated

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Leave the pool."""
        self._pool.forget(self)
        self._done(TLSFailure(str(reason.value)))
        cast("Any", super()).connectionLost(reason)  # not annotated

    def drop(self) -> None:
        """Close without waiting for the peer."""
        if self.transport is not None:
            self.transport.loseConnection()

    def expire(self) -> None:
        """Leave the pool and close."""
        self._pool.forget(self)
        self.drop()

    def _give_up(self) -> None:
        """The deadline came before the handshake's end: nothing was sent."""
        self.drop()
        self._done(TLSFailure("the handshake did not end in time"))

    def _done(self, result: Connection | TLSFailure) -> None:
        if self.ready.called:
            return
        if isinstance(result, TLSFailure):
            self.ready.errback(result)
        else:
            self.ready.callback(result)

    def _finished(self, _: HTTP11ClientProtocol) -> None:
        self._pool.put(self)


class _ConnectionFactory(Factory):
    """Makes the one connection that an endpoint connects."""

    noisy = False

    def __init__(self, build: Callable[[], Connection]) -> None:
        self._build = build

    def buildProtocol(self, addr: IAddress | None) -> Connection:
        return self._build()


class Pool:
    """Connections that are kept for the next request, the last used first: what is not needed grows old and goes.

    :ivar persistent: asked for by :class:`~twisted.web.client.Agent`.
    :ivar answer_size: bytes that one answer may have on the wire.
    """

    persistent = True

    def __init__(self, clock: IReactorTime, size: int, answer_size: int) -> None:
        self.answer_size = answer_size
        self._clock = clock
        self._size = size
        self._idle: dict[Hashable, list[Connection]] = {}
        self._expiry: dict[Connection, IDelayedCall] = {}
        self._closed = False

    def getConnection(
        self, key: tuple[bytes, bytes, int], endpoint: IStreamClientEndpoint
    ) -> Deferred[Connection] | Deferred[_Kept]:
        """A kept connection for *key*, (scheme, host, port), or a new one; what Agent calls."""
        idle = self._idle.get(key)
        while idle:
            connection = idle[-1]
            self.forget(connection)
            if connection.state == "QUIESCENT":
                return succeed(_Kept(connection, partial(self._connect, key, endpoint)))
        return self._connect(key, endpoint)

    def put(self, connection: Connection) -> None:
        """Keep *connection*: its answer is complete."""
        idle = self._idle.setdefault(connection.key, [])
        if self._closed or len(idle) >= self._size:
            connection.drop()
            return
        idle.append(connection)
        self._expiry[connection] = self._clock.callLater(KEPT, connection.expire)

    def forget(self, connection: Connection) -> None:
        """*connection* is in use, or gone."""
        expiry = self._expiry.pop(connection, None)
        if expiry is not None:
            self._idle[connection.key].remove(connection)
            if expiry.active():
                expiry.cancel()

    def close(self) -> None:
        """Drop every connection that is idle, and from now on each that becomes idle."""
        self._closed = True
        for connection in list(self._expiry):
            connection.expire()

    def _connect(self, key: tuple[bytes, bytes, int], endpoint: IStreamClientEndpoint) -> Deferred[Connection]:
        scheme, host, _ = key
        tls_host = host.decode("ascii") if scheme == b"https" else ""
        factory = _ConnectionFactory(lambda: Connection(self, key, tls_host))
        connecting = cast("Deferred[Connection]", endpoint.connect(factory))
        return connecting.addCallback(lambda connection: connection.ready)


@frozen
class _Kept:
    """A kept connection, for one request.

    The platform may have closed it just when the request left.  A request that carries an Idempotency-Key, or has
    no body, is then repeated, once, on a new connection, as Go's net/http does.
    """

    _connection: Connection
    _connect: Callable[[], Deferred[Connection]]

    def request(self, request: Request) -> Deferred[IResponse]:
        """As :meth:`Connection.request`."""
        return Deferred.fromCoroutine(self._request(request))

    async def _request(self, request: Request) -> IResponse:
        try:
            return await self._connection.request(request)
        except (RequestNotSent, RequestTransmissionFailed, ResponseNeverReceived) as error:
            if not _repeatable(request) or _cancelled(error):
                raise
            stale = error
        try:
            connection = await self._connect()
        except Exception:
            if isinstance(stale, RequestNotSent):
                raise
            raise stale from None  # the first attempt may have arrived
        return await connection.request(request)


def _repeatable(request: Request) -> bool:
    body = request.bodyProducer
    return body is None or (isinstance(body, Content) and request.headers.hasHeader("Idempotency-Key"))


def _cancelled(error: Exception) -> bool:
    reasons: list[Failure] = getattr(error, "reasons", [])
    return any(isinstance(reason.value, CancelledError) for reason in reasons)
