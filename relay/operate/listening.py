"""Listeners that are bound early, as root, and get their factory later; one that cannot be bound is fatal."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from socket import gaierror, socket
from typing import Any

from attrs import frozen
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import AdoptedStreamServerEndpoint, serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IListeningPort, IProtocol, IProtocolFactory, IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.unix import Port as UNIXPort
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from relay.errors import ConfigError
from relay.operate.prompt import Turn, be_prompt
from relay.operate.proxy import ProxyFactory

#: Connections that the system holds for us until we accept them.
BACKLOG = 1024

log = Logger()


class CannotStart(SystemExit, Exception):
    """The relay cannot run; the text is one line, and the exit code of the process is 1.

    As an Exception it makes twistd take its pidfile away, and tell a waiting parent; as a SystemExit it ends
    the process without a traceback.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text
        self.code = 1

    def __str__(self) -> str:
        return self.text


class _Later(Factory):
    """Stands in for a factory that is not made yet.

    :ivar shared: a port that other processes accept from, too: one connection is taken at a time, so that they get
        some of those that come together.  Twisted takes more at once the more there are.
    """

    noisy = False

    def __init__(self, name: str) -> None:
        self.inner: IProtocolFactory | None = None
        self.shared: Any = None
        self._name = name

    def logPrefix(self) -> str:
        """See :class:`twisted.internet.interfaces.ILoggingContext`."""
        return self._name

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """See :class:`twisted.internet.interfaces.IProtocolFactory`; None closes the connection."""
        if self.shared is not None:
            self.shared.numberAccepts = 2  # more than it takes, so that the next time it takes one again
        protocol: IProtocol | None = self.inner.buildProtocol(addr) if self.inner is not None and addr else None
        return protocol


@frozen
class Where:
    """What is to be listened on, and who asked for it.

    :ivar name: what listens there: ``smtp``, ``dashboard``, ``admin``.
    :ivar source: for a message: ``--listen``.
    :ivar may_lack_root: whether it is left out with a warning where the port needs root.
    """

    name: str
    endpoint: str
    source: str
    may_lack_root: bool = False


class Listener:
    """One endpoint.

    :param proxies: networks whose PROXY header a ``haproxy:`` endpoint believes.
    :param inherited: descriptor of a socket that listens there already, which other processes accept from, too.
    :raises ConfigError: Twisted does not know such an endpoint.
    """

    def __init__(self, reactor: Any, where: Where, proxies: Sequence[str] = (), inherited: int | None = None) -> None:
        self.where = where
        self._later = _Later(where.name)
        self._factory: IProtocolFactory = self._later
        self._port: IListeningPort | None = None
        endpoint = where.endpoint
        if endpoint.startswith("haproxy:"):
            endpoint = endpoint.partition(":")[2]
            self._factory = ProxyFactory(self._later, proxies, reactor)
        self._inherited = inherited is not None
        self._reactor = reactor
        try:
            self._endpoint: IStreamServerEndpoint = (
                serverFromString(reactor, _with_backlog(endpoint))
                if inherited is None
                else _endpoint_on(reactor, endpoint, inherited)
            )
        except Exception as error:
            raise ConfigError([f"{where.source} {where.endpoint}: {_why_not(endpoint, error)}"]) from None

    @property
    def address(self) -> IAddress | None:
        """Where it listens, None when it does not."""
        return None if self._port is None else self._port.getHost()

    def bind(self) -> bool:
        """Listen, with nobody to answer yet.

        :return: False where it was left out.
        :raises CannotStart: it cannot listen.
        """
        failed: list[Failure] = []
        listening = self._endpoint.listen(self._factory)
        listening.addCallbacks(self._bound, failed.append)
        if failed:
            error = failed[0].value
            if self.where.may_lack_root and _errno(error) == errno.EACCES:
                log.warn("{endpoint} is left out: this port needs root", endpoint=self.where.endpoint)
                return False
            text = f"cannot listen on {self.where.endpoint} ({self.where.source}): {_reason(error)}"
            raise CannotStart(text) from None
        if self._port is None:
            raise CannotStart(
                f"cannot listen on {self.where.endpoint} ({self.where.source}): it does not listen at once"
            )
        return True

    def _bound(self, port: IListeningPort) -> None:
        self._port = port
        # Who connects waits in the backlog until there is somebody to answer.
        self._accept(False)
        if self._inherited:
            shared: Any = port
            shared.numberAccepts = 1
            self._later.shared = shared

    def pause(self, seconds: float) -> None:
        """Leave what comes in the next moment to other processes."""
        port: Any = self._port
        if port is not None:
            port.stopReading()
            self._reactor.callLater(seconds, self._go_on)

    def _go_on(self) -> None:
        if self._port is not None:
            self._accept(True)

    def _accept(self, accept: bool) -> None:
        """Whether to take what connects."""
        port: Any = self._port
        # What other endpoints listen with, and a test's port, may not know how to wait.
        with suppress(AttributeError):
            (port.startReading if accept else port.stopReading)()

    def leave(self) -> int:
        """Let other processes accept what comes, and none here; the descriptor of the socket.

        :raises CannotStart: it has none that another process could accept from.
        """
        port: Any = self._port
        try:
            port.stopReading()
            return int(port.fileno())
        except AttributeError:
            raise CannotStart(
                f"{self.where.endpoint} ({self.where.source}) is nothing that workers can share: use workers = 1"
            ) from None

    def serve(self, factory: IProtocolFactory, turn: Turn | None = None) -> None:
        """Hand connections to *factory* from now on.

        :param turn: what is sent leaves with it; None: as Twisted does it.
        """
        self._later.inner = factory
        if turn is not None:
            be_prompt(self._port, turn)
        if self._port is not None:
            self._accept(True)

    def stop(self) -> Deferred[None]:
        """Close the listener; connections go on."""
        port, self._port = self._port, None
        if self._inherited and isinstance(port, UNIXPort):
            # Closing it would take its file away, which is not ours.
            port.stopReading()
            return succeed(None)
        stopped: Any = port.stopListening() if port is not None else None
        return stopped if isinstance(stopped, Deferred) else succeed(None)


def _with_backlog(endpoint: str) -> str:
    """*endpoint* with room for a burst of connections, unless it says how much there is.

    Twisted's 50 is soon full: the client whose connection is dropped then tries again after a second.
    """
    if endpoint.startswith(("tcp:", "tcp6:")) and ":backlog=" not in endpoint:
        return f"{endpoint}:backlog={BACKLOG}"
    return endpoint


@frozen
class _Inherited:
    """What an ``ssl:`` endpoint listens with where the socket is there already."""

    reactor: Any
    endpoint: IStreamServerEndpoint

    def listenSSL(self, port: int, factory: IProtocolFactory, contextFactory: Any, **_: Any) -> IListeningPort:
        """See :class:`twisted.internet.interfaces.IReactorSSL`."""
        listening: Any = self.endpoint.listen(TLSMemoryBIOFactory(contextFactory, False, factory))
        result: IListeningPort = listening.result
        return result


def _endpoint_on(reactor: Any, endpoint: str, descriptor: int) -> IStreamServerEndpoint:
    """What *endpoint* says, on a socket that listens there."""
    with socket(fileno=os.dup(descriptor)) as found:
        adopted = AdoptedStreamServerEndpoint(reactor, descriptor, found.family)
    if endpoint.startswith("ssl:"):
        secure: IStreamServerEndpoint = serverFromString(_Inherited(reactor, adopted), endpoint)
        return secure
    return adopted


def _socket_error(error: BaseException | None) -> BaseException | None:
    """What the system said, where it was the system."""
    return error.socketError if isinstance(error, CannotListenError) else error


def _errno(error: BaseException | None) -> int | None:
    error = _socket_error(error)
    return error.errno if isinstance(error, OSError) else None


def _reason(error: BaseException | None) -> str:
    """Why it cannot listen, in the system's words."""
    number = _errno(error)
    if isinstance(_socket_error(error), gaierror):  # its numbers are of another list
        return "interface= is no address, and no name of one"
    return os.strerror(number) if number else str(error) or type(error).__name__


def _why_not(endpoint: str, error: Exception) -> str:
    if endpoint.startswith("systemd:"):
        return "systemd handed over no such socket; see Sockets= and FileDescriptorName= of its unit"
    return f"not an endpoint that Twisted knows: {error}"


def host_port(address: IAddress | None) -> tuple[str, int] | None:
    """Host and port that a client on this machine connects to, None for a socket that has none."""
    if not isinstance(address, IPv4Address | IPv6Address):
        return None
    anywhere = {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1", "": "127.0.0.1"}
    return anywhere.get(address.host, address.host), address.port


def shown(address: IAddress | None) -> str:
    """An address for people and programs: ``0.0.0.0:2525``, ``[::1]:2525``, ``/run/relay.sock``."""
    if isinstance(address, IPv6Address):
        return f"[{address.host}]:{address.port}"
    if isinstance(address, IPv4Address):
        return f"{address.host}:{address.port}"
    name = getattr(address, "name", None)
    return os.fsdecode(name) if name else str(address)
