"""Connections whose replies leave at once."""

from __future__ import annotations

from errno import EPIPE, EWOULDBLOCK
from typing import Any

from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.tcp import Port
from twisted.internet.unix import Port as UNIXPort
from twisted.trial.unittest import SynchronousTestCase

from relay.operate.prompt import PromptServer, Turn, be_prompt


class _Socket:
    """Takes *room* octets; what is to come stands in *coming*."""

    def __init__(self) -> None:
        self.coming: list[bytes] = []
        self.sent: list[bytes] = []
        self.room = 1_000_000
        self.broken = False

    def setblocking(self, _: bool) -> None:
        """See :class:`socket.socket`."""

    def setsockopt(self, *_: object) -> None:
        """See :class:`socket.socket`."""

    def close(self) -> None:
        """See :class:`socket.socket`."""

    def fileno(self) -> int:
        return 7

    def recv(self, _: int) -> bytes:
        return self.coming.pop(0)

    def send(self, data: memoryview) -> int:
        if self.broken:
            raise OSError(EPIPE, "")
        if not self.room and data:
            raise OSError(EWOULDBLOCK, "")
        taken = bytes(data[: self.room])
        self.room -= len(taken)
        if taken:
            self.sent.append(taken)
        return len(taken)


class _Reactor(Clock):
    """Knows who wants to write, and how often somebody began to."""

    def __init__(self) -> None:
        super().__init__()
        self.writers: set[object] = set()
        self.begun = 0

    def addReader(self, _: object) -> None:
        """See :class:`twisted.internet.interfaces.IReactorFDSet`."""

    def removeReader(self, _: object) -> None:
        """See :class:`twisted.internet.interfaces.IReactorFDSet`."""

    def addWriter(self, writer: object) -> None:
        self.begun += 1
        self.writers.add(writer)

    def removeWriter(self, writer: object) -> None:
        self.writers.discard(writer)


class _Echo(Protocol):
    """Answers each line; ``quit`` is the last."""

    def dataReceived(self, data: bytes) -> None:
        for line in data.splitlines():
            self.transport.write(b"250 " + line + b"\r\n")
            if line == b"quit":
                self.transport.loseConnection()


class PromptServerTests(SynchronousTestCase):
    """What a client gets, and when."""

    def setUp(self) -> None:
        self.socket, self.reactor, self.protocol = _Socket(), _Reactor(), _Echo()
        made: Any = type("Made", (PromptServer,), {"turn": Turn(self.reactor)})
        self.server = made(self.socket, self.protocol, ("127.0.0.1", 1), None, 0, self.reactor)
        self.protocol.makeConnection(self.server)

    def read(self, data: bytes) -> Any:
        """*data* comes, and the turn ends."""
        self.socket.coming.append(data)
        why = self.server.doRead()
        self.reactor.advance(0)
        return why

    def test_replies_are_sent_without_the_reactor(self) -> None:
        """The reply to a command leaves when it is read, and the system is asked nothing else."""
        self.assertIsNone(self.read(b"one\r\n"))
        self.assertEqual((self.socket.sent, self.reactor.begun), ([b"250 one\r\n"], 0))

    def test_pipelined_replies_leave_together(self) -> None:
        """The replies to commands that came together are one segment."""
        self.read(b"one\r\ntwo\r\n")
        self.assertEqual(self.socket.sent, [b"250 one\r\n250 two\r\n"])

    def test_what_the_client_does_not_take_waits(self) -> None:
        """The rest of a reply, and what follows, come in order when the client reads again."""
        self.socket.room = 3
        self.read(b"one\r\n")
        self.read(b"two\r\n")
        self.assertIn(self.server, self.reactor.writers)
        self.socket.room = 100
        self.server.doWrite()
        self.assertEqual(b"".join(self.socket.sent), b"250 one\r\n250 two\r\n")
        self.assertNotIn(self.server, self.reactor.writers)

    def test_a_later_reply_leaves_with_the_turn(self) -> None:
        """A verdict that comes while nothing is read leaves with what follows it in the same turn."""
        self.server.write(b"250 later\r\n")
        self.read(b"one\r\n")
        self.assertEqual((self.socket.sent, self.reactor.begun), ([b"250 later\r\n250 one\r\n"], 0))

    def test_the_last_reply_is_sent_before_the_end(self) -> None:
        """After QUIT the reactor sends the farewell and ends the connection, as that of any other."""
        self.assertIsNone(self.read(b"quit\r\n"))
        self.assertEqual(self.reactor.writers, {self.server})
        self.assertIsNotNone(self.server.doWrite())
        self.assertEqual(self.socket.sent, [b"250 quit\r\n"])

    def test_a_client_that_has_gone_ends_the_connection(self) -> None:
        """What cannot be sent tells the reactor that the connection is lost."""
        self.socket.broken = True
        self.read(b"one\r\n")
        self.assertEqual(self.reactor.writers, {self.server})
        self.assertIsInstance(self.server.doWrite(), ConnectionLost)

    def test_a_connection_that_has_ended_sends_nothing(self) -> None:
        """A reply to a client whose connection is cut off in the same turn goes nowhere."""
        self.server.write(b"250 late\r\n")
        self.server.abortConnection()
        self.reactor.advance(0)
        self.assertEqual((self.socket.sent, self.reactor.writers), ([], set()))

    def test_a_client_that_does_not_read_is_not_answered_without_end(self) -> None:
        """A protocol that produces is paused while its replies pile up, and resumed when they have left."""
        producer = _Producer()
        self.server.registerProducer(producer, True)
        self.socket.room = 0
        self.read(b"x" * 70_000)
        self.assertEqual(producer.said, ["pause"])
        self.socket.room = 100_000
        self.server.doWrite()
        self.assertEqual(producer.said, ["pause", "resume"])

    def test_tcp_ports_alone_are_made_prompt(self) -> None:
        """A UNIX socket keeps Twisted's own connections."""
        tcp, unix = Port(0, None, reactor=self.reactor), UNIXPort("x", None, reactor=self.reactor)
        be_prompt(tcp)
        be_prompt(unix)
        self.assertTrue(issubclass(tcp.transport, PromptServer))
        self.assertFalse(issubclass(unix.transport, PromptServer))


class _Producer:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def pauseProducing(self) -> None:
        self.said.append("pause")

    def resumeProducing(self) -> None:
        self.said.append("resume")

    def stopProducing(self) -> None:
        self.said.append("stop")
