"""What every way out of a route is to its carrier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from relay.embedded.routes.building import Built
from relay.errors import Failure

#: Told of every line of a conversation: ``">"`` ours, ``"<"`` theirs.
Hear = Callable[[str, str], None]


class NotTaken(Exception):
    """A message was not handed over.

    :ivar failure: whether it may be tried again, and why; ``UNREACHABLE`` says that no message would be taken.
    :ivar text: the exact words.
    :ivar by: who spoke.
    """

    def __init__(self, failure: Failure, text: str, by: str) -> None:
        super().__init__(str(failure))
        self.failure = failure
        self.text = text
        self.by = by


class Way(Protocol):
    """How messages leave by a route.

    :ivar lanes: most at a time.
    :ivar rate: most a minute, 0: no limit.
    """

    @property
    def lanes(self) -> int: ...

    @property
    def rate(self) -> int: ...

    async def send(self, message: Built, id: str) -> tuple[str, str]:
        """Hand *message* over; the exact words of the answer, and who gave it.

        :param id: the message's public id, always the same for the same message.
        :raises NotTaken: it was not taken, or nobody knows.
        """

    async def probe(self, hear: Hear) -> None:
        """Try whether messages would be taken, and send none.

        :param hear: told of every line that is said, secrets left out.
        :raises NotTaken: they would not.
        """

    async def close(self) -> None:
        """Let go of what is held open, when nothing is being sent."""
