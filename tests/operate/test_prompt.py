"""Connections whose octets leave together, at the end of a turn."""

from __future__ import annotations

from errno import ECONNRESET, EPIPE, EWOULDBLOCK
from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import optionsForClientTLS
from twisted.internet.task import Clock
from twisted.internet.tcp import Port
from twisted.internet.unix import Port as UNIXPort
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from relay.operate.prompt import PromptServer, Turn, be_prompt


class _Socket:
    """Takes *room* octets; what is to come stands in *coming*."""

    def __init__(self, descriptor: int = 7) -> None:
        self.coming: list[bytes] = []
        self.sent: list[bytes] = []
        self.room = 1_000_000
        self.broken = False
        self.closed = False
        self.shut: list[int] = []
        self._descriptor = descriptor

    def setblocking(self, _: bool) -> None:
        """See :class:`socket.socket`."""

    def setsockopt(self, *_: object) -> None:
        """See :class:`socket.socket`."""

    def shutdown(self, how: int) -> None:
        self.shut.append(how)

    def close(self) -> None:
        self.closed = True

    def fileno(self) -> int:
        return self._descriptor

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
    """Knows who wants to read and to write, and how often somebody began to write."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: set[Any] = set()
        self.writers: set[Any] = set()
        self.begun = 0

    def addReader(self, reader: object) -> None:
        self.readers.add(reader)

    def removeReader(self, reader: object) -> None:
        self.readers.discard(reader)

    def addWriter(self, writer: object) -> None:
        self.begun += 1
        self.writers.add(writer)

    def removeWriter(self, writer: object) -> None:
        self.writers.discard(writer)


class _Poller:
    """An epoll that finds what a test has put there."""

    def __init__(self) -> None:
        self.watched: set[int] = set()
        self.found: list[int] = []

    def fileno(self) -> int:
        return 3

    def register(self, descriptor: int, _: int) -> None:
        assert descriptor not in self.watched
        self.watched.add(descriptor)

    def unregister(self, descriptor: int) -> None:
        self.watched.remove(descriptor)

    def poll(self, _: float, most: int) -> list[tuple[int, int]]:
        found, self.found = self.found[:most], self.found[most:]
        return [(descriptor, 1) for descriptor in found if descriptor in self.watched]


class _Echo(Protocol):
    """Answers each line; ``quit`` is the last, and ``break`` breaks it."""

    lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        for line in data.splitlines():
            if line == b"break":
                raise ValueError(line)
            self.transport.write(b"250 " + line + b"\r\n")
            if line == b"quit":
                self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        assert self.lost is None
        self.lost = reason


class _Failing(_Echo):
    """Fails when it is told of its end."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        raise ZeroDivisionError


@implementer(IHalfCloseableProtocol)
class _HalfOpen(_Echo):
    """Answers when the client has said all."""

    said = b""

    def dataReceived(self, data: bytes) -> None:
        self.said += data

    def readConnectionLost(self) -> None:
        self.transport.write(b"250 " + self.said)

    def writeConnectionLost(self) -> None:
        """See :class:`twisted.internet.interfaces.IHalfCloseableProtocol`."""


def _served(sock: Any, protocol: Protocol, turn: Turn, reactor: _Reactor) -> Any:
    """The connection of *protocol* over *sock*."""
    kind: Any = type("Made", (PromptServer,), {"turn": turn})
    made = kind(sock, protocol, ("127.0.0.1", 1), None, 0, reactor)
    protocol.makeConnection(made)
    return made


class PromptServerTests(SynchronousTestCase):
    """What a client gets, and when."""

    def setUp(self) -> None:
        self.socket, self.reactor, self.protocol = _Socket(), _Reactor(), _Echo()
        self.poller = _Poller()
        self.turn = Turn(self.reactor, lambda: self.poller)
        self.server = _served(self.socket, self.protocol, self.turn, self.reactor)

    def read(self, data: bytes) -> None:
        """*data* comes, and is read in a turn."""
        self.socket.coming.append(data)
        self.poller.found.append(self.socket.fileno())
        self.turn.doRead()

    def beside(self, data: bytes) -> _Socket:
        """A second client, from which ``two`` comes in the turn in which *data* comes from the first."""
        second = _Socket(8)
        _served(second, _Echo(), self.turn, self.reactor)
        self.socket.coming.append(data)
        second.coming.append(b"two\r\n")
        self.poller.found += [7, 8]
        return second

    def test_replies_are_sent_without_the_reactor(self) -> None:
        """The reply to a command leaves when it is read, and the reactor is asked nothing else."""
        self.read(b"one\r\n")
        self.assertEqual((self.socket.sent, self.reactor.begun), ([b"250 one\r\n"], 0))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_pipelined_replies_leave_together(self) -> None:
        """The replies to commands that came together are one segment."""
        self.read(b"one\r\ntwo\r\n")
        self.assertEqual(self.socket.sent, [b"250 one\r\n250 two\r\n"])

    def test_pieces_leave_together(self) -> None:
        """What is written in pieces is sent as one."""
        self.server.writeSequence([b"250-", b"one\r\n"])
        self.server.write(b"250 two\r\n")
        self.reactor.advance(0)
        self.assertEqual(self.socket.sent, [b"250-one\r\n250 two\r\n"])

    def test_nothing_is_sent_before_all_is_read(self) -> None:
        """A reply leaves when what came from the other clients in the same turn is read."""
        second = self.beside(b"one\r\n")
        sent_when_read: list[list[bytes]] = []
        second.recv = lambda _: sent_when_read.append(list(self.socket.sent)) or second.coming.pop(0)
        self.turn.doRead()
        self.assertEqual((sent_when_read, self.socket.sent, second.sent), ([[]], [b"250 one\r\n"], [b"250 two\r\n"]))

    def test_the_end_of_a_turn(self) -> None:
        """What is to be done at the end of a turn is done when all is read, before a reply leaves; else at once."""
        second = self.beside(b"one\r\n")
        seen: list[tuple[list[bytes], list[bytes]]] = []

        def received(data: bytes) -> None:
            self.server.write(data)
            self.turn.at_end(lambda: seen.append((list(second.coming), list(self.socket.sent))))

        self.protocol.dataReceived = received
        self.turn.doRead()
        self.assertEqual((seen, self.socket.sent), ([([], [])], [b"one\r\n"]))
        self.turn.at_end(lambda: seen.append(([], [])))
        self.assertEqual(len(seen), 2)

    def test_an_error_at_the_end_of_a_turn(self) -> None:
        """What fails at the end of a turn is logged, and keeps no reply from leaving."""

        def received(data: bytes) -> None:
            self.turn.at_end(lambda: self.fail("at the end"))
            self.server.write(data)

        self.protocol.dataReceived = received
        self.read(b"one")
        self.assertEqual(self.socket.sent, [b"one"])
        self.assertEqual(len(self.flushLoggedErrors(self.failureException)), 1)

    def test_what_the_client_does_not_take_waits(self) -> None:
        """The rest of a reply, and what follows, come in order when the client reads again."""
        self.socket.room = 3
        self.read(b"one\r\n")
        self.read(b"two\r\n")
        self.assertEqual(self.reactor.writers, {self.server})
        self.socket.room = 100
        self.server.doWrite()
        self.assertEqual(b"".join(self.socket.sent), b"250 one\r\n250 two\r\n")
        self.assertEqual(self.reactor.writers, set())
        self.read(b"three\r\n")
        self.assertEqual(self.socket.sent[-1], b"250 three\r\n")

    def test_a_later_reply_leaves_with_the_turn(self) -> None:
        """A verdict that comes while nothing is read leaves at the end of the turn that it comes in."""
        self.server.write(b"250 later\r\n")
        self.assertEqual(self.socket.sent, [])
        self.reactor.advance(0)
        self.assertEqual((self.socket.sent, self.reactor.begun), ([b"250 later\r\n"], 0))

    def test_the_last_reply_is_sent_before_the_end(self) -> None:
        """After QUIT the farewell is sent, and then the connection ends, within the turn."""
        self.read(b"quit\r\n")
        self.assertEqual((self.socket.sent, self.socket.closed), ([b"250 quit\r\n"], True))
        self.assertEqual(self.socket.shut, [])  # one call of the system is enough
        self.assertIsNotNone(self.protocol.lost and self.protocol.lost.check(ConnectionDone))
        self.assertEqual((self.poller.watched, self.reactor.readers, self.reactor.writers), (set(), set(), set()))

    def test_a_client_that_breaks_off(self) -> None:
        """A connection that the client has reset has ended for its session, and a recv() without anything is none."""
        self.socket.recv = self._raise(EWOULDBLOCK)
        self.read(b"")
        self.assertIsNone(self.protocol.lost)
        self.socket.recv = self._raise(ECONNRESET)
        self.read(b"")
        assert self.protocol.lost is not None
        self.assertTrue(self.protocol.lost.check(ConnectionLost))

    def _raise(self, number: int) -> Any:
        def recv(_: int) -> bytes:
            raise OSError(number, "")

        return recv

    def test_the_end_waits_for_the_client(self) -> None:
        """A client that does not take the farewell at once gets it before the connection ends."""
        self.socket.room = 3
        self.read(b"quit\r\n")
        self.assertIsNone(self.protocol.lost)
        self.socket.room = 100
        self.assertIsInstance(self.server.doWrite(), ConnectionDone)
        self.assertEqual(b"".join(self.socket.sent), b"250 quit\r\n")

    def test_a_client_that_has_gone_ends_the_connection(self) -> None:
        """What cannot be sent tells the reactor that the connection is lost."""
        self.socket.broken = True
        self.read(b"one\r\n")
        self.assertEqual(self.reactor.writers, {self.server})
        self.assertIsInstance(self.server.doWrite(), ConnectionLost)

    def test_a_connection_that_is_cut_off_sends_nothing(self) -> None:
        """What was to leave with the turn in which the connection is cut off goes nowhere, nor does what follows."""
        self.server.write(b"250 late\r\n")
        self.server.abortConnection()
        self.server.write(b"250 later\r\n")
        self.reactor.advance(0)
        self.assertEqual((self.socket.sent, self.reactor.writers), ([], set()))
        self.assertIsNotNone(self.protocol.lost and self.protocol.lost.check(ConnectionAborted))

    def test_what_comes_too_late(self) -> None:
        """What is written to a connection that has ended goes nowhere, and is no error."""
        self.turn.connectionLost(Failure(ConnectionLost()))
        self.server.write(b"250 late\r\n")
        self.reactor.advance(0)
        self.assertEqual(self.socket.sent, [])

    def test_clear_text_comes_before_tls(self) -> None:
        """What was written before TLS begins, in the same turn, leaves before the first octet of TLS."""
        self.server.write(b"STARTTLS\r\n")
        self.server.startTLS(optionsForClientTLS("relay.test"), normal=False)
        self.reactor.advance(0)
        self.assertRegex(b"".join(self.socket.sent), rb"\ASTARTTLS\r\n\x16\x03")

    def test_a_client_that_does_not_read_is_not_answered_without_end(self) -> None:
        """A protocol that produces is paused while its replies pile up, and resumed when they have left."""
        producer = _Producer()
        self.server.registerProducer(producer, True)
        self.socket.room = 0
        for _ in range(3):
            self.read(b"x" * 30_000)
        self.assertEqual(producer.said, ["pause"])
        self.socket.room = 100_000
        self.server.doWrite()
        self.assertEqual(producer.said, ["pause", "resume"])

    def test_more_than_a_full_buffer_pauses_at_once(self) -> None:
        """A protocol that writes much in one turn is paused before the turn ends, and all of it leaves in order."""
        producer = _Producer()
        self.server.registerProducer(producer, True)
        written = [b"1" * 40_000, b"2" * 40_000, b"3"]
        for each in written:
            self.server.write(each)
        self.assertEqual(producer.said, ["pause", "pause"])
        self.reactor.advance(0)
        self.assertEqual(b"".join(self.socket.sent), b"".join(written))
        self.assertEqual(producer.said[2:], ["resume"])

    def test_a_producer_that_is_asked_for_each_piece_is_asked(self) -> None:
        """One that does not stream is asked for the next piece when the one before it has left."""
        pieces = [b"1", b"2", b"3"]
        producer = _Producer()
        producer.resumeProducing = lambda: self.server.write(pieces.pop(0)) if pieces else None
        self.server.write(b"0")
        self.server.registerProducer(producer, False)
        self.reactor.pump([0] * 5)
        self.assertEqual((b"".join(self.socket.sent), pieces), (b"0123", []))

    def test_an_error_ends_one_connection(self) -> None:
        """A protocol that fails loses its connection, and is logged; the others of the turn are served."""
        second = self.beside(b"one\r\nbreak\r\n")
        self.turn.doRead()
        self.assertIsNotNone(self.protocol.lost and self.protocol.lost.check(ValueError))
        self.assertEqual((self.socket.closed, second.sent), (True, [b"250 two\r\n"]))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_an_error_in_the_end_is_logged(self) -> None:
        """A protocol that fails when it is told of its end, in either half of the turn, spoils no other's."""
        second, third = _Socket(8), _Socket(9)
        failing, served = _Failing(), _Echo()
        _served(second, failing, self.turn, self.reactor)
        _served(third, served, self.turn, self.reactor)
        self.protocol.connectionLost = failing.connectionLost
        self.socket.coming, second.coming, third.coming = [b""], [b"quit\r\n"], [b"three\r\n"]
        self.poller.found += [7, 8, 9]
        self.turn.doRead()
        self.assertEqual((self.socket.closed, second.closed, third.sent), (True, True, [b"250 three\r\n"]))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def test_one_that_another_has_ended_is_not_read(self) -> None:
        """A connection that ends while another is read is left alone, though something had come from it."""
        second, ended = _Socket(8), _Echo()
        _served(second, ended, self.turn, self.reactor)
        self.protocol.dataReceived = lambda _: ended.transport.abortConnection()
        self.poller.found.append(8)
        self.poller.found.insert(0, 7)
        self.socket.coming.append(b"one\r\n")
        self.turn.doRead()
        self.assertIsNone(self.protocol.lost)

    def test_the_client_ends(self) -> None:
        """The end of what a client sends is the end of the connection."""
        self.read(b"")
        self.assertIsNotNone(self.protocol.lost and self.protocol.lost.check(ConnectionDone))
        self.assertEqual((self.socket.closed, self.reactor.readers), (True, set()))

    def test_a_client_that_has_said_all_may_still_read(self) -> None:
        """A protocol that knows half an end is told of it, once, and answers; the end is its own."""
        second = _Socket(8)
        server = _served(second, _HalfOpen(), self.turn, self.reactor)
        for coming in (b"one", b""):
            second.coming.append(coming)
            self.poller.found.append(8)
            self.turn.doRead()
        self.assertEqual((second.sent, second.closed, self.poller.watched), ([b"250 one"], False, {7}))
        server.loseConnection()
        self.reactor.advance(0)
        self.assertTrue(second.closed)

    def test_half_an_end_of_ours(self) -> None:
        """What is written before we say that it is all leaves; what is written after that does not."""
        self.server.write(b"250 last\r\n")
        self.server.loseWriteConnection()
        self.reactor.advance(0)
        self.server.write(b"250 too late\r\n")
        self.reactor.advance(0)
        self.assertEqual((self.socket.sent, self.socket.closed), ([b"250 last\r\n"], False))
        self.read(b"one\r\n")
        self.assertEqual(self.socket.sent, [b"250 last\r\n"])

    def test_a_pause(self) -> None:
        """What a client sends is not read while its protocol wants nothing."""
        self.server.pauseProducing()
        self.assertEqual((self.poller.watched, self.reactor.readers), (set(), set()))
        self.server.resumeProducing()
        self.server.resumeProducing()
        self.assertEqual((self.poller.watched, self.reactor.readers), ({7}, {self.turn}))

    def test_the_reactor_ends(self) -> None:
        """When the reactor lets go of all that it reads, each connection has ended."""
        self.turn.connectionLost(Failure(ConnectionLost()))
        self.assertIsNotNone(self.protocol.lost and self.protocol.lost.check(ConnectionLost))
        self.assertEqual((self.turn.fileno(), self.turn.logPrefix()), (3, "turn"))

    def test_a_system_without_a_poller(self) -> None:
        """The reactor reads each connection, and replies still leave together."""
        reactor, sock, protocol = _Reactor(), _Socket(), _Echo()
        server = _served(sock, protocol, Turn(reactor, None), reactor)
        self.assertEqual(reactor.readers, {server})
        sock.coming.append(b"one\r\n")
        server.doRead()
        server.write(b"250 two\r\n")
        reactor.advance(0)
        self.assertEqual(sock.sent, [b"250 one\r\n250 two\r\n"])
        server.abortConnection()
        self.assertEqual(reactor.readers, set())

    def test_tcp_ports_alone_are_made_prompt(self) -> None:
        """A UNIX socket keeps Twisted's own connections."""
        tcp, unix = Port(0, None, reactor=self.reactor), UNIXPort("x", None, reactor=self.reactor)
        be_prompt(tcp, self.turn)
        be_prompt(unix, self.turn)
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
