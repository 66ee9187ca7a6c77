"""Pages give way to messages: they are made in the thread that the sessions of SMTP live in."""

from __future__ import annotations

from collections import deque
from collections.abc import Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

#: Longest pause after a page, in seconds.
LONGEST = 0.1

#: After so many seconds the next page need not wait for this one's end: it waits for something else itself.
LONG = 0.25

T = TypeVar("T")


class Turns:
    """One page after the other, and after each as long a pause as it took: half of the time is for messages.

    A page waits only while others are made.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._free = True
        self._waiting: deque[Deferred[None]] = deque()

    async def run(self, page: Coroutine[Any, Any, T]) -> T:
        """What *page* gives, when it has had its turn."""
        if self._free:
            self._free = False
        else:
            turn: Deferred[None] = Deferred()
            self._waiting.append(turn)
            await turn
        began = self._clock.seconds()
        late = self._clock.callLater(LONG, self._next)
        try:
            return await page
        finally:
            took = self._clock.seconds() - began
            if late.active():
                late.cancel()
                if took > 0:
                    self._clock.callLater(min(took, LONGEST), self._next)
                else:
                    self._next()

    def _next(self) -> None:
        if self._waiting:
            self._waiting.popleft().callback(None)
        else:
            self._free = True
