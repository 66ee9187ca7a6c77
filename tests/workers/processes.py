"""Worker processes that a test plays: what the parent says to them, and what they say."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.python.failure import Failure

from relay.workers.channel import FROM_PARENT, TO_PARENT, Lines, Message, encode
from relay.workers.supervision import Worker


class Process:
    """The transport of one worker.

    :ivar told: what it was told, but for its hello.
    :ivar signals: what it was sent.
    """

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.told: list[Message] = []
        self.signals: list[str] = []
        self.hello: dict[str, Any] = {}
        self._lines = Lines()
        worker.makeConnection(self)  # type: ignore[arg-type]  # all that is asked for

    def writeToChild(self, descriptor: int, data: bytes) -> None:
        assert descriptor == FROM_PARENT
        for word, *values in self._lines.feed(data):
            if word == "hello":
                (self.hello,) = values
            else:
                self.told.append([word, *values])

    def signalProcess(self, name: str) -> None:
        if self.worker.gone.called:
            raise ProcessExitedAlready
        self.signals.append(name)

    def says(self, word: str, *values: Any) -> None:
        """The worker says something."""
        self.worker.childDataReceived(TO_PARENT, encode(word, *values))

    def prints(self, text: str) -> None:
        """The worker writes to its standard error."""
        self.worker.childDataReceived(2, text.encode())

    def ends(self, signal: int = 0) -> None:
        """The worker ends, by *signal* or in order."""
        self.worker.processEnded(Failure(ProcessTerminated(signal=signal) if signal else ProcessDone(0)))

    @property
    def words(self) -> list[str]:
        """The words that it was told."""
        return [word for word, *_ in self.told]
