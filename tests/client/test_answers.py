"""Each row of HTTP_CONTRACT.md, "What the relay makes of the answer", and Retry-After."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.client.answers import Answer, End, NoAnswer, failure, retry_after
from relay.errors import Failure, PermanentFailure, Reason, TemporaryFailure

OK = b'{"tag":"t","to":"a@x","result":"ok"}'
ERROR = b'{"title":"Bad","description":"no such tag"}'
KEY = "canary-5d41402abc4b2a76"


def verdict(answer: Answer) -> Failure | None:
    return failure(answer, key=KEY, retry_after_maximum=3600.0, now=1e9)


class TableTests(SynchronousTestCase):
    """Status to failure."""

    def assert_verdict(self, answer: Answer, kind: type[Failure], reason: Reason, text: str = "") -> Failure:
        found = verdict(answer)
        assert found is not None
        self.assertIs(type(found), kind, answer)
        self.assertEqual((found.reason, found.text), (reason, text), answer)
        return found

    def test_accepted(self) -> None:
        """A 2xx with complete, valid JSON is an acceptance, whichever 2xx it is."""
        for status in (200, 201, 202, 299):
            self.assertIsNone(verdict(Answer(status, OK)))

    def test_refused(self) -> None:
        """400 and 422 are for good, and the sender reads the platform's description."""
        for status in (400, 422):
            self.assert_verdict(Answer(status, ERROR), PermanentFailure, Reason.REFUSED, "no such tag")

    def test_bad_key(self) -> None:
        """401 is for good, and says nothing but that."""
        self.assert_verdict(Answer(401, ERROR), PermanentFailure, Reason.KEY_REFUSED)

    def test_forbidden(self) -> None:
        """403 is for good, and the sender reads what is forbidden."""
        self.assert_verdict(Answer(403, ERROR), PermanentFailure, Reason.FORBIDDEN, "no such tag")

    def test_too_big(self) -> None:
        """413 is for good."""
        self.assert_verdict(Answer(413, ERROR), PermanentFailure, Reason.PLATFORM_TOO_BIG)

    def test_not_the_client_s_fault(self) -> None:
        """404, 405, any other 4xx, any 3xx and a status that is none are the configuration's fault."""
        for status in (404, 405, 402, 406, 407, 409, 410, 418, 431, 451, 499, 300, 301, 303, 304, 307, 308, 600, 0):
            self.assert_verdict(Answer(status, ERROR), TemporaryFailure, Reason.MISCONFIGURED)

    def test_busy(self) -> None:
        """408, 425 and 429 are temporary, and carry the wait that was asked for."""
        for status in (408, 425, 429):
            found = self.assert_verdict(Answer(status, headers=[(b"Retry-After", b"7")]), TemporaryFailure, Reason.BUSY)
            self.assertEqual(found.retry_after, 7.0)

    def test_unreachable(self) -> None:
        """Every 5xx is temporary, and a Retry-After is kept too."""
        for status in (500, 501, 502, 503, 504, 599):
            found = self.assert_verdict(
                Answer(status, ERROR, headers=[(b"retry-after", b"9")]), TemporaryFailure, Reason.UNREACHABLE
            )
            self.assertEqual(found.retry_after, 9.0)

    def test_cut_success(self) -> None:
        """A 2xx that is cut, or too long to read, is an unknown outcome, even if what is there is JSON."""
        for end in (End.CUT, End.TOO_LONG):
            self.assert_verdict(Answer(200, OK, end), TemporaryFailure, Reason.UNKNOWN_OUTCOME)

    def test_success_without_length(self) -> None:
        """A 2xx that the end of the connection ended counts when it is a JSON object or list, whole by its nature."""
        self.assertIsNone(verdict(Answer(200, OK + b"\r\n", End.OPEN)))
        self.assertIsNone(verdict(Answer(200, b"[]", End.OPEN)))

    def test_every_part_of_a_success_without_length(self) -> None:
        """Wherever such an answer is cut, the outcome is unknown."""
        for size in range(len(OK)):
            answer = Answer(200, OK[:size], End.OPEN)
            self.assert_verdict(answer, TemporaryFailure, Reason.UNKNOWN_OUTCOME)
            self.assertEqual(answer.label, "truncated")

    def test_number_without_length(self) -> None:
        """A number may be the start of a longer one: not known to be whole."""
        self.assert_verdict(Answer(200, b"12", End.OPEN), TemporaryFailure, Reason.UNKNOWN_OUTCOME)

    def test_success_without_json(self) -> None:
        """A login page with 200, an empty 204: not the platform's API, for the operator to look at."""
        for body in (b"<html>Please sign in</html>", b"", b"ok", OK[:-1], b"\x1f\x8b\x08\x00"):
            self.assert_verdict(Answer(200, body), TemporaryFailure, Reason.MISCONFIGURED)

    def test_cut_error(self) -> None:
        """The status of an error counts, whatever happened to its body."""
        for end in (End.CUT, End.OPEN, End.TOO_LONG):
            self.assert_verdict(Answer(400, ERROR[:9], end), PermanentFailure, Reason.REFUSED)
            self.assert_verdict(Answer(500, b"", end), TemporaryFailure, Reason.UNREACHABLE)

    def test_key_in_description(self) -> None:
        """A platform that repeats the key in its description does not make the relay show it."""
        body = json.dumps({"description": f"no account {KEY}, {KEY}"}).encode()
        self.assert_verdict(Answer(400, body), PermanentFailure, Reason.REFUSED, "no account cana…, cana…")

    def test_no_answer(self) -> None:
        """Nothing sent, or a deadline: unreachable; sent and lost: an unknown outcome."""
        for label, sent, reason in (
            ("refused", False, Reason.UNREACHABLE),
            ("dns", False, Reason.UNREACHABLE),
            ("tls", False, Reason.UNREACHABLE),
            ("timeout", False, Reason.UNREACHABLE),
            ("timeout", True, Reason.UNREACHABLE),
            ("lost", True, Reason.UNKNOWN_OUTCOME),
            ("truncated", True, Reason.UNKNOWN_OUTCOME),
            ("error", True, Reason.UNKNOWN_OUTCOME),
        ):
            self.assertIs(NoAnswer(label, sent=sent).failure().reason, reason, label)

    def test_label(self) -> None:
        """The metrics see a bounded set of labels, whatever the platform invents."""
        for answer, label in (
            (Answer(200, OK), "200"),
            (Answer(200, OK, End.CUT), "truncated"),
            (Answer(401, b"", End.CUT), "401"),
            (Answer(123456789), "error"),
            (Answer(-5), "error"),
        ):
            self.assertEqual(answer.label, label)


def busy(retry_after: bytes, date: bytes) -> Answer:
    """A 429 that says when."""
    return Answer(429, headers=[(b"Retry-After", retry_after), (b"Date", date)])


class RetryAfterTests(SynchronousTestCase):
    """RFC 9110 section 10.2.3, clamped."""

    def assert_wait(self, given: str, seconds: float | None, date: str = "") -> None:
        answer = busy(given.encode("latin-1"), date.encode())
        self.assertEqual(retry_after(answer, 3600.0, now=1_000_000_000.0), seconds, given)

    def test_seconds(self) -> None:
        """A number of seconds is taken as it is."""
        self.assert_wait("120", 120.0)
        self.assert_wait(" 1.5 ", 1.5)

    def test_clamped(self) -> None:
        """Negative, nought and endless ones become one second and the longest allowed."""
        for wait, seconds in (("-5", 1.0), ("0", 1.0), ("1000000000", 3600.0), ("9" * 9000, 3600.0)):
            self.assert_wait(wait, seconds)

    def test_date(self) -> None:
        """A date is a wait from the answer's own Date, or from now where there is none."""
        self.assert_wait("Sun, 09 Sep 2001 01:47:40 GMT", 60.0)
        self.assert_wait("Wed, 21 Oct 2015 07:30:00 GMT", 90.0, date="Wed, 21 Oct 2015 07:28:30 GMT")

    def test_date_clamped(self) -> None:
        """A date in the past or far away is clamped as well."""
        self.assert_wait("Sun, 09 Sep 1999 01:47:40 GMT", 1.0)
        self.assert_wait("Sun, 09 Sep 2099 01:47:40 GMT", 3600.0)

    def test_nonsense(self) -> None:
        """What is neither is as if it were not there."""
        for nonsense in ("", "soon", "1e9", "nan", "inf", "12 s", "99 Foo 2001 99:99:99 GMT", "\xb2"):
            self.assert_wait(nonsense, None)

    @settings(max_examples=100)
    @given(st.binary(max_size=60))
    def test_any_text(self, given: bytes) -> None:
        """Any bytes give a wait within the bounds or none, and never raises."""
        found = retry_after(busy(given, given), 60.0, now=0.0)
        self.assertTrue(found is None or 1.0 <= found <= 60.0)
