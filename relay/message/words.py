"""RFC 2047 encoded words, as mailers really write them."""

from __future__ import annotations

import binascii
import re

from relay.message import charsets, transfer

#: One encoded word, anywhere in the text: mailers put them in the middle of a token too.  No group can run past the
#: next question mark, so that searching is linear.
WORD = re.compile(r"=\?([^?\s]{1,75})\?([bBqQ])\?([^?]*)\?=")

#: The same without groups, for patterns that hold it.
PATTERN = r"=\?[^?\s]{1,75}\?[bBqQ]\?[^?]*\?="

#: Words with nothing but white space between them, which is no part of the text (RFC 2047 section 6.2).
_ADJACENT = re.compile(rf"{PATTERN}(?:\s*{PATTERN})*")

_SEPARATE = re.compile(rf"(?<!\S){_ADJACENT.pattern}(?!\S)")

#: C0, DEL, C1, line and paragraph separators, and what overrides the direction of text (MESSAGE.md).
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")


def decode(text: str) -> str:
    """*text* with its encoded words decoded; broken ones stay as they are."""
    return _ADJACENT.sub(_run, text) if "=?" in text else text


def decode_separate(text: str) -> str:
    """*text* with those encoded words decoded that stand by themselves, between white space or at an end.

    All that a mailer makes do (RFC 2047 section 5); what looks like one within a token may be text.
    """
    return _SEPARATE.sub(_run, text)


def clean(text: str) -> str:
    """*text* without control characters, stripped."""
    text = text.strip()
    return text if text.isprintable() else _CONTROL.sub("", text).strip()


def _run(match: re.Match[str]) -> str:
    """A run of adjacent words.

    Those of one charset are joined as bytes, because mailers split characters of several bytes between two words.
    """
    decoded: list[str] = []
    charset, pending = "", bytearray()
    for word in WORD.finditer(match[0]):
        # RFC 2231 section 5: charset*language.
        its_charset = word[1].partition("*")[0].lower()
        data = _payload(word[2], word[3])
        if data is None or its_charset != charset:
            decoded.append(charsets.decode(bytes(pending), charset))
            charset, pending = its_charset, bytearray()
        if data is None:
            decoded.append(word[0])
        else:
            pending += data
    decoded.append(charsets.decode(bytes(pending), charset))
    return "".join(decoded)


def _payload(encoding: str, text: str) -> bytes | None:
    """What a word holds, or None where it is no base64."""
    data = text.encode("utf-8", "replace")
    if encoding in "qQ":
        return binascii.a2b_qp(data, header=True)
    return transfer.base64(data) or (None if data.strip() else b"")
