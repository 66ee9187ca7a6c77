"""Variables in a message, pure: Jinja2 in the body, plain ``{{name}}`` in the subject and the addresses.

Jinja2's sandbox blocks walks along attributes.  It bounds neither time nor memory: :func:`render` is called
in a process of its own (:mod:`relay.embedded.render_worker`), by nobody else but tests.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from attrs import frozen

from relay.values import JSONObject

if TYPE_CHECKING:
    from jinja2 import Template, Undefined

#: Largest template and rendered body, in characters.
LONGEST_SOURCE = 2_097_152
LONGEST_OUTPUT = 8_388_608

#: Most undefined variables that are named, and of each so many characters.
MOST_UNDEFINED = 50
LONGEST_NAME = 100

_NAME = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


class TemplateError(Exception):
    """A template that cannot be rendered; as text, the line where it is known, and why.

    :ivar words: why.
    :ivar line: counted from 1, None where it is not known.
    """

    def __init__(self, words: str, line: int | None = None) -> None:
        super().__init__(f"line {line}: {words}" if line else words)
        self.words = words
        self.line = line


@frozen
class Rendered:
    """What became of a template.

    :ivar undefined: the variables that it showed or walked through and that were not there, each once.
    """

    text: str
    undefined: tuple[str, ...] = ()


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


def unknown(text: str, variables: JSONObject) -> tuple[str, ...]:
    """The names in *text* that :func:`replace` leaves as they stand."""
    return tuple(dict.fromkeys(found[1] for found in _NAME.finditer(text) if _value(found, variables) == found[0]))


def render(source: str, variables: JSONObject | None) -> Rendered:
    """*source* with *variables*, by Jinja2: sandboxed, autoescape on, without globals and without a loader.

    A variable that is not there is nothing where it is shown, and is named in the result.

    :param variables: None: *source* is compiled, for its mistakes, and comes back as it is.
    :raises TemplateError: a mistake in the template, or a result that is too long.
    :raises MemoryError: it needs more than the process may have.
    """
    if len(source) > LONGEST_SOURCE:
        raise TemplateError(f"the template is longer than {LONGEST_SOURCE} characters")
    undefined: dict[str, None] = {}
    try:
        compiled = _compiled(source, undefined)
        text = source if variables is None else _generated(compiled, variables)
    except (TemplateError, MemoryError):
        raise
    except RecursionError:
        raise TemplateError("the template is nested too deeply") from None
    except Exception as error:
        # Whatever a filter raises on a value it does not like is the template's mistake.
        raise _mistake(error) from None
    return Rendered(text, tuple(undefined))


def _compiled(source: str, undefined: dict[str, None]) -> Template:
    """The template, which notes in *undefined* what it misses."""
    # Not at the top: only the processes that render pay for the import.
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def note(name: str) -> None:
        if len(undefined) < MOST_UNDEFINED:
            undefined.setdefault(name[:LONGEST_NAME])

    environment = ImmutableSandboxedEnvironment(autoescape=True, keep_trailing_newline=True, undefined=_noting(note))
    environment.globals.clear()
    return environment.from_string(source)


def _generated(compiled: Template, variables: JSONObject) -> str:
    pieces: list[str] = []
    length = 0
    for piece in compiled.generate(dict(variables)):
        length += len(piece)
        if length > LONGEST_OUTPUT:
            raise TemplateError(f"the result is longer than {LONGEST_OUTPUT} characters")
        pieces.append(piece)
    return "".join(pieces)


def _noting(note: Callable[[str], None]) -> type[Undefined]:
    """Jinja2's Undefined, which notes its name when it is shown or walked through.

    A test (``{% if name %}``, ``is defined``, ``|default``) is no use of it: it is there for what may be missing.
    """
    from jinja2 import Undefined

    class Noting(Undefined):
        __slots__ = ()

        def __str__(self) -> str:
            self._note()
            return super().__str__()

        def __iter__(self) -> Any:
            self._note()
            return super().__iter__()

        def __len__(self) -> int:
            self._note()
            return super().__len__()

        def _note(self) -> None:
            note(str(self._undefined_name or "unnamed"))

    return Noting


def _value(found: re.Match[str], variables: JSONObject) -> str:
    value = variables.get(found[1], found)
    if value is None:
        return ""
    if isinstance(value, str):
        return _CONTROL.sub(" ", value)
    return str(value) if isinstance(value, int | float) else found[0]


def _mistake(error: Exception) -> TemplateError:
    """Jinja2's words, with the line of the template."""
    words = getattr(error, "message", None) or str(error) or type(error).__name__
    return TemplateError(words, getattr(error, "lineno", None) or _line(error.__traceback__))


def _line(traceback: TracebackType | None) -> int | None:
    """The innermost line of the template in a traceback; Jinja2 gives its frames the name ``<template>``."""
    line = None
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == "<template>":
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line
