"""Many deadlines on one timer of the reactor.

Nearly everything is done in time.  A timer of its own for each message would be made, sorted in and cancelled for
nothing; here it costs an entry in a dict.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: Seconds by which a timer may fire early, for who looks at the time itself.
EARLY = 0.001


class Deadlines:
    """Calls what was not discarded in time.

    :ivar seconds: the clock that they are of.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self.seconds = clock.seconds
        self._due: dict[Callable[[], None], float] = {}
        self._timer: IDelayedCall | None = None
        self._fires = 0.0

    def set(self, late: Callable[[], None], seconds: float) -> None:
        """Call *late* in *seconds*, in place of when it was due before."""
        due = self._due[late] = self.seconds() + seconds
        if self._timer is None or due < self._fires:
            self._arm(due)

    def discard(self, late: Callable[[], None]) -> None:
        """Do not call *late*."""
        self._due.pop(late, None)
        if not self._due:
            self._disarm()

    def _arm(self, due: float) -> None:
        self._disarm()
        self._fires = due
        self._timer = self._clock.callLater(max(due - self.seconds(), 0.0), self._look)

    def _disarm(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def _look(self) -> None:
        """The first deadline has come, or what had it was discarded since."""
        self._timer = None
        now = max(self.seconds(), self._fires)  # a timer of the reactor may fire a little early
        for late in [late for late, due in self._due.items() if due <= now]:
            if self._due.pop(late, None) is not None:  # not discarded by one called before it
                late()
        if self._due and self._timer is None:
            self._arm(min(self._due.values()))
