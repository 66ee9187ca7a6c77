"""What an account has and may choose: ``/api/transactional/settings`` and ``/api/transactional/routes``."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import attrs
from twisted.web.server import Request

from relay import wire
from relay.embedded import rules
from relay.embedded.accounts import Tenant
from relay.embedded.api.core import AccountEndpoint, document
from relay.embedded.resource import Answer
from relay.embedded.routes import table


class Settings(AccountEndpoint):
    """``…/settings``: the route of messages that name none."""

    methods: ClassVar[tuple[str, ...]] = ("GET", "HEAD", "PUT")

    async def of(self, tenant: Tenant, request: Request) -> Answer:
        if request.method == b"PUT":
            wanted = document(request, "default_route").get("default_route")
            if not isinstance(wanted, str):
                raise rules.wrong("default_route: must be the id or the name of a route, or empty to have none")
            chosen = rules.route_of(wanted, tenant) if wanted.strip() else ""
            await self._platform.write(partial(table.choose_default, account=tenant.id, id=chosen))
            await self._platform.keys.refresh([tenant.id])
            only = tenant.routes[0].id if len(tenant.routes) == 1 else ""
            tenant = attrs.evolve(tenant, default_route=chosen or only)
        return Answer(wire.dump({"default_route": tenant.default_route}))


class Routes(AccountEndpoint):
    """``…/routes``: what messages of this account may go by."""

    async def of(self, tenant: Tenant, request: Request) -> Answer:
        return Answer(wire.dump({"routes": [{"id": each.id, "name": each.name} for each in tenant.routes]}))
