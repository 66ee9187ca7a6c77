"""MIME: finds the HTML or the text of a message, and what has to be left out (RFC 2046, MESSAGE.md "Body").

Parts are ranges of the message; bytes are copied only where a part is decoded.  Readers of mail are tolerant, and so
is this: a missing last boundary, white space behind a boundary, preambles and epilogues are all fine.  Refused is what
has no reading: a multipart without boundary, or more parts or levels than anybody sends.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator

from attrs import field, frozen

from relay.errors import PermanentFailure, Reason
from relay.message import charsets, headers, parameters, transfer
from relay.message.headers import Fields
from relay.message.parameters import Parameters
from relay.policy import Limits

#: What follows the boundary on its line; the dashes end the multipart (RFC 2046 section 5.1.1).
_BOUNDARY_END = re.compile(rb"(--)?[ \t]*(?:\r?\n|\Z)")
_BLANK = re.compile(rb"\s*")
_TYPE = re.compile(r"[^\s/;]+/[^\s/;]+")

#: Lines that may begin with a boundary without being one; bounds the time spent on them.
_MOST_FALSE_BOUNDARIES = 10_000

_PART_HEADERS = frozenset([b"content-type", b"content-disposition", b"content-transfer-encoding"])


@frozen
class Part:
    """A leaf or a multipart: the header fields that count, and where its content is.

    :ivar type: ``"text/html"``, lower-case; text/plain where the field is missing or makes no sense.
    :ivar parent: the type of the multipart around it, or ``""``.
    :ivar first: whether it is the first part of that.
    :ivar attached: whether it, or a multipart around it, has ``Content-Disposition: attachment``.
    :ivar reported: whether it is within a multipart/report (RFC 6522).
    """

    type: str
    parameters: Parameters
    encoding: str
    disposition: str
    filename: str
    start: int
    stop: int
    parent: str = ""
    first: bool = True
    attached: bool = False
    reported: bool = False

    def content(self, message: bytes) -> bytes:
        """The part's content in *message* without transfer encoding."""
        return bytes(transfer.decode(self._raw(message), self.encoding))

    def text(self, message: bytes) -> str:
        """The part's content as text, as :func:`text` gives it."""
        return text(self._raw(message), self.encoding, self.parameters.get("charset", ""))

    def _raw(self, message: bytes) -> memoryview:
        # A view: where there is no encoding, a large part is not copied before it is text.
        return memoryview(message)[self.start : self.stop]

    def is_blank(self, message: bytes) -> bool:
        """Whether there is nothing but white space in it, before decoding."""
        return _BLANK.fullmatch(message, self.start, self.stop) is not None


@frozen
class Body:
    """What a walk through a message found.

    :ivar html: the first text/html that is not blank and no attachment.
    :ivar text: the same of text/plain.
    :ivar images: number of image parts.
    :ivar attachments: all that a reader would list as a file, in order.
    """

    html: Part | None = None
    text: Part | None = None
    images: int = 0
    attachments: tuple[Part, ...] = field(default=())


class Kind(enum.Enum):
    """What the relay makes of a leaf."""

    HTML = enum.auto()
    TEXT = enum.auto()
    IMAGE = enum.auto()
    ATTACHMENT = enum.auto()
    DROPPED = enum.auto()


def find_body(content: bytes, fields: Fields, start: int, limits: Limits) -> Body:
    """The body of the message *content*, whose header has *fields* and whose body begins at *start*.

    :raises PermanentFailure: malformed MIME, or a limit exceeded.
    """
    html = text = None
    images = 0
    attachments = []
    for part in leaves(content, fields, start, limits):
        kind = classify(part)
        if kind is Kind.HTML and html is None and not part.is_blank(content):
            html = part
        elif kind is Kind.TEXT and text is None and not part.is_blank(content):
            text = part
        elif kind is Kind.IMAGE:
            images += 1
        elif kind is Kind.ATTACHMENT:
            attachments.append(part)
    return Body(html, text, images, tuple(attachments))


def leaves(content: bytes, fields: Fields, start: int, limits: Limits) -> Iterator[Part]:
    """All parts of a message that are no multipart, in order; parameters and errors are those of :func:`find_body`."""
    return _Walk(content, limits).leaves(_part(fields, start, len(content)), depth=1)


def text(data: memoryview, encoding: str, charset: str) -> str:
    """The text of a part; line ends as they are, NUL dropped (SMTP.md, "Framing")."""
    octets = transfer.decode(data, encoding) if encoding else data
    decoded = charsets.decode(octets, charset) if charset else charsets.guess(octets)
    return decoded.replace("\0", "") if "\0" in decoded else decoded


def classify(part: Part) -> Kind:
    """What the relay makes of *part*.

    A name alone makes a text part a file only where RFC 8621 section 4.1.4 says so: neither first in its multipart
    nor one of several alternatives.  Of the parts that are no body, these are no attachments either, because a
    reader lists no file for them: alternatives, the signature of a multipart/signed, and what a multipart/report
    holds for machines.
    """
    if part.type.startswith("image/"):
        return Kind.IMAGE
    alternative = part.parent == "multipart/alternative"
    named = part.filename and not (part.first or alternative or part.disposition == "inline")
    if part.type in _BODY_KINDS and not part.attached and not named:
        return _BODY_KINDS[part.type]
    if part.reported or (part.parent == "multipart/signed" and part.type.endswith("-signature")):
        return Kind.DROPPED
    if alternative and part.type.startswith("text/") and part.type != "text/calendar" and not part.attached:
        return Kind.DROPPED
    return Kind.ATTACHMENT


_BODY_KINDS = {"text/html": Kind.HTML, "text/plain": Kind.TEXT}


class _Walk:
    """One walk through a message's parts, and what it may still spend."""

    def __init__(self, content: bytes, limits: Limits) -> None:
        self._content = content
        self._limits = limits
        self._parts = 0
        self._header_octets = 0

    def leaves(self, part: Part, depth: int) -> Iterator[Part]:
        """The leaves of *part*, in order; *depth* is 1 for the message itself."""
        self._parts += 1
        if self._parts > self._limits.mime_parts:
            raise _malformed(f"More than {self._limits.mime_parts} MIME parts, send fewer")
        if not part.type.startswith("multipart/"):
            yield part
            return
        if depth > self._limits.mime_depth:
            raise _malformed(f"MIME parts nested deeper than {self._limits.mime_depth} levels, nest fewer")
        first = True
        for start, stop in _sections(self._content, part):
            yield from self.leaves(self._read(start, stop, part, first), depth + 1)
            first = False

    def _read(self, start: int, stop: int, parent: Part, first: bool) -> Part:
        """The part in a range: its header, up to the first line that is no field, and its content."""
        end, body = headers.end(self._content, start, stop)
        self._header_octets += end - start
        if self._header_octets > self._limits.header_block:
            raise _malformed("The headers of the MIME parts are too large, put an empty line after each")
        fields, fault = headers.split(self._content[start:end], _PART_HEADERS)
        return _part(fields, body if start + fault == end else start + fault, stop, parent, first)


def _part(fields: Fields, start: int, stop: int, parent: Part | None = None, first: bool = True) -> Part:
    content_type, type_parameters = parameters.parse(_first(fields, b"content-type"))
    if not _TYPE.fullmatch(content_type):
        # RFC 2045 section 5.2, RFC 2046 section 5.1.5.
        content_type = "message/rfc822" if parent and parent.type == "multipart/digest" else "text/plain"
    disposition, disposition_parameters = parameters.parse(_first(fields, b"content-disposition"))
    return Part(
        type=content_type,
        parameters=type_parameters,
        encoding=_encoding(_first(fields, b"content-transfer-encoding")),
        disposition=disposition,
        filename=parameters.filename(disposition_parameters, type_parameters),
        start=start,
        stop=stop,
        parent=parent.type if parent else "",
        first=first,
        attached=disposition == "attachment" or (parent is not None and parent.attached),
        reported=parent is not None and (parent.reported or parent.type == "multipart/report"),
    )


def _encoding(field: bytes | None) -> str:
    """The lower-case name of a transfer encoding, ``""`` without one."""
    words = headers.unfold(field).lower().split(None, 1) if field else []
    return words[0].rstrip(b";").decode("latin-1") if words else ""


def _first(fields: Fields, name: bytes) -> bytes | None:
    """The first of several fields counts, as for every reader."""
    values = fields.get(name)
    return values[0] if values else None


def _sections(content: bytes, multipart: Part) -> Iterator[tuple[int, int]]:
    """Where the parts of *multipart* begin and end in *content*.

    A part ends before the line end that precedes the next boundary; the last one at the multipart's end where its
    closing boundary is missing.

    :raises PermanentFailure: no boundary, or none of it in the content.
    """
    boundary = multipart.parameters.get("boundary", "").rstrip()
    if not boundary:
        raise _malformed(f"Content-Type {multipart.type} has no boundary parameter, give one")
    delimiter = b"\n--" + boundary.encode("utf-8", "replace")
    begin = -1
    position = max(multipart.start - 1, 0)
    false = 0
    while (at := content.find(delimiter, position, multipart.stop)) >= 0:
        line = _BOUNDARY_END.match(content, at + len(delimiter), multipart.stop)
        if line is None:
            position = at + len(delimiter)
            false += 1
            if false > _MOST_FALSE_BOUNDARIES:
                raise _malformed("Too many lines begin with the MIME boundary, choose another one")
            continue
        if begin >= 0:
            yield begin, max(begin, at - 1 if content[at - 1] == 13 else at)
        if line[1]:
            return
        begin = line.end()
        position = begin - 1
    if begin < 0:
        raise _malformed(f"No line of the {multipart.type} is its boundary, check the boundary parameter")
    yield begin, multipart.stop


def _malformed(text: str) -> PermanentFailure:
    return PermanentFailure(Reason.BAD_MESSAGE, text)
