"""``/templates/ID``: a template with a preview beside it, and what its buttons do.

Without JavaScript the preview is that of the saved template, and a button fills it with what stands in the form.
"""

from __future__ import annotations

import json
from functools import partial

import attrs
import sqlalchemy as sa
from attrs import frozen
from markupsafe import Markup, escape
from twisted.web.server import Request

from relay import wire
from relay.embedded import filling, rules, templates
from relay.embedded.accounts import Tenant
from relay.embedded.api import templates as api
from relay.embedded.api.core import Platform
from relay.embedded.filling import Mistake, Preview
from relay.embedded.resource import Answer
from relay.embedded.rules import Refused
from relay.embedded.templates import Fields, Template
from relay.embedded.web.frame import Form, FormPage, Viewer, html
from relay.embedded.web.preview import harmless
from relay.values import JSONObject

_FIELDS = tuple(each.name for each in attrs.fields(Fields))


@frozen
class At:
    """A request for a template or what is below it.

    :ivar id: of the template, as the path has it.
    :ivar below: the segments after it.
    """

    page: FormPage
    viewer: Viewer
    request: Request
    tenant: Tenant
    id: str
    below: tuple[str, ...]

    @property
    def shape(self) -> tuple[str, ...]:
        """The segments below, ``{}`` for one that may be any: each second one."""
        return tuple("{}" if number % 2 else name for number, name in enumerate(self.below))

    @property
    def platform(self) -> Platform:
        return self.page.frontend.platform

    async def template(self) -> Template:
        """The template.

        :raises Refused: 404.
        """
        return await self.platform.read(partial(templates.existing, account=self.tenant.id, id=self.id))


async def shown(at: At) -> Answer:
    """The editor with what is saved."""
    found = await at.template()
    return await _editor(at, found, found.fields, await sample(at))


async def saved_preview(at: At) -> Answer:
    """The saved template with its sample variables, by itself."""
    found = await at.template()
    return harmless((await previewed(at, found.fields, await sample(at))).fields.body)


async def save(at: At, form: Form) -> Answer:
    """A new version."""
    try:
        saved = await _saved(at, form)
    except Refused as refused:
        return await _again(at, form, refused)
    return at.page.see_other(at.request, f"/templates/{saved.id}", f"Saved as version {saved.version}")


async def test(at: At, form: Form) -> Answer:
    """A new version, and a message made of it."""
    to = form.text("to")
    try:
        variables = variables_of(form.get("variables", ""))
        saved = await _saved(at, form)
        await api.test(at.platform, at.tenant, saved.id, {"to": to}, variables)
    except Mistake as mistake:
        return await _again(at, form, mistake.refused())
    except Refused as refused:
        return await _again(at, form, refused)
    return at.page.see_other(at.request, f"/templates/{saved.id}", f"A test is on its way to {to}")


async def preview(at: At, form: Form) -> Answer:
    """What stands in the form, by itself; where no script tells what is wrong with it, that comes first."""
    await at.template()
    found = await previewed(at, fields_of(form), form.get("variables", ""))
    body = found.fields.body if found.mistake is None or "notes" not in form else ""
    return harmless(str(_notes(found)) + body if "notes" in form else body)


async def check(at: At, form: Form) -> Answer:
    """What is to say of what stands in the form, as JSON for the script."""
    await at.template()
    found = await previewed(at, fields_of(form), form.get("variables", ""))
    mistake, fields = found.mistake, found.fields
    said = mistake and {"field": mistake.name, "line": mistake.line, "words": str(mistake)}
    sender = {"fromname": fields.fromname, "fromemail": fields.fromemail}
    return Answer(wire.dump({"subject": fields.subject, **sender, "undefined": found.undefined, "mistake": said}))


async def duplicate(at: At, form: Form) -> Answer:
    """Another one like it."""
    author, now = at.viewer.user.email, at.platform.now()
    copy = await at.platform.write(partial(templates.duplicate, account=at.tenant.id, id=at.id, author=author, now=now))
    return at.page.see_other(at.request, f"/templates/{copy.id}", f"This is the copy; messages name it {copy.id}")


async def delete(at: At, form: Form) -> Answer:
    """It is no more."""
    found = await at.template()
    await at.platform.write(partial(templates.remove, account=at.tenant.id, id=found.id))
    return at.page.see_other(at.request, "/templates", f"{found.fields.name} was deleted")


def fields_of(form: Form) -> Fields:
    """The template in a form."""
    return Fields(**{name: form.get(name, "") for name in _FIELDS})


def variables_of(text: str) -> JSONObject:
    """The variables that were typed; nothing is an empty object.

    :raises Mistake: they are no JSON object; the line is that of the text.
    """
    if not text.strip():
        return {}
    try:
        return wire.decode_object(text)
    except wire.WireError as error:
        raise _misread(text, str(error)) from None


def _misread(text: str, said: str) -> Mistake:
    """Why *text* is no JSON object, where json knows it with the line."""
    try:
        json.loads(text)
    except json.JSONDecodeError as why:
        return Mistake("variables", why.lineno, f"{why.msg} (column {why.colno})")
    except (ValueError, RecursionError):
        pass
    return Mistake("variables", None, said.replace("the body is", "they are"))


async def sample(at: At) -> str:
    """The variables that the template is tried with, as they were typed."""
    return await at.platform.read(partial(templates.sample, account=at.tenant.id, id=at.id))


async def previewed(at: At, fields: Fields, text: str) -> Preview:
    """*fields* with the variables that *text* has."""
    try:
        variables = variables_of(text)
        rules.check_variables(variables)
    except Mistake as mistake:
        return Preview(fields, mistake=mistake)
    except Refused as refused:
        return Preview(fields, mistake=Mistake("variables", None, refused.description))
    return await filling.preview(at.platform.render, fields, variables)


async def _saved(at: At, form: Form) -> Template:
    """What stands in the form, saved.

    :raises Refused: what is wrong with it; 409, somebody else saved meanwhile.
    """
    fields, version = templates.checked(fields_of(form)), form.text("version")
    await filling.check(at.platform.render, fields)
    known = int(version) if version.isascii() and version.isdecimal() and len(version) < 10 else 0
    variables, now, author, account = form.get("variables", ""), at.platform.now(), at.viewer.user.email, at.tenant.id

    def change(connection: sa.Connection) -> Template:
        saved = templates.save(connection, account, at.id, fields, author, now, known=known)
        templates.keep_sample(connection, account, saved.id, variables)
        return saved

    return await at.platform.write(change)


async def _again(at: At, form: Form, refused: Refused) -> Answer:
    """The editor with what stands in the form, and what is wrong with it."""
    found = await at.template()
    if refused.status == 409:
        words = f"{refused.description}. Look at its history first; another Save puts yours over it."
        refused = Refused(409, refused.title, words)
    return await _editor(at, found, fields_of(form), form.get("variables", ""), refused, form.text("to"))


async def _editor(
    at: At, saved: Template, fields: Fields, variables: str, refused: Refused | None = None, to: str = ""
) -> Answer:
    found = await previewed(at, fields, variables)
    return html(
        "template.html",
        at.viewer,
        200 if refused is None else refused.status,
        template=saved,
        fields=fields,
        variables=variables,
        preview=found,
        problem="" if refused is None else refused.description,
        to=to or at.viewer.user.email,
        several=len(at.tenant.routes) > 1 and not at.tenant.default_route,
    )


def _notes(found: Preview) -> Markup:
    """What is to say of a preview, for who has no script."""
    if found.mistake is not None:
        return Markup('<p style="font: 15px sans-serif; color: #a01c2c; padding: 1em">{}</p>').format(found.mistake)
    missing = f"Undefined: {', '.join(found.undefined)}" if found.undefined else ""
    lines = [f"Subject: {found.fields.subject}", missing]
    said = Markup("<br>").join(escape(line) for line in lines if line)
    style = "font: 13px sans-serif; color: #444; background: #eee; padding: .6em 1em; margin: 0 0 1em"
    return Markup('<div style="{}">{}</div>').format(style, said)
