"""Fakes for tests of the relay and of what embeds it: a client's end of a session, a platform, and a spool
(:class:`~relay.spool.memory.MemoryStore`).  All in memory.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from twisted.cred.portal import Portal
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import ITLSTransport
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure as TwistedFailure
from zope.interface import implementer

from relay.errors import Failure, PermanentFailure, Reason
from relay.pipeline import Pipeline
from relay.policy import Auth
from relay.smtp.auth import Keys, make_portal
from relay.smtp.factory import SubmissionFactory
from relay.spool.memory import MemoryStore as MemoryStore
from relay.spool.memory_rows import EPOCH as EPOCH
from relay.values import Account, Submission

#: The key that :class:`FakePlatform` accepts.
KEY = "test-key-0123456789"


class FakePlatform:
    """A platform in memory.

    :ivar accounts: the accounts by key; any other key is refused.
    :ivar submissions: what was posted, in order, refused ones too.
    :ivar verdicts: by recipient, the failure that its posting raises.
    :ivar down: the failure that everything raises, or None.
    :ivar held: while not None, postings wait; :meth:`release` lets one through.
    """

    def __init__(self, *accounts: Account) -> None:
        self.accounts = {account.key: account for account in accounts or (Account(KEY, "Test Company"),)}
        self.submissions: list[Submission] = []
        self.verdicts: dict[str, Failure] = {}
        self.down: Failure | None = None
        self.held: list[Deferred[None]] | None = None
        self.pings = 0

    async def ping(self, key: str) -> Account:
        """The account behind *key*."""
        self.pings += 1
        if self.down is not None:
            raise self.down
        if key not in self.accounts:
            raise PermanentFailure(Reason.BAD_KEY)
        return self.accounts[key]

    async def send(self, submission: Submission) -> None:
        """Take one submission, or raise its verdict."""
        self.submissions.append(submission)
        if self.held is not None:
            turn: Deferred[None] = Deferred()
            self.held.append(turn)
            await turn
        if self.down is not None:
            raise self.down
        if submission.to in self.verdicts:
            raise self.verdicts[submission.to]

    def release(self, place: int = 0) -> None:
        """Let one held posting go on."""
        assert self.held is not None
        self.held.pop(place).callback(None)


@implementer(ITLSTransport)
class Transport(StringTransport):
    """A transport that remembers that it was aborted, and that TLS was started; octets are never encrypted."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        StringTransport.__init__(self, peerAddress=IPv4Address("TCP", address, 40000))
        self.aborted = False
        self.tls: object = None
        self.write_closed = False

    def loseWriteConnection(self) -> None:
        """The other end reads to the end; it may still send."""
        self.write_closed = True

    def getTcpNoDelay(self) -> bool:
        """See ITCPTransport."""
        return False

    def setTcpNoDelay(self, enabled: bool) -> None:
        """See ITCPTransport."""

    def getTcpKeepAlive(self) -> bool:
        """See ITCPTransport."""
        return False

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """See ITCPTransport."""

    def startTLS(self, contextFactory: object) -> None:
        """From now on everything counts as encrypted."""
        self.tls = contextFactory

    def abortConnection(self) -> None:
        """Cut off."""
        self.aborted = True
        StringTransport.abortConnection(self)


class Dialogue:
    """The client's end of one session.

    :param one_octet_at_a_time: cut everything that is sent into segments of one octet.
    """

    def __init__(
        self,
        factory: SubmissionFactory,
        *,
        address: str = "127.0.0.1",
        one_octet_at_a_time: bool = False,
    ) -> None:
        self.transport = Transport(address)
        self.session = factory.buildProtocol(None)
        self.session.factory = factory
        self._split = one_octet_at_a_time
        self._gone = False
        self.session.makeConnection(self.transport)
        self.greeting = self.read()

    def read(self) -> list[str]:
        """The lines that the relay has sent since the last call."""
        octets = StringTransport.value(self.transport)
        StringTransport.clear(self.transport)
        return bytes(octets).decode().splitlines()

    def send(self, octets: bytes | str) -> list[str]:
        """Send octets as they are; the lines that come back."""
        octets = octets.encode() if isinstance(octets, str) else octets
        for segment in [octets[i : i + 1] for i in range(len(octets))] if self._split else [octets]:
            self.session.dataReceived(segment)
        return self.read()

    def command(self, line: bytes | str) -> list[str]:
        """Send one line; the lines that come back."""
        return self.send((line.encode() if isinstance(line, str) else line) + b"\r\n")

    def hello(self) -> list[str]:
        """EHLO."""
        return self.command("EHLO client.example")

    def envelope(self, *recipients: str, sender: str = "bounce@shop.example") -> list[str]:
        """EHLO, MAIL, RCPT and DATA; the answer to DATA."""
        self.hello()
        self.command(f"MAIL FROM:<{sender}>")
        for recipient in recipients or ("rcpt@customer.example",):
            self.command(f"RCPT TO:<{recipient}>")
        return self.command("DATA")

    def message(self, content: bytes | str) -> list[str]:
        """The content, dot-stuffed, and its end; the verdict, if it is there."""
        octets = content.encode() if isinstance(content, str) else content
        if not octets.endswith(b"\r\n"):
            octets += b"\r\n"
        stuffed = octets.replace(b"\r\n.", b"\r\n..")
        return self.send((b"." + stuffed if stuffed.startswith(b".") else stuffed) + b".\r\n")

    def leave(self) -> None:
        """The connection is lost."""
        if not self._gone:
            self._gone = True
            self.session.connectionLost(TwistedFailure(ConnectionDone()))

    @property
    def closed(self) -> bool:
        """Whether the relay has ended the connection."""
        return self.transport.disconnecting or self.transport.aborted or self.transport.write_closed


def make_message(body: str = "<p>Hello</p>", key: str | None = KEY, **headers: str) -> str:
    """A message as an application sends it; ``Reply_To="x"`` becomes ``Reply-To: x``."""
    fields = {"From": "Shop <shop@shop.example>", "Subject": "Hello", "Content-Type": "text/html; charset=utf-8"}
    if key is not None:
        fields["X-Auth-APIKey"] = key
    fields.update({name.replace("_", "-"): value for name, value in headers.items()})
    return "".join(f"{name}: {value}\r\n" for name, value in fields.items()) + f"\r\n{body}\r\n"


def make_factory(
    platform: FakePlatform,
    clock: Clock | None = None,
    *,
    auth: Auth | None = None,
    pipeline: dict[str, Any] | None = None,
    accept: Callable[..., Awaitable[Any]] | None = None,
    portal: Portal | None = None,
    **arguments: Any,
) -> SubmissionFactory:
    """A factory before a platform in memory, with the whole pipeline between them.

    :param pipeline: arguments of :class:`~relay.pipeline.Pipeline` to replace.
    :param accept: replaces the pipeline as a whole.
    :param arguments: of :class:`~relay.smtp.factory.SubmissionFactory`.
    """
    clock = clock or Clock()
    keys = Keys(platform.ping, auth or Auth(), clock)
    stages: dict[str, Any] = {"account": keys.account, "post": platform.send, "forget": keys.forget}
    stages.update(pipeline or {})
    take = accept or Pipeline(**stages).accept
    policy = arguments.get("policy")
    header_auth = policy.header_auth if policy is not None else True
    return SubmissionFactory(portal or make_portal(keys, take, header_auth=header_auth), clock=clock, **arguments)
