"""What the spool holds is posted until the platform has it, or it is given up."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, eventAsText
from twisted.trial.unittest import SynchronousTestCase

from relay import policy
from relay.client.platforms import Platforms
from relay.errors import PermanentFailure, Reason, TemporaryFailure
from relay.spool.breaker import Breaker
from relay.spool.pacing import Backoff, Pause
from relay.spool.runner import LONGEST_LOOK, STORE_PAUSE, Runner
from relay.spool.values import Counts, Delivered, Entry, Leased, Retry, Row, Settlement, Spooled
from relay.testing import KEY, MemoryStore
from relay.values import Submission
from tests.client.test_platforms import A, B, NamedPlatform, lost

DOWN = TemporaryFailure(Reason.UNREACHABLE)
DAY = 86_400.0


def submission(to: str) -> Submission:
    """One submission."""
    return Submission(
        api_key=KEY, request_id="ID7", idempotency_key=f"ID7-{to}", fromname="", fromemail="s@shop.example", to=to,
        toname="", subject="x", replyto="", returnpath="", body="<p>", tag="welcome", route="", template="",
        variables=None,
    )  # fmt: skip


class WatchedStore(MemoryStore):
    """Counts what is asked of it, and holds back what it shall."""

    def __init__(self, clock: Clock, settings: policy.Spool) -> None:
        MemoryStore.__init__(self, clock, settings)
        self.limits: list[int] = []
        self.batches: list[int] = []
        self.renewed: list[list[int]] = []
        self.settling: Deferred[None] | None = None
        self.taking: Deferred[None] | None = None
        self.defect: Exception | None = None
        self.poison: int | None = None

    async def take(self, limit: int, **options: Any) -> list[Leased]:
        """As it is, but perhaps later."""
        self.limits.append(limit)
        if self.defect is not None:
            raise self.defect
        rows = await MemoryStore.take(self, limit, **options)
        if self.taking is not None:
            await self.taking
        return rows

    async def renew(self, rows: Any) -> None:
        """As it is."""
        self.renewed.append(list(rows))
        await MemoryStore.renew(self, rows)

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """As it is, but perhaps later."""
        self.batches.append(len(settlements))
        if self.settling is not None:
            await self.settling
        if self.poison in [each.row for each in settlements]:
            raise ValueError("poison")
        await MemoryStore.settle(self, settlements)


class Observed:
    """Counts."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.deliveries = 0
        self.retries: list[str] = []
        self.failures: list[str] = []

    def attempted(self, seconds: float) -> None:
        """A row was posted."""
        self.seconds.append(seconds)

    def delivered(self) -> None:
        """The platform has one."""
        self.deliveries += 1

    def retried(self, reason: str) -> None:
        """One stays."""
        self.retries.append(reason)

    def failed(self, reason: str) -> None:
        """One is given up."""
        self.failures.append(reason)


class RunnerCase(SynchronousTestCase):
    """A runner between a spool and a platform, in memory; the jitter is in the middle, so delays are the plain ones."""

    def setUp(self) -> None:
        """Nothing is spooled, and everything works."""
        self.make()

    def make(self, *platforms: NamedPlatform, failures: int = 5, **settings: Any) -> None:
        """Begin anew with *settings* of the spool."""
        self.clock = Clock()
        self.policy = policy.Spool(**settings)
        self.store = WatchedStore(self.clock, self.policy)
        backends = platforms or (NamedPlatform(A),)
        self.platform = backends[0]
        rules = policy.Breaker(failures=failures, probe=5)
        self.breakers = [Breaker(rules, self.clock, on_change=lambda state: self.runner.wake()) for _ in backends]
        self.gate = Platforms(backends, self.breakers)
        self.observed = Observed()
        self.runner = Runner(
            self.store, self.gate.send, self.gate, self.policy, self.clock, self.observed, random=lambda: 0.5
        )

    def tearDown(self) -> None:
        """A runner that has stopped leaves nothing behind."""
        for held in list(self.platform.held or ()):
            held.callback(None)
        self.platform.held = None
        self.store.down = self.store.defect = None
        self.runner.stop()
        self.clock.advance(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def put(self, *recipients: str, account: str = "a", **changes: Any) -> list[int]:
        """Spool a message; its rows."""
        entries = tuple(evolve(Entry(submission(to)), **changes) for to in recipients)
        rows = self.result(self.store.put(Spooled("ID7", account, "Shop", entries)))
        self.runner.wake()
        return rows

    def result(self, awaitable: Any) -> Any:
        """What *awaitable* gives at once."""
        return self.successResultOf(Deferred.fromCoroutine(awaitable))

    @property
    def posted(self) -> list[str]:
        """Who was posted to, in order."""
        return self.platform.recipients

    @property
    def counts(self) -> Counts:
        """How full the spool is."""
        return self.result(self.store.counts())

    @property
    def rows(self) -> list[Row]:
        """What is in the spool."""
        return self.result(self.store.listing())

    def advance(self, seconds: float, step: float = 1.0) -> None:
        """Let time pass, a *step* at a time."""
        for _ in range(round(seconds / step)):
            self.clock.advance(step)

    def errors(self, events: Any) -> list[str]:
        """What was logged."""
        return [eventAsText(event, includeTimestamp=False, includeSystem=False) for event in events]


class DeliveryTests(RunnerCase):
    """What is taken, and when."""

    def test_delivered(self) -> None:
        """What was spooled before the start is posted at the start, and is gone when the platform has it."""
        self.put("x", "y")
        self.runner.start()
        self.assertEqual(self.posted, ["x", "y"])
        self.assertEqual(self.counts, Counts())
        self.assertEqual(self.observed.deliveries, 2)

    def test_woken(self) -> None:
        """What is spooled later is posted at once."""
        self.runner.start()
        self.put("x")
        self.assertEqual(self.posted, ["x"])

    def test_same_submission(self) -> None:
        """Every attempt posts the same submission with the same Idempotency-Key."""
        self.platform.down = DOWN
        self.put("x")
        self.runner.start()
        self.advance(60)
        self.assertEqual(self.platform.submissions, [submission("x")] * 3)

    def test_due_later(self) -> None:
        """A row is posted when it is due, not before."""
        self.put("x", delay=12.0)
        self.runner.start()
        self.clock.advance(11.9)
        self.assertEqual(self.posted, [])
        self.clock.advance(0.2)
        self.assertEqual(self.posted, ["x"])

    def test_in_flight(self) -> None:
        """A row whose first posting is under way elsewhere is left alone until that must have ended."""
        self.put("x", in_flight=28.0)
        self.runner.start()
        self.advance(27)
        self.assertEqual(self.posted, [])
        self.advance(2)
        self.assertEqual(self.posted, ["x"])

    def test_other_relay(self) -> None:
        """Rows that another relay put into the database are found without a wake."""
        self.runner.start()
        self.result(self.store.put(Spooled("ID7", "a", "Shop", (Entry(submission("x")),))))
        self.assertEqual(self.posted, [])
        self.advance(LONGEST_LOOK)
        self.assertEqual(self.posted, ["x"])

    def test_lanes(self) -> None:
        """No more is taken than there are free lanes, and each lane that is free takes the next."""
        self.make(concurrency=3)
        self.platform.held = []
        self.put(*"uvwxyz")
        self.runner.start()
        self.assertEqual((self.posted, self.store.limits), (["u", "v", "w"], [3]))
        self.assertEqual(self.counts.in_flight, 3)
        self.platform.release(1)
        self.assertEqual((self.posted, self.store.limits), (["u", "v", "w", "x"], [3, 1]))
        while self.platform.held:
            self.platform.release()
        self.assertEqual(self.posted, list("uvwxyz"))
        self.assertEqual(self.counts, Counts())

    def test_idle(self) -> None:
        """With nothing to do it looks every two seconds, and no more."""
        self.runner.start()
        looks = len(self.store.limits)
        self.advance(60, step=0.5)
        self.assertEqual(len(self.store.limits) - looks, 30)

    def test_many(self) -> None:
        """Thousands of rows that are posted at once neither nest nor are lost."""
        self.put(*(f"r{number}" for number in range(3000)))
        self.runner.start()
        self.assertEqual(len(set(self.posted)), 3000)
        self.assertEqual(self.counts, Counts())

    def test_woken_while_looking(self) -> None:
        """What is spooled while the store is being asked is not overlooked."""
        self.store.taking = Deferred()
        self.runner.start()
        self.put("x")
        taking, self.store.taking = self.store.taking, None
        taking.callback(None)
        self.assertEqual(self.posted, ["x"])

    def test_seconds(self) -> None:
        """How long each posting took is told."""
        self.platform.held = []
        self.put("x")
        self.runner.start()
        self.advance(3)
        self.platform.release()
        self.assertEqual(self.observed.seconds, [3])


class RetryTests(RunnerCase):
    """What the platform could not take."""

    def attempts(self, failure: TemporaryFailure, seconds: float, **settings: Any) -> list[float]:
        """When a row is posted whose every posting fails with *failure*."""
        self.make(failures=10**6, **settings)
        self.platform.down = failure
        self.put("x")
        self.runner.start()
        moments = [0.0]
        while self.clock.seconds() < seconds:
            self.clock.advance(1.0)
            moments += [self.clock.seconds()] * (len(self.posted) - len(moments))
        return moments

    def test_backoff(self) -> None:
        """The delay is 15 s first, doubles with each attempt, and is 30 minutes at most."""
        moments = self.attempts(DOWN, 3 * 3600)
        delays = [after - before for before, after in pairwise(moments)]
        for delay, wanted in zip(delays[:7], (15, 30, 60, 120, 240, 480, 960), strict=True):
            self.assertAlmostEqual(delay, wanted, delta=1)
        self.assertEqual(len(delays[7:]), 5)
        for delay in delays[7:]:
            self.assertTrue(1440 <= delay <= 1800, delay)

    def test_retry_after(self) -> None:
        """What the platform asks for is honoured where it is longer."""
        self.assertEqual(self.attempts(TemporaryFailure(Reason.BUSY, retry_after=100), 350), [0, 100, 200, 300])
        self.assertEqual(self.attempts(TemporaryFailure(Reason.BUSY, retry_after=1), 50), [0, 15, 45])

    def test_kept(self) -> None:
        """The row tells its attempts and its last answer."""
        self.platform.down = DOWN
        self.put("x")
        self.runner.start()
        (row,) = self.rows
        self.assertEqual((row.state, row.attempts), ("waiting", 1))
        self.assertEqual(row.last_answer, "451 4.4.1 The platform is not reachable, try again later")
        self.assertEqual(self.observed.retries, ["unreachable"])
        self.platform.down = None
        self.advance(15)
        self.assertEqual(self.counts, Counts())

    def test_defect(self) -> None:
        """A posting that breaks in a way nobody expected is logged, and tried again."""

        async def broken(submission: Submission, platform: str) -> None:
            raise ValueError("broken")

        self.runner = Runner(self.store, broken, self.gate, self.policy, self.clock, self.observed)
        self.put("x")
        self.runner.start()
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual(self.observed.retries, ["internal"])
        self.assertEqual(self.counts.waiting, 1)

    @given(
        attempts=st.integers(0, 10**6),
        chance=st.floats(0, 1),
        first=st.floats(0.1, 1e5),
        maximum=st.floats(0.1, 1e5),
        retry_after=st.none() | st.floats(0, 3600),
    )
    @settings(max_examples=200, deadline=None)
    def test_bounds(
        self, attempts: int, chance: float, first: float, maximum: float, retry_after: float | None
    ) -> None:
        """A delay is within a fifth of the plain one, and past the maximum only because the platform asked for it."""
        delay = Backoff(policy.Spool(retry_first=first, retry_maximum=maximum), lambda: chance)(attempts, retry_after)
        plain = min(first * 2 ** min(max(attempts - 1, 0), 30), maximum)
        asked = retry_after or 0.0
        self.assertGreaterEqual(delay, asked)
        self.assertGreaterEqual(delay * 1.000001, plain * 0.8)
        self.assertLessEqual(delay, max(min(plain * 1.2, maximum), asked) * 1.000001)

    def test_jitter(self) -> None:
        """Rows that failed together come back spread over six seconds, or ten minutes at the maximum."""
        for attempts, low, high in ((1, 12, 18), (20, 1440, 1800)):
            for chance, delay in ((0.0, low), (1.0, high)):
                self.assertAlmostEqual(Backoff(policy.Spool(), lambda chance=chance: chance)(attempts), delay)


class FailureTests(RunnerCase):
    """What is given up."""

    def test_refused(self) -> None:
        """A row that the platform refuses for good is a failure at once, kept with its answer, and logged in a line."""
        self.platform.down = PermanentFailure(Reason.REFUSED, "Invalid\r\nto address")
        self.put("x")
        self.advance(60)
        with capturedLogs() as events:
            self.runner.start()
        (row,) = self.rows
        self.assertEqual(
            (row.state, row.reason, row.last_answer), ("failed", "refused", "554 5.6.0 Invalid to address")
        )
        self.assertEqual(self.observed.failures, ["refused"])
        self.assertEqual(
            self.errors(events),
            ["failed ID7 recipient=x account='Shop' tag='welcome' reason=refused attempts=1 age=60"
             " answer='554 5.6.0 Invalid to address'"],
        )  # fmt: skip
        self.assertEqual(events[0]["log_level"].name, "error")
        self.advance(DAY, step=600)
        self.assertEqual(self.posted, ["x"])

    def test_key_refused(self) -> None:
        """A key that the platform refuses, because it was reset, makes a failure; the log has its prefix at most."""
        self.platform.down = PermanentFailure(Reason.KEY_REFUSED)
        self.result(self.store.put(Spooled("ID7", "a", "", (Entry(submission("x")),))))
        with capturedLogs() as events:
            self.runner.start()
        self.assertEqual(self.observed.failures, ["key-refused"])
        self.assertIn("account='test…'", self.errors(events)[0])
        self.assertNotIn(KEY, repr(events))

    def test_too_old(self) -> None:
        """A row that no attempt brought to the platform in a day is a failure, with its last answer."""
        self.make(failures=10**6)
        self.platform.down = DOWN
        self.put("x")
        self.runner.start()
        self.advance(DAY - 60, step=10)
        self.assertEqual(self.counts.failed, 0)
        with capturedLogs() as events:
            self.advance(1860, step=10)
        (row,) = self.rows
        self.assertEqual((row.state, row.reason), ("failed", "expired"))
        self.assertIn("not reachable", row.last_answer)
        self.assertEqual(self.observed.failures, ["expired"])
        self.assertIn("reason=expired", self.errors(events)[0])

    def test_last_chance(self) -> None:
        """A row that grew too old while the relay was stopped is posted once more."""
        self.put("x", "y")
        self.advance(3 * DAY, step=DAY)
        self.platform.verdicts["y"] = DOWN
        self.runner.start()
        self.assertEqual([(row.recipient, row.state) for row in self.rows], [("y", "failed")])

    def test_too_old_while_down(self) -> None:
        """While the platform is down rows that are too old are failures without waiting for a probe each."""
        self.make(failures=1, concurrency=1, give_up=100.0)
        self.platform.down = DOWN
        self.put(*(f"r{number}" for number in range(50)))
        self.runner.start()
        self.advance(99)
        before = len(self.posted)
        self.assertEqual(self.counts.failed, 0)
        self.advance(12)
        self.assertGreater(self.counts.failed, 40)
        self.assertLessEqual(len(self.posted) - before, 3)
        unposted = [row for row in self.rows if row.attempts == 0]
        self.assertTrue(unposted)

    def test_told_when_durable(self) -> None:
        """Nobody is told of a failure before it is noted."""
        self.platform.down = PermanentFailure(Reason.REFUSED)
        self.store.settling = Deferred()
        self.put("x")
        with capturedLogs() as events:
            self.runner.start()
            self.assertEqual(events, [])
            self.store.settling.callback(None)
        self.assertEqual(len(events), 1)

    def test_teller_breaks(self) -> None:
        """Should telling break, the other rows go on."""

        def tell(*_: object) -> None:
            raise ValueError("broken")

        self.platform.verdicts["x"] = PermanentFailure(Reason.REFUSED)
        self.runner = Runner(self.store, self.gate.send, self.gate, self.policy, self.clock, given_up=tell)
        self.put("x", "y")
        self.runner.start()
        self.put("z")
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual((self.posted, self.counts.failed, self.counts.waiting), (["x", "y", "z"], 1, 0))


class BreakerTests(RunnerCase):
    """While the platform is down."""

    def test_probes_only(self) -> None:
        """One row at a time is a probe, every five seconds; the others lose no attempt."""
        self.make(concurrency=5, failures=5)
        self.platform.down = DOWN
        self.put(*(f"r{number}" for number in range(100)))
        self.runner.start()
        self.assertEqual(len(self.posted), 5)
        for probes in range(1, 12):
            self.advance(5, step=0.5)
            self.assertEqual(len(self.posted), 5 + probes)
        self.assertEqual(sum(row.attempts for row in self.rows), 16)
        self.assertEqual(max(row.attempts for row in self.rows), 1)

    def test_one_probe(self) -> None:
        """A probe that takes long has no second beside it."""
        self.make(failures=1)
        self.platform.down = DOWN
        self.put("w", "x", "y", "z", delay=0.0)
        self.platform.held = []
        self.runner.start()
        while self.platform.held:
            self.platform.release()
        posted = len(self.posted)
        self.put("p", "q")
        self.advance(60)
        self.assertEqual((len(self.posted), len(self.platform.held)), (posted + 1, 1))

    def test_drains(self) -> None:
        """When a probe is taken everything that is due follows, as fast as the lanes allow."""
        self.make(concurrency=5, failures=5)
        self.platform.down = DOWN
        self.put(*(f"r{number}" for number in range(100)))
        self.runner.start()
        self.platform.down = None
        self.clock.advance(5)
        self.assertEqual(self.counts.waiting, 5)
        self.advance(20)
        self.assertEqual(self.counts, Counts())

    def test_closed_by_others(self) -> None:
        """A success elsewhere, such as a posting that was under way, lets everything go on at once."""
        self.make(failures=1, concurrency=1)
        self.platform.down = DOWN
        self.put("x", "y", "z")
        self.runner.start()
        self.assertEqual(self.posted, ["x"])
        self.platform.down = None
        self.breakers[0].succeeded()
        self.assertEqual(self.posted, ["x", "y", "z"])

    def test_refusal_closes(self) -> None:
        """A probe that is refused for good is given up, and shows that the platform is back."""
        self.make(failures=1, concurrency=1)
        self.platform.down = DOWN
        self.put("x", "y", "z")
        self.runner.start()
        self.platform.down = PermanentFailure(Reason.FORBIDDEN)
        self.clock.advance(5)
        self.assertEqual((self.counts.failed, self.breakers[0].closed), (2, True))


class PlatformsTests(RunnerCase):
    """With several platforms."""

    def test_bound(self) -> None:
        """A row whose answer was lost goes back to the platform that may have it, attempt after attempt."""
        second = NamedPlatform(B)
        self.make(NamedPlatform(A), second, failures=2)
        self.platform.verdicts["x"] = lost()
        self.put("x")
        self.runner.start()
        self.platform.verdicts["x"] = DOWN
        self.advance(60)
        self.assertEqual((self.posted, second.recipients), (["x", "x", "x"], []))
        del self.platform.verdicts["x"]
        self.advance(60)
        self.assertEqual((self.counts, second.recipients), (Counts(), []))

    def test_bound_before(self) -> None:
        """The direct posting may have bound it already."""
        second = NamedPlatform(B)
        self.make(NamedPlatform(A), second)
        self.put("x", platform=B)
        self.put("y")
        self.runner.start()
        self.assertEqual((self.posted, second.recipients), (["y"], ["x"]))


class LeaseTests(RunnerCase):
    """A row is ours while it is posted."""

    def test_renewed(self) -> None:
        """The lease of a row is renewed every third of it while it is posted, and not after."""
        self.make(lease=60.0)
        self.platform.held = []
        (row,) = self.put("x")
        self.runner.start()
        self.advance(100)
        self.assertEqual(self.store.renewed, [[row]] * 5)
        self.assertEqual(self.counts.in_flight, 1)
        self.platform.release()
        self.advance(100)
        self.assertEqual(len(self.store.renewed), 5)

    def test_renewed_until_settled(self) -> None:
        """A row that is delivered and not yet settled must not be taken by another relay."""
        self.store.settling = Deferred()
        (row,) = self.put("x")
        self.runner.start()
        self.advance(40)
        self.assertEqual(self.store.renewed, [[row]] * 2)
        self.store.settling.callback(None)
        self.assertEqual(self.counts, Counts())

    def test_lost_lease(self) -> None:
        """A row whose lease ran out because the store took no renewal is not posted twice side by side."""
        self.platform.held = []
        self.put("x")
        self.runner.start()
        self.store.down = TemporaryFailure(Reason.SPOOL_FAILED)
        with capturedLogs() as events:
            self.advance(65)
        self.assertEqual(self.errors(events).count("the spool cannot be written: spool-failed"), 3)
        self.store.down = None
        self.assertEqual(self.counts.in_flight, 0)
        looks = len(self.store.limits)
        self.advance(30)
        self.assertGreater(len(self.store.limits), looks)
        self.assertEqual((self.posted, self.counts.in_flight), (["x"], 1))
        self.platform.release()
        self.assertEqual(self.counts, Counts())


class StoreTests(RunnerCase):
    """When the store fails."""

    def test_take(self) -> None:
        """A store that cannot be read is asked again until it can; a line tells each time."""
        self.store.down = TemporaryFailure(Reason.SPOOL_FAILED)
        with capturedLogs() as events:
            self.runner.start()
            self.advance(3 * STORE_PAUSE)
        self.assertEqual(self.errors(events), ["the spool cannot be read: spool-failed"] * 4)
        self.store.down = None
        self.put("x")
        self.assertEqual(self.posted, ["x"])

    def test_defect(self) -> None:
        """A store that breaks in a way nobody expected does not end the runner."""
        self.store.defect = ValueError("broken")
        self.runner.start()
        self.put("x")
        self.store.defect = None
        self.advance(STORE_PAUSE)
        self.assertEqual(self.posted, ["x"])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)

    def test_settle(self) -> None:
        """What became of rows is kept until it can be noted; they are not posted again, and no more are taken."""
        self.make(concurrency=2)
        self.platform.held = []
        self.put(*"wxyz")
        self.runner.start()
        self.store.down = TemporaryFailure(Reason.SPOOL_FAILED)
        self.platform.release()
        self.platform.release()
        self.advance(30)
        self.assertEqual(self.posted, ["w", "x"])
        self.store.down, self.platform.held = None, None
        self.advance(2 * STORE_PAUSE)
        self.assertEqual(self.posted, list("wxyz"))
        self.assertEqual(self.counts, Counts())

    def test_one_that_cannot_be_settled(self) -> None:
        """A row that the store chokes on does not keep the others from being settled."""
        self.make(concurrency=4)
        self.platform.held = []
        rows = self.put(*"wxyz")
        self.runner.start()
        self.store.poison = rows[0]
        while self.platform.held:
            self.platform.release()
        self.advance(60)
        self.assertEqual([row.recipient for row in self.rows], ["w"])
        self.assertTrue(self.flushLoggedErrors(ValueError))
        self.store.poison = None
        self.advance(STORE_PAUSE)
        self.assertEqual(self.rows, [])

    def test_batches(self) -> None:
        """What ends while the store is busy settling is settled together."""
        self.platform.held = []
        self.put(*(f"r{number}" for number in range(20)))
        self.runner.start()
        self.store.settling = settling = Deferred()
        for _ in range(20):
            self.platform.release()
        self.store.settling = None
        settling.callback(None)
        self.assertEqual(self.store.batches, [1, 19])
        self.assertEqual(self.counts, Counts())

    def test_slow(self) -> None:
        """While settling is slow free lanes go on, but no further than one more round."""
        self.make(concurrency=2)
        self.store.settling = settling = Deferred()
        self.put(*"rstuvwxyz")
        self.runner.start()
        self.advance(60)
        self.assertEqual(self.posted, list("rstu"))
        self.store.settling = None
        settling.callback(None)
        self.assertEqual((self.posted, self.counts), (list("rstuvwxyz"), Counts()))

    def test_slow_retry(self) -> None:
        """A retry that is noted late is not overlooked."""
        self.store.settling = settling = Deferred()
        self.platform.down = DOWN
        self.put("x")
        self.runner.start()
        self.advance(2)
        self.store.settling = None
        settling.callback(None)
        self.advance(16)
        self.assertEqual(self.posted, ["x", "x"])


class StopTests(RunnerCase):
    """Stopping."""

    def test_idle(self) -> None:
        """An idle runner stops at once, and takes nothing after."""
        self.runner.start()
        self.successResultOf(self.runner.stop(30))
        self.put("x")
        self.advance(60)
        self.assertEqual(self.posted, [])

    def test_finishes(self) -> None:
        """What is being posted is finished and settled; nothing new is begun."""
        self.make(concurrency=1)
        self.platform.held = []
        self.put("x", "y")
        self.runner.start()
        stopped = self.runner.stop(30)
        self.advance(10)
        self.assertNoResult(stopped)
        self.platform.release()
        self.successResultOf(stopped)
        self.assertEqual((self.posted, [row.recipient for row in self.rows]), (["x"], ["y"]))

    def test_deadline(self) -> None:
        """What has not ended in time keeps its lease, and what becomes of it later is not noted any more."""
        self.platform.held = []
        self.put("x")
        self.runner.start()
        stopped = self.runner.stop(30)
        self.advance(29)
        self.assertNoResult(stopped)
        self.assertEqual(len(self.store.renewed), 1)
        self.advance(1)
        self.successResultOf(stopped)
        self.assertEqual(self.counts.in_flight, 1)
        self.platform.release()
        self.assertEqual((self.store.batches, self.counts.in_flight), ([], 1))

    def test_waits_for_the_store(self) -> None:
        """What is delivered is settled before the stop is over, also when the store fails at first."""
        self.platform.held = []
        self.put("x")
        self.runner.start()
        self.store.down = TemporaryFailure(Reason.SPOOL_FAILED)
        self.platform.release()
        stopped = self.runner.stop(30)
        self.advance(2)
        self.store.down = None
        self.assertNoResult(stopped)
        self.advance(STORE_PAUSE)
        self.successResultOf(stopped)
        self.assertEqual(self.rows, [])

    def test_store_stays_broken(self) -> None:
        """A store that stays broken does not hold the stop up past its deadline."""
        self.platform.held = []
        self.put("x")
        self.runner.start()
        self.store.down = TemporaryFailure(Reason.SPOOL_FAILED)
        self.platform.release()
        stopped = self.runner.stop(7)
        self.advance(7)
        self.successResultOf(stopped)

    def test_while_taking(self) -> None:
        """Rows that the store gives out just then are left alone."""
        self.store.taking = taking = Deferred()
        self.put("x")
        self.runner.start()
        self.successResultOf(self.runner.stop(30))
        self.store.taking = None
        taking.callback(None)
        self.assertEqual((self.posted, self.counts.in_flight), ([], 1))


class JumpTests(RunnerCase):
    """The machine's time is set; the store's clock and the reactor's are monotonic, the row's date is not."""

    def test_date_of_acceptance(self) -> None:
        """A row that seems accepted a day ahead, or years ago, is neither given up early nor kept for ever."""
        for offset in (DAY, -1000 * DAY):
            self.setUp()

            async def take(limit: int, offset: float = offset, store: MemoryStore = self.store) -> list[Leased]:
                return [evolve(row, created=row.created + offset) for row in await MemoryStore.take(store, limit)]

            self.store.take = take
            self.platform.down = DOWN
            self.put("x")
            self.runner.start()
            self.advance(100)
            self.assertEqual((self.counts.waiting, len(self.posted)), (1, 3))
            self.advance(DAY + 3600, step=10)
            self.assertEqual(self.counts.failed, 1)


class FairnessTests(RunnerCase):
    """Fairness is the store's; the runner must not spoil it."""

    def test_accounts(self) -> None:
        """An account with a thousand rows does not delay another's ten."""
        self.make(concurrency=4)
        self.put(*(f"big{number}" for number in range(1000)), account="a")
        self.put(*(f"small{number}" for number in range(10)), account="b")
        self.runner.start()
        last = max(place for place, to in enumerate(self.posted) if to.startswith("small"))
        self.assertLess(last, 30)
        self.assertEqual(len(self.posted), 1010)


class PauseTests(SynchronousTestCase):
    """A pause that ends early."""

    def test_ends(self) -> None:
        """It ends after its time, when it is told, or at once when it was told before; and only once for each."""
        clock = Clock()
        pause = Pause(clock)

        def wait() -> Deferred[None]:
            return Deferred.fromCoroutine(pause.wait(10))

        waiting = wait()
        clock.advance(9)
        self.assertNoResult(waiting)
        clock.advance(1)
        self.successResultOf(waiting)
        waiting = wait()
        pause.end()
        self.successResultOf(waiting)
        pause.end()
        self.successResultOf(wait())
        self.assertNoResult(wait())
        clock.advance(10)
        self.assertEqual(clock.getDelayedCalls(), [])


class ContractTests(SynchronousTestCase):
    """The spool in memory keeps to what the runner relies on."""

    def test_gone(self) -> None:
        """Rows that are gone are no error to settle or renew."""
        store = MemoryStore(Clock())
        for asked in (store.settle([Delivered(7), Retry(8, 1.0, "x")]), store.renew([7])):
            self.successResultOf(Deferred.fromCoroutine(asked))
