"""relay.replies: what a client is told, row by row of the tables in SMTP.md and HTTP_CONTRACT.md."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.errors import Failure, PermanentFailure, Reason, TemporaryFailure
from relay.replies import LONGEST_TEXT, Reply, accepted, one_line, reply, verdict
from relay.values import Outcome, Receipt

#: SMTP.md, "Replies for refusals", left column then right, and the rules of its other sections.
SMTP_TABLE = {
    Reason.UNKNOWN_COMMAND: "500 5.5.1",
    Reason.NOT_IMPLEMENTED: "502 5.5.1",
    Reason.SYNTAX: "501 5.5.2",
    Reason.ARGUMENTS: "501 5.5.4",
    Reason.UNKNOWN_PARAMETER: "555 5.5.4",
    Reason.BAD_SEQUENCE: "503 5.5.1",
    Reason.SENDER_SYNTAX: "501 5.1.7",
    Reason.RECIPIENT_SYNTAX: "501 5.1.3",
    Reason.NON_ASCII_ADDRESS: "553 5.6.7",
    Reason.BAD_MESSAGE: "554 5.6.0",
    Reason.BAD_VARIABLES: "554 5.6.0",
    Reason.RATE: "450 4.7.1",
    Reason.BAD_BASE64: "501 5.5.2",
    Reason.AUTH_CANCELLED: "501 5.7.0",
    Reason.UNKNOWN_MECHANISM: "504 5.5.4",
    Reason.BAD_KEY: "535 5.7.8",
    Reason.AUTH_UNAVAILABLE: "454 4.7.0",
    Reason.TOO_MANY_RECIPIENTS: "452 4.5.3",
    Reason.TOO_BIG: "552 5.3.4",
    Reason.UNSUPPORTED_CONTENT: "554 5.6.1",
    Reason.ROUTE: "550 5.7.1",
    Reason.IDLE: "421 4.4.2",
    Reason.SHUTDOWN: "421 4.3.2",
    Reason.ABUSE: "421 4.7.0",
    # "Framing": a bare newline or an 8-bit byte
    Reason.BARE_NEWLINE: "550 5.5.2",
    Reason.BAD_LINE: "500 5.5.2",
    # "Authentication": the TLS policy and no credentials at all
    Reason.TLS_REQUIRED: "530 5.7.0",
    Reason.TLS_REQUIRED_FOR_AUTH: "538 5.7.11",
    Reason.AUTH_REQUIRED: "530 5.7.0",
    # "Sizes and times": the memory budget
    Reason.MEMORY: "452 4.3.1",
    # MESSAGE.md, the last paragraph: a body that Jinja2 cannot read
    Reason.BAD_TEMPLATE: "554 5.6.0",
}

#: HTTP_CONTRACT.md, "What the relay makes of the answer".
PLATFORM_TABLE = {
    Reason.REFUSED: "554 5.6.0",
    Reason.KEY_REFUSED: "554 5.7.8",
    Reason.FORBIDDEN: "550 5.7.1",
    Reason.PLATFORM_TOO_BIG: "552 5.3.4",
    Reason.MISCONFIGURED: "451 4.3.5",
    Reason.BUSY: "451 4.7.1",
    Reason.UNREACHABLE: "451 4.4.1",
    Reason.UNKNOWN_OUTCOME: "451 4.4.2",
}

#: DESIGN.md, style: an unknown exception is a 451; THREATS.md, "Durability": disk full or broken.
OURS = {Reason.INTERNAL: "451 4.3.0", Reason.SPOOL_FULL: "452 4.3.1", Reason.SPOOL_FAILED: "451 4.3.0"}


def code_of(reason: Reason) -> str:
    """``"554 5.6.0"``: what a client sees of *reason* before the text."""
    answer = reply(Failure(reason))
    return f"{answer.code} {answer.enhanced}"


class TableTests(SynchronousTestCase):
    """Code and enhanced code of every reason."""

    def test_refusals_of_the_session(self) -> None:
        """Every row of SMTP.md's table is answered with the codes that stand there."""
        self.assertEqual({reason: code_of(reason) for reason in SMTP_TABLE}, SMTP_TABLE)

    def test_refusals_of_the_platform(self) -> None:
        """Every row of HTTP_CONTRACT.md's table is answered with the codes that stand there."""
        self.assertEqual({reason: code_of(reason) for reason in PLATFORM_TABLE}, PLATFORM_TABLE)

    def test_our_own_faults_are_temporary(self) -> None:
        """A fault of the relay's own asks the client to come back, it does not lose the message."""
        self.assertEqual({reason: code_of(reason) for reason in OURS}, OURS)

    def test_every_reason_has_a_row(self) -> None:
        """There is no reason whose reply the documents do not give."""
        self.assertEqual(set(Reason), {*SMTP_TABLE, *PLATFORM_TABLE, *OURS})

    def test_codes_agree(self) -> None:
        """The enhanced code is of the class of the code (RFC 3463 section 3.1)."""
        for reason in Reason:
            answer = reply(Failure(reason))
            self.assertRegex(answer.enhanced, r"\A[45]\.\d{1,3}\.\d{1,3}\Z")
            self.assertEqual(answer.enhanced[0], str(answer.code)[0], reason)

    def test_what_is_temporary(self) -> None:
        """Only what can succeed without a change of the client's is 4xx."""
        temporary = {reason for reason in Reason if reply(Failure(reason)).code < 500}
        self.assertEqual(
            temporary,
            {
                Reason.TOO_MANY_RECIPIENTS,
                Reason.MEMORY,
                Reason.RATE,
                Reason.IDLE,
                Reason.SHUTDOWN,
                Reason.ABUSE,
                Reason.AUTH_UNAVAILABLE,
                Reason.MISCONFIGURED,
                Reason.BUSY,
                Reason.UNREACHABLE,
                Reason.UNKNOWN_OUTCOME,
                *OURS,
            },
        )

    def test_standard_texts(self) -> None:
        """Each standard text is one short ASCII sentence without a full stop."""
        for reason in Reason:
            text = reply(Failure(reason)).text
            self.assertTrue(text.isascii() and text.isprintable(), text)
            self.assertLess(len(text), 100, text)
            self.assertFalse(text.endswith("."), text)

    def test_text_of_its_own(self) -> None:
        """A failure with a text is answered with that text under the codes of its reason."""
        failure = PermanentFailure(Reason.BAD_VARIABLES, "X-Transactional-Variables: line 1 column 7")
        self.assertEqual(reply(failure).line(), b"554 5.6.0 X-Transactional-Variables: line 1 column 7\r\n")

    def test_blank_text(self) -> None:
        """A text of nothing but control characters gives way to the standard one."""
        self.assertEqual(str(reply(PermanentFailure(Reason.REFUSED, "\r\n\0"))), "554 5.6.0 Refused by the platform")


class SuccessTests(SynchronousTestCase):
    """``250 Ok: queued as ID``."""

    def test_line(self) -> None:
        """The id is last on the line and no enhanced code stands before "Ok"."""
        self.assertEqual(accepted("0A1B2C").line(), b"250 Ok: queued as 0A1B2C\r\n")

    def test_symfony_reads_the_id(self) -> None:
        """The pattern by which Symfony's SmtpTransport finds the id matches."""
        match = re.search(r"250 Ok:? (?:queued as |id=)?(?P<id>[A-Z0-9._-]+)", str(accepted("0A1B2C")))
        assert match is not None
        self.assertEqual(match["id"], "0A1B2C")


class LineTests(SynchronousTestCase):
    """What a stranger's text becomes on an SMTP line."""

    @given(st.text())
    def test_one_line(self, text: str) -> None:
        """Any text becomes one printable line within the limit."""
        line = one_line(text)
        self.assertLessEqual(len(line), LONGEST_TEXT)
        self.assertEqual(len(line.splitlines()), 1 if line else 0)
        self.assertNotRegex(line, r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

    @given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=LONGEST_TEXT))
    def test_harmless_text(self, text: str) -> None:
        """Printable ASCII within the limit is passed on, but for its blanks at the ends."""
        self.assertEqual(one_line(text).strip(), text.strip())

    @given(st.text())
    def test_wire_form(self, text: str) -> None:
        """On the wire a reply is one ASCII line that ends in CR LF, whatever its text."""
        line = reply(PermanentFailure(Reason.REFUSED, text)).line()
        self.assertRegex(line, rb"\A554 5\.6\.0 [\x20-\x7e]+\r\n\Z")

    def test_injected_reply(self) -> None:
        """A description that holds a line break cannot add a reply of its own."""
        line = reply(PermanentFailure(Reason.REFUSED, "no\r\n250 Ok: queued as FAKE")).line()
        self.assertEqual(line.count(b"\r\n"), 1)
        self.assertTrue(line.startswith(b"554 5.6.0 no"))

    def test_long_text(self) -> None:
        """A description longer than the limit is cut there."""
        self.assertEqual(len(one_line("x" * 5000)), LONGEST_TEXT)

    def test_without_enhanced_code(self) -> None:
        """A reply without an enhanced code has none, and no double space."""
        self.assertEqual(Reply(220, "", "relay ESMTP").line(), b"220 relay ESMTP\r\n")


def receipt(*failures: Failure | None) -> Receipt:
    """A receipt with one recipient for each of *failures*; None is an accepted one."""
    return Receipt("ID", tuple(Outcome(f"{n}@example.org", each) for n, each in enumerate(failures)))


PERMANENT = PermanentFailure(Reason.REFUSED, "invalid to address")
OTHER = PermanentFailure(Reason.FORBIDDEN)
TEMPORARY = TemporaryFailure(Reason.UNREACHABLE)


class VerdictTests(SynchronousTestCase):
    """The one answer for a message with several recipients."""

    def test_all_accepted(self) -> None:
        """All accepted is a 250."""
        self.assertIsNone(verdict(receipt(None, None)))

    def test_some_accepted(self) -> None:
        """One accepted is enough for a 250: a 4xx or 5xx would send to it again."""
        self.assertIsNone(verdict(receipt(PERMANENT, None, TEMPORARY)))

    def test_none_accepted(self) -> None:
        """None accepted and none temporary: the first refusal is the answer."""
        self.assertIs(verdict(receipt(OTHER, PERMANENT)), OTHER)

    def test_any_temporary(self) -> None:
        """None accepted and one temporary: the client is asked to come back."""
        self.assertIs(verdict(receipt(PERMANENT, TEMPORARY, OTHER)), TEMPORARY)

    def test_not_spooled(self) -> None:
        """One that should have been spooled and was not: the client is asked to come back, whoever was accepted."""
        for reason in (Reason.SPOOL_FULL, Reason.SPOOL_FAILED):
            unspooled = TemporaryFailure(reason)
            self.assertIs(verdict(receipt(None, unspooled, PERMANENT)), unspooled)

    @given(st.lists(st.sampled_from([None, PERMANENT, OTHER, TEMPORARY]), min_size=1))
    def test_rule(self, failures: list[Failure | None]) -> None:
        """The verdict is a 250 exactly when someone was accepted, and 4xx exactly when nobody was and any may be."""
        decided = verdict(receipt(*failures))
        self.assertEqual(decided is None, None in failures)
        self.assertEqual(isinstance(decided, TemporaryFailure), None not in failures and TEMPORARY in failures)
