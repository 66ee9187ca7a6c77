"""The spool as a whole, on a store that breaks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relay import policy
from relay.operate.metrics import Metrics
from relay.spool.service import Policies, SpoolService
from relay.spool.values import Counts, Leased
from relay.testing import FakePlatform


class Platforms(FakePlatform):
    """One that is up."""

    open = False

    def wait(self) -> float:
        """Now."""
        return 0.0


class BrokenStore:
    """An empty store whose counting and purging have a defect."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def take(self, limit: int) -> Sequence[Leased]:
        """Nothing."""
        return ()

    async def next_due(self) -> float | None:
        """Never."""
        return None

    async def counts(self) -> Counts:
        """Break."""
        self.asked.append("counts")
        raise RuntimeError("a defect")

    async def purge(self) -> int:
        """Break."""
        self.asked.append("purge")
        raise RuntimeError("a defect")


class TimerTests(SynchronousTestCase):
    """What is done again and again."""

    def test_defect(self) -> None:
        """A defect is logged, and the next round comes all the same."""
        clock, store = Clock(), BrokenStore()
        policies = Policies(policy.Spool(), policy.Delivery(), 30.0)
        parts: Any = (store, Platforms(), policies, clock, Metrics())
        service = SpoolService(*parts, forget=lambda key: None)
        service.startService()
        clock.pump([5.0] * 60)
        self.assertEqual((store.asked.count("purge"), store.asked.count("counts")), (2, 61))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 63)
        service.stopService()
