"""What a worker tells the others, so that all together keep the limits of one relay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorTime

from relay.intake import Intake


class Sharing:
    """Listens to the parts of *intake*, and tells them what other workers say.

    :param tell: says something to the parent, which passes it on.
    """

    def __init__(self, intake: Intake, tell: Callable[..., None], clock: IReactorTime) -> None:
        self._intake = intake
        self._tell = tell
        self._clock = clock

    def told(self, worker: int, topic: str, *news: Any) -> None:
        """Another worker, or the parent (0), says something."""
        if topic == "forget":
            self._intake.forget_digest(bytes.fromhex(*news))

    def gone(self, worker: int) -> None:
        """Another worker has ended."""

    def again(self) -> None:
        """Somebody new knows nothing yet: say all once more."""
