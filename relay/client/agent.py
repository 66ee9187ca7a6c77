"""The HTTP client for the platform: treq on a pool of connections, TLS that is verified, nothing decoded."""

from __future__ import annotations

import re
from functools import lru_cache
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any, cast

from attrs import define, field, frozen
from hyperlink import EncodedURL
from treq.client import HTTPClient
from treq.cookies import IndexableCookieJar
from twisted.internet._sslverify import IOpenSSLTrustRoot
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.ssl import Certificate, TLSVersion, optionsForClientTLS, platformTrust, trustRootFromCertificates
from twisted.web.client import URI, Agent
from twisted.web.error import SchemeNotSupported
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

from relay.client.pool import Content, Pool
from relay.errors import ConfigError
from relay.policy import Platform

#: Bytes of status line and headers that an answer may have.
HEADER_SIZE = 65_536
#: Bytes on the wire for each byte of a body, at worst: a chunk of one byte is "1 CR LF x CR LF".
CHUNKED = 6
#: Seconds between two addresses of one name (RFC 8305 section 5 has 100 ms as its least).
ATTEMPT_DELAY = 0.1

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class Client(HTTPClient):
    """treq on a persistent pool; :meth:`close` it when the relay stops."""

    def __init__(self, agent: IAgent, pool: Pool) -> None:
        no_cookies = IndexableCookieJar(policy=DefaultCookiePolicy(allowed_domains=[]))
        super().__init__(Unencoded(agent), cookiejar=no_cookies, data_to_body_producer=Content)
        self._pool = pool

    def request(self, method: str, url: Any, **options: Any) -> Deferred[Any]:
        """As :meth:`treq.client.HTTPClient.request`, on a URL that is in its final form, as text."""
        return super().request(method, prepared(url) if isinstance(url, str) else url, **options)

    def close(self) -> None:
        """Close the connections that are idle now, and each other one when its answer is there."""
        self._pool.close()


class PreparedURL(EncodedURL):
    """A URL that treq need not encode: it would do so for each request, and fails on an IPv6 address."""

    def to_uri(self) -> PreparedURL:
        """This one."""
        return self


@lru_cache(maxsize=64)
def prepared(url: str) -> PreparedURL:
    """*url*, ASCII and percent-encoded already."""
    return cast("PreparedURL", PreparedURL.from_text(url))


def make_client(
    reactor: IReactorTime, policy: Platform | None = None, endpoints: IAgentEndpointFactory | None = None
) -> Client:
    """The HTTP client for the platform.

    :param reactor: a real reactor; with *endpoints* of one's own a clock is enough.
    :param endpoints: how a URL is connected to, by default TCP, and TLS 1.2 or later for https.
    :raises ConfigError: ``platform.ca_file`` cannot be read or holds no certificate.
    """
    policy = policy or Platform()
    if endpoints is None:
        endpoints = Endpoints(reactor, trust(policy.ca_file), policy.timeout)
    pool = Pool(reactor, policy.connections, HEADER_SIZE + CHUNKED * policy.answer_size)
    # Agent is not annotated, and takes anything with getConnection for a pool.
    agent = cast("Any", Agent).usingEndpointFactory(reactor, endpoints, pool)
    return Client(agent, pool)


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


@implementer(IAgentEndpointFactory)
@define
class Endpoints:
    """TCP, and TLS for https, to the host of a URL; one endpoint and one TLS context for each host."""

    _reactor: IReactorTime
    _trust: IOpenSSLTrustRoot
    _timeout: float
    _made: dict[tuple[bytes, bytes, int], IStreamClientEndpoint] = field(factory=dict)

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """The endpoint for *uri*; a host that is an IPv6 address stands without brackets."""
        key = (uri.scheme, uri.host, uri.port)
        if key not in self._made:
            self._made[key] = self._make(*key)
        return self._made[key]

    def _make(self, scheme: bytes, host_bytes: bytes, port: int) -> IStreamClientEndpoint:
        host = host_bytes.decode("ascii")
        plain = self._connection(host, port)
        if scheme == b"http":
            return plain
        if scheme != b"https":
            raise SchemeNotSupported(f"Unsupported scheme: {scheme!r}")
        options = optionsForClientTLS(host, self._trust, extraCertificateOptions={"raiseMinimumTo": TLSVersion.TLSv1_2})
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


@implementer(IAgent)
@frozen
class Unencoded:
    """Takes back what treq adds to every request: it offers gzip, and it would inflate an answer without a bound."""

    _agent: IAgent

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        """As :meth:`twisted.web.iweb.IAgent.request`."""
        headers = Headers() if headers is None else headers.copy()
        headers.setRawHeaders("Accept-Encoding", ["identity"])
        return self._agent.request(method, uri, headers, bodyProducer).addCallback(self._as_it_is)

    @staticmethod
    def _as_it_is(response: IResponse) -> IResponse:
        response.headers.removeHeader("Content-Encoding")
        return response
