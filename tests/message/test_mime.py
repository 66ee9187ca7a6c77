"""Where the body of a message is, and what is left out."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relay.errors import PermanentFailure, Reason
from relay.message import headers, mime
from relay.policy import Limits

LIMITS = Limits()
HTML = "Content-Type: text/html; charset=utf-8\r\n\r\n<p>ü</p>"
TEXT = "Content-Type: text/plain\r\n\r\nplain"
IMAGE = "Content-Type: image/png\r\nContent-ID: <a>\r\nContent-Transfer-Encoding: base64\r\n\r\nQUJD"
PDF = "Content-Type: application/pdf\r\nContent-Disposition: attachment; filename=a.pdf\r\n\r\nQUJD"


def multipart(kind: str, *parts: str, boundary: str = "b") -> str:
    """A multipart of *parts*, each a header, an empty line and a content."""
    lines = "".join(f"--{boundary}\r\n{part}\r\n" for part in parts)
    return f'Content-Type: multipart/{kind}; boundary="{boundary}"\r\n\r\n{lines}--{boundary}--\r\n'


class FindBodyTests(SynchronousTestCase):
    """:func:`relay.message.mime.find_body`, as (HTML, text, images, names of the attachments)."""

    def find(self, message: str | bytes, limits: Limits = LIMITS) -> tuple[str | None, str | None, int, list[str]]:
        content = message.encode() if isinstance(message, str) else message
        end, start = headers.end(content, 0, len(content))
        fields, _ = headers.split(content[:end])
        body = mime.find_body(content, fields, start, limits)
        return (
            body.html and body.html.text(content),
            body.text and body.text.text(content),
            body.images,
            [part.filename or part.type for part in body.attachments],
        )

    def check(self, message: str | bytes, html: str | None, text: str | None = None, images: int = 0,
              attachments: tuple[str, ...] = ()) -> None:  # fmt: skip
        self.assertEqual((html, text, images, list(attachments)), self.find(message))

    def refused(self, message: str | bytes, limits: Limits = LIMITS) -> str:
        failure = self.assertRaises(PermanentFailure, self.find, message, limits)
        self.assertEqual(Reason.BAD_MESSAGE, failure.reason)
        return failure.text

    def test_single_part(self) -> None:
        """A message without parts is its own body, line ends as they are."""
        self.check("Content-Type: text/html\r\n\r\n<p>\r\n\r\n\n</p> \r\n", "<p>\r\n\r\n\n</p> \r\n")
        self.check("Subject: a\r\n\r\ntext", None, "text")
        self.check("Content-Type: nonsense\r\n\r\ntext", None, "text")

    def test_transfer_encoding_and_charset(self) -> None:
        """Content is decoded; NUL is dropped, other control characters stay."""
        self.check(b"Content-Type: text/html; charset=iso-8859-1\r\nContent-Transfer-Encoding: Quoted-Printable\r\n\r\n"
                   b"=FC=\r\n=00=01", "ü\x01")  # fmt: skip
        self.check(
            "Content-Type: text/html\r\nContent-Transfer-Encoding: base64\r\n\r\nPGI+Cjwv\r\nYj4K", "<b>\n</b>\n"
        )

    def test_alternative(self) -> None:
        """Of alternatives the HTML counts, wherever it stands; others for other programs are dropped."""
        amp = "Content-Type: text/x-amp-html\r\n\r\n<html amp>"
        self.check(multipart("alternative", TEXT, amp, HTML), "<p>ü</p>", "plain")
        self.check(multipart("alternative", HTML, TEXT), "<p>ü</p>", "plain")
        named = HTML.replace("utf-8", "utf-8; name=mail.html")
        self.check(multipart("alternative", TEXT, named), "<p>ü</p>", "plain")

    def test_nested(self) -> None:
        """Mixed, related, alternative, signed and report are walked through."""
        inner = multipart("alternative", TEXT, HTML, boundary="b-inner")
        related = multipart("related", inner, IMAGE, boundary="b-related")
        self.check(multipart("mixed", related, PDF), "<p>ü</p>", "plain", 1, ("a.pdf",))
        signature = "Content-Type: application/pkcs7-signature; name=smime.p7s\r\n\r\nx"
        self.check(multipart("signed", related, signature), "<p>ü</p>", "plain", 1)
        status = "Content-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; x"
        returned = "Content-Type: message/rfc822\r\n\r\nSubject: a\r\n\r\nb"
        self.check(multipart("report", TEXT, status, returned), None, "plain")

    def test_images(self) -> None:
        """Every image is counted and is no attachment, whatever its disposition."""
        attached = IMAGE.replace("Content-ID", "Content-Disposition: attachment; filename=a.png\r\nContent-ID")
        self.check(multipart("mixed", HTML, IMAGE, attached), "<p>ü</p>", images=2)

    def test_attachments(self) -> None:
        """Files are attachments: by disposition, by type, and text with a name that is not the first."""
        attached_html = HTML.replace(
            "\r\n\r\n", "\r\nContent-Disposition: attachment; filename*=utf-8''%C3%BC.html\r\n\r\n"
        )
        named_text = TEXT.replace("plain\r\n", "plain; name=log.txt\r\n")
        calendar = "Content-Type: text/calendar\r\n\r\nBEGIN:VCALENDAR"
        forwarded = "Content-Type: message/rfc822\r\n\r\nContent-Type: text/html\r\n\r\n<b>no</b>"
        self.check(multipart("mixed", attached_html, HTML), "<p>ü</p>", attachments=("ü.html",))
        self.check(multipart("mixed", HTML, named_text), "<p>ü</p>", attachments=("log.txt",))
        self.check(multipart("mixed", named_text, HTML), "<p>ü</p>", "plain")
        self.check(multipart("alternative", TEXT, calendar), None, "plain", attachments=("text/calendar",))
        self.check(multipart("mixed", TEXT, forwarded), None, "plain", attachments=("message/rfc822",))
        self.check(multipart("digest", "\r\nSubject: a\r\n\r\nb"), None, attachments=("message/rfc822",))
        self.check(attached_html, None, attachments=("ü.html",))
        attached = multipart("mixed", HTML, boundary="c").replace(";", "\r\nContent-Disposition: attachment\r\nX: ;", 1)
        self.assertIn("boundary", self.refused(multipart("mixed", attached)))

    def test_attached_multipart(self) -> None:
        """What is within an attached multipart is attached too."""
        inner = "Content-Disposition: attachment\r\n" + multipart("mixed", HTML, boundary="c")
        self.check(multipart("mixed", TEXT, inner), None, "plain", attachments=("text/html",))

    def test_blank(self) -> None:
        """A part of nothing but white space is no body."""
        blank = "Content-Type: text/html\r\n\r\n \r\n"
        self.check(multipart("alternative", TEXT, blank), None, "plain")
        self.check("Content-Type: text/html\r\n\r\n", None)

    def test_several_bodies(self) -> None:
        """The first HTML and the first text count; what follows is dropped like an alternative."""
        self.check(multipart("mixed", TEXT, HTML, HTML.replace("ü", "x"), TEXT), "<p>ü</p>", "plain")

    def test_sloppy_boundaries(self) -> None:
        """Preamble, epilogue, white space behind boundaries, LF and a missing end are read over."""
        message = multipart("alternative", TEXT, HTML)
        expected = ("<p>ü</p>", "plain")
        self.check(
            message.replace("\r\n\r\n--b", "\r\n\r\npreamble\r\n--b", 1) + "epilogue\r\n--b\r\n" + PDF, *expected
        )
        self.check(message.replace("--b\r\n", "--b \t\r\n"), *expected)
        self.check(message.replace("\r\n", "\n"), *expected)
        self.check(message.removesuffix("\r\n--b--\r\n"), *expected)
        self.check(message.removesuffix("\r\n"), *expected)
        self.check(message.replace('"b"', "b"), *expected)

    def test_boundary_prefix(self) -> None:
        """A boundary that begins with another one is another one."""
        inner = multipart("alternative", TEXT, HTML, boundary="b1")
        self.check(multipart("mixed", inner, PDF), "<p>ü</p>", "plain", attachments=("a.pdf",))

    def test_inner_end_missing(self) -> None:
        """An inner multipart that never ends is ended by the outer boundary."""
        inner = multipart("alternative", TEXT, HTML, boundary="c").removesuffix("\r\n--c--\r\n")
        self.check(multipart("mixed", inner, PDF), "<p>ü</p>", "plain", attachments=("a.pdf",))

    def test_part_without_header(self) -> None:
        """A part may have no header, or none that ends: the first line that is no field is text."""
        self.check(multipart("mixed", "\r\nplain"), None, "plain")
        self.check(multipart("mixed", "plain"), None, "plain")
        self.check(multipart("mixed", "Content-Type: text/html\r\n<p>"), "<p>")

    def test_no_boundary(self) -> None:
        """A multipart without boundary, or that has none of its boundary, is refused and the fault named."""
        self.assertIn("boundary parameter", self.refused("Content-Type: multipart/mixed\r\n\r\nx"))
        self.assertIn("boundary", self.refused("Content-Type: multipart/mixed; boundary=b\r\n\r\n--c\r\n\r\nx"))

    def test_depth(self) -> None:
        """30 levels pass, one more is refused."""
        message = HTML
        for level in range(30):
            message = multipart("mixed", message, boundary=f"b{level}.")
        self.check(message, "<p>ü</p>")
        self.assertIn("30 levels", self.refused(multipart("mixed", message)))

    def test_parts(self) -> None:
        """500 parts pass, one more is refused; both limits can be set."""
        self.check(multipart("mixed", *[IMAGE] * 498, HTML), "<p>ü</p>", images=498)
        self.assertIn("500", self.refused(multipart("mixed", *[IMAGE] * 500)))
        self.assertIn("2", self.refused(multipart("mixed", HTML, IMAGE), Limits(mime_parts=2)))
        self.assertIn("1", self.refused(multipart("mixed", multipart("mixed", HTML)), Limits(mime_depth=1)))

    def test_large_part_headers(self) -> None:
        """The headers of all parts together have the limit of the message's own."""
        part = "X-Filler: " + "x" * 1000 + "\r\n" + HTML
        self.assertIn("headers", self.refused(multipart("mixed", part, part), Limits(header_block=1024)))
