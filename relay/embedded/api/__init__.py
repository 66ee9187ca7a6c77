"""The HTTP API: the contract (HTTP_CONTRACT.md), and what programs manage an account with."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from twisted.web.resource import Resource
from twisted.web.server import Request

from relay import wire
from relay.embedded.accounts import Tenant
from relay.embedded.api import settings, statistics, templates
from relay.embedded.api.core import AccountEndpoint, Platform, PlatformEndpoint
from relay.embedded.api.doc import Doc
from relay.embedded.api.log import Log, LogEntry
from relay.embedded.api.reports import Reports
from relay.embedded.api.reset import ResetKey
from relay.embedded.api.send import Send
from relay.embedded.api.tree import grow
from relay.embedded.resource import Answer, Endpoint, nothing


def api(platform: Platform, relay: str = "") -> Resource:
    """The tree below ``/api``.

    :param relay: the token of the relay, which has a path of its own with it; ``""``: it has none.
    """
    paths = {path: endpoint(platform) for path, endpoint in PATHS.items()}
    own = {"relay/reports": Reports(platform, relay)} if relay else {}
    return grow({**paths, **own})


class Ping(AccountEndpoint):
    """``GET /api/ping``: whether the key is good, and what the account may use."""

    async def of(self, tenant: Tenant, request: Request) -> Answer:
        return Answer(wire.encode_ping(tenant.account("")))


class Healthy(PlatformEndpoint):
    """``GET /api/healthy``: whether messages can be stored; needs no key and tells nothing else."""

    async def answer(self, request: Request) -> Answer:
        if request.postpath:
            raise nothing()
        await self._platform.write(lambda connection: None)
        return Answer(wire.dump({"result": "ok"}))


#: Every path of the API, below ``/api/``, and what answers there.
PATHS: Mapping[str, Callable[[Platform], Endpoint]] = {
    "ping": Ping,
    "healthy": Healthy,
    "doc": Doc,
    "reset/apikey": ResetKey,
    "transactional/send": Send,
    "transactional/log": Log,
    "transactional/log/{id}": LogEntry,
    "transactional/templates": templates.Templates,
    "transactional/templates/{id}": templates.OneTemplate,
    "transactional/templates/{id}/duplicate": templates.Duplicate,
    "transactional/templates/{id}/preview": templates.Previewed,
    "transactional/templates/{id}/test": templates.Test,
    "transactional/templates/{id}/versions": templates.Versions,
    "transactional/templates/{id}/versions/{version}": templates.OneVersion,
    "transactional/templates/{id}/versions/{version}/restore": templates.Restore,
    "transactional/tags": statistics.Tags,
    "transactional/tag/{tag}": statistics.OneTag,
    "transactional/stats": statistics.Stats,
    "transactional/settings": settings.Settings,
    "transactional/routes": settings.Routes,
}
