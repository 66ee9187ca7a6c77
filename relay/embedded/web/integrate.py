"""``/integrate``: what a program needs to send, "API & SMTP", with the account's key and code to paste."""

from __future__ import annotations

from pathlib import Path

import attrs
from twisted.web.server import Request

from relay import wire
from relay.embedded import listing
from relay.embedded.accounts import Tenant
from relay.embedded.resource import Answer, argument
from relay.embedded.rules import Refused
from relay.embedded.web import samples
from relay.embedded.web.frame import HEADERS, AccountPage, Form, FormPage, Viewer, html, record, tenant_of

TABS = (("", "SMTP Relay"), ("api", "HTTP API"))


class Integrate(FormPage, AccountPage):
    """``/integrate`` and ``/integrate/api``; below it ``reset``, the certificate, and what has arrived."""

    async def of(self, viewer: Viewer, request: Request) -> Answer:
        name = _name(request)
        if name == samples.CERTIFICATE:
            return await self._certificate()
        if name == "first.json":
            return Answer(wire.dump(await self._newest(tenant_of(viewer))), headers=HEADERS)
        if name not in dict(TABS):
            raise Refused(404, "Not found", "There is no such page")
        return await self._shown(viewer, request, name)

    async def submitted(self, viewer: Viewer, request: Request, form: Form) -> Answer:
        if _name(request) != "reset":
            raise Refused(404, "Not found", "There is no such page")
        await self.frontend.platform.keys.reset(tenant_of(viewer).id)
        record(viewer, f"reset the API key of account {tenant_of(viewer).id}")
        said = "The API key was reset: the old one works no more."
        if viewer.impersonating:
            said += " Its users see the new one."
        return self.see_other(request, "/integrate", said)

    async def _shown(self, viewer: Viewer, request: Request, tab: str) -> Answer:
        tenant, hint = tenant_of(viewer), self.frontend.hint()
        held = await self.frontend.platform.keys.of(tenant.id)
        # Who impersonates the account is not told its key: it is in no byte of the answer.
        key = "" if held is None or viewer.impersonating else held.text
        chosen = samples.by_id(argument(request, "code"))
        facts = samples.Facts(hint.host, hint.port, key, hint.certificate is not None)
        return html(
            "integrate.html",
            viewer,
            hint=hint,
            held=held,
            key=key,
            tabs=TABS,
            tab=tab,
            heading=dict(TABS)[tab],
            samples=samples.SAMPLES,
            chosen=chosen,
            codes=[(where, samples.code(template, facts)) for where, template in chosen.files],
            api=samples.code("api.sh", attrs.evolve(facts, host=self._base(request))),
            base=self._base(request),
            newest=await self._newest(tenant),
        )

    def _base(self, request: Request) -> str:
        """The URL of the HTTP API, as the viewer reaches it."""
        host = (request.requestHeaders.getRawHeaders("Host") or ["localhost"])[0]
        return self.frontend.policy.public_url or f"{'https' if request.isSecure() else 'http'}://{host}"

    async def _newest(self, tenant: Tenant) -> dict[str, str]:
        """The account's newest message, empty before the first."""
        found = await self.frontend.platform.read(
            lambda connection: listing.listed(connection, tenant.id, listing.Filter(), 1)
        )
        if found is None or not found.entries:
            return {}
        entry = found.entries[0]
        return {"href": f"/message/{entry.id}", "label": entry.fields.subject or entry.id}

    async def _certificate(self) -> Answer:
        path = self.frontend.hint().certificate
        if path is None:
            raise Refused(404, "Not found", "This relay's certificate is one that programs trust by themselves")
        try:
            pem = await self.frontend.platform.read(lambda connection: _public(path))
        except OSError:
            raise Refused(404, "Not found", "The certificate cannot be read") from None
        download = ("Content-Disposition", f'attachment; filename="{samples.CERTIFICATE}"')
        return Answer(pem, "application/x-pem-file", headers=(*HEADERS, download))


def _name(request: Request) -> str:
    """The path below the page's own."""
    return "/".join(part.decode("latin-1") for part in request.postpath or ())


def _public(path: Path) -> bytes:
    """The certificates in a file, and nothing else that may stand there, such as a key.

    :raises OSError: it cannot be read.
    """
    begin, end = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
    found = path.read_bytes().split(begin)[1:]
    return b"".join(begin + each.partition(end)[0] + end + b"\n" for each in found)
