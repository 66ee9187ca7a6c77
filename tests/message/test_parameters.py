"""Content-Type and Content-Disposition with their parameters."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relay.message import parameters


class ParseTests(SynchronousTestCase):
    """:func:`relay.message.parameters.parse`."""

    def test_absent(self) -> None:
        """A field that is not there has neither value nor parameters."""
        self.assertEqual(("", {}), parameters.parse(None))

    def test_forms(self) -> None:
        """Case, quotes, folds, comments and a missing semicolon make no difference."""
        for field in (
            b" text/html; charset=utf-8",
            b"TEXT/HTML;CHARSET=utf-8",
            b'text/html; charset="utf-8"',
            b"text/html;\r\n\tcharset = utf-8 ;",
            b"text/html (a comment); charset=utf-8 (another)",
            b"text/html charset=utf-8",
            b'text/html; charset="utf-8',
            b'text/html; charset="\\utf-8"; charset=second',
        ):
            self.assertEqual(("text/html", {"charset": "utf-8"}), parameters.parse(field))

    def test_quoted(self) -> None:
        """Quotes keep semicolons, parentheses and escaped quotes."""
        self.assertEqual({"boundary": '(a;b"c)'}, parameters.parse(b'multipart/mixed; boundary="(a;b\\"c)"')[1])

    def test_rfc_2231(self) -> None:
        """Percent-encoding and continuations are resolved, in any order, and win over a plain parameter."""
        for field in (
            b"attachment; filename*=utf-8''Gr%C3%BC%C3%9Fe.pdf",
            b"attachment; filename=x.pdf; filename*=iso-8859-1'de'Gr%FC%DFe.pdf",
            b"attachment; filename*0*=utf-8''Gr%C3; filename*1*=%BC%C3%9F; filename*2=e.pdf",
            b"attachment; filename*1=\"e.pdf\"; filename*0*=UTF-8''Gr%C3%BC%C3%9F",
        ):
            self.assertEqual({"filename": "Grüße.pdf"}, parameters.parse(field)[1])

    def test_many(self) -> None:
        """20,000 semicolons, unclosed quotes or segments are no problem."""
        for field in (b";" * 20_000, b'; a="' * 20_000, b"; a*1=x" * 20_000, b"(" * 20_000, b"; a" + b" " * 20_000):
            self.assertEqual("text/html", parameters.parse(b"text/html" + field)[0])


class FilenameTests(SynchronousTestCase):
    """:func:`relay.message.parameters.filename`."""

    def test_sources(self) -> None:
        """The name stands in the disposition, else in the type, maybe in encoded words."""
        self.assertEqual("a.pdf", parameters.filename({"filename": "a.pdf"}, {"name": "b.pdf"}))
        self.assertEqual("b.pdf", parameters.filename({}, {"name": "b.pdf"}))
        self.assertEqual("ü.pdf", parameters.filename({"filename": "=?utf-8?q?=C3=BC=2Epdf?="}, {}))
        self.assertEqual("", parameters.filename({}, {}))

    def test_folders(self) -> None:
        """Folders and control characters are no part of a name."""
        for name in ("/etc/a.pdf", "..\\..\\a.pdf", "a\r\n.pdf"):
            self.assertEqual("a.pdf", parameters.filename({"filename": name}, {}))
