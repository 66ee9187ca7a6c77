"""The JSON of the HTTP contract, both ways (HTTP_CONTRACT.md).

The relay encodes submissions and decodes answers; the embedded backend does the reverse.  Nothing here knows HTTP.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import orjson
from attrs import evolve

from relay.values import Account, Route, Submission

#: The string fields of a submission, in the order of the contract.
TEXT_FIELDS = (
    "fromname",
    "fromemail",
    "to",
    "toname",
    "subject",
    "replyto",
    "returnpath",
    "body",
    "tag",
    "route",
    "template",
)


class WireError(ValueError):
    """JSON that is not what the contract says; the text says what is wrong, for the one who sent it."""


def dump(value: object) -> bytes:
    """*value* as compact UTF-8 JSON; escaped where a lone surrogate has no UTF-8.

    :raises ValueError: NaN or an infinity, which JSON has no form for.
    """
    encoded = _dump_finite(value)
    # What orjson makes of NaN; it does not tell which null was one.
    return _dump_slowly(value) if b"null" in encoded else encoded


def _dump_finite(value: object) -> bytes:
    """As :func:`dump`, of what has no numbers."""
    try:
        return orjson.dumps(value)
    except TypeError:  # a lone surrogate, an integer of more than 64 bits, or nested deeply
        return _dump_slowly(value)


def _dump_slowly(value: object) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def encode_submission(submission: Submission) -> bytes:
    """The body of ``POST /api/transactional/send``."""
    fields = {
        "fromname": submission.fromname,
        "fromemail": submission.fromemail,
        "to": submission.to,
        "toname": submission.toname,
        "subject": submission.subject,
        "replyto": submission.replyto,
        "returnpath": submission.returnpath,
        "body": submission.body,
        "tag": submission.tag,
        "route": submission.route,
        "template": submission.template,
        "variables": submission.variables,
    }
    return _dump_finite(fields) if submission.variables is None else dump(fields)


def encode_body(body: str) -> bytes:
    """The JSON of :attr:`~relay.values.Submission.body` alone."""
    return _dump_finite(body)


def encode_around(submission: Submission) -> tuple[bytes, bytes]:
    """What :func:`encode_submission` has before and after the body, which many submissions have in common."""
    marked = encode_submission(evolve(submission, body=""))
    before, body, after = marked.partition(b',"body":""')
    return before + body[:-2], after


def decode_submission(
    body: bytes | str, *, api_key: str = "", request_id: str = "", idempotency_key: str = ""
) -> Submission:
    """The submission in *body*; absent or null text fields are ``""``.

    :raises WireError: not a JSON object, or a field of the wrong type.
    """
    fields = decode_object(body)
    text: dict[str, Any] = {}
    for name in TEXT_FIELDS:
        value = fields.get(name)
        if value is not None and not isinstance(value, str):
            raise WireError(f"{name}: must be a string")
        text[name] = value or ""
    variables = fields.get("variables")
    if variables is not None and not isinstance(variables, dict):
        raise WireError("variables: must be an object or null")
    return Submission(
        api_key=api_key, request_id=request_id, idempotency_key=idempotency_key, variables=variables, **text
    )


def encode_accepted(*, tag: str, to: str, id: str) -> bytes:
    """The answer to a submission that was taken."""
    return dump({"tag": tag, "to": to, "result": "ok", "id": id})


def is_accepted(body: bytes) -> bool:
    """Whether the body of a 2xx is complete, valid JSON, and so an acceptance."""
    try:
        orjson.loads(body)
    except ValueError:
        return _is_accepted_slowly(body)
    return True


def _is_accepted_slowly(body: bytes) -> bool:
    """Also another UTF than 8, and what Python takes for JSON beyond it."""
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


def encode_error(title: str, description: str) -> bytes:
    """The body of every 4xx and 5xx."""
    return dump({"title": title, "description": description})


def decode_error(body: bytes) -> str:
    """What an error's body says: its description, else its title, else ``""``; never raises."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(fields, dict):
        return ""
    said = fields.get("description") or fields.get("title")
    return said if isinstance(said, str) else ""


def encode_ping(account: Account) -> bytes:
    """The answer to a ping with a good key."""
    routes = [{"id": route.id, "name": route.name} for route in account.routes or ()]
    return dump([{"name": account.name, "routes": routes, "default_route": account.default_route}])


def decode_ping(key: str, body: bytes) -> Account:
    """The account behind *key*, from a list with one object, or the object alone.

    What is missing or of another shape is left out: the 200 alone says that the key is good.
    """
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return Account(key)
    if isinstance(fields, list):
        fields = fields[0] if fields else {}
    if not isinstance(fields, dict):
        return Account(key)
    return Account(key, _text(fields, "name"), _routes(fields.get("routes")), _text(fields, "default_route"))


def _routes(listed: object) -> tuple[Route, ...] | None:
    if not isinstance(listed, list):
        return None
    found = (Route(_text(each, "id"), _text(each, "name")) for each in listed if isinstance(each, dict))
    return tuple(route for route in found if route.id)


def _text(fields: Mapping[str, Any], name: str) -> str:
    """A field as text; ids may be numbers."""
    value = fields.get(name)
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number} is not a number that JSON can hold")
    return value


def decode_object(body: bytes | str) -> dict[str, Any]:
    """The JSON object in *body*.

    :raises WireError: it is none.
    """
    try:
        fields = json.loads(body, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise WireError("the body is nested too deeply") from None
    except ValueError as error:
        raise WireError(f"the body is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise WireError("the body is not a JSON object")
    return fields
