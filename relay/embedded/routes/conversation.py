"""One connection to a smarthost: Twisted's ESMTP client, with what it gets wrong put right.

Twisted's own (26.10) retries by itself, logs passwords among its lines, takes what comes in clear text behind the
reply to STARTTLS for a reply in TLS, says HELO for ever to whom refuses it, tries AUTH PLAIN twice, makes CR CR LF of
CR LF, doubles no dot at the beginning of a message, leaves the codes out of what it says was answered, and its timer
is the global reactor's.
"""

from __future__ import annotations

import base64
import enum
import hashlib
import hmac
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.mail.smtp import SUCCESS, ESMTPClient
from twisted.python.failure import Failure as TwistedFailure

from relay.embedded.routes.building import Built
from relay.embedded.routes.values import Smarthost
from relay.embedded.routes.ways import Hear, NotTaken
from relay.embedded.rules import storable
from relay.errors import Failure, PermanentFailure, Reason, TemporaryFailure

#: Seconds until a reply, and until the one to the message itself (RFC 5321 section 4.5.3.2: giving up on that one too
#: early makes duplicates).
REPLY = 60.0
FINAL = 600.0
#: Bytes a second of the slowest line that a message is sent on.
SLOWEST = 16_384
#: Seconds that a connection is kept open for the next message.
IDLE = 5.0

#: Most lines and characters of one reply.
MOST_LINES = 100
LONGEST = 4000

#: Replies that are about us and the route, not about a message, although they are 5xx (RFC 4954 section 6).
_OURS = frozenset([530, 534, 535, 538])

_REPLY = re.compile(rb"([2-5][0-9][0-9])(?:([ -])(.*))?", re.DOTALL)
_DOTS = re.compile(rb"^\.", re.MULTILINE)


class Stage(enum.Enum):
    """How far a conversation is; the value is what was said last."""

    GREETING = "the connection"
    EHLO = "EHLO"
    STARTTLS = "STARTTLS"
    AUTH = "AUTH"
    READY = "nothing"
    MAIL = "MAIL FROM"
    RCPT = "RCPT TO"
    DATA = "DATA"
    MESSAGE = "the message"
    OVER = "QUIT"


def unheard(direction: str, line: str) -> None:
    """Nobody listens."""


class Conversation(ESMTPClient):
    """Says hello, then hands over one message after another.

    :param context: makes TLS connections to this smarthost, None where nothing is encrypted.
    :param identity: what we call ourselves.
    :param hear: told of every line, ``">"`` ours or ``"<"`` theirs; secrets are left out.
    :ivar ready: fires when a message may be sent, or with :class:`NotTaken`.
    :ivar stale: whether it had ended already when the last message was given to it.
    """

    debug = False  # its log would hold the password
    timeout: Any = REPLY
    transport: Any
    callLater: Any
    _expected: Any
    _okresponse: Any
    _failresponse: Any
    if TYPE_CHECKING:  # Twisted does not type them
        setTimeout: Callable[[float | None], None]
        resetTimeout: Callable[[], None]
        clearLineBuffer: Callable[[], bytes]
        tryTLS: Callable[[int, bytes, object], None]

    def __init__(
        self,
        smarthost: Smarthost,
        context: Any,
        identity: str,
        clock: IReactorTime,
        hear: Hear = unheard,
    ) -> None:
        ESMTPClient.__init__(self, None, context, identity.encode("ascii", "replace"))
        self.callLater = clock.callLater
        self.requireTransportSecurity = smarthost.tls != "none"
        self.requireAuthentication = bool(smarthost.user)
        self.ready: Deferred[Conversation] = Deferred()
        self.stage = Stage.GREETING
        self.stale = False
        self._smarthost = smarthost
        self._hear = hear
        self._offers: dict[bytes, bytes] = {}
        self._lines: list[bytes] = []
        self._reply = ""
        self._message: Built | None = None
        self._result: Deferred[tuple[str, str]] | None = None

    @property
    def by(self) -> str:
        """Who is at the other end."""
        address = getattr(self.transport.getPeer(), "host", "") if self.transport is not None else ""
        host = self._smarthost.host
        return f"{host}:{self._smarthost.port}" + (f" [{address}]" if address and address != host else "")

    # --- lines

    def lineReceived(self, line: bytes) -> None:
        """Collect the lines of a reply, exactly; the last one is answered."""
        self._hear("<", _shown(line))
        match = _REPLY.fullmatch(line)
        self._lines.append(line)
        if match is None or len(self._lines) > MOST_LINES:
            self._reply = _shown(b"\n".join(self._lines[:MOST_LINES]))
            return self._fail(TemporaryFailure(Reason.UNREACHABLE), f"not a reply of SMTP: {self._reply}")
        if match[2] == b"-":
            return None
        lines, self._lines = self._lines, []
        self._reply = _shown(b"\n".join(lines))
        self.code = int(match[1])
        self.resetTimeout()
        texts = b"\n".join(each[4:] for each in lines)
        if self.code in self._expected:
            self._okresponse(self.code, texts)
        else:
            self._failresponse(self.code, texts)
        return None

    def lineLengthExceeded(self, line: bytes) -> None:
        """A line without end is no reply."""
        self._fail(TemporaryFailure(Reason.UNREACHABLE), "a line of more than 16384 octets, not a reply of SMTP")

    def sendLine(self, line: bytes) -> None:
        """Say something that anybody may hear."""
        self._hear(">", _shown(line))
        self.transport.write(line + b"\r\n")

    def _say_secret(self, line: bytes, shown: str) -> None:
        self._hear(">", shown)
        self.transport.write(line + b"\r\n")

    # --- hello

    def connectionMade(self) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        ESMTPClient.connectionMade(self)
        self._failresponse = self._not_ready

    def esmtpState_ehlo(self, code: int, resp: bytes) -> None:
        """Say EHLO; HELO is good enough where neither TLS nor AUTH is wanted."""
        self.stage = Stage.EHLO
        ESMTPClient.esmtpState_ehlo(self, code, resp)

    def smtpState_helo(self, code: int, resp: bytes) -> None:
        """Say HELO, once."""
        ESMTPClient.smtpState_helo(self, code, resp)
        self._failresponse = self._not_ready

    def esmtpState_serverConfig(self, code: int, resp: bytes) -> None:
        """Read what is offered: keywords in any case, none on the first line (RFC 5321 section 4.1.1.1)."""
        pairs = (line.strip().partition(b" ") for line in resp.splitlines()[1:])
        self._offers = {name.upper(): rest for name, _, rest in pairs}
        self._failresponse = self._not_ready
        if self.requireTransportSecurity and not self._tlsMode:
            self.stage = Stage.STARTTLS
        self.tryTLS(code, resp, self._offers)

    def esmtpState_starttls(self, code: int, resp: bytes) -> None:
        """Begin TLS, and forget what was said before it (RFC 3207 section 4.2)."""
        if self.clearLineBuffer():
            return self._fail(TemporaryFailure(Reason.UNREACHABLE), "more than a reply came in clear text to STARTTLS")
        self._offers = {}
        self.transport.startTLS(self.context)
        self._tlsMode = True
        return self.esmtpState_ehlo(code, resp)

    def esmtpTLSRequired(self, code: int = -1, resp: bytes | None = None) -> None:
        """It offers no STARTTLS, and nothing goes out in clear text."""
        self._fail(TemporaryFailure(Reason.UNREACHABLE), "STARTTLS is not offered, and the route requires it")

    def authenticate(self, code: int, resp: bytes, items: object) -> None:
        """Sign in with the first mechanism that is offered; without TLS rather with one that hides the password."""
        if not self.requireAuthentication:
            return self.smtpState_from(code, resp)
        self.stage = Stage.AUTH
        offered = self._offers.get(b"AUTH", b"").upper().split()
        known = [b"PLAIN", b"LOGIN", b"CRAM-MD5"]
        for mechanism in known if self._tlsMode else reversed(known):
            if mechanism in offered:
                return self._sign_in(mechanism.decode())
        said = ", ".join(_shown(each) for each in offered) or "none"
        return self._fail(
            TemporaryFailure(Reason.UNREACHABLE), f"AUTH is needed with PLAIN, LOGIN or CRAM-MD5, and it offers {said}"
        )

    def _sign_in(self, mechanism: str) -> None:
        user, password = self._smarthost.user.encode(), self._smarthost.password.encode()
        answers: list[Callable[[bytes], bytes]]
        first = ""
        if mechanism == "PLAIN":
            first = " " + base64.b64encode(b"\0" + user + b"\0" + password).decode()
            answers = []
        elif mechanism == "LOGIN":
            answers = [lambda challenge: user, lambda challenge: password]
        else:
            answers = [
                lambda challenge: b"%s %s" % (user, hmac.new(password, challenge, hashlib.md5).hexdigest().encode())
            ]
        self._expected = [235, 334]
        self._okresponse = self._challenged(iter(answers))
        self._say_secret(f"AUTH {mechanism}{first}".encode(), f"AUTH {mechanism}{' …' if first else ''}")

    def _challenged(self, answers: Iterator[Callable[[bytes], bytes]]) -> Callable[[int, bytes], None]:
        """What to do with the replies to AUTH."""

        def replied(code: int, resp: bytes) -> None:
            answer = next(answers, None)
            if code == 235:
                self.smtpState_from(code, resp)
            elif answer is None:
                self._fail(TemporaryFailure(Reason.UNREACHABLE), f"more is asked than AUTH has answers: {self._reply}")
            else:
                try:
                    challenge = base64.b64decode(resp)
                except ValueError:
                    return self._fail(TemporaryFailure(Reason.UNREACHABLE), f"not a challenge: {self._reply}")
                self._say_secret(base64.b64encode(answer(challenge)), "…")
            return None

        return replied

    def smtpState_from(self, code: int, resp: bytes) -> None:
        """All is said that has to be said before a message."""
        self._rest()
        self.ready.callback(self)

    # --- a message

    def send(self, message: Built) -> Deferred[tuple[str, str]]:
        """Hand over *message*: the exact words that it was taken with, and whose; or :class:`NotTaken`.

        The connection is good for another one when :attr:`stage` is ``READY`` again.
        """
        self._message, self._result = message, Deferred()
        result = self._result
        limit = self._offers.get(b"SIZE", b"")
        if limit.isdigit() and 0 < int(limit[:20]) < len(message.content):
            text = f"the message has {len(message.content)} bytes, and its SIZE is {int(limit[:20])}"
            self._fail(PermanentFailure(Reason.TOO_BIG), text)
        elif message.utf8 and b"SMTPUTF8" not in self._offers:
            text = "an address is not ASCII, and SMTPUTF8 is not offered"
            self._fail(PermanentFailure(Reason.NON_ASCII_ADDRESS), text)
        else:
            size = f" SIZE={len(message.content)}" if b"SIZE" in self._offers else ""
            utf8 = " SMTPUTF8 BODY=8BITMIME" if message.utf8 else ""
            self._ask(Stage.MAIL, f"MAIL FROM:<{message.sender}>{size}{utf8}", self._mail_taken)
        return result

    def _ask(self, stage: Stage, line: str, taken: Callable[[int, bytes], None]) -> None:
        self.stage = stage
        self.setTimeout(REPLY)
        self._expected, self._okresponse, self._failresponse = (
            [354] if stage is Stage.DATA else SUCCESS,
            taken,
            self._declined,
        )
        self.sendLine(line.encode())

    def _mail_taken(self, code: int, resp: bytes) -> None:
        assert self._message is not None
        self._ask(Stage.RCPT, f"RCPT TO:<{self._message.recipient}>", self._recipient_taken)

    def _recipient_taken(self, code: int, resp: bytes) -> None:
        self._ask(Stage.DATA, "DATA", self._go_ahead)

    def _go_ahead(self, code: int, resp: bytes) -> None:
        assert self._message is not None
        self.stage = Stage.MESSAGE
        content = _DOTS.sub(b"..", self._message.content) + b".\r\n"
        self.setTimeout(FINAL + len(content) / SLOWEST)
        self._expected, self._okresponse = SUCCESS, self._taken
        # As a whole: it is in memory anyway, and a producer over TLS needs the global reactor.
        self.transport.write(content)

    def _taken(self, code: int, resp: bytes) -> None:
        answer, result = (self._reply, self.by), self._result
        self._rest()
        if result is not None:
            result.callback(answer)

    def _declined(self, code: int, resp: bytes) -> None:
        """A message is refused, for good or for now."""
        self.stale = code == 421 and self.stage is Stage.MAIL
        if 500 <= code < 600 and code not in _OURS:
            self._fail(PermanentFailure(Reason.REFUSED), self._reply)
        elif code == 421 or code in _OURS or not 400 <= code < 500:
            self._fail(TemporaryFailure(Reason.UNREACHABLE), self._reply)
        else:
            self._fail(TemporaryFailure(Reason.BUSY), self._reply)

    # --- ends

    def quit(self) -> None:
        """Say good-bye, where there is nothing under way."""
        if self.stage is not Stage.OVER and self.transport is not None:
            self.stage = Stage.OVER
            self.sendLine(b"QUIT")
            self.setTimeout(None)
            self.transport.loseConnection()

    def _rest(self) -> None:
        self.stage, self._message, self._result = Stage.READY, None, None
        self._expected, self._okresponse, self._failresponse = (), self._unasked, self._unasked
        self.setTimeout(IDLE)

    def _unasked(self, code: int, resp: bytes) -> None:
        """Something is said that nobody asked for: mostly a 421."""
        self.quit()

    def _not_ready(self, code: int, resp: bytes) -> None:
        """It does not want us, which is no message's fault."""
        self._fail(TemporaryFailure(Reason.UNREACHABLE), self._reply)

    def sendError(self, exc: Exception) -> None:
        """See :class:`twisted.mail.smtp.SMTPClient`."""
        self._fail(TemporaryFailure(Reason.UNREACHABLE), self._reply or str(exc))

    def timeoutConnection(self) -> None:
        """See :class:`twisted.protocols.policies.TimeoutMixin`."""
        if self.stage is Stage.READY:
            return self.quit()
        doubt = " (it may have been delivered)" if self.stage is Stage.MESSAGE else ""
        text = f"no answer to {self.stage.value} within {self.timeOut:.0f} s{doubt}"
        return self._fail(TemporaryFailure(Reason.UNREACHABLE), text, abort=True)

    def connectionLost(self, reason: TwistedFailure = connectionDone) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        self.stale = self.stage is Stage.MAIL
        doubt = " (it may have been delivered)" if self.stage is Stage.MESSAGE else ""
        self._fail(
            TemporaryFailure(Reason.UNREACHABLE),
            f"the connection was lost after {self.stage.value}{doubt}: {_why(reason.value)}",
        )

    def _fail(self, failure: Failure, text: str, *, abort: bool = False) -> None:
        """End the conversation, and tell whoever waits."""
        stage, self.stage = self.stage, Stage.OVER
        self.setTimeout(None)
        self._expected, self._okresponse, self._failresponse = (), self._unasked, self._unasked
        waiting, self._result = (self._result if self._result is not None else self.ready), None
        if self.transport is not None and stage is not Stage.OVER:
            if abort:
                self.transport.abortConnection()
            else:
                if stage not in (Stage.MESSAGE, Stage.GREETING):
                    self.sendLine(b"QUIT")
                self.transport.loseConnection()
        if not waiting.called:
            waiting.errback(NotTaken(failure, text[:LONGEST], self.by))


def _shown(line: bytes) -> str:
    """A line as it is kept: nothing that a database refuses."""
    return storable(line.decode("utf-8", "replace"))[:LONGEST]


def _why(error: BaseException | None) -> str:
    """The end of a connection in words; OpenSSL's errors are lists of triples."""
    if isinstance(error, SSL.Error) and error.args and isinstance(error.args[0], list):
        return "TLS: " + (", ".join(str(each[-1]) for each in error.args[0]) or "the handshake failed")
    if isinstance(error, SSL.Error):
        return f"TLS: {error}"
    if isinstance(error, ConnectionDone):
        return "it was closed"
    if isinstance(error, VerificationError):
        return "TLS: the certificate is for another name"
    return str(error).strip() or type(error).__name__
