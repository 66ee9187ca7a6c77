"""Certificates: made, loaded, replaced; and what of TLS is spoken."""

from __future__ import annotations

import contextlib
import os
import ssl
import stat
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from OpenSSL import SSL
from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from relay.errors import ConfigError
from relay.operate import tls

DAY = 86_400


class TLSCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.events: list[dict] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)

    def make(self, hostname: str = "relay.example.com", **options) -> tuple[str, str]:
        folder = self.mktemp()
        os.makedirs(folder)
        return tls.make(folder, hostname, **options)

    def levels(self) -> list[LogLevel]:
        return [event["log_level"] for event in self.events if event.get("log_namespace") == "relay.operate.tls"]


def subject_names(path: str) -> tuple[list[str], list[str]]:
    certificate = x509.load_pem_x509_certificate(Path(path).read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.DNSName), [str(each) for each in names.get_values_for_type(x509.IPAddress)]


def handshake(server_creator, context: ssl.SSLContext, name: str = "localhost") -> ssl.SSLObject:
    """A client's end after a handshake in memory; raises ssl.SSLError or SSL.Error."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(to_client, to_server, server_hostname=name)
    server = server_creator.serverConnectionForTLS(None)
    server.set_accept_state()
    done = False
    for _ in range(10):
        try:
            client.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            pass
        if to_server.pending:
            server.bio_write(to_server.read())
        try:
            server.do_handshake()
        except SSL.WantReadError:
            pass
        finally:
            try:
                to_client.write(server.bio_read(65536))
            except SSL.WantReadError:
                if done:
                    return client
    raise AssertionError("no end of the handshake")


def trusting(path: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=path)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


class Made(TLSCase):
    def test_names_and_modes(self) -> None:
        """The certificate is good for the host name, localhost and loopback; only its owner reads the key."""
        certificate, key = self.make()
        self.assertEqual(subject_names(certificate), (["relay.example.com", "localhost"], ["127.0.0.1", "::1"]))
        self.assertEqual(stat.S_IMODE(os.stat(key).st_mode), 0o600)
        self.assertEqual(sorted(os.listdir(os.path.dirname(key))), ["certificate.pem", "private-key.pem"])

    def test_kept(self) -> None:
        """A second start has the same certificate and key."""
        certificate, key = self.make()
        before = Path(certificate).read_bytes(), Path(key).read_bytes()
        self.assertEqual(tls.make(os.path.dirname(certificate), "other.example.com"), (certificate, key))
        self.assertEqual((Path(certificate).read_bytes(), Path(key).read_bytes()), before)

    def test_half_of_a_pair(self) -> None:
        """A start that was cut off between the two files is made good by the next."""
        certificate, key = self.make()
        os.unlink(certificate)
        Path(f"{key}.new").write_text("cut off")
        tls.make(os.path.dirname(certificate), "relay.example.com")
        tls.load(certificate, key)

    def test_long_host_name(self) -> None:
        """A host name too long for a common name is still among the names."""
        name = ".".join(["a" * 60] * 4)
        self.assertEqual(subject_names(self.make(name)[0])[0], [name, "localhost"])

    def test_clients_accept_it(self) -> None:
        """A client that trusts the file, in OpenSSL's strict mode, takes it for each of its names."""
        paths = self.make()
        for name in ("relay.example.com", "localhost", "127.0.0.1", "::1"):
            with self.subTest(name):
                handshake(tls.load(*paths).server, trusting(paths[0]), name)


class Loaded(TLSCase):
    def problem(self, certificate: str, key: str) -> str:
        problems = self.assertRaises(ConfigError, tls.load, certificate, key).problems
        self.assertEqual(len(problems), 1)
        return problems[0]

    def write(self, content: bytes) -> str:
        path = self.mktemp()
        Path(path).write_bytes(content)
        return path

    def test_problems(self) -> None:
        """Each way in which a pair is unusable is said, with the file."""
        certificate, key = self.make()
        other = self.make()[1]
        secret = serialization.load_pem_private_key(Path(key).read_bytes(), None)
        pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        encrypted = self.write(secret.private_bytes(pem, form, serialization.BestAvailableEncryption(b"x")))
        self.assertIn("is not the key of", self.problem(certificate, other))
        self.assertIn("cannot be read: No such file", self.problem("/nonexistent", key))
        self.assertIn("cannot be read: No such file", self.problem(certificate, "/nonexistent"))
        self.assertIn("holds no certificate", self.problem(key, key))
        self.assertIn("holds no private key", self.problem(certificate, certificate))
        self.assertIn("without a passphrase", self.problem(certificate, encrypted))

    def test_chain(self) -> None:
        """The intermediates behind the leaf in the file are sent along."""
        certificate, key = self.make()
        intermediate = Path(self.make("intermediate.example.com")[0]).read_bytes()
        chain = self.write(Path(certificate).read_bytes() + intermediate)
        server = tls.load(chain, key).server.serverConnectionForTLS(None)
        client = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
        client.set_connect_state()
        server.set_accept_state()
        _pump(client, server)
        self.assertEqual(
            [each.get_subject().CN for each in client.get_peer_cert_chain() or ()][1:], ["intermediate.example.com"]
        )

    def test_rsa(self) -> None:
        """An RSA key, as most authorities sign, works as well."""
        certificate, _ = self.make()
        key = rsa.generate_private_key(65537, 2048)
        template = x509.load_pem_x509_certificate(Path(certificate).read_bytes())
        signed = (
            x509.CertificateBuilder()
            .subject_name(template.subject)
            .issuer_name(template.subject)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(template.not_valid_before_utc)
            .not_valid_after(template.not_valid_after_utc)
            .sign(key, hashes.SHA256())
        )
        pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL
        pair = tls.load(
            self.write(signed.public_bytes(pem)),
            self.write(key.private_bytes(pem, form, serialization.NoEncryption())),
        )
        context = anyone()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        self.assertIn("ECDHE-RSA", handshake(pair.server, context).cipher()[0])


def anyone() -> ssl.SSLContext:
    """A client that verifies nothing."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _pump(client: SSL.Connection, server: SSL.Connection) -> None:
    """Run both handshakes, and hand over what each has to say."""
    for _ in range(10):
        for one, other in ((client, server), (server, client)):
            with contextlib.suppress(SSL.WantReadError):
                one.do_handshake()
            with contextlib.suppress(SSL.WantReadError):
                other.bio_write(one.bio_read(65536))


class Spoken(TLSCase):
    def test_versions(self) -> None:
        """TLS 1.2 and 1.3 are spoken, 1.1 is refused."""
        server = tls.load(*self.make()).server
        for version, name in ((ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")):
            context = anyone()
            context.minimum_version = context.maximum_version = version
            self.assertEqual(handshake(server, context).version(), name)
        old = SSL.Context(SSL.TLS_CLIENT_METHOD)
        old.set_cipher_list(b"ALL:@SECLEVEL=0")
        old.set_min_proto_version(SSL.TLS1_1_VERSION)
        old.set_max_proto_version(SSL.TLS1_1_VERSION)
        self.refuses(server, old)

    def refuses(self, creator, context: SSL.Context) -> None:
        server, client = creator.serverConnectionForTLS(None), SSL.Connection(context, None)
        server.set_accept_state()
        client.set_connect_state()
        self.assertRaises(SSL.Error, _pump_until_error, client, server)

    def test_ciphers(self) -> None:
        """Ciphers without authenticated encryption are refused, those with are taken."""
        server = tls.load(*self.make()).server
        for cipher in ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"):
            context = anyone()
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(cipher)
            self.assertEqual(handshake(server, context).cipher()[0], cipher)
        cbc = SSL.Context(SSL.TLS_CLIENT_METHOD)
        cbc.set_max_proto_version(SSL.TLS1_2_VERSION)
        cbc.set_cipher_list(b"ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES256-SHA")
        self.refuses(server, cbc)

    def test_no_renegotiation(self) -> None:
        """A client that renegotiates is turned away."""
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
        server = tls.load(*self.make()).server.serverConnectionForTLS(None)
        client = SSL.Connection(context, None)
        server.set_accept_state()
        client.set_connect_state()
        _pump(client, server)
        self.assertTrue(client.renegotiate())
        self.assertRaises(SSL.Error, _pump_until_error, client, server)


def _pump_until_error(client: SSL.Connection, server: SSL.Connection) -> None:
    """As :func:`_pump`, reading after the handshake too; errors of either are raised."""
    for _ in range(10):
        for one, other in ((client, server), (server, client)):
            for step in (one.do_handshake, lambda one=one: one.recv(1)):
                with contextlib.suppress(SSL.WantReadError):
                    step()
            with contextlib.suppress(SSL.WantReadError):
                other.bio_write(one.bio_read(65536))


class Replaced(TLSCase):
    def setUp(self) -> None:
        super().setUp()
        self.paths = self.make()
        self.certificates = tls.Certificates(*self.paths, self.clock)

    def replace(self, which=(0, 1)) -> None:
        """Put another pair, or one file of it, in place, as certbot does."""
        other = self.make("new.example.com")
        for each in which:
            os.replace(other[each], self.paths[each])

    def serves(self, name: str) -> bool:
        """Whether a new session gets a certificate for *name*."""
        context = trusting(self.paths[0])
        try:
            handshake(self.certificates.current(), context, name)
        except ssl.SSLError:
            return False
        return True

    def test_reload(self) -> None:
        """After a reload new sessions get the new certificate; the old one's context goes on."""
        old = self.certificates.current()
        self.replace()
        self.assertTrue(self.certificates.reload())
        self.assertTrue(self.serves("new.example.com"))
        self.assertIsNot(self.certificates.current(), old)

    def test_change_of_files(self) -> None:
        """Replaced files are noticed within seconds, without a signal."""
        self.replace()
        before = self.certificates.current()
        self.clock.advance(tls.LOOK_EVERY)
        self.assertIsNot(self.certificates.current(), before)
        self.assertTrue(self.serves("new.example.com"))

    def test_unchanged_files(self) -> None:
        """Files that are as they were are not loaded again."""
        before = self.certificates.current()
        self.clock.advance(tls.LOOK_EVERY)
        self.assertIs(self.certificates.current(), before)

    def test_bad_pair(self) -> None:
        """A pair that does not fit keeps the old one and is logged once; when its other half comes it is taken."""
        before = self.certificates.current()
        other = self.make("new.example.com")
        os.replace(other[0], self.paths[0])
        for _ in range(3):
            self.clock.advance(tls.LOOK_EVERY)
            self.assertIs(self.certificates.current(), before)
        self.assertEqual(self.levels(), [LogLevel.error])
        os.replace(other[1], self.paths[1])
        self.clock.advance(tls.LOOK_EVERY)
        self.assertTrue(self.serves("new.example.com"))

    def test_vanished(self) -> None:
        """Files that are gone change nothing for clients."""
        before = self.certificates.current()
        os.unlink(self.paths[0])
        self.assertFalse(self.certificates.reload())
        self.assertIs(self.certificates.current(), before)


class Expiry(TLSCase):
    def warnings(self, days_left: float) -> list[str]:
        paths = self.make(now=lambda: 0.0)
        end = tls.load(*paths).not_after
        tls.Certificates(*paths, self.clock, now=lambda: end - days_left * DAY).warn()
        return [event["said"] for event in self.events if event.get("log_level") is LogLevel.warn]

    def test_warned(self) -> None:
        """From 30 days before its end the certificate is warned of."""
        self.assertEqual(self.warnings(29), ["expires"])

    def test_early(self) -> None:
        """Before that it is not."""
        self.assertEqual(self.warnings(31), [])

    def test_expired(self) -> None:
        """One that has ended is said to have."""
        self.assertEqual(self.warnings(-1), ["has expired"])
