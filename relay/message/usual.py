"""The usual shapes of a message, read at once: what most programs send costs a fraction of what a message can cost.

Usual is HTML, alone or behind a text that says the same, below a header of printable ASCII in which what counts stands
once.  For all else :func:`read` has no answer, and the general parser reads it; where it has one, it is the same.
"""

from __future__ import annotations

import re
from functools import lru_cache

from relay.errors import PermanentFailure
from relay.message import addresses, headers, mime, parameters, variables, words
from relay.policy import Limits
from relay.values import JSONObject, Message

#: Largest header, in octets: what is read in vain is read twice.
LARGEST_HEADER = 16_384

_COUNTED = frozenset(name.decode() for name in headers.COUNTED)

#: What has to stand as it is meant, neither folded nor encoded.
_VERBATIM = frozenset(["x-auth-apikey", "x-transactional-idempotency-key", "x-transactional-variables"])

#: The others as nearly everybody writes them, and their lower-case names.
_WRITTEN = {name.title(): name for name in _COUNTED - _VERBATIM}

#: All of them are UTF-8 (see :mod:`relay.message.charsets`): what is blank before decoding is blank behind it.
_CHARSETS = frozenset(["", "utf-8", "us-ascii"])
_ENCODINGS = frozenset(["", "7bit", "8bit", "quoted-printable", "base64"])

_PRINTABLE = bytes(range(0x20, 0x7F))

#: A multipart/alternative, and its boundary in quotes or without.
_ALTERNATIVE = re.compile(
    r"""multipart/alternative ; \s* boundary = (?: "([^"\\]+)" | ([^\s;"(]+) )""", re.VERBOSE | re.IGNORECASE
)
#: What follows the last boundary.
_END = re.compile(rb"--(?:\r\n|\Z)")

#: From is the same in nearly all messages of an account.
_sender = lru_cache(maxsize=256)(addresses.sender)

#: What counts in a header, each unfolded, by lower-case name; and the names of what does not.
Header = tuple[dict[str, str], tuple[str, ...]]


def read(content: bytes, limits: Limits) -> Message | None:
    """What counts of the message *content*, or None where its shape is not usual."""
    end = content.find(b"\r\n\r\n", 0, LARGEST_HEADER)
    header = _header(content[:end]) if 0 <= end <= limits.header_block - 4 else None
    if header is None:
        return None
    fields, discarded = header
    field = fields.get
    html = _html(content, fields, end + 4, limits)
    subject, idempotency_key = field("subject", ""), field("x-transactional-idempotency-key", "")
    tag, route = field("x-transactional-tag", ""), field("x-transactional-route", "")
    template = field("x-transactional-template", "")
    if "=?" in subject or "=?" in tag or "=?" in route or "=?" in template:
        subject, tag, route, template = [words.clean(words.decode(each)) for each in (subject, tag, route, template)]
    if not (html and subject) or html.isspace() or len(idempotency_key) > headers.LONGEST_IDEMPOTENCY_KEY:
        return None
    reply_to = field("reply-to", "")
    if "=?" in reply_to:
        reply_to = addresses.reply_to(reply_to)
    try:
        name, address = _sender(field("from", ""))
        values = _variables(fields, limits)
    except PermanentFailure:
        return None
    to_names = addresses.to_names(field("to", ""))
    api_key = field("x-auth-apikey")
    # By position, in the order of the fields: their names would cost a third of it.
    return Message(
        name, address, subject, html, to_names, reply_to, tag, route, template, values, api_key, idempotency_key,
        headers_removed=discarded,
    )  # fmt: skip


def _header(block: bytes) -> Header | None:
    """The header *block*, without its last line end, or None where it is not usual."""
    if b"\t" in block:
        block = block.replace(b"\r\n\t", b"\r\n ")
    lines = block.decode("latin-1").split("\r\n")
    # All but the line ends is printable ASCII, and no line was broken by force.
    if len(block.translate(None, _PRINTABLE)) != 2 * len(lines) - 2 or (
        len(block) >= headers.FORCED_BREAK and max(map(len, lines)) >= headers.FORCED_BREAK
    ):
        return None
    fields: dict[str, str] = {}
    discarded: dict[str, str] = {}
    key, value = None, ""
    for line in lines:
        name, colon, rest = line.partition(":")
        if name in _WRITTEN:
            key = _WRITTEN[name]
        elif line[:1] == " ":
            # A fold, which what has to stand as it is meant may not have.  The header is too small for many.
            if key is None or key in _VERBATIM:
                return None
            if key in fields:
                value += line
                fields[key] = value.strip()
            continue
        else:
            key = name.lower()
            if key not in _COUNTED:
                if not (key and colon) or " " in key or len(key) > headers.LONGEST_DISCARDED:
                    return None
                discarded.setdefault(key, name)
                continue
            if key in _VERBATIM and ("=?" in rest or not rest or rest.isspace()):
                return None
        if key in fields or not colon:
            return None
        value = rest
        fields[key] = rest.strip()
    return (fields, tuple(discarded.values())) if len(discarded) <= headers.MOST_DISCARDED else None


def _variables(fields: dict[str, str], limits: Limits) -> JSONObject | None:
    given = fields.get("x-transactional-variables")
    return None if given is None else variables.parse([given.encode()], deepest=limits.variables_depth)


def _html(content: bytes, fields: dict[str, str], start: int, limits: Limits) -> str:
    """The HTML of a message, ``""`` where its body is not usual."""
    if "content-disposition" in fields:
        return ""
    content_type = fields.get("content-type", "")
    if "boundary" in content_type:
        match = _ALTERNATIVE.fullmatch(content_type)
        return "" if match is None else _second(content, (match[1] or match[2]).rstrip(), start, limits)
    return _text(content, start, len(content), _kind(content_type), fields.get("content-transfer-encoding", ""))


def _second(content: bytes, boundary: str, start: int, limits: Limits) -> str:
    """The HTML of a multipart of two parts, of which it is the second; ``""`` where that is not so."""
    delimiter = b"\n--" + boundary.encode()
    size = len(delimiter)
    # The line feed before the body may belong to the first delimiter.
    first = content.find(delimiter, start - 1)
    second = content.find(delimiter, first + size)
    third = content.find(delimiter, second + size)
    if not (start - 1 <= first < second < third and _END.match(content, third + size)):
        return ""
    if not (content.startswith(b"\r\n", first + size) and content.startswith(b"\r\n", second + size)):
        return ""
    largest = min(limits.header_block // 2, LARGEST_HEADER)
    kind, _, _ = _part(content, first + size + 2, second, largest)
    if kind != "text/plain" or limits.mime_parts < 3:
        return ""
    # A part ends before the line end that precedes the delimiter.
    third -= content[third - 1] == 13
    kind, encoding, begin = _part(content, second + size + 2, third, largest)
    return _text(content, begin, third, kind, encoding)


def _part(content: bytes, start: int, stop: int, largest: int) -> tuple[str, str, int]:
    """Type and encoding of a part, as :func:`_leaf` has them, and where its body begins."""
    end = content.find(b"\r\n\r\n", start, min(stop, start + largest))
    return (*_leaf(content[start:end]), end + 4) if end >= 0 else ("", "", 0)


@lru_cache(maxsize=256)  # the parts of all messages have the same few
def _leaf(block: bytes) -> tuple[str, str]:
    """Type and encoding in the header *block* of a part, ``""`` where they are not usual."""
    header = _header(block)
    if header is None or "content-disposition" in header[0]:
        return "", ""
    fields, _ = header
    return _kind(fields.get("content-type", "")), fields.get("content-transfer-encoding", "")


@lru_cache(maxsize=256)
def _kind(content_type: str) -> str:
    """The type in a Content-Type; ``""`` where it is HTML in a charset that is not usual."""
    kind, its = parameters.parse(content_type.encode())
    return "" if kind == "text/html" and its.get("charset", "").lower() not in _CHARSETS else kind


def _text(content: bytes, start: int, stop: int, kind: str, encoding: str) -> str:
    """The HTML of a message or part without others in it, ``""`` where it has none, or not as usual."""
    encoding = encoding.lower()
    if kind != "text/html" or encoding not in _ENCODINGS:
        return ""
    return mime.text(memoryview(content)[start:stop], encoding, "")
