"""When the spool looks again: growing delays between attempts, and pauses that end early."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from relay.policy import Spool

#: How far a delay may be from the plain one, either way: enough that rows which failed together do not all come
#: back together, and little enough that "first after 15 s" holds.
JITTER = 0.2

log = Logger()

#: Past this many doublings every delay is at its maximum, and a float still holds it.
_MOST_DOUBLINGS = 60


@frozen
class Backoff:
    """Exponential backoff with jitter.

    :ivar random: from 0 to 1, such as :func:`random.random`.
    """

    policy: Spool
    random: Callable[[], float]

    def __call__(self, attempts: int, retry_after: float | None = None) -> float:
        """Seconds to wait after *attempts* attempts, at most ``spool.retry_maximum``.

        :param retry_after: what the platform asked for, clamped already; it wins where it is longer.
        """
        maximum = self.policy.retry_maximum
        plain = min(self.policy.retry_first * 2.0 ** min(max(attempts - 1, 0), _MOST_DOUBLINGS), maximum)
        low, high = plain * (1 - JITTER), min(plain * (1 + JITTER), maximum)
        return max(low + (high - low) * self.random(), retry_after or 0.0)


class Pause:
    """A pause that something may end early: for one coroutine that waits, and any number that call :meth:`end`."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._waiting: Deferred[None] | None = None
        self._ended = False

    async def wait(self, seconds: float) -> None:
        """Wait *seconds*; not at all when :meth:`end` was called since the last time."""
        if not self._ended:
            self._waiting = Deferred()
            timer = self._clock.callLater(seconds, self.end)
            await self._waiting
            if timer.active():
                timer.cancel()
        self._ended = False

    def end(self) -> None:
        """End the pause, or the next one when there is none now."""
        self._ended = True
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)


async def within(clock: IReactorTime, seconds: float, work: Coroutine[Any, Any, object]) -> bool:
    """Whether *work* has ended within *seconds*; if not, it goes on by itself.  A failure of it is logged."""
    ended = Pause(clock)
    done = Deferred.fromCoroutine(work)
    done.addErrback(lambda failure: log.failure("what the end waits for failed", failure))
    done.addBoth(lambda _: ended.end())
    await ended.wait(seconds)
    return bool(done.called)
