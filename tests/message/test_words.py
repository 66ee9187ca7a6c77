"""Encoded words (RFC 2047), as they should be and as they are."""

from __future__ import annotations

import base64

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.message import words


class DecodeTests(SynchronousTestCase):
    """:func:`relay.message.words.decode`."""

    def check(self, cases: dict[str, str]) -> None:
        for encoded, plain in cases.items():
            self.assertEqual(plain, words.decode(encoded))

    def test_both_encodings(self) -> None:
        """Q and B words are decoded, in either case, with text around them."""
        self.check(
            {
                "=?utf-8?q?Gr=C3=BC=C3=9Fe?=": "Grüße",
                "=?UTF-8?Q?a_b=5Fc?=": "a b_c",
                "=?utf-8?B?R3LDvMOfZQ==?=": "Grüße",
                "=?utf-8?b?R3LDvMOfZQ?=": "Grüße",
                "a =?utf-8?q?=C3=BC?= b": "a ü b",
                "=?iso-8859-1?q?=FC?=": "ü",
                "=?utf-8?q??=": "",
            }
        )

    def test_adjacent(self) -> None:
        """White space between two words is no part of the text; beside plain text it is."""
        self.check(
            {
                "=?utf-8?q?a?= =?utf-8?q?b?=": "ab",
                "=?utf-8?q?a?=   \t=?iso-8859-1?q?=FC?=": "aü",
                "=?utf-8?q?a?==?utf-8?q?b?=": "ab",
                "=?utf-8?q?a?= b =?utf-8?q?c?=": "a b c",
            }
        )

    def test_character_in_two_words(self) -> None:
        """A character whose bytes are parted between two words of one charset is whole."""
        self.check({"=?utf-8?q?=C3?= =?utf-8?q?=BC?=": "ü", "=?UTF-8?b?8J+O?= =?utf-8?B?iQ==?=": "🎉"})

    def test_language(self) -> None:
        """The language behind the charset is ignored (RFC 2231 section 5)."""
        self.check({"=?utf-8*de?q?=C3=BC?=": "ü"})

    def test_within_a_token(self) -> None:
        """A word in the middle of a token is decoded too."""
        self.check({"<=?utf-8?q?=C3=BC?=>": "<ü>"})

    def test_broken(self) -> None:
        """What is no word stays as it is."""
        for text in ("=?utf-8?x?a?=", "=?utf-8?q?a", "=?utf-8?b?*?=", "=??q?a?=", "=?utf-8?q?a?b?=", "=?", "?="):
            self.assertEqual(text, words.decode(text))

    def test_unknown_charset(self) -> None:
        """An unknown charset is UTF-8 where that holds, else Latin-1; a codec that is no charset is never run."""
        self.check(
            {
                "=?x-unknown?q?=C3=BC?=": "ü",
                "=?x-unknown?q?=FC?=": "ü",
                "=?rot13?q?abc?=": "abc",
                "=?utf-7?q?+AAo-?=": "+AAo-",
                "=?unicode_escape?q?=5Cn?=": "\\n",
                "=?undefined?q?a?=": "a",
                "=?idna?q?a?=": "a",
                "=?base64_codec?q?YWJj?=": "YWJj",
            }
        )

    def test_separate(self) -> None:
        """Only words between white space are decoded where those within a token may be text."""
        text = '"=?utf-8?q?a?=" =?utf-8?q?b?= =?utf-8?q?c?='
        self.assertEqual('"=?utf-8?q?a?=" bc', words.decode_separate(text))

    @settings(max_examples=100)
    @given(st.text(), st.integers(min_value=1, max_value=20))
    def test_any_split(self, text: str, size: int) -> None:
        """Text survives in words that are cut anywhere, as mailers cut them."""
        data = text.encode("utf-8", "replace")
        pieces = [base64.b64encode(data[at : at + size]).decode() for at in range(0, len(data), size)]
        encoded = "\r\n ".join(f"=?utf-8?b?{piece}?=" for piece in pieces)
        self.assertEqual(data.decode().removeprefix("\ufeff"), words.decode(encoded))

    @settings(max_examples=100)
    @given(st.text(alphabet="=?utf-8qQbB_ \t\r\n*ü\x00C3"))
    def test_never_raises(self, text: str) -> None:
        """Whatever looks like a word is decoded or left."""
        self.assertIsInstance(words.decode(text), str)


class CleanTests(SynchronousTestCase):
    """:func:`relay.message.words.clean`."""

    def test_control_characters(self) -> None:
        """C0, C1, separators and what overrides directions go; other characters stay."""
        self.assertEqual("ab", words.clean(" a\r\n\x00\x7f\x85\u2028\u2029\u202a\u202e\u2066\u2069b "))
        self.assertEqual("a\xa0\u200d🎉", words.clean("a\xa0\u200d🎉"))
