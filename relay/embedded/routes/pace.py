"""How many messages a minute a route takes."""

from __future__ import annotations

from attrs import define, field
from twisted.internet.interfaces import IReactorTime


@define
class Pace:
    """Never more than *rate* in any 60 seconds, as evenly as that goes; 0 is no limit.

    It is a bucket of a second's worth of tokens, and what it holds at first is left out of what flows in.
    """

    rate: int
    clock: IReactorTime
    _tokens: float = field(init=False)
    _filled: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._tokens = self._size
        self._filled = self.clock.seconds()

    @property
    def _size(self) -> int:
        return max(1, self.rate // 60)

    @property
    def _each(self) -> float:
        """Seconds for a token."""
        return 60.0 / (self.rate - self._size + 1)

    def room(self) -> int | None:
        """How many may go now, None: any number."""
        if not self.rate:
            return None
        now = self.clock.seconds()
        self._tokens = min(self._size, self._tokens + (now - self._filled) / self._each)
        self._filled = now
        return int(self._tokens + 1e-6)

    def spend(self, count: int) -> None:
        """So many go now."""
        self._tokens -= count

    def wait(self) -> float:
        """Seconds until one may go."""
        room = self.room()
        return 0.0 if room is None or room else (1 - self._tokens) * self._each
