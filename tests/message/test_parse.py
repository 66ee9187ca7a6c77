"""A message as a whole: what counts of it, and why it may be refused."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relay.errors import PermanentFailure, Reason
from relay.message import parse
from relay.policy import Content, Limits
from relay.values import Attachment, Message

CONTENT = Content()
LIMITS = Limits()
SIMPLE = (
    b"Received: by mx.example; Mon, 1 Jan 2024 00:00:00 +0000\r\n"
    b'From: "Shop, the" <orders@shop.example>\r\n'
    b"To: Jane Doe <jane@customer.example>\r\n"
    b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n"
    b"Reply-To: Support <support@shop.example>\r\n"
    b"X-Transactional-Tag: Welcome\r\n"
    b"X-Transactional-Route: fast\r\n"
    b'X-Transactional-Variables: {"name": "Jane"}\r\n'
    b"X-Auth-APIKey: secret-key\r\n"
    b"Content-Type: text/html; charset=utf-8\r\n"
    b"\r\n"
    b"<p>Hello {{ name }}</p>\r\n"
)
TEXT = b"From: a@x.example\r\nSubject: s\r\n\r\nHello <b>\r\nhttps://x.example/{{ n }}\r\n"
MIXED = (
    b"From: a@x.example\r\nSubject: s\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
    b"--b\r\nContent-Type: text/html\r\n\r\n<img src=\"cid:1\"><img src='cid:2'><a href=CID:3>\r\n"
    b"--b\r\nContent-Type: image/png\r\n\r\nPNG\r\n"
    b'--b\r\nContent-Type: application/pdf; name="=?utf-8?q?=C3=BC?=.pdf"\r\nContent-Transfer-Encoding: base64\r\n\r\n'
    b"UERG\r\n--b\r\nContent-Type: application/x-unnamed\r\n\r\nx\r\n--b--\r\n"
)


class ParseTests(SynchronousTestCase):
    """:func:`relay.message.parse`: what counts."""

    def test_simple(self) -> None:
        """Every header that counts ends up in its field, and the body is as it came."""
        expected = Message(
            from_name="Shop, the",
            from_email="orders@shop.example",
            to_names=(("jane@customer.example", "Jane Doe"),),
            subject="Grüße",
            reply_to="Support <support@shop.example>",
            tag="Welcome",
            route="fast",
            variables={"name": "Jane"},
            api_key="secret-key",
            body="<p>Hello {{ name }}</p>\r\n",
        )
        self.assertEqual(expected, parse(SIMPLE))

    def test_least(self) -> None:
        """From, Subject and a body are enough."""
        message = parse(b"From: a@x.example\r\nSubject: s\r\nContent-Type: text/html\r\n\r\nbody")
        self.assertEqual(Message("", "a@x.example", "s", "body"), message)

    def test_template(self) -> None:
        """With a template From, Subject and body may be absent, and text is no obstacle where it is blank."""
        message = parse(b"X-Transactional-Template: t 1\r\n\r\n\r\n", policy=Content(text_only="reject"))
        self.assertEqual(Message("", "", "", "", template="t 1"), message)

    def test_several_to(self) -> None:
        """All To headers give names, and nothing in them is an error."""
        message = parse(b"To: A <a@x>\r\nTo: B <b@x>, ((((\r\n" + TEXT)
        self.assertEqual((("a@x", "A"), ("b@x", "B")), message.to_names[:2])

    def test_text(self) -> None:
        """Text is made into HTML; with variables it stays a template."""
        self.assertIn('Hello &lt;b&gt;<br>\r\n<a href="https://x.example/">', parse(TEXT).body)
        templated = parse(b"X-Transactional-Variables: {}\r\n" + TEXT)
        self.assertIn('<a href="https://x.example/{{ n }}">', templated.body)

    def test_stripped(self) -> None:
        """Attachments that are to be stripped are counted, as images and references to them are."""
        message = parse(MIXED, policy=Content(attachments="strip"))
        self.assertEqual((1, 2, 3), (message.images_removed, message.attachments_removed, message.cid_references))
        self.assertEqual((), message.attachments)

    def test_references_to_nothing(self) -> None:
        """References by cid: in a message that has no other part are not counted: there was nothing to leave out."""
        content = b"From: a@x.example\r\nSubject: s\r\nContent-Type: text/html\r\n\r\n<img src='cid:1'>"
        self.assertEqual(0, parse(content).cid_references)

    def test_forwarded(self) -> None:
        """Attachments that are to be forwarded are decoded and named; nothing is counted as removed."""
        message = parse(MIXED, policy=Content(attachments="forward"))
        expected = (
            Attachment("ü.pdf", "application/pdf", b"PDF"),
            Attachment("attachment-2", "application/x-unnamed", b"x"),
        )
        self.assertEqual(expected, message.attachments)
        self.assertEqual((1, 0), (message.images_removed, message.attachments_removed))

    def test_lf(self) -> None:
        """A message with LF line ends is the same message."""
        self.assertEqual("<p>Hello {{ name }}</p>\n", parse(SIMPLE.replace(b"\r\n", b"\n")).body)

    def test_long_line(self) -> None:
        """A line of 40,000 characters arrives as it is."""
        body = b"<p>" + b"x" * 40_000 + b"</p>"
        self.assertEqual(
            body.decode(), parse(b"From: a@x\r\nSubject: s\r\nContent-Type: text/html\r\n\r\n" + body).body
        )


class RefusedTests(SynchronousTestCase):
    """:func:`relay.message.parse`: what is refused, and what the sender is told."""

    def refused(self, content: bytes, reason: Reason, policy: Content = CONTENT, limits: Limits = LIMITS) -> str:
        failure = self.assertRaises(PermanentFailure, parse, content, policy=policy, limits=limits)
        self.assertEqual(reason, failure.reason)
        return failure.text

    def test_absent(self) -> None:
        """A message without From or Subject, or with a blank one, is refused and the header named."""
        for name in (b"From", b"Subject"):
            lines = [line for line in SIMPLE.split(b"\r\n") if not line.startswith(name)]
            for extra in ([], [name + b": "], [name + b":\r\n "]):
                text = self.refused(b"\r\n".join(extra + lines), Reason.BAD_MESSAGE)
                self.assertIn(name.decode(), text)

    def test_repeated(self) -> None:
        """Two of a header that may stand once are refused and the header named."""
        for name in ("From", "Subject", "Reply-To", "X-Transactional-Tag", "X-Transactional-Route",
                     "X-Transactional-Template"):  # fmt: skip
            content = f"{name}: a@x\r\n{name.lower()}: a@x\r\n".encode() + TEXT
            self.assertIn(name, self.refused(content, Reason.BAD_MESSAGE))

    def test_key(self) -> None:
        """A key that is repeated, folded, encoded, empty or not printable ASCII is refused, and never quoted."""
        for lines in (b": canary\r\nX-Auth-APIKey: canary", b": can\r\n ary", b":\r\n canary", b": =?utf-8?q?canary?=",
                      b":", b": ", b": can\x01ary", b": can\xc3\xbcary"):  # fmt: skip
            text = self.refused(b"X-Auth-APIKey" + lines + b"\r\n" + TEXT, Reason.BAD_MESSAGE)
            self.assertIn("X-Auth-APIKey", text)
            self.assertNotIn("canary", text)

    def test_key_is_not_shown(self) -> None:
        """The key is in no representation of a message."""
        self.assertNotIn("secret-key", repr(parse(SIMPLE)))

    def test_header_without_colon(self) -> None:
        """A header line without colon is refused with its number; nothing of the rest becomes body."""
        self.assertIn("Line 3", self.refused(b"From: a@x\r\nSubject: s\r\nHello there\r\n\r\nbody", Reason.BAD_MESSAGE))
        self.assertIn("Line 1", self.refused(b"<html>\r\n", Reason.BAD_MESSAGE))
        self.assertIn("Line 1", self.refused(b" folded\r\n" + TEXT, Reason.BAD_MESSAGE))

    def test_header_too_large(self) -> None:
        """A header larger than the limit is refused and the limit named."""
        content = b"X: " + b"x" * 2000 + b"\r\n" + SIMPLE
        self.assertIn("1024", self.refused(content, Reason.BAD_MESSAGE, limits=Limits(header_block=1024)))

    def test_variables(self) -> None:
        """Variables that are no JSON object are refused with the column."""
        text = self.refused(b"X-Transactional-Variables: {a: 1}\r\n" + TEXT, Reason.BAD_VARIABLES)
        self.assertIn("column 2", text)

    def test_attachment(self) -> None:
        """An attachment is refused by name unless the policy says otherwise."""
        self.assertIn("ü.pdf", self.refused(MIXED, Reason.UNSUPPORTED_CONTENT))

    def test_no_body(self) -> None:
        """A message without HTML and text is refused, one with text where only HTML is wanted."""
        self.refused(b"From: a@x\r\nSubject: s\r\n\r\n \r\n", Reason.UNSUPPORTED_CONTENT)
        self.refused(b"From: a@x\r\nSubject: s", Reason.UNSUPPORTED_CONTENT)
        self.refused(TEXT, Reason.UNSUPPORTED_CONTENT, Content(text_only="reject"))
        template = b"X-Transactional-Template: t\r\n"
        self.refused(template + TEXT, Reason.UNSUPPORTED_CONTENT, Content(text_only="reject"))
