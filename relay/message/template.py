"""The syntax of a body that the platform will render with Jinja2 (MESSAGE.md, last paragraph)."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from relay.errors import PermanentFailure, Reason
from relay.values import Message

if TYPE_CHECKING:
    from jinja2 import Environment

#: Bounds of what reaches Jinja2's parser, which recurses, and takes about 10 µs a token (THREATS.md, "Jinja2").
LARGEST_SOURCE = 2 * 1024 * 1024
MOST_TOKENS = 50_000
DEEPEST_BRACKETS = 20
LONGEST_NUMBER = 400

#: Sources up to this length, in characters, are remembered once they were found right: senders repeat themselves.
_LARGEST_REMEMBERED = 16_384

_OPENING = frozenset("([{")
_CLOSING = frozenset(")]}")


def check(message: Message) -> None:
    """Refuse a message whose body or subject is no Jinja2 template; one without variables is none and passes.

    Parsed only: not compiled, not rendered.  The platform replaces ``{{name}}`` in a subject, where blocks
    and comments are plain text.

    :raises PermanentFailure: ``line N: `` and Jinja2's words.
    """
    if message.variables is None:
        return
    if "{{" in message.subject:
        _check(message.subject.replace("{%", "  ").replace("{#", "  "), "Subject, ")
    body = message.body
    if "{{" in body or "{%" in body or "{#" in body:
        (_check_once if len(body) <= _LARGEST_REMEMBERED else _check)(body, "")


def _check(source: str, where: str) -> None:
    from jinja2 import TemplateSyntaxError

    if len(source) > LARGEST_SOURCE:
        raise _refused(where, 1, f"a template may have {LARGEST_SOURCE} characters")
    try:
        _check_tokens(source, where)
        _environment().parse(source)
    except TemplateSyntaxError as error:
        raise _refused(where, error.lineno, error.message or "syntax error") from None
    except (RecursionError, MemoryError):
        raise _refused(where, 1, "the template is nested too deeply") from None


_check_once = functools.lru_cache(maxsize=256)(_check)


def _check_tokens(source: str, where: str) -> None:
    """Refuse what Jinja2's parser would take too long or recurse too deep for; its lexer does neither."""
    depth = 0
    for number, (line, kind, text) in enumerate(_environment().lexer.tokeniter(source, None)):
        if number > MOST_TOKENS:
            raise _refused(where, line, f"a template may have {MOST_TOKENS} tokens")
        if kind == "operator":
            depth += (text in _OPENING) - (text in _CLOSING)
            if depth > DEEPEST_BRACKETS:
                raise _refused(where, line, f"brackets are nested deeper than {DEEPEST_BRACKETS} levels")
        elif kind in ("integer", "float") and len(text) > LONGEST_NUMBER:
            raise _refused(where, line, f"a number has more than {LONGEST_NUMBER} digits")


@functools.cache
def _environment() -> Environment:
    """Jinja2 as it comes, imported when the first template does: most relays see none."""
    from jinja2 import Environment

    return Environment(autoescape=True)


def _refused(where: str, line: int, why: str) -> PermanentFailure:
    return PermanentFailure(Reason.BAD_TEMPLATE, f"{where}line {line}: {why}")
