"""A smarthost in memory that says what a test wants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.protocols.basic import LineReceiver
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.test.iosim import FakeTransport, IOPump, connect
from zope.interface import implementer

from relay.operate.tls import load

#: What a well-behaved one says, by the verb that it answers to; ``.`` is the end of a message.
SCRIPT: dict[str, str] = {
    "": "220 mx.example.com ESMTP",
    "EHLO": "250-mx.example.com\r\n250-SIZE 1000000\r\n250-8BITMIME\r\n250 SMTPUTF8",
    "HELO": "250 mx.example.com",
    "STARTTLS": "220 Go ahead",
    "MAIL": "250 2.1.0 Ok",
    "RCPT": "250 2.1.5 Ok",
    "DATA": "354 Go on",
    ".": "250 2.0.0 Ok: queued as 4711",
    "QUIT": "221 2.0.0 Bye",
}

#: In a script: end the connection, or say nothing.
CUT = "cut"
SILENT = "silent"


class Certificate:
    """Stands for a TLS context in iosim.

    :param good: whether the other side takes it.
    """

    def __init__(self, good: bool = True) -> None:
        self.good = good

    def iosimVerify(self, other: Certificate) -> bool:
        """Whether *other*'s certificate is taken."""
        return other.good


class Scripted(LineReceiver):
    """One connection of the smarthost."""

    def __init__(self, smarthost: Smarthost) -> None:
        self.smarthost = smarthost
        self.lines: list[bytes] | None = None  # of the message that is coming

    def connectionMade(self) -> None:
        self.answer("")

    def connectionLost(self, reason: Any = None) -> None:
        self.smarthost.open -= 1

    def lineReceived(self, line: bytes) -> None:
        if self.lines is not None and line != b".":
            self.lines.append(line)
            return
        self.smarthost.said.append(line.decode())
        if self.lines is not None:
            self.smarthost.messages.append(b"".join(each + b"\r\n" for each in self.lines))
            self.lines = None
        verb = line.decode().split(" ")[0].upper()
        answer = self.answer(verb)
        if verb == "DATA" and answer.startswith("354"):
            self.lines = []
        elif verb == "STARTTLS" and answer.startswith("220"):
            self.transport.startTLS(self.smarthost.certificate)

    def answer(self, verb: str) -> str:
        said = self.smarthost.script.get(verb, "502 5.5.1 What?")
        said = said() if callable(said) else said
        if said == CUT:
            self.transport.loseConnection()
        elif said != SILENT:
            self.sendLine(said.encode())
        return said


@implementer(IStreamClientEndpoint)
@define
class Smarthost:
    """Where connections are made to.

    :ivar script: what it says; a callable is asked each time.
    :ivar said: every line of clients, the contents of messages left out.
    :ivar messages: as they came, dots still doubled.
    :ivar connections: how many were made, and *open* how many are.
    :ivar tls: the paths of certificate and key of TLS from the start, real TLS.
    :ivar clock: of TLS, which sends what is written a moment later.
    :ivar refuses: whether nobody can connect.
    :ivar servers: its side of each connection.
    """

    script: dict[str, str | Callable[[], str]] = field(factory=lambda: dict(SCRIPT))
    certificate: Certificate = field(factory=Certificate)
    said: list[str] = field(factory=list)
    messages: list[bytes] = field(factory=list)
    connections: int = 0
    open: int = 0
    refuses: bool = False
    tls: tuple[str, str] | None = None
    clock: Clock = field(factory=Clock)
    servers: list[Scripted] = field(factory=list)
    _pumps: list[IOPump] = field(factory=list)

    def says(self, script: Mapping[str, str | Callable[[], str]]) -> None:
        """Change the script."""
        self.script.update(script)

    def connect(self, protocolFactory: Factory) -> Deferred[Any]:
        if self.refuses:
            return fail(ConnectionRefusedError())
        self.connections += 1
        self.open += 1
        client, server = protocolFactory.buildProtocol(None), Scripted(self)  # type: ignore[arg-type]
        self.servers.append(server)
        outer: Any = server
        if self.tls is not None:
            inner = Factory.forProtocol(lambda: server)
            outer = TLSMemoryBIOFactory(load(*self.tls).server, False, inner, self.clock).buildProtocol(None)  # type: ignore[arg-type]
        sides = FakeTransport(outer, isServer=True), FakeTransport(client, isServer=False)
        self._pumps.append(connect(outer, sides[0], client, sides[1]))
        return succeed(client)

    def flush(self) -> None:
        """Let all that was written arrive."""
        moved = True
        while moved:
            self.clock.advance(0)
            moved = any([pump.pump() for pump in self._pumps])
