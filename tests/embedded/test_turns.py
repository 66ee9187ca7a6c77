"""Pages give way to messages."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relay.embedded.web.turns import LONG, LONGEST, Turns


class TurnsTests(SynchronousTestCase):
    """Pages that take as long as they are told to."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.turns = Turns(self.clock)
        self.began: list[str] = []

    def page(self, name: str) -> Deferred[None]:
        """Ask for a page; it is made until the Deferred fires that comes back."""
        made: Deferred[None] = Deferred()

        async def make() -> None:
            self.began.append(name)
            await made

        running = Deferred.fromCoroutine(self.turns.run(make()))
        running.addErrback(lambda failure: failure.trap(ZeroDivisionError) and None)
        return made

    def test_in_turn(self) -> None:
        """The next page follows when one has ended, after as long a pause as it took."""
        first, _ = self.page("first"), self.page("second")
        self.clock.advance(0.02)
        first.callback(None)
        self.clock.advance(0.019)
        self.assertEqual(self.began, ["first"])
        self.clock.advance(0.002)
        self.assertEqual(self.began, ["first", "second"])

    def test_failed(self) -> None:
        """A page that fails has ended too."""
        first, _ = self.page("first"), self.page("second")
        first.errback(ZeroDivisionError())
        self.assertEqual(self.began, ["first", "second"])

    def test_long(self) -> None:
        """A page that waits for something long does not hold up the others, nor lets two in when it ends."""
        first, second, _ = self.page("first"), self.page("second"), self.page("third")
        self.clock.advance(LONG)
        self.assertEqual(self.began, ["first", "second"])
        first.callback(None)
        self.clock.advance(LONGEST)
        self.assertEqual(self.began, ["first", "second"])
        second.callback(None)
        self.clock.advance(LONGEST)
        self.assertEqual(self.began, ["first", "second", "third"])

    def test_alone(self) -> None:
        """Who comes alone waits for nothing, and leaves nothing behind."""
        for number in range(10):
            self.page(str(number)).callback(None)
        self.assertEqual(len(self.began), 10)
        self.assertEqual(self.clock.getDelayedCalls(), [])
