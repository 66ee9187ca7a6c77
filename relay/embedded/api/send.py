"""``POST /api/transactional/send`` (HTTP_CONTRACT.md)."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import attrs
from twisted.web.server import Request

from relay import wire
from relay.embedded import forms, rules, store, template
from relay.embedded.accounts import Tenant
from relay.embedded.api.core import AccountEndpoint, body, header
from relay.embedded.resource import Answer
from relay.embedded.rules import Refused
from relay.values import Submission


class Send(AccountEndpoint):
    """``POST /api/transactional/send``: one message for one recipient."""

    methods: ClassVar[tuple[str, ...]] = ("POST",)

    async def of(self, tenant: Tenant, request: Request) -> Answer:
        posted = forms.read(header(request, "Content-Type"), header(request, "Content-Encoding"), body(request))
        submission = rules.check(_submission(request, posted), tenant)
        fingerprint = rules.fingerprint(submission)
        id = None
        if submission.variables is not None and submission.idempotency_key:
            # A repetition is answered as before, without rendering again.
            key = submission.idempotency_key
            id = await self._platform.read(
                lambda connection: store.repeated(connection, tenant.id, key, fingerprint, self._platform.now())
            )
        if id is None:
            new = self._new(tenant, await self._rendered(submission), posted.payload, fingerprint)
            id = await self._platform.write(partial(store.add, new=new))
        return Answer(wire.encode_accepted(tag=submission.tag, to=submission.to, id=id))

    def _new(self, tenant: Tenant, final: Submission, payload: bytes, fingerprint: str) -> store.New:
        """What is stored: *final* as it would be sent, and *payload* as it came."""
        same = {each.name: getattr(final, each.name) for each in attrs.fields(store.Fields) if each.name != "recipient"}
        return store.New(
            account=tenant.id,
            id=self._platform.new_id(),
            created=self._platform.now(),
            fields=store.Fields(recipient=final.to, **same),
            posted=payload,
            rendered=None if final.variables is None else final.body,
            size=len(final.body.encode()),
            idempotency_key=final.idempotency_key,
            fingerprint=fingerprint,
            attachments=final.attachments,
        )

    async def _rendered(self, submission: Submission) -> Submission:
        """*submission* with its variables put in, where it has any.

        :raises Refused: 400, and what is wrong with the template.
        """
        variables = submission.variables
        if variables is None:
            return submission
        name = "body"
        try:
            rendered = await self._platform.render(submission.body, variables)
            changed: dict[str, Any] = {"body": rules.storable(rendered)}
            for name in ("subject", "fromname", "fromemail", "replyto"):
                changed[name] = template.replace(getattr(submission, name), variables, rules.LONGEST_FIELD)
        except template.TemplateError as error:
            raise Refused(400, "Template error", f"{name}: {error}") from None
        return attrs.evolve(submission, **changed)


def _submission(request: Request, posted: forms.Posted) -> Submission:
    """The submission in a request.

    :raises Refused: 400, it is not what the contract says.
    """
    key = header(request, "Idempotency-Key")
    if len(key) > 255 or not key.isascii() or not key.isprintable():
        raise rules.wrong("Idempotency-Key: must be at most 255 printable ASCII characters")
    request_id = rules.storable(header(request, "X-Request-ID"))[:255]
    try:
        submission = wire.decode_submission(posted.payload, request_id=request_id, idempotency_key=key)
    except wire.WireError as error:
        raise Refused(400, "Wrong body", str(error)) from None
    return attrs.evolve(submission, attachments=posted.attachments)
