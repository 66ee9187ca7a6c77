"""Makes sessions, counts them, and stops them; what they share lives here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IOpenSSLServerConnectionCreator, IReactorTime
from twisted.internet.protocol import ServerFactory

from relay import replies
from relay.deadlines import Deadlines
from relay.errors import Reason, TemporaryFailure
from relay.policy import Limits
from relay.policy import Session as SessionPolicy
from relay.smtp.limits import Connections, Memory, Rate
from relay.smtp.lines import LineLayer
from relay.smtp.session import Session

#: Gives the TLS context of a new STARTTLS.
TLSContext = Callable[[], IOpenSSLServerConnectionCreator]


class Observer(Protocol):
    """What the factory tells of its sessions; the metrics listen."""

    def session_opened(self) -> None:
        """A connection was accepted."""

    def session_closed(self) -> None:
        """It ended."""

    def session_refused(self, reason: Reason) -> None:
        """A connection was turned away with 421."""

    def auth_failed(self) -> None:
        """A key was not accepted, at AUTH or in a message."""

    def message_refused(self, reason: Reason, peer: str) -> None:
        """A message was refused before it came to the pipeline."""


class Silent:
    """An :class:`Observer` that does not listen."""

    def session_opened(self) -> None:
        """See :class:`Observer`."""

    def session_closed(self) -> None:
        """See :class:`Observer`."""

    def session_refused(self, reason: Reason) -> None:
        """See :class:`Observer`."""

    def auth_failed(self) -> None:
        """See :class:`Observer`."""

    def message_refused(self, reason: Reason, peer: str) -> None:
        """See :class:`Observer`."""


class SubmissionFactory(ServerFactory):
    """Listens for clients: one :class:`~relay.smtp.session.Session` each.

    :param portal: signs clients in; :func:`relay.smtp.auth.make_portal`, or an embedder's own whose realm has
        an :class:`~twisted.mail.interfaces.IMessageDelivery` or an IMessageDeliveryFactory.
    :param hostname: what the greeting says.
    :param tls: gives the context of each STARTTLS; None: STARTTLS is not offered.
    """

    noisy = False

    def __init__(
        self,
        portal: Portal,
        *,
        clock: IReactorTime,
        hostname: str = "localhost",
        limits: Limits = Limits(),  # noqa: B008 - frozen
        policy: SessionPolicy = SessionPolicy(),  # noqa: B008 - frozen
        tls: TLSContext | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.portal: Portal = portal
        self.clock = clock
        self.hostname = hostname.encode("ascii")
        self.greeting = replies.Reply(220, "", f"{hostname} ESMTP").line()
        self.limits = limits
        #: octets of a line, without CR LF, that is never too long
        self.short_line = min(limits.command_line, limits.auth_line) - 2
        self.policy = policy
        self.tls = tls
        self.observer = observer or Silent()
        self.memory = Memory(limits.memory)
        self.rate = Rate(limits.messages_per_minute, clock.seconds)
        self.deadlines = Deadlines(clock)
        self.draining = False
        self.connections = Connections(limits.connections, limits.connections_per_address)
        self._sessions: set[LineLayer] = set()
        self._drained: Deferred[None] | None = None
        self._emptied: list[Deferred[None]] = []

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """See :class:`twisted.internet.interfaces.IProtocolFactory`."""
        return Session(self)

    def opened(self, session: LineLayer, address: str) -> TemporaryFailure | None:
        """Count a connection; why it is turned away, or None."""
        self._sessions.add(session)
        refusal = self.connections.add(address)
        if self.draining:
            refusal = TemporaryFailure(Reason.SHUTDOWN)
        if refusal is None:
            self.observer.session_opened()
        else:
            self.observer.session_refused(refusal.reason)
        return refusal

    def closed(self, session: LineLayer, address: str, turned_away: bool) -> None:
        """A counted connection has ended."""
        self._sessions.discard(session)
        self.connections.remove(address)
        if not turned_away:
            self.observer.session_closed()
        if self.draining:
            self._check_drained()
        if self._emptied and not self._sessions:
            for waiter in self._emptied:
                waiter.callback(None)
            self._emptied.clear()

    def emptied(self) -> Deferred[None]:
        """Fires when there is no session."""
        waiter: Deferred[None] = Deferred()
        if self._sessions:
            self._emptied.append(waiter)
        else:
            waiter.callback(None)
        return waiter

    def drain(self) -> Deferred[None]:
        """Stop every session (THREATS.md, SIGTERM): idle ones are told 421, what is in DATA is finished.

        What still goes on after ``limits.drain`` seconds is cut off.

        :return: fires when the last session has ended and every verdict is in.
        """
        self.draining = True
        if self._drained is None:
            self._drained = Deferred()
            deadline = self.clock.callLater(self.limits.drain, self._cut_off)
            self._drained.addCallback(lambda _: deadline.cancel() if deadline.active() else None)
            for session in list(self._sessions):
                session.stop()
            self._check_drained()
        return self._drained

    def _cut_off(self) -> None:
        for session in list(self._sessions):
            session.cut_off()
        self._sessions.clear()
        self._check_drained()

    def _check_drained(self) -> None:
        if not self._sessions and self._drained is not None and not self._drained.called:
            self._drained.callback(None)
