"""The store's own clock, which the jumps of the machine's clock do not move."""

from __future__ import annotations

import time
from collections.abc import Callable


class SteadyClock:
    """Seconds since the epoch, read once and advanced by the monotonic clock.

    A wall clock that jumps ahead would make every retry due at once, one that jumps back would stop them.

    :param wall: seconds since the epoch.
    :param monotonic: seconds since any moment.
    """

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self.set(wall())

    def now(self) -> float:
        """Seconds since the epoch, as far as this clock knows."""
        return self._base + self._monotonic()

    def set(self, now: float) -> None:
        """It is *now*, for instance by the clock of the database server."""
        self._base = now - self._monotonic()

    def follow(self) -> None:
        """Take the machine's time over; for when nothing is kept that the jump could hit."""
        self.set(self._wall())
