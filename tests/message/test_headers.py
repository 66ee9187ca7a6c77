"""The header block: where it ends, which fields are kept, how they are unfolded."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relay.errors import PermanentFailure, Reason
from relay.message import headers


class EndTests(SynchronousTestCase):
    """:func:`relay.message.headers.end`."""

    def check(self, content: bytes, header: bytes, body: bytes) -> None:
        end, start = headers.end(content, 0, len(content))
        self.assertEqual((header, body), (content[:end], content[start:]))

    def test_crlf(self) -> None:
        """The first empty line ends the header, whatever stands behind it."""
        self.check(b"A: 1\r\nB: 2\r\n\r\nbody\r\n\r\nmore", b"A: 1\r\nB: 2", b"body\r\n\r\nmore")

    def test_lf(self) -> None:
        """A message with LF line ends is read alike."""
        self.check(b"A: 1\nB: 2\n\nbody\n\nmore", b"A: 1\nB: 2", b"body\n\nmore")

    def test_mixed(self) -> None:
        """The first of two kinds of empty lines counts."""
        self.check(b"A: 1\n\nbody\r\n\r\nmore", b"A: 1", b"body\r\n\r\nmore")
        self.check(b"A: 1\r\n\r\nbody\n\nmore", b"A: 1", b"body\n\nmore")
        self.check(b"A: 1\n\r\nbody", b"A: 1", b"body")

    def test_no_header(self) -> None:
        """An empty line at the very beginning is an empty header."""
        self.check(b"\r\nbody", b"", b"body")
        self.check(b"\nbody", b"", b"body")

    def test_no_body(self) -> None:
        """Without an empty line everything is header."""
        self.check(b"A: 1\r\nB: 2\r\n", b"A: 1\r\nB: 2\r\n", b"")


class SplitTests(SynchronousTestCase):
    """:func:`relay.message.headers.split`."""

    def test_whitelist(self) -> None:
        """Only the headers that count are kept, by lower-case name, in order."""
        block = b"Received: by x;\r\n at y\r\nSUBJECT: a\r\nX-Mailer: b\r\nsubject:c\r\n d\r\nDKIM-Signature: e"
        fields, fault = headers.split(block)
        self.assertEqual({b"subject": [b" a\r", b"c\r\n d\r"]}, fields)
        self.assertEqual(len(block), fault)

    def test_space_before_colon(self) -> None:
        """The obsolete space between a name and its colon is no part of the name (RFC 5322 section 4.5)."""
        self.assertEqual({b"from": [b" a@b"]}, headers.split(b"From : a@b")[0])

    def test_mbox_line(self) -> None:
        """An mbox separator at the top is skipped, and only there."""
        block = b"From jane@x Mon Jan 1\r\nSubject: a"
        self.assertEqual(({b"subject": [b" a"]}, len(block)), headers.split(block))
        self.assertEqual(12, headers.split(b"Subject: a\r\nFrom jane@x\r\n")[1])

    def test_no_colon(self) -> None:
        """The first line that is no field is reported by its offset."""
        self.assertEqual(({b"subject": [b" a\r"]}, 12), headers.split(b"Subject: a\r\nno field\r\nTo: b@c"))

    def test_many_folds(self) -> None:
        """A field of 100,000 folds is one field."""
        block = b"Subject: a" + b"\r\n b" * 100_000
        fields, fault = headers.split(block)
        self.assertEqual(len(block), fault)
        self.assertEqual("a" + " b" * 100_000, headers.decoded(fields, "Subject"))


class DiscardedTests(SynchronousTestCase):
    """:func:`relay.message.headers.discarded`."""

    def test_names(self) -> None:
        """Whoever misses a header finds its name, as written, once, in order; what counts is not named."""
        block = b"Received: by x;\r\n at: y\r\nSUBJECT: a\r\nX-Mailer : b\r\nreceived: c\r\nDKIM-Signature: d\r\n\r\n"
        self.assertEqual(("Received", "X-Mailer", "DKIM-Signature"), headers.discarded(block))
        self.assertEqual((), headers.discarded(b"From jane@x Mon Jan 1\r\nSubject: a"))

    def test_bounded(self) -> None:
        """However many and long the names are, 50 are kept, with 100 characters each."""
        names = headers.discarded(b"".join(b"X-%d-%s: a\n" % (each, b"x" * 200) for each in range(60)))
        self.assertEqual(50, len(names))
        self.assertEqual({100}, set(map(len, names)))

    def test_printable(self) -> None:
        """Control characters and 8-bit octets in a name become question marks."""
        self.assertEqual(("X?[31m??",), headers.discarded("X\x1b[31mé: a".encode()))


class UnfoldTests(SynchronousTestCase):
    """:func:`relay.message.headers.unfold`."""

    def test_folds(self) -> None:
        """A fold's line end goes, its white space stays; a tab stands for a space."""
        for folded in (b" a\r\n b", b"a\n b", b"a\r\n\tb\r\n ", b"\r\n a\r\n b\r"):
            self.assertEqual(b"a b", headers.unfold(folded))

    def test_forced_break(self) -> None:
        """After a physical line of 990 octets or more the space goes too."""
        self.assertEqual(b"x" * 990 + b"y", headers.unfold(b"x" * 990 + b"\r\n y"))
        self.assertEqual(b"x" * 989 + b" y", headers.unfold(b"x" * 989 + b"\r\n y"))

    def test_forced_break_counts_the_name(self) -> None:
        """The header's name is part of its first physical line."""
        self.assertEqual(b"x" * 980 + b"y z", headers.unfold(b"x" * 980 + b"\r\n y\r\n z", before=10))

    def test_forced_break_of_a_continuation(self) -> None:
        """A continuation's white space is part of its physical line."""
        self.assertEqual(b"a " + b"x" * 989 + b"y", headers.unfold(b"a\r\n " + b"x" * 989 + b"\r\n y"))

    def test_character_broken_in_two(self) -> None:
        """A character whose bytes a forced break has parted is whole again."""
        value = b"x" * 997 + "ü".encode()[:1] + b"\r\n " + "ü".encode()[1:]
        self.assertEqual("x" * 997 + "ü", headers.text(value))


class SingleTests(SynchronousTestCase):
    """:func:`relay.message.headers.single` and what builds on it."""

    def test_repeated(self) -> None:
        """Two of a header that may stand once are refused, and the header is named."""
        fields, _ = headers.split(b"Subject: a\r\nSubject: a")
        failure = self.assertRaises(PermanentFailure, headers.decoded, fields, "Subject")
        self.assertEqual(Reason.BAD_MESSAGE, failure.reason)
        self.assertIn("Subject", failure.text)

    def test_absent(self) -> None:
        """A header that is not there is empty text."""
        self.assertEqual("", headers.decoded({}, "Subject"))

    def test_raw_text(self) -> None:
        """Raw UTF-8 is read; what is no UTF-8 is Latin-1."""
        for raw in ("Grüße".encode(), "Grüße".encode("latin-1")):
            fields, _ = headers.split(b"Subject: " + raw)
            self.assertEqual("Grüße", headers.decoded(fields, "Subject"))

    def test_control_characters(self) -> None:
        """Control characters are removed, also those that come out of encoded words."""
        for raw in (b"a\x00b\x7f\x1bc", "a\u202eb\u2028c\u0085".encode(), b"=?utf-8?q?a=0D=0Ab=00c?="):
            fields, _ = headers.split(b"Subject: " + raw)
            self.assertEqual("abc", headers.decoded(fields, "Subject"))
