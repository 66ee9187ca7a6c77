"""A message as a whole: what counts of it, and why it may be refused."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relay.errors import PermanentFailure, Reason
from relay.message import parse
from relay.policy import Limits

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


class ParseTests(SynchronousTestCase):
    """:func:`relay.message.parse`."""

    def test_simple(self) -> None:
        """Every header that counts ends up in its field, and the body is as it came."""
        message = parse(SIMPLE)
        self.assertEqual("Shop, the", message.from_name)
        self.assertEqual("orders@shop.example", message.from_email)
        self.assertEqual((("jane@customer.example", "Jane Doe"),), message.to_names)
        self.assertEqual("Grüße", message.subject)
        self.assertEqual("Support <support@shop.example>", message.reply_to)
        self.assertEqual("Welcome", message.tag)
        self.assertEqual("fast", message.route)
        self.assertEqual({"name": "Jane"}, message.variables)
        self.assertEqual("secret-key", message.api_key)
        self.assertEqual("<p>Hello {{ name }}</p>\r\n", message.body)

    def test_header_too_large(self) -> None:
        """A header larger than the limit is refused and the limit named."""
        content = b"X: " + b"x" * 2000 + b"\r\n" + SIMPLE
        failure = self.assertRaises(PermanentFailure, parse, content, limits=Limits(header_block=1024))
        self.assertEqual(Reason.BAD_MESSAGE, failure.reason)
        self.assertIn("1024", failure.text)
