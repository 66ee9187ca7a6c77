"""The body of a POST: JSON alone, or multipart/form-data with files (HTTP_CONTRACT.md; MESSAGE.md, "forward")."""

from __future__ import annotations

import io
import json

from attrs import field, frozen
from multipart import (  # type: ignore[import-untyped]  # it has annotations, but no py.typed to say so
    MultipartError,
    MultipartParser,
    MultipartPart,
    parse_options_header,
)

from relay.embedded.rules import Refused, attachment, wrong
from relay.values import Attachment

#: Most files of one message, and most bytes of one part's header line.
MOST_FILES = 200
LONGEST_HEADER = 8192


@frozen
class Posted:
    """What a POST brought.

    :ivar payload: the JSON.
    """

    payload: bytes = field(repr=False)
    attachments: tuple[Attachment, ...] = ()


def read(content_type: str, content_encoding: str, body: bytes) -> Posted:
    """The JSON and the files in *body*.

    :raises Refused: 415 for another kind of body, 400 for a damaged form.
    """
    kind, options = _kind(content_type, content_encoding)
    if kind == "multipart/form-data":
        return _form(options.get("boundary", ""), body)
    if _is_json(kind):
        return Posted(body)
    raise _unsupported("Send application/json, or multipart/form-data with the JSON in payload")


def check_json(content_type: str, content_encoding: str) -> None:
    """Let a body pass that is JSON alone.

    :raises Refused: 415 for another kind of body.
    """
    if not _is_json(_kind(content_type, content_encoding)[0]):
        raise _unsupported("Send application/json")


def _kind(content_type: str, content_encoding: str) -> tuple[str, dict[str, str]]:
    if content_encoding.strip().lower() not in ("", "identity"):
        raise Refused(415, "Unsupported content encoding", "Send the body as it is, not compressed")
    kind, options = parse_options_header(content_type)
    return kind, options


def _is_json(kind: str) -> bool:
    return kind in ("", "application/json") or (kind.startswith("application/") and kind.endswith("+json"))


def _unsupported(description: str) -> Refused:
    return Refused(415, "Unsupported content type", description)


def _form(boundary: str, body: bytes) -> Posted:
    """The parts ``payload`` once, and ``attachment_metadata`` and ``attachment`` in pairs.

    Metadata is a JSON object; its ``filename`` and ``contentType`` win over those of the file's part.
    """
    payloads: list[bytes] = []
    described: list[dict[str, object]] = []
    files: list[MultipartPart] = []
    parts: list[MultipartPart] = []
    try:
        for part in _parts(boundary, body):
            parts.append(part)
            if part.name == "payload":
                payloads.append(part.raw)
            elif part.name == "attachment_metadata":
                described.append(_metadata(part.raw))
            elif part.name == "attachment":
                files.append(part)
            else:
                raise wrong(f"{str(part.name)[:100]}: no such part; payload, attachment_metadata and attachment are")
        if len(payloads) != 1:
            raise wrong("payload: must stand in the form once")
        if len(described) not in (0, len(files)):
            raise wrong("attachment_metadata: must come once for each attachment, or not at all")
        described += [{}] * (len(files) - len(described))
        return Posted(payloads[0], tuple(_file(*pair) for pair in zip(files, described, strict=True)))
    except MultipartError as error:
        raise wrong(f"The body is not the form that its Content-Type says: {error}") from None
    finally:
        for part in parts:
            part.close()


def _parts(boundary: str, body: bytes) -> MultipartParser:
    return MultipartParser(
        io.BytesIO(body),
        boundary,
        len(body),
        header_limit=16,
        headersize_limit=LONGEST_HEADER,
        part_limit=2 * MOST_FILES + 1,
        spool_limit=len(body) + 1,
        memory_limit=len(body) + 1,
    )


def _metadata(raw: bytes) -> dict[str, object]:
    try:
        fields = json.loads(raw)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise wrong("attachment_metadata: must be a JSON object")
    return fields


def _file(part: MultipartPart, described: dict[str, object]) -> Attachment:
    name = described.get("filename") or part.filename or "unnamed"
    kind = described.get("contentType") or part.content_type or "application/octet-stream"
    return attachment(Attachment(str(name), str(kind), part.raw))
