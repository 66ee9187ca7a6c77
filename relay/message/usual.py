"""The usual shapes of a message, read at once: what most programs send costs a fraction of what a message can cost.

Usual is HTML, alone or behind a text that says the same, below a header of printable ASCII in which what counts stands
once.  For all else :func:`read` has no answer, and the general parser reads it; where it has one, it is the same.
"""

from __future__ import annotations

from typing import NamedTuple

from relay.errors import PermanentFailure
from relay.message import addresses, headers, mime, parameters, variables, words
from relay.policy import Limits
from relay.values import JSONObject, Message

#: Largest header, in octets: what is read in vain is read twice.
LARGEST_HEADER = 16_384

_COUNTED = frozenset(name.decode() for name in headers.COUNTED)

#: What has to stand as it is meant, neither folded nor encoded.
_VERBATIM = frozenset(["x-auth-apikey", "x-transactional-idempotency-key", "x-transactional-variables"])

#: All of them are UTF-8 (see :mod:`relay.message.charsets`): what is blank before decoding is blank behind it.
_CHARSETS = frozenset(["", "utf-8", "us-ascii"])
_ENCODINGS = frozenset(["", "7bit", "8bit", "quoted-printable", "base64"])


class Header(NamedTuple):
    """The header of a message or of a part.

    :ivar fields: what counts, each unfolded, by lower-case name.
    :ivar discarded: the names of the others, as :func:`relay.message.headers.discarded` has them.
    :ivar end: where the body begins.
    """

    fields: dict[str, str]
    discarded: tuple[str, ...]
    end: int


def read(content: bytes, limits: Limits) -> Message | None:
    """What counts of the message *content*, or None where its shape is not usual."""
    header = _header(content, limits.header_block)
    if header is None:
        return None
    fields, discarded, _ = header
    subject = _decoded(fields, "subject")
    idempotency_key = fields.get("x-transactional-idempotency-key", "")
    html = _html(content, header, limits)
    if not (html and subject) or html.isspace() or len(idempotency_key) > headers.LONGEST_IDEMPOTENCY_KEY:
        return None
    try:
        sender = addresses.sender(fields.get("from", ""))
        values = _variables(fields, limits)
    except PermanentFailure:
        return None
    return Message(
        from_name=sender.name,
        from_email=sender.address,
        subject=subject,
        body=html,
        to_names=addresses.to_names(fields.get("to", "")),
        reply_to=addresses.reply_to(fields.get("reply-to", "")),
        tag=_decoded(fields, "x-transactional-tag"),
        route=_decoded(fields, "x-transactional-route"),
        template=_decoded(fields, "x-transactional-template"),
        variables=values,
        api_key=fields.get("x-auth-apikey"),
        idempotency_key=idempotency_key,
        headers_removed=discarded,
    )


def _header(content: bytes, largest: int) -> Header | None:
    """The header at the top of *content*, or None where it is not usual."""
    end = content.find(b"\r\n\r\n", 0, min(largest, LARGEST_HEADER))
    if end < 0 or not (block := content[:end]).isascii():
        return None
    # A fold is a line feed and a space from here on.
    lines = block.decode().replace("\r\n\t", "\n ").replace("\r\n ", "\n ").split("\r\n")
    if max(map(len, lines)) >= headers.FORCED_BREAK or not "".join(lines).replace("\n ", "").isprintable():
        return None
    fields: dict[str, str] = {}
    discarded: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not (name and colon) or " " in name or len(name) > headers.LONGEST_DISCARDED:
            return None
        key = name.lower()
        if key not in _COUNTED:
            discarded.setdefault(key, name)
        elif key in fields or (key in _VERBATIM and not _is_verbatim(value)):
            return None
        else:
            fields[key] = value.replace("\n", "").strip()
    return Header(fields, tuple(discarded.values()), end + 4) if len(discarded) <= headers.MOST_DISCARDED else None


def _is_verbatim(value: str) -> bool:
    """Whether *value* is what was meant: something, and neither folded nor encoded."""
    return not (value.isspace() or "\n" in value or "=?" in value) and value != ""


def _decoded(fields: dict[str, str], key: str) -> str:
    """A field decoded and clean, ``""`` without one."""
    value = fields.get(key, "")
    return words.clean(words.decode(value)) if "=?" in value else value


def _variables(fields: dict[str, str], limits: Limits) -> JSONObject | None:
    given = fields.get("x-transactional-variables")
    return None if given is None else variables.parse([given.encode()], deepest=limits.variables_depth)


def _html(content: bytes, header: Header, limits: Limits) -> str:
    """The HTML of a message, ``""`` where its body is not usual."""
    kind, its = _content_type(header)
    if kind != "multipart/alternative":
        return _text(content, header)
    text, html = _two(content[header.end - 1 :], its.get("boundary", "").rstrip())
    text_header, html_header = _header(text, limits.header_block // 2), _header(html, limits.header_block // 2)
    if text_header is None or _content_type(text_header)[0] != "text/plain":
        return ""
    return "" if html_header is None or limits.mime_parts < 3 else _text(html, html_header)


def _content_type(header: Header) -> tuple[str, parameters.Parameters]:
    """The type of a message or part and its parameters; ``""`` where it has a disposition, too."""
    if "content-disposition" in header.fields:
        return "", {}
    return parameters.parse(header.fields.get("content-type", "").encode())


def _two(body: bytes, boundary: str) -> tuple[bytes, bytes]:
    """The parts of a multipart of two, empty where it has more or fewer.

    :param body: with the line feed before it, which may belong to the first delimiter.
    """
    pieces = body.split(b"\n--" + boundary.encode(), 3) if boundary.isascii() and boundary else []
    if len(pieces) == 4 and (pieces[3] == b"--" or pieces[3].startswith(b"--\r\n")):
        _, first, second, _ = pieces
        if first.startswith(b"\r\n") and second.startswith(b"\r\n"):
            return first[2:].removesuffix(b"\r"), second[2:].removesuffix(b"\r")
    return b"", b""


def _text(content: bytes, header: Header) -> str:
    """The HTML of a message or part without others in it, ``""`` where it has none, or not as usual."""
    kind, its = _content_type(header)
    encoding = header.fields.get("content-transfer-encoding", "").lower()
    if kind != "text/html" or encoding not in _ENCODINGS or its.get("charset", "").lower() not in _CHARSETS:
        return ""
    return mime.text(memoryview(content)[header.end :], encoding, "")
