"""``/settings``: what an account may choose."""

from __future__ import annotations

from functools import partial

from twisted.web.server import Request

from relay.embedded import rules
from relay.embedded.resource import Answer
from relay.embedded.routes import table
from relay.embedded.rules import Refused
from relay.embedded.web.frame import AccountPage, Form, FormPage, Viewer, html, tenant_of


class Settings(FormPage, AccountPage):
    """The route of messages that name none."""

    async def of(self, viewer: Viewer, request: Request) -> Answer:
        if request.postpath:
            raise Refused(404, "Not found", "There is no such page")
        return html("settings.html", viewer, tenant=tenant_of(viewer))

    async def submitted(self, viewer: Viewer, request: Request, form: Form) -> Answer:
        tenant, wanted = tenant_of(viewer), form.text("default_route")
        chosen = rules.route_of(wanted, tenant) if wanted else ""
        await self.frontend.platform.write(partial(table.choose_default, account=tenant.id, id=chosen))
        await self.frontend.platform.keys.refresh([tenant.id])
        return self.see_other(request, "/settings", "The settings were saved.")
