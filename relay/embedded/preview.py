"""What a template would become with these variables, for who writes it."""

from __future__ import annotations

from typing import Any

import attrs
from attrs import field, frozen

from relay.embedded import rules, template
from relay.embedded.api.core import Render
from relay.embedded.rules import Refused
from relay.embedded.templates import Fields
from relay.values import JSONObject


@frozen
class Mistake:
    """Why a template cannot be rendered.

    :ivar name: the field that is wrong.
    :ivar line: of the field, counted from 1; None where it is not known.
    """

    name: str
    line: int | None
    words: str

    def __str__(self) -> str:
        return f"{self.name}: line {self.line}: {self.words}" if self.line else f"{self.name}: {self.words}"


@frozen
class Preview:
    """A template with variables.

    :ivar fields: as a message would have them; where there is a mistake, as the template has them.
    :ivar undefined: the variables that are missing, each once.
    """

    fields: Fields = field(repr=False)
    undefined: tuple[str, ...] = ()
    mistake: Mistake | None = None


async def preview(render: Render, fields: Fields, variables: JSONObject | None) -> Preview:
    """*fields* as a message with *variables* would have them; None: one without, which is sent as it stands.

    :raises Refused: 503, too many wait to be rendered.
    """
    if variables is None:
        return Preview(fields)
    name = "body"
    try:
        rendered = await render(fields.body, variables)
        changed: dict[str, Any] = {"body": rules.storable(rendered.text)}
        undefined = dict.fromkeys(rendered.undefined)
        for name in template.REPLACED:
            text = getattr(fields, name)
            changed[name] = template.replace(text, variables, rules.LONGEST_FIELD)
            undefined.update(dict.fromkeys(template.unknown(text, variables)))
    except template.TemplateError as error:
        return Preview(fields, mistake=Mistake(name, error.line, error.words))
    return Preview(attrs.evolve(fields, **changed), tuple(undefined))


async def check(render: Render, fields: Fields) -> None:
    """Look for mistakes that no variables could mend.

    :raises Refused: 400, with the line and Jinja2's words.
    """
    if not any(mark in fields.body for mark in ("{{", "{%", "{#")):
        return
    try:
        await render(fields.body, None)
    except template.TemplateError as error:
        raise Refused(400, "Template error", str(Mistake("body", error.line, error.words))) from None
