"""The syntax of a body that the platform will render with Jinja2 (MESSAGE.md, last paragraph)."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

from relay.errors import PermanentFailure, Reason
from relay.values import Message

if TYPE_CHECKING:
    from jinja2 import Environment

#: Bounds of what is given to Jinja2's parser, which recurses and takes some 20 µs a tag: (THREATS.md, "Jinja2").
LARGEST_SOURCE = 4 * 1024 * 1024
MOST_TAGS = 10_000
LONGEST_TAG = 16_384
DEEPEST_BRACKETS = 20

_TAG = re.compile(r"\{[{%#]")
_NESTING = re.compile(r"[(\[{)\]}]")
_OPENING = frozenset("([{")


def check(message: Message) -> None:
    """Refuse a message whose body or subject is no Jinja2 template; one without variables is none and passes.

    Parsed only: not compiled, not rendered.  The platform replaces ``{{name}}`` in a subject and nothing else, so
    that a subject without it is plain text.

    :raises PermanentFailure: ``line N: `` and Jinja2's words.
    """
    if message.variables is None:
        return
    if "{{" in message.subject:
        _check(message.subject, "Subject, ")
    if _TAG.search(message.body) is not None:
        _check(message.body, "")


def _check(source: str, where: str) -> None:
    from jinja2 import TemplateSyntaxError

    _check_bounds(source, where)
    try:
        _environment().parse(source)
    except TemplateSyntaxError as error:
        raise _refused(where, error.lineno, error.message or "syntax error") from None
    except (RecursionError, MemoryError):
        raise _refused(where, 1, "the template is nested too deeply") from None


def _check_bounds(source: str, where: str) -> None:
    """Refuse what Jinja2's parser would take too long or recurse too deep for."""
    if len(source) > LARGEST_SOURCE:
        raise _refused(where, 1, f"the template is larger than {LARGEST_SOURCE} characters")
    tags = [match.start() for match in _TAG.finditer(source)]
    if len(tags) > MOST_TAGS:
        raise _refused(where, 1, f"the template has more than {MOST_TAGS} tags")
    for start, stop in zip(tags, [*tags[1:], len(source)], strict=True):
        _check_tag(source, start, stop, where)


def _check_tag(source: str, start: int, stop: int, where: str) -> None:
    """One tag, from where it begins to its end, or to where the next begins."""
    closing = "%}" if source[start + 1] == "%" else "}}"
    end = source.find(closing, start, stop)
    end = stop if end < 0 else end
    if source[start + 1] != "#" and end - start > LONGEST_TAG:
        raise _refused(where, source.count("\n", 0, start) + 1, f"a tag is longer than {LONGEST_TAG} characters")
    depth = 0
    for bracket in _NESTING.finditer(source, start, end):
        depth += 1 if bracket[0] in _OPENING else -1
        if depth > DEEPEST_BRACKETS:
            raise _refused(where, source.count("\n", 0, start) + 1, "brackets are nested too deeply")


@functools.cache
def _environment() -> Environment:
    """Jinja2 as it comes, imported when the first template does: most relays see none."""
    from jinja2 import Environment

    return Environment(autoescape=True)


def _refused(where: str, line: int, why: str) -> PermanentFailure:
    return PermanentFailure(Reason.BAD_TEMPLATE, f"{where}line {line}: {why}")
