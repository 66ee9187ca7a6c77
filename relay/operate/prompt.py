"""TCP connections that are read in one go, and whose octets leave together, at the end of a turn of the reactor.

Twisted's own ask the system with each write to be told when it may be sent, and not to be told any more, and the
reactor calls each of them in a context for its log: two calls of the system and some thirty of Python for a reply of a
few octets, which nearly always fits into the socket's buffer.

Here a poller of ours watches them, and the reactor watches the poller: it calls one object, which reads them all.  What
they write is held until all are read, and sent then: one by one it would wake the peer each time.  All that is not
usual is left to Twisted: a peer that does not take everything at once, TLS, a producer that is asked for each piece.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.protocol import connectionDone
from twisted.internet.tcp import Client, Connection, Connector, Server
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import directlyProvides, implementer, providedBy

log = Logger()

#: Makes what tells which descriptors have something to read, where the system has such a thing.
POLLER: Callable[[], Any] | None = getattr(select, "epoll", None)
_READABLE: int = getattr(select, "EPOLLIN", 0)


@implementer(IReadDescriptor)
class Turn:
    """The prompt connections of a reactor: who is read, and who has something to send at the end of this turn.

    :param poller: None: the reactor watches each connection itself.
    """

    def __init__(self, reactor: Any, poller: Callable[[], Any] | None = POLLER) -> None:
        self._reactor = reactor
        self._poller: Any = None if poller is None else poller()
        self._read: dict[int, PromptConnection] = {}  # by descriptor
        self._due: dict[PromptConnection, None] = {}
        self._reading = False  # we are in doRead
        self._last: list[Callable[[], None]] = []

    def add(self, connection: PromptConnection) -> None:
        """It has something to send."""
        if not self._due and not self._reading:
            self._reactor.callLater(0, self._end)
        self._due[connection] = None

    def at_end(self, call: Callable[[], None]) -> None:
        """Call *call* at the end of this turn, before anything is sent; at once where nothing is being read."""
        if self._reading:
            self._last.append(call)
        else:
            call()

    def watch(self, connection: PromptConnection) -> bool:
        """Read it when something comes; False: the reactor has to."""
        if self._poller is None:
            return False
        descriptor = connection.fileno()
        if descriptor not in self._read:
            self._poller.register(descriptor, _READABLE)
            if not self._read:
                self._reactor.addReader(self)
            self._read[descriptor] = connection
        return True

    def leave(self, connection: PromptConnection) -> bool:
        """Read it no more; False: it was not read here."""
        descriptor = connection.fileno()
        if self._read.get(descriptor) is not connection:
            return False
        del self._read[descriptor]
        self._poller.unregister(descriptor)
        if not self._read:
            self._reactor.removeReader(self)
        return True

    # --- what the reactor calls

    def doRead(self) -> None:
        """Read all that has something to read, then send all that has something to send."""
        self._reading = True
        for descriptor, _ in self._poller.poll(0, max(len(self._read), 1)):
            connection = self._read.get(descriptor)
            if connection is None:
                continue  # one read before it has ended it
            why: BaseException | None
            try:
                why = connection.doRead()
            except BaseException as error:  # as the reactor does
                log.failure("a connection failed")
                why = error
            if why is not None:
                _ended(connection, why, reading=True)
        self._reading = False
        last, self._last = self._last, []
        for call in last:
            try:
                call()
            except Exception:
                log.failure("the end of a turn failed")
        self._end()

    def _end(self) -> None:
        due, self._due = self._due, {}
        for connection in due:
            try:
                why = connection.send_now()
            except Exception as error:
                log.failure("a connection failed")
                why = error
            if why is not None:
                _ended(connection, why, reading=False)

    def fileno(self) -> int:
        """See :class:`twisted.internet.interfaces.IFileDescriptor`."""
        return int(self._poller.fileno())

    def logPrefix(self) -> str:
        """See :class:`twisted.internet.interfaces.ILoggingContext`."""
        return "turn"

    def connectionLost(self, reason: Failure) -> None:
        """The reactor lets go of everything."""
        for connection in list(self._read.values()):
            connection.connectionLost(reason)


def _ended(connection: PromptConnection, why: BaseException, *, reading: bool) -> None:
    """*connection* ended when it was read or written, as it says to the reactor."""
    reason = connectionDone if isinstance(why, ConnectionDone) else Failure(why)
    try:
        if reading and reason is connectionDone:
            connection.stopReading()
            connection.readConnectionLost(reason)  # the client may still read
        else:
            connection.connectionLost(reason)
    except Exception:
        log.failure("a connection failed in its end")


class PromptConnection(Connection):
    """Holds what it is to send until the end of the turn, unless Twisted's own buffer has something before it."""

    turn: Turn
    _may_hold = True
    _theirs = False  # Twisted has something to send, or the connection to end
    _waits = False  # the reactor shall write

    def __init__(self, *arguments: Any) -> None:
        self._held = bytearray()
        super().__init__(*arguments)

    def write(self, data: bytes) -> None:
        """See :class:`twisted.internet.interfaces.ITransport`."""
        held = self._held
        if self._may_hold and not self._theirs and self.connected and len(held) + len(data) <= self.bufferSize:
            if not held:
                self.turn.add(self)
            held += data
        else:
            self._let_go()
            Connection.write(self, data)

    def writeSequence(self, iovec: Any) -> None:
        """See :class:`twisted.internet.interfaces.ITransport`."""
        self.write(b"".join(iovec))

    def send_now(self) -> Any:
        """The turn ends; why the connection does, or None."""
        held = self._held
        if held:
            try:
                sent = self.socket.send(held)
            except OSError:
                sent = 0  # whatever it is, it comes again when the reactor writes
            del held[:sent]
            if held:
                self._theirs = True
                self._let_go()
                self._wait()
                return None
        if self._theirs:
            transport: Any = self  # untyped in Twisted
            why = transport.doWrite()
            if why is not None:
                return why
            if self._theirs:
                self._wait()
        return None

    def _wait(self) -> None:
        """Let the reactor write when the system takes something."""
        self._waits = True
        Connection.startWriting(self)

    def _let_go(self) -> None:
        """Leave what is held to Twisted."""
        if self._held:
            data = bytes(self._held)
            self._held.clear()
            Connection.write(self, data)

    # --- what Twisted calls

    def doRead(self) -> Any:
        """See :class:`twisted.internet.interfaces.IReadDescriptor`; as Twisted's own, which takes three calls."""
        try:
            data = self.socket.recv(self.bufferSize)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        if not data:
            return CONNECTION_DONE
        self.protocol.dataReceived(data)
        return None

    def startReading(self) -> None:
        """See :class:`twisted.internet.abstract.FileDescriptor`; while it connects it is the reactor's."""
        if not (self.connected and self.turn.watch(self)):
            Connection.startReading(self)

    def stopReading(self) -> None:
        """See :class:`twisted.internet.abstract.FileDescriptor`."""
        if not self.turn.leave(self):
            Connection.stopReading(self)

    def startWriting(self) -> None:
        """See :class:`twisted.internet.abstract.FileDescriptor`; while it connects it is the reactor's."""
        if not self.connected:
            self._wait()
        elif not self._theirs:
            self._theirs = True  # from now on Twisted's is behind what is held
            self.turn.add(self)

    def stopWriting(self) -> None:
        """See :class:`twisted.internet.abstract.FileDescriptor`."""
        self._theirs = False
        self._held.clear()
        if self._waits:
            self._waits = False
            Connection.stopWriting(self)

    # --- from here on all is left to Twisted

    def startTLS(self, *arguments: Any, **options: Any) -> None:
        """See :class:`twisted.internet.interfaces.ITLSTransport`."""
        self._may_hold = False
        self._let_go()
        Connection.startTLS(self, *arguments, **options)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """See :class:`twisted.internet.interfaces.IConsumer`."""
        self._may_hold = self._may_hold and streaming  # another is asked for more when Twisted has sent all
        Connection.registerProducer(self, producer, streaming)

    def loseWriteConnection(self) -> None:
        """See :class:`twisted.internet.interfaces.IHalfCloseableDescriptor`."""
        self._may_hold = False
        Connection.loseWriteConnection(self)

    def abortConnection(self) -> None:
        """See :class:`twisted.internet.interfaces.ITCPTransport`."""
        self._may_hold = False
        Connection.abortConnection(self)


class PromptServer(PromptConnection, Server):
    """A connection that was accepted."""

    connected = 1  # from its beginning; Twisted says so when it is read already
    _shouldShutdown = False  # no other process has it: close() ends it


class PromptClient(PromptConnection, Client):
    """A connection that is made."""


def be_prompt(port: Any, turn: Turn) -> None:
    """Let the connections that *port* accepts be prompt, where they are Twisted's own of TCP."""
    if getattr(port, "transport", None) is Server:
        port.transport = type("PromptServer", (PromptServer,), {"turn": turn})


class _Connector(Connector):
    made: Callable[..., Any]

    def _makeTransport(self) -> Any:
        return self.made(self.host, self.port, self.bindAddress, self, self.reactor)


class Prompt:
    """A reactor that makes prompt connections; in all else it is the one that it stands before."""

    def __init__(self, reactor: Any, turn: Turn) -> None:
        self._reactor = reactor
        self._client = type("PromptClient", (PromptClient,), {"turn": turn})
        directlyProvides(self, providedBy(reactor))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def connectTCP(self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None) -> Any:
        """See :class:`twisted.internet.interfaces.IReactorTCP`."""
        connector = _Connector(host, port, factory, timeout, bindAddress, self._reactor)
        connector.made = self._client
        connector.connect()
        return connector
