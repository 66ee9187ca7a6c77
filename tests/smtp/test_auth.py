"""Signing in: AUTH, X-Auth-APIKey, the memory of keys, the brake on guessing (SMTP.md, "Authentication")."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from twisted.cred.checkers import AllowAnonymousAccess
from twisted.cred.credentials import Anonymous
from twisted.cred.error import UnhandledCredentials
from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.mail.interfaces import IMessageDeliveryFactory
from twisted.trial.unittest import SynchronousTestCase

from relay.errors import Failure, PermanentFailure, Reason, TemporaryFailure
from relay.pipeline import Pipeline
from relay.policy import Auth, Limits, Session
from relay.smtp.auth import APIKey, Keys, Realm, make_portal
from relay.testing import KEY, Dialogue, FakePlatform, make_message
from relay.values import Account, key_digest
from tests.smtp.test_session import QUEUED, SessionCase

WRONG = "wrong-key-canary-9876543210"


def encoded(text: str) -> str:
    """*text* in base64."""
    return b64encode(text.encode()).decode()


def plain(key: str, user: str = "any body") -> str:
    """The AUTH PLAIN command for *key*."""
    return "AUTH PLAIN " + encoded(f"\0{user}\0{key}")


class AuthTests(SessionCase):
    """AUTH PLAIN and LOGIN."""

    def test_plain(self) -> None:
        """AUTH PLAIN takes the key as password, with the answer at once or after a prompt, mechanism in any case."""
        for user in ("", "apikey", "jürgen@müller.example"):
            dialogue = self.dialogue()
            dialogue.hello()
            self.assert_replies(dialogue, (plain(KEY, user), "235"))
            dialogue = self.another()
            dialogue.hello()
            self.assert_replies(dialogue, ("auth plain", "334 "), (encoded(f"{user}\0{user}\0{KEY}"), "235"))

    def test_login(self) -> None:
        """AUTH LOGIN asks with the prompts that clients know; the user name may come with the command."""
        dialogue = self.dialogue()
        dialogue.hello()
        self.assert_replies(
            dialogue,
            ("AUTH LOGIN", "334 VXNlcm5hbWU6"),
            (encoded("any body"), "334 UGFzc3dvcmQ6"),
            (encoded(KEY), "235"),
        )
        dialogue = self.another()
        dialogue.hello()
        self.assert_replies(dialogue, ("Auth Login " + encoded("x"), "334 UGFzc3dvcmQ6"), (encoded(KEY), "235"))

    def test_message_after_auth(self) -> None:
        """A message needs no key of its own after AUTH, and its submissions carry the key of AUTH."""
        dialogue = self.dialogue()
        dialogue.hello()
        dialogue.command(plain(KEY))
        for _ in range(2):
            dialogue.envelope()
            self.assertRegex(dialogue.message(make_message(key=None))[0], QUEUED)
        self.assertEqual([each.api_key for each in self.platform.submissions], [KEY] * 2)
        self.assertEqual(self.platform.pings, 1)

    def test_header_wins(self) -> None:
        """X-Auth-APIKey wins over AUTH where both are given."""
        self.platform.accounts["other-key"] = Account("other-key", "Other")
        dialogue = self.dialogue()
        dialogue.hello()
        dialogue.command(plain(KEY))
        dialogue.envelope()
        dialogue.message(make_message(key="other-key"))
        self.assertEqual(self.platform.submissions[0].api_key, "other-key")

    def test_refusals(self) -> None:
        """Every malformed exchange has the reply of SMTP.md's table, and the session lives."""
        for commands, reply in [
            (["AUTH"], "501 5.5.4"),
            (["AUTH "], "501 5.5.4"),
            (["AUTH CRAM-MD5"], "504 5.5.4"),
            (["AUTH XOAUTH2 abc"], "504 5.5.4"),
            (["AUTH PLAIN %%%"], "501 5.5.2"),
            (["AUTH PLAIN abc"], "501 5.5.2"),
            (["AUTH PLAIN ="], "501 5.5.2"),
            (["AUTH PLAIN", "*"], "501 5.7.0"),
            (["AUTH PLAIN", encoded("no nul")], "501 5.5.2"),
            (["AUTH PLAIN", encoded("\0a\0b\0c")], "501 5.5.2"),
            (["AUTH LOGIN", "*"], "501 5.7.0"),
            (["AUTH LOGIN", encoded("x"), "*"], "501 5.7.0"),
            (["AUTH LOGIN", encoded("x"), "%"], "501 5.5.2"),
            (["AUTH LOGIN", b"\xff\xfe"], "501 5.5.2"),
            ([plain(WRONG)], "535 5.7.8"),
            ([plain("")], "535 5.7.8"),
            (["AUTH PLAIN " + b64encode(b"\0x\0\xff\xfe").decode()], "535 5.7.8"),
        ]:
            dialogue = self.dialogue(auth=Auth(delay=0))
            dialogue.hello()
            for command in commands[:-1]:
                self.assert_replies(dialogue, (command, "334"))
            self.assert_replies(dialogue, (commands[-1], reply))
            self.assert_replies(dialogue, ("NOOP", "250"), (plain(KEY), "235"))

    def test_out_of_sequence(self) -> None:
        """AUTH before EHLO, after HELO, within a transaction or a second time is 503 5.5.1."""
        dialogue = self.dialogue()
        self.assert_replies(dialogue, (plain(KEY), "503 5.5.1"), ("HELO x", "250"), (plain(KEY), "503 5.5.1"))
        dialogue.hello()
        self.assert_replies(dialogue, ("MAIL FROM:<a@b>", "250"), (plain(KEY), "503 5.5.1"), ("RSET", "250"))
        self.assert_replies(dialogue, (plain(KEY), "235"), (plain(KEY), "503 5.5.1"))

    def test_long_key(self) -> None:
        """A line of AUTH may have 12,288 octets; one past that is 500 and the end."""
        key = "k" * 9000
        self.platform.accounts[key] = Account(key)
        dialogue = self.dialogue()
        dialogue.hello()
        self.assert_replies(dialogue, ("AUTH LOGIN", "334"), ("eA==", "334"), (encoded(key), "235"))
        dialogue = self.another()
        dialogue.hello()
        dialogue.command("AUTH PLAIN")
        answers: list[str] = []
        for _ in range(40):
            answers += dialogue.send("A" * 1000)
        self.assertEqual([each[:9] for each in answers], ["500 5.5.2"])
        self.assertTrue(dialogue.closed)

    def test_platform_unreachable(self) -> None:
        """A key that nobody can check is 454 4.7.0, and no failure of the client's."""
        self.platform.down = TemporaryFailure(Reason.UNREACHABLE)
        dialogue = self.dialogue()
        dialogue.hello()
        for _ in range(5):
            self.assert_replies(dialogue, (plain(KEY), "454 4.7.0"))

    def test_three_failures(self) -> None:
        """The third failure is 421 4.7.0, and the connection ends."""
        dialogue = self.dialogue(auth=Auth(delay=0))
        dialogue.hello()
        self.assert_replies(dialogue, (plain(WRONG), "535"), (plain(WRONG + "2"), "535"), (plain(WRONG), "421 4.7.0"))
        self.assertTrue(dialogue.closed)

    def test_three_failures_of_the_header(self) -> None:
        """A wrong X-Auth-APIKey is 554 5.7.8 and counts as a failure: the third is followed by 421."""
        dialogue = self.dialogue(auth=Auth(delay=0))
        answers = []
        for _ in range(3):
            dialogue.envelope()
            answers += dialogue.message(make_message(key=WRONG))
        self.assertEqual([each[:9] for each in answers], ["554 5.7.8"] * 3 + ["421 4.7.0"])
        self.assertEqual(self.platform.submissions, [])

    def test_no_key(self) -> None:
        """Neither AUTH nor X-Auth-APIKey is 530 5.7.0 after DATA."""
        dialogue = self.dialogue()
        dialogue.envelope()
        self.assertEqual(dialogue.message(make_message(key=None))[0][:9], "530 5.7.0")

    def test_header_auth_off(self) -> None:
        """``header_auth = false`` refuses MAIL without AUTH at once; with AUTH a message passes."""
        dialogue = self.dialogue(policy=Session(header_auth=False))
        dialogue.hello()
        self.assert_replies(dialogue, ("MAIL FROM:<a@b>", "530 5.7.0"), (plain(KEY), "235"), ("MAIL FROM:<a@b>", "250"))

    def test_nobody_in_a_portal_of_twisted(self) -> None:
        """A client that does not sign in logs in at an embedder's portal, and out when it leaves."""
        events: list[str] = []

        class Counted(Realm):
            """The relay's realm, which tells who comes and goes."""

            async def _avatar(self, avatarId: Any) -> Any:
                events.append("in")
                return *(await super()._avatar(avatarId))[:2], lambda: events.append("out")

        keys = Keys(self.platform.ping, Auth(), self.clock)
        realm = Counted(keys, Pipeline(account=keys.account, post=self.platform.send).accept)
        dialogue = self.dialogue(portal=Portal(realm, [AllowAnonymousAccess()]))
        for _ in range(2):
            dialogue.envelope()
            self.assertRegex(dialogue.message(make_message())[0], QUEUED)
        self.assertEqual(events, ["in"])
        dialogue.leave()
        self.assertEqual(events, ["in", "out"])

    def test_nobody_in_the_portal(self) -> None:
        """The relay's portal takes Twisted's anonymous login too, where a message may bring its key."""
        keys = Keys(self.platform.ping, Auth(), self.clock)
        accept = Pipeline(account=keys.account, post=self.platform.send).accept
        login = make_portal(keys, accept).login(Anonymous(), None, IMessageDeliveryFactory)
        self.assertIsNone(self.successResultOf(login)[1].account)
        login = make_portal(keys, accept, header_auth=False).login(Anonymous(), None, IMessageDeliveryFactory)
        self.failureResultOf(login, UnhandledCredentials)

    def test_bad_headers(self) -> None:
        """A repeated, folded, encoded or empty X-Auth-APIKey is refused, and its value is in no reply."""
        for header in (
            f"X-Auth-APIKey: {KEY}\r\nX-Auth-APIKey: {KEY}\r\n",
            f"X-Auth-APIKey:\r\n {KEY}\r\n",
            f"X-Auth-APIKey: {KEY[:5]}\r\n {KEY[5:]}\r\n",
            f"X-Auth-APIKey: =?utf-8?b?{encoded(KEY)}?=\r\n",
            "X-Auth-APIKey:\r\n",
            "X-Auth-APIKey:   \r\n",
        ):
            dialogue = self.dialogue()
            dialogue.envelope()
            (answer,) = dialogue.message(header + make_message(key=None))
            self.assertRegex(answer, "^5")
            self.assertNotIn(KEY[:5], answer)
        self.assertEqual(self.platform.submissions, [])

    def test_refused_while_posting(self) -> None:
        """A key that the platform refuses at the POST is 554 5.7.8 and leaves the memory."""
        self.platform.verdicts = {"a@x": PermanentFailure(Reason.KEY_REFUSED)}
        dialogue = self.dialogue()
        dialogue.envelope("a@x")
        self.assertEqual(dialogue.message(make_message())[0][:9], "554 5.7.8")
        dialogue.envelope("b@x")
        dialogue.message(make_message())
        self.assertEqual(self.platform.pings, 2)

    def test_no_key_in_any_log(self) -> None:
        """A key that fails, in any way, is in no log event beyond its first four characters."""
        events: list[str] = []

        def observe(event: dict[str, Any]) -> None:
            events.append(repr(event) + repr(getattr(event.get("log_failure"), "getTraceback", str)()))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        dialogue = self.dialogue(auth=Auth(delay=0))
        dialogue.hello()
        dialogue.command(plain(WRONG))
        dialogue.command("AUTH PLAIN " + encoded(f"\0{WRONG}"))
        self.platform.down = TemporaryFailure(Reason.UNREACHABLE)
        dialogue.command(plain(WRONG))
        self.platform.down = ZeroDivisionError("x")  # type: ignore[assignment]  # a defect of ours
        dialogue.command(plain(WRONG + "x"))
        dialogue.envelope()
        dialogue.message(make_message(key=WRONG + "y"))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)
        self.assertTrue(any("wron…" in event for event in events))
        for event in events:
            self.assertNotIn(WRONG, event)
            self.assertNotIn(encoded(WRONG), event)


class AuthOctetTests(AuthTests):
    """The same, one octet at a time."""

    one_octet_at_a_time = True


class CredentialsTests(SynchronousTestCase):
    """:class:`relay.smtp.auth.APIKey`."""

    def test_key_is_not_shown(self) -> None:
        """Credentials do not show the key."""
        self.assertNotIn(WRONG, repr(APIKey(b"user", WRONG.encode(), "192.0.2.1")))


class RequireTLSTests(SessionCase):
    """Who needs TLS."""

    def offers_auth(self, dialogue: Dialogue) -> bool:
        """Whether EHLO offers AUTH."""
        return any("AUTH" in line for line in dialogue.hello())

    def test_remote(self) -> None:
        """By default a remote peer needs TLS before AUTH and MAIL, and AUTH is not offered to it; loopback does not."""
        for address in ("192.0.2.1", "2001:db8::1", "10.0.0.1", "::ffff:192.0.2.1"):
            dialogue = self.dialogue(address=address)
            self.assertFalse(self.offers_auth(dialogue))
            self.assert_replies(dialogue, (plain(KEY), "538 5.7.11"), ("MAIL FROM:<a@b>", "530 5.7.0"))
        for address in ("127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"):
            dialogue = self.dialogue(address=address)
            self.assertTrue(self.offers_auth(dialogue))
            self.assert_replies(dialogue, (plain(KEY), "235"), ("MAIL FROM:<a@b>", "250"))

    def test_always(self) -> None:
        """``"always"`` is for loopback too."""
        dialogue = self.dialogue(policy=Session(require_tls="always"))
        self.assertFalse(self.offers_auth(dialogue))
        self.assert_replies(dialogue, (plain(KEY), "538 5.7.11"), ("MAIL FROM:<a@b>", "530 5.7.0"))

    def test_never(self) -> None:
        """``"never"`` is for nobody."""
        dialogue = self.dialogue(policy=Session(require_tls="never"), address="192.0.2.1")
        self.assertTrue(self.offers_auth(dialogue))
        self.assert_replies(dialogue, (plain(KEY), "235"), ("MAIL FROM:<a@b>", "250"))


class KeysTests(SynchronousTestCase):
    """:class:`relay.smtp.auth.Keys`."""

    def setUp(self) -> None:
        """A platform, a clock, and the defaults of SMTP.md."""
        self.clock = Clock()
        self.platform = FakePlatform()
        self.keys = Keys(self.platform.ping, Auth(), self.clock)

    def ask(self, key: str = KEY, peer: str = "192.0.2.1") -> Deferred[Account]:
        """Who is behind *key*?"""
        return Deferred.fromCoroutine(self.keys.account(key, peer))

    def account(self, key: str = KEY, peer: str = "192.0.2.1") -> Account:
        """Who is behind *key*, asked and answered."""
        return self.successResultOf(self.ask(key, peer))

    def refusal(self, key: str = WRONG, peer: str = "192.0.2.1") -> Failure:
        """Why *key* is refused, once the brake lets go."""
        asked = self.ask(key, peer)
        for _ in range(20):
            self.clock.advance(1)
        failure = self.failureResultOf(asked).value
        assert isinstance(failure, Failure)
        return failure

    def test_good_key_is_remembered(self) -> None:
        """A good key is asked for once a minute."""
        for seconds, pings in ((0, 1), (59, 1), (1, 2)):
            self.clock.advance(seconds)
            self.assertEqual(self.account().name, "Test Company")
            self.assertEqual(self.platform.pings, pings)

    def test_forgotten_by_digest(self) -> None:
        """A key that was reset at the platform is asked for again at once, by whoever knows its digest alone."""
        self.account()
        self.keys.forget_digest(key_digest(KEY))
        del self.platform.accounts[KEY]
        self.assertEqual(self.refusal(KEY).reason, Reason.BAD_KEY)

    def test_bad_key_is_remembered(self) -> None:
        """A bad key is not asked for again within five seconds."""
        self.keys = Keys(self.platform.ping, Auth(delay=0), self.clock)
        for seconds, pings in ((0, 1), (4, 1), (1, 2)):
            self.clock.advance(seconds)
            self.assertEqual(self.failureResultOf(self.ask(WRONG)).value.reason, Reason.BAD_KEY)
            self.assertEqual(self.platform.pings, pings)

    def test_platform_unreachable(self) -> None:
        """While the platform is unreachable a key that was good in the last hour passes, another one does not."""
        self.account()
        self.platform.down = TemporaryFailure(Reason.UNREACHABLE)
        self.clock.advance(3599)
        self.assertEqual(self.account().key, KEY)
        self.assertEqual(self.failureResultOf(self.ask("unknown")).value.reason, Reason.UNREACHABLE)
        self.clock.advance(10)
        self.assertEqual(self.failureResultOf(self.ask()).value.reason, Reason.UNREACHABLE)

    def test_unreachable_is_remembered(self) -> None:
        """An unreachable platform is not waited for by every client: for five seconds known keys pass at once."""
        self.account()
        self.platform.down = TemporaryFailure(Reason.UNREACHABLE)
        self.clock.advance(61)
        self.account()
        self.account()
        self.assertEqual(self.platform.pings, 2)
        self.clock.advance(5)
        self.account()
        self.assertEqual(self.platform.pings, 3)

    def test_key_revoked(self) -> None:
        """A key that the platform no longer accepts is refused after a minute, whatever it was before."""
        self.account()
        del self.platform.accounts[KEY]
        self.clock.advance(61)
        self.assertEqual(self.refusal(KEY).reason, Reason.BAD_KEY)
        self.platform.down = TemporaryFailure(Reason.UNREACHABLE)
        self.clock.advance(6)
        self.assertEqual(self.refusal(KEY).reason, Reason.UNREACHABLE)

    def test_asked_once_by_many(self) -> None:
        """Many sessions with one key ask the platform once, and share the answer."""
        answer: Deferred[Account] = Deferred()
        pings = []

        async def ping(key: str) -> Account:
            pings.append(key)
            return await answer

        self.keys = Keys(ping, Auth(), self.clock)
        waiting = [self.ask() for _ in range(50)]
        self.assertEqual(len(pings), 1)
        answer.callback(Account(KEY, "One"))
        self.assertEqual({self.successResultOf(each).name for each in waiting}, {"One"})

    def test_failure_shared_by_many(self) -> None:
        """A refusal is shared the same way."""
        answer: Deferred[Account] = Deferred()

        async def ping(key: str) -> Account:
            return await answer

        self.keys = Keys(ping, Auth(delay=0), self.clock)
        waiting = [self.ask() for _ in range(3)]
        answer.errback(PermanentFailure(Reason.BAD_KEY))
        self.assertEqual({self.failureResultOf(each).value.reason for each in waiting}, {Reason.BAD_KEY})

    def test_failing_address_is_slowed_down(self) -> None:
        """Each failure of an address doubles the wait before its next one, up to ten seconds, whichever the key."""
        waits = []
        for attempt in range(7):
            asked = self.ask(f"guess-{attempt}")
            waited = 0.0
            while not asked.called:
                self.clock.advance(0.5)
                waited += 0.5
            self.failureResultOf(asked)
            waits.append(waited)
        self.assertEqual(waits, [0, 1, 2, 4, 8, 10, 10])
        self.assertEqual(self.successResultOf(self.ask(peer="192.0.2.2")).key, KEY)

    def test_failing_key_is_slowed_down(self) -> None:
        """A key that fails is slowed down from whichever address it comes."""
        self.refusal(WRONG, "192.0.2.1")
        asked = self.ask(WRONG, "192.0.2.2")
        self.assertNoResult(asked)
        self.clock.advance(1)
        self.failureResultOf(asked)

    def test_parallel_connections_share_the_count(self) -> None:
        """Failures on parallel connections of one address add up."""
        answers = [self.ask(f"guess-{place}") for place in range(4)]
        self.clock.advance(1)
        for answer in answers:
            self.failureResultOf(answer)
        asked = self.ask("guess-5")
        self.clock.advance(7)
        self.assertNoResult(asked)
        self.clock.advance(1)
        self.failureResultOf(asked)

    def test_known_key_is_not_slowed_down(self) -> None:
        """A key that is known to be good passes at once, even from an address that fails (two programs on one host)."""
        self.account()
        for place in range(5):
            self.refusal(f"guess-{place}")
        self.assertEqual(self.account().key, KEY)

    def test_failures_are_forgotten(self) -> None:
        """After ten quiet minutes an address is like any other."""
        for place in range(5):
            self.refusal(f"guess-{place}")
        self.clock.advance(600)
        self.assertEqual(self.account().key, KEY)

    def test_memory_is_bounded(self) -> None:
        """However many keys come, only so many are remembered, and bad ones do not push out good ones."""
        self.keys = Keys(self.platform.ping, Auth(cache_size=10, delay=0), self.clock)
        self.account()
        for place in range(100):
            self.failureResultOf(self.ask(f"guess-{place}", f"192.0.2.{place}"))
        self.account()
        self.assertEqual(self.platform.pings, 101)
        self.assertLessEqual(len(self.keys._refused), 10)
        self.assertLessEqual(len(self.keys.penalties._failures), 10)

    def test_keys_are_not_kept(self) -> None:
        """Keys are remembered by their SHA-256, not as they are."""
        self.failureResultOf(self.ask(WRONG))
        self.assertNotIn(WRONG, repr(vars(self.keys)))


class LimitsTests(SessionCase):
    """How many failures a session has is configurable."""

    def test_auth_failures(self) -> None:
        """``limits.auth_failures = 1`` ends the session at the first."""
        dialogue = self.dialogue(limits=Limits(auth_failures=1))
        dialogue.hello()
        self.assert_replies(dialogue, (plain(WRONG), "421 4.7.0"))
