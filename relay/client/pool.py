"""The connections to the platform: made, kept, repeated on, closed; the relay's own way to exchange.

None of it asks treq, or Twisted's HTTP client: they take ten times as long, close a connection in a way that waits
for the peer (DESIGN.md, number 9), reuse the oldest connection first, and repeat no POST.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from relay.client.answers import Answer, NoAnswer
from relay.client.connecting import unreached
from relay.client.connection import Connection, Stale
from relay.client.endpoints import Endpoints, trust
from relay.client.request import Origin, Request
from relay.deadlines import Deadlines
from relay.policy import Platform

#: Seconds an unused connection is kept: less than the keep-alive of common servers and balancers (60 and more).
KEPT = 20.0


class Pool:
    """Exchanges over connections that are kept for the next request, the last used first: what is not needed grows
    old and goes.  (An :class:`~relay.client.request.Exchange`.)

    :param endpoint: how an origin is connected to.
    :param size: most connections kept.
    """

    def __init__(self, clock: IReactorTime, endpoint: Callable[[Origin], IStreamClientEndpoint], size: int) -> None:
        self._clock = clock
        self._seconds = clock.seconds
        self._endpoint = endpoint
        self._size = size
        self._deadlines = Deadlines(clock)
        self._idle: dict[Origin, list[Connection]] = {}
        self._closed = False

    async def exchange(self, request: Request, *, seconds: float, limit: int) -> Answer:
        """As :meth:`relay.client.request.Exchange.exchange`.

        The platform may have closed a kept connection just when the request left.  A request that carries an
        Idempotency-Key, or has no body, is then repeated, once, on a new connection, as Go's net/http does.
        """
        deadline = self._seconds() + seconds
        stale: Stale | None = None
        origin = request.target.origin
        idle = self._idle.get(origin)
        if idle:
            try:
                return await idle.pop().ask(request, seconds=seconds, limit=limit)
            except Stale as error:
                if not request.repeatable:
                    raise
                stale = error
        try:
            connection = await self._connect(origin, max(deadline - self._seconds(), 0.0))
        except NoAnswer as error:
            raise stale or error from error  # the first attempt may have arrived
        return await connection.ask(request, seconds=max(deadline - self._seconds(), 0.0), limit=limit)

    def close(self) -> None:
        """Close the connections that are idle now, and each other one when its answer is there."""
        self._closed = True
        for idle in self._idle.values():
            for connection in list(idle):
                connection.drop()

    async def _connect(self, origin: Origin, seconds: float) -> Connection:
        tls_host = origin.host if origin.scheme == "https" else ""
        idle = self._idle.setdefault(origin, [])
        build = partial(Connection, tls_host, self._deadlines, partial(self._keep, idle), partial(_forget, idle))
        try:
            made = cast("Deferred[Connection]", self._endpoint(origin).connect(_Connecting(build)))
            return await made.addCallback(lambda connection: connection.ready).addTimeout(
                seconds, self._clock, onTimeoutCancel=_too_late
            )
        except NoAnswer:
            raise
        except Exception as error:
            raise unreached(error) from error

    def _keep(self, idle: list[Connection], connection: Connection) -> None:
        """The answer of *connection* is complete."""
        if self._closed or len(idle) >= self._size:
            connection.drop()
        else:
            idle.append(connection)
            connection.keep(KEPT)


def _forget(idle: list[Connection], connection: Connection) -> None:
    if connection in idle:
        idle.remove(connection)


class _Connecting(Factory):
    """Makes the one connection that an endpoint connects."""

    noisy = False

    def __init__(self, build: Callable[[], Connection]) -> None:
        self._build = build

    def buildProtocol(self, addr: IAddress | None) -> Connection:
        return self._build()


def _too_late(result: Connection | Failure, _: float) -> Connection:
    if isinstance(result, Failure):
        raise NoAnswer("timeout", sent=False)
    return result


def make_client(
    reactor: IReactorTime,
    policy: Platform | None = None,
    endpoint: Callable[[Origin], IStreamClientEndpoint] | None = None,
    connect: Any = None,
) -> Pool:
    """The HTTP client for the platform; :meth:`~Pool.close` it when the relay stops.

    :param reactor: a real reactor; with an *endpoint* of one's own a clock is enough.
    :param endpoint: how an origin is connected to, by default TCP, and TLS 1.2 or later for https.
    :param connect: makes the TCP connections, by default the reactor.
    :raises ConfigError: ``platform.ca_file`` cannot be read or holds no certificate.
    """
    policy = policy or Platform()
    if endpoint is None:
        endpoint = Endpoints(connect or reactor, trust(policy.ca_file), policy.timeout)
    return Pool(reactor, endpoint, policy.connections)
