"""What a client sees of a session: commands, framing, pipelining, replies (SMTP.md; THREATS.md, "Framing")."""

from __future__ import annotations

import itertools
import random
import re
from contextvars import ContextVar
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.mail.interfaces import IMessageDelivery, IMessageSMTP
from twisted.mail.smtp import SMTPBadRcpt, SMTPServerError
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from relay.errors import PermanentFailure, Reason, TemporaryFailure
from relay.policy import Limits, Session
from relay.presence import Presence
from relay.testing import KEY, Dialogue, FakePlatform, make_factory, make_message
from relay.values import Envelope, Outcome, Receipt

#: Lines after which nothing more is answered, each tested by itself.
ENDS_A_SESSION = re.compile(rb"(?i)\x16\x03|(QUIT|BDAT|GET|POST|CONNECT|PUT|HEAD|OPTIONS|DELETE|PATCH|TRACE)( |\Z)")
QUEUED = r"^250 Ok: queued as [0-9A-Z]+$"


class SessionCase(SynchronousTestCase):
    """A session before a platform in memory."""

    one_octet_at_a_time = False

    def setUp(self) -> None:
        """Every test has its own relay."""
        self.clock = Clock()
        self.platform = FakePlatform()

    def dialogue(self, *, address: str = "127.0.0.1", **arguments: Any) -> Dialogue:
        """A new session."""
        self.factory = make_factory(self.platform, self.clock, **arguments)
        return self.another(address)

    def another(self, address: str = "127.0.0.1") -> Dialogue:
        """One more session of the same relay."""
        return Dialogue(self.factory, address=address, one_octet_at_a_time=self.one_octet_at_a_time)

    def assert_replies(self, dialogue: Dialogue, *pairs: tuple[str | bytes, str]) -> None:
        """Each command is answered by one line that starts as told."""
        for command, start in pairs:
            answer = dialogue.command(command)
            self.assertEqual(len(answer), 1, (command, answer))
            self.assertTrue(answer[0].startswith(start), (command, answer))

    def assert_usable(self, dialogue: Dialogue) -> None:
        """The session still takes a message."""
        dialogue.command("RSET")
        dialogue.envelope()
        self.assertRegex(dialogue.message(make_message())[-1], QUEUED)


class CommandTests(SessionCase):
    """Commands and the replies for them."""

    def test_greeting(self) -> None:
        """The relay greets with its host name."""
        self.assertEqual(self.dialogue(hostname="mx.example").greeting, ["220 mx.example ESMTP"])

    def test_extensions(self) -> None:
        """EHLO offers what SMTP.md lists, and nothing else."""
        self.assertEqual(
            self.dialogue(hostname="mx.example").hello(),
            ["250-mx.example", "250-PIPELINING", "250-SIZE 31457280", "250-8BITMIME", "250-SMTPUTF8",
             "250-AUTH PLAIN LOGIN", "250 AUTH=PLAIN LOGIN"],
        )  # fmt: skip

    def test_a_message(self) -> None:
        """A message is answered 250 with its id last, and is posted once for each recipient."""
        dialogue = self.dialogue()
        self.assertTrue(dialogue.envelope("a@x.example", "b@x.example")[0].startswith("354 "))
        (answer,) = dialogue.message(make_message(To="Jane <A@x.example>"))
        self.assertRegex(answer, QUEUED)
        posted = self.platform.submissions
        self.assertEqual([each.to for each in posted], ["a@x.example", "b@x.example"])
        self.assertEqual([each.returnpath for each in posted], ["bounce@shop.example"] * 2)
        self.assertEqual({each.request_id for each in posted}, {answer.split()[-1]})
        self.assertEqual(len({each.idempotency_key for each in posted}), 2)

    def test_recipient_twice(self) -> None:
        """A recipient that is given twice gets the message once."""
        dialogue = self.dialogue()
        dialogue.envelope("a@x.example", "b@x.example", "a@x.example")
        dialogue.message(make_message())
        self.assertEqual([each.to for each in self.platform.submissions], ["a@x.example", "b@x.example"])

    def test_many_messages(self) -> None:
        """A session takes one message after the other, each with an id of its own."""
        dialogue = self.dialogue()
        ids = set()
        for _ in range(5):
            dialogue.envelope()
            ids.add(dialogue.message(make_message())[0].split()[-1])
        self.assertEqual(len(ids), 5)

    def test_small_commands(self) -> None:
        """NOOP, RSET, VRFY, HELP and EXPN answer as RFC 5321 wants, before and after EHLO."""
        dialogue = self.dialogue()
        for _ in range(2):
            for command, start in [("NOOP", "250"), ("noop anything", "250"), ("RSET", "250"), ("VRFY a@b", "252"),
                                   ("HELP", "214"), ("EXPN list", "502 5.5.1")]:  # fmt: skip
                self.assert_replies(dialogue, (command, start))
            dialogue.hello()

    def test_refusals(self) -> None:
        """Each refusal of a command has the reply of SMTP.md's table."""
        dialogue = self.dialogue(limits=Limits(errors=100))
        self.assert_replies(
            dialogue,
            ("MAIL FROM:<a@b>", "503 5.5.1"),
            ("RCPT TO:<a@b>", "503 5.5.1"),
            ("DATA", "503 5.5.1"),
            ("AUTH PLAIN", "503 5.5.1"),
            ("EHLO", "501 5.5.4"),
            ("HELO ", "501 5.5.4"),
            ("FOO", "500 5.5.1"),
            ("", "500 5.5.1"),
            (" NOOP", "500 5.5.1"),
            ("__class__", "500 5.5.1"),
            ("NOOP\tx", "500 5.5.1"),
            ("VRFY", "501 5.5.4"),
            ("RSET x", "501 5.5.4"),
            ("QUIT now", "501 5.5.4"),
            ("STARTTLS", "502 5.5.1"),
        )
        dialogue.hello()
        self.assert_replies(
            dialogue,
            ("MAIL FROM:<a@b> SIZE=31457281", "552 5.3.4"),
            ("MAIL FROM:<a@b> SIZE=-1", "501 5.5.4"),
            ("MAIL FROM:<a@b> SIZE=" + "9" * 21, "501 5.5.4"),
            ("MAIL FROM:<a@b> FOO=1", "555 5.5.4"),
            ("MAIL FROM:a@b", "501 5.1.7"),
            ("MAIL FROM:<ü@b>", "553 5.6.7"),
            ("MAIL FROM:<a@b> SMTPUTF8", "250"),
            ("MAIL FROM:<a@b>", "503 5.5.1"),
            ("DATA", "503 5.5.1"),
            ("RCPT TO:<a>", "501 5.1.3"),
            ("RCPT TO:<a@b> NOTIFY=NEVER", "555 5.5.4"),
            ("RCPT TO:<ü@b>", "250"),
            ("DATA now", "501 5.5.4"),
            ("AUTH PLAIN", "503 5.5.1"),
            ("DATA", "354"),
        )

    def test_too_many_recipients(self) -> None:
        """The 1001st recipient is refused with 452 4.5.3, and the first 1000 stand."""
        dialogue = self.dialogue()
        dialogue.hello()
        dialogue.command("MAIL FROM:<a@b>")
        answers = dialogue.send("".join(f"RCPT TO:<r{place}@x.example>\r\n" for place in range(1020)))
        self.assertEqual([each[:3] for each in answers], ["250"] * 1000 + ["452"] * 20)
        self.assertTrue(answers[-1].startswith("452 4.5.3"))
        dialogue.command("DATA")
        self.assertRegex(dialogue.message(make_message())[0], QUEUED)
        self.assertEqual(len(self.platform.submissions), 1000)

    def test_ten_errors(self) -> None:
        """The tenth error of a session is its last: 421 4.7.0, and the connection ends."""
        dialogue = self.dialogue()
        for _ in range(9):
            self.assert_replies(dialogue, ("FOO", "500"))
        answers = dialogue.command("FOO")
        self.assertEqual([each[:9] for each in answers], ["500 5.5.1", "421 4.7.0"])
        self.assertTrue(dialogue.closed)

    def test_refused_mail_in_a_pipeline(self) -> None:
        """What a client pipelined behind a refused MAIL is refused with it, and does not end the session."""
        dialogue = self.dialogue(address="192.0.2.1")
        dialogue.hello()
        answers = dialogue.send("MAIL FROM:<a@b>\r\n" + "RCPT TO:<a@b>\r\n" * 50 + "DATA\r\n")
        self.assertEqual([each[:3] for each in answers], ["530"] + ["503"] * 51)
        self.assertFalse(dialogue.closed)

    def test_quit(self) -> None:
        """QUIT says 221 and closes; commands behind it do not run."""
        dialogue = self.dialogue()
        self.assertEqual(dialogue.send("QUIT\r\nNOOP\r\nMAIL FROM:<a@b>\r\n"), ["221 Bye"])
        self.assertTrue(dialogue.closed)

    def test_http(self) -> None:
        """A browser at an SMTP port is told 421 and runs nothing."""
        for line in ("POST / HTTP/1.1", "GET / HTTP/1.1", "CONNECT x:25 HTTP/1.1"):
            dialogue = self.dialogue()
            answers = dialogue.send(f"{line}\r\nHost: x\r\n\r\nEHLO x\r\n")
            self.assertEqual(answers, ["421 4.7.0 This is an SMTP server"])
            self.assertTrue(dialogue.closed)

    def test_bdat(self) -> None:
        """BDAT is refused and the connection ends, because its octets would look like commands."""
        dialogue = self.dialogue()
        dialogue.hello()
        answers = dialogue.send("BDAT 20 LAST\r\nMAIL FROM:<a@b>\r\n")
        self.assertEqual([each[:9] for each in answers], ["502 5.5.1"])
        self.assertTrue(dialogue.closed)

    def test_tls_at_once(self) -> None:
        """A client that begins with a TLS handshake is told at once that there is no implicit TLS."""
        dialogue = self.dialogue()
        (answer,) = dialogue.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        self.assertIn("STARTTLS", answer)
        self.assertTrue(dialogue.closed)

    def test_malformed_lines(self) -> None:
        """A bare CR or LF, NUL or 8-bit octet in a command is one 500 5.5.2; nothing runs, and the session lives."""
        for line in (
            b"NOOP\nNOOP",
            b"NOOP\rNOOP",
            b"NO\0OP",
            b"NOOP \xff",
            b"MAIL FROM:<\xff\xfe@b>",
            b"\xc3\xbc",
            b"AUTH \xff",
        ):
            dialogue = self.dialogue()
            self.assert_replies(dialogue, (line, "500 5.5.2"))
            self.assert_usable(dialogue)

    def test_endless_line(self) -> None:
        """A line without end is one 500 and the end of the session; what is kept of it is bounded."""
        dialogue = self.dialogue()
        answers: list[str] = []
        for _ in range(64):
            answers += dialogue.send(b"N" * 1024)
        self.assertEqual([each[:9] for each in answers], ["500 5.5.2"])
        self.assertTrue(dialogue.closed)
        self.assertLess(len(dialogue.session._buffer), 4096)

    def test_long_line(self) -> None:
        """A command may have 2048 octets; one more is 500 5.5.2 and the end of the session."""
        dialogue = self.dialogue()
        self.assert_replies(dialogue, ("NOOP " + "x" * 2041, "250"))
        self.assertEqual([each[:9] for each in dialogue.command("NOOP " + "x" * 2042)], ["500 5.5.2"])
        self.assertTrue(dialogue.closed)

    def test_message_refusals_do_not_count(self) -> None:
        """A session lives through any number of refused messages."""
        dialogue = self.dialogue()
        for _ in range(20):
            dialogue.envelope()
            self.assertTrue(
                dialogue.message(make_message(Subject="x", X_Transactional_Variables="[]"))[0].startswith("554 5.6.0")
            )
        self.assertFalse(dialogue.closed)

    def test_rset_forgets_the_envelope(self) -> None:
        """After RSET, and after another EHLO, there is no transaction."""
        dialogue = self.dialogue()
        for forget in ("RSET", "EHLO again"):
            dialogue.hello()
            dialogue.command("MAIL FROM:<a@b>")
            dialogue.command("RCPT TO:<a@b>")
            dialogue.command(forget)
            self.assert_replies(dialogue, ("RCPT TO:<a@b>", "503 5.5.1"), ("DATA", "503 5.5.1"))

    def test_rate(self) -> None:
        """A sender past its rate is told 450 4.7.1, and may send again later."""
        dialogue = self.dialogue(limits=Limits(messages_per_minute=2))
        dialogue.hello()
        for start in ("250", "250", "450 4.7.1"):
            self.assert_replies(dialogue, ("MAIL FROM:<a@b>", start))
            dialogue.command("RSET")
        self.clock.advance(30)
        self.assert_replies(dialogue, ("MAIL FROM:<a@b>", "250"))


class CommandOctetTests(CommandTests):
    """The same, one octet at a time."""

    one_octet_at_a_time = True


class FramingTests(SessionCase):
    """Where a message ends (THREATS.md, "Framing")."""

    def test_smuggling(self) -> None:
        """Only CR LF . CR LF ends a message: what looks like an end gives no reply, and the true end exactly one."""
        for end in (b"\n.\n", b"\n.\r\n", b"\r.\r\n", b"\r.\r", b"\r\n.\n", b"\r\n.\r", b"\r\n\0.\r\n", b"\r\n.\0\r\n",
                    b"\r\n. \r\n", b"\r\r\n.\r\r\n", b"\r\n.\r\r\n"):  # fmt: skip
            dialogue = self.dialogue()
            self.platform.submissions.clear()
            dialogue.envelope()
            content = make_message().encode() + b"body" + end + b"MAIL FROM:<smug@x>\r\n"
            self.assertEqual(dialogue.send(content), [], end)
            (answer,) = dialogue.send(b".\r\n")
            self.assertRegex(answer, QUEUED)
            self.assertEqual(len(self.platform.submissions), 1)
            self.assertIn("smug@x", self.platform.submissions[0].body)
            self.assert_replies(dialogue, ("RCPT TO:<a@b>", "503 5.5.1"))

    def test_dot_stuffing(self) -> None:
        """A line that begins with a dot arrives as it was meant."""
        dialogue = self.dialogue()
        dialogue.envelope()
        dialogue.message(make_message(".x\r\n..\r\n.\r\nend"))
        self.assertEqual(self.platform.submissions[0].body, ".x\r\n..\r\n.\r\nend\r\n")

    def test_bare_newline_normalized(self) -> None:
        """By default a file with LF line ends, as curl sends it, is a message like any other."""
        dialogue = self.dialogue()
        dialogue.envelope()
        (answer,) = dialogue.send(make_message("<p>\nx</p>").replace("\r\n", "\n").encode() + b"\r\n.\r\n")
        self.assertRegex(answer, QUEUED)
        self.assertEqual(self.platform.submissions[0].body.strip(), "<p>\r\nx</p>")

    def test_bare_newline_refused(self) -> None:
        """With ``bare_newline = "reject"`` it is refused with 550 5.5.2 at its end, and nothing is posted."""
        dialogue = self.dialogue(policy=Session(bare_newline="reject"))
        for bare in (b"\n", b"\r"):
            dialogue.envelope()
            (answer,) = dialogue.send(make_message().encode() + bare + b"x\r\n.\r\n")
            self.assertTrue(answer.startswith("550 5.5.2"))
        self.assertEqual(self.platform.submissions, [])
        self.assert_usable(dialogue)

    def test_nul(self) -> None:
        """NUL is dropped from the body."""
        dialogue = self.dialogue()
        dialogue.envelope()
        dialogue.message(make_message("<p>a\0b</p>"))
        self.assertEqual(self.platform.submissions[0].body, "<p>ab</p>\r\n")

    def test_too_big(self) -> None:
        """A message past the limit, whatever SIZE said, is 552 5.3.4 at its end; it is not kept."""
        dialogue = self.dialogue(limits=Limits(message_size=5000))
        dialogue.hello()
        dialogue.command("MAIL FROM:<a@b> SIZE=1")
        dialogue.command("RCPT TO:<a@b>")
        dialogue.command("DATA")
        for _ in range(20):
            self.assertEqual(dialogue.send(b"x" * 498 + b"\r\n"), [])
        self.assertEqual(self.factory.memory.held, 0)
        (answer,) = dialogue.send(b".\r\n")
        self.assertTrue(answer.startswith("552 5.3.4"))
        self.assert_usable(dialogue)

    def test_long_lines(self) -> None:
        """A line of any length is content (minified HTML)."""
        body = "<p>" + "x" * 40_000 + "</p>"
        dialogue = self.dialogue()
        dialogue.envelope()
        self.assertRegex(dialogue.message(make_message(body))[0], QUEUED)
        self.assertEqual(self.platform.submissions[0].body, body + "\r\n")

    def test_connection_lost_in_data(self) -> None:
        """A client that leaves within DATA sends nothing, and the memory is free again."""
        dialogue = self.dialogue()
        dialogue.envelope()
        dialogue.send(make_message())
        dialogue.leave()
        self.assertEqual(self.platform.submissions, [])
        self.assertEqual(self.factory.memory.held, 0)


class FramingOctetTests(FramingTests):
    """The same, one octet at a time."""

    one_octet_at_a_time = True


class PipeliningTests(SessionCase):
    """One command in flight, replies in order."""

    def test_random_delays(self) -> None:
        """A hundred messages in one write, before a platform that takes its time, are answered in order, one each."""
        chance = random.Random(1)
        self.platform.held = []
        dialogue = self.dialogue()
        dialogue.hello()
        pipeline = "".join(
            f"MAIL FROM:<a@b>\r\nRCPT TO:<r{place}@x.example>\r\nRSET\r\nMAIL FROM:<s{place}@b>\r\n"
            f"RCPT TO:<r{place}@x.example>\r\nDATA\r\n{make_message(str(place))}.\r\nNOOP\r\n"
            for place in range(100)
        )
        answers = dialogue.send(pipeline)
        while self.platform.held:
            self.assertEqual(len(self.platform.held), 1)
            for _ in range(chance.randrange(3)):
                self.assertEqual(dialogue.read(), [])
            self.platform.release()
            answers += dialogue.read()
        one = ["250", "250", "250", "250", "250", "354", "250", "250"]
        self.assertEqual([each[:3] for each in answers], one * 100)
        self.assertEqual(
            [each.to for each in self.platform.submissions], [f"r{place}@x.example" for place in range(100)]
        )
        ids = [each.split()[-1] for each in answers if "queued" in each]
        self.assertEqual(ids, [each.request_id for each in self.platform.submissions])

    def test_flood_behind_a_delivery(self) -> None:
        """What a client sends behind a command in flight is bounded: the socket is not read until there is room."""
        self.platform.held = []
        dialogue = self.dialogue()
        dialogue.envelope()
        dialogue.message(make_message())
        dialogue.send("NOOP\r\n" * 20_000)
        self.assertEqual(dialogue.transport.producerState, "paused")
        self.platform.release()
        self.assertEqual(dialogue.transport.producerState, "producing")
        answers = dialogue.read()
        self.assertRegex(answers[0], QUEUED)
        self.assertEqual(len(answers), 20_001)

    def test_left_before_the_verdict(self) -> None:
        """A client that leaves while its message is delivered does not undo the delivery."""
        self.platform.held = []
        dialogue = self.dialogue()
        dialogue.envelope("a@b.example", "c@d.example")
        dialogue.message(make_message())
        dialogue.leave()
        self.platform.release()
        self.platform.release()
        self.assertEqual(len(self.platform.submissions), 2)
        self.assertEqual(self.factory.memory.held, 0)

    def test_presence(self) -> None:
        """Who closes its connection before the verdict may have given up; with a QUIT behind the message it has not."""
        for behind, gone in (("", True), ("QUIT\r\n", False)):
            seen: list[Presence] = []
            verdict: Deferred[Receipt] = Deferred()

            async def accept(
                envelope: Envelope,
                content: bytes,
                presence: Presence,
                seen: list[Presence] = seen,
                verdict: Deferred[Receipt] = verdict,
            ) -> Receipt:
                seen.append(presence)
                return await verdict

            dialogue = self.dialogue(accept=accept)
            dialogue.envelope()
            dialogue.send(make_message() + ".\r\n" + behind)
            self.assertFalse(seen[0].gone)
            dialogue.session.readConnectionLost()
            self.assertEqual(seen[0].gone, gone)
            verdict.callback(Receipt("ID", (Outcome("bob@example.org"),)))
            # It may read it all the same.
            self.assertRegex(dialogue.read()[0], QUEUED)
            self.assertTrue(dialogue.closed)

    def test_rset_and_quit_behind_a_delivery(self) -> None:
        """RSET and QUIT sent while a message is delivered wait for its verdict."""
        self.platform.held = []
        dialogue = self.dialogue()
        dialogue.envelope()
        self.assertEqual(dialogue.send(make_message() + ".\r\nRSET\r\nQUIT\r\n"), [])
        self.platform.release()
        answers = dialogue.read()
        self.assertEqual([each[:3] for each in answers], ["250", "250", "221"])
        self.assertRegex(answers[0], QUEUED)


class VerdictTests(SessionCase):
    """What the client is told of a message."""

    def verdict(self, *recipients: str, **arguments: Any) -> str:
        """The answer to a message."""
        dialogue = self.dialogue(**arguments)
        dialogue.envelope(*recipients)
        (answer,) = dialogue.message(make_message())
        return answer

    def test_all_or_some_accepted(self) -> None:
        """One recipient that the platform took makes it 250: the client must not send to that one again."""
        self.platform.verdicts = {
            "temporary@x": TemporaryFailure(Reason.UNREACHABLE),
            "refused@x": PermanentFailure(Reason.REFUSED, "no such person"),
        }
        self.assertRegex(self.verdict("refused@x", "temporary@x", "good@x"), QUEUED)

    def test_none_accepted(self) -> None:
        """Nobody accepted: 4xx if any was temporary, else 5xx with the platform's words."""
        self.platform.verdicts = {
            "temporary@x": TemporaryFailure(Reason.UNREACHABLE),
            "refused@x": PermanentFailure(Reason.REFUSED, "no such person"),
        }
        self.assertEqual(self.verdict("refused@x", "temporary@x")[:9], "451 4.4.1")
        self.assertEqual(self.verdict("refused@x"), "554 5.6.0 no such person")

    def test_unknown_exception(self) -> None:
        """A defect of ours is 451 4.3.0 and logged: no traceback on the wire, no lost connection."""

        async def broken(envelope: object, content: bytes, presence: object) -> Receipt:
            raise ZeroDivisionError("secret")

        answer = self.verdict(accept=broken)
        self.assertEqual(answer[:9], "451 4.3.0")
        self.assertNotIn("secret", answer)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_unknown_exception_in_a_stage(self) -> None:
        """A defect of a replaced stage is 451 4.3.0, logged, and the session lives."""

        def broken(content: bytes) -> Any:
            raise KeyError("secret")

        dialogue = self.dialogue(pipeline={"parse": broken})
        dialogue.envelope()
        self.assertEqual(dialogue.message("x")[0][:9], "451 4.3.0")
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assert_replies(dialogue, ("NOOP", "250"))

    def test_failure_that_comes_later(self) -> None:
        """A failure that a stage waits for is the verdict, like one that it raises at once."""
        later: Deferred[Receipt] = Deferred()

        async def accept(envelope: object, content: bytes, presence: object) -> Receipt:
            await Deferred.fromCoroutine(self.platform.ping(KEY))
            return await later

        dialogue = self.dialogue(accept=accept)
        dialogue.envelope()
        self.assertEqual(dialogue.message("x"), [])
        later.errback(TemporaryFailure(Reason.BUSY))
        self.assertEqual(dialogue.read()[0][:9], "451 4.7.1")
        self.assert_replies(dialogue, ("NOOP", "250"))

    def test_context_of_a_message(self) -> None:
        """What an embedder notes in a context variable stays with the message, however many are under way."""
        noted: ContextVar[str] = ContextVar("noted", default="nothing")
        waiting: list[Deferred[None]] = []
        seen = []

        async def accept(envelope: Envelope, content: bytes, presence: object) -> Receipt:
            noted.set(envelope.sender)
            waiting.append(Deferred())
            await waiting[-1]
            seen.append((envelope.sender, noted.get()))
            return Receipt("ID", (Outcome("bob@example.org"),))

        for number in range(2):
            dialogue = self.another() if number else self.dialogue(accept=accept)
            dialogue.envelope(sender=f"s{number}@x")
            dialogue.message("x")
        for each in waiting:
            each.callback(None)
        self.assertEqual(seen, [("s0@x", "s0@x"), ("s1@x", "s1@x")])
        self.assertEqual(noted.get(), "nothing")

    def test_platforms_words_are_one_line(self) -> None:
        """Line ends and control characters in the platform's words cannot forge a reply."""
        self.platform.verdicts = {
            "a@x": PermanentFailure(Reason.REFUSED, "bad\r\n250 Ok: queued as FAKE\x1b[0m" + "x" * 500)
        }
        answer = self.verdict("a@x")
        self.assertTrue(answer.startswith("554 5.6.0 bad 250 Ok"))
        self.assertLessEqual(len(answer), 410)

    def test_ten_at_a_time(self) -> None:
        """Recipients are posted side by side, at most ten at a time."""
        self.platform.held = []
        dialogue = self.dialogue()
        dialogue.envelope(*[f"r{place}@x" for place in range(25)])
        dialogue.message(make_message())
        most = 0
        while self.platform.held:
            most = max(most, len(self.platform.held))
            self.platform.release(-1)
        self.assertEqual(most, 10)
        self.assertRegex(dialogue.read()[0], QUEUED)


@implementer(IMessageSMTP)
class LineMessage:
    """An embedder's message, which knows lines only."""

    def __init__(self, verdict: Any) -> None:
        self.lines: list[bytes] = []
        self.verdict = verdict
        self.lost = False

    def lineReceived(self, line: bytes) -> None:
        """One line."""
        self.lines.append(line)

    def eomReceived(self) -> Any:
        """The end."""
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict

    def connectionLost(self) -> None:
        """No end."""
        self.lost = True
        if isinstance(self.verdict, Exception):
            raise self.verdict


@implementer(IMessageDelivery)
class OwnDelivery:
    """An embedder's delivery, one message a recipient, as Twisted documents it."""

    def __init__(self, verdicts: list[Any]) -> None:
        self.messages = [LineMessage(verdict) for verdict in verdicts]
        self._made = iter(self.messages)

    def receivedHeader(self, helo: Any, origin: Any, recipients: Any) -> bytes:
        """The client's name and address, and for whom it is."""
        return b"Received: from %b by x for %b" % (b" ".join(helo), b", ".join(bytes(each.dest) for each in recipients))

    def validateFrom(self, helo: Any, origin: Any) -> Any:
        """Answers later."""
        later: Deferred[Any] = Deferred()
        later.callback(origin)
        return later

    def validateTo(self, user: Any) -> Any:
        """Refuses one of them."""
        if user.dest.local == b"nobody":
            raise SMTPBadRcpt(user)
        return lambda: next(self._made)


class OwnDeliveryTests(SessionCase):
    """An own IMessageDelivery works as with Twisted's server."""

    def talk(
        self, *verdicts: Any, recipients: tuple[str, ...] = ("a@x",), **arguments: Any
    ) -> tuple[OwnDelivery, list[str]]:
        """Send one message to an embedder's delivery."""
        dialogue = self.dialogue(**arguments)
        delivery = OwnDelivery(list(verdicts))
        dialogue.session._get_delivery = self._no_login
        dialogue.session.delivery = delivery
        dialogue.envelope(*recipients)
        return delivery, dialogue.message("Subject: x\r\n\r\n.dot\r\n")

    async def _no_login(self) -> None:
        """The delivery is there already."""

    def test_lines(self) -> None:
        """A message that knows lines gets the trace header and every line, dots undone; its words are the reply."""
        delivery, answer = self.talk(b"stored as 7")
        received = b"Received: from client.example 127.0.0.1 by x for a@x"
        self.assertEqual(delivery.messages[0].lines, [received, b"Subject: x", b"", b".dot"])
        self.assertEqual(answer, ["250 stored as 7"])

    def test_own_failures(self) -> None:
        """Its SMTPServerError is the reply as it is; any other exception is 451."""
        self.assertEqual(self.talk(SMTPServerError(450, b"later"))[1], ["450 later"])
        self.assertEqual(self.talk(ValueError("x"))[1][0][:9], "451 4.3.0")
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_one_answer_for_several_messages(self) -> None:
        """With one message a recipient there is still one answer."""
        self.assertEqual(self.talk(b"one", b"two", recipients=("a@x", "b@x"))[1], ["250 one"])

    def test_refused_content(self) -> None:
        """A message that is too big for the session has no end for the embedder either."""
        delivery, answer = self.talk(b"stored", limits=Limits(message_size=10))
        self.assertEqual(answer[0][:9], "552 5.3.4")
        self.assertTrue(delivery.messages[0].lost)

    def test_raises_when_dropped(self) -> None:
        """A message that raises when it is dropped is logged, and the connection is no longer counted."""
        dialogue = self.dialogue()
        dialogue.session._get_delivery = self._no_login
        delivery = dialogue.session.delivery = OwnDelivery([ValueError("x"), None])
        dialogue.envelope("a@x", "b@x")
        dialogue.leave()
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertTrue(all(each.lost for each in delivery.messages))
        self.assertEqual(self.factory.connections.total, 0)

    def test_message_that_cannot_be_made(self) -> None:
        """When one of several messages cannot be made DATA is 451, and those that were made are dropped."""
        dialogue = self.dialogue()
        dialogue.session._get_delivery = self._no_login
        delivery = dialogue.session.delivery = OwnDelivery([None])
        self.assertEqual(dialogue.envelope("a@x", "b@x")[0][:9], "451 4.3.0")
        self.assertEqual(len(self.flushLoggedErrors(StopIteration)), 1)
        self.assertTrue(delivery.messages[0].lost)
        self.assert_replies(dialogue, ("NOOP", "250"))

    def test_logout_that_raises(self) -> None:
        """An embedder's logout that raises is logged, and the connection is no longer counted."""

        def logout() -> None:
            raise ValueError("x")

        dialogue = self.dialogue()
        dialogue.session._onLogout = logout
        dialogue.leave()
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual(self.factory.connections.total, 0)

    def test_refused_recipient(self) -> None:
        """A recipient that the delivery refuses is answered with its code."""
        dialogue = self.dialogue()
        dialogue.session._get_delivery = self._no_login
        dialogue.session.delivery = OwnDelivery([None])
        dialogue.hello()
        dialogue.command("MAIL FROM:<a@b>")
        self.assert_replies(dialogue, ("RCPT TO:<nobody@x>", "550"), ("RCPT TO:<a@x>", "250"))


class AnyBytesTests(SessionCase):
    """Whatever arrives, the session answers."""

    @settings(max_examples=200, deadline=None)
    @given(st.data())
    def test_commands_in_any_segments(self, data: st.DataObject) -> None:
        """Any octets in any segments: every complete command is answered once, in order, and nothing is raised."""
        noise = st.binary(max_size=12).filter(lambda line: b"\r\n" not in line and not ENDS_A_SESSION.match(line))
        known = st.sampled_from([b"EHLO x", b"MAIL FROM:<a@b>", b"RCPT TO:<a@b>", b"RSET", b"NOOP", b"HELP", b"VRFY x",
                                 b"AUTH", b"AUTH FOO", b"STARTTLS", b"DATA x"])  # fmt: skip
        lines = data.draw(st.lists(st.one_of(known, noise.map(lambda octets: octets.rstrip(b"\r"))), max_size=12))
        stream = b"".join(line + b"\r\n" for line in lines)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
        self.platform = FakePlatform()
        dialogue = self.dialogue(limits=Limits(errors=1000))
        answers: list[str] = []
        for first, last in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            answers += dialogue.send(stream[first:last])
        whole = [answer for answer in answers if answer[3:4] == " "]
        self.assertEqual(len(whole), len(lines), (lines, answers))
        self.assertEqual(whole, self._one_by_one(lines))
        self.assertEqual(self.flushLoggedErrors(), [])

    def _one_by_one(self, lines: list[bytes]) -> list[str]:
        """What the same commands are answered when each waits for the answer before it."""
        dialogue = self.dialogue(limits=Limits(errors=1000))
        return [dialogue.command(line)[-1] for line in lines]

    @settings(max_examples=100, deadline=None)
    @given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=5))
    def test_any_content_in_any_segments(self, content: bytes, cuts: list[int]) -> None:
        """Any octets as a message have one verdict, and leave the session usable."""
        dialogue = self.dialogue()
        dialogue.envelope()
        stream = b"X-Any: " + content.replace(b"\r\n.", b"\r\n..") + b"\r\n.\r\n"
        edges = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
        answers: list[str] = []
        for first, last in itertools.pairwise(edges):
            answers += dialogue.send(stream[first:last])
        self.assertEqual(len(answers), 1)
        self.assertRegex(answers[0], r"^(250|4\d\d|5\d\d) ")
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assert_usable(dialogue)


class ReceiptTests(SessionCase):
    """The seam between the session and what takes the message."""

    def test_replaced_pipeline(self) -> None:
        """An embedder's own ``accept`` gets the envelope and the content, and its receipt is the answer."""
        taken = []

        async def accept(envelope: Any, content: bytes, presence: object) -> Receipt:
            taken.append((envelope.sender, envelope.recipients, envelope.peer, content))
            return Receipt("MYID7", (Outcome("a@x"),))

        dialogue = self.dialogue(accept=accept)
        dialogue.envelope("a@x", sender="")
        self.assertEqual(dialogue.message("any octets"), ["250 Ok: queued as MYID7"])
        self.assertEqual(taken, [("", ("a@x",), "127.0.0.1", b"any octets\r\n")])

    def test_key_of_the_message(self) -> None:
        """The key that a message brings is the one that its submissions carry."""
        dialogue = self.dialogue()
        dialogue.envelope()
        dialogue.message(make_message())
        self.assertEqual(self.platform.submissions[0].api_key, KEY)
