"""X-Transactional-Variables: whatever mailers make of a long line of JSON, made a dict again (MESSAGE.md)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from relay.errors import PermanentFailure, Reason
from relay.message import emailmessage, headers, words

NAME = "X-Transactional-Variables"

#: Octets of the header's first line that are not value.
_BEFORE = len(NAME) + 1

#: Digits that no double needs more of: an integer with more is out of its range (RFC 8259 section 6).
_LONGEST_INTEGER = 310

#: A JSON string, which may lack its end so that a search never starts again within it.
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_BRACKET = re.compile(r"[][{}]")

_KINDS = {list: "a list", str: "a string", bool: "true or false", int: "a number", float: "a number"}


def parse(values: Iterable[bytes], *, deepest: int) -> dict[str, Any]:
    """The variables of the headers *values*, merged in order: a later one's key replaces an earlier one's.

    A blank header is no object: who sends one meant to send variables, and would send ``{{ name }}`` instead.

    :param deepest: nesting allowed; the object itself is the first level.
    :raises PermanentFailure: a header is no JSON object, or one too deep or with a number too large; the text has
        the column in the decoded value.
    """
    merged: dict[str, Any] = {}
    for value in values:
        merged.update(_object(value, deepest))
    return merged


def _object(value: bytes, deepest: int) -> dict[str, Any]:
    """One header's object.

    JSON may hold text that looks like an encoded word, and mailers encode words in the middle of JSON.  So those that
    stand by themselves are decoded first, as mailers write them, and the others only where that is no JSON yet.
    """
    if b"=?" not in value:
        text = headers.text(value, _BEFORE)
        return _loads(text, deepest)
    text = headers.text(emailmessage.restore_spaces(value), _BEFORE)
    for reading in (words.decode_separate(text), words.decode(text)):
        try:
            return _loads(reading, deepest)
        except PermanentFailure as failure:
            refusal = failure
    raise refusal


def _loads(text: str, deepest: int) -> dict[str, Any]:
    if text.count("{") + text.count("[") > deepest:
        _check_depth(text, deepest)
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise _refused(error.msg, error.pos) from None
    except _NumberError as error:
        raise _refused(error.why, _blanked(text).find(error.literal)) from None
    if not isinstance(value, dict):
        raise _refused(f"it is {_KINDS.get(type(value), 'null')}", 0)
    return value


def _check_depth(text: str, deepest: int) -> None:
    """Refuse nesting before ``json`` recurses into it."""
    depth = 0
    for bracket in _BRACKET.finditer(_blanked(text)):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > deepest:
            raise _refused(f"nested deeper than {deepest} levels", bracket.start())


def _blanked(text: str) -> str:
    """*text* with spaces for its strings: what is left is syntax, where it was."""
    return _STRING.sub(lambda string: " " * len(string[0]), text)


class _NumberError(Exception):
    """A number that JSON or a double cannot hold."""

    def __init__(self, literal: str, why: str) -> None:
        super().__init__(literal)
        self.literal = literal
        self.why = why


def _integer(literal: str) -> int:
    if len(literal) > _LONGEST_INTEGER:
        raise _NumberError(literal, "a number is too large")
    _float(literal)
    return int(literal)


def _float(literal: str) -> float:
    value = float(literal)
    if math.isinf(value):
        raise _NumberError(literal, "a number is too large")
    return value


def _constant(name: str) -> NoReturn:
    raise _NumberError(name, f"{name} is no JSON")


def _refused(why: str, position: int) -> PermanentFailure:
    return PermanentFailure(Reason.BAD_VARIABLES, f"{NAME} is not a JSON object: {why} at column {position + 1}")


_DECODER = json.JSONDecoder(parse_int=_integer, parse_float=_float, parse_constant=_constant)
