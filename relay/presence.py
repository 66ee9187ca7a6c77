"""Whether a client is still there to read its verdict."""

from __future__ import annotations

from collections.abc import Callable


class Presence:
    """Tells of one client: the session says when it has gone, the ledger wants to know."""

    __slots__ = ("_callbacks", "gone")

    def __init__(self) -> None:
        self.gone = False
        self._callbacks: list[Callable[[], None]] = []

    def leave(self) -> None:
        """The client has gone."""
        self.gone = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def told(self) -> None:
        """The message has its verdict: nobody asks any more."""
        self._callbacks.clear()

    def when_gone(self, callback: Callable[[], None]) -> None:
        """Call *callback* when the client goes, at once if it has gone."""
        if self.gone:
            callback()
        else:
            self._callbacks.append(callback)
