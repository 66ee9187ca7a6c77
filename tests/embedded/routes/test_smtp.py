"""Messages handed to a smarthost: what it says is kept, word for word, and decides what becomes of them."""

from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from relay.embedded.routes import values
from relay.embedded.routes.building import Built
from relay.embedded.routes.conversation import FINAL, IDLE, REPLY
from relay.embedded.routes.smtp import Post, context
from relay.embedded.routes.ways import NotTaken
from relay.errors import PermanentFailure, Reason, TemporaryFailure
from relay.operate.tls import make
from tests.embedded.routes.smarthost import CUT, SCRIPT, SILENT, Certificate, Smarthost

MESSAGE = Built("bounce@example.com", "jane@example.org", b"Subject: Hello\r\n\r\n.\r\n..two\r\ndot.\r\n")
BY = "mx.example.com:587"


class SmtpCase(SynchronousTestCase):
    """A smarthost, and the way to it."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.smarthost = Smarthost()
        self.post = self.way()

    def way(self, **changed: Any) -> Post:
        """The way to the smarthost."""
        settings = values.Smarthost("mx.example.com", **{"tls": "none", "helo": "relay.example.net", **changed})
        context = None if settings.tls == "none" else Certificate()
        return Post(settings, self.smarthost, context, self.clock)

    def begin(self, message: Built = MESSAGE, post: Post | None = None) -> Deferred[tuple[str, str]]:
        """Hand *message* over, as far as that goes now."""
        sending = Deferred.fromCoroutine((post or self.post).send(message, "ID"))
        self.smarthost.flush()
        return sending

    def sent(self, message: Built = MESSAGE, post: Post | None = None) -> str:
        """What *message* was taken with."""
        text, by = self.successResultOf(self.begin(message, post))
        self.assertEqual(by, BY)
        return text

    def refusal(self, message: Built = MESSAGE, post: Post | None = None, **script: str) -> NotTaken:
        """How *message* was not taken."""
        self.smarthost.says({SPELLED.get(verb, verb): said for verb, said in script.items()})
        found = self.failureResultOf(self.begin(message, post), NotTaken).value
        assert isinstance(found, NotTaken)
        self.assertEqual(found.by, BY)
        return found

    def assert_temporary(self, found: NotTaken, text: str, reason: Reason = Reason.UNREACHABLE) -> None:
        """It may be tried again."""
        self.assertIsInstance(found.failure, TemporaryFailure)
        self.assertEqual((found.failure.reason, found.text), (reason, text))

    def assert_permanent(self, found: NotTaken, text: str) -> None:
        """It may not."""
        self.assertIsInstance(found.failure, PermanentFailure)
        self.assertEqual(found.text, text)


#: Verbs that are no Python names.
SPELLED = {"GREETING": "", "END": "."}


class SendTests(SmtpCase):
    """A message that is taken."""

    def test_taken(self) -> None:
        """The message arrives byte for byte, dots doubled on the wire, and the answer is the smarthost's."""
        self.assertEqual(self.sent(), "250 2.0.0 Ok: queued as 4711")
        self.assertEqual(
            self.smarthost.said,
            ["EHLO relay.example.net", f"MAIL FROM:<bounce@example.com> SIZE={len(MESSAGE.content)}",
             "RCPT TO:<jane@example.org>", "DATA", "."],
        )  # fmt: skip
        self.assertEqual(self.smarthost.messages, [b"Subject: Hello\r\n\r\n..\r\n...two\r\ndot.\r\n"])

    def test_null_sender(self) -> None:
        """An empty return path is the null sender."""
        self.sent(Built("", "jane@example.org", b"\r\n"))
        self.assertIn("MAIL FROM:<> SIZE=2", self.smarthost.said)

    def test_large(self) -> None:
        """A message of many chunks arrives whole."""
        self.sent(Built("", "jane@example.org", b".\r\n" * 200_000))
        self.assertEqual(self.smarthost.messages, [b"..\r\n" * 200_000])

    def test_multiline_answer(self) -> None:
        """An answer of several lines is kept with all of them."""
        self.smarthost.says({".": "250-first\r\n250-second\r\n250 third"})
        self.assertEqual(self.sent(), "250-first\n250-second\n250 third")

    def test_one_connection(self) -> None:
        """Messages one after another share a connection, until it rested for too long."""
        self.sent()
        self.sent()
        self.assertEqual(self.smarthost.connections, 1)
        self.clock.advance(IDLE + 0.1)
        self.smarthost.flush()
        self.assertEqual((self.smarthost.open, self.smarthost.said[-1]), (0, "QUIT"))
        self.sent()
        self.assertEqual(self.smarthost.connections, 2)

    def test_side_by_side(self) -> None:
        """A message that waits for its answer keeps no other one waiting."""
        self.smarthost.says({".": SILENT})
        waiting = self.begin()
        self.smarthost.says({".": "250 ok"})
        self.assertEqual(self.sent(), "250 ok")
        self.assertNoResult(waiting)
        self.assertEqual(self.smarthost.connections, 2)

    def test_stale_connection(self) -> None:
        """A connection that the smarthost ends between two messages costs no attempt."""
        for said in (CUT, "421 4.4.2 Bye"):
            self.sent()
            answers = iter([said, SCRIPT["MAIL"]])
            self.smarthost.says({"MAIL": lambda answers=answers: next(answers)})  # type: ignore[misc]
            self.sent()
            self.smarthost.says(SCRIPT)

    def test_closed(self) -> None:
        """Stopping says good-bye on every connection."""
        self.sent()
        self.successResultOf(Deferred.fromCoroutine(self.post.close()))
        self.smarthost.flush()
        self.assertEqual((self.smarthost.open, self.smarthost.said[-1]), (0, "QUIT"))

    def test_helo(self) -> None:
        """A smarthost of before ESMTP takes messages all the same."""
        self.smarthost.says({"EHLO": "502 What?"})
        self.sent()
        self.assertIn("MAIL FROM:<bounce@example.com>", self.smarthost.said)

    def test_smtputf8(self) -> None:
        """An address that is not ASCII is sent as such where that is offered, and refused where it is not."""
        message = Built("", "jané@example.org", b"\r\n", utf8=True)
        self.sent(message)
        self.assertIn("MAIL FROM:<> SIZE=2 SMTPUTF8 BODY=8BITMIME", self.smarthost.said)
        self.smarthost.says({"EHLO": "250 mx"})
        found = self.refusal(message, self.way())
        self.assert_permanent(found, "an address is not ASCII, and SMTPUTF8 is not offered")

    def test_too_big(self) -> None:
        """A message larger than the smarthost takes is not sent there in vain."""
        found = self.refusal(EHLO="250-mx\r\n250 SIZE 10")
        self.assert_permanent(found, f"the message has {len(MESSAGE.content)} bytes, and its SIZE is 10")
        self.assertEqual(self.smarthost.said[1:], ["QUIT"])

    def test_no_size_limit(self) -> None:
        """SIZE 0, or SIZE without a number, is no limit."""
        for offered in ("SIZE 0", "SIZE", "SIZE x"):
            self.smarthost.says({"EHLO": f"250-mx\r\n250 {offered}"})
            self.sent(post=self.way())


class RefusalTests(SmtpCase):
    """A message that is not taken."""

    def test_refused(self) -> None:
        """A 5xx to the sender, the recipient, DATA or the message is for good, in the smarthost's words."""
        for verb in ("MAIL", "RCPT", "DATA", "END"):
            self.smarthost.says(SCRIPT)
            found = self.refusal(**{verb: "550-5.1.1 No such user\r\n550 5.1.1 Really"})
            self.assert_permanent(found, "550-5.1.1 No such user\n550 5.1.1 Really")
            self.assertEqual(self.smarthost.open, 0)

    def test_deferred(self) -> None:
        """A 4xx is for now."""
        for verb in ("MAIL", "RCPT", "DATA", "END"):
            self.smarthost.says(SCRIPT)
            self.assert_temporary(
                self.refusal(**{verb: "450 4.2.0 Greylisted"}), "450 4.2.0 Greylisted", Reason.BUSY
            )  # fmt: skip

    def test_not_about_the_message(self) -> None:
        """A smarthost that wants nobody, or no sender without AUTH, refuses no message for good."""
        for verb, said in (
            ("GREETING", "554 5.7.1 Go away"),
            ("EHLO", "421 4.3.2 Stopping"),
            ("MAIL", "530 5.7.0 Authentication required"),
            ("RCPT", "421 4.3.2 Stopping"),
        ):
            self.smarthost.says({**SCRIPT, "HELO": "421 4.3.2 Stopping"})
            self.assert_temporary(self.refusal(post=self.way(), **{verb: said}), said)

    def test_cut_off(self) -> None:
        """A connection that is lost at any point is tried again, and behind the message there is a doubt."""
        for verb, after in (
            ("GREETING", "the connection"),
            ("EHLO", "EHLO"),
            ("MAIL", "MAIL FROM"),
            ("RCPT", "RCPT TO"),
            ("DATA", "DATA"),
            ("END", "the message (it may have been delivered)"),
        ):
            self.smarthost.says(SCRIPT)
            found = self.refusal(post=self.way(), **{verb: CUT})
            self.assert_temporary(found, f"the connection was lost after {after}: it was closed")

    def test_silent(self) -> None:
        """A smarthost that does not answer is left after a minute; after the message, ten."""
        for verb, after, seconds in (
            ("", "the connection", REPLY),
            ("EHLO", "EHLO", REPLY),
            ("RCPT", "RCPT TO", REPLY),
            (".", "the message", FINAL),
        ):
            self.smarthost.says({**SCRIPT, verb: SILENT})
            sending = self.begin(post=self.way())
            self.clock.advance(seconds - 1)
            self.assertNoResult(sending)
            self.clock.advance(1.1)
            found = self.failureResultOf(sending, NotTaken).value
            self.assertTrue(found.text.startswith(f"no answer to {after} within {seconds:.0f} s"), found.text)
            self.assertIsInstance(found.failure, TemporaryFailure)
            self.smarthost.flush()
            self.assertEqual(self.smarthost.open, 0)

    def test_slow_lines(self) -> None:
        """A reply that comes a line a minute without end is no reply."""
        self.smarthost.says({"RCPT": "250-\r\n" * 200 + "250 ok"})
        self.assertIn("not a reply of SMTP", self.refusal().text)

    def test_not_smtp(self) -> None:
        """What speaks no SMTP is found out, whatever it says."""
        for said in ("HTTP/1.1 400 Bad Request", "+OK POP3", "2", "", "999 x", "25O ok", "x" * 20_000):
            found = self.refusal(post=self.way(), GREETING=said)
            self.assertIn("not a reply of SMTP", found.text)
            self.assertLess(len(found.text), 5000)
            self.smarthost.says(SCRIPT)

    def test_unstorable(self) -> None:
        """What no database takes does not come from a smarthost either."""
        self.assertEqual(self.refusal(RCPT="550 a\0b").text, "550 a\ufffdb")

    def test_wrong_code(self) -> None:
        """A 250 to DATA is no invitation to send the message."""
        self.assert_temporary(self.refusal(DATA="250 ok"), "250 ok")
        self.assertEqual(self.smarthost.messages, [])

    def test_unreachable(self) -> None:
        """A connection that is refused says so."""
        self.smarthost.refuses = True
        self.assertIn("no connection: ", self.refusal().text)


class TLSTests(SmtpCase):
    """Nothing in clear text where TLS was configured."""

    OFFERING = {"EHLO": "250-mx\r\n250-starttls\r\n250 AUTH PLAIN"}

    def test_starttls(self) -> None:
        """TLS begins before anything is said, and EHLO is said again."""
        self.smarthost.says(self.OFFERING)
        self.sent(post=self.way(tls="starttls"))
        self.assertEqual([line.split()[0] for line in self.smarthost.said],
                         ["EHLO", "STARTTLS", "EHLO", "MAIL", "RCPT", "DATA", "."])  # fmt: skip

    def test_not_offered(self) -> None:
        """A smarthost without STARTTLS gets neither the message nor the password."""
        found = self.refusal(
            post=self.way(tls="starttls", user="me", password="secret"), EHLO="250-mx\r\n250 AUTH PLAIN"
        )
        self.assert_temporary(found, "STARTTLS is not offered, and the route requires it")
        self.assertEqual([line.split()[0] for line in self.smarthost.said], ["EHLO", "QUIT"])

    def test_named_starttls(self) -> None:
        """The name of a smarthost offers nothing."""
        self.refusal(post=self.way(tls="starttls"), EHLO="250-STARTTLS\r\n250 SIZE")

    def test_no_ehlo(self) -> None:
        """HELO is not good enough for TLS."""
        self.assert_temporary(self.refusal(post=self.way(tls="starttls"), EHLO="502 What?"), "502 What?")

    def test_refused(self) -> None:
        """STARTTLS that is offered and refused ends the attempt."""
        self.smarthost.says(self.OFFERING)
        found = self.refusal(post=self.way(tls="starttls"), STARTTLS="454 4.7.0 Not now")
        self.assert_temporary(found, "454 4.7.0 Not now")

    def test_injected_reply(self) -> None:
        """What comes in clear text behind the reply to STARTTLS is not taken for what comes in TLS."""
        self.smarthost.says(self.OFFERING)
        found = self.refusal(post=self.way(tls="starttls"), STARTTLS="220 Go\r\n250-mx\r\n250 AUTH PLAIN")
        self.assertIn("clear text", found.text)

    def test_bad_certificate(self) -> None:
        """A certificate that is not good gets nothing."""
        self.smarthost.says(self.OFFERING)
        self.smarthost.certificate.good = False
        found = self.refusal(post=self.way(tls="starttls"))
        self.assertTrue(found.text.startswith("the connection was lost after EHLO"), found.text)
        self.assertEqual(self.smarthost.messages, [])


@implementer(IStreamClientEndpoint)
@frozen
class Wrapped:
    """:func:`twisted.internet.endpoints.wrapClientTLS` without the global reactor."""

    smarthost: Smarthost
    context: Any

    def connect(self, protocolFactory: Factory) -> Deferred[Any]:
        return self.smarthost.connect(TLSMemoryBIOFactory(self.context, True, protocolFactory, self.smarthost.clock))


class RealTLSTests(SmtpCase):
    """TLS from the start, with real certificates: one for localhost."""

    def setUp(self) -> None:
        super().setUp()
        folder = Path(self.mktemp())
        folder.mkdir()
        self.smarthost.tls = make(str(folder), "localhost")
        self.pem = Path(self.smarthost.tls[0]).read_text()

    def way(self, **changed: Any) -> Post:
        """The way to the smarthost, its certificate verified."""
        settings = values.Smarthost(**{"host": "localhost", "port": 465, "tls": "tls", "helo": "x", **changed})
        return Post(settings, Wrapped(self.smarthost, context(settings)), context(settings), self.clock)

    def test_good(self) -> None:
        """A certificate of a known authority for the very host gets the message."""
        sending = self.begin(post=self.way(authorities=self.pem))
        self.assertEqual(self.successResultOf(sending), ("250 2.0.0 Ok: queued as 4711", "localhost:465"))

    def test_bad(self) -> None:
        """One of an unknown authority, or for another host, gets nothing."""
        for changed, words in (
            ({}, "TLS: certificate verify failed"),
            ({"authorities": self.pem, "host": "mx.example.com"}, "TLS: the certificate is for another name"),
        ):
            found = self.failureResultOf(self.begin(post=self.way(**changed)), NotTaken).value
            self.assertIn(words, found.text)
            self.assertIsInstance(found.failure, TemporaryFailure)
            self.assertEqual((self.smarthost.said, self.smarthost.messages), ([], []))


class AuthTests(SmtpCase):
    """Signing in."""

    def way(self, **changed: Any) -> Post:
        """With a user."""
        return super().way(**{"user": "me", "password": "canary-secret", **changed})

    def offers(self, mechanisms: str, **answers: str) -> None:
        """Offer mechanisms of AUTH, with TLS unless it is there."""
        self.smarthost.says({"EHLO": f"250-mx\r\n250-STARTTLS\r\n250 auth {mechanisms}", **answers})

    def test_plain(self) -> None:
        """In TLS the user and the password are sent as they are, once."""
        self.offers("cram-md5 login plain", AUTH="235 2.7.0 Welcome")
        self.sent(post=self.way(tls="starttls"))
        wanted = base64.b64encode(b"\0me\0canary-secret").decode()
        self.assertEqual([line for line in self.smarthost.said if "AUTH" in line], [f"AUTH PLAIN {wanted}"])

    def test_login(self) -> None:
        """A smarthost that knows LOGIN alone is asked twice."""
        user, password = (base64.b64encode(each).decode() for each in (b"me", b"canary-secret"))
        self.offers("LOGIN", AUTH="334 VXNlcm5hbWU6", **{user.upper(): "334 UGFzc3dvcmQ6", password.upper(): "235 ok"})
        self.sent()
        self.assertEqual(self.smarthost.said[1:4], ["AUTH LOGIN", user, password])

    def test_cram_md5(self) -> None:
        """In clear text the mechanism that hides the password is taken where it is offered."""
        digest = hmac.new(b"canary-secret", b"<1@mx>", hashlib.md5).hexdigest()
        answer = base64.b64encode(f"me {digest}".encode()).decode()
        self.offers("PLAIN CRAM-MD5", AUTH=f"334 {base64.b64encode(b'<1@mx>').decode()}", **{answer.upper(): "235 ok"})
        self.sent()
        self.assertEqual(self.smarthost.said[1:3], ["AUTH CRAM-MD5", answer])

    def test_declined(self) -> None:
        """A wrong password is tried once, fails no message for good, and is in no error."""
        self.offers("PLAIN")
        found = self.refusal(AUTH="535 5.7.8 Wrong")
        self.assert_temporary(found, "535 5.7.8 Wrong")
        self.assertEqual(len([line for line in self.smarthost.said if "AUTH" in line]), 1)

    def test_not_offered(self) -> None:
        """A smarthost that offers no AUTH that we know gets nothing."""
        self.offers("GSSAPI XOAUTH2")
        found = self.refusal()
        self.assert_temporary(found, "AUTH is needed with PLAIN, LOGIN or CRAM-MD5, and it offers GSSAPI, XOAUTH2")

    def test_endless_challenge(self) -> None:
        """A smarthost that asks for more than there is is left."""
        self.offers("LOGIN", AUTH="334 eA==")
        answers = [base64.b64encode(each).decode().upper() for each in (b"me", b"canary-secret")]
        self.smarthost.says(dict.fromkeys(answers, "334 eA=="))
        self.assertIn("more is asked", self.refusal().text)

    def test_heard(self) -> None:
        """Whoever listens hears every line but no password, not even encoded."""
        heard: list[str] = []
        self.offers("PLAIN LOGIN", AUTH="235 2.7.0 Welcome")
        conversing = Deferred.fromCoroutine(self.post.converse(lambda who, line: heard.append(f"{who} {line}")))
        self.smarthost.flush()
        self.successResultOf(conversing)
        self.assertEqual(
            heard,
            ["< 220 mx.example.com ESMTP", "> EHLO relay.example.net", "< 250-mx", "< 250-STARTTLS",
             "< 250 auth PLAIN LOGIN", "> AUTH LOGIN", "< 235 2.7.0 Welcome"],
        )  # fmt: skip
        self.assertNotIn("canary", "".join(heard))
