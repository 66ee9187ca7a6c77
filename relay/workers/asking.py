"""Questions that the parent asks workers, which may end instead of answering."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from relay.workers.supervision import Worker

#: Seconds that a worker has for an answer.
PATIENCE = 2.0


@define
class _Question:
    """Whose answers are awaited, and those that are there, by number."""

    waiting: set[int]
    answers: dict[int, Any] = field(factory=dict)
    done: Deferred[dict[int, Any]] = field(factory=Deferred)

    def leave(self, number: int) -> None:
        """A worker has answered, or will not."""
        self.waiting.discard(number)
        if not self.waiting:
            self.end()

    def end(self) -> None:
        """Nobody waits any longer."""
        if not self.done.called:
            self.done.callback(self.answers)


@define
class Asking:
    """Asks, and gives the answers that come in time."""

    _clock: IReactorTime
    _numbers: count[int] = field(factory=count, init=False)
    _questions: dict[int, _Question] = field(factory=dict, init=False)

    async def ask(self, workers: Sequence[Worker], word: str) -> dict[int, Any]:
        """What each of *workers* answers, by its number; nothing of one that ends, or takes too long."""
        question = _Question({each.number for each in workers})
        if not question.waiting:
            return {}
        number = next(self._numbers)
        self._questions[number] = question
        late = self._clock.callLater(PATIENCE, question.end)
        for worker in workers:
            worker.tell(word, number)
        answers = await question.done
        if late.active():
            late.cancel()
        del self._questions[number]
        return answers

    def answered(self, worker: Worker, number: int, said: Any) -> None:
        """A worker has answered a question."""
        question = self._questions.get(number)
        if question is not None:
            question.answers[worker.number] = said
            question.leave(worker.number)

    def ended(self, worker: Worker) -> None:
        """A worker is gone."""
        for question in list(self._questions.values()):
            question.leave(worker.number)
