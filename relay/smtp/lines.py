"""The line layer of a session: what arrives, when it is read, and how the session ends (SMTP.md, "Framing").

Twisted's :class:`~twisted.mail.smtp.ESMTP` answers out of order, runs what was sent before STARTTLS, and loses
its place in long lines; DESIGN.md lists twelve such defects.  So this subclass keeps Twisted's interfaces
(portal, IMessageDelivery, IMessage) and owns everything between them and the transport:

* One command is in flight.  What arrives meanwhile waits in a buffer with a cap, and past it in the socket.
* The buffer is read either for a line or, in DATA, for the end of the message; never for both.
* Nothing is answered while the peer does not read.

The commands are in :mod:`relay.smtp.session`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from functools import cache
from math import inf
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IHalfCloseableProtocol, ISSLTransport, ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.mail.smtp import ESMTP, SMTPServerError
from twisted.python.failure import Failure as TwistedFailure
from zope.interface import implementer

from relay import replies
from relay.coroutines import resume
from relay.deadlines import EARLY
from relay.errors import Failure, PermanentFailure, Reason, TemporaryFailure
from relay.smtp.framing import DataReader
from relay.smtp.limits import peer_address

if TYPE_CHECKING:
    from relay.smtp.factory import SubmissionFactory

log = Logger()

#: Octets kept of what a client pipelines behind a command in flight; past it the socket is not read.
PIPELINE_BUFFER = 65_536
#: Seconds that a peer has to take the last reply.
FAREWELL = 5.0
#: Octets of a client's stream read and dropped after the last reply, so that it can read the reply.
FAREWELL_OCTETS = 1_048_576

_TLS_HANDSHAKE = b"\x16\x03"
#: Failures that say nothing against the client; the others count as errors of its session.
_UNCOUNTED = frozenset([Reason.TOO_MANY_RECIPIENTS, Reason.MEMORY, Reason.RATE, Reason.TOO_BIG])

#: What a command returns that cannot be answered at once.
Work = Coroutine[Any, Any, None]


@implementer(IHalfCloseableProtocol)
class LineLayer(ESMTP):
    """Reads lines and messages from the transport and runs them one at a time; a subclass knows what they mean."""

    factory: SubmissionFactory
    transport: Any

    def __init__(self, factory: SubmissionFactory) -> None:
        ESMTP.__init__(self)
        self.factory = factory
        self.host = factory.hostname
        #: the client's address, "" on a UNIX socket
        self.peer = ""
        self._deadlines = factory.deadlines
        self._now = factory.clock.seconds
        self._limits = factory.limits
        self._buffer = b""
        self._data: DataReader | None = None  # the message that is being read
        self._answer: Callable[[bytes], Work | None] | None = None  # takes the next line, instead of a command
        self._busy = False  # a command is in flight
        self._reading = False  # we are in _read
        self._stalled = False  # the peer does not read
        self._paused = False  # we do not read the socket
        self._half_closed = False  # the client will send nothing more
        self._turned_away = False
        self._handshaking = False  # STARTTLS was answered, and nothing has come in TLS yet
        self._closing = False
        self._lost = False
        self._heard = inf  # since when the client is silent, which does not count while we have the floor
        self._deadline = inf  # when what goes on now has to be over
        self._looks = inf  # when we look at these two
        self._farewell = 0  # octets since we said good-bye
        self._errors = 0
        self._mail_refused = False

    # What the commands are

    def _run(self, line: bytes) -> Work | None:
        """Run one command; what it returns is in flight."""
        raise NotImplementedError

    def _read_data(self, data: DataReader) -> None:
        """Give the buffer to the message."""
        raise NotImplementedError

    def _abandon_data(self) -> None:
        """The message will not come to its end."""
        raise NotImplementedError

    def _leave(self) -> None:
        """The client has gone, or may have, while a command was in flight."""
        raise NotImplementedError

    def _log_out(self) -> None:
        """Forget who signed in."""
        raise NotImplementedError

    # The connection

    def connectionMade(self) -> None:
        """Greet, or turn away."""
        self.peer = peer_address(self.transport.getPeer())
        self._helo = None
        self.startedTLS = ISSLTransport.providedBy(self.transport)
        self.transport.registerProducer(self, True)
        refusal = self.factory.opened(self, self.peer)
        if refusal is not None:
            self._turned_away = True
            self._close(refusal.reason, text=refusal.text)
            return
        self._write(self.factory.greeting)
        self._heard = self._now()
        self._deadline = self._heard + self._limits.greeting
        self._look_in(min(self._limits.idle, self._limits.greeting))

    def connectionLost(self, reason: TwistedFailure = connectionDone) -> None:
        """The connection has ended; a delivery in flight goes on, and its verdict stands."""
        self._lost = True
        self._deadlines.discard(self._look)
        self._buffer = b""
        if self._data is not None:
            self._abandon_data()
        elif self._busy:
            self._leave()
        self._log_out()
        if not self._busy:
            self.factory.closed(self, self.peer, self._turned_away)

    def readConnectionLost(self) -> None:
        """The client will send nothing more, but may still read: it gets the answers to what it sent."""
        self._half_closed = True
        if self._closing:
            self.transport.loseConnection()
        elif not self._busy:
            self._close(None)
        elif not self._buffer:
            # A client that gave up waiting looks like this too, and will not read its verdict.  One that has its
            # QUIT sent already waits for it.
            self._leave()

    def writeConnectionLost(self) -> None:
        """We will send nothing more."""

    def dataReceived(self, data: bytes) -> None:
        """Octets from the client."""
        if self._closing:
            self._farewell += len(data)
            if self._farewell > FAREWELL_OCTETS:
                self.transport.abortConnection()
            return
        self._handshaking = False
        self._buffer = self._buffer + data if self._buffer else data
        self._read()

    def _read(self) -> None:
        """Run what the buffer holds, one command after the other, as far as it goes."""
        if self._reading:
            return
        self._reading = True
        while self._buffer and not (self._busy or self._stalled or self._closing):
            if self._data is not None:
                self._read_data(self._data)
            elif not self._read_line():
                break
        self._reading = False
        if self._buffer or self._stalled or self._paused:
            self._throttle()

    def _throttle(self) -> None:
        """Read the socket only while there is room for what it brings."""
        full = self._stalled or (self._busy and len(self._buffer) > PIPELINE_BUFFER)
        if full == self._paused or self._lost or self._closing:
            return
        self._paused = full
        if full:
            self.transport.pauseProducing()
        else:
            self.transport.resumeProducing()

    def pauseProducing(self) -> None:
        """The transport's buffer is full: the peer does not read (IPushProducer)."""
        self._stalled = True
        self._throttle()

    def resumeProducing(self) -> None:
        """The peer reads again (IPushProducer)."""
        self._stalled = False
        self._read()

    def stopProducing(self) -> None:
        """The transport is gone (IPushProducer)."""

    # Time

    # Every line would move a timer.  So each leaves a time stamp, at which the one timer looks when it fires.

    def _set_deadline(self, seconds: float) -> None:
        """Whatever goes on now has to end in *seconds*."""
        self._deadline = self._now() + seconds
        if self._deadline < self._looks:
            self._look_in(seconds)

    def _look_in(self, seconds: float) -> None:
        self._looks = self._now() + seconds
        self._deadlines.set(self._look, seconds)

    def _look(self) -> None:
        """The time of the session may be over."""
        left = min(self._heard + self._limits.idle, self._deadline) - self._now()
        if left >= EARLY:
            # Silence that begins later cannot be over sooner than that.
            self._look_in(min(left, self._limits.idle))
        elif self._closing:
            self.cut_off()
        else:
            self._looks = inf
            self._out_of_time()

    def _out_of_time(self) -> None:
        log.info("session of {peer} timed out", peer=self.peer)
        if self._stalled or self._handshaking:
            self.transport.abortConnection()
        else:
            self._close(Reason.IDLE)

    # Replies

    def _send(self, reply: replies.Reply) -> None:
        self._write(reply.line())

    def _ok(self, text: str = "OK", code: int = 250) -> None:
        """Answer with what is no verdict; *text* is one of a few."""
        self._write(_line(code, text))

    def _write(self, octets: bytes) -> None:
        if not self._lost:
            self.transport.write(octets)

    def _refuse(self, failure: Failure) -> None:
        """Answer one command with a failure, and end the session that makes too many."""
        self._send(replies.reply(failure))
        # What follows a refused MAIL in a pipeline is refused with it, and is no further error.
        if failure.reason in _UNCOUNTED or (self._mail_refused and failure.reason is Reason.BAD_SEQUENCE):
            return
        self._errors += 1
        if self._errors >= self._limits.errors:
            self._close(Reason.ABUSE, linger=True)

    def _close(self, reason: Reason | None, linger: bool = False, text: str = "") -> None:
        """Say why, and end the connection; a peer that does not take the reply is cut off.

        :param text: in place of the words that the reason has.
        :param linger: what the client still sends is read and dropped, so that it comes to read the reply.
        """
        if self._closing or self._lost:
            return
        self._closing = True
        if self._data is not None:
            self._abandon_data()
        if reason is not None:
            self._send(replies.reply(TemporaryFailure(reason, text)))
        self._buffer = b""
        self._heard = inf
        self._set_deadline(FAREWELL)
        self.transport.unregisterProducer()
        if self._paused:
            self.transport.resumeProducing()
        if linger and not (self.startedTLS or self._half_closed) and ITCPTransport.providedBy(self.transport):
            self.transport.loseWriteConnection()
        else:
            self.transport.loseConnection()

    # Lines

    def _read_line(self) -> bool:
        """Run the first line of the buffer; False when it is not whole."""
        buffer = self._buffer
        end = buffer.find(b"\r\n")
        usual = 0 <= end <= self.factory.short_line and not buffer.startswith(_TLS_HANDSHAKE)
        if not (usual or self._check_line(end)):
            return False
        self._buffer = buffer[end + 2 :]
        self._heard = self._now()
        try:
            work = (self._answer or self._run)(buffer[:end])
        except Exception as error:
            self._answer = None
            self._failed(error)
        else:
            if work is not None:
                self._start(work)
        return True

    def _check_line(self, end: int) -> bool:
        """Whether the line at the head of the buffer, which may be too long, is whole; it has *end* octets, or none."""
        if self._buffer.startswith(_TLS_HANDSHAKE):
            self._give_up("No implicit TLS here: connect in clear text, then STARTTLS")
            return False
        if (len(self._buffer) if end < 0 else end + 2) > self._longest_line():
            self._give_up("Line is too long")
            return False
        return end >= 0

    def _longest_line(self) -> int:
        """Most octets of the line at the head of the buffer, CR LF included."""
        exchange = self._answer is not None or self._buffer[:5].upper() == b"AUTH "
        return self._limits.auth_line if exchange else self._limits.command_line

    def _give_up(self, text: str) -> None:
        """This is not SMTP, or has no end: say so once, and end the connection."""
        self._refuse(PermanentFailure(Reason.BAD_LINE, text))
        self._close(None, linger=True)

    def _start(self, work: Work) -> None:
        """Put a command in flight: nothing else runs, and silence does not count, until it is answered."""
        self._busy = True
        self._heard = inf
        self._go_on(None, work, copy_context())

    def _go_on(self, result: object, work: Work, context: Context) -> None:
        """Run the command in flight to its end, or until it waits for a Deferred, whose *result* takes it further."""
        try:
            context.run(resume, work, result).addBoth(self._go_on, work, context)
        except StopIteration:
            self._finished()
        except Exception as error:
            self._failed(error)
            self._finished()

    def _failed(self, error: Exception) -> None:
        """A command failed: a refusal has its reply, anything else is ours."""
        if isinstance(error, Failure):
            self._refuse(error)
        elif isinstance(error, SMTPServerError):
            self._send(replies.Reply(error.code, "", words(error.resp)))
        else:
            log.failure("a command of {peer} failed", TwistedFailure(error), peer=self.peer)
            self._send(replies.reply(TemporaryFailure(Reason.INTERNAL)))

    def _finished(self) -> None:
        """The command in flight has been answered."""
        self._busy = False
        if self._lost:
            self.factory.closed(self, self.peer, self._turned_away)
            return
        if self.factory.draining and not self._closing:
            self._close(Reason.SHUTDOWN)
        if not self._closing:
            self._heard = self._now()
            if self._buffer or self._paused:
                self._read()
        if self._half_closed and not self._busy:
            self._close(None)

    # Stopping

    def stop(self) -> None:
        """The relay stops: end the session now, or after what is in DATA or in flight."""
        if not self._busy and self._data is None:
            self._close(Reason.SHUTDOWN)

    def cut_off(self) -> None:
        """The time to stop is over."""
        self.transport.abortConnection()


@cache
def _line(code: int, text: str) -> bytes:
    """The line of a reply that is given again and again."""
    return replies.Reply(code, "", text).line()


def words(said: object) -> str:
    """An embedder's words for a reply, which may be octets or text, on one line."""
    return replies.one_line(said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said))
