"""relay.periodic: again and again, until it stops."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relay.periodic import Periodic


class PeriodicTests(SynchronousTestCase):
    """Work every ten seconds."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.done: list[float] = []
        self.under_way: Deferred[None] | None = None
        self.periodic = Periodic(self.clock, 10.0, self.work)

    def work(self) -> object:
        self.done.append(self.clock.seconds())
        return self.under_way

    def test_again(self) -> None:
        """The work is done at once, and every ten seconds until the service stops, which leaves no timer."""
        self.periodic.startService()
        self.clock.pump([5.0] * 5)
        stopped = self.periodic.stopService()
        assert stopped is not None
        self.successResultOf(stopped)
        self.clock.pump([5.0] * 5)
        self.assertEqual(self.done, [0.0, 10.0, 20.0])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_under_way(self) -> None:
        """Work that lasts is not begun twice, and stopping waits for it."""
        self.under_way = Deferred()
        self.periodic.startService()
        self.clock.pump([5.0] * 5)
        self.assertEqual(self.done, [0.0])
        stopped = self.periodic.stopService()
        assert stopped is not None
        self.assertNoResult(stopped)
        self.under_way.callback(None)
        self.successResultOf(stopped)

    def test_defect(self) -> None:
        """A defect in the work is logged and ends it; the service still stops."""

        def broken() -> None:
            raise ValueError("broken")

        periodic = Periodic(self.clock, 10.0, broken)
        periodic.startService()
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        stopped = periodic.stopService()
        assert stopped is not None
        self.successResultOf(stopped)

    def test_not_started(self) -> None:
        """One that never started stops at once."""
        self.assertIsNone(self.periodic.stopService())
