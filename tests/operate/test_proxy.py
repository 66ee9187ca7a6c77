"""The PROXY protocol: both versions, from listed peers alone, in any segmentation."""

from __future__ import annotations

import ipaddress
import struct

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import ITCPTransport, ITLSTransport
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import directlyProvides

from relay.operate import proxy
from relay.smtp.limits import is_loopback, peer_address

V1 = b"PROXY TCP4 192.0.2.1 198.51.100.2 40000 587\r\n"
PROXY = IPv4Address("TCP", "127.0.0.1", 5555)


def v2(source: str, destination: str, command: int = 0x21, tail: bytes = b"") -> bytes:
    one, other = ipaddress.ip_address(source).packed, ipaddress.ip_address(destination).packed
    body = one + other + struct.pack("!HH", 40000, 587) + tail
    family = 0x11 if len(one) == 4 else 0x21
    return b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", command, family, len(body)) + body


class Session(Protocol):
    """Greets, and remembers what it saw."""

    def __init__(self, addr) -> None:
        self.addr = addr
        self.data = b""
        self.lost = None

    def connectionMade(self) -> None:
        self.peer, self.host = self.transport.getPeer(), self.transport.getHost()
        self.transport.write(b"220 hello\r\n")

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason) -> None:
        self.lost = reason


class Sessions(Factory):
    def __init__(self) -> None:
        self.made: list[Session] = []
        self.full = False

    def buildProtocol(self, addr):
        if self.full:
            return None
        self.made.append(Session(addr))
        return self.made[-1]


class ProxyCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.sessions = Sessions()
        self.factory = proxy.ProxyFactory(self.sessions, ["127.0.0.0/8", "2001:db8::/32"], self.clock)

    def connect(self):
        protocol = self.factory.buildProtocol(PROXY)
        transport = StringTransport(peerAddress=PROXY, hostAddress=IPv4Address("TCP", "127.0.0.1", 2525))
        directlyProvides(transport, ITCPTransport, ITLSTransport)
        protocol.makeConnection(transport)
        return protocol, transport


class Headers(ProxyCase):
    def test_version_1(self) -> None:
        """The session sees the client's address of a version 1 header, and what follows the header."""
        protocol, transport = self.connect()
        protocol.dataReceived(V1 + b"EHLO x\r\n")
        (session,) = self.sessions.made
        self.assertEqual(session.peer, IPv4Address("TCP", "192.0.2.1", 40000))
        self.assertEqual(session.addr, session.peer)
        self.assertEqual(session.host, IPv4Address("TCP", "198.51.100.2", 587))
        self.assertEqual(session.data, b"EHLO x\r\n")
        self.assertEqual(transport.value(), b"220 hello\r\n")

    def test_version_2(self) -> None:
        """So it does with version 2, over IPv4 and IPv6, with extensions behind the addresses."""
        for source, kind in (("192.0.2.1", IPv4Address), ("2001:db8::1", IPv6Address)):
            protocol, _ = self.connect()
            destination = "198.51.100.2" if kind is IPv4Address else "2001:db8::2"
            protocol.dataReceived(v2(source, destination, tail=b"\x03\0\x04abcd") + b"EHLO x\r\n")
            session = self.sessions.made[-1]
            self.assertEqual(session.peer, kind("TCP", source, 40000))
            self.assertEqual(session.data, b"EHLO x\r\n")

    def test_own_connections_of_the_proxy(self) -> None:
        """A health check of the proxy (LOCAL) has the proxy's own address."""
        self.connect()[0].dataReceived(v2("192.0.2.1", "192.0.2.2", 0x20))
        self.assertEqual(self.sessions.made[-1].peer, PROXY)

    def test_unknown_client(self) -> None:
        """A client whose address the proxy cannot tell is not taken for loopback, which needs no TLS."""
        for header in (b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN ff:: ff:: 1 2\r\n"):
            self.connect()[0].dataReceived(header)
            self.assertFalse(is_loopback(peer_address(self.sessions.made[-1].peer)))

    def test_nothing_before_the_header(self) -> None:
        """No greeting is sent, and no session begun, before the header is complete, however it is cut."""
        for header in (V1, v2("192.0.2.1", "192.0.2.2")):
            protocol, transport = self.connect()
            made = len(self.sessions.made)
            for each in header[:-1]:
                protocol.dataReceived(bytes([each]))
            self.assertEqual((transport.value(), len(self.sessions.made)), (b"", made))
            protocol.dataReceived(header[-1:])
            self.assertEqual((transport.value(), len(self.sessions.made)), (b"220 hello\r\n", made + 1))

    def test_anything_else_closes(self) -> None:
        """What is no header closes the connection at once, without a greeting."""
        for bad in (
            b"EHLO x\r\n",
            b"GET / HTTP/1.1\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.2 40000\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.2 40000 99999\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.2 40000 -1\r\n",
            b"PROXY TCP4 ::1 ::1 1 2\r\n",
            b"PROXY TCP6 192.0.2.1 198.51.100.2 1 2\r\n",
            b"PROXY UDP4 192.0.2.1 198.51.100.2 1 2\r\n",
            b"PROXY TCP4 \xff 198.51.100.2 1 2\r\n",
            b"PROXY TCP4 " + b"1" * 100,
            b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c",
            b"\r\n\r\n\0\r\nQUIT\n\x22\x11\0\x0c",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04abcd",
        ):
            with self.subTest(bad):
                protocol, transport = self.connect()
                protocol.dataReceived(bad)
                self.assertTrue(transport.disconnected)
                protocol.dataReceived(V1)
                self.assertEqual((transport.value(), self.sessions.made), (b"", []))

    @settings(max_examples=200, deadline=None)
    @given(st.one_of(st.binary(max_size=200), st.binary(max_size=60).map(lambda rest: V1[:20] + rest)))
    def test_any_bytes(self, data: bytes) -> None:
        """For any bytes the parser returns a header, wants more, or refuses."""
        try:
            header = proxy.parse(data)
        except proxy.InvalidHeader:
            return
        self.assertTrue(header is None or 0 < header.length <= len(data))


class Connections(ProxyCase):
    def test_unlisted_peer(self) -> None:
        """A connection from an address that is not listed is closed, and its header never read."""
        for host in ("192.0.2.9", "10.0.0.1"):
            self.assertIsNone(self.factory.buildProtocol(IPv4Address("TCP", host, 1)))
        self.assertIsNone(self.factory.buildProtocol(IPv6Address("TCP", "::1", 1)))
        self.assertIsNone(self.factory.buildProtocol(None))

    def test_listed_peers(self) -> None:
        """Listed networks are trusted, IPv4 in IPv6 and link-local forms too, and a UNIX socket."""
        for addr in (
            IPv4Address("TCP", "127.1.2.3", 1),
            IPv6Address("TCP", "2001:db8::1", 1),
            IPv6Address("TCP", "2001:db8::1%eth0", 1),
            IPv6Address("TCP", "::ffff:127.0.0.1", 1),
            UNIXAddress(b"/run/x"),
        ):
            with self.subTest(addr):
                self.assertIsNotNone(self.factory.buildProtocol(addr))

    def test_silence(self) -> None:
        """A proxy that sends no header is cut off after ten seconds."""
        protocol, transport = self.connect()
        protocol.dataReceived(V1[:-1])
        self.clock.advance(proxy.HEADER_DEADLINE)
        self.assertTrue(transport.disconnected)

    def test_no_deadline_after_the_header(self) -> None:
        """Once the session has begun its own deadlines rule."""
        protocol, _ = self.connect()
        protocol.dataReceived(V1)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        protocol.connectionLost(Failure(ConnectionDone()))
        self.assertIsNotNone(self.sessions.made[0].lost)

    def test_lost_before_the_header(self) -> None:
        """A connection that ends before its header leaves nothing behind."""
        protocol, _ = self.connect()
        protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual((self.clock.getDelayedCalls(), self.sessions.made), ([], []))

    def test_refused_by_the_factory(self) -> None:
        """Where no session is made the connection is closed."""
        self.sessions.full = True
        protocol, transport = self.connect()
        protocol.dataReceived(V1)
        self.assertTrue(transport.disconnected)

    def test_transport(self) -> None:
        """The session can do with its transport what it could without the proxy, STARTTLS among it."""
        protocol, transport = self.connect()
        protocol.dataReceived(V1)
        session = self.sessions.made[0]
        self.assertTrue(ITLSTransport.providedBy(session.transport))
        session.transport.loseConnection()
        self.assertTrue(transport.disconnecting)
