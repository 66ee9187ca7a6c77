"""Work that may not take too long."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relay.spool.pacing import within


class WithinTests(SynchronousTestCase):
    """:func:`relay.spool.pacing.within`."""

    def test_in_time(self) -> None:
        """Who ends in time is not waited for any longer, and leaves no timer behind."""
        clock, work = Clock(), Deferred[None]()
        waited = Deferred.fromCoroutine(within(clock, 10, self.wait_for(work)))
        clock.advance(9)
        self.assertNoResult(waited)
        work.callback(None)
        self.assertTrue(self.successResultOf(waited))
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_too_late(self) -> None:
        """Who does not goes on by itself, and its failure is logged."""
        clock, work = Clock(), Deferred[None]()
        waited = Deferred.fromCoroutine(within(clock, 10, self.wait_for(work)))
        clock.advance(10)
        self.assertFalse(self.successResultOf(waited))
        work.errback(RuntimeError("a defect"))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    async def wait_for(self, work: Deferred[None]) -> None:
        """The work."""
        await work
