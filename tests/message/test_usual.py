"""The usual shapes: they are read at once, and nobody can tell which parser read them."""

from __future__ import annotations

import base64
import email.policy
import quopri
from email.message import EmailMessage

import attrs
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from benchmarks.comparison.messages import letters
from relay.errors import PermanentFailure
from relay.message import general, parse, usual
from relay.policy import Limits
from relay.values import Message

LIMITS = Limits()
HEAD = b"From: Shop <a@x.example>\r\nSubject: s\r\n"
HTML = b"Content-Type: text/html\r\n\r\n<p>Hello</p>\r\n"


def told(content: bytes, limits: Limits = LIMITS) -> object:
    """All that the general parser says of a message, its refusal too."""
    try:
        return fields(general(content, limits=limits))
    except PermanentFailure as failure:
        return failure.reason, failure.text


def fields(message: Message) -> dict[str, object]:
    """A message by its fields: those that do not count when two are compared, too."""
    return attrs.asdict(message)


def alternative(text: bytes, html: bytes, boundary: bytes = b"=_b") -> bytes:
    """A multipart/alternative of two parts, which begin with their headers."""
    head = b'Content-Type: multipart/alternative;\r\n boundary="' + boundary + b'"\r\n\r\n'
    return (
        head
        + b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in (text, html))
        + (b"--" + boundary + b"--\r\n")
    )


class UsualTests(SynchronousTestCase):
    """:func:`relay.message.usual.read`: what it answers for."""

    def check(self, content: bytes) -> Message:
        """It has an answer, which is the general parser's and that of ``parse``."""
        message = usual.read(content, LIMITS)
        assert message is not None, content
        self.assertEqual(told(content), fields(message))
        self.assertEqual(parse(content), message)
        return message

    def check_left(self, content: bytes, limits: Limits = LIMITS) -> None:
        """It has none, and ``parse`` says what the general parser does."""
        self.assertIsNone(usual.read(content, limits), content)
        try:
            found: object = fields(parse(content, limits=limits))
        except PermanentFailure as failure:
            found = failure.reason, failure.text
        self.assertEqual(told(content, limits), found)

    def test_measured(self) -> None:
        """The messages of benchmarks/compare.py are usual."""
        for name, letter in letters().items():
            with self.subTest(name):
                self.check(letter.content.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))

    def test_every_field(self) -> None:
        """All headers that count arrive, folded and encoded ones too, and the others are named."""
        message = self.check(
            b"Received: from a (b [192.0.2.1])\r\n\tby c; today\r\nreceived: again\r\n"
            b'From: "Shop, the" <orders@shop.example>\r\nTo: Jane Doe <jane@x.example>,\r\n "D" <d@x.example>\r\n'
            b"Subject: =?utf-8?q?Gr=C3=BC?=\r\n =?utf-8?q?=C3=9Fe?=\r\nReply-To: Help <help@x.example>\r\n"
            b"X-Transactional-Tag: Welcome\r\nX-Transactional-Route: fast\r\nX-Transactional-Template: t1\r\n"
            b'X-Transactional-Variables: {"name": "Jane"}\r\nX-Transactional-Idempotency-Key: order-1\r\n'
            b"X-Auth-APIKey: secret-key\r\n" + HTML
        )
        self.assertEqual(
            Message(
                "Shop, the", "orders@shop.example", "Grüße", "<p>Hello</p>\r\n", reply_to="Help <help@x.example>",
                to_names=(("jane@x.example", "Jane Doe"), ("d@x.example", "D")), tag="Welcome", route="fast",
                template="t1", variables={"name": "Jane"}, idempotency_key="order-1", api_key="secret-key",
            ),
            message,
        )  # fmt: skip
        self.assertEqual(("Received",), message.headers_removed)

    def test_alternative(self) -> None:
        """Of a text and its HTML the HTML is the body, without the line end before the boundary."""
        text = b"Content-Type: text/plain; charset=utf-8\r\n\r\nHello"
        message = self.check(HEAD + alternative(text, HTML))
        self.assertEqual("<p>Hello</p>\r\n", message.body)

    def test_senders(self) -> None:
        """One sender's messages are his, whoever sent before."""
        for name in ("A", "B", "A"):
            message = self.check(HEAD.replace(b"Shop", name.encode()) + HTML)
            self.assertEqual(name, message.from_name)

    def test_encodings(self) -> None:
        """Quoted-printable and base64 are decoded, UTF-8 is read."""
        html = "<p>Grüße</p>".encode()
        for encoding, data in (("Quoted-Printable", quopri.encodestring(html)), ("base64", base64.encodebytes(html))):
            head = f"Content-Type: text/html; charset=UTF-8\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
            self.assertEqual("<p>Grüße</p>", self.check(HEAD + head.encode() + data.rstrip(b"\n")).body)

    def test_python(self) -> None:
        """What Python makes of text, HTML and names that are not ASCII is usual."""
        letter = EmailMessage(policy=email.policy.SMTP)
        letter["From"] = "Grüße GmbH <shop@x.example>"
        letter["To"] = '"Doe, Jane" <jane@x.example>'
        letter["Subject"] = "Ihre Bestellung: Größe geändert – 100 % Wolle, jetzt für 39 € statt für 49 €"
        letter["X-Transactional-Variables"] = '{"name": "Jane"}'
        letter.set_content("Grüße\n")
        letter.add_alternative("<p>Grüße</p>\n", subtype="html")
        message = self.check(letter.as_bytes())
        self.assertEqual((letter["Subject"], "Grüße GmbH"), (message.subject, message.from_name))

    def test_left(self) -> None:
        """What is not usual is left to the general parser, and its refusals are as they were."""
        text = b"Content-Type: text/plain\r\n\r\nHello"
        for content in (
            b"",
            b"\r\n\r\n" + HTML,
            HEAD,
            HEAD + text,
            HEAD + b"\r\nHello",
            HEAD + HTML.replace(b"<p>Hello</p>", b""),
            HEAD + b"Subject: again\r\n" + HTML,
            HEAD + b"no colon\r\n" + HTML,
            HEAD + b"To: J\xc3\xbcrgen\r\n" + HTML,
            HEAD + b"X-Auth-APIKey: secret\r\n -key\r\n" + HTML,
            HEAD + b"X-Auth-APIKey:\r\n secret-key\r\n" + HTML,
            HEAD + b"X-Auth-APIKey: =?utf-8?q?key?=\r\n" + HTML,
            HEAD + b"X-Auth-APIKey: \r\n" + HTML,
            HEAD + b"X-Transactional-Variables: [1]\r\n" + HTML,
            HEAD + b"X-Transactional-Variables:\r\n" + HTML,
            HEAD + b"X-Transactional-Idempotency-Key: " + b"k" * 257 + b"\r\n" + HTML,
            HEAD + b"X-Transactional-Tag: " + b"t" * 980 + b"\r\n t\r\n" + HTML,
            HEAD + b"".join(b"X-%d: x\r\n" % number for number in range(51)) + HTML,
            HEAD + b"X" * 101 + b": x\r\n" + HTML,
            HEAD + b"X-A: " + b"x" * 990 + b"\r\n" + HTML,
            HEAD + b"X-A: a\rb\nc\r\n" + HTML,
            HEAD + b"X-A: a\tb\r\n" + HTML,
            b" " + HEAD + HTML,
            b"\t" + HEAD + HTML,
            HEAD.replace(b"a@x.example", b"a") + HTML,
            HEAD + b"Content-Disposition: attachment\r\n" + HTML,
            HEAD + HTML.replace(b"text/html", b"text/html; charset=utf-16"),
            HEAD + b"Content-Transfer-Encoding: x-uuencode\r\n" + HTML,
            (HEAD + HTML).replace(b"\r\n", b"\n"),
            HEAD + b"Reply-To\r\n" + HTML,
            HEAD + b"Reply-To : b@x.example\r\n" + HTML,
            HEAD + alternative(HTML, text),
            HEAD + alternative(HTML, HTML),
            HEAD + alternative(b"Content-Type: image/png\r\n\r\nx", HTML),
            HEAD + alternative(text, HTML).replace(b"--=_b\r\nContent-Type: text/p", b"--=_bxxContent-Type: text/p"),
            HEAD + alternative(text, HTML).replace(b"--=_b\r\nContent-Type: text/h", b"--=_bxxContent-Type: text/h"),
            HEAD + alternative(text + b"\r\n--b\r\n" + HTML.replace(b"Hello", b"Other"), HTML, b"b "),
            HEAD + alternative(text, HTML, b""),
            HEAD + alternative(text, HTML)[:-4],
            HEAD + alternative(text + b"\r\n--=_b\r\n" + text, HTML),
            HEAD + alternative(text, b"Content-Disposition: attachment\r\n" + HTML),
        ):
            self.check_left(content)

    def test_limits(self) -> None:
        """The limits of headers and of parts hold, to the octet."""
        content = HEAD + HTML
        end = content.index(b"<p>")
        self.assertIsNotNone(usual.read(content, Limits(header_block=end)))
        self.check_left(content, Limits(header_block=end - 1))
        self.check_left(HEAD + b"X-A: " + b"x" * 900 + b"\r\n" + HTML, Limits(header_block=600))
        self.check_left(HEAD + alternative(b"Content-Type: text/plain\r\n\r\nx", HTML), Limits(mime_parts=2))


def one(*choices: bytes) -> st.SearchStrategy[bytes]:
    """One of some lines; an empty one is none."""
    return st.sampled_from([choice + b"\r\n" if choice else b"" for choice in choices])


HEADERS = st.tuples(
    one(b"", b"Received: by x;\r\n\ttoday", b"DKIM-Signature: a=b;\r\n c=d", b"X-Mailer: a:b"),
    one(
        b"From: a@x.example", b"From: Shop <a@x.example>", b'From: "Shop, the" <a@x.example>', b"from:<a@x.example>",
        b"From: =?utf-8?q?=C3=9C?= <a@x.example>", b"From: Doe, Jane <a@x.example>",
    ),
    one(
        b"Subject: s", b"Subject:  two  spaces ", b"Subject: =?utf-8?b?w5w=?=\r\n =?utf-8?b?w5w=?=", b"SUBJECT: s",
        b"Subject: a \r\n\t b: c\r\n  d", b"Subject:\r\n s\r\n ",
    ),
    one(b"", b"To: Jane <j@x.example>", b"To: j@x.example, k@x.example", b"To: (c) ;,", b"To: \r\n j@x.example"),
    one(b"", b"Reply-To: Help <h@x.example>", b"Reply-To: =?utf-8?q?=2C?= <h@x.example>", b"Reply-To:"),
    one(b"", b"X-Transactional-Tag: Welcome", b"X-Transactional-Template: t", b"X-Transactional-Route: =?utf-8?q??="),
    one(b"", b'X-Transactional-Variables: {"a": [1]}', b"MIME-Version: 1.0"),
    one(b"", b"X-Auth-APIKey: key", b"X-Auth-APIKey: a key ", b"X-Transactional-Idempotency-Key: once"),
).map(b"".join)  # fmt: skip
ENCODINGS = one(*(b"Content-Transfer-Encoding: " + name for name in (b"8bit", b"base64", b"Quoted-Printable")), b"")
BOUNDARIES = st.sampled_from([
    b"b", b"=_b", b"----=_Part_1.2", b"b ", b" b", b"a b", b"a(b)", b"a;b", b"a=b", b"=?utf-8?q?b?=", b"b'c", b"a/b?c",
])  # fmt: skip
KINDS = st.sampled_from([
    b"multipart/alternative; boundary=%s", b'multipart/alternative;\r\n\tboundary="%s"', b'%s; boundary="b"',
    b'Multipart/Alternative;boundary="%s"; charset=utf-8', b'multipart/alternative; boundary="%s" (comment)',
    b"multipart/alternative; (boundary=x) boundary=%s", b'multipart/mixed; boundary="%s"', b"text/html; boundary=%s",
    b'multipart/alternative; boundary="%s";', b'multipart/alternative boundary="%s"', b"multipart/alternative; a=%s",
])  # fmt: skip
TEXTS = st.builds(b"%s%s\r\n%s".__mod__, st.tuples(st.just(b"Content-Type: text/plain\r\n"), ENCODINGS, st.just(b"x")))
PAGES = st.builds(
    b"%s%s\r\n%s".__mod__,
    st.tuples(
        one(
            b"Content-Type: text/html", b"Content-Type: TEXT/HTML; charset=UTF-8; name=a",
            b"Content-Type: text/html;\r\n charset=us-ascii", b"content-type: text/html charset=utf-8",
        ),
        ENCODINGS,
        st.sampled_from([
            b"<p>Hello</p>\r\n", b"PHA+SGVsbG88L3A+\r\n", b"=3Cp>=\r\nx", b"\xef\xbb\xbf\xc3\xbc", b"\xff\xfe<\0",
            b"a\0b", b"\xe4", b"<img src=cid:1>", b"a\r\n\r\nb",
        ]),
    ),
)  # fmt: skip
MESSAGES = st.builds(bytes.__add__, HEADERS, PAGES | st.builds(alternative, TEXTS, PAGES, st.just(b"b")))

#: What makes a usual message another one, or an unusual one.
PIECES = st.sampled_from([
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\n\n", b" ", b"\t", b"\r\n ", b"\r\n\t", b"\n ", b":", b"\0", b"\xc3\xbc",
    b"\xff", b"=?", b"?=", b'"', b"<", b">", b",", b";", b"--b", b"\r\n--b\r\n", b"\n--b--", b"--", b"x" * 990, b"",
    b"\r\nFrom: b@x.example\r\n", b"\r\nX-Auth-APIKey:\r\n key\r\n", b"\r\nContent-Type: text/html\r\n",
    b"\r\nContent-Disposition: attachment\r\n", b"-16", b"=?utf-8?q?_?=", b"=?utf-8?q?=3C?=",
])  # fmt: skip


@st.composite
def near(draw: st.DrawFn) -> bytes:
    """A message of a usual shape, with up to three of :data:`PIECES` in it, perhaps in place of a few octets."""
    content = draw(MESSAGES)
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(content)))
        content = content[:place] + draw(PIECES) + content[place + draw(st.integers(0, 3)) :]
    return content


@st.composite
def multiparts(draw: st.DrawFn) -> bytes:
    """A message of two parts, whose Content-Type is written in one of the ways that there are."""
    boundary = draw(BOUNDARIES)
    kind = b"Content-Type: " + draw(KINDS) % boundary
    parts = alternative(draw(TEXTS), draw(PAGES), draw(st.sampled_from([boundary, boundary.rstrip(), b"b"])))
    return draw(HEADERS) + kind + parts.removeprefix(parts.partition(b"\r\n\r\n")[0])


class EqualTests(SynchronousTestCase):
    """Both parsers."""

    def check(self, content: bytes) -> None:
        """Where the usual shapes have an answer, it is the general parser's."""
        message = usual.read(content, LIMITS)
        if message is not None:
            self.assertEqual(told(content), fields(message))

    @settings(max_examples=150, deadline=None)
    @given(MESSAGES)
    def test_usual(self, content: bytes) -> None:
        """A message of a usual shape has an answer, whatever it has of them; one that decodes to nothing may not."""
        message = usual.read(content, LIMITS)
        if message is None:
            self.assertIn(b"base64", content)
        else:
            self.assertEqual(told(content), fields(message))

    @settings(max_examples=400, deadline=None)
    @example(HEAD + HTML)
    @given(near())
    def test_equal(self, content: bytes) -> None:
        """Whatever message comes: where the usual shapes have an answer, it is the general parser's."""
        self.check(content)

    @settings(max_examples=300, deadline=None)
    @given(multiparts())
    def test_boundaries(self, content: bytes) -> None:
        """The same of a message of two parts, however its boundary is written."""
        self.check(content)

    @settings(max_examples=200, deadline=None)
    @given(
        st.text(st.characters(min_codepoint=32, max_codepoint=126)),
        st.sampled_from(["From", "To", "Subject", "Reply-To", "X-Transactional-Tag", "X-Auth-APIKey", "Content-Type"]),
    )
    def test_values(self, value: str, name: str) -> None:
        """The same of any value of a header."""
        content = f"{name}: {value}\r\n".encode() + b"".join(
            line + b"\r\n" for line in (HEAD + HTML).split(b"\r\n") if not line.startswith(name.encode())
        )
        self.check(content)
