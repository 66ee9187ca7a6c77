"""``/reference``: the HTTP API for who writes a program, made of its OpenAPI document."""

from __future__ import annotations

from typing import Any

from attrs import frozen
from twisted.web.server import Request

from relay.embedded.api.doc import ERRORS, document
from relay.embedded.api.shapes import SCHEMAS, Schema
from relay.embedded.resource import Answer
from relay.embedded.web.frame import AccountPage, Viewer, html


@frozen
class Named:
    """A parameter or a field; *kind* is its type in words."""

    name: str
    kind: str
    required: bool
    description: str


@frozen
class Shown:
    """An operation as the page has it.

    :ivar errors: the statuses beside those that every operation may have.
    """

    name: str
    method: str
    path: str
    summary: str
    description: str
    parameters: tuple[Named, ...]
    fields: tuple[Named, ...]
    errors: tuple[str, ...]
    public: bool


class Reference(AccountPage):
    """Every operation with its parameters and fields."""

    async def of(self, viewer: Viewer, request: Request) -> Answer:
        shown = [
            _shown(path, method, operation)
            for path, methods in document()["paths"].items()
            for method, operation in methods.items()
        ]
        return html("reference.html", viewer, operations=shown, errors=ERRORS)


def _shown(path: str, method: str, operation: dict[str, Any]) -> Shown:
    parameters = operation["parameters"]
    common = {"400", "401", "500", "503"}
    return Shown(
        name=operation["operationId"],
        method=method.upper(),
        path=path,
        summary=operation["summary"],
        description=operation.get("description", ""),
        parameters=tuple(
            Named(each["name"], _kind(each["schema"]), each["required"], each["description"]) for each in parameters
        ),
        fields=_fields(operation),
        errors=tuple(status for status in operation["responses"] if status >= "400" and status not in common),
        public=operation.get("security") == [],
    )


def _fields(operation: dict[str, Any]) -> tuple[Named, ...]:
    """The fields of the JSON that is sent."""
    if "requestBody" not in operation:
        return ()
    reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    schema = SCHEMAS[reference.rpartition("/")[2]]
    required = schema.get("required", ())
    described = {name: each for name, each in schema["properties"].items() if each}
    return tuple(
        Named(name, _kind(each), name in required, each.get("description", "")) for name, each in described.items()
    )


def _kind(schema: Schema) -> str:
    """The type of *schema* in words; that null is taken for blank goes without saying."""
    if "enum" in schema:
        return " | ".join(schema["enum"])
    if "anyOf" in schema:
        return "day or time"
    kind = schema["type"]
    return str(kind if isinstance(kind, str) else kind[0])
