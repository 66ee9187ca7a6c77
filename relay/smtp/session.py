"""One client's session: the commands, their order, and the transaction (RFC 5321; SMTP.md)."""

# Over 500 lines: the commands of RFC 5321 side by side, each short, on one state.

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Coroutine, Sequence
from functools import cache
from math import inf
from typing import TYPE_CHECKING, Any

from twisted.cred.credentials import Anonymous, ICredentials
from twisted.cred.error import LoginDenied, LoginFailed, UnhandledCredentials
from twisted.internet.defer import Deferred, ensureDeferred, maybeDeferred
from twisted.internet.interfaces import ITLSTransport
from twisted.logger import Logger
from twisted.mail.interfaces import IMessageDelivery, IMessageDeliveryFactory

from relay import replies
from relay.errors import Failure, PermanentFailure, Reason, TemporaryFailure
from relay.smtp import framing, syntax
from relay.smtp.auth import APIKey
from relay.smtp.delivery import IContent
from relay.smtp.limits import is_loopback
from relay.smtp.lines import LineLayer, Work, words

if TYPE_CHECKING:
    from relay.smtp.factory import SubmissionFactory

log = Logger()

#: As numbers, which bytes find in a fifth of the time.
_CR, _LF, _NUL = b"\r\n\0"

_OK = replies.Reply(250, "", "OK").line()
_GO_AHEAD = replies.Reply(354, "", "End data with <CR><LF>.<CR><LF>").line()

#: What a message says to its content, now or later.
Answer = Coroutine[Any, Any, Any] | Deferred[Any]

#: First words of other protocols (THREATS.md, "HTTP at an SMTP port").
_HTTP = frozenset([b"GET", b"POST", b"CONNECT", b"PUT", b"HEAD", b"OPTIONS", b"DELETE", b"PATCH", b"TRACE"])


class Session(LineLayer):
    """The protocol of one connection; made by :class:`~relay.smtp.factory.SubmissionFactory`."""

    delivery: Any  # an IMessageDelivery, of the portal's or of deliveryFactory

    def __init__(self, factory: SubmissionFactory) -> None:
        super().__init__(factory)
        self._extended = False  # the client said EHLO, not HELO
        self._private = False  # the connection is safe enough for a key; known when it has said either
        self._auth_failures = 0
        self._origin: syntax.Mailbox | None = None
        self._smtputf8 = False
        self._messages: list[Any] = []  # what takes the message that is being read
        self._held = 0  # octets of the memory budget
        self._refusal: Reason | None = None  # why the message will be refused at its end

    def _run(self, line: bytes) -> Work | None:
        """Run one command; what it returns is in flight."""
        verb, _, argument = line.partition(b" ")
        verb = verb.upper()
        if _CR in line or _LF in line or _NUL in line:
            raise PermanentFailure(Reason.BAD_LINE)
        if not line.isascii() and not (verb in (b"MAIL", b"RCPT") and _is_utf8(line)):
            raise PermanentFailure(Reason.BAD_LINE)
        command = _COMMANDS.get(verb)
        if command is not None:
            return command(self, argument)
        if verb not in _HTTP:
            raise PermanentFailure(Reason.UNKNOWN_COMMAND)
        self._close(Reason.ABUSE, linger=True, text="This is an SMTP server")
        return None

    # Commands without a transaction

    def _do_helo(self, argument: bytes) -> None:
        self._greet(argument)
        self._ok(f"{self.factory.hostname.decode()}")

    def _do_ehlo(self, argument: bytes) -> None:
        self._greet(argument)
        self._extended = True
        self._write(_extensions(self.factory.hostname, self._limits.message_size, self._offers_tls(), self._private))

    def _greet(self, argument: bytes) -> None:
        name = argument.strip()
        if not name:
            raise PermanentFailure(Reason.ARGUMENTS, "Say who you are: EHLO host.example")
        self._reset()
        self._helo = (name, self.peer.encode())
        self._extended = False
        self._private = self._is_private()
        self._deadline = inf

    def _do_quit(self, argument: bytes) -> None:
        _no_argument(argument)
        self._ok("Bye", 221)
        self._close(None)

    def _do_rset(self, argument: bytes) -> None:
        _no_argument(argument)
        self._reset()
        self._ok()

    def _do_noop(self, argument: bytes) -> None:
        self._ok()

    def _do_vrfy(self, argument: bytes) -> None:
        if not argument.strip():
            raise PermanentFailure(Reason.ARGUMENTS, "VRFY needs an address")
        self._ok("Cannot verify, but will take the message", 252)

    def _do_help(self, argument: bytes) -> None:
        self._ok("Commands: EHLO HELO STARTTLS AUTH MAIL RCPT DATA RSET NOOP VRFY HELP QUIT", 214)

    def _do_expn(self, argument: bytes) -> None:
        raise PermanentFailure(Reason.NOT_IMPLEMENTED)

    def _do_bdat(self, argument: bytes) -> None:
        # Its octets would follow at once and look like commands.
        self._refuse(PermanentFailure(Reason.NOT_IMPLEMENTED))
        self._close(None, linger=True)

    # STARTTLS (RFC 3207)

    def _offers_tls(self) -> bool:
        return self.factory.tls is not None and not self.startedTLS and ITLSTransport.providedBy(self.transport)

    def _do_starttls(self, argument: bytes) -> None:
        _no_argument(argument)
        if self.startedTLS:
            raise PermanentFailure(Reason.BAD_SEQUENCE, "TLS is already on")
        if not self._offers_tls():
            raise PermanentFailure(Reason.NOT_IMPLEMENTED)
        assert self.factory.tls is not None
        context = self.factory.tls()
        self._ok("Go ahead", 220)
        # Everything said in clear text is forgotten, what was sent ahead most of all.
        self._buffer = b""
        self._reset()
        self._log_out()
        self._helo = None
        self._extended = False
        self._set_deadline(self._limits.greeting)
        self.startedTLS = self._handshaking = True
        self.transport.startTLS(context)

    def _is_private(self) -> bool:
        """Whether the connection is safe enough for a key."""
        rule = self.factory.policy.require_tls
        return self.startedTLS or rule == "never" or (rule == "remote" and is_loopback(self.peer))

    # AUTH (RFC 4954)

    def _do_auth(self, argument: bytes) -> Work | None:
        if self._helo is None or not self._extended:
            raise PermanentFailure(Reason.BAD_SEQUENCE, "Send EHLO first")
        if self.authenticated or self._from is not None:
            raise PermanentFailure(Reason.BAD_SEQUENCE)
        if not self._private:
            raise PermanentFailure(Reason.TLS_REQUIRED_FOR_AUTH)
        mechanism, _, initial = argument.strip().partition(b" ")
        if not mechanism:
            raise PermanentFailure(Reason.ARGUMENTS, "AUTH needs a mechanism: PLAIN or LOGIN")
        step = {b"PLAIN": self._auth_plain, b"LOGIN": self._auth_login}.get(mechanism.upper())
        if step is None:
            raise PermanentFailure(Reason.UNKNOWN_MECHANISM)
        self._set_deadline(self._limits.greeting)
        if initial:
            return step(b"" if initial == b"=" else initial)
        self._ask(b"" if mechanism.upper() == b"PLAIN" else b"VXNlcm5hbWU6", step)
        return None

    def _ask(self, prompt: bytes, step: Callable[[bytes], Work | None]) -> None:
        """Send 334; *step* takes the next line."""
        self._answer = step
        self._write(b"334 %b\r\n" % prompt)

    def _auth_plain(self, line: bytes) -> Work:
        """``[authorization] NUL user NUL password`` (RFC 4616); the first two are ignored."""
        fields = self._decode(line).split(b"\0")
        if len(fields) != 3:
            raise PermanentFailure(Reason.SYNTAX, "AUTH PLAIN is base64 of NUL user NUL API-key")
        return self._sign_in(fields[1], fields[2])

    def _auth_login(self, line: bytes) -> None:
        user = self._decode(line)
        self._ask(b"UGFzc3dvcmQ6", lambda answer: self._sign_in(user, self._decode(answer)))

    def _decode(self, line: bytes) -> bytes:
        """An answer of the exchange, which ends unless another prompt follows."""
        self._answer = None
        if line == b"*":
            self._deadline = inf
            raise PermanentFailure(Reason.AUTH_CANCELLED)
        try:
            return b64decode(line, validate=True)
        except ValueError:
            self._deadline = inf
            raise PermanentFailure(Reason.BAD_BASE64) from None

    async def _sign_in(self, user: bytes, password: bytes) -> None:
        self._deadline = inf
        try:
            await self._log_in(APIKey(user, password, self.peer))
        except (LoginFailed, LoginDenied):
            self._count_auth_failure()
            if not self._closing:
                self._send(replies.reply(PermanentFailure(Reason.BAD_KEY)))
        except TemporaryFailure as failure:
            log.warn("the platform could not check a key of {peer}: {failure}", peer=self.peer, failure=str(failure))
            raise TemporaryFailure(Reason.AUTH_UNAVAILABLE) from None
        else:
            self.authenticated = True
            self._ok("Authentication successful", 235)

    def _count_auth_failure(self) -> None:
        """A key was not accepted: the third time ends the session."""
        self.factory.observer.auth_failed()
        self._auth_failures += 1
        if self._auth_failures >= self._limits.auth_failures:
            self._close(Reason.ABUSE, text="Too many API keys that are not accepted, closing connection")

    async def _log_in(self, credentials: ICredentials) -> None:
        """Take the avatar of *credentials*: deliveries come from it."""
        interface, avatar, logout = await self.factory.portal.login(
            credentials, None, IMessageDeliveryFactory, IMessageDelivery
        )
        self._log_out()
        if self._lost:
            logout()
            return
        self._onLogout = logout
        if issubclass(interface, IMessageDeliveryFactory):
            self.deliveryFactory = avatar
        else:
            self.delivery = avatar

    def _log_out(self) -> None:
        """Forget who signed in."""
        logout, self._onLogout = self._onLogout, None
        self.authenticated = False
        self.delivery = self.deliveryFactory = None
        if logout is not None:
            try:
                logout()
            except Exception:  # an embedder's must not keep the connection from being counted out
                log.failure("the logout of {peer} failed", peer=self.peer)

    # The envelope

    def _do_mail(self, argument: bytes) -> Work | None:
        self._mail_refused = True
        if self._helo is None:
            raise PermanentFailure(Reason.BAD_SEQUENCE, "Send EHLO first")
        if self._from is not None:
            raise PermanentFailure(Reason.BAD_SEQUENCE, "One MAIL at a time")
        if not self._private:
            raise PermanentFailure(Reason.TLS_REQUIRED)
        sender = syntax.parse_mail(argument)
        if sender.size:
            self._check_room(sender.size)
        if self.delivery is None and self.deliveryFactory is None:
            self.deliveryFactory = getattr(self.factory.portal, "nobody", None)
            if self.deliveryFactory is None:
                return self._begin_as_nobody(sender)
        return self._begin(sender)

    async def _begin_as_nobody(self, sender: syntax.Sender) -> None:
        """Nobody has signed in: the deliveries are those of nobody, where the portal of an embedder has any."""
        try:
            await self._log_in(Anonymous())
        except (LoginFailed, LoginDenied, UnhandledCredentials):
            raise PermanentFailure(Reason.AUTH_REQUIRED, "Authentication required") from None
        work = self._begin(sender)
        if work is not None:
            await work

    def _begin(self, sender: syntax.Sender) -> Work | None:
        """Open a transaction, with a delivery of its own."""
        if self.deliveryFactory is not None:
            self.delivery = self.deliveryFactory.getMessageDelivery()
        if not self.factory.rate.take(self._rate_key()):
            raise TemporaryFailure(Reason.RATE)
        self._origin = sender.mailbox
        self._smtputf8 = sender.smtputf8
        return _when_settled(self.delivery.validateFrom(self._helo, sender.mailbox), self._open)

    def _open(self, origin: Any) -> None:
        """The delivery takes mail of *origin*."""
        self._from = origin
        self._mail_refused = False
        self._write(_OK)

    def _check_room(self, size: int) -> None:
        """A declared size must fit the limit and the memory that is free (RFC 1870 section 6.1)."""
        if size > self._limits.message_size:
            raise self._too_big()
        if not self.factory.memory.has(size):
            raise TemporaryFailure(Reason.MEMORY)

    def _too_big(self) -> Failure:
        return PermanentFailure(Reason.TOO_BIG, f"Message is too big, the limit is {self._limits.message_size} octets")

    def _rate_key(self) -> str:
        """Whose rate a message counts for: the account's where AUTH named one, else the address's."""
        account = getattr(self.deliveryFactory, "account", None)
        return f"key {account.key}" if account is not None else f"address {self.peer}"

    def _do_rcpt(self, argument: bytes) -> Work | None:
        if self._from is None:
            raise PermanentFailure(Reason.BAD_SEQUENCE, "Send MAIL first")
        if len(self._to) >= self._limits.recipients:
            raise TemporaryFailure(Reason.TOO_MANY_RECIPIENTS)
        assert self._origin is not None and self._helo is not None
        mailbox = syntax.parse_rcpt(argument, self._smtputf8)
        user = syntax.Recipient(mailbox, self._helo, self, self._origin)
        return _when_settled(self.delivery.validateTo(user), self._add, user)

    def _add(self, user: syntax.Recipient, make_message: Any) -> None:
        """The delivery takes mail for *user*, and says what makes its message."""
        self._to.append((user, make_message))
        self._write(_OK)

    def _reset(self) -> None:
        """No transaction is open."""
        self._from = None
        self._origin = None
        self._to = []
        self._smtputf8 = False
        self._mail_refused = False

    # DATA

    def _do_data(self, argument: bytes) -> None:
        if argument:
            _no_argument(argument)
        if self._from is None:
            raise PermanentFailure(Reason.BAD_SEQUENCE, "Send MAIL first")
        if not self._to:
            raise PermanentFailure(Reason.BAD_SEQUENCE, "No valid recipients")
        if not self.factory.memory.has(1):
            raise TemporaryFailure(Reason.MEMORY)
        self._messages = self._make_messages()
        self._data = framing.DataReader(self._limits.message_size)
        self._refusal = None
        self._set_deadline(self._limits.data)
        self._write(_GO_AHEAD)

    def _make_messages(self) -> list[Any]:
        """What takes the message; recipients that share it have one object for it."""
        made: list[tuple[Any, Any]] = []
        try:
            for user, make_message in self._to:
                made.append((make_message(), user))
        except Exception:
            self._drop([message for message, _ in made])
            raise
        messages = list({id(message): message for message, _ in made}.values())
        for message in messages:
            if not IContent.providedBy(message):
                self._trace(message, [user for its, user in made if its is message])
        return messages

    def _trace(self, message: Any, users: list[Any]) -> None:
        """Begin a message with the trace header that its delivery wants, as Twisted's own server does."""
        header = self.delivery.receivedHeader(self._helo, self._origin, users)
        if header:
            message.lineReceived(header)

    def _read_data(self, data: framing.DataReader) -> None:
        """Give the buffer to the message."""
        octets, self._buffer = self._buffer, b""
        self._heard = self._now()
        rest = data.feed(octets)
        self._hold(data)
        if rest is None:
            return
        self._buffer = rest
        self._data = None
        self._deadline = inf
        self._reset()
        self._start(self._deliver(data))

    def _hold(self, data: framing.DataReader) -> None:
        """Keep the account of the memory that the message takes, and stop keeping a message that is refused."""
        if self._refusal is None:
            if data.discarded:
                self._refusal = Reason.TOO_BIG
            elif self.factory.memory.take(data.size - self._held):
                self._held = data.size
                return
            else:
                self._refusal = Reason.MEMORY
                data.discard()
            self._give_back()

    def _give_back(self) -> None:
        self.factory.memory.give_back(self._held)
        self._held = 0

    def _abandon_data(self) -> None:
        """The message will not come to its end."""
        self._data = None
        self._give_back()
        messages, self._messages = self._messages, []
        self._drop(messages)

    def _drop(self, messages: list[Any]) -> None:
        """Tell *messages* that they have no end; what an embedder's own raises must not keep the session from its."""
        for message in messages:
            try:
                message.connectionLost()
            except Exception:
                log.failure("a message of {peer} could not be dropped", peer=self.peer)

    async def _deliver(self, data: framing.DataReader) -> None:
        """The message is whole: have it delivered, and say what became of it."""
        messages = self._messages
        try:
            content = self._content(data, messages)
            if len(messages) == 1:
                result = await self._hand_over(messages[0], content)
            else:
                result = await _side_by_side([self._hand_over(message, content) for message in messages])
            self._write(_success(result))
        except Failure as failure:
            self._send(replies.reply(failure))
            if failure.reason is Reason.KEY_REFUSED:
                self._count_auth_failure()
        finally:
            self._messages = []
            self._give_back()

    def _leave(self) -> None:
        """The client has gone: whoever delivers its message shall know."""
        for message in self._messages:
            if IContent.providedBy(message):
                message.clientLeft()

    def _content(self, data: framing.DataReader, messages: list[Any]) -> bytes:
        """The message as it counts; where it is refused, *messages* are told that it has no end.

        :raises Failure: it is too big, too much for now, or has bare line ends that are not allowed.
        """
        content = b"" if self._refusal is not None else data.content()
        if self.factory.policy.bare_newline == "reject" and framing.has_bare_newline(content):
            self._refusal = Reason.BARE_NEWLINE
        if self._refusal is None:
            return framing.normalize(content)
        self._drop(messages)
        self.factory.observer.message_refused(self._refusal, self.peer)
        if self._refusal is Reason.MEMORY:
            raise TemporaryFailure(Reason.MEMORY)
        if self._refusal is Reason.TOO_BIG:
            raise self._too_big()
        raise PermanentFailure(self._refusal)

    def _hand_over(self, message: Any, content: bytes) -> Answer:
        """Give the content to a message, as a whole where it takes that; what it says."""
        if IContent.providedBy(message):
            answer: Answer = message.contentReceived(content)
            return answer
        for line in content.removesuffix(b"\r\n").split(b"\r\n"):
            message.lineReceived(line)
        return maybeDeferred(message.eomReceived)


def _when_settled(answer: Any, accept: Callable[..., None], *told: Any) -> Work | None:
    """Give *accept* what a method of the delivery returned: at once, or when an embedder's Deferred fires."""
    if hasattr(answer, "addBoth"):  # isinstance would ask an ABC, which takes longer than all of this
        return _later(answer, accept, *told)
    accept(*told, answer)
    return None


async def _later(answer: Deferred[Any], accept: Callable[..., None], *told: Any) -> None:
    accept(*told, await answer)


async def _side_by_side(answers: Sequence[Answer]) -> Any:
    """What the first of *answers* is, when all are in.

    :raises Exception: the first failure of them, in order.
    """
    results: list[Any] = []
    failures: list[Exception] = []
    for answer in [ensureDeferred(answer) for answer in answers]:
        try:
            results.append(await answer)
        except Exception as error:
            failures.append(error)
    if failures:
        raise failures[0]
    return results[0]


@cache
def _extensions(hostname: bytes, size: int, tls: bool, auth: bool) -> bytes:
    """The reply to EHLO."""
    lines = [hostname.decode(), "PIPELINING", f"SIZE {size}", "8BITMIME", "SMTPUTF8"]
    if tls:
        lines.append("STARTTLS")
    if auth:
        lines += ["AUTH PLAIN LOGIN", "AUTH=PLAIN LOGIN"]
    last = len(lines) - 1
    text = "".join(f"250{' ' if place == last else '-'}{line}\r\n" for place, line in enumerate(lines))
    return text.encode("ascii")


def _no_argument(argument: bytes) -> None:
    if argument.strip():
        raise PermanentFailure(Reason.ARGUMENTS)


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _success(result: object) -> bytes:
    """The reply for what ``eomReceived`` fired with: ours, or an embedder's words, or the standard ones."""
    reply = result if isinstance(result, replies.Reply) else replies.Reply(250, "", words(result) if result else "Ok")
    return reply.line()


#: What a client may say; nothing else runs.  A command answers, raises, or returns what is to be awaited.
_COMMANDS: dict[bytes, Callable[[Session, bytes], Work | None]] = {
    b"HELO": Session._do_helo,
    b"EHLO": Session._do_ehlo,
    b"STARTTLS": Session._do_starttls,
    b"AUTH": Session._do_auth,
    b"MAIL": Session._do_mail,
    b"RCPT": Session._do_rcpt,
    b"DATA": Session._do_data,
    b"BDAT": Session._do_bdat,
    b"RSET": Session._do_rset,
    b"NOOP": Session._do_noop,
    b"VRFY": Session._do_vrfy,
    b"EXPN": Session._do_expn,
    b"HELP": Session._do_help,
    b"QUIT": Session._do_quit,
}
