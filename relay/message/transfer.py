"""Content-Transfer-Encoding (RFC 2045 section 6), read as far as a mail reader would show it."""

from __future__ import annotations

import binascii
import re

#: White space between the ``=`` of a soft line break and the line end: added on the way, no part of the text.
_LOOSE_SOFT_BREAK = re.compile(rb"=[ \t]+(?=\r?\n)")
_NOT_BASE64 = bytes(set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"))


def decode(data: bytes | memoryview, encoding: str) -> bytes | memoryview:
    """*data* without its transfer encoding; an unknown one is none."""
    if encoding == "quoted-printable":
        return quoted_printable(bytes(data))
    if encoding == "base64":
        return base64(bytes(data))
    return data


def quoted_printable(data: bytes) -> bytes:
    """Quoted-printable; an ``=`` that introduces nothing stays."""
    return binascii.a2b_qp(_LOOSE_SOFT_BREAK.sub(b"=", data))


def base64(data: bytes) -> bytes:
    """Base64 up to its padding; other characters are skipped, missing padding is added, a last half byte dropped.

    What follows the padding is not base64 but what something on the way appended in the clear.
    """
    try:
        return binascii.a2b_base64(data)
    except binascii.Error:
        digits = data.partition(b"=")[0].translate(None, _NOT_BASE64)
        if len(digits) % 4 == 1:
            digits = digits[:-1]
        return binascii.a2b_base64(digits + b"=" * (-len(digits) % 4))
