"""Faults of the platform that need real sockets and real TLS (THREATS.md, "The platform at the other end").

Everything is on 127.0.0.1 and on ports the system chooses; deadlines run on a clock that the tests turn.
"""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path
from typing import Any, cast

from attrs import evolve
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHostnameResolver, IHostResolution, IReactorPluggableNameResolver
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.internet.ssl import CertificateOptions, PrivateCertificate
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from relay.client.backend import Backend
from relay.client.endpoints import Endpoints, trust
from relay.client.pool import make_client
from relay.errors import Reason, TemporaryFailure
from relay.operate.prompt import Prompt, Turn
from relay.policy import Platform
from tests.client.platformcase import KEY, SUBMISSION
from tests.client.rawserver import ACCEPTED, CLOSE, RESET, RawConnection, RawPlatform

HOST = "platform.test"
DAY = datetime.timedelta(days=1)


class Authority:
    """Signs certificates, good and bad ones."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])
        self._certificate = self._sign(self._name, self._key, [(x509.BasicConstraints(ca=True, path_length=0), True)])

    def pem(self) -> bytes:
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, *names: x509.GeneralName, start: int = -2, days: int = 4) -> PrivateCertificate:
        """A certificate with *names* as alternative names, or with none; its common name is always the right one."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
        extensions: list[Any] = [(x509.SubjectAlternativeName(names), False)] if names else []
        certificate = self._sign(subject, key, extensions, start, days)
        pem = serialization.Encoding.PEM
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return PrivateCertificate.loadPEM(certificate.public_bytes(pem) + private)

    def _sign(self, subject: Any, key: Any, extensions: Any, start: int = -2, days: int = 4) -> x509.Certificate:
        begins = datetime.datetime.now(datetime.timezone.utc) + start * DAY
        builder = x509.CertificateBuilder(
            issuer_name=self._name,
            subject_name=subject,
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=begins,
            not_valid_after=begins + days * DAY,
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self._key, hashes.SHA256())


@implementer(IReactorPluggableNameResolver, IHostnameResolver, IHostResolution)
class Resolving:
    """The real reactor, with a name service that knows one host."""

    name = HOST

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)

    @property
    def nameResolver(self) -> Resolving:
        return self

    def installNameResolver(self, resolver: object) -> None:
        raise NotImplementedError

    def resolveHostName(self, receiver: Any, hostName: str, portNumber: int = 0, *_: Any, **__: Any) -> Resolving:
        receiver.resolutionBegan(self)
        if hostName in (HOST, "127.0.0.1"):
            receiver.addressResolved(IPv4Address("TCP", "127.0.0.1", portNumber))
        receiver.resolutionComplete()
        return self

    def cancel(self) -> None:
        raise NotImplementedError


class SocketCase(TestCase):
    """A platform on a socket."""

    timeout = 20

    def setUp(self) -> None:
        self.clock = Clock()
        self.labels: list[str] = []
        self.platform = RawPlatform()

    def listen(self, factory: ServerFactory | None = None) -> int:
        """Listen until the test is over; the port."""
        port = reactor.listenTCP(0, factory or self.platform, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return int(port.getHost().port)

    def backend(self, url: str, **policy: Any) -> Backend:
        settings = Platform(**policy)
        connect = Prompt(Resolving(), Turn(reactor))  # as the relay itself connects
        endpoints = Endpoints(cast("Any", connect), trust(settings.ca_file), settings.timeout)
        client = make_client(self.clock, settings, endpoints)
        self.addCleanup(self.gone)
        self.addCleanup(client.close)
        return Backend(url, client, policy=settings, clock=self.clock, answered=self.labels.append)

    def gone(self) -> Deferred[Any]:
        """Every connection has ended: none is left behind by a fault."""
        done: Deferred[Any] = Deferred()

        def look() -> None:
            if self.platform.open:
                reactor.callLater(0.01, look)
            else:
                done.callback(None)

        look()
        return done

    async def fails(self, backend: Backend, reason: Reason, label: str) -> None:
        """A submission fails with *reason*, and the metrics call it *label*."""
        failure = await self.assertFailure(Deferred.fromCoroutine(backend.send(SUBMISSION)), TemporaryFailure)
        self.assertIs(failure.reason, reason)
        self.assertEqual(self.labels, [label])


class TLSTests(SocketCase):
    """Whom the relay gives a key to."""

    def setUp(self) -> None:
        super().setUp()
        self.authority = Authority()
        self.ca_file = Path(self.mktemp())
        self.ca_file.write_bytes(self.authority.pem())

    def secure(self, options: Any, host: str = HOST, ca_file: str | None = None) -> Backend:
        """A backend for a platform with the TLS *options*, that trusts the test's authority."""
        port = self.listen(TLSMemoryBIOFactory(options, False, self.platform))
        return self.backend(f"https://{host}:{port}", ca_file=str(self.ca_file) if ca_file is None else ca_file)

    async def refused(self, backend: Backend) -> None:
        """The platform gets no request at all, not even its first byte."""
        await self.fails(backend, Reason.UNREACHABLE, "tls")
        self.assertEqual(self.platform.requests, [])
        self.assertEqual([each for each in self.platform.connections if each._buffer], [])

    async def test_own_authority(self) -> None:
        """A certificate of the authority in platform.ca_file is good; TLS is 1.2 at least; the connection is kept."""
        backend = self.secure(self.authority.issue(x509.DNSName(HOST)).options())
        self.platform.script = [[ACCEPTED], [ACCEPTED]]
        await backend.send(SUBMISSION)
        await backend.send(SUBMISSION)
        (connection,) = self.platform.connections
        handle = connection.transport.getHandle()
        self.assertGreaterEqual(handle.get_protocol_version(), SSL.TLS1_2_VERSION)
        self.assertEqual([each.headers["x-auth-apikey"] for each in self.platform.requests], [KEY, KEY])

    async def test_address(self) -> None:
        """A platform named by its address needs that address in its certificate."""
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        self.platform.script = [[ACCEPTED]]
        await self.secure(self.authority.issue(address).options(), host="127.0.0.1").send(SUBMISSION)

    async def test_another_address(self) -> None:
        """A certificate for another address is refused."""
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.2"))
        await self.refused(self.secure(self.authority.issue(address).options(), host="127.0.0.1"))

    async def test_unknown_authority(self) -> None:
        """Without platform.ca_file the system's authorities count, and ours is none of them."""
        await self.refused(self.secure(self.authority.issue(x509.DNSName(HOST)).options(), ca_file=""))

    async def test_only_own_authority(self) -> None:
        """With platform.ca_file nobody else's signature counts, though the authority has the same name."""
        await self.refused(self.secure(Authority().issue(x509.DNSName(HOST)).options()))

    async def test_another_name(self) -> None:
        """A certificate for another name is refused."""
        await self.refused(self.secure(self.authority.issue(x509.DNSName("other.test")).options()))

    async def test_expired(self) -> None:
        """A certificate that has expired is refused."""
        await self.refused(self.secure(self.authority.issue(x509.DNSName(HOST), start=-9).options()))

    async def test_not_yet_valid(self) -> None:
        """So is one that is not valid yet."""
        await self.refused(self.secure(self.authority.issue(x509.DNSName(HOST), start=2).options()))

    async def test_no_alternative_name(self) -> None:
        """A certificate with a common name alone is for nobody (RFC 6125): refused."""
        await self.refused(self.secure(self.authority.issue().options()))
        self.flushLoggedErrors()  # Twisted logs that it could not read the names

    async def test_unreadable_names(self) -> None:
        """So is one whose alternative names are none that can be checked."""
        await self.refused(self.secure(self.authority.issue(x509.DNSName("*.*.test")).options()))
        self.flushLoggedErrors()  # as above

    async def test_old_protocol(self) -> None:
        """A platform that speaks TLS 1.1 at most is not spoken to."""
        issued = self.authority.issue(x509.DNSName(HOST))
        options = CertificateOptions(issued.privateKey.original, issued.original)
        context = options.getContext()
        context.set_min_proto_version(SSL.TLS1_1_VERSION)
        context.set_max_proto_version(SSL.TLS1_1_VERSION)
        context.set_cipher_list(b"ALL:@SECLEVEL=0")
        await self.refused(self.secure(options))

    async def test_clear_text_at_the_port(self) -> None:
        """An https URL whose port speaks http gets no request in clear text."""
        backend = self.backend(f"https://{HOST}:{self.listen()}", ca_file=str(self.ca_file))
        self.platform.script = [[ACCEPTED]]
        talk = self.talk_first()
        await self.fails(backend, Reason.UNREACHABLE, "tls")
        self.assertNotIn(KEY.encode(), talk())
        self.assertEqual(self.platform.requests, [])

    def talk_first(self) -> Any:
        """Let the platform answer HTTP to whatever comes; gives what came."""
        came: list[bytes] = []

        class Rude(RawConnection):
            def dataReceived(self, data: bytes) -> None:
                came.append(data)
                self.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        self.platform.connection = Rude
        return lambda: b"".join(came)

    async def test_closed_in_the_handshake(self) -> None:
        """A platform that hangs up within the handshake has no message: unreachable, and no unknown outcome."""

        class HangsUp(Protocol):
            def dataReceived(self, data: bytes) -> None:
                self.transport.loseConnection()

        backend = self.backend(f"https://{HOST}:{self.listen(ServerFactory.forProtocol(HangsUp))}")
        await self.fails(backend, Reason.UNREACHABLE, "tls")

    async def test_stalled_handshake(self) -> None:
        """A platform that is silent in the handshake is given up at the deadline, and its connection closed."""
        ended: Deferred[None] = Deferred()
        clock = self.clock

        class Silent(Protocol):
            def dataReceived(self, data: bytes) -> None:
                clock.advance(30)

            def connectionLost(self, reason: object = None) -> None:
                ended.callback(None)

        backend = self.backend(f"https://{HOST}:{self.listen(ServerFactory.forProtocol(Silent))}")
        await self.fails(backend, Reason.UNREACHABLE, "timeout")
        await ended

    async def test_no_goodbye(self) -> None:
        """At the deadline a TLS connection is closed, though the platform never takes part in closing it."""
        backend = self.secure(self.authority.issue(x509.DNSName(HOST)).options())
        self.platform.script = [[b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"]]
        self.deaf_after_request()
        await self.fails(backend, Reason.UNREACHABLE, "timeout")
        # gone(), at the end of every test, fails by its timeout when the connection is still there.

    def deaf_after_request(self) -> None:
        """After the next request the platform reads no more, and the deadline passes."""
        play = RawConnection.play
        clock = self.clock

        class Deaf(RawConnection):
            def play(self, steps: list[Any]) -> None:
                play(self, steps)
                reactor.callLater(0.05, clock.advance, 30)

        self.platform.connection = Deaf

    async def test_cut_without_goodbye(self) -> None:
        """An HTTP/1.0 body over TLS that somebody cuts is an unknown outcome."""

        class Unplugged(RawConnection):
            def play(self, steps: list[Any]) -> None:
                super().play(steps)
                reactor.callLater(0.05, self.transport.transport.loseConnection)  # TLS writes in the next turn

        backend = self.secure(self.authority.issue(x509.DNSName(HOST)).options())
        self.platform.script = [[b'HTTP/1.0 200 OK\r\n\r\n{"result":']]
        self.platform.connection = Unplugged
        await self.fails(backend, Reason.UNKNOWN_OUTCOME, "truncated")


class TCPTests(SocketCase):
    """Sockets without TLS."""

    async def test_refused(self) -> None:
        """Nobody listens: unreachable."""
        port = reactor.listenTCP(0, self.platform, interface="127.0.0.1")
        url = f"http://127.0.0.1:{port.getHost().port}"
        await port.stopListening()
        await self.fails(self.backend(url), Reason.UNREACHABLE, "refused")

    async def test_no_such_name(self) -> None:
        """The name service does not know the platform: unreachable."""
        await self.fails(self.backend("http://elsewhere.test"), Reason.UNREACHABLE, "dns")

    async def test_reset(self) -> None:
        """A connection reset in place of an answer: an unknown outcome, and one POST."""
        self.platform.script = [[RESET], [ACCEPTED]]
        await self.fails(self.backend(f"http://{HOST}:{self.listen()}"), Reason.UNKNOWN_OUTCOME, "lost")
        self.assertEqual(len(self.platform.requests), 1)

    async def test_stale(self) -> None:
        """A kept connection that is reset under a POST: it is repeated on a new one, with the same key."""
        self.platform.script = [[ACCEPTED], [RESET], [ACCEPTED]]
        backend = self.backend(f"http://{HOST}:{self.listen()}")
        await backend.send(SUBMISSION)
        await backend.send(SUBMISSION)
        self.assertEqual(len(self.platform.requests), 3)
        self.assertEqual(len({each.headers["idempotency-key"] for each in self.platform.requests}), 1)

    async def test_never_reads(self) -> None:
        """A platform that does not read a large message is given up at the deadline, and its connection closed."""
        clock = self.clock

        class NeverReads(RawConnection):
            def connectionMade(self) -> None:
                self.transport.pauseProducing()
                reactor.callLater(0.05, self.wake)

            def wake(self) -> None:
                clock.advance(30)
                self.transport.resumeProducing()  # to see the end of the connection

            def dataReceived(self, data: bytes) -> None:
                """Forget it."""

        self.platform.connection = NeverReads
        backend = self.backend(f"http://{HOST}:{self.listen()}")
        large = Deferred.fromCoroutine(backend.send(evolve(SUBMISSION, body="x" * 20_000_000)))
        failure = await self.assertFailure(large, TemporaryFailure)
        self.assertEqual((failure.reason, self.labels), (Reason.UNREACHABLE, ["timeout"]))

    async def test_half_closed(self) -> None:
        """An answer that ends by the end of the connection, and is whole, counts on a socket as well."""
        self.platform.script = [[b'HTTP/1.0 200 OK\r\n\r\n{"result":"ok"}', CLOSE]]
        await self.backend(f"http://{HOST}:{self.listen()}").send(SUBMISSION)
        self.assertEqual(self.labels, ["200"])
