"""Prompt connections over real sockets: nothing is lost, nothing comes twice, and the order is kept."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import CertificateOptions, PrivateCertificate
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from relay.operate.listening import Listener, Where
from relay.operate.prompt import POLLER, Prompt, PromptClient, PromptServer, Turn, be_prompt
from tests.integration.test_platform_faults import Authority


class _End(Protocol):
    """One end of a connection; keeps what comes."""

    def __init__(self) -> None:
        self.came = bytearray()
        self.lost: Deferred[BaseException] = Deferred()
        self._awaited: list[tuple[int, Deferred[None]]] = []
        self.paused = False

    def dataReceived(self, data: bytes) -> None:
        self.came += data
        for size, enough in list(self._awaited):
            if len(self.came) >= size:
                self._awaited.remove((size, enough))
                enough.callback(None)

    def until(self, size: int) -> Deferred[None]:
        """Fires when *size* octets have come."""
        enough: Deferred[None] = Deferred()
        self._awaited.append((size, enough))
        self.dataReceived(b"")
        return enough

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(reason.value)

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False

    def stopProducing(self) -> None:
        """See :class:`twisted.internet.interfaces.IPushProducer`."""


class PromptTests(TestCase):
    """Both ends are prompt."""

    poller = POLLER
    timeout = 20

    async def connected(self) -> tuple[Any, Any]:
        """The two ends of a connection: client and server."""
        turn = Turn(reactor, self.poller)
        accepted: Deferred[Any] = Deferred()

        class Accepting(Factory):
            def buildProtocol(self, _: object) -> Protocol:
                made = _End()
                accepted.callback(made)
                return made

        port = reactor.listenTCP(0, Accepting(), interface="127.0.0.1")
        be_prompt(port, turn)
        self.addCleanup(port.stopListening)
        endpoint = TCP4ClientEndpoint(Prompt(reactor, turn), "127.0.0.1", port.getHost().port)
        client = await endpoint.connect(Factory.forProtocol(_End))
        server = await accepted
        for end, kind in ((client, PromptClient), (server, PromptServer)):
            self.assertIsInstance(end.transport, kind)
            self.addCleanup(lambda end=end: end.lost)
            self.addCleanup(end.transport.abortConnection)
        return client, server

    async def test_both_ways(self) -> None:
        """Some megabytes in pieces of every size, while each end reads now and then, come as they were written."""
        ends = await self.connected()
        random = Random(5)
        written = (bytearray(), bytearray())
        for end in ends:
            end.transport.socket.setsockopt(1, 7, 4096)  # SO_SNDBUF
        for turn in range(300):
            for end, octets in zip(ends, written, strict=True):
                for _ in range(random.choice((0, 1, 1, 3))):
                    piece = random.randbytes(random.choice((1, 30, 30, 4_000, 70_000)))
                    octets += piece
                    end.transport.writeSequence([piece[:10], piece[10:]])
                if turn % 7 == 0:
                    random.choice((end.transport.pauseProducing, end.transport.resumeProducing))()
            await deferLater(reactor, 0)
        for end in ends:
            end.transport.resumeProducing()
        for end, octets in zip(ends, reversed(written), strict=True):
            await end.until(len(octets))
            self.assertEqual(end.came, octets)

    async def test_a_peer_that_does_not_read(self) -> None:
        """It makes the writer pause, and gets all of it when it reads again."""
        client, server = await self.connected()
        client.transport.pauseProducing()
        server.transport.registerProducer(server, True)
        pieces = 0
        while not server.paused:
            server.transport.write(b"%09d\n" % pieces * 1_000)
            pieces += 1
            await deferLater(reactor, 0)
        client.transport.resumeProducing()
        await client.until(pieces * 10_000)
        self.assertFalse(server.paused)
        self.assertEqual(client.came, b"".join(b"%09d\n" % piece * 1_000 for piece in range(pieces)))

    async def test_the_end_comes_behind_what_was_written(self) -> None:
        """Whoever ends a connection has all that it wrote before sent, however long it takes."""
        client, server = await self.connected()
        client.transport.pauseProducing()
        server.transport.write(b"1" * 10)
        server.transport.write(b"2" * 5_000_000)
        server.transport.loseConnection()
        await deferLater(reactor, 0.01)
        client.transport.resumeProducing()
        for end in (client, server):
            self.assertIsInstance(await end.lost, ConnectionDone)
        self.assertEqual(client.came, b"1" * 10 + b"2" * 5_000_000)

    async def test_half_an_end(self) -> None:
        """Whoever has said all still gets an answer."""
        client, server = await self.connected()
        client.transport.write(b"question")
        client.transport.loseWriteConnection()
        await server.lost
        self.assertEqual(server.came, b"question")

    async def test_tls(self) -> None:
        """What is written before the handshake is in clear text and comes first; what follows is in TLS."""
        client, server = await self.connected()
        issued = Authority().issue()
        server.transport.write(b"220 go\r\n")
        server.transport.startTLS(CertificateOptions(issued.privateKey.original, issued.original))
        await client.until(8)
        client.transport.startTLS(PrivateCertificate.options(issued))
        client.transport.write(b"1" * 200_000)
        client.transport.writeSequence([b"2", b"3"])
        await server.until(200_002)
        server.transport.write(b"250 done\r\n")
        await client.until(18)
        self.assertEqual((client.came, server.came), (b"220 go\r\n250 done\r\n", b"1" * 200_000 + b"23"))
        self.assertTrue(ISSLTransport.providedBy(client.transport))
        client.transport.loseConnection()
        await client.lost

    async def test_a_listener(self) -> None:
        """The relay's listeners make what they accept prompt, and end with nothing left in the reactor."""
        listener = Listener(reactor, Where("smtp", "tcp:0:interface=127.0.0.1", "--listen"))
        listener.bind()
        accepted = _End()
        factory = Factory()
        factory.buildProtocol = lambda _: accepted
        turn = Turn(reactor, self.poller)
        listener.serve(factory, turn)
        endpoint = TCP4ClientEndpoint(Prompt(reactor, turn), "127.0.0.1", listener.address.port)
        client = await endpoint.connect(Factory.forProtocol(_End))
        client.transport.write(b"EHLO")
        await accepted.until(4)
        self.assertIsInstance(accepted.transport, PromptServer)
        accepted.transport.abortConnection()
        await accepted.lost
        await client.lost
        await listener.stop()

    async def test_nobody_listens(self) -> None:
        """Who cannot be connected to is refused, as ever."""
        port = reactor.listenTCP(0, Factory(), interface="127.0.0.1")
        free = port.getHost().port
        await port.stopListening()
        endpoint = TCP4ClientEndpoint(Prompt(reactor, Turn(reactor, self.poller)), "127.0.0.1", free)
        with self.assertRaises(ConnectionRefusedError):
            await endpoint.connect(Factory.forProtocol(_End))


class WithoutPollerTests(PromptTests):
    """The same where the system has no epoll, and the reactor watches each connection."""

    poller = None
