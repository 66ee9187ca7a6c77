"""The way to a smarthost: few connections, each for many messages."""

from __future__ import annotations

import re
import socket
from typing import Any

from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.ssl import Certificate, TLSVersion, optionsForClientTLS, platformTrust, trustRootFromCertificates

from relay.embedded.routes.building import Built
from relay.embedded.routes.conversation import Conversation, Stage, unheard
from relay.embedded.routes.values import Smarthost
from relay.embedded.routes.ways import Hear, NotTaken
from relay.errors import Reason, TemporaryFailure

#: Seconds until a connection is made.
CONNECT = 30.0

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def endpoint(reactor: Any, smarthost: Smarthost) -> IStreamClientEndpoint:
    """Where a smarthost is reached, in TLS where it begins with that."""
    plain = HostnameEndpoint(reactor, smarthost.host, smarthost.port, timeout=CONNECT)
    return plain if smarthost.tls != "tls" else wrapClientTLS(context(smarthost), plain)


def context(smarthost: Smarthost) -> Any:
    """Makes TLS connections that are verified, 1.2 at least; None where nothing is encrypted."""
    if smarthost.tls == "none":
        return None
    trust = platformTrust()
    if smarthost.authorities:
        blocks = _PEM.findall(smarthost.authorities.encode())
        trust = trustRootFromCertificates([Certificate.loadPEM(each) for each in blocks])
    lowest = {"raiseMinimumTo": TLSVersion.TLSv1_2}
    return optionsForClientTLS(smarthost.host, trust, extraCertificateOptions=lowest)


class Post:
    """Hands messages to a smarthost (a :class:`~relay.embedded.routes.ways.Way`).

    :param reached: where it is.
    :param context: for STARTTLS.
    """

    def __init__(
        self, smarthost: Smarthost, reached: IStreamClientEndpoint, context: Any, clock: IReactorTime
    ) -> None:  # fmt: skip
        self.lanes = smarthost.concurrency
        self.rate = smarthost.rate
        self._smarthost = smarthost
        self._reached = reached
        self._context = context
        self._clock = clock
        self._resting: list[Conversation] = []

    @classmethod
    def to(cls, smarthost: Smarthost, reactor: Any) -> Post:
        """The way over real sockets."""
        return cls(smarthost, endpoint(reactor, smarthost), context(smarthost), reactor)

    async def send(self, message: Built, id: str) -> tuple[str, str]:
        """See :class:`~relay.embedded.routes.ways.Way`.  The smarthost knows a repetition by its Message-ID alone."""
        conversation = self._rested()
        if conversation is not None:
            try:
                return await self._on(conversation, message)
            except NotTaken:
                if not conversation.stale:
                    raise
        return await self._on(await self.converse(), message)

    async def probe(self, hear: Hear) -> None:
        """See :class:`~relay.embedded.routes.ways.Way`: greeting, EHLO, STARTTLS and AUTH."""
        conversation = await self.converse(hear)
        conversation.quit()

    async def close(self) -> None:
        """Say good-bye on every connection."""
        while self._resting:
            self._resting.pop().quit()

    async def converse(self, hear: Hear = unheard) -> Conversation:
        """A new connection that messages may be sent on.

        :param hear: told of every line, secrets left out.
        :raises NotTaken: it cannot be had.
        """
        smarthost = self._smarthost
        identity = smarthost.helo or socket.gethostname()
        conversation = Conversation(smarthost, self._context, identity, self._clock, hear)
        # TLS from the start would hand out no protocol where its handshake fails at once.
        factory = Factory.forProtocol(lambda: conversation)
        factory.noisy = False
        try:
            await self._reached.connect(factory)
        except Exception as error:
            failure = TemporaryFailure(Reason.UNREACHABLE)
            raise NotTaken(failure, f"no connection: {error}", f"{smarthost.host}:{smarthost.port}") from None
        return await conversation.ready

    async def _on(self, conversation: Conversation, message: Built) -> tuple[str, str]:
        answer = await conversation.send(message)
        self._resting.append(conversation)
        return answer

    def _rested(self) -> Conversation | None:
        """A connection that is open still, the one that rested least."""
        while self._resting:
            conversation = self._resting.pop()
            if conversation.stage is Stage.READY:
                return conversation
        return None
