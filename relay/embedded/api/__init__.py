"""The HTTP API: the contract (HTTP_CONTRACT.md), and what programs manage an account with."""

from __future__ import annotations

from twisted.web.resource import Resource
from twisted.web.server import Request

from relay import wire
from relay.embedded.accounts import Tenant
from relay.embedded.api.core import AccountEndpoint, Nothing, Platform
from relay.embedded.api.log import Log
from relay.embedded.api.send import Send
from relay.embedded.resource import Answer, Endpoint
from relay.embedded.rules import Refused


def api(platform: Platform) -> Resource:
    """The tree below ``/api``."""
    root = Nothing()
    transactional = Nothing()
    root.putChild(b"ping", Ping(platform))
    root.putChild(b"healthy", Healthy(platform))
    root.putChild(b"transactional", transactional)
    transactional.putChild(b"send", Send(platform))
    transactional.putChild(b"log", Log(platform))
    return root


class Ping(AccountEndpoint):
    """``GET /api/ping``: whether the key is good, and what the account may use."""

    async def of(self, tenant: Tenant, request: Request) -> Answer:
        return Answer(wire.encode_ping(tenant.account("")))


class Healthy(Endpoint):
    """``GET /api/healthy``: whether messages can be stored; needs no key and tells nothing else."""

    def __init__(self, platform: Platform) -> None:
        super().__init__()
        self._platform = platform

    async def answer(self, request: Request) -> Answer:
        if request.postpath:
            raise Refused(404, "Not found", "There is nothing at this path")
        await self._platform.write(lambda connection: None)
        return Answer(wire.dump({"result": "ok"}))
