"""relay.deadlines: many deadlines, one timer."""

from __future__ import annotations

from functools import partial

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relay.deadlines import Deadlines


class DeadlineTests(SynchronousTestCase):
    """What is not discarded is called, on time."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.deadlines = Deadlines(self.clock)
        self.called: list[tuple[str, float]] = []

    def late(self, name: str) -> partial[None]:
        return partial(self._note, name)

    def _note(self, name: str) -> None:
        self.called.append((name, self.clock.seconds()))

    def test_each_on_time(self) -> None:
        """Deadlines that come in any order are each kept to the second."""
        for name, seconds in (("c", 30.0), ("a", 10.0), ("b", 20.0), ("now", 0.0)):
            self.deadlines.set(self.late(name), seconds)
        self.clock.pump([1.0] * 31)
        self.assertEqual(self.called, [("now", 1.0), ("a", 10.0), ("b", 20.0), ("c", 30.0)])

    def test_in_time(self) -> None:
        """What is done in time is not called, and leaves no timer behind."""
        first, second = self.late("first"), self.late("second")
        self.deadlines.set(first, 1.0)
        self.deadlines.set(second, 2.0)
        self.deadlines.discard(first)
        self.clock.advance(1.0)
        self.deadlines.discard(second)
        self.assertEqual((self.called, self.clock.getDelayedCalls()), ([], []))

    def test_one_timer(self) -> None:
        """A thousand deadlines are one timer of the reactor."""
        for number in range(1000):
            self.deadlines.set(self.late(str(number)), 30.0 + number)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_moved(self) -> None:
        """A deadline that is set again counts from then, be it sooner or later."""
        late = self.late("late")
        self.deadlines.set(late, 5.0)
        self.deadlines.set(late, 9.0)
        self.clock.pump([1.0] * 10)
        self.deadlines.set(late, 9.0)
        self.deadlines.set(late, 1.0)
        self.clock.pump([1.0] * 10)
        self.assertEqual(self.called, [("late", 9.0), ("late", 11.0)])

    def test_called_ones_change_others(self) -> None:
        """One that is called may discard another that is due as well, and set new ones."""
        other = self.late("other")

        def first() -> None:
            self.called.append(("first", self.clock.seconds()))
            self.deadlines.discard(other)
            self.deadlines.set(self.late("new"), 1.0)

        self.deadlines.set(first, 1.0)
        self.deadlines.set(other, 1.0)
        self.clock.pump([1.0] * 3)
        self.assertEqual(self.called, [("first", 1.0), ("new", 2.0)])
        self.assertEqual(self.clock.getDelayedCalls(), [])
