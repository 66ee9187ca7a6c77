"""Listeners: bound early, served later, and fatal when they cannot be bound."""

from __future__ import annotations

import errno
import socket

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from relay.errors import ConfigError
from relay.operate import listening
from relay.operate.listening import CannotStart, Listener, Where


class Refusing(MemoryReactorClock):
    """A reactor whose ports are all taken, or need root."""

    error = errno.EADDRINUSE
    kind = OSError

    def listenTCP(self, port, factory, backlog=50, interface=""):
        raise CannotListenError(interface, port, self.kind(self.error, "no"))


class ListenerTests(SynchronousTestCase):
    def listener(self, endpoint: str, reactor=None, **options) -> Listener:
        self.reactor = reactor or MemoryReactorClock()
        return Listener(self.reactor, Where("smtp", endpoint, "--listen", **options), ["127.0.0.0/8"])

    def test_bound_and_served(self) -> None:
        """A port is bound at once; connections go to the factory that comes later."""
        listener = self.listener("tcp:2525")
        self.assertIsNone(listener.address)
        self.assertTrue(listener.bind())
        self.assertEqual(listener.address, IPv4Address("TCP", "0.0.0.0", 2525))
        factory = self.reactor.tcpServers[0][1]
        self.assertIsNone(factory.buildProtocol(listener.address))
        listener.serve(Factory.forProtocol(Protocol))
        self.assertIsInstance(factory.buildProtocol(listener.address), Protocol)
        self.successResultOf(listener.stop())
        self.assertIsNone(listener.address)
        self.successResultOf(listener.stop())

    def test_waiting(self) -> None:
        """Who connects before there is somebody to answer waits in the backlog, and is not turned away."""
        reading: list[bool] = []

        class Reactor(MemoryReactorClock):
            def listenTCP(self, *args, **kwargs):
                port = super().listenTCP(*args, **kwargs)
                port.startReading = lambda: reading.append(True)
                port.stopReading = lambda: reading.append(False)
                return port

        listener = self.listener("tcp:2525", Reactor())
        listener.bind()
        self.assertEqual(reading, [False])
        listener.serve(Factory.forProtocol(Protocol))
        self.assertEqual(reading, [False, True])

    def test_backlog(self) -> None:
        """There is room for a burst of connections, or for as many as the endpoint says."""
        for endpoint in ("tcp:25", "haproxy:tcp:25:interface=127.0.0.1", "tcp:25:backlog=7"):
            self.listener(endpoint).bind()
            self.assertEqual(self.reactor.tcpServers[0][2], 7 if "backlog" in endpoint else 1024)

    def test_busy(self) -> None:
        """A busy port is fatal: one line with the endpoint, who asked for it, and the reason; exit code 1."""
        error = self.assertRaises(CannotStart, self.listener("tcp:25", Refusing()).bind)
        self.assertEqual(str(error), "cannot listen on tcp:25 (--listen): Address already in use")
        self.assertEqual(error.code, 1)
        self.assertIsInstance(error, SystemExit)
        self.assertIsInstance(error, Exception)

    def test_no_such_interface(self) -> None:
        """An interface that is neither an address nor a name is called that, and no unknown error."""
        reactor = Refusing()
        reactor.error, reactor.kind = socket.EAI_NONAME, socket.gaierror
        error = self.assertRaises(CannotStart, self.listener("tcp:25:interface=300.0.0.1", reactor).bind)
        self.assertRegex(str(error), r": interface= is no address, and no name of one$")

    def test_needs_root(self) -> None:
        """A port that needs root is left out where that is allowed, and fatal where it was asked for."""
        reactor = Refusing()
        reactor.error = errno.EACCES
        self.assertIs(self.listener("tcp:25", reactor, may_lack_root=True).bind(), False)
        error = self.assertRaises(CannotStart, self.listener("tcp:25", reactor).bind)
        self.assertIn("Permission denied", str(error))

    def test_busy_is_never_left_out(self) -> None:
        """A default port that is busy is fatal all the same."""
        self.assertRaises(CannotStart, self.listener("tcp:25", Refusing(), may_lack_root=True).bind)

    def test_unknown_endpoint(self) -> None:
        """An endpoint that Twisted does not know names the option; so does a socket that systemd did not give."""
        error = self.assertRaises(ConfigError, self.listener, "lampoon:25")
        self.assertEqual(
            error.problems,
            ("--listen lampoon:25: not an endpoint that Twisted knows: Unknown endpoint type: 'lampoon'",),
        )
        error = self.assertRaises(ConfigError, self.listener, "systemd:domain=INET:index=7")
        self.assertIn("systemd handed over no such socket", error.problems[0])

    def test_proxy(self) -> None:
        """haproxy: endpoints take connections from the listed networks alone."""
        listener = self.listener("haproxy:tcp:2525")
        listener.bind()
        listener.serve(Factory.forProtocol(Protocol))
        factory = self.reactor.tcpServers[0][1]
        self.assertIsNotNone(factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1)))
        self.assertIsNone(factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 1)))

    def test_addresses(self) -> None:
        """Addresses are shown as clients write them; a listener on all interfaces is reached on loopback."""
        four, six = IPv4Address("TCP", "0.0.0.0", 25), IPv6Address("TCP", "::1", 25)
        self.assertEqual([listening.shown(each) for each in (four, six)], ["0.0.0.0:25", "[::1]:25"])
        self.assertEqual(listening.shown(UNIXAddress(b"/run/x")), "/run/x")
        self.assertEqual([listening.host_port(each) for each in (four, six)], [("127.0.0.1", 25), ("::1", 25)])
        self.assertIsNone(listening.host_port(UNIXAddress(b"/run/x")))
