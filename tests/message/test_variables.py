"""X-Transactional-Variables, after every mailer has had its way with it."""

from __future__ import annotations

import base64
import email.policy
import json
from email.header import Header
from email.message import EmailMessage
from email.mime.text import MIMEText
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.errors import PermanentFailure, Reason
from relay.message import headers, variables

NAME = variables.NAME

#: Two kilobytes with what is hard on mailers: long tokens, several spaces, other alphabets, quotes, punctuation.
VARIABLES: dict[str, Any] = {
    "name": "Jürgen, Müller",
    "token": "a" * 200,
    "url": "https://example.com/?a=1&b=" + "x" * 120 + "=?=",
    "items": [{"sku": f"SKU-{n:04}", "title": f'Größe {n} – Straße, "100%" \\ back', "n": n / 7} for n in range(12)],
    "emoji": "🎉" * 60,
    "japanese": "日本語テキスト" * 20,
    "under": "a_b=c?d",
    "none": None,
    "no": False,
}
#: How programs write JSON: with or without spaces, escaped or not.
WRITTEN = [
    json.dumps(VARIABLES, ensure_ascii=ascii_only, separators=separators)
    for ascii_only in (True, False)
    for separators in ((",", ":"), (", ", ": "))
]


def parse(*values: bytes, deepest: int = 32) -> dict[str, Any]:
    """The variables of headers with these raw values."""
    return variables.parse(values, deepest=deepest)


def sent(content: bytes) -> dict[str, Any]:
    """The variables in a whole message."""
    content = content.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    fields, _ = headers.split(content[: headers.end(content, 0, len(content))[0]])
    return parse(*fields[NAME.lower().encode()])


def broken_by_postfix(content: bytes, limit: int = 998) -> bytes:
    """What Postfix makes of long lines: CR LF and a space, wherever the limit falls."""
    lines = []
    for line in content.split(b"\r\n"):
        while len(line) > limit:
            lines.append(line[:limit])
            line = b" " + line[limit:]
        lines.append(line)
    return b"\r\n".join(lines)


def folded(text: str, width: int) -> bytes:
    """The header as a mailer folds it that breaks at spaces, each at most *width* characters where it can."""
    lines, line = [], f"{NAME}:"
    for word in text.split(" "):
        if len(line) + len(word) >= width and line.strip():
            lines.append(line)
            line = ""
        line += f" {word}"
    return "\r\n".join([*lines, line]).encode() + b"\r\n\r\n"


class MailerTests(SynchronousTestCase):
    """What mailers make of :data:`VARIABLES`, which are to arrive unharmed."""

    def check(self, content: bytes) -> None:
        self.assertEqual(VARIABLES, sent(content))
        for limit in (990, 998):
            self.assertEqual(VARIABLES, sent(broken_by_postfix(content.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"),
                                                               limit)))  # fmt: skip

    def test_raw(self) -> None:
        """Go, swaks and curl send one line, in raw UTF-8 or escaped."""
        for text in WRITTEN:
            self.check(f"{NAME}: {text}\r\n\r\n".encode())
            self.check(f"{NAME}:{text}\n\n".encode())

    def test_folded_at_spaces(self) -> None:
        """Folds at 76 or 78 columns, at spaces within strings too, leave no trace."""
        for text in WRITTEN:
            for width in (40, 76, 78):
                self.check(folded(text, width))
                self.check(folded(text, width).replace(b"\r\n ", b"\r\n\t"))

    def test_email_message(self) -> None:
        """Python's EmailMessage folds at 78 and encodes words in the middle of tokens."""
        for text in WRITTEN:
            message = EmailMessage()
            message[NAME] = text
            self.check(message.as_bytes(policy=email.policy.SMTP))
            self.check(message.as_bytes(policy=email.policy.default))
            self.check(message.as_bytes(policy=email.policy.SMTPUTF8))

    def test_email_message_on_one_line(self) -> None:
        """A word that EmailMessage encodes within a JSON string is decoded, though the header is JSON without."""
        message = EmailMessage()
        message[NAME] = '{"name": "Dr. Jürgen Müller jun."}'
        self.assertIn(b'"Dr. =?', message.as_bytes(policy=email.policy.SMTP))
        self.assertEqual({"name": "Dr. Jürgen Müller jun."}, sent(message.as_bytes(policy=email.policy.SMTP)))

    def test_mime_text(self) -> None:
        """Python's older classes fold ASCII and encode everything else whole."""
        for text in WRITTEN:
            for value in (text, Header(text, "utf-8", header_name=NAME)):
                message = MIMEText("", "html", "utf-8")
                message[NAME] = value
                self.check(message.as_bytes())

    def test_django(self) -> None:
        """Django encodes a header that is not ASCII, and folds at 76."""
        from django.conf import settings as django_settings
        from django.core.mail import EmailMessage as DjangoMessage

        if not django_settings.configured:
            django_settings.configure()
        for text in WRITTEN:
            message = DjangoMessage("Subject", "Body", "a@x.example", ["b@x.example"], headers={NAME: text})
            self.check(message.message().as_bytes())

    def test_words_whole(self) -> None:
        """PHPMailer, Ruby and nodemailer encode the whole value, in words cut anywhere, Q or B."""
        for text in WRITTEN:
            data = text.encode()
            for size in (17, 45):
                pieces = [data[at : at + size] for at in range(0, len(data), size)]
                b_words = (f"=?UTF-8?B?{_b64(piece)}?=" for piece in pieces)
                q_words = ("=?utf-8?Q?" + "".join(f"={byte:02X}" for byte in piece) + "?=" for piece in pieces)
                for encoded in (b_words, q_words):
                    self.check(f"{NAME}: {chr(13)}\n ".encode() + "\r\n ".join(encoded).encode() + b"\r\n\r\n")

    def test_words_for_what_is_not_ascii(self) -> None:
        """nodemailer encodes only the tokens that need it, and leaves the others between them."""
        value = b'{"name": =?UTF-8?Q?=22J=C3=BCrgen=22=2C?=\r\n "city": =?UTF-8?Q?=22K=C3=B6ln=22=7D?='
        self.assertEqual({"name": "Jürgen", "city": "Köln"}, parse(value))

    def test_damaged_by_the_client(self) -> None:
        """Lost before the relay sees it: EmailMessage decodes what looks like an encoded word in the value itself."""
        message = EmailMessage()
        message[NAME] = '{"a": "=?utf-8?q?b?="}'
        self.assertEqual({"a": "b"}, sent(message.as_bytes(policy=email.policy.SMTP)))

    def test_mended(self) -> None:
        """Spaces that EmailMessage loses or doubles around its encoded words are as they were."""
        for value in (
            b'{"a": "} \r\n =?utf-8?b?8J+OiQ==?= =?utf-8?q?Gr=C3=B6=C3=9Fe?= x"}',
            b'{"a": "} =?utf-8?b?8J+OiQ==?=\r\n  =?utf-8?q?Gr=C3=B6=C3=9Fe?= x"}',
            b'{"a": "} =?utf-8?b?8J+OiQ==?= =?utf-8?q?Gr=C3=B6=C3=9Fe?=\r\n x"}',
        ):
            self.assertEqual({"a": "} 🎉 Größe x"}, parse(value))

    def test_go_words(self) -> None:
        """Go's mime encoder puts words on one line too, each full: no space is between those."""
        first, second = f'{{"a":"{"ü" * 8}'.encode(), b'x"}'
        words = " ".join(f"=?utf-8?q?{''.join(f'={byte:02X}' for byte in each)}?=" for each in (first, second))
        self.assertEqual({"a": "ü" * 8 + "x"}, parse(words.encode()))


class JSONTests(SynchronousTestCase):
    """:func:`relay.message.variables.parse`: what is an object and what is not."""

    def refused(self, *values: bytes, deepest: int = 32) -> str:
        failure = self.assertRaises(PermanentFailure, parse, *values, deepest=deepest)
        self.assertEqual(Reason.BAD_VARIABLES, failure.reason)
        self.assertIn(NAME, failure.text)
        return failure.text

    def test_encoded_word_as_text(self) -> None:
        """A string that looks like an encoded word is text where the header is plain JSON."""
        for text in ("=?utf-8?q?a?=", "a=?utf-8?q?=22?=b"):
            self.assertEqual({"a": text}, parse(json.dumps({"a": text}).encode()))

    def test_position(self) -> None:
        """A mistake is refused with json's words and its column."""
        self.assertIn("Expecting ',' delimiter at column 9", self.refused(b' {"a": 1 "b": 2}'))
        self.assertIn("at column 7", self.refused(b'{"a": \x01}'))

    def test_no_object(self) -> None:
        """Any other JSON is refused, and called what it is."""
        for value, kind in ((b"[]", "a list"), (b'"a"', "a string"), (b"1", "a number"), (b"1.5", "a number"),
                            (b"true", "true or false"), (b"null", "null")):  # fmt: skip
            self.assertIn(f"it is {kind}", self.refused(value))

    def test_blank(self) -> None:
        """A blank header is no object, alone or beside another."""
        for values in ((b"",), (b'{"a": 1}', b" \r\n ")):
            self.assertIn("at column 1", self.refused(*values))

    def test_merged(self) -> None:
        """Several headers are merged in order; a later key replaces an earlier one."""
        self.assertEqual({"a": 2, "b": 1, "c": 3}, parse(b'{"a": 1, "b": 1}', b'{"a": 2}', b'{"c": 3}'))

    def test_numbers(self) -> None:
        """A number that no double holds is refused with its column, also NaN and Infinity; large ones pass."""
        for literal in ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" + "0" * 309, "9" * 5000):
            self.assertIn("at column 12", self.refused(f'{{"1e999":  {literal}}}'.encode()))
        self.assertEqual(
            {"a": 10**308, "b": 1.5e308, "c": 0.0}, parse(b'{"a": 1%s, "b": 1.5e308, "c": 1e-999}' % (b"0" * 308))
        )

    def test_depth(self) -> None:
        """32 levels pass, the 33rd is refused with its column; brackets in strings do not count."""
        self.assertEqual(1, len(parse(b'{"a":' + b"[" * 31 + b"]" * 31 + b"}")))
        self.assertIn("deeper than 32 levels at column 37", self.refused(b'{"a":' + b"[" * 32 + b"]" * 32 + b"}"))
        self.assertEqual({"a": "[" * 1000}, parse(b'{"a": "' + b"[" * 1000 + b'"}'))
        self.assertEqual({"a": [[]] * 100}, parse(b'{"a": [' + b"[]," * 99 + b"[]]}"))

    def test_endless_depth(self) -> None:
        """100,000 levels, or as many quotes that never close, are refused without recursion."""
        self.refused(b'{"a":' * 50_000)
        self.refused(b"[" * 100_000)
        self.refused(b'{"a":' + b"[" * 31 + b'"' + b'\\"' * 100_000)

    @settings(max_examples=150)
    @given(st.dictionaries(st.text(), st.recursive(
        st.none() | st.booleans() | st.integers(-(10**300), 10**300) | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8)), st.booleans(), st.integers(20, 100))  # fmt: skip
    def test_any_object(self, value: dict[str, Any], ascii_only: bool, size: int) -> None:
        """Any object arrives, raw or in words that are cut anywhere."""
        data = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
        pieces = (data[at : at + size] for at in range(0, len(data), size))
        self.assertEqual(value, parse("\r\n ".join(f"=?utf-8?b?{_b64(piece)}?=" for piece in pieces).encode()))
        if ascii_only:
            self.assertEqual(value, parse(data))

    @settings(max_examples=150)
    @given(st.binary() | st.text(alphabet='{}[]",:1eEaN-\\ =?utf-8qB\r\n\t').map(str.encode))
    def test_never_raises(self, value: bytes) -> None:
        """Anything else is refused, with a column."""
        try:
            parse(value)
        except PermanentFailure as failure:
            self.assertIn("at column", failure.text)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
