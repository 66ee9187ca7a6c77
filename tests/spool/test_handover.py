"""Direct first, the spool on trouble: what is posted, what is kept, and what the client is told."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relay import replies
from relay.errors import Failure, PermanentFailure, Reason, TemporaryFailure
from relay.policy import Delivery
from relay.posting import Post, Posting
from relay.spool.handover import Handover, account_digest
from relay.spool.values import Delivered, Entry, Failed, Retry, Settlement, Spooled
from relay.testing import KEY, FakePlatform
from relay.values import Account, Outcome, Receipt, Submission

ACCOUNT = Account(KEY, "Test Company")
DOWN = TemporaryFailure(Reason.UNREACHABLE)


def submission(to: str) -> Submission:
    """One submission."""
    return Submission(
        api_key=KEY, request_id="ID7", idempotency_key=f"ID7-{to}", fromname="", fromemail="s@shop.example", to=to,
        toname="", subject="x", replyto="", returnpath="", body="<p>", tag="untagged", route="", template="",
        variables=None,
    )  # fmt: skip


class FakeSpool:
    """Keeps what it is given; ``broken`` is what it raises instead."""

    def __init__(self) -> None:
        self.messages: list[Spooled] = []
        self.settled: list[Settlement] = []
        self.broken: Failure | None = None
        self.held: Deferred[None] | None = None

    async def put(self, message: Spooled) -> Sequence[int]:
        """Keep a message."""
        if self.held is not None:
            await self.held
        if self.broken is not None:
            raise self.broken
        self.messages.append(message)
        return range(1, len(message.entries) + 1)

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Note an outcome."""
        if self.broken is not None:
            raise self.broken
        self.settled += settlements


class HandoverCase(SynchronousTestCase):
    """A handover between a platform and a spool in memory."""

    def setUp(self) -> None:
        """Everything is up."""
        self.clock = Clock()
        self.platform = FakePlatform()
        self.spool = FakeSpool()
        self.down = False
        self.woken = 0
        self.given_up: list[Entry] = []

    def begin(
        self, *recipients: str, mode: str = "direct-first", post: Post | None = None
    ) -> Deferred[tuple[Outcome, ...]]:
        """Hand a message over."""

        def wake() -> None:
            self.woken += 1

        self.handover = Handover(
            posting=Posting(post or self.platform.send),
            spool=self.spool,
            policy=Delivery(mode=mode),
            clock=self.clock,
            memory=10,
            deadline=30.0,
            backoff=lambda attempts, retry_after: max(15.0 * attempts, retry_after or 0.0),
            is_down=lambda: self.down,
            wake=wake,
            given_up=lambda account, entry: self.given_up.append(entry),
        )
        submissions = [submission(each) for each in recipients or ("a@x",)]
        return Deferred.fromCoroutine(self.handover.deliver(ACCOUNT, submissions))

    def deliver(self, *recipients: str, **arguments: Any) -> tuple[Outcome, ...]:
        """Hand a message over, to the end."""
        return self.successResultOf(self.begin(*recipients, **arguments))

    def verdict(self, outcomes: tuple[Outcome, ...]) -> str:
        """The code and enhanced code that the client is told."""
        failure = replies.verdict(Receipt("ID7", outcomes))
        return "250" if failure is None else str(replies.reply(failure))[:9]

    def entries(self) -> dict[str, Entry]:
        """What the spool holds, by recipient."""
        return {entry.submission.to: entry for message in self.spool.messages for entry in message.entries}


class DirectFirstTests(HandoverCase):
    """``delivery.mode = "direct-first"``."""

    def test_accepted(self) -> None:
        """What the platform takes is never written."""
        outcomes = self.deliver("a@x", "b@x")
        self.assertEqual(outcomes, (Outcome("a@x"), Outcome("b@x")))
        self.assertEqual((self.spool.messages, self.clock.getDelayedCalls()), ([], []))

    def test_refused_for_good(self) -> None:
        """What it refuses for good goes back to the client, and is not kept."""
        self.platform.down = PermanentFailure(Reason.FORBIDDEN, "no such route")
        self.assertEqual(self.verdict(self.deliver("a@x", "b@x")), "550 5.7.1")
        self.assertEqual(self.spool.messages, [])

    def test_temporary(self) -> None:
        """What it cannot take now is kept with its attempt, and the client gets its 250."""
        self.platform.down = TemporaryFailure(Reason.BUSY, "slow down", retry_after=99.0)
        outcomes = self.deliver("a@x")
        self.assertEqual(outcomes, (Outcome("a@x", spooled=True),))
        self.assertEqual(self.verdict(outcomes), "250")
        (message,) = self.spool.messages
        self.assertEqual(
            (message.id, message.account, message.account_name), ("ID7", account_digest(ACCOUNT), "Test Company")
        )
        entry = message.entries[0]
        self.assertEqual((entry.attempts, entry.delay, entry.in_flight, entry.failed), (1, 99.0, 0.0, False))
        self.assertEqual(entry.last_answer, "451 4.7.1 slow down")
        self.assertEqual(self.woken, 1)

    def test_mixed(self) -> None:
        """Accepted, temporary and refused together: 250; the temporary one is kept, the refused one a failure."""
        self.platform.verdicts = {"b@x": DOWN, "c@x": PermanentFailure(Reason.REFUSED, "no such person")}
        outcomes = self.deliver("a@x", "b@x", "c@x")
        self.assertEqual(self.verdict(outcomes), "250")
        self.assertEqual([each.spooled for each in outcomes], [False, True, False])
        entries = self.entries()
        self.assertEqual(set(entries), {"b@x", "c@x"})
        self.assertEqual((entries["c@x"].failed, entries["c@x"].reason), (True, "refused"))
        self.assertEqual([each.submission.to for each in self.given_up], ["c@x"])

    def test_platform_known_to_be_down(self) -> None:
        """While the breaker is open nobody waits for the platform."""
        self.down = True
        self.assertEqual(self.verdict(self.deliver("a@x")), "250")
        self.assertEqual(self.platform.submissions, [])
        self.assertEqual((self.entries()["a@x"].attempts, self.entries()["a@x"].delay), (0, 0.0))

    def test_slow_platform(self) -> None:
        """After four seconds the client gets its 250; the posting goes on, spooled as in flight, and is noted."""
        self.platform.held = []
        begun = self.begin("a@x")
        self.clock.advance(3.9)
        self.assertNoResult(begun)
        self.clock.advance(0.2)
        self.assertEqual(self.successResultOf(begun), (Outcome("a@x", spooled=True),))
        entry = self.entries()["a@x"]
        self.assertEqual(entry.attempts, 0)  # settling counts it
        self.assertAlmostEqual(entry.in_flight, 30 - 4.1 + 1)
        self.platform.release()
        self.assertEqual(self.spool.settled, [Delivered(1)])
        self.assertEqual(len(self.platform.submissions), 1)

    def test_waiting_for_several_things(self) -> None:
        """A platform's client may wait for one thing after the other, also for one that fails; it keeps its context."""
        things: list[Deferred[str]] = [Deferred(), Deferred(), Deferred()]
        seen: list[str] = []

        async def post(submission: Submission) -> None:
            span.set(submission.to)
            for thing in things:
                try:
                    seen.append(await thing)
                except ZeroDivisionError:
                    seen.append("failed")
            seen.append(span.get())

        span: ContextVar[str] = ContextVar("span")
        begun = self.begin("a@x", post=post)
        things[1].errback(ZeroDivisionError())
        things[0].callback("first")
        self.assertNoResult(begun)
        things[2].callback("last")
        self.assertEqual(self.successResultOf(begun), (Outcome("a@x"),))
        self.assertEqual(seen, ["first", "failed", "last", "a@x"])

    def test_slow_and_then_failed(self) -> None:
        """A posting that fails after the client was told is tried again, or is a failure."""
        for failure, settlement in [
            (DOWN, Retry(1, 15.0, "451 4.4.1 The platform is not reachable, try again later")),
            (PermanentFailure(Reason.REFUSED, "no"), Failed(1, "refused", "554 5.6.0 no")),
        ]:
            self.platform.held = []
            self.platform.verdicts = {"a@x": failure}
            begun = self.begin("a@x")
            self.clock.advance(4)
            self.successResultOf(begun)
            self.platform.release()
            self.assertEqual(self.spool.settled.pop(), settlement)

    def test_slow_and_then_refused(self) -> None:
        """A refusal that comes after the client got its 250 is told of, as any failure is, when it is noted."""
        self.platform.held = []
        self.platform.verdicts = {"a@x": PermanentFailure(Reason.REFUSED, "no")}
        begun = self.begin("a@x", "b@x")
        self.clock.advance(4)
        self.successResultOf(begun)
        self.assertEqual(self.given_up, [])
        self.platform.release()
        self.platform.release()
        (entry,) = self.given_up
        self.assertEqual((entry.submission.to, entry.reason, entry.last_answer), ("a@x", "refused", "554 5.6.0 no"))
        self.assertEqual(entry.attempts, 1)

    def test_hanging_platform(self) -> None:
        """What a platform that hangs makes the relay hold is bounded: then messages go straight to the spool."""
        self.platform.held = []
        begun = self.begin("a@x", "b@x", "c@x", "d@x")  # of three bytes each
        self.clock.advance(4)
        self.successResultOf(begun)
        another = [submission("e@x")]
        outcomes = self.successResultOf(Deferred.fromCoroutine(self.handover.deliver(ACCOUNT, another)))
        self.assertEqual((outcomes, len(self.platform.submissions)), ((Outcome("e@x", spooled=True),), 4))
        self.assertEqual(self.entries()["e@x"].in_flight, 0.0)
        self.platform.release()
        self.assertNoResult(Deferred.fromCoroutine(self.handover.deliver(ACCOUNT, another)))
        self.assertEqual(len(self.platform.submissions), 5)

    def test_hurried(self) -> None:
        """When the relay stops nobody waits any longer: what is under way is spooled as in flight, and 250."""
        self.platform.held = []
        begun = self.begin("a@x")
        self.clock.advance(1)
        self.handover.hurry()
        self.assertEqual(self.successResultOf(begun), (Outcome("a@x", spooled=True),))
        again = Deferred.fromCoroutine(self.handover.deliver(ACCOUNT, [submission("b@x")]))
        self.clock.advance(0)
        self.assertEqual(self.successResultOf(again), (Outcome("b@x", spooled=True),))

    def test_stopped(self) -> None:
        """The relay stops when the last posting of a client that has its 250 has ended, or its time is over."""
        for ends in (self.platform.release, lambda: self.clock.advance(30)):
            self.platform.held = []
            begun = self.begin("a@x")
            self.clock.advance(4)
            self.successResultOf(begun)
            stopped = Deferred.fromCoroutine(self.handover.stop(30))
            self.assertNoResult(stopped)
            ends()
            self.successResultOf(stopped)
        self.assertEqual(self.spool.settled, [Delivered(1)])

    def test_done_while_it_is_spooled(self) -> None:
        """A posting that ends while its recipient is being written is noted all the same."""
        self.platform.held, self.spool.held = [], Deferred()
        begun = self.begin("a@x")
        self.clock.advance(4)
        self.platform.release()
        self.assertNoResult(begun)
        self.spool.held.callback(None)
        self.successResultOf(begun)
        self.assertEqual(self.spool.settled, [Delivered(1)])

    def test_more_than_its_lanes(self) -> None:
        """Of many recipients those not begun in time are kept as new; none is posted twice."""
        self.platform.held = []
        begun = self.begin(*[f"r{place}@x" for place in range(15)])
        self.clock.advance(4)
        self.successResultOf(begun)
        flying = [entry for entry in self.entries().values() if entry.in_flight]
        waiting = [entry for entry in self.entries().values() if not entry.in_flight]
        self.assertEqual((len(flying), len(waiting)), (10, 5))
        self.assertEqual({entry.attempts for entry in waiting}, {0})
        while self.platform.held:
            self.platform.release()
        self.assertEqual(len(self.platform.submissions), 10)
        self.assertEqual(len(self.spool.settled), 10)

    def test_spool_full(self) -> None:
        """What cannot be kept is not promised: 452, although others were accepted, whom the ledger knows."""
        self.spool.broken = TemporaryFailure(Reason.SPOOL_FULL)
        self.platform.verdicts = {"b@x": DOWN, "c@x": PermanentFailure(Reason.REFUSED)}
        outcomes = self.deliver("a@x", "b@x", "c@x")
        self.assertEqual(self.verdict(outcomes), "452 4.3.1")
        self.assertEqual([each.failure is None for each in outcomes], [True, False, False])
        self.assertEqual(self.given_up, [])

    def test_outcome_cannot_be_noted(self) -> None:
        """An outcome that cannot be noted is logged: the row comes free at its deadline."""
        self.platform.held = []
        begun = self.begin("a@x")
        self.clock.advance(4)
        self.successResultOf(begun)
        self.spool.broken = TemporaryFailure(Reason.SPOOL_FAILED)
        self.platform.release()
        self.assertEqual(self.spool.settled, [])


class OtherModesTests(HandoverCase):
    """``"spool-first"`` and ``"direct"``."""

    def test_spool_first(self) -> None:
        """Everything is committed before the client is told, and posted then."""
        outcomes = self.deliver("a@x", "b@x", mode="spool-first")
        self.assertEqual(self.verdict(outcomes), "250")
        self.assertEqual([each.spooled for each in outcomes], [True, True])
        self.assertEqual(self.platform.submissions, [])
        self.assertEqual((set(self.entries()), self.woken), ({"a@x", "b@x"}, 1))

    def test_direct(self) -> None:
        """Nothing is spooled: temporary is 451, after as long as it takes."""
        self.platform.down = DOWN
        self.assertEqual(self.verdict(self.deliver("a@x", mode="direct")), "451 4.4.1")
        self.assertEqual(self.spool.messages, [])
