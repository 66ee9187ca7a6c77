"""Variables put into the fields of a message: for one that is sent, and for who writes a template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from attrs import field, frozen

from relay.embedded import rules, template
from relay.embedded.api.core import Render
from relay.embedded.rules import Refused
from relay.embedded.templates import Fields
from relay.values import JSONObject

#: The fields that :func:`fill` fills; all but the body get ``{{name}}`` replaced only (HTTP_CONTRACT.md).
FILLED = ("body", "subject", "fromname", "fromemail", "replyto")


class Mistake(Exception):
    """Why a field cannot be filled.

    :ivar name: the field that is wrong.
    :ivar line: of the field, counted from 1; None where it is not known.
    """

    def __init__(self, name: str, line: int | None, words: str) -> None:
        super().__init__(f"{name}: line {line}: {words}" if line else f"{name}: {words}")
        self.name = name
        self.line = line
        self.words = words

    def refused(self) -> Refused:
        """400, with the field, the line and the words."""
        return Refused(400, "Template error", str(self))


@frozen
class Filled:
    """Fields with variables.

    :ivar undefined: the variables that they show or walk through and that are not there, each once.
    """

    texts: Mapping[str, str] = field(repr=False)
    undefined: tuple[str, ...] = ()


async def fill(render: Render, given: object, variables: JSONObject) -> Filled:
    """The fields :data:`FILLED` of *given* with *variables*.

    :raises Mistake: one of them cannot be filled.
    :raises Refused: 503, too many wait to be rendered.
    """
    name, *others = FILLED
    try:
        rendered = await render(getattr(given, name), variables)
        texts = {name: rules.storable(rendered.text)}
        undefined = dict.fromkeys(rendered.undefined)
        for name in others:
            text = getattr(given, name)
            texts[name] = template.replace(text, variables, rules.LONGEST_FIELD)
            undefined.update(dict.fromkeys(template.unknown(text, variables)))
    except template.TemplateError as error:
        raise Mistake(name, error.line, error.words) from None
    return Filled(texts, tuple(undefined)[: template.MOST_UNDEFINED])


async def check(render: Render, fields: Fields) -> None:
    """Look for mistakes that no variables could mend.

    :raises Refused: 400, with the line and Jinja2's words.
    """
    if not any(mark in fields.body for mark in ("{{", "{%", "{#")):
        return
    try:
        await render(fields.body, None)
    except template.TemplateError as error:
        raise Mistake("body", error.line, error.words).refused() from None


@frozen
class Preview:
    """A template as a message would have it; where there is a mistake, as it stands."""

    fields: Fields = field(repr=False)
    undefined: tuple[str, ...] = ()
    mistake: Mistake | None = None


async def preview(render: Render, fields: Fields, variables: JSONObject | None) -> Preview:
    """*fields* as a message with *variables* would have them; None: one without, which is sent as it stands.

    :raises Refused: 503, too many wait to be rendered.
    """
    if variables is None:
        return Preview(fields)
    try:
        filled = await fill(render, fields, variables)
    except Mistake as mistake:
        return Preview(fields, mistake=mistake)
    changed: dict[str, Any] = dict(filled.texts)
    return Preview(attrs.evolve(fields, **changed), filled.undefined)
