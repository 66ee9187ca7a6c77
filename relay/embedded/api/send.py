"""``POST /api/transactional/send`` (HTTP_CONTRACT.md)."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any, ClassVar

import attrs
import sqlalchemy as sa
from twisted.web.server import Request

from relay import wire
from relay.embedded import deliveries, filling, forms, refusals, rules, store, templates
from relay.embedded.accounts import Tenant
from relay.embedded.api.core import AccountEndpoint, Platform, body, header, idempotency_key
from relay.embedded.resource import Answer
from relay.embedded.rules import Refused
from relay.values import Submission

#: The answers that say of a message that it will never be taken; such a message stands in the log.
LOGGED = (400, 403, 422)

#: Largest JSON of a refused message that is kept, in bytes.
LARGEST_KEPT = 1_048_576


class Send(AccountEndpoint):
    """``POST /api/transactional/send``: one message for one recipient."""

    methods: ClassVar[tuple[str, ...]] = ("POST",)

    async def of(self, tenant: Tenant, request: Request) -> Answer:
        given, payload = _unreadable(request), b"{}"
        try:
            posted = forms.read(header(request, "Content-Type"), header(request, "Content-Encoding"), body(request))
            given, payload = _submission(request, posted), posted.payload
            tag, id = await submit(self._platform, tenant, given, payload)
        except Refused as refused:
            if refused.status in LOGGED:
                await self._log(tenant, given, payload, refused)
            raise
        return Answer(wire.encode_accepted(tag=tag, to=given.to, id=id))

    async def _log(self, tenant: Tenant, given: Submission, payload: bytes, refused: Refused) -> None:
        """Let the log have what was refused; the client gets its answer whether or not it does."""
        same = {each.name: getattr(given, each.name) for each in attrs.fields(store.Fields) if each.name != "recipient"}
        new = refusals.refused(
            tenant.id,
            self._platform.new_id(),
            self._platform.now(),
            store.Fields(recipient=given.to, **same),
            f"{refused.status} {refused.title}: {refused.description}",
            payload if len(payload) <= LARGEST_KEPT else b"{}",
        )
        with contextlib.suppress(Refused):
            await self._platform.write(partial(refusals.put, new=new))


async def submit(platform: Platform, tenant: Tenant, given: Submission, payload: bytes) -> tuple[str, str]:
    """Take a message, or know it again; its tag and its id.

    :param payload: the JSON as it came.
    :raises Refused: what is wrong with it.
    """
    rules.check_variables(given.variables)
    # Of what the client wrote, so that a template which is saved meanwhile makes no other message of it.
    fingerprint = rules.fingerprint(given)
    if given.idempotency_key and (given.variables is not None or given.template.strip()):
        # A repetition is answered as before, without rendering again.
        find = partial(_known, account=tenant.id, key=given.idempotency_key, fingerprint=fingerprint)
        known = await platform.read(partial(find, now=platform.now()))
        if known is not None:
            return known
    used = await _template(platform, tenant, given)
    submission = rules.check(given if used is None else templates.applied(used, given), tenant)
    final, undefined = await _filled(platform, submission)
    new = attrs.evolve(_new(platform, tenant, final, payload, fingerprint), undefined=undefined)
    added = await platform.write(partial(deliveries.accept, new=new))
    if added.seq is not None:
        platform.carriers.wake(new.fields.route)
    return final.tag, added.id


def _known(connection: sa.Connection, account: int, key: str, fingerprint: str, now: float) -> tuple[str, str] | None:
    """The tag and the id of the message that *key* stands for."""
    id = store.repeated(connection, account, key, fingerprint, now)
    found = None if id is None else store.one(connection, account, id)
    return None if found is None else (found[0].fields.tag, found[0].id)


def _new(platform: Platform, tenant: Tenant, final: Submission, payload: bytes, fingerprint: str) -> store.New:
    """What is stored: *final* as it would be sent, and *payload* as it came."""
    same = {each.name: getattr(final, each.name) for each in attrs.fields(store.Fields) if each.name != "recipient"}
    return store.New(
        account=tenant.id,
        id=platform.new_id(),
        created=platform.now(),
        fields=store.Fields(recipient=final.to, **same),
        posted=payload,
        rendered=final.body if final.template or final.variables is not None else None,
        size=len(final.body.encode()),
        idempotency_key=final.idempotency_key,
        fingerprint=fingerprint,
        attachments=final.attachments,
    )


async def _template(platform: Platform, tenant: Tenant, given: Submission) -> templates.Template | None:
    """The template that *given* names.

    :raises Refused: 403, the account has none of this id.
    """
    id = given.template
    if not id.strip():
        return None
    found = await platform.read(lambda connection: templates.one(connection, tenant.id, id))
    if found is None:
        raise Refused(403, "Template not available", f"This account has no such template: {rules.shown(id)}")
    return found


async def _filled(platform: Platform, submission: Submission) -> tuple[Submission, tuple[str, ...]]:
    """*submission* with its variables put in, where it has any, and the names of those that are missing.

    :raises Refused: 400, and what is wrong with the template.
    """
    if submission.variables is None:
        return submission, ()
    try:
        filled = await filling.fill(platform.render, submission, submission.variables)
    except filling.Mistake as mistake:
        raise mistake.refused() from None
    changed: dict[str, Any] = dict(filled.texts)
    return attrs.evolve(submission, **changed), filled.undefined


def _unreadable(request: Request) -> Submission:
    """What is known of a message before its body is read."""
    request_id = rules.storable(request.requestHeaders.getRawHeaders("X-Request-ID", [""])[0])[:255]
    return wire.decode_submission(b"{}", request_id=request_id, idempotency_key="")


def _submission(request: Request, posted: forms.Posted) -> Submission:
    """The submission in a request.

    :raises Refused: 400, it is not what the contract says.
    """
    key = idempotency_key(request)
    request_id = rules.storable(header(request, "X-Request-ID"))[:255]
    try:
        submission = wire.decode_submission(posted.payload, request_id=request_id, idempotency_key=key)
    except wire.WireError as error:
        raise Refused(400, "Wrong body", str(error)) from None
    return attrs.evolve(submission, attachments=posted.attachments)
