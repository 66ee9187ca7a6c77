"""What Python's ``EmailMessage`` does to the spaces around its encoded words, undone.

Its folding (``email._header_value_parser``) loses a space between two words, doubles one where it folds before a word,
and since 3.13 encodes one that it also writes.  In a sentence that is a blemish; in JSON it is another value.  Each
pattern is one that no other mailer is known to write: they start a second word on a line only where the first is full,
fold with one space, and do not encode a space that they write as well.
"""

from __future__ import annotations

import binascii
import re

from relay.message import transfer

#: A word as Python writes it, the charset in lower case, and one that begins with a space.
_WORD = rb"=\?utf-8\?[qb]\?[^?\s]*\?="
_BEGINS_WITH_SPACE = rb"=\?utf-8\?(?:q\?_|b\?I[A-P])"

#: Two words on one line, which is at most 78 octets long.
_PAIR = re.compile(rb"(" + _WORD + rb") (?!" + _BEGINS_WITH_SPACE + rb")(?=(" + _WORD + rb"))")
_LINE = 78

#: A fold with a second space, on either side, before a word; perhaps behind another word.
_WIDE_FOLD = re.compile(rb"(\?=)?(?:[ \t]\r?\n[ \t]{1,2}|\r?\n[ \t]{2})(?!" + _BEGINS_WITH_SPACE + rb")=\?")

#: A fold between plain text and a word that begins with the space that the fold stands for.
_ENCODED_FOLD = re.compile(rb"(?<!\?=)(?<![ \t\r])[ \t]?\r?\n[ \t]{1,2}=\?utf-8\?(?:q\?_|b\?(I[A-P][A-Za-z0-9+/=]{2}))")

#: A space that counts between two words, because it is a word itself (RFC 2047 section 6.2).
_SPACE = b" =?utf-8?q?_?= "


def restore_spaces(value: bytes) -> bytes:
    """A header's raw value, folds included, with the spaces of its text."""
    value = _PAIR.sub(_parted, value)
    value = _WIDE_FOLD.sub(lambda fold: b"?=" + _SPACE + b"=?" if fold[1] else b" =?", value)
    return _ENCODED_FOLD.sub(_without_space, value)


def _parted(pair: re.Match[bytes]) -> bytes:
    fits = len(pair[1]) + len(pair[2]) + 2 <= _LINE
    return pair[1] + (_SPACE if fits else b" ")


def _without_space(fold: re.Match[bytes]) -> bytes:
    if fold[1] is None:
        return b" =?utf-8?q?"
    rest = binascii.b2a_base64(transfer.base64(fold[1])[1:], newline=False)
    return b" =?utf-8?b?" + rest + b"?==?utf-8?b?"
