"""A submission with attachments as multipart/form-data (MESSAGE.md, "Other attachments"; RFC 7578).

treq has an encoder, and it is not used: it sorts the fields by name, which tears each file from its
metadata and puts the payload behind them, and it produces the body piece by piece on the global reactor.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence

from relay import wire
from relay.values import Attachment, Submission

_CONTENT_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: What an HTML form escapes in a file name (HTML, "Multipart form data"); other controls make no sense in one.
_UNSAFE = re.compile(r'["\x00-\x1f\x7f]')

_FIELD = b'--%b\r\nContent-Disposition: form-data; name="%b"%b\r\nContent-Type: %b\r\n\r\n'


def encode(submission: Submission, payload: Sequence[bytes]) -> tuple[str, Sequence[bytes]]:
    """The Content-Type and the body: ``payload``, then ``attachment_metadata`` and ``attachment`` for each file.

    The same submission has the same body, whichever attempt it is.  The contents of files are pieces of their own,
    which are not copied.
    """
    mark = boundary(submission.idempotency_key, [*payload, *(each.content for each in submission.attachments)])
    body: list[bytes] = [_FIELD % (mark, b"payload", b"", b"application/json"), *payload, b"\r\n"]
    for attachment in submission.attachments:
        body.extend(_file(mark, attachment))
    body.append(b"--%b--\r\n" % mark)
    return f"multipart/form-data; boundary={mark.decode()}", body


def boundary(seed: str, contents: Sequence[bytes]) -> bytes:
    """A boundary (RFC 2046 section 5.1.1) that occurs in none of *contents*; the same for the same arguments."""
    mark = seed.encode()
    while True:
        mark = hashlib.sha256(mark).hexdigest().encode()
        if not any(mark in content for content in contents):
            return mark


def _file(mark: bytes, attachment: Attachment) -> Iterator[bytes]:
    """The two fields of one file."""
    given = attachment.content_type
    content_type = given if _CONTENT_TYPE.fullmatch(given) else "application/octet-stream"
    metadata = wire.dump(
        {"filename": attachment.filename, "contentType": content_type, "size": len(attachment.content)}
    )
    name = _UNSAFE.sub(lambda found: f"%{ord(found[0]):02X}", attachment.filename).encode("utf-8", "replace")
    yield _FIELD % (mark, b"attachment_metadata", b"", b"application/json") + metadata + b"\r\n"
    yield _FIELD % (mark, b"attachment", b'; filename="%b"' % name, content_type.encode())
    yield attachment.content
    yield b"\r\n"
