"""Several platforms: which is tried, which is not, and which gets a recipient again."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve
from OpenSSL.SSL import Error as SSLError
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectingCancelledError, ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.python.failure import Failure as TwistedFailure
from twisted.web.client import RequestTransmissionFailed, ResponseFailed, ResponseNeverReceived

from relay import policy
from relay.client.connecting import TLSFailure
from relay.client.exchange import no_answer
from relay.client.platforms import Platforms
from relay.errors import ConfigError, Failure, PermanentFailure, Reason, TemporaryFailure
from relay.spool.breaker import Breaker
from relay.testing import KEY, FakePlatform
from relay.values import Account, Submission
from tests.client.platformcase import SUBMISSION, PlatformCase, logged
from tests.client.rawserver import CLOSE, http_answer

A, B = "https://a.example", "https://b.example"
DOWN = TemporaryFailure(Reason.UNREACHABLE)


def lost() -> TemporaryFailure:
    """The answer was lost: the platform may have the message."""
    return TemporaryFailure(Reason.UNKNOWN_OUTCOME, sent=True)


class NamedPlatform(FakePlatform):
    """A platform in memory that has a URL, and answers a ping unless it is down."""

    def __init__(self, url: str) -> None:
        FakePlatform.__init__(self)
        self.url = url
        self.asked = 0
        self.answer: Deferred[bool] | None = None

    async def reachable(self) -> bool:
        """Whether it answers."""
        self.asked += 1
        return await self.answer if self.answer is not None else self.down is None

    @property
    def recipients(self) -> list[str]:
        """Who was posted to, in order."""
        return [each.to for each in self.submissions]


class PlatformsCase(PlatformCase):
    """Two platforms, each behind a breaker that opens at the second failure."""

    def setUp(self) -> None:
        """Both are up."""
        self.clock = Clock()
        self.a, self.b = NamedPlatform(A), NamedPlatform(B)
        self.platforms = self.make([self.a, self.b])

    def make(self, backends: Sequence[NamedPlatform], order: str = "in-order") -> Platforms:
        """Platforms on *backends*."""
        self.breakers = [Breaker(policy.Breaker(failures=2, probe=5), self.clock, name=each.url) for each in backends]
        return Platforms(backends, self.breakers, order)

    def post(self, to: str = "x", platform: str = "", key: str = "ABC123-1") -> Deferred[None]:
        """Post for one recipient."""
        submission = evolve(SUBMISSION, to=to, api_key=KEY, idempotency_key=key)
        return Deferred.fromCoroutine(self.platforms.send(submission, platform))

    def assert_posted(self, a: list[str], b: list[str]) -> None:
        self.assertEqual((self.a.recipients, self.b.recipients), (a, b))

    def open_both(self) -> None:
        """Both platforms go down, and count as down."""
        self.a.down = self.b.down = DOWN
        for _ in range(2):
            self.assert_failed(self.post("opening"), TemporaryFailure, Reason.UNREACHABLE)
        for platform in (self.a, self.b):
            platform.submissions.clear()


class OrderTests(PlatformsCase):
    """Which platform comes first."""

    def test_in_order(self) -> None:
        """The first platform gets everything while it works."""
        for to in ("x", "y", "z"):
            self.assert_sent(self.post(to))
        self.assert_posted(["x", "y", "z"], [])

    def test_round_robin(self) -> None:
        """Each platform gets its share."""
        self.platforms = self.make([self.a, self.b], "round-robin")
        for number in range(200):
            self.assert_sent(self.post("x", key=f"{number}"))
        self.assertTrue(70 < len(self.a.submissions) < 130, len(self.a.submissions))
        self.assertEqual(len(self.a.submissions) + len(self.b.submissions), 200)

    def test_round_robin_after_a_kill(self) -> None:
        """What a relay posted that was killed then is posted to the same platform again: it alone knows the key."""
        for _ in range(2):
            self.platforms = self.make([self.a, self.b], "round-robin")
            for number in range(20):
                self.assert_sent(self.post("x", key=f"{number}"))
            self.assert_sent(self.post("x", key="first"))  # an odd number of postings
        first, second = ({each.idempotency_key for each in platform.submissions} for platform in (self.a, self.b))
        self.assertEqual((first & second, len(first | second)), (set(), 21))

    def test_round_robin_goes_round(self) -> None:
        """The last platform's stand-in is the first."""
        self.platforms = self.make([self.a, self.b], "round-robin")
        self.b.down = DOWN
        for number in range(10):
            self.assert_sent(self.post(key=f"{number}"))
        self.assertEqual(len(self.a.submissions), 10)
        self.assertTrue(self.b.submissions)

    def test_configuration(self) -> None:
        """No platform, one platform twice, and an unknown order are mistakes of the configuration."""
        self.assertRaises(ConfigError, self.make, [])
        self.assertRaises(ConfigError, self.make, [self.a, NamedPlatform(A)])
        self.assertRaises(ConfigError, self.make, [self.a], "random")


class NextTests(PlatformsCase):
    """When the next platform is tried."""

    def test_surely_not_taken(self) -> None:
        """A platform that surely has not taken the message is stood in for."""
        for reason in (Reason.UNREACHABLE, Reason.MISCONFIGURED):
            self.setUp()
            self.a.down = TemporaryFailure(reason)
            self.assert_sent(self.post())
            self.assert_posted(["x"], ["x"])

    def test_perhaps_taken(self) -> None:
        """Where the platform may have the message no other gets it, and the failure names the one to come back to."""
        for reason in (Reason.UNKNOWN_OUTCOME, Reason.UNREACHABLE, Reason.MISCONFIGURED):
            self.setUp()
            self.a.down = TemporaryFailure(reason, sent=True)
            failure = self.assert_failed(self.post(), TemporaryFailure, reason)
            self.assertEqual(failure.platform, A)
            self.assert_posted(["x"], [])

    def test_defect(self) -> None:
        """An exception that nobody expected may have come after the message left: no other platform gets it."""

        async def broken(submission: Submission) -> None:
            raise ValueError("broken")

        self.a.send = broken
        failure = self.assert_failed(self.post(), TemporaryFailure, Reason.INTERNAL)
        self.assertEqual((failure.platform, self.b.recipients), (A, []))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_busy(self) -> None:
        """A platform that asks for patience gets it; the next one is no way around its limits."""
        self.a.down = TemporaryFailure(Reason.BUSY, retry_after=60)
        failure = self.assert_failed(self.post(), TemporaryFailure, Reason.BUSY)
        self.assertEqual((failure.retry_after, failure.platform), (60, ""))
        self.assert_posted(["x"], [])

    def test_refused(self) -> None:
        """What one platform refuses for good is refused."""
        self.a.down = PermanentFailure(Reason.REFUSED)
        self.assert_failed(self.post(), PermanentFailure, Reason.REFUSED)
        self.assert_posted(["x"], [])

    def test_all_fail(self) -> None:
        """When every platform fails, the last failure tells, and the recipient is bound to none."""
        self.a.down, self.b.down = TemporaryFailure(Reason.MISCONFIGURED), DOWN
        failure = self.assert_failed(self.post(), TemporaryFailure, Reason.UNREACHABLE)
        self.assertEqual(failure.platform, "")
        self.assert_posted(["x"], ["x"])

    def test_lost_at_the_second(self) -> None:
        """A recipient is bound to the platform that may have it, be it the second."""
        self.a.down, self.b.down = DOWN, lost()
        self.assertEqual(self.assert_failed(self.post(), TemporaryFailure, Reason.UNKNOWN_OUTCOME).platform, B)


class BoundTests(PlatformsCase):
    """A recipient that one platform may have."""

    def test_same_again(self) -> None:
        """It goes to that platform, and to no other when that fails in whatever way."""
        self.assert_sent(self.post(platform=B))
        self.b.down = DOWN
        self.assert_failed(self.post(platform=B), TemporaryFailure, Reason.UNREACHABLE)
        self.assert_posted([], ["x", "x"])

    def test_down(self) -> None:
        """While that platform counts as down nothing is posted, though another works."""
        self.breakers[0].failed(DOWN)
        self.breakers[0].failed(DOWN)
        self.assert_failed(self.post(platform=A), TemporaryFailure, Reason.UNREACHABLE)
        self.assert_posted([], [])
        self.clock.advance(5)
        self.assert_sent(self.post(platform=A))
        self.assertTrue(self.breakers[0].closed)

    def test_not_configured(self) -> None:
        """When the configuration names that platform no more, any other gets the recipient, and the log says so."""
        with capturedLogs() as events:
            self.assert_sent(self.post(platform="https://old.example"))
        self.assert_posted(["x"], [])
        self.assertIn("https://old.example, which is no backend any more", logged(events))


class BreakerTests(PlatformsCase):
    """A platform that counts as down."""

    def test_passed_over(self) -> None:
        """After its failures nobody waits for the first platform; everything goes to the second."""
        self.a.down = DOWN
        for to in ("w", "x", "y", "z"):
            self.assert_sent(self.post(to))
        self.assert_posted(["w", "x"], ["w", "x", "y", "z"])
        self.assertFalse(self.platforms.open)

    def test_asked_beside(self) -> None:
        """While another works, a platform that is down is asked something harmless first, and no message waits."""
        self.a.down = DOWN
        for to in ("w", "x"):
            self.post(to)
        self.a.answer = Deferred()
        self.clock.advance(5)
        self.assert_sent(self.post("y"))
        self.assert_sent(self.post("z"))
        self.assertEqual((self.a.asked, self.a.recipients), (1, ["w", "x"]))
        self.a.answer.callback(False)
        self.clock.advance(4)
        self.assert_sent(self.post("z"))
        self.assertEqual(self.a.asked, 1)

    def test_back(self) -> None:
        """A platform that answers again gets one message, and everything when it takes that."""
        self.a.down = DOWN
        for to in ("w", "x"):
            self.post(to)
        self.a.down = None
        self.clock.advance(5)
        for to in ("y", "p", "z"):
            self.assert_sent(self.post(to))
        self.assert_posted(["w", "x", "p", "z"], ["w", "x", "y"])
        self.assertTrue(self.breakers[0].closed)

    def test_answers_but_takes_nothing(self) -> None:
        """A platform that answers a ping and takes no mail gets one message at a time, and stays down."""
        self.a.down = DOWN
        for to in ("w", "x"):
            self.post(to)
        for _ in range(3):
            self.clock.advance(5)
            self.a.down = None
            self.assert_sent(self.post("y"))
            self.a.down = DOWN
            self.assert_sent(self.post("p"))
            self.assert_sent(self.post("z"))
        self.assertEqual(self.a.recipients, ["w", "x", "p", "p", "p"])

    def test_all_down(self) -> None:
        """When all are down postings fail at once, and one that is a probe tries each that is due."""
        self.open_both()
        self.assertTrue(self.platforms.open)
        self.assertEqual(self.platforms.wait(), 5)
        self.assert_failed(self.post("x"), TemporaryFailure, Reason.UNREACHABLE)
        self.assert_posted([], [])
        self.clock.advance(5)
        self.assertEqual(self.platforms.wait(), 0)
        self.b.down = None
        self.assert_sent(self.post("y"))
        self.assert_posted(["y"], ["y"])
        self.assertFalse(self.platforms.open)

    def test_last_hope(self) -> None:
        """A platform that has answered in time may be posted to at once when the last one that worked goes down."""
        self.a.down = DOWN
        for to in ("w", "x"):
            self.post(to)
        self.clock.advance(5)
        self.a.down = None
        self.post("y")
        self.breakers[1].failed(DOWN)
        self.breakers[1].failed(DOWN)
        self.assertEqual((self.platforms.open, self.platforms.wait()), (True, 0))
        self.assert_sent(self.post("z"))
        self.assertEqual(self.a.recipients, ["w", "x", "z"])

    def test_probe_cancelled(self) -> None:
        """A probe that is given up lets the next one come."""
        self.open_both()
        self.clock.advance(5)
        self.a.held = []
        given_up = self.post()
        given_up.cancel()
        self.failureResultOf(given_up)
        self.flushLoggedErrors()
        self.assertEqual((self.breakers[0].open, self.breakers[0].wait()), (True, 5))

    def test_question_breaks(self) -> None:
        """A question to a platform that breaks is a platform that does not answer."""
        self.a.down = DOWN
        for to in ("w", "x"):
            self.post(to)
        self.a.answer = Deferred()
        self.clock.advance(5)
        self.assert_sent(self.post("y"))
        self.a.answer.errback(ValueError("broken"))
        self.assertEqual(self.breakers[0].wait(), 5)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)


class PingTests(PlatformsCase):
    """Keys are checked by whichever platform answers."""

    def ping(self, key: str = KEY) -> Deferred[Account]:
        """Ask who is behind *key*."""
        return Deferred.fromCoroutine(self.platforms.ping(key))

    def test_next(self) -> None:
        """A platform that cannot say is stood in for."""
        self.a.down = TemporaryFailure(Reason.AUTH_UNAVAILABLE)
        self.assertEqual(self.successResultOf(self.ping()).key, KEY)
        self.b.down = self.a.down
        self.assert_failed(self.ping(), TemporaryFailure, Reason.AUTH_UNAVAILABLE)

    def test_refused(self) -> None:
        """A key that a platform refuses is refused."""
        self.assert_failed(self.ping("wrong"), PermanentFailure, Reason.BAD_KEY)
        self.assertEqual((self.a.pings, self.b.pings), (1, 0))

    def test_working_first(self) -> None:
        """A platform that is down is asked last; when all are down a client can still sign in if one answers."""
        self.breakers[0].failed(DOWN)
        self.breakers[0].failed(DOWN)
        self.successResultOf(self.ping())
        self.assertEqual((self.a.pings, self.b.pings), (0, 1))
        self.open_both()
        self.a.down = None
        self.successResultOf(self.ping())
        self.assertTrue(self.platforms.open)

    def test_reachable(self) -> None:
        """The platforms are reachable when one is."""

        def reachable() -> bool:
            return self.successResultOf(Deferred.fromCoroutine(self.platforms.reachable()))

        self.a.down = DOWN
        self.assertTrue(reachable())
        self.b.down = DOWN
        self.assertFalse(reachable())


class SentTests(PlatformCase):
    """Whether a failure of the real client says that the platform may have the message."""

    def assert_sent_is(self, sent: bool, asked: Deferred[None]) -> None:
        """*asked* fails, and says *sent*."""
        self.assertIs(self.failureResultOf(asked, Failure).value.sent, sent)

    def test_answers(self) -> None:
        """503, 429 and a wrong URL took nothing; behind any other 5xx, and a 200 of something else, it may be."""
        for status, sent in ((503, False), (429, False), (404, False), (302, False), (500, True), (502, True),
                             (504, True), (200, True)):  # fmt: skip
            self.start([http_answer(status, b"<p>")])
            self.assert_sent_is(sent, self.send())

    def test_lost(self) -> None:
        """An answer that is lost or cut, or late, may be to a message that was taken."""
        for steps in ([CLOSE], [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", CLOSE]):
            self.start(steps)
            self.assert_sent_is(True, self.send())
        self.start([], timeout=30.0)
        asked = self.send()
        self.clock.advance(30)
        self.assert_sent_is(True, asked)

    def test_not_connected(self) -> None:
        """A connection that is refused, or not made in time, has carried nothing."""
        self.start()
        self.platform.failure = ConnectionRefusedError()
        self.assert_sent_is(False, self.send())
        self.start(timeout=30.0)
        self.endpoints.waiting = Deferred(lambda waiting: waiting.errback(ConnectingCancelledError(None)))
        asked = self.send()
        self.clock.advance(30)
        self.assert_sent_is(False, asked)
        self.assertEqual(self.labels, ["timeout"])

    def test_tls(self) -> None:
        """TLS that fails after the request was written may have carried it; a handshake that fails has not."""
        broken = [TwistedFailure(SSLError([("SSL", "", "bad record mac")]))]
        for error in (ResponseNeverReceived(broken), ResponseFailed(broken), RequestTransmissionFailed(broken)):
            self.assertEqual((no_answer(error).sent, no_answer(error).label), (True, "tls"))
            self.assertIs(no_answer(error).failure().reason, Reason.UNREACHABLE)
        self.assertFalse(no_answer(TLSFailure()).sent)

    def test_handshake(self) -> None:
        """A TLS handshake that does not end in time has carried nothing."""
        self.start(url="https://platform.test", timeout=30.0)
        asked = self.send()
        self.clock.advance(30)
        self.assert_sent_is(False, asked)
        self.assertEqual(self.labels, ["timeout"])
