"""The header block: found, cut into fields, and only the fields that count kept (MESSAGE.md).

Values stay bytes with their folds until somebody needs them: most never are.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Container

from relay.errors import PermanentFailure, Reason
from relay.message import charsets, words

#: Field values by lower-case name, folds included, in the order of the message.
Fields = dict[bytes, list[bytes]]

#: The headers of a message that count.
COUNTED = frozenset(
    [
        b"from",
        b"to",
        b"subject",
        b"reply-to",
        b"x-transactional-tag",
        b"x-transactional-route",
        b"x-transactional-template",
        b"x-transactional-variables",
        b"x-transactional-idempotency-key",
        b"x-auth-apikey",
        b"content-type",
        b"content-disposition",
        b"content-transfer-encoding",
    ]
)

#: Longest X-Transactional-Idempotency-Key, in characters.
LONGEST_IDEMPOTENCY_KEY = 256

#: Most discarded headers that are named, and the longest name, in octets.
MOST_DISCARDED = 50
LONGEST_DISCARDED = 100

#: A physical line this long was broken by force (Postfix and others, at 990 or 998 octets), not folded at a space.
FORCED_BREAK = 990

#: A field with its folds: name, colon, value.  Matches a line that is none as well, with an empty colon.
_FIELD = re.compile(rb"([^:\n]*)(:?)(.*(?:\n[ \t].*)*)\n?")
_NAME = re.compile(rb"^([^:\s][^:\n]*):", re.MULTILINE)
_UNPRINTABLE = re.compile(rb"[^ -~]")
_FOLD = re.compile(rb"\r?\n[ \t]")


def read(content: bytes, largest: int) -> tuple[Fields, int]:
    """The fields of the message *content* that count, and where its body begins.

    :param largest: octets the header block may have.
    :raises PermanentFailure: it has more, or a line in it is no field.
    """
    stop, start = end(content, 0, len(content))
    if stop > largest:
        raise PermanentFailure(Reason.BAD_MESSAGE, f"The header is larger than {largest} bytes, shorten it")
    fields, fault = split(content[:stop])
    if fault < stop:
        line = content.count(b"\n", 0, fault) + 1
        raise PermanentFailure(
            Reason.BAD_MESSAGE, f"Line {line} has no colon, put an empty line between the header and the body"
        )
    return fields, start


def end(content: bytes, start: int, stop: int) -> tuple[int, int]:
    """Where the header block that begins at *start* ends, and where the body begins.

    The block's last line end is not part of it.  Without an empty line everything is header.
    """
    if content.startswith((b"\r\n", b"\n"), start, stop):
        return start, start + (2 if content[start] == 13 else 1)
    crlf = content.find(b"\n\r\n", start, stop)
    lf = content.find(b"\n\n", start, crlf if crlf >= 0 else stop)
    if lf >= 0:
        return lf, lf + 2
    if crlf >= 0:
        return (crlf - 1 if content[crlf - 1] == 13 else crlf), crlf + 3
    return stop, stop


def split(block: bytes, counted: Container[bytes] = COUNTED) -> tuple[Fields, int]:
    """The fields of *block* whose lower-case names are in *counted*; the others are discarded.

    An mbox "From " line at the top is skipped.

    :return: the fields, and the offset of the first line that is neither a field nor the continuation of one, or
        the length of *block*.
    """
    fields: Fields = {}
    for place, (name, colon, value) in enumerate(_FIELD.findall(block)):
        if not colon and name.strip() and (place or not name.startswith((b"From ", b">From "))):
            return fields, next(itertools.islice(_FIELD.finditer(block), place, None)).start()
        name = name.rstrip().lower()
        if name in counted:
            fields.setdefault(name, []).append(value)
    return fields, len(block)


def discarded(block: bytes) -> tuple[str, ...]:
    """The names of the fields of *block* that do not count, as first written, in order.

    At most :data:`MOST_DISCARDED`, each of at most :data:`LONGEST_DISCARDED` characters of printable ASCII.
    """
    found: dict[bytes, bytes] = {}
    for name in _NAME.findall(block):
        key = name.rstrip().lower()
        if key not in COUNTED:
            found.setdefault(key, name)
    names = itertools.islice(found.values(), MOST_DISCARDED)
    return tuple([_UNPRINTABLE.sub(b"?", name.rstrip()[:LONGEST_DISCARDED]).decode("ascii") for name in names])


def unfold(value: bytes, before: int = 0) -> bytes:
    """A field's value in one line (RFC 5322 section 2.2.3), stripped.

    A tab that begins a continuation stands for a space.  After a physical line of :data:`FORCED_BREAK` octets or
    more the white space goes too, so that a forced break leaves no trace.

    :param before: octets of the first line before the value: the name and its colon.
    """
    if b"\n" not in value:
        return value.strip()
    if before + len(value) < FORCED_BREAK:
        return _FOLD.sub(b" ", value).strip()
    lines = [line.rstrip(b"\r") for line in value.split(b"\n")]
    joined = [lines[0]]
    length = before + len(lines[0])
    for line in lines[1:]:
        joined.append(line[1:] if length >= FORCED_BREAK else b" " + line[1:])
        length = len(line)
    return b"".join(joined).strip()


def text(value: bytes, before: int = 0) -> str:
    """A field's value as :func:`unfold` gives it, as text.

    Raw UTF-8 is read; encoded words are not (see :mod:`relay.message.words`).
    """
    return charsets.guess(unfold(value, before))


@functools.cache  # the names stand in this program
def _key(name: str) -> bytes:
    return name.lower().encode()


def single(fields: Fields, name: str) -> bytes | None:
    """The value of a header that may stand only once, or None.

    :param name: as it is written, for the failure's text.
    :raises PermanentFailure: there are two.
    """
    values = fields.get(_key(name))
    if values is None:
        return None
    if len(values) > 1:
        raise PermanentFailure(Reason.BAD_MESSAGE, f"There are {len(values)} {name} headers, send one")
    return values[0]


def single_text(fields: Fields, name: str) -> str:
    """The text of a header that may stand only once, not decoded; ``""`` without one.

    :raises PermanentFailure: there are two.
    """
    value = single(fields, name)
    return "" if value is None else text(value, len(name) + 1)


def decoded(fields: Fields, name: str) -> str:
    """The same, decoded and clean.

    :raises PermanentFailure: there are two.
    """
    raw = single_text(fields, name)
    return words.clean(words.decode(raw)) if raw else ""
