"""Whether a platform counts as down, so that nobody waits for it."""

from __future__ import annotations

import enum
from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from relay import policy
from relay.errors import Failure, PermanentFailure, Reason

#: Failures that say nothing of the platform's health: it asked for patience, or the fault is ours.
_SILENT = frozenset([Reason.BUSY, Reason.INTERNAL])

log = Logger()


class State(enum.Enum):
    """The states of a breaker; the value is the label in metrics and ``/readyz``."""

    #: The platform works: everything is posted.
    CLOSED = "closed"
    #: It is down: nothing is posted but a probe now and then.
    OPEN = "open"
    #: It is down, and a probe is under way.
    HALF_OPEN = "half-open"


def _ignore(_: State) -> None:
    """Nobody watches."""


class Breaker:
    """Counts a platform's temporary failures in a row, and opens after ``breaker.failures`` of them.

    What closes it is any answer that shows the platform at work: a success, a refusal for good, and for a probe
    also ``BUSY``.  Whoever asks :meth:`allow_probe` and gets True has to report the outcome, whatever happens.

    :param clock: monotonic.
    :param name: of the platform, for the log.
    :ivar on_change: told of each new state.
    :ivar closed: whether the platform works, as far as one knows.
    """

    def __init__(
        self,
        policy: policy.Breaker,
        clock: IReactorTime,
        *,
        name: str = "",
        on_change: Callable[[State], None] = _ignore,
    ) -> None:
        self.on_change = on_change
        self._policy = policy
        self._clock = clock
        self._name = name
        self._state = State.CLOSED
        self.closed = True
        self._failures = 0
        self._opened = 0.0
        self._next_probe = 0.0

    @property
    def state(self) -> State:
        """How it stands."""
        return self._state

    @property
    def open(self) -> bool:
        """Whether the platform counts as down; also while a probe is under way."""
        return not self.closed

    def wait(self) -> float:
        """Seconds until something may be posted: 0 when the breaker is closed or a probe is due.

        While a probe is under way it is the time between two; its end may come sooner.
        """
        if self.closed:
            return 0.0
        if self._state is State.HALF_OPEN:
            return self._policy.probe
        return max(self._next_probe - self._clock.seconds(), 0.0)

    def allow_probe(self) -> bool:
        """Whether the caller may post to a platform that is down: one at a time, ``breaker.probe`` seconds apart."""
        if self.closed or self.wait() > 0:
            return False
        self._become(State.HALF_OPEN)
        return True

    def succeeded(self) -> None:
        """The platform did what it was asked."""
        self._failures = 0
        if not self.closed:
            self._become(State.CLOSED)
            log.info(
                "platform {platform} is back after {seconds:.0f} s", platform=self._name, seconds=self._since_opened()
            )

    def failed(self, failure: Failure, *, probe: bool = False) -> None:
        """The platform, or the way to it, failed.

        :param probe: whether :meth:`allow_probe` had allowed it.  What was posted before the breaker opened may
            fail much later, and says nothing new then.
        """
        if isinstance(failure, PermanentFailure) or (probe and failure.reason is Reason.BUSY):
            self.succeeded()
        elif probe:
            self._open()
        elif self.closed and failure.reason not in _SILENT:
            self._failures += 1
            if self._failures >= self._policy.failures:
                self._opened = self._clock.seconds()
                self._open()
                log.warn(
                    "platform {platform} is down: {count} failures in a row, the last {problem}",
                    platform=self._name,
                    count=self._failures,
                    problem=str(failure),
                )

    def _open(self) -> None:
        self._next_probe = self._clock.seconds() + self._policy.probe
        self._become(State.OPEN)

    def _become(self, state: State) -> None:
        if state is not self._state:
            self._state = state
            self.closed = state is State.CLOSED
            self.on_change(state)

    def _since_opened(self) -> float:
        return self._clock.seconds() - self._opened
