"""``/templates``: the list of an account's templates, and below it each in its editor."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.web.server import Request

from relay.embedded import rules, templates
from relay.embedded.resource import Answer, argument
from relay.embedded.rules import Refused
from relay.embedded.templates import Fields
from relay.embedded.web import editor, history
from relay.embedded.web.editor import At
from relay.embedded.web.frame import AccountPage, Form, FormPage, Viewer, html, tenant_of

#: What a new template begins with: it shows what there is.
STARTER = """\
<!doctype html>
<html>
<body style="margin: 0; padding: 24px; font: 16px/1.5 sans-serif; color: #222">
  <h1 style="font-size: 22px">Hello {{ name }}</h1>
  <p>Thank you for your order.</p>
  {% if items %}
  <table>
    {% for item in items %}
    <tr><td>{{ item.title }}</td><td align="right">{{ item.price }}</td></tr>
    {% endfor %}
  </table>
  {% endif %}
</body>
</html>
"""
SAMPLE = '{\n  "name": "Jane",\n  "items": [{"title": "Tea", "price": "4.20"}]\n}'

#: What is at ``/templates/ID`` and below, by what is below; ``{}`` is any segment.
SHOWN: dict[tuple[str, ...], Callable[[At], Awaitable[Answer]]] = {
    (): editor.shown,
    ("preview",): editor.saved_preview,
    ("history",): history.listed,
    ("history", "{}"): history.shown,
    ("history", "{}", "preview"): history.preview,
}
TAKEN: dict[tuple[str, ...], Callable[[At, Form], Awaitable[Answer]]] = {
    (): editor.save,
    ("test",): editor.test,
    ("preview",): editor.preview,
    ("check",): editor.check,
    ("duplicate",): editor.duplicate,
    ("delete",): editor.delete,
    ("history", "{}", "restore"): history.restore,
}


class Templates(FormPage, AccountPage):
    """The list, where new ones are made; what is below it stands in :data:`SHOWN` and :data:`TAKEN`."""

    async def of(self, viewer: Viewer, request: Request) -> Answer:
        at = self._at(viewer, request)
        if at is None:
            return await self._listed(viewer, request)
        shown = SHOWN.get(at.shape)
        if shown is None:
            raise Refused(404, "Not found", "There is no such page")
        return await shown(at)

    async def submitted(self, viewer: Viewer, request: Request, form: Form) -> Answer:
        at = self._at(viewer, request)
        if at is None:
            return await self._create(viewer, request, form)
        taken = TAKEN.get(at.shape)
        if taken is None:
            raise Refused(404, "Not found", "There is no such page")
        return await taken(at, form)

    def _at(self, viewer: Viewer, request: Request) -> At | None:
        id, *below = [part.decode("utf-8", "replace") for part in request.postpath or ()] or [""]
        return At(self, viewer, request, tenant_of(viewer), id, tuple(below)) if id or below else None

    async def _listed(self, viewer: Viewer, request: Request) -> Answer:
        tenant, search, tag = tenant_of(viewer), argument(request, "search"), argument(request, "tag")
        found = await self.frontend.platform.read(
            lambda connection: templates.listed(connection, tenant.id, rules.storable(search), rules.storable(tag))
        )
        return html("templates.html", viewer, templates=found, search=search, tag=tag, given="", problem="")

    async def _create(self, viewer: Viewer, request: Request, form: Form) -> Answer:
        platform, tenant, author = self.frontend.platform, tenant_of(viewer), viewer.user.email
        now, name = platform.now(), form.text("name")
        try:
            fields = templates.checked(Fields(name, subject=name, body=STARTER))
            made = await platform.write(
                lambda connection: templates.create(connection, tenant.id, "", fields, author, now)
            )
        except Refused as refused:
            found = await platform.read(lambda connection: templates.listed(connection, tenant.id))
            return html(
                "templates.html",
                viewer,
                refused.status,
                templates=found,
                search="",
                tag="",
                given=name,
                problem=refused.description,
            )
        await platform.write(lambda connection: templates.keep_sample(connection, tenant.id, made.id, SAMPLE))
        return self.see_other(
            request, f"/templates/{made.id}", f"{made.fields.name} is ready; messages name it {made.id}"
        )
