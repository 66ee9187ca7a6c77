"""Variables in a message, pure: Jinja2 in the body, plain ``{{name}}`` in the subject and the addresses.

Jinja2's sandbox blocks walks along attributes.  It bounds neither time nor memory: :func:`render` is called
in a process of its own (:mod:`relay.embedded.render_worker`), by nobody else but tests.
"""

from __future__ import annotations

import re
from types import TracebackType

from relay.values import JSONObject

#: Largest template and rendered body, in characters.
LONGEST_SOURCE = 2_097_152
LONGEST_OUTPUT = 8_388_608

_NAME = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


class TemplateError(Exception):
    """A template that cannot be rendered; the text says why, with the line where it is known."""


def replace(text: str, variables: JSONObject, longest: int) -> str:
    """*text* with each ``{{name}}`` of a variable replaced.

    Texts, numbers and booleans are put in, null is nothing; lists, objects and unknown names stay as they stand
    in the text.  Control characters in a value become spaces: it must not start a header of its own.

    :param longest: bound of the result, in characters.
    :raises TemplateError: the result is longer.
    """
    pieces: list[str] = []
    length = end = 0
    for found in _NAME.finditer(text):
        pieces += [text[end : found.start()], _value(found, variables)]
        length += len(pieces[-1]) + len(pieces[-2])
        end = found.end()
        if length > longest:
            break
    pieces.append(text[end:])
    if length + len(pieces[-1]) > longest:
        raise TemplateError(f"with its variables it is longer than {longest} characters")
    return "".join(pieces)


def render(source: str, variables: JSONObject) -> str:
    """*source* with *variables*, by Jinja2: sandboxed, autoescape on, without globals and without a loader.

    :raises TemplateError: a mistake in the template, or a result that is too long.
    :raises MemoryError: it needs more than the process may have.
    """
    # Not at the top: only the processes that render pay for the import.
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    if len(source) > LONGEST_SOURCE:
        raise TemplateError(f"the template is longer than {LONGEST_SOURCE} characters")
    environment = ImmutableSandboxedEnvironment(autoescape=True, keep_trailing_newline=True)
    environment.globals.clear()
    pieces: list[str] = []
    length = 0
    try:
        for piece in environment.from_string(source).generate(dict(variables)):
            length += len(piece)
            if length > LONGEST_OUTPUT:
                raise TemplateError(f"the result is longer than {LONGEST_OUTPUT} characters")
            pieces.append(piece)
    except (TemplateError, MemoryError):
        raise
    except RecursionError:
        raise TemplateError("the template is nested too deeply") from None
    except Exception as error:
        # Whatever a filter raises on a value it does not like is the template's mistake.
        raise TemplateError(_said(error)) from None
    return "".join(pieces)


def _value(found: re.Match[str], variables: JSONObject) -> str:
    value = variables.get(found[1], found)
    if value is None:
        return ""
    if isinstance(value, str):
        return _CONTROL.sub(" ", value)
    return str(value) if isinstance(value, int | float) else found[0]


def _said(error: Exception) -> str:
    """Jinja2's words, with the line of the template."""
    line = getattr(error, "lineno", None) or _line(error.__traceback__)
    words = getattr(error, "message", None) or str(error) or type(error).__name__
    return f"line {line}: {words}" if line else words


def _line(traceback: TracebackType | None) -> int | None:
    """The innermost line of the template in a traceback; Jinja2 gives its frames the name ``<template>``."""
    line = None
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == "<template>":
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line
