"""The message that goes out: what a mail program reads from it is what was posted."""

from __future__ import annotations

import email
import email.policy
import re
import time
from email.message import EmailMessage
from email.utils import unquote
from typing import Any, cast

import attrs
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.embedded.routes.building import Built, Outgoing, build
from relay.embedded.store import Fields
from relay.errors import PermanentFailure
from relay.message import words
from relay.message.addresses import mailboxes
from relay.values import Attachment

FIELDS = Fields(
    request_id="R1",
    fromname="Example Shop",
    fromemail="shop@example.com",
    recipient="jane@example.org",
    toname="Jane Doe",
    subject="Hello",
    replyto="Help <help@example.com>",
    returnpath="bounce@example.com",
    tag="welcome",
    route="out",
    template="",
)

#: What nobody can see, and what would be a line of its own.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


def outgoing(body: str = "<p>Hello</p>", attachments: tuple[Attachment, ...] = (), **changed: Any) -> Outgoing:
    """A message, changed."""
    return Outgoing("0123456789ABCDEF", 1_795_440_000.25, attrs.evolve(FIELDS, **changed), body, attachments)


def parsed(built: Built) -> EmailMessage:
    """The message as the standard library reads it."""
    return cast(EmailMessage, email.message_from_bytes(built.content, policy=email.policy.default))


def raw(head: bytes, name: str) -> str:
    """A header's value, unfolded."""
    (value,) = re.findall(rf"(?m)^{name}: ?([^\r\n]*(?:\r\n [^\r\n]*)*)", head.decode())
    return str(value).replace("\r\n", "")


def unfolded(head: bytes, name: str) -> str:
    """A header's text, as a mail program shows it."""
    return words.decode(raw(head, name))


def seen(text: str) -> str:
    """*text* as a reader can tell it apart: one line, no controls."""
    return re.sub(r"\s+", " ", _CONTROL.sub(" ", text)).strip()


class BuildTests(SynchronousTestCase):
    """A plain message."""

    def test_headers(self) -> None:
        """Date, Message-ID, From, To, Reply-To and Subject are there once, and no others but MIME's."""
        message = parsed(build(outgoing()))
        self.assertEqual(
            sorted(message.items()),
            [
                ("Content-Type", 'multipart/alternative; boundary="=_0123456789ABCDEF_1"'),
                ("Date", "Mon, 23 Nov 2026 13:20:00 +0000"),
                ("From", "Example Shop <shop@example.com>"),
                ("MIME-Version", "1.0"),
                ("Message-ID", "<0123456789ABCDEF@example.com>"),
                ("Reply-To", "Help <help@example.com>"),
                ("Subject", "Hello"),
                ("To", "Jane Doe <jane@example.org>"),
            ],
        )

    def test_envelope(self) -> None:
        """MAIL FROM is the return path, which may be empty; RCPT TO is the recipient."""
        built = build(outgoing())
        self.assertEqual((built.sender, built.recipient), ("bounce@example.com", "jane@example.org"))
        self.assertEqual(build(outgoing(returnpath="")).sender, "")

    def test_parts(self) -> None:
        """There is a text for whom HTML is nothing, and the HTML."""
        message = parsed(build(outgoing("<h1>Hi</h1><p>See <a href='https://x.example/'>this</a></p>")))
        text, html = message.iter_parts()
        self.assertEqual((text.get_content_type(), html.get_content_type()), ("text/plain", "text/html"))
        self.assertEqual(text.get_content().replace("\r\n", "\n"), "Hi\n\nSee this (https://x.example/)\n")

    def test_same_every_time(self) -> None:
        """Each attempt sends the same bytes: a receiver may know the repetition by its Message-ID."""
        self.assertEqual(build(outgoing()), build(outgoing()))

    def test_attachments(self) -> None:
        """Files come with their names and types, of any bytes; a type that could be misread is a plain file's."""
        files = (
            Attachment('Übersicht, "neu".pdf', "application/pdf", bytes(range(256))),
            Attachment("mail.eml", "message/rfc822", b"Subject: x\n\n.\n"),
            Attachment("", "text/html\r\nX: y", b""),
        )
        message = parsed(build(outgoing(attachments=files)))
        found = [(each.get_filename(), each.get_content_type(), each.get_payload(decode=True))
                 for each in message.iter_attachments()]  # fmt: skip
        self.assertEqual(
            found,
            [
                (files[0].filename, "application/pdf", files[0].content),
                ("mail.eml", "application/octet-stream", files[1].content),
                ("unnamed", "application/octet-stream", b""),
            ],
        )

    def test_international_domain(self) -> None:
        """A domain that is not ASCII needs no SMTPUTF8."""
        built = build(outgoing(recipient="jane@bücher.example"))
        self.assertEqual((built.recipient, built.utf8), ("jane@xn--bcher-kva.example", False))

    def test_smtputf8(self) -> None:
        """A local part that is not ASCII does, and stands in the header as it is."""
        built = build(outgoing(recipient="jané@example.org"))
        self.assertTrue(built.utf8)
        self.assertIn("To: Jane Doe <jané@example.org>\r\n".encode(), built.content)
        self.assertFalse(build(outgoing(toname="Jané")).utf8)

    def test_no_address(self) -> None:
        """What is no address is refused, and the field named."""
        for name in ("fromemail", "recipient", "returnpath"):
            for value in ("nobody", "a@b>\r\nBcc: x@y", "a b@c", "a@", "@b", "a@b c", "<a@b>", "a@" + "x." * 200):
                failure = self.assertRaises(PermanentFailure, build, outgoing(**{name: value}))
                self.assertIn(name.replace("recipient", "to"), failure.text)
                self.assertNotIn("\n", failure.text)

    def test_reply_to(self) -> None:
        """Reply-To may be a list, and what holds no address is left out."""
        for value, wanted in (
            ("a@b.example", "a@b.example"),
            ('"Doe, Jane" <a@b.example>, c@d.example', '"Doe, Jane" <a@b.example>, c@d.example'),
            ("nobody", None),
            ("", None),
            ("Ä <a@b.example>, broken", "Ä <a@b.example>"),
        ):
            found = parsed(build(outgoing(replyto=value)))["Reply-To"]
            self.assertEqual(found if found is None else str(found), wanted)

    def test_a_megabyte(self) -> None:
        """Large and hostile HTML is built in the time that its size takes."""
        for body in ("<p>" + "Grüße " * 160_000, "<a b='" * 150_000, "<" * 200_000, "&#" + "9" * 100_000):
            began = time.process_time()
            build(outgoing(body))
            self.assertLess(time.process_time() - began, 10)


TEXT = st.text(max_size=300)
#: What would be misread if it were written as it is.
NASTY = st.lists(
    st.sampled_from(
        ["\r\n", "\n", "\r", "\r\n\r\n", ".\r\n", "Bcc: x@y", "=?utf-8?q?=0D=0A?=", '"', "\\", ",", "<", ">", "@", ";",
         " ", "  ", "\t", "ä", "😀", "\u2028", "\x00", "\x85", "=", "x" * 90, "From ", "a", "(", ")", "(c", ":"]
    ),
    max_size=20,
).map("".join)  # fmt: skip
ANY = TEXT | NASTY


class RoundTripTests(SynchronousTestCase):
    """Whatever was posted comes out as it was, or is refused."""

    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(ANY, ANY, ANY)
    @example('Doe, "Jane" (x) <a@b>', "=?utf-8?q?x?=", "a  b")
    def test_names_and_subject(self, fromname: str, toname: str, subject: str) -> None:
        """Names and subject are read as they were, in lines of at most 78 characters; nothing becomes a header."""
        built = build(outgoing(fromname=fromname, toname=toname, subject=subject))
        head = built.content.partition(b"\r\n\r\n")[0]
        self.assertTrue(all(len(line) <= 78 for line in head.split(b"\r\n")), head)
        self.assertTrue(head.isascii())
        message = parsed(built)
        self.assertEqual([name for name, _ in message.items()], [name for name, _ in parsed(build(outgoing())).items()])
        self.assertEqual(seen(unfolded(head, "Subject")), seen(subject))
        for name, text, address in (("From", fromname, FIELDS.fromemail), ("To", toname, FIELDS.recipient)):
            (found,) = mailboxes(raw(head, name))
            self.assertEqual((seen(found.name), found.address), (seen(text), address))

    @settings(deadline=None)
    @given(ANY)
    def test_reply_to(self, given_: str) -> None:
        """No Reply-To adds a header or a line that is too long."""
        built = build(outgoing(replyto=given_))
        head = built.content.partition(b"\r\n\r\n")[0]
        self.assertEqual(len(re.findall(rb"(?m)^[A-Za-z]", head)), 7 + (b"Reply-To" in head))

    @settings(deadline=None)
    @given(st.text() | NASTY | st.lists(NASTY).map("\n".join))
    def test_body(self, body: str) -> None:
        """The HTML is read as it was but for the form of its line ends; no line is long, 8-bit or ends alone."""
        built = build(outgoing(body))
        self.assertTrue(built.content.isascii())
        self.assertTrue(all(len(line) <= 78 for line in built.content.split(b"\r\n")))
        self.assertNotRegex(built.content, rb"(?<!\r)\n|\r(?!\n)")
        html = list(parsed(built).iter_parts())[1].get_payload(decode=True)
        assert isinstance(html, bytes)
        wanted = re.sub(r"\r\n?", "\n", body).encode("utf-8", "replace")
        self.assertEqual(html.replace(b"\r\n", b"\n"), wanted)

    @settings(deadline=None)
    @given(st.text(max_size=255) | NASTY, st.text(max_size=50), st.binary(max_size=300))
    def test_files(self, filename: str, content_type: str, content: bytes) -> None:
        """A file's bytes are as they were, and its name cannot leave its header."""
        built = build(outgoing(attachments=(Attachment(filename, content_type, content),)))
        self.assertTrue(built.content.isascii())
        self.assertTrue(all(len(line) <= 998 for line in built.content.split(b"\r\n")))
        (file,) = parsed(built).iter_attachments()
        self.assertEqual(file.get_payload(decode=True), content)
        self.assertEqual(set(file.keys()), {"Content-Type", "Content-Transfer-Encoding", "Content-Disposition"})
        # The standard library takes quotes off at either end, whatever they were encoded in.
        self.assertEqual(seen(unquote(file.get_filename() or "")), seen(unquote(seen(filename) or "unnamed")))
