"""Whether a platform counts as down."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, eventAsText
from twisted.trial.unittest import SynchronousTestCase

from relay import policy
from relay.errors import PermanentFailure, Reason, TemporaryFailure
from relay.spool.breaker import Breaker, State

DOWN = TemporaryFailure(Reason.UNREACHABLE)
BUSY = TemporaryFailure(Reason.BUSY, retry_after=60)
REFUSED = PermanentFailure(Reason.REFUSED, "Invalid to address")


class BreakerTests(SynchronousTestCase):
    """After three failures in a row it opens, and one probe every five seconds may close it."""

    def setUp(self) -> None:
        """Closed."""
        self.clock = Clock()
        self.states: list[State] = []
        self.breaker = Breaker(
            policy.Breaker(failures=3, probe=5), self.clock, name="a.example", on_change=self.states.append
        )

    def fail_times(self, times: int, failure: TemporaryFailure = DOWN) -> None:
        """So many postings fail."""
        for _ in range(times):
            self.breaker.failed(failure)

    def test_opens(self) -> None:
        """It opens at the third failure in a row, and nothing may be posted then."""
        self.fail_times(2)
        self.assertEqual((self.breaker.state, self.breaker.closed, self.breaker.wait()), (State.CLOSED, True, 0))
        self.fail_times(1)
        self.assertEqual((self.breaker.state, self.breaker.open, self.breaker.wait()), (State.OPEN, True, 5))
        self.assertFalse(self.breaker.allow_probe())

    def test_every_kind_of_trouble(self) -> None:
        """An answer that was lost and a wrong URL count as much as a platform that is not reached."""
        for reason in (Reason.UNREACHABLE, Reason.UNKNOWN_OUTCOME, Reason.MISCONFIGURED):
            self.breaker.failed(TemporaryFailure(reason))
        self.assertTrue(self.breaker.open)

    def test_in_a_row(self) -> None:
        """A success between them, or a refusal for good, begins the count anew: the platform works."""
        self.fail_times(2)
        self.breaker.succeeded()
        self.fail_times(2)
        self.breaker.failed(REFUSED)
        self.fail_times(2)
        self.assertTrue(self.breaker.closed)

    def test_busy(self) -> None:
        """A platform that asks for patience is not down, and neither is it down for a defect of the relay's."""
        self.fail_times(100, BUSY)
        self.fail_times(100, TemporaryFailure(Reason.INTERNAL))
        self.assertTrue(self.breaker.closed)
        self.fail_times(2)
        self.fail_times(1, BUSY)
        self.fail_times(1)
        self.assertTrue(self.breaker.open)

    def test_one_probe(self) -> None:
        """After five seconds one probe is allowed, and no second one beside it, however long it takes."""
        self.fail_times(3)
        self.clock.advance(4.9)
        self.assertFalse(self.breaker.allow_probe())
        self.clock.advance(0.2)
        self.assertEqual(self.breaker.wait(), 0)
        self.assertTrue(self.breaker.allow_probe())
        self.assertEqual((self.breaker.state, self.breaker.open), (State.HALF_OPEN, True))
        self.clock.advance(1000)
        self.assertFalse(self.breaker.allow_probe())
        self.assertGreater(self.breaker.wait(), 0)

    def probe(self) -> None:
        """Open, with a probe under way."""
        self.fail_times(3)
        self.clock.advance(5)
        self.assertTrue(self.breaker.allow_probe())

    def test_probe_succeeds(self) -> None:
        """A probe that is taken closes it, and the next failures are counted from none."""
        self.probe()
        self.breaker.succeeded()
        self.assertTrue(self.breaker.closed)
        self.fail_times(2)
        self.assertTrue(self.breaker.closed)

    def test_probe_answered(self) -> None:
        """A probe that is refused for good, or asked for patience, shows a platform at work."""
        for answer in (REFUSED, BUSY):
            self.probe()
            self.breaker.failed(answer, probe=True)
            self.assertTrue(self.breaker.closed)

    def test_probe_fails(self) -> None:
        """A probe that fails keeps it open, and the next one is due five seconds after its end."""
        for failure in (DOWN, TemporaryFailure(Reason.INTERNAL)):
            self.probe()
            self.clock.advance(30)
            self.breaker.failed(failure, probe=True)
            self.assertEqual((self.breaker.state, self.breaker.wait()), (State.OPEN, 5))
            self.breaker.succeeded()

    def test_late_failure(self) -> None:
        """What was posted before it opened and fails during the probe neither ends the probe nor allows a second."""
        self.probe()
        self.breaker.failed(DOWN)
        self.clock.advance(5)
        self.assertEqual((self.breaker.state, self.breaker.allow_probe()), (State.HALF_OPEN, False))

    def test_late_success(self) -> None:
        """What was posted before it opened and is taken after all closes it."""
        self.fail_times(3)
        self.breaker.succeeded()
        self.assertTrue(self.breaker.closed)

    def test_watched(self) -> None:
        """Whoever watches is told of each state once."""
        self.fail_times(9)
        self.clock.advance(5)
        self.breaker.allow_probe()
        self.breaker.failed(DOWN, probe=True)
        self.clock.advance(5)
        self.breaker.allow_probe()
        self.breaker.succeeded()
        self.breaker.succeeded()
        opened = [State.OPEN, State.HALF_OPEN]
        self.assertEqual(self.states, [*opened, *opened, State.CLOSED])

    def test_logged(self) -> None:
        """One warning when the platform goes down and one line when it is back, however many probes lie between."""
        with capturedLogs() as events:
            self.fail_times(9)
            for _ in range(10):
                self.clock.advance(5)
                self.breaker.allow_probe()
                self.breaker.failed(DOWN, probe=True)
            self.clock.advance(5)
            self.breaker.allow_probe()
            self.breaker.succeeded()
        self.assertEqual([event["log_level"] for event in events], [LogLevel.warn, LogLevel.info])
        self.assertIn("a.example is down: 3 failures in a row, the last unreachable", eventAsText(events[0]))
        self.assertIn("a.example is back after 55 s", eventAsText(events[1]))
