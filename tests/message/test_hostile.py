"""Messages made to hurt: each row of THREATS.md "MIME", and any message at all.

The sizes are such that anything quadratic would take minutes, and anything recursive would raise.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.errors import PermanentFailure, Reason
from relay.message import glance, parse, template
from relay.policy import Content
from relay.values import Message

HEAD = b"From: a@x.example\r\nSubject: s\r\n"
STRIP = Content(attachments="strip")


def calls(function: Callable[[], object]) -> int:
    """How many functions *function* calls, in Python and in C."""
    count = 0

    def profile(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(before)
    return count


class HostileTests(SynchronousTestCase):
    """:func:`relay.message.parse` with the inputs that the standard library cannot bear."""

    def refused(self, content: bytes) -> None:
        failure = self.assertRaises(PermanentFailure, parse, content, policy=STRIP)
        self.assertEqual(Reason.BAD_MESSAGE, failure.reason)

    def check_linear(self, message: Callable[[int], bytes], size: int) -> None:
        """Four times the input takes at most about four times the calls."""
        small, large = message(size), message(4 * size)
        self.assertLess(calls(lambda: parse(large, policy=STRIP)), 5 * calls(lambda: parse(small, policy=STRIP)))

    def test_nested_multiparts(self) -> None:
        """1000 nested multiparts are refused for their depth."""
        levels = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(1000))
        self.refused(HEAD + levels + b"\r\nx")

    def test_nested_messages(self) -> None:
        """1000 nested message/rfc822 are one attachment."""
        content = HEAD + b"Content-Type: message/rfc822\r\n\r\n" * 1000
        failure = self.assertRaises(PermanentFailure, parse, content)
        self.assertEqual(Reason.UNSUPPORTED_CONTENT, failure.reason)

    def test_many_parts(self) -> None:
        """100,000 parts are refused after the first 500: twice as many take no more work."""
        head = HEAD + b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
        self.refused(head + b"--b\r\n\r\nx\r\n" * 100_000)

        def work(parts: int) -> int:
            return calls(lambda: self.assertRaises(PermanentFailure, parse, head + b"--b\r\n\r\nx\r\n" * parts))

        self.assertAlmostEqual(work(1000), work(2000), delta=5)

    def test_semicolons(self) -> None:
        """A Content-Type with 20,000 semicolons is read in linear work."""
        self.check_linear(lambda n: HEAD + b"Content-Type: text/html" + b"; a" * n + b"\r\n\r\nx", 5_000)
        self.check_linear(lambda n: HEAD + b"Content-Type: text/html" + b"; a=b" * n + b"\r\n\r\nx", 5_000)
        self.check_linear(lambda n: HEAD + b"Content-Type: text/html" + b"; a*1=b" * n + b"\r\n\r\nx", 5_000)

    def test_addresses(self) -> None:
        """4000 addresses in To are read in linear work, 500 parentheses without recursion."""
        self.check_linear(lambda n: HEAD + b"To: " + b"N <n@x.example>,\r\n " * n + b"\r\n\r\nx", 1_000)
        self.assertEqual("s", parse(HEAD + b"To: " + b"(" * 500 + b"\r\n\r\nx").subject)
        self.assertEqual("s", parse(HEAD + b"To: " + b'"' * 100_001 + b"\r\n\r\nx").subject)

    def test_header_injection(self) -> None:
        """Encoded words that decode to line ends, or would in utf-7 or unicode_escape, leave none."""
        for word in (b"=?utf-8?q?a=0D=0ABcc=3A?=", b"=?utf-7?q?a+AA0ACg-?=", b"=?unicode_escape?q?a=5Cr=5Cn?="):
            lines = (b"From: %s <a@x>", b"To: %s <b@x>", b"Subject: %s", b"Reply-To: %s", b"X-Transactional-Tag: %s")
            message = parse(b"".join(line % word + b"\r\n" for line in lines) + b"\r\nx")
            text = "".join((message.from_name, message.subject, message.reply_to, message.tag, message.to_names[0][1]))
            self.assertTrue(text.isprintable(), text)

    def test_charsets(self) -> None:
        """A charset that is none, or a codec that is no charset, is no error."""
        for charset in (b"x-unknown", b"undefined", b"idna", b"rot13", b"utf-7", b'"', b"\xff"):
            content = HEAD + b"Content-Type: text/html; charset=" + charset + b"\r\n\r\n<p>\xc3\xbc</p>"
            self.assertEqual("<p>ü</p>", parse(content).body)

    def test_no_colon(self) -> None:
        """A header line without colon is refused, and the rest does not become the body."""
        self.refused(b"From: a@x\r\nno colon here\r\nSubject: s\r\n\r\nx")

    def test_false_boundaries(self) -> None:
        """Lines that begin with the boundary and go on are read over, up to a number of them."""
        head = HEAD + b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n"
        self.assertIn("--bx<br>", parse(head + b"--bx\r\n" * 1000).body)
        self.refused(head + b"--bx\r\n" * 100_000)

    def test_encoded_words(self) -> None:
        """Quarters of megabytes of words, whole or broken, are read in linear work."""
        self.check_linear(lambda n: HEAD + b"To: " + b"=?utf-8?q?a?= " * n + b"\r\n\r\nx", 2_000)
        for piece in (b"=?", b"=?a", b"=?a?q?", b"=?utf-8?q?a?=", b"=? ", b"?=", b"=?a?q?b\r\n "):
            parse(HEAD + b"X-Transactional-Tag: " + piece * (250_000 // len(piece)) + b"\r\n\r\nx")

    def test_folds(self) -> None:
        """A header of 60,000 folds is one header."""
        for name in (b"To", b"X-Transactional-Tag", b"Content-Type", b"Reply-To"):
            parse(HEAD + name + b": x" + b"\r\n x" * 60_000 + b"\r\n\r\nx")

    def test_large_bodies(self) -> None:
        """Megabytes of what could be mistaken for something are a body."""
        for encoding in (b"7bit", b"base64", b"quoted-printable"):
            for piece in (b"=", b"=\r\n", b"= ", b"= \t", b"QQ==", b"*", b"\xff", b"\0", b"<a b='", b"cid:", b"= cid"):
                head = HEAD + b"Content-Type: text/html\r\nContent-Transfer-Encoding: " + encoding + b"\r\n\r\n<p>"
                message = parse(b"X-Transactional-Template: t\r\n" + head + piece * (2_000_000 // len(piece)))
                self.assertEqual("t", message.template)

    def test_large_texts(self) -> None:
        """The same for text that becomes HTML."""
        for piece in (b"http://", b"{{", b"{%", b"https://{{x}}", b"  ", b"mailto:a.", b"https://x)", b"&"):
            content = HEAD + b"X-Transactional-Variables: {}\r\n\r\nx" + piece * (1_000_000 // len(piece))
            self.assertTrue(parse(content).body)


def field(name: str, value: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """A header line, perhaps twice or not at all."""
    return st.lists(value.map(lambda raw: name.encode() + b":" + raw + b"\r\n"), max_size=2).map(b"".join)


TOKENS = st.lists(
    st.sampled_from(
        [b" ", b"\r\n ", b"\r\n\t", b"a@x.example", b"<", b">", b",", b";", b":", b'"', b"(", b")", b"\\",
         b"=?utf-8?q?", b"?=", b"=?utf-8?b?w7w=?=", b"=C3=BC", "ü".encode(), b"\xff", b"\0", b"text/html",
         b"multipart/mixed",
         b"boundary=b", b"boundary=c", b"charset=utf-16", b"filename*0*=", b"utf-8''", b"attachment", b"base64",
         b"quoted-printable", b"{", b"}", b'{"a":', b"[", b"]", b"1e999", b"NaN", b"x" * 990]
    ),
    max_size=12,
).map(b"".join)  # fmt: skip
NAMES = ["From", "To", "Subject", "Reply-To", "X-Transactional-Tag", "X-Transactional-Template",
         "X-Transactional-Variables", "X-Auth-APIKey", "Content-Type", "Content-Disposition",
         "Content-Transfer-Encoding"]  # fmt: skip
HEADERS = st.tuples(*(field(name, TOKENS) for name in NAMES)).map(b"".join)
BODIES = st.lists(
    st.sampled_from([b"\r\n", b"\n", b"--b\r\n", b"--b--\r\n", b"--c\n", b"--c--", b"Content-Type: text/html\r\n",
                     b"Content-Type: multipart/alternative; boundary=c\r\n",
                     b"Content-Type: multipart/mixed; boundary=b\r\n",
                     b"Content-Disposition: attachment\r\n", b"<p>", b"QUJD", b"=C3", b"{{ a", b" }}", b"\xff\xfe",
                     b"Content-Type: image/png\r\n", b"\r\n\r\n"]),
    max_size=20,
).map(b"".join)  # fmt: skip
GOOD = st.just(b"From: a@x.example\r\nSubject: s\r\nContent-Type: multipart/mixed; boundary=b\r\n")
POLICIES = st.builds(Content, st.sampled_from(["convert", "reject"]), st.sampled_from(["reject", "strip", "forward"]))


class AnyMessageTests(SynchronousTestCase):
    """For any message the parser returns or refuses, and what is refused can be glanced at."""

    def check(self, content: bytes, policy: Content) -> None:
        try:
            message = parse(content, policy=policy)
            self.assertIsInstance(message, Message)
            template.check(message)
        except PermanentFailure as failure:
            self.assertTrue(failure.text)
            seen = glance(content)
            self.assertNotRegex(seen.from_email + seen.subject, "[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]")
            return
        for text in (message.from_name, message.from_email, message.subject, message.reply_to, message.tag):
            self.assertNotRegex(text, "[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]")
        message.body.encode()
        self.assertTrue(message.template or (message.body and message.subject and "@" in message.from_email))

    @settings(max_examples=200)
    @given(st.binary(max_size=500), POLICIES)
    def test_bytes(self, content: bytes, policy: Content) -> None:
        """Any bytes at all."""
        self.check(content, policy)

    @settings(max_examples=200)
    @given(HEADERS | GOOD, BODIES, POLICIES)
    def test_structured(self, header: bytes, body: bytes, policy: Content) -> None:
        """Anything made of the pieces that messages are made of."""
        self.check(header + b"\r\n" + body, policy)

    @settings(max_examples=100)
    @given(GOOD, BODIES, POLICIES)
    def test_parts(self, header: bytes, body: bytes, policy: Content) -> None:
        """Any body of a multipart."""
        self.check(header + b"\r\n--b\r\n" + body, policy)
