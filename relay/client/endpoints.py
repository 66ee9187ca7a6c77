"""How the platform is connected to: TCP, and TLS that is verified."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

from attrs import define, field
from twisted.internet._sslverify import IOpenSSLTrustRoot
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.ssl import Certificate, TLSVersion, optionsForClientTLS, platformTrust, trustRootFromCertificates

from relay.client.request import Origin
from relay.errors import ConfigError

#: Seconds between two addresses of one name (RFC 8305 section 5 has 100 ms as its least).
ATTEMPT_DELAY = 0.1

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def trust(ca_file: str) -> IOpenSSLTrustRoot:
    """Who may sign the platform's certificate: the authorities in *ca_file* (PEM), the system's when it is empty.

    :raises ConfigError: the file cannot be read or holds no certificate.
    """
    if not ca_file:
        return cast("IOpenSSLTrustRoot", platformTrust())
    try:
        blocks = _PEM.findall(Path(ca_file).read_bytes())
        found = [Certificate.loadPEM(block) for block in blocks]
    except OSError as error:
        raise ConfigError([f"platform.ca_file: {ca_file} cannot be read: {error.strerror}"]) from None
    except Exception:
        raise ConfigError([f"platform.ca_file: {ca_file} holds a certificate that is damaged"]) from None
    if not found:
        raise ConfigError([f"platform.ca_file: {ca_file} holds no certificate in PEM form"])
    return cast("IOpenSSLTrustRoot", trustRootFromCertificates(found))


@define
class Endpoints:
    """TCP, and TLS for https; one endpoint and one TLS context for each origin."""

    _reactor: IReactorTime
    _trust: IOpenSSLTrustRoot
    _timeout: float
    _made: dict[Origin, IStreamClientEndpoint] = field(factory=dict)

    def __call__(self, origin: Origin) -> IStreamClientEndpoint:
        """The endpoint for *origin*."""
        if origin not in self._made:
            self._made[origin] = self._make(origin)
        return self._made[origin]

    def _make(self, origin: Origin) -> IStreamClientEndpoint:
        plain = self._connection(origin.host, origin.port)
        if origin.scheme == "http":
            return plain
        options = optionsForClientTLS(
            origin.host, self._trust, extraCertificateOptions={"raiseMinimumTo": TLSVersion.TLSv1_2}
        )
        # wrapClientTLS and the endpoints are not annotated.
        tls: IStreamClientEndpoint = cast("Any", wrapClientTLS)(options, plain)
        return tls

    def _connection(self, host: str, port: int) -> IStreamClientEndpoint:
        """An address is connected to directly; a name may have several, which are tried side by side."""
        kind: Any = HostnameEndpoint
        arguments: dict[str, float] = {"timeout": self._timeout}
        if isIPAddress(host):
            kind = TCP4ClientEndpoint
        elif isIPv6Address(host):
            kind = TCP6ClientEndpoint
        else:
            # A refusal is noticed only when the next address would be due.
            arguments["attemptDelay"] = ATTEMPT_DELAY
        made: IStreamClientEndpoint = kind(self._reactor, host, port, **arguments)
        return made
