"""The JSON of the API as schemas (JSON Schema 2020-12, which OpenAPI 3.1 uses), by name."""

from __future__ import annotations

from typing import Any

from relay.embedded import rules, template, templates
from relay.embedded.store import STATUSES

Schema = dict[str, Any]


def ref(name: str) -> Schema:
    """The schema *name* of :data:`SCHEMAS`."""
    return {"$ref": f"#/components/schemas/{name}"}


def obj(properties: dict[str, Schema], *, required: tuple[str, ...] = (), more: bool = False) -> Schema:
    """An object, with other fields too where *more* are let in."""
    shape: Schema = {"type": "object", "properties": properties, "additionalProperties": more}
    return {**shape, "required": list(required)} if required else shape


def full(properties: dict[str, Schema]) -> Schema:
    """An object of an answer: every field is there."""
    return obj(properties, required=tuple(properties))


def several(items: Schema) -> Schema:
    """A list."""
    return {"type": "array", "items": items}


def line(description: str, **bounds: Any) -> Schema:
    """A text of the client's in one line; null is blank."""
    return {"type": ["string", "null"], "maxLength": rules.LONGEST_FIELD, "description": description, **bounds}


TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "integer", "minimum": 0}
TIME: Schema = {"type": "string", "format": "date-time"}
VARIABLES: Schema = {
    "type": ["object", "null"],
    "additionalProperties": True,
    "description": "For Jinja2 in the body, and for {{name}} in subject, From and Reply-To. Null: nothing is put in.",
}

_MESSAGE = {
    "fromname": line("The sender's name."),
    "fromemail": line("The sender's address."),
    "to": {**line("The recipient's address."), "type": "string"},
    "toname": line("The recipient's name."),
    "subject": line("May be blank only with a template that has one."),
    "replyto": line("Where answers go."),
    "returnpath": line("Where bounces go; blank is the null sender."),
    "body": {"type": ["string", "null"], "description": "The HTML; may be blank only with a template."},
    "tag": line(f"At most {rules.LONGEST_TAG} of a-z 0-9 . _ -; blank is untagged."),
    "route": line("The id or the name of a route; blank is the account's only one, or its default."),
    "template": line("The id of a template: what it says wins over the message."),
    "variables": VARIABLES,
}

_FIELDS = {
    "name": line("For people.", maxLength=templates.LONGEST_NAME),
    "subject": _MESSAGE["subject"],
    "fromname": _MESSAGE["fromname"],
    "fromemail": _MESSAGE["fromemail"],
    "replyto": _MESSAGE["replyto"],
    "returnpath": _MESSAGE["returnpath"],
    "tag": line("Of the messages.", maxLength=rules.LONGEST_TAG + 10),
    "body": {"type": ["string", "null"], "maxLength": template.LONGEST_SOURCE, "description": "HTML with Jinja2."},
}
_KEPT: dict[str, Schema] = dict.fromkeys(_FIELDS, TEXT)
_ABOUT = {"id": TEXT, "version": NUMBER, "created": TIME, "updated": TIME}
_SUMMARY = {**_ABOUT, **{name: shape for name, shape in _KEPT.items() if name != "body"}}

#: Taken from who sends back what was answered; ``version`` is checked, the times are not looked at.
_GIVEN = {
    "id": line("Of a new template; made of the name where it is blank.", maxLength=templates.LONGEST_ID),
    "version": {"type": ["integer", "null"], "description": "The one that you change: 409 when it is not the newest."},
    "created": {},
    "updated": {},
}

_ROW = {
    "id": TEXT,
    "created": TIME,
    "status": {"enum": list(STATUSES)},
    "size": {**NUMBER, "description": "Of the body, in bytes."},
    "attachments": NUMBER,
    "updated": TIME,
    "attempts": NUMBER,
    "answer": {
        **TEXT,
        "description": "The last words of the route; of a refused message the reply that the client got.",
    },
    "resent": {**TEXT, "description": "The id of the message that this one repeats."},
    **dict.fromkeys(
        ("request_id", "fromname", "fromemail", "to", "toname", "subject", "replyto", "returnpath", "tag"), TEXT
    ),
    "route": TEXT,
    "template": TEXT,
}
_COUNTS: dict[str, Schema] = {"messages": NUMBER, "statuses": ref("Statuses")}
_SPAN = {
    "from": TIME,
    "to": TIME,
    "interval": {"enum": ["hour", "day"]},
    **_COUNTS,
    "steps": several(full({"at": TIME, **_COUNTS})),
}
_TAG: dict[str, Schema] = {"tag": TEXT, "created": {"type": ["string", "null"], "format": "date-time"}, **_COUNTS}
_NULL: Schema = {"type": "null"}

SCHEMAS: dict[str, Schema] = {
    "Error": full({"title": TEXT, "description": TEXT}),
    "Done": full({"result": {"const": "ok"}}),
    "Account": several(full({"name": TEXT, "routes": several(ref("Route")), "default_route": TEXT})),
    "Route": full({"id": TEXT, "name": TEXT}),
    "Routes": full({"routes": several(ref("Route"))}),
    "Settings": full({"default_route": {**TEXT, "description": "Blank: messages must name a route."}}),
    "Message": obj(_MESSAGE, required=("to",), more=True),
    "Accepted": full({"tag": TEXT, "to": TEXT, "result": {"const": "ok"}, "id": TEXT}),
    "Statuses": full(dict.fromkeys(STATUSES, NUMBER)),
    "Row": full(_ROW),
    "Log": full({"messages": several(ref("Row")), "before": {"type": ["string", "null"]}}),
    "Logged": full(
        {
            **_ROW,
            "attachments": {
                "anyOf": [several(full({"filename": TEXT, "content_type": TEXT, "size": NUMBER})), _NULL],
            },
            "body": {"type": ["string", "null"], "description": "As it would be sent; null when it is no longer kept."},
            "posted": {"type": ["object", "null"], "description": "As it came; null when it is no longer kept."},
            "timeline": several(full({"at": TIME, "kind": TEXT, "answer": TEXT, "detail": TEXT})),
        }
    ),
    "TemplateGiven": obj({**_FIELDS, **_GIVEN}, required=("name",)),
    "TemplateChanged": obj({**_FIELDS, **_GIVEN}),
    "Template": full({**_ABOUT, **_KEPT}),
    "Templates": full({"templates": several(full(_SUMMARY))}),
    "Versions": full(
        {
            "versions": several(
                full({"version": NUMBER, "saved": TIME, "author": TEXT, **{n: TEXT for n in _FIELDS if n != "body"}})
            )
        }
    ),
    "Version": full({"version": NUMBER, "saved": TIME, "author": TEXT, **_KEPT}),
    "PreviewWanted": obj({**_FIELDS, "variables": VARIABLES}),
    "Preview": full(
        {
            **_KEPT,
            "undefined": {**several(TEXT), "description": "Variables that it uses and that are not there."},
            "error": {
                "anyOf": [
                    full({"field": TEXT, "line": {"type": ["integer", "null"]}, "description": TEXT}),
                    _NULL,
                ]
            },
        }
    ),
    "TestWanted": obj(
        {
            **{name: _MESSAGE[name] for name in ("to", "toname", "route", "fromname", "fromemail", "subject")},
            "variables": VARIABLES,
        },
        required=("to",),
    ),
    "Nothing": obj({}),
    "Tags": full({"tags": several(full(_TAG))}),
    "Tag": full({**_TAG, **_SPAN}),
    "Statistics": full({**_SPAN, "tags": several(full({"tag": TEXT, **_COUNTS}))}),
    "Key": full({"key": {**TEXT, "description": "The new one; it is shown here and on the page of the account."}}),
}
