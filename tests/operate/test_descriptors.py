"""The limit of open files."""

from __future__ import annotations

from resource import RLIM_INFINITY

from twisted.logger import LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from relay.operate import descriptors


class RoomTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.events: list[dict] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)

    def limits(self, soft: int, hard: int, wanted: int) -> tuple[int, int]:
        """What the limits are after room was made."""
        now = [(soft, hard)]
        descriptors.make_room(wanted, lambda which: now[-1], lambda which, limits: now.append(limits))
        return now[-1]

    def warned(self) -> bool:
        return any(event["log_level"] is LogLevel.warn for event in self.events)

    def test_raised(self) -> None:
        """The soft limit becomes what is wanted; the hard one stays."""
        self.assertEqual(self.limits(1024, 4096, 3000), (3000, 4096))
        self.assertEqual(self.limits(1024, RLIM_INFINITY, 3000), (3000, RLIM_INFINITY))
        self.assertFalse(self.warned())

    def test_enough(self) -> None:
        """A limit that is high enough is left alone."""
        self.assertEqual(self.limits(4000, 4096, 3000), (4000, 4096))
        self.assertEqual(self.limits(RLIM_INFINITY, RLIM_INFINITY, 3000), (RLIM_INFINITY, RLIM_INFINITY))

    def test_short(self) -> None:
        """Where the hard limit is too low it is used up, and warned of."""
        self.assertEqual(self.limits(1024, 2048, 3000), (2048, 2048))
        self.assertTrue(self.warned())

    def test_needed(self) -> None:
        """Each session needs three: its own, its post's, and the embedded backend's."""
        self.assertEqual(descriptors.needed(1000) - descriptors.needed(0), 3000)
