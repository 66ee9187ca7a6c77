"""``GET /api/doc``: the API as an OpenAPI 3.1 document."""

from __future__ import annotations

import re
from functools import cache
from http import HTTPStatus
from typing import Any

from twisted.web.server import Request

import relay
from relay import wire
from relay.embedded.api.core import Platform, parameters
from relay.embedded.api.operations import OPERATIONS, PATH_PARAMETERS, Operation, Parameter
from relay.embedded.api.shapes import SCHEMAS, Schema, ref
from relay.embedded.resource import Answer, Endpoint

#: Why there is an error; every one is an object of the schema Error.
ERRORS = {
    400: "A parameter, the body or the template is wrong; the description says which and how.",
    401: "There is no good key in X-Auth-APIKey.",
    403: "The account does not have this route or template.",
    404: "The account has nothing of this name.",
    409: "It is there already, or was changed meanwhile.",
    413: "The body is larger than the server takes.",
    415: "The body is of a kind that is not taken, or compressed.",
    422: "The Idempotency-Key came with another request before.",
    500: "A defect; the server's log has it.",
    503: "The server cannot do it now, try again later.",
}
_ALWAYS = (400, 401, 500, 503)
_ABOUT = (
    "A transactional email platform in small. The key of the account stands in the header X-Auth-APIKey. Times are "
    "RFC 3339 in UTC. A method that a path does not have gets 405 with Allow. A field or a parameter that there is not "
    "gets 400, except in a message, whose other fields are kept as they came."
)


class Doc(Endpoint):
    """The document, for anyone: it is the same for all."""

    def __init__(self, platform: Platform) -> None:
        super().__init__()

    async def answer(self, request: Request) -> Answer:
        parameters(request)
        return Answer(wire.dump(document()), headers=(("Access-Control-Allow-Origin", "*"),))


@cache
def document() -> dict[str, Any]:
    """The whole of it."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(f"/api/{operation.path}", {})[operation.method] = _operation(operation)
    errors = {str(status): _error(status) for status in ERRORS}
    key = {"type": "apiKey", "in": "header", "name": "X-Auth-APIKey"}
    return {
        "openapi": "3.1.0",
        "info": {"title": "smtp-relay", "version": relay.__version__, "description": _ABOUT},
        "servers": [{"url": "/"}],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "schemas": {**SCHEMAS, "Document": {"type": "object", "description": "OpenAPI 3.1"}},
            "responses": errors,
            "securitySchemes": {"key": key},
        },
    }


def path_names(path: str) -> list[str]:
    """The names of the segments of *path* that may be any text."""
    return re.findall(r"\{(\w+)\}", path)


def _operation(operation: Operation) -> dict[str, Any]:
    named = [Parameter(name, "path", *PATH_PARAMETERS[name]) for name in path_names(operation.path)]
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": [_parameter(each) for each in (*named, *operation.parameters)],
        "responses": _responses(operation),
    }
    if operation.description:
        described["description"] = operation.description
    if operation.public:
        described["security"] = []
    if operation.body:
        described["requestBody"] = _body(operation)
    return described


def _responses(operation: Operation) -> dict[str, Any]:
    status, schema = operation.good
    good = {"description": operation.summary, "content": {"application/json": {"schema": ref(schema)}}}
    if operation.name == "log":
        good["content"]["text/csv"] = {"schema": {"type": "string"}}  # type: ignore[index]  # it is what stands above
    answers = {str(status): good}
    if operation.name == "put_template":
        answers["201"] = {**good, "description": "It is new"}
    errors = sorted({*_ALWAYS, *operation.errors} - ({401} if operation.public else set()))
    return {**answers, **{str(each): {"$ref": f"#/components/responses/{each}"} for each in errors}}


def _body(operation: Operation) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": ref(operation.body)}}
    required = bool(SCHEMAS[operation.body].get("required"))
    return {"required": required, "content": content}


def _parameter(parameter: Parameter) -> dict[str, Any]:
    schema: Schema = parameter.schema
    return {
        "name": parameter.name,
        "in": parameter.where,
        "required": parameter.where == "path",
        "description": parameter.description,
        "schema": schema,
    }


def _error(status: int) -> dict[str, Any]:
    content = {"application/json": {"schema": ref("Error")}}
    return {"description": f"{HTTPStatus(status).phrase}. {ERRORS[status]}", "content": content}
