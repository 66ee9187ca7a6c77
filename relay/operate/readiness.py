"""Whether the relay can take mail, as ``/readyz`` of :mod:`relay.operate.health` says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

#: Seconds for which what the platform said stands for what it would say.
PLATFORM_REMEMBERED = 1.0

log = Logger()


class Readiness:
    """Whether the relay can take mail: it listens, it is not stopping, and the platform answers.

    :param reachable: asks the platform something harmless, and says whether it answered.
    """

    def __init__(self, reachable: Callable[[], Awaitable[bool]], clock: IReactorTime) -> None:
        self.listening = False
        self.stopping = False
        self._reachable = reachable
        self._clock = clock
        self._asked: float | None = None
        self._answers = False
        self._waiting: list[Deferred[None]] | None = None

    async def missing(self) -> dict[str, str]:
        """What is missing, by name; empty when ready."""
        if self.stopping:
            return {"relay": "stopping"}
        missing = {} if self.listening else {"listeners": "not listening yet"}
        await self._ask()
        return missing if self._answers else {**missing, "platform": "does not answer"}

    async def _ask(self) -> None:
        """Ask the platform, unless it was just asked; whoever comes meanwhile waits for the same answer."""
        if self._waiting is not None:
            waiter: Deferred[None] = Deferred()
            self._waiting.append(waiter)
            await waiter
        elif self._asked is None or self._clock.seconds() - self._asked >= PLATFORM_REMEMBERED:
            self._waiting = []
            try:
                self._answers = await self._reachable()
            except Exception:
                log.failure("the platform could not be asked")
                self._answers = False
            self._asked = self._clock.seconds()
            waiting, self._waiting = self._waiting, None
            for each in waiting:
                each.callback(None)
