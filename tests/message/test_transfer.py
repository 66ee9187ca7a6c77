"""Transfer encodings, sloppy ones included."""

from __future__ import annotations

import base64
import quopri

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.message import transfer


class DecodeTests(SynchronousTestCase):
    """:func:`relay.message.transfer.decode`."""

    def test_quoted_printable(self) -> None:
        """Soft line breaks go, also with white space behind the sign; hexadecimal is read in either case."""
        for encoded, plain in (
            (b"a=C3=BCb", "aüb".encode()),
            (b"a=c3=bcb", "aüb".encode()),
            (b"a=\r\nb", b"ab"),
            (b"a=\nb", b"ab"),
            (b"a= \t\r\nb", b"ab"),
            (b"a\r\nb", b"a\r\nb"),
        ):
            self.assertEqual(plain, transfer.decode(encoded, "quoted-printable"))

    def test_damaged_quoted_printable(self) -> None:
        """A sign that introduces nothing stays, at the end it goes."""
        self.assertEqual(b"a=XYb=", transfer.decode(b"a=XYb=3D", "quoted-printable"))
        self.assertEqual(b"a", transfer.decode(b"a=", "quoted-printable"))

    def test_base64(self) -> None:
        """Line breaks, missing padding, foreign characters and a cut end do no harm."""
        for encoded in (b"YWJj\r\nZGVm\r\n", b"YWJjZGVm", b"YW Jj!ZG-Vm", b"YWJjZGVmZ"):
            self.assertEqual(b"abcdef", transfer.decode(encoded, "base64"))
        self.assertEqual(b"a", transfer.decode(b"YQ", "base64"))
        self.assertEqual(b"", transfer.decode(b"*", "base64"))

    def test_text_behind_base64(self) -> None:
        """What a mailing list appends in the clear is not decoded."""
        self.assertEqual(b"a", transfer.decode(b"YQ==\r\n-- \r\nThe list", "base64"))

    def test_other(self) -> None:
        """Any other encoding is none."""
        for encoding in ("", "7bit", "8bit", "binary", "x-unknown"):
            self.assertEqual(b"a=\r\nb", transfer.decode(b"a=\r\nb", encoding))

    @settings(max_examples=100)
    @given(st.binary())
    def test_round_trip(self, data: bytes) -> None:
        """What was encoded comes back."""
        self.assertEqual(data, transfer.decode(base64.encodebytes(data), "base64"))
        encoded = quopri.encodestring(data.replace(b"\r", b""))
        self.assertEqual(data.replace(b"\r", b""), transfer.decode(encoded, "quoted-printable"))

    @settings(max_examples=100)
    @given(st.binary(), st.sampled_from(["base64", "quoted-printable"]))
    def test_never_fails(self, data: bytes, encoding: str) -> None:
        """Any bytes are decoded somehow."""
        self.assertIsInstance(transfer.decode(data, encoding), bytes)
