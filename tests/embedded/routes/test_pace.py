"""How many messages a minute a route takes."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relay.embedded.routes.pace import Pace


class PaceTests(SynchronousTestCase):
    """A bound that holds in every minute."""

    def sent(self, rate: int, seconds: int) -> list[float]:
        """When messages went that are always there."""
        clock = Clock()
        pace = Pace(rate, clock)
        times: list[float] = []
        while clock.seconds() < seconds:
            room = pace.room()
            assert room is not None
            pace.spend(room)
            times += [clock.seconds()] * room
            clock.advance(max(pace.wait(), 0.001))
        return times

    def test_bound(self) -> None:
        """No minute has more messages than the rate, and a long time has nearly as many as it allows."""
        for rate in (1, 7, 60, 61, 600):
            times = self.sent(rate, 300)
            for place, began in enumerate(times):
                within = [each for each in times[place:] if each < began + 60]
                self.assertLessEqual(len(within), rate)
            self.assertGreater(len(times), 0.9 * 5 * rate)

    def test_no_bound(self) -> None:
        """0 is any number."""
        self.assertIsNone(Pace(0, Clock()).room())
        self.assertEqual(Pace(0, Clock()).wait(), 0.0)
