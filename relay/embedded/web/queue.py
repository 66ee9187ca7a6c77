"""``/admin/queue``: what waits for its route, and what an administrator may do about it."""

from __future__ import annotations

from functools import partial

import sqlalchemy as sa
from twisted.web.server import Request

from relay.embedded import deliveries
from relay.embedded.resource import Answer, argument
from relay.embedded.routes import table
from relay.embedded.rules import Refused, storable
from relay.embedded.web.frame import AdminPage, Form, FormPage, Viewer, html

#: Rows of the page.
ROWS = 100


class Queue(FormPage, AdminPage):
    """``?route=ID`` shows one route's; a POST has ``do`` (``retry`` or ``give-up``) and a route or a message's id."""

    async def of(self, viewer: Viewer, request: Request) -> Answer:
        if request.postpath:
            raise Refused(404, "Not found", "There is no such page")
        platform, route = self.frontend.platform, storable(argument(request, "route"))

        def look(connection: sa.Connection) -> tuple[list[deliveries.Waiting], dict[str, int]]:
            return deliveries.waiting(connection, route, limit=ROWS), table.waiting(connection)

        rows, counts = await platform.read(look)
        return html(
            "queue.html", viewer, rows=rows, counts=counts, route=route, now=platform.now(),
            down=platform.carriers.down(), total=sum(counts.values()),
        )  # fmt: skip

    async def submitted(self, viewer: Viewer, request: Request, form: Form) -> Answer:
        platform, route, id = self.frontend.platform, form.text("route"), form.text("id")
        now = platform.now()
        if form.text("do") == "retry":
            for each in await platform.write(partial(deliveries.retry, now=now, route=route, id=id)):
                platform.carriers.wake(each)
            notice = "Tried again now."
        elif form.text("do") == "give-up" and (route or id):
            who = viewer.user.email
            count = await platform.write(partial(deliveries.give_up, now=now, who=who, route=route, id=id))
            notice = f"{count} message{'' if count == 1 else 's'} given up."
        else:
            raise Refused(400, "Wrong form", "Say what is to be done, and with which route or message")
        back = form.text("back")
        shown = f"?route={back}" if back in await platform.read(table.waiting) else ""
        return self.see_other(request, f"/admin/queue{shown}", notice)
