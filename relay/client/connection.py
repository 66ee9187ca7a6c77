"""One connection to the platform, for one exchange after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import inf
from typing import Any

from OpenSSL.SSL import Error as SSLError
from service_identity import CertificateError, VerificationError
from service_identity.pyopenssl import verify_hostname, verify_ip_address
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHandshakeListener, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from relay.client.answers import Answer, NoAnswer
from relay.client.connecting import TLSFailure
from relay.client.reader import Reader
from relay.client.request import Request
from relay.deadlines import EARLY, Deadlines

#: Bytes of a request that are given to the transport at a time; of a longer one no second copy is made.
AT_ONCE = 131_072


class Stale(NoAnswer):
    """The connection ended before a byte of the answer; if it had been kept, it may have been closed long before."""


@implementer(IHandshakeListener)
class Connection(Protocol):
    """One connection; it closes without waiting for the peer (DESIGN.md, number 9).

    ``loseConnection`` waits until the peer has read what is written and, in TLS, until it says goodbye too.  This
    one closes only when an answer is complete, or not wanted: there is nothing left to wait for.

    :param tls_host: whom the certificate must name, ``""`` without TLS.
    :param free: told that it may be used again.
    :param gone: told that it may not, if it was not told before.
    :ivar ready: fires with this connection when a request may be written to it: at once, or in TLS when the
        certificate is known to be the platform's; fails with :exc:`TLSFailure`.
    """

    transport: Any

    def __init__(
        self,
        tls_host: str,
        deadlines: Deadlines,
        free: Callable[[Connection], None],
        gone: Callable[[Connection], None],
    ) -> None:
        self.ready: Deferred[Connection] = Deferred(lambda _: self._give_up())
        self._tls_host = tls_host
        self._deadlines = deadlines
        self._free = free
        self._gone = gone
        self._reader = Reader()
        self._asked: Deferred[Answer] | None = None
        self._upload: Upload | None = None
        # A request would move a timer twice.  So each leaves a time, at which the one timer looks when it fires.
        self._due = self._looks = inf

    # --- one exchange

    def ask(self, request: Request, *, seconds: float, limit: int) -> Deferred[Answer]:
        """Send *request*; its answer, or a :exc:`NoAnswer` as in :meth:`relay.client.request.Exchange.exchange`."""
        self._reader.expect(limit)
        self.keep(seconds)
        asked: Deferred[Answer] = Deferred(self._cancelled)
        self._asked = asked
        head, body = request.head, request.body or ()
        if len(head) + sum(map(len, body)) <= AT_ONCE:
            self.transport.write(b"".join((head, *body)))
        else:
            self._upload = Upload(self.transport, (head, *body))
        return asked

    def keep(self, seconds: float) -> None:
        """Wait for the answer, or for the next exchange, at most *seconds*."""
        self._due = self._deadlines.seconds() + seconds
        if self._due < self._looks:
            self._looks = self._due
            self._deadlines.set(self._look, seconds)

    def _look(self) -> None:
        """The answer, or the next request, did not come in time, if the time is still the same."""
        self._looks = inf
        left = self._due - self._deadlines.seconds()
        if left > EARLY:
            self.keep(left)
        else:
            self._failed("timeout")

    def drop(self) -> None:
        """Close, and leave those who know it."""
        self._deadlines.discard(self._look)
        self._gone(self)
        if self.transport is not None:
            self.transport.abortConnection()

    def _cancelled(self, _: Deferred[Answer]) -> None:
        self._failed("error")

    def _failed(self, label: str) -> None:
        asked, self._asked = self._asked, None
        self.drop()
        if asked is not None:
            asked.errback(NoAnswer(label, sent=True))

    def _answered(self, answer: Answer) -> None:
        asked, self._asked = self._asked, None
        # What the platform answered before it had all of the request ends with the connection.
        if self._reader.reusable and (self._upload is None or self._upload.done):
            self._upload = None
            self._free(self)
        else:
            self.drop()
        if asked is not None:
            asked.callback(answer)

    # --- what Twisted calls

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
        if self.transport.disconnecting:
            return  # Twisted found fault with the certificate; the reason comes with connectionLost
        literal = isIPAddress(self._tls_host) or isIPv6Address(self._tls_host)
        try:
            (verify_ip_address if literal else verify_hostname)(self.transport.getHandle(), self._tls_host)
        except (VerificationError, CertificateError, ValueError) as error:
            self.drop()
            self._done(TLSFailure(str(error)))
        else:
            self._done(self)

    def dataReceived(self, data: bytes) -> None:
        """Read on, and refuse what was not asked for."""
        if self._asked is None:
            self.drop()
            return
        try:
            answer = self._reader.feed(data)
        except NoAnswer as error:
            self._failed(error.label)
        else:
            if answer is not None:
                self._answered(answer)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Whoever waits gets what there is."""
        self._deadlines.discard(self._look)
        self._gone(self)
        self._done(TLSFailure(str(reason.value)))
        asked, self._asked = self._asked, None
        if asked is None:
            return
        if not self._reader.begun:
            asked.errback(Stale("tls" if isinstance(reason.value, SSLError) else "lost", sent=True))
            return
        try:
            asked.callback(self._reader.end())
        except NoAnswer as error:
            asked.errback(error)

    # --- the handshake

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


@implementer(IPushProducer)
class Upload:
    """Writes a long request as fast as the peer takes it.

    :ivar done: whether all is written.
    """

    def __init__(self, transport: Any, pieces: Sequence[bytes]) -> None:
        self.done = False
        self._transport = transport
        self._left = _cut(pieces)
        transport.registerProducer(self, True)
        self.resumeProducing()

    def resumeProducing(self) -> None:
        """Write until the transport has enough."""
        self._paused = False
        for piece in self._left:
            self._transport.write(piece)
            if self._paused:
                return
        if not self.done:
            self.done = True
            self._transport.unregisterProducer()

    def pauseProducing(self) -> None:
        """The transport has enough."""
        self._paused = True

    def stopProducing(self) -> None:
        """The connection has ended."""
        self._left = iter(())
        self._paused = True


def _cut(pieces: Sequence[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        view = memoryview(piece)
        for at in range(0, len(view), AT_ONCE):
            yield bytes(view[at : at + AT_ONCE])
