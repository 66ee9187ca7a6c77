"""Clients' connections whose replies leave together, at the end of a turn of the reactor.

Twisted's own ask the system with each reply to be told when it may be sent, and not to be told any more: two calls of
the system and one of the reactor, where nearly every reply fits into the socket's buffer.
"""

from __future__ import annotations

from typing import Any

from attrs import define, field
from twisted.internet.tcp import Server


@define(eq=False)
class Turn:
    """The connections that have something to send at the end of this turn.

    :param reactor: whose turn it is.
    """

    _reactor: Any
    _due: dict[Any, None] = field(factory=dict)

    def add(self, connection: Any) -> None:
        """It has something to send."""
        if not self._due:
            self._reactor.callLater(0, self._end)
        self._due[connection] = None

    def discard(self, connection: Any) -> None:
        """It has not."""
        self._due.pop(connection, None)

    def _end(self) -> None:
        due, self._due = self._due, {}
        for connection in due:
            connection.send_now()


class PromptServer(Server):
    """Leaves to the reactor what the peer does not take at once, a producer that waits, and every end."""

    turn: Turn

    def send_now(self) -> None:
        """Write once; an error comes again when the reactor writes, which then ends the connection as always."""
        ending = self.disconnecting or self._writeDisconnecting
        transport: Any = self  # untyped in Twisted
        if ending or self.producerPaused or transport.doWrite() is not None or self.dataBuffer:
            self.reactor.addWriter(self)

    def startWriting(self) -> None:
        """See :class:`twisted.internet.abstract.FileDescriptor`."""
        self.turn.add(self)

    def stopWriting(self) -> None:
        """See :class:`twisted.internet.abstract.FileDescriptor`."""
        self.turn.discard(self)
        self.reactor.removeWriter(self)


def be_prompt(port: Any) -> None:
    """Let the connections that *port* accepts be prompt, where they are Twisted's own of TCP."""
    if getattr(port, "transport", None) is Server:
        port.transport = type("PromptServer", (PromptServer,), {"turn": Turn(port.reactor)})
