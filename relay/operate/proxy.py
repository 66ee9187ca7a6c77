"""The PROXY protocol, versions 1 and 2, from listed peers alone (haproxy.org, proxy-protocol.txt).

Twisted's own wrapper believes whoever connects, and starts the session before the header is there, so that a
greeting, a limit by address or a rule for loopback would take the proxy for the client.  Here the session
begins when the header is complete.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable
from typing import cast

from attrs import frozen
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory, IReactorTime, ITCPTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import directlyProvides, providedBy

#: Seconds that a proxy may take for its header.
HEADER_DEADLINE = 10.0

#: Longest header of version 1, its CR LF included; and the longest of version 2 that is waited for.
_LONGEST_V1 = 107
_LONGEST_V2 = 4096

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"

#: A client whose address the proxy cannot tell: it is nobody's, and so not loopback's either.
UNKNOWN = IPv4Address("TCP", "unknown", 0)

log = Logger()


class InvalidHeader(ValueError):
    """What came is no PROXY header."""


@frozen
class Header:
    """A complete header.

    :ivar source: the client, :data:`UNKNOWN` where the proxy cannot tell, or None where it speaks for itself (LOCAL).
    :ivar destination: the address that the client connected to, or None.
    :ivar length: octets of the header; the session's follow.
    """

    source: IPv4Address | IPv6Address | None
    destination: IPv4Address | IPv6Address | None
    length: int


def parse(data: bytes) -> Header | None:
    """The header at the start of *data*; None: more is needed.

    :raises InvalidHeader: it cannot become one.
    """
    if data[: len(_SIGNATURE)] == _SIGNATURE[: len(data)]:
        return _parse_v2(data)
    if data[:6] == b"PROXY "[: len(data)]:
        return _parse_v1(data)
    raise InvalidHeader("no PROXY header")


def _parse_v1(data: bytes) -> Header | None:
    line, end, _ = data[:_LONGEST_V1].partition(b"\r\n")
    if not end:
        if len(data) >= _LONGEST_V1:
            raise InvalidHeader("a line that does not end")
        return None
    length = len(line) + 2
    fields = line.decode("latin-1").split(" ")
    if fields[1] == "UNKNOWN":
        return Header(UNKNOWN, None, length)
    if len(fields) != 6 or fields[1] not in ("TCP4", "TCP6"):
        raise InvalidHeader("not PROXY, family, two addresses and two ports")
    return Header(_address(fields[1], fields[2], fields[4]), _address(fields[1], fields[3], fields[5]), length)


def _address(family: str, host: str, port: str) -> IPv4Address | IPv6Address:
    try:
        if not (port.isascii() and port.isdecimal() and int(port) < 65536):
            raise ValueError(port)
        if family == "TCP4":
            return IPv4Address("TCP", str(ipaddress.IPv4Address(host)), int(port))
        return IPv6Address("TCP", str(ipaddress.IPv6Address(host)), int(port))
    except ValueError:
        raise InvalidHeader("a bad address or port") from None


def _parse_v2(data: bytes) -> Header | None:
    if len(data) < 16:
        return None
    version_command, family, length = struct.unpack_from("!BBH", data, 12)
    if version_command not in (0x20, 0x21) or length > _LONGEST_V2:
        raise InvalidHeader("unknown version or command, or too long")
    if len(data) < 16 + length:
        return None
    if version_command == 0x20:  # LOCAL
        return Header(None, None, 16 + length)
    if family not in (0x11, 0x21):  # neither TCP over IPv4 nor over IPv6
        return Header(UNKNOWN, None, 16 + length)
    layout = "!4s4sHH" if family == 0x11 else "!16s16sHH"
    if length < struct.calcsize(layout):
        raise InvalidHeader("too short for its addresses")
    source, destination, source_port, destination_port = struct.unpack_from(layout, data, 16)
    name = "TCP4" if family == 0x11 else "TCP6"
    return Header(
        _address(name, str(ipaddress.ip_address(source)), str(source_port)),
        _address(name, str(ipaddress.ip_address(destination)), str(destination_port)),
        16 + length,
    )


class _Transport:
    """The proxy's transport, with the addresses of the client's connection."""

    def __init__(self, transport: ITCPTransport, header: Header) -> None:
        self._transport = transport
        self._header = header
        directlyProvides(self, providedBy(transport))

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)

    def getPeer(self) -> IAddress:
        return self._header.source or self._transport.getPeer()

    def getHost(self) -> IAddress:
        return self._header.destination or self._transport.getHost()


class _Proxied(Protocol):
    """A connection from a proxy: the header first, then the session, which gets everything else."""

    def __init__(self, factory: ProxyFactory) -> None:
        self._made_by = factory
        self._session: IProtocol | None = None
        self._data = b""
        self._closed = False

    def connectionMade(self) -> None:
        """See :class:`twisted.internet.protocol.BaseProtocol`; the session begins later."""
        self._deadline = self._made_by.clock.callLater(HEADER_DEADLINE, self._refuse, "no PROXY header in time")

    def dataReceived(self, data: bytes) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        if self._session is not None:
            self._session.dataReceived(data)
        elif not self._closed:
            self._data += data
            try:
                header = parse(self._data)
            except InvalidHeader as error:
                self._refuse(str(error))
            else:
                if header is not None:
                    self._begin(header)

    def _begin(self, header: Header) -> None:
        self._deadline.cancel()
        rest, self._data = self._data[header.length :], b""
        transport = cast(ITCPTransport, _Transport(self._tcp, header))
        session = self._made_by.wrapped.buildProtocol(transport.getPeer())
        if session is None:
            self._close()
            return
        self._session = session
        session.makeConnection(transport)
        if rest:
            session.dataReceived(rest)

    def _refuse(self, why: str) -> None:
        log.warn("connection from {peer} closed: {why}", peer=_host(self._tcp.getPeer()), why=why)
        self._close()

    def _close(self) -> None:
        self._closed = True
        self._data = b""
        if self._deadline.active():
            self._deadline.cancel()
        self._tcp.abortConnection()

    @property
    def _tcp(self) -> ITCPTransport:
        return cast(ITCPTransport, self.transport)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        if self._deadline.active():
            self._deadline.cancel()
        if self._session is not None:
            self._session.connectionLost(reason)


class ProxyFactory(Factory):
    """Takes connections from *networks* alone, reads their PROXY header, and hands them on.

    :param wrapped: makes the sessions.
    :param networks: as :func:`ipaddress.ip_network` reads them; a UNIX socket is always trusted.
    """

    noisy = False

    def __init__(self, wrapped: IProtocolFactory, networks: Iterable[str], clock: IReactorTime) -> None:
        self.wrapped = wrapped
        self.clock = clock
        self._networks = [ipaddress.ip_network(each) for each in networks]

    def doStart(self) -> None:
        """See :class:`twisted.internet.interfaces.IProtocolFactory`."""
        self.wrapped.doStart()

    def doStop(self) -> None:
        """See :class:`twisted.internet.interfaces.IProtocolFactory`."""
        self.wrapped.doStop()

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        """See :class:`twisted.internet.interfaces.IProtocolFactory`; None closes the connection."""
        if not self._trusted(addr):
            log.warn("connection from {peer} closed: it is not in proxy_from", peer=_host(addr))
            return None
        return _Proxied(self)

    def _trusted(self, addr: IAddress | None) -> bool:
        if isinstance(addr, UNIXAddress):
            return True
        try:
            address = ipaddress.ip_address(_host(addr).partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self._networks)


def _host(addr: IAddress | None) -> str:
    return str(getattr(addr, "host", "a local socket"))
