"""``POST /api/reset/apikey``: another key for the account."""

from __future__ import annotations

from typing import ClassVar

from twisted.web.server import Request

from relay import wire
from relay.embedded.accounts import Tenant
from relay.embedded.api.core import AccountEndpoint, document
from relay.embedded.resource import Answer


class ResetKey(AccountEndpoint):
    """The one in use stops at once, and the answer is the only one that ever holds a key."""

    methods: ClassVar[tuple[str, ...]] = ("POST",)

    async def of(self, tenant: Tenant, request: Request) -> Answer:
        document(request)
        return Answer(wire.dump({"key": await self._platform.keys.reset(tenant.id)}))
