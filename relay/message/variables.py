"""X-Transactional-Variables: whatever mailers make of a long line of JSON, made a dict again (MESSAGE.md)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from relay.errors import PermanentFailure, Reason
from relay.message import headers, words

NAME = "X-Transactional-Variables"

#: Digits that no double needs more of: an integer with more is out of its range (RFC 8259 section 6).
_LONGEST_INTEGER = 310

#: A JSON string, which may lack its end so that a search never starts again within it.
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_BRACKET = re.compile(r"[][{}]")

_KINDS = {list: "a list", str: "a string", bool: "true or false", int: "a number", float: "a number"}


def parse(values: Iterable[bytes], *, deepest: int) -> dict[str, Any]:
    """The variables of the headers *values*, merged in order: a later one's key replaces an earlier one's.

    A blank header is an empty object: the body is a template all the same.

    :param deepest: nesting allowed; the object itself is the first level.
    :raises PermanentFailure: a header is no JSON object, or one too deep or with a number too large; the text has
        the column in the decoded value.
    """
    merged: dict[str, Any] = {}
    for value in values:
        merged.update(_object(headers.text(value, len(NAME) + 1), deepest))
    return merged


def _object(text: str, deepest: int) -> dict[str, Any]:
    """One header's object.

    What is JSON as it stands is taken as it stands: ``=?`` within one of its strings is no encoded word.
    """
    if not text:
        return {}
    if "=?" in text:
        try:
            return _loads(text, deepest)
        except PermanentFailure:
            text = words.decode(text)
    return _loads(text, deepest)


def _loads(text: str, deepest: int) -> dict[str, Any]:
    if text.count("{") + text.count("[") > deepest:
        _check_depth(text, deepest)
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise _refused(f"{error.msg} at column {error.pos + 1}") from None
    except ValueError as error:
        raise _refused(str(error)) from None
    if not isinstance(value, dict):
        raise _refused(f"it is {_KINDS.get(type(value), 'null')}; send an object at column 1")
    return value


def _check_depth(text: str, deepest: int) -> None:
    """Refuse nesting before ``json`` recurses into it."""
    depth = 0
    # Strings are blanked, not removed, so that columns stay right.
    for bracket in _BRACKET.finditer(_STRING.sub(lambda string: " " * len(string[0]), text)):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > deepest:
            raise _refused(f"nested deeper than {deepest} levels at column {bracket.start() + 1}")


def _integer(digits: str) -> int:
    if len(digits) > _LONGEST_INTEGER or math.isinf(_float(digits)):
        raise ValueError(f"the number {digits[:20]}… is too large")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"the number {digits[:20]} is too large")
    return value


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _refused(why: str) -> PermanentFailure:
    return PermanentFailure(Reason.BAD_VARIABLES, f"{NAME} is not a JSON object: {why}")


_DECODER = json.JSONDecoder(parse_int=_integer, parse_float=_float, parse_constant=_constant)
