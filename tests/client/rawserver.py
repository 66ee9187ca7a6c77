"""A platform that answers with exactly the bytes a test gives, in memory or on a socket.

It takes one list of steps for each request, and goes through them when the request is complete::

    RawPlatform([json_answer(200, b"{}")], [b"HTTP/1.1 200 OK\\r\\n", CLOSE], [])
"""

from __future__ import annotations

from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.test import iosim
from zope.interface import implementer

#: Steps beside bytes: end the connection in order, or with a reset.
CLOSE = object()
RESET = object()


def http_answer(status: int, body: bytes = b"", *headers: str) -> bytes:
    """A complete HTTP/1.1 answer with a Content-Length."""
    lines = [f"HTTP/1.1 {status} Word", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


ACCEPTED = http_answer(200, b'{"tag":"t","to":"a@x","result":"ok"}', "Content-Type: application/json")


@frozen
class RawRequest:
    """One request as it came; *headers* has lower-case names, and each header once."""

    line: str
    headers: dict[str, str]
    body: bytes
    header_lines: list[str] = field(factory=list)


class RawPlatform(ServerFactory):
    """The platform: *script* is taken from, request by request, over all connections.

    :ivar requests: what came, in order.
    :ivar connections: every connection that was made, open or not.
    :ivar failure: in memory, an exception that each attempt to connect fails with.
    :ivar connection: the class of the platform's side, for one that behaves worse than bytes can.
    """

    noisy = False

    def __init__(self, *script: list[Any]) -> None:
        self.script = list(script)
        self.requests: list[RawRequest] = []
        self.connections: list[RawConnection] = []
        self.failure: Exception | None = None
        self.pumps: list[iosim.IOPump] = []
        self.connection: type[RawConnection] = RawConnection

    def buildProtocol(self, addr: object) -> RawConnection:
        connection = self.connection(self)
        self.connections.append(connection)
        return connection

    @property
    def open(self) -> int:
        """The number of connections that neither side has closed."""
        return sum(connection.connected for connection in self.connections)

    def flush(self) -> None:
        """Move all bytes, in memory."""
        while any([pump.flush() for pump in self.pumps]):
            pass


class RawConnection(Protocol):
    """One connection of a :class:`RawPlatform`."""

    def __init__(self, platform: RawPlatform) -> None:
        self._platform = platform
        self._buffer = b""

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        line, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in lines)}
        length = int(headers.get("content-length", 0))
        if len(body) < length:
            return
        self._buffer = body[length:]
        self._platform.requests.append(RawRequest(line, headers, body[:length], lines))
        self.play(self._platform.script.pop(0) if self._platform.script else [])

    def play(self, steps: list[Any]) -> None:
        """Go through *steps*."""
        for step in steps:
            if step is CLOSE:
                self.transport.loseConnection()
            elif step is RESET:
                self.transport.abortConnection()
            else:
                self.transport.write(step)

    def connectionLost(self, reason: object = None) -> None:
        self.connected = 0


@implementer(IStreamClientEndpoint)
@define
class InMemory:
    """Connects every origin to one :class:`RawPlatform`.

    :ivar waiting: what the next attempts to connect wait for, in place of a connection.
    """

    platform: RawPlatform
    waiting: Deferred[Any] | None = None

    def __call__(self, origin: object) -> InMemory:
        return self

    def connect(self, factory: Any) -> Any:
        if self.platform.failure is not None:
            return fail(self.platform.failure)
        if self.waiting is not None:
            return self.waiting
        client, server = factory.buildProtocol(None), self.platform.buildProtocol(None)
        sides = server, iosim.makeFakeServer(server), client, iosim.makeFakeClient(client)
        self.platform.pumps.append(iosim.connect(*sides))
        return succeed(client)
