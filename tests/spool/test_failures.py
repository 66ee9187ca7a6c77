"""Who is told of a recipient that is given up."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, eventAsText
from twisted.trial.unittest import SynchronousTestCase

from relay import policy
from relay.errors import Reason, TemporaryFailure
from relay.spool.failures import LANES, LOOK, Webhook, log_failed, notice_body
from relay.spool.values import Entry, Failed, Spooled
from relay.testing import EPOCH, KEY, MemoryStore
from tests.spool.test_runner import submission


class LogTests(SynchronousTestCase):
    """The line of the log."""

    def log(self, account: str = "Shop", **changes: Any) -> dict[str, Any]:
        """The event of one failure."""
        with capturedLogs() as events:
            log_failed(
                evolve(submission("x@customer.example"), **changes), account,
                reason="refused", answer="554 5.6.0 no", attempts=3, age=61.4,
            )  # fmt: skip
        (event,) = events
        return dict(event)

    def test_fields(self) -> None:
        """It is an error with all that one needs to find the recipient and the reason."""
        event = self.log()
        self.assertEqual(event["log_level"].name, "error")
        wanted = {
            "id": "ID7", "recipient": "x@customer.example", "account": "Shop", "tag": "welcome", "reason": "refused",
            "attempts": 3, "age": 61.4, "answer": "554 5.6.0 no",
        }  # fmt: skip
        self.assertEqual({name: event[name] for name in wanted}, wanted)
        self.assertIn(
            "failed ID7 recipient=x@customer.example account='Shop' tag='welcome' reason=refused attempts=3 age=61"
            " answer='554 5.6.0 no'",
            eventAsText(event),
        )

    def test_one_line(self) -> None:
        """Whatever a platform or a client calls itself, it stays one line, and no key is in it."""
        event = self.log("Evil\r\nfailed ID8", to="a\nb@c.example")
        self.assertEqual(len(eventAsText(event).splitlines()), 1)
        self.assertNotIn(KEY, repr(event))

    def test_nameless(self) -> None:
        """An account that the platform does not name is shown by the beginning of its key."""
        self.assertEqual(self.log("")["account"], "test…")


class NoticeTests(SynchronousTestCase):
    """The JSON of the webhook."""

    def test_body(self) -> None:
        """It has the fields of the documentation, times in UTC, and neither content nor key."""
        body = notice_body(
            submission("x"), "Shop", reason="expired", answer="451 4.4.1 down", attempts=7,
            accepted_at=1_700_000_000.7, failed_at=1_700_086_400.0,
        )  # fmt: skip
        self.assertEqual(
            json.loads(body),
            {
                "id": "ID7", "account": "Shop", "recipient": "x", "tag": "welcome", "reason": "expired",
                "answer": "451 4.4.1 down", "attempts": 7, "accepted_at": "2023-11-14T22:13:20Z",
                "failed_at": "2023-11-15T22:13:20Z",
            },
        )  # fmt: skip
        self.assertNotIn(KEY.encode(), body)


class WebhookTests(SynchronousTestCase):
    """Failures that are POSTed."""

    def setUp(self) -> None:
        """A webhook that answers 204."""
        self.clock = Clock()
        self.policy = policy.Spool()
        self.store = MemoryStore(self.clock, self.policy, notices=True)
        self.posts: list[tuple[dict[str, Any], str]] = []
        self.answer: int | Exception = 204
        self.held: list[Deferred[None]] | None = None
        self.webhook = Webhook(self.store, self.post, self.policy, self.clock, random=lambda: 0.5)

    def tearDown(self) -> None:
        """A webhook that has stopped leaves nothing behind."""
        self.webhook.stop()
        for held in self.held or ():
            held.callback(None)
        self.clock.advance(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def post(self, body: bytes, key: str) -> int:
        """What the webhook answers."""
        self.posts.append((json.loads(body), key))
        if self.held is not None:
            turn: Deferred[None] = Deferred()
            self.held.append(turn)
            await turn
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def fail_rows(self, *recipients: str) -> None:
        """Spool a message and give it up."""
        entries = tuple(Entry(submission(to), attempts=2) for to in recipients)
        rows = self.result(self.store.put(Spooled("ID7", "a", "Shop", entries)))
        self.result(self.store.take(len(rows)))
        self.clock.advance(60)
        self.result(self.store.settle([Failed(row, "refused", "554 no") for row in rows]))
        self.webhook.wake()

    def result(self, awaitable: Any) -> Any:
        """What *awaitable* gives at once."""
        return self.successResultOf(Deferred.fromCoroutine(awaitable))

    @property
    def recipients(self) -> list[str]:
        """Of whom was told, in order."""
        return [body["recipient"] for body, _ in self.posts]

    def test_told(self) -> None:
        """A failure is POSTed at once, and a 2xx is the end of it."""
        self.webhook.start()
        self.fail_rows("x")
        ((body, _),) = self.posts
        self.assertEqual((body["recipient"], body["reason"], body["attempts"]), ("x", "refused", 3))
        self.assertEqual(body["accepted_at"], "2023-11-14T22:13:20Z")
        self.assertEqual(EPOCH, 1_700_000_000)
        self.clock.advance(LOOK)
        self.clock.advance(86_400)
        self.assertEqual(len(self.posts), 1)

    def test_refused(self) -> None:
        """Of a recipient that was refused when its message came, the webhook is told too."""
        self.webhook.start()
        entry = Entry(submission("x"), attempts=1, last_answer="550 no", failed=True, reason="forbidden")
        self.result(self.store.put(Spooled("ID7", "a", "Shop", (entry,))))
        self.webhook.wake()
        self.assertEqual([(body["reason"], body["answer"]) for body, _ in self.posts], [("forbidden", "550 no")])

    def test_tried_again(self) -> None:
        """Any other answer, or none, is tried again with growing delays, under the same Idempotency-Key."""
        self.webhook.start()
        answers: list[int | Exception] = [500, 404, 302, TemporaryFailure(Reason.UNREACHABLE), ValueError("broken")]
        moments: list[float] = []
        self.answer = answers[0]
        self.fail_rows("x")
        for number, answer in enumerate([*answers[1:], 200], 1):
            self.answer = answer
            while len(self.posts) == number:
                self.clock.advance(1)
            moments.append(self.clock.seconds())
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        delays = [after - before for before, after in pairwise([60.0, *moments])]
        for delay, least in zip(delays, (15, 30, 60, 120, 240), strict=True):
            self.assertTrue(least <= delay <= least + LOOK, delays)
        self.assertEqual(len({key for _, key in self.posts}), 1)
        self.clock.advance(86_400)
        self.assertEqual(len(self.posts), 6)

    def test_keys(self) -> None:
        """Each failure has its own Idempotency-Key, although two relays number theirs alike."""
        self.webhook.start()
        self.fail_rows("x", "y")
        first = self.posts
        self.tearDown()
        self.setUp()
        self.webhook.start()
        self.fail_rows("z", "z2")
        self.assertEqual(len({key for _, key in first + self.posts}), 4)

    def test_given_up(self) -> None:
        """A webhook that takes nothing for a day is not told any more; the log says so."""
        self.answer = 500
        self.webhook.start()
        self.fail_rows("x")
        with capturedLogs() as events:
            for _ in range(2 * 8640):
                self.clock.advance(10)
        posts = len(self.posts)
        self.assertIn("failures.webhook was not told of failure 2: HTTP status 500", eventAsText(events[-1]))
        self.answer = 200
        for _ in range(1000):
            self.clock.advance(10)
        self.assertEqual(len(self.posts), posts)

    def test_many(self) -> None:
        """Many failures are told side by side, a few at a time, until all are told."""
        self.held = []
        self.webhook.start()
        self.fail_rows(*(f"r{number}" for number in range(10)))
        self.assertEqual(len(self.posts), LANES)
        while self.held:
            self.held.pop().callback(None)
        self.assertEqual(sorted(self.recipients), sorted(f"r{number}" for number in range(10)))

    def test_store(self) -> None:
        """A store that fails is asked again, with a line in the log."""
        self.fail_rows("x", "y")
        self.store.down = TemporaryFailure(Reason.SPOOL_FAILED)
        with capturedLogs() as events:
            self.webhook.start()
        self.assertIn("cannot be read or written: spool-failed", eventAsText(events[0]))
        self.store.down = None
        self.clock.advance(LOOK)
        self.assertEqual(self.recipients, ["x", "y"])

    def test_stop(self) -> None:
        """A stop lets what is under way finish, as long as it may take."""
        self.held = []
        self.webhook.start()
        self.fail_rows("x")
        stopped = self.webhook.stop(30)
        self.assertNoResult(stopped)
        self.held.pop().callback(None)
        self.successResultOf(stopped)
        self.assertEqual(self.result(self.store.take_notices(10)), [])

    def test_stop_deadline(self) -> None:
        """A stop does not wait past its deadline; the failure is told after the next start."""
        self.held = []
        self.webhook.start()
        self.fail_rows("x")
        stopped = self.webhook.stop(30)
        self.clock.advance(30)
        self.successResultOf(stopped)
        self.clock.advance(31)
        self.assertEqual(len(self.result(self.store.take_notices(10))), 1)

    def test_never_started(self) -> None:
        """One that was not started stops at once."""
        self.successResultOf(self.webhook.stop(30))
