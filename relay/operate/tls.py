"""The certificate of STARTTLS: made on first start, loaded, and loaded again when its files change.

TLS 1.2 at least, AEAD ciphers alone, no renegotiation, no compression (THREATS.md, "TLS and AUTH").
"""

from __future__ import annotations

import ipaddress
import os
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IReactorTime
from twisted.internet.ssl import AcceptableCiphers, CertificateOptions, TLSVersion
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from relay.errors import ConfigError

#: Names of the files that are made under the data directory.
CERTIFICATE = "certificate.pem"
PRIVATE_KEY = "private-key.pem"

#: Ciphers of TLS 1.2; those of TLS 1.3 are all AEAD.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"

#: Seconds before the end of a certificate from which it is warned of.
WARN_BEFORE = 30 * 86_400

#: Seconds between two looks at the files.
LOOK_EVERY = 5.0

#: How long a certificate of our own is good: there is no authority that would renew it.
_LIFETIME = timedelta(days=3650)

#: The kinds of key that TLS signs with.
_SigningKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey

# Twisted does not type it.
_ciphers: Callable[[str], Any] = AcceptableCiphers.fromOpenSSLCipherString

log = Logger()


@frozen
class Pair:
    """A certificate with its key, ready for ``startTLS``.

    :ivar not_after: end of its validity, seconds since the epoch.
    """

    server: IOpenSSLServerConnectionCreator
    not_after: float


@implementer(IOpenSSLServerConnectionCreator)
@frozen
class _Server:
    """Makes the server's end of a TLS connection."""

    context: SSL.Context

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """See :class:`twisted.internet.interfaces.IOpenSSLServerConnectionCreator`."""
        return SSL.Connection(self.context, None)


def load(certificate: str, private_key: str) -> Pair:
    """The pair in two PEM files.

    :param certificate: file with the leaf first, then the intermediates.
    :raises ConfigError: a file cannot be read or holds something else, or the key belongs to another certificate.
    """
    chain = _load_chain(certificate)
    key = _load_key(private_key)
    leaf = chain[0]
    if _public_bytes(leaf.public_key()) != _public_bytes(key.public_key()):
        raise ConfigError([f"private_key {private_key}: is not the key of the first certificate in {certificate}"])
    options = CertificateOptions(
        privateKey=crypto.PKey.from_cryptography_key(key),
        certificate=crypto.X509.from_cryptography(leaf),
        extraCertChain=[crypto.X509.from_cryptography(each) for each in chain[1:]],
        raiseMinimumTo=TLSVersion.TLSv1_2,
        acceptableCiphers=_ciphers(CIPHERS),
    )
    try:
        context = options.getContext()
        context.set_options(SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION)
    except SSL.Error as error:
        raise ConfigError([f"certificate {certificate}: OpenSSL does not take it: {error}"]) from None
    return Pair(_Server(context), leaf.not_valid_after_utc.timestamp())


def _load_chain(path: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError([f"certificate {path}: cannot be read: {error.strerror}"]) from None
    except ValueError:
        raise ConfigError([f"certificate {path}: holds no certificate in PEM form"]) from None


def _load_key(path: str) -> _SigningKey:
    try:
        key = serialization.load_pem_private_key(Path(path).read_bytes(), None)
    except OSError as error:
        raise ConfigError([f"private_key {path}: cannot be read: {error.strerror}"]) from None
    except TypeError:
        raise ConfigError([f"private_key {path}: is encrypted; give one without a passphrase"]) from None
    except ValueError:
        raise ConfigError([f"private_key {path}: holds no private key in PEM form"]) from None
    if not isinstance(key, _SigningKey):
        raise ConfigError([f"private_key {path}: is of a kind that TLS does not use; RSA, EC and Ed25519 are"])
    return key


def make(directory: str, hostname: str, now: Callable[[], float] = time.time) -> tuple[str, str]:
    """A self-signed certificate under *directory*, made if there is none, and its key with mode 0600.

    It is good for *hostname*, localhost and the loopback addresses.

    :return: the paths of the certificate and the key.
    :raises OSError: the directory cannot be written to.
    """
    certificate, private_key = os.path.join(directory, CERTIFICATE), os.path.join(directory, PRIVATE_KEY)
    if not (os.path.exists(certificate) and os.path.exists(private_key)):
        key = ec.generate_private_key(ec.SECP256R1())
        pem = serialization.Encoding.PEM
        form = serialization.PrivateFormat.PKCS8
        _write(private_key, key.private_bytes(pem, form, serialization.NoEncryption()), 0o600)
        _write(certificate, _self_signed(key, hostname, now()).public_bytes(pem), 0o644)
    return certificate, private_key


def _self_signed(key: ec.EllipticCurvePrivateKey, hostname: str, now: float) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hostname[:64])])
    begin = datetime.fromtimestamp(now, timezone.utc)
    addresses = [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")]
    names = [
        *(x509.DNSName(each) for each in dict.fromkeys((hostname, "localhost"))),
        *(x509.IPAddress(each) for each in addresses),
    ]
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin - timedelta(hours=1))
        .not_valid_after(begin + _LIFETIME)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _write(path: str, content: bytes, mode: int) -> None:
    """Write a file so that it is never there in part, nor for a moment with another mode."""
    partial = f"{path}.new"
    Path(partial).unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _public_bytes(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


class Certificates:
    """The pair of now; sessions that have begun TLS keep the one they began with.

    :param certificate: PEM file, leaf first.
    :param private_key: PEM file.
    :param clock: what the looks at the files are timed with.
    :param now: wall clock, seconds since the epoch.
    :raises ConfigError: as :func:`load`.
    """

    def __init__(
        self, certificate: str, private_key: str, clock: IReactorTime, now: Callable[[], float] = time.time
    ) -> None:
        self._paths = (certificate, private_key)
        self._clock = clock
        self._now = now
        self._looked = clock.seconds()
        self._stamps = self._stat()
        self._pair = load(certificate, private_key)

    @property
    def not_after(self) -> float:
        """End of the certificate's validity, seconds since the epoch."""
        return self._pair.not_after

    def current(self) -> IOpenSSLServerConnectionCreator:
        """What to hand to ``startTLS``; a pair whose files have changed is loaded first."""
        if self._clock.seconds() - self._looked >= LOOK_EVERY:
            self._looked = self._clock.seconds()
            if self._stat() != self._stamps:
                self.reload()
        return self._pair.server

    def reload(self) -> bool:
        """Load the files again; a bad pair leaves the old one in place and is logged.

        :return: whether the new pair is in use.
        """
        self._stamps = self._stat()
        certificate, private_key = self._paths
        try:
            self._pair = load(certificate, private_key)
        except ConfigError as error:
            log.error("certificate not loaded, the old one stays: {problem}", problem=str(error))
            return False
        log.info("certificate loaded: {certificate}", certificate=certificate)
        self.warn()
        return True

    def warn(self) -> None:
        """Log a warning when the certificate ends within 30 days, or has ended."""
        left = self._pair.not_after - self._now()
        if left < WARN_BEFORE:
            until = datetime.fromtimestamp(self._pair.not_after, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
            said = "has expired" if left < 0 else "expires"
            log.warn("certificate {certificate} {said}: {until}", certificate=self._paths[0], said=said, until=until)

    def _stat(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stamp(path) for path in self._paths)


def _stamp(path: str) -> tuple[int, int, int] | None:
    """What changes when a file is replaced or written to."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
