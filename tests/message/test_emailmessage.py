"""The spaces that Python's EmailMessage loses, doubles or encodes twice."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.message import headers, words
from relay.message.emailmessage import restore_spaces


def read(value: bytes) -> str:
    """The text of a raw value."""
    return words.decode(headers.text(restore_spaces(value)))


class RestoreSpacesTests(SynchronousTestCase):
    """:func:`relay.message.emailmessage.restore_spaces`."""

    def test_restored(self) -> None:
        """Each of Python's patterns reads as what was written: one space."""
        for value in (
            b"=?utf-8?q?=C3=BC?= =?utf-8?b?w7w=?=",
            b"=?utf-8?q?=C3=BC?=\r\n  =?utf-8?q?=C3=BC?=",
            b"=?utf-8?q?=C3=BC?= \r\n =?utf-8?q?=C3=BC?=",
            b"=?utf-8?q?=C3=BC?=\r\n =?utf-8?q?_=C3=BC?=",
        ):
            self.assertEqual("ü ü", read(value))
        for value in (
            b"a \r\n =?utf-8?q?=C3=BC?=",
            b"a\r\n  =?utf-8?q?=C3=BC?=",
            b"a\r\n =?utf-8?q?_=C3=BC?=",
            b"a \r\n =?utf-8?q?_?==?utf-8?q?=C3=BC?=",
            b"a\r\n =?utf-8?b?IMO8?=",
        ):
            self.assertEqual("a ü", read(value))

    def test_left_alone(self) -> None:
        """What others write, or Python without fault, is as it was."""
        full = b"=?utf-8?q?" + b"=C3=BC" * 10 + b"?="
        for value in (
            full + b" =?utf-8?q?=C3=BC?=",
            b"=?UTF-8?Q?=C3=BC?= =?UTF-8?Q?=C3=BC?=",
            b"=?utf-8?q?=C3=BC?=\r\n =?utf-8?q?=C3=BC?=",
            b"a =?utf-8?q?_=C3=BC?=",
            b"a\r\n b",
            b"a  b",
        ):
            self.assertEqual(value, restore_spaces(value))

    @settings(max_examples=100)
    @given(
        st.lists(st.sampled_from([b"=?utf-8?q?", b"=?utf-8?b?", b"_", b"IA=A", b"?=", b" ", b"\r\n ", b"\r\n\t", b"a"]))
    )
    def test_never_raises(self, pieces: list[bytes]) -> None:
        """Whatever it is given is read somehow."""
        self.assertIsInstance(read(b"".join(pieces)), str)

    def test_large(self) -> None:
        """A quarter of a megabyte of anything is read in one go."""
        for piece in (b" \r\n", b"=?utf-8?q?", b"=?utf-8?q?a?= ", b" ", b"\r\n  =?", b"?= "):
            self.assertIsInstance(read(piece * (250_000 // len(piece))), str)
