"""Charsets: what is decoded how, and what is never run."""

from __future__ import annotations

import codecs

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.message import charsets


class DecodeTests(SynchronousTestCase):
    """:func:`relay.message.charsets.decode`."""

    def test_names(self) -> None:
        """Charsets are known by the names that mail uses, in any case and punctuation."""
        for name, text in (
            ("UTF-8", "ü日"),
            ("utf8", "ü日"),
            ("iso-8859-1", "ü"),
            ("ISO_8859-15", "€"),
            ("windows-1252", "„ü“"),
            ("cp1251", "Привет"),
            ("KOI8-R", "Привет"),
            ("iso-8859-2", "Łódź"),
            ("windows-1250", "Łódź"),
            ("gb2312", "中文"),
            ("GBK", "中文"),
            ("big5", "中文"),
            ("Shift_JIS", "日本語"),
            ("euc-jp", "日本語"),
            ("iso-2022-jp", "日本語"),
            ("euc-kr", "한국어"),
            ("ks_c_5601-1987", "한국어"),
            ("utf-16", "ü日"),
            ("utf-16be", "ü日"),
        ):
            codec = name if name != "ks_c_5601-1987" else "euc-kr"
            self.assertEqual(text, charsets.decode(text.encode(codec), name))

    def test_every_codec_exists(self) -> None:
        """Every charset of the allow-list can be decoded."""
        for name in (*charsets._CODECS, *charsets._SINGLE_BYTE):
            wide = {"utf16": "utf-16", "utf16le": "utf-16-le", "utf16be": "utf-16-be", "utf32": "utf-32"}
            self.assertEqual("a", charsets.decode("a".encode(wide.get(name, "ascii")), name))
            self.assertIsInstance(charsets.decode(bytes(range(256)), name), str)

    def test_allow_list(self) -> None:
        """No other codec of Python's is run, whatever it is called."""
        for name in ("rot13", "utf-7", "unicode_escape", "raw_unicode_escape", "idna", "punycode", "undefined", "zlib",
                     "hex", "bz2", "quopri", "uu", "mbcs", "x-unknown", "../utf-8", "\x00", "utf-8\n"):  # fmt: skip
            self.assertEqual("+AGE- \\u0061 xn--a", charsets.decode(b"+AGE- \\u0061 xn--a", name))

    def test_latin_1_is_windows_1252(self) -> None:
        """Typographic quotes in so-called Latin-1 are what every reader shows."""
        self.assertEqual("\u201ca\u201d\x81", charsets.decode(b"\x93a\x94\x81", "iso-8859-1"))

    def test_undefined_bytes(self) -> None:
        """A byte that the charset does not define is replaced."""
        self.assertEqual("a\ufffdb", charsets.decode(b"a\xffb", "windows-1253"))
        self.assertIn("\ufffd", charsets.decode(b"a\xff\xffb", "euc-jp"))

    def test_byte_order_mark(self) -> None:
        """A byte order mark is no part of the text, and tells UTF-16 apart where nothing else does."""
        self.assertEqual("ü", charsets.decode(codecs.BOM_UTF8 + "ü".encode(), "utf-8"))
        self.assertEqual("ü", charsets.decode(codecs.BOM_UTF16_LE + "ü".encode("utf-16-le"), "utf-16le"))
        self.assertEqual("ü", charsets.decode(codecs.BOM_UTF16_BE + "ü".encode("utf-16-be")))

    def test_no_charset(self) -> None:
        """Without a charset text is UTF-8, damaged or not, and Latin-1 only where nothing in it is UTF-8."""
        self.assertEqual("ü", charsets.decode("ü".encode()))
        self.assertEqual("ü", charsets.decode("ü".encode("latin-1"), "us-ascii"))
        self.assertEqual("ü\ufffd", charsets.decode("ü".encode() + b"\xff"))

    @settings(max_examples=100)
    @given(st.binary(), st.sampled_from(["", "utf-8", "utf-16", "iso-2022-jp", "hz-gb-2312", "big5", "x"]))
    def test_never_fails(self, data: bytes, charset: str) -> None:
        """Any bytes in any charset are text without lone surrogates."""
        charsets.decode(data, charset).encode()
