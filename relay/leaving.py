"""Work that goes on when whoever waits for it leaves.

A client waits for the platform so long, and then is told that its message is spooled, while the posting goes on.  A
coroutine for the client and one for the posting, and a Deferred between them, would say the same; but nearly every
posting ends in time, and its message would pay for all three.  Here the client's coroutine runs the posting as if it
awaited it, up to the moment in which it leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from contextvars import copy_context
from typing import Any, Final, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")

#: What a :class:`Leavable` fires with when it is left.
LEFT: Final = object()


class Leavable(Deferred[T]):
    """A Deferred that one may leave: it fires, and what was waited for goes to another one.

    Whoever drives the coroutine that awaits it has to send it the result, as Twisted does.
    """

    _heir: Deferred[T] | None = None

    def leave(self) -> Deferred[T]:
        """Fire with :data:`LEFT`; the result goes to the Deferred that this returns."""
        heir = self._heir = Deferred()
        super().callback(LEFT)  # type: ignore[arg-type]  # seen by Course alone
        return heir

    def callback(self, result: T | Failure) -> None:
        """See :meth:`twisted.internet.defer.Deferred.callback`."""
        if self._heir is None:
            super().callback(result)
        else:
            self._heir.callback(result)

    def errback(self, fail: Failure | BaseException | None = None) -> None:
        """See :meth:`twisted.internet.defer.Deferred.errback`."""
        if self._heir is None:
            super().errback(fail)
        else:
            self._heir.errback(fail)

    def __await__(self) -> Generator[Deferred[T], Any, T]:
        # What was sent, and not what it has fired with: that may be LEFT.
        result: T = yield self
        return result


class Course(Generic[T]):
    """The course of *work*: :meth:`begin` it, and await it, until it has ended or is left.

    :ivar left: whether it is.
    :ivar ended: whether the work is; then *result* is what it returned.
    """

    __slots__ = ("_context", "_end", "_waits_for", "_work", "ended", "left", "result")

    result: T

    def __init__(self, work: Coroutine[Deferred[Any], Any, T]) -> None:
        self.left = False
        self.ended = False
        self._work = work
        self._waits_for: Leavable[Any] | None = None
        self._end: Deferred[None] | None = None

    def begin(self) -> None:
        """Run the work until it has to wait for something, or has ended."""
        self._context = copy_context()
        self._step(self._work.send, None)

    def leave(self) -> None:
        """Whoever awaits it goes on at once, and so does the work."""
        self.left = True
        waits_for = self._waits_for
        if waits_for is not None and not waits_for.called:
            self._context.run(Deferred.fromCoroutine, self._finish(waits_for.leave()))

    def __await__(self) -> Generator[Deferred[Any], Any, None]:
        while (waits_for := self._waits_for) is not None:
            try:
                result = yield waits_for
            except Exception as error:
                self._step(self._work.throw, error)
            else:
                if result is LEFT:
                    return
                self._step(self._work.send, result)
            if self.left:  # by what the work itself has done
                self.leave()

    async def until_ended(self) -> None:
        """Wait for the end of what was left."""
        if not self.ended:
            self._end = Deferred()
            await self._end

    def _finish(self, waits_for: Deferred[Any] | None) -> Generator[Deferred[Any], Any, None]:
        """Run what was left to its end."""
        while waits_for is not None:
            try:
                result = yield waits_for
            except Exception as error:
                self._step(self._work.throw, error)
            else:
                self._step(self._work.send, result)
            waits_for = self._waits_for

    def _step(self, go_on: Callable[[Any], Deferred[Any]], value: object) -> None:
        """Let the work go on to what it waits for next, or to its end."""
        self._waits_for = None
        try:
            waits_for = go_on(value)
        except StopIteration as end:
            self.ended, self.result = True, end.value
        else:
            self._waits_for = waits_for if type(waits_for) is Leavable else _leavable(waits_for)
            return
        if self._end is not None:
            self._end.callback(None)


def _leavable(waits_for: Deferred[T]) -> Leavable[T]:
    """What fires as *waits_for* does, and can be left."""
    bridge: Leavable[T] = Leavable(lambda _: waits_for.cancel())
    waits_for.chainDeferred(bridge)
    return bridge
