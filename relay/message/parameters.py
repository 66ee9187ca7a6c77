"""Content-Type and Content-Disposition: a value and its parameters (RFC 2045 section 5.1, RFC 2231)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from relay.message import charsets, headers, words

Parameters = Mapping[str, str]

#: Longest field, in octets, whose reading is remembered: nearly every message has one of a few.
_REMEMBERED = 200

#: One parameter.  A closing quote may be missing.
_PARAMETER = re.compile(r';\s*([^\s=;"]+)\s*=\s*(?:"([^"\\]*(?:\\.[^"\\]*)*)"?|([^;]*))', re.DOTALL)
_VALUE_END = re.compile(r"[\s;(]")
_COMMENT = re.compile(r'("[^"\\]*(?:\\.[^"\\]*)*"?)|\([^()"]*\)', re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)

#: RFC 2231 section 3 and 4: name, number of the segment, whether it is percent-encoded.
_SEGMENT = re.compile(r"([^*]+)(?:\*(\d{1,3}))?(\*)?")


def parse(field: bytes | None) -> tuple[str, Parameters]:
    """The lower-case value of a field, ``""`` without one, and its parameters by lower-case name, decoded.

    The first of two parameters with one name counts.
    """
    if field is None:
        return "", {}
    return _known(field) if len(field) <= _REMEMBERED else _parse(field)


def _parse(field: bytes) -> tuple[str, Parameters]:
    text = headers.text(field)
    if "(" in text:
        text = _COMMENT.sub(_without_comment, text)
    value = _VALUE_END.split(text, 1)[0]
    # The semicolon in front may be missing: "text/html charset=utf-8".
    following = f";{text[len(value) :].lstrip().removeprefix(';')}"
    found: dict[str, str] = {}
    segmented = False
    for name, quoted, plain in _PARAMETER.findall(following):
        segmented = segmented or "*" in name
        found.setdefault(name.lower(), _ESCAPE.sub(r"\1", quoted) if quoted else plain.strip())
    return value.lower(), _join(found) if segmented else found


_known = lru_cache(maxsize=256)(_parse)


def filename(disposition: Parameters, content_type: Parameters) -> str:
    """The name of a part, decoded and clean, without folders; ``""`` if it has none."""
    name = disposition.get("filename") or content_type.get("name") or ""
    if not name:
        return ""
    name = words.clean(words.decode(name))
    return name[max(name.rfind("/"), name.rfind("\\")) + 1 :]


def _without_comment(match: re.Match[str]) -> str:
    return match[1] or " "


def _join(found: Parameters) -> Parameters:
    """*found* with the segments and charsets of RFC 2231 resolved; such a parameter wins over a plain one."""
    joined = {name: value for name, value in found.items() if "*" not in name}
    segments: dict[str, list[tuple[int, bool, str]]] = {}
    for name, value in found.items():
        match = _SEGMENT.fullmatch(name)
        if match is not None and (match[2] or match[3]):
            segments.setdefault(match[1], []).append((int(match[2] or 0), bool(match[3]), value))
    for name, parts in segments.items():
        joined[name] = _extended(sorted(parts))
    return joined


def _extended(segments: list[tuple[int, bool, str]]) -> str:
    """The text of *segments*: (number, percent-encoded, value) in order; the first may begin ``charset'language'``."""
    charset = ""
    data = bytearray()
    for place, (_, encoded, value) in enumerate(segments):
        if encoded and not place and value.count("'") >= 2:
            charset, _, value = value.split("'", 2)
        data += unquote_to_bytes(value) if encoded else value.encode("utf-8", "replace")
    return charsets.decode(bytes(data), charset)
