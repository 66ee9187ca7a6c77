"""What can be asked of the API: each operation with its parameters, its body and its answers."""

from __future__ import annotations

from typing import Any

from attrs import frozen

from relay.embedded.api.shapes import Schema
from relay.embedded.store import STATUSES

#: Blank is as if it were left out, as forms have it.
_DAY_OR_TIME: Schema = {
    "anyOf": [
        {"type": "string", "format": "date-time"},
        {"type": "string", "format": "date"},
        {"type": "string", "maxLength": 0},
    ]
}


@frozen
class Parameter:
    """A word in the query, in a header or in the path."""

    name: str
    where: str
    description: str
    schema: Any


@frozen
class Operation:
    """One method of one path.

    :ivar path: below ``/api/``.
    :ivar name: what generated clients call it.
    :ivar good: the status and the schema of the answer.
    :ivar errors: beside 400, 401, 500 and 503, which all may have.
    :ivar body: the schema of what is sent, ``""`` for nothing.
    :ivar public: it needs no key.
    """

    path: str
    method: str
    name: str
    summary: str
    good: tuple[int, str]
    errors: tuple[int, ...] = ()
    body: str = ""
    parameters: tuple[Parameter, ...] = ()
    public: bool = False
    description: str = ""


def query(name: str, description: str, schema: Any = None) -> Parameter:
    """A parameter of the query."""
    return Parameter(name, "query", description, schema or {"type": "string"})


ONCE = Parameter(
    "Idempotency-Key",
    "header",
    "Within 24 hours the same request with the same key is done once; another one with it is refused.",
    {"type": "string", "maxLength": 255, "pattern": "^[ -~]*$"},
)
REQUEST_ID = Parameter("X-Request-ID", "header", "The id of the message at the client's.", {"type": "string"})
FROM = query("from", "The beginning, a day or a time; UTC where it names no zone.", _DAY_OR_TIME)
TO = query("to", "The end; now where it is left out.", _DAY_OR_TIME)
INTERVAL = query("interval", "The length of a step.", {"enum": ["hour", "day"], "default": "hour"})

FILTERS = (
    query("to", "The recipient's address; without an @ beginnings of words of it, or of the name."),
    query("sender", "The sender's, likewise."),
    query("subject", "Beginnings of words of the subject."),
    query("search", "Beginnings of words of any of these."),
    query("id", "The message's id."),
    query("request_id", "The client's id."),
    query("tag", "The tag."),
    query("route", "The id of the route."),
    query("status", "What became of it.", {"enum": list(STATUSES)}),
    query("since", "The earliest time.", _DAY_OR_TIME),
    query("until", "The time before which they came.", _DAY_OR_TIME),
    query("before", "The before of the last answer: only older messages."),
    query("limit", "At most so many: 500, or 10000 as CSV.", {"type": "integer", "minimum": 1, "maximum": 10_000}),
    query("format", "CSV is had with Accept: text/csv, too.", {"enum": ["json", "csv"]}),
)

_TEMPLATE = "transactional/templates/{id}"

OPERATIONS = (
    Operation("ping", "get", "ping", "Whether the key is good, and what the account may use", (200, "Account")),
    Operation("healthy", "get", "healthy", "Whether messages can be stored", (200, "Done"), public=True),
    Operation("doc", "get", "doc", "This document", (200, "Document"), public=True),
    Operation(
        "transactional/send",
        "post",
        "send",
        "Send a message to one recipient",
        (200, "Accepted"),
        (403, 413, 415, 422),
        "Message",
        (ONCE, REQUEST_ID),
        description="With files it is multipart/form-data: the JSON in payload, each file in attachment, and before "
        'each, or before none, {"filename": ..., "contentType": ...} in attachment_metadata.',
    ),
    Operation(
        "transactional/log", "get", "log", "Messages, newest first, as JSON or CSV", (200, "Log"), parameters=FILTERS
    ),
    Operation("transactional/log/{id}", "get", "message", "A message with all of it", (200, "Logged"), (404,)),
    Operation(
        "transactional/templates",
        "get",
        "templates",
        "The templates, by name, without their HTML",
        (200, "Templates"),
        parameters=(query("search", "A part of the id, the name or the subject."), query("tag", "Their tag.")),
    ),
    Operation(
        "transactional/templates",
        "post",
        "make_template",
        "Make a template",
        (201, "Template"),
        (404, 409, 413, 415, 422),
        "TemplateGiven",
        (ONCE,),
    ),
    Operation(_TEMPLATE, "get", "template", "A template", (200, "Template"), (404,)),
    Operation(
        _TEMPLATE,
        "put",
        "put_template",
        "Replace a template, or make it (201)",
        (200, "Template"),
        (404, 409, 413, 415),
        "TemplateGiven",
    ),
    Operation(
        _TEMPLATE,
        "patch",
        "change_template",
        "Change some fields of a template",
        (200, "Template"),
        (404, 409, 413, 415),
        "TemplateChanged",
    ),
    Operation(_TEMPLATE, "delete", "delete_template", "Delete a template and its history", (200, "Done"), (404,)),
    Operation(
        f"{_TEMPLATE}/duplicate",
        "post",
        "duplicate_template",
        "Make a template that says the same",
        (201, "Template"),
        (404, 413, 415),
        "Nothing",
    ),
    Operation(
        f"{_TEMPLATE}/preview",
        "post",
        "preview_template",
        "What a message of the template would be, changed or as it is; nothing is kept",
        (200, "Preview"),
        (404, 413, 415),
        "PreviewWanted",
    ),
    Operation(
        f"{_TEMPLATE}/test",
        "post",
        "test_template",
        "Send a message of the template",
        (200, "Accepted"),
        (403, 404, 413, 415, 422),
        "TestWanted",
        (ONCE,),
    ),
    Operation(f"{_TEMPLATE}/versions", "get", "versions", "Its history, newest first", (200, "Versions"), (404,)),
    Operation(f"{_TEMPLATE}/versions/{{version}}", "get", "version", "One version", (200, "Version"), (404,)),
    Operation(
        f"{_TEMPLATE}/versions/{{version}}/restore",
        "post",
        "restore_version",
        "Make a version the newest one",
        (200, "Template"),
        (404, 413, 415),
        "Nothing",
    ),
    Operation(
        "transactional/tags", "get", "tags", "The tags that were used, with counts", (200, "Tags"), (), "", (FROM, TO)
    ),
    Operation(
        "transactional/tag/{tag}",
        "get",
        "tag",
        "The messages of a tag over time",
        (200, "Tag"),
        (404,),
        "",
        (FROM, TO, INTERVAL),
    ),
    Operation(
        "transactional/stats",
        "get",
        "stats",
        "Messages over time, by status and tag",
        (200, "Statistics"),
        (),
        "",
        (FROM, TO, INTERVAL, query("tag", "Of this tag only.")),
    ),
    Operation("transactional/settings", "get", "settings", "What the account has chosen", (200, "Settings")),
    Operation(
        "transactional/settings",
        "put",
        "choose",
        "Choose the route of messages that name none, by id or name",
        (200, "Settings"),
        (403, 413, 415),
        "Settings",
    ),
    Operation("transactional/routes", "get", "routes", "What messages may go by", (200, "Routes")),
    Operation(
        "reset/apikey",
        "post",
        "reset_key",
        "Get another key; the one in use stops at once",
        (200, "Key"),
        (413, 415),
        "Nothing",
    ),
)

PATH_PARAMETERS = {
    "id": ("Of the template or the message.", {"type": "string", "minLength": 1, "maxLength": 100}),
    "version": ("Counted from 1.", {"type": "integer", "minimum": 1}),
    "tag": ("In any case.", {"type": "string", "minLength": 1, "maxLength": 100}),
}
