"""The HTTP contract, served (HTTP_CONTRACT.md): send, ping, and the log."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from functools import partial
from typing import Any, ClassVar

import attrs
from attrs import frozen
from sqlalchemy.exc import SQLAlchemyError
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import Request

from relay import wire
from relay.embedded import accounts, forms, rules, store, template
from relay.embedded.accounts import Tenant
from relay.embedded.database import Database, Query, T
from relay.embedded.resource import Answer, Endpoint, argument
from relay.embedded.rules import Refused
from relay.values import JSONObject, Submission

#: Renders a body; raises :class:`~relay.embedded.template.TemplateError`, or :class:`Refused` when it is too busy.
Render = Callable[[str, JSONObject], Awaitable[str]]

#: Most messages in one answer of the log, and how many when the client names no number.
MOST_LISTED = 500
LISTED = 50

_FILTERS = ("to", "tag", "status", "route", "request_id", "search", "before")
_log = Logger()


@frozen
class Platform:
    """What the resources work with."""

    database: Database
    render: Render
    now: Callable[[], float]
    new_id: Callable[[], str]

    async def read(self, query: Query[T]) -> T:
        """What *query* finds.

        :raises Refused: 503, the database cannot answer.
        """
        try:
            return await self.database.read(query)
        except SQLAlchemyError:
            _log.failure("embedded: the database cannot be read")
            raise _unavailable() from None

    async def write(self, query: Query[T]) -> T:
        """What *query* returns, once it is durable.

        :raises Refused: what the query raised, or 503: nothing was stored.
        """
        try:
            return await self.database.write(query)
        except SQLAlchemyError:
            _log.failure("embedded: the database cannot be written")
            raise _unavailable() from None

    async def tenant(self, key: str | None) -> Tenant:
        """The account that *key* opens.

        :raises Refused: 401.
        """
        found = await self.read(partial(accounts.by_key, key=key)) if key else None
        if found is None:
            raise Refused(401, "Unauthorized", "The X-Auth-APIKey header does not hold a valid API key")
        return found


def _unavailable() -> Refused:
    return Refused(503, "Store unavailable", "The message store cannot answer now, try again later")


def header(request: Request, name: str) -> str:
    """A header of the request, ``""`` where it is absent.

    :raises Refused: 400, it is there more than once.
    """
    values = request.requestHeaders.getRawHeaders(name.encode()) or [b""]
    if len(values) > 1:
        raise rules.wrong(f"{name}: stands in the request more than once")
    return values[0].decode("utf-8", "replace").strip()


def body(request: Request) -> bytes:
    """The body of the request, which Twisted has read already."""
    content: bytes = request.content.read() if request.content is not None else b""
    return content


def api(platform: Platform) -> Resource:
    """The tree below ``/api``."""
    root = _Nothing()
    transactional = _Nothing()
    root.putChild(b"ping", Ping(platform))
    root.putChild(b"healthy", Healthy(platform))
    root.putChild(b"transactional", transactional)
    transactional.putChild(b"send", Send(platform))
    transactional.putChild(b"log", Log(platform))
    return root


class _Nothing(Endpoint):
    """A folder of the tree, and every path in it that is not there."""

    isLeaf = False

    def getChild(self, path: bytes, request: Request) -> Endpoint:
        return _Nothing()


class _OfPlatform(Endpoint):
    def __init__(self, platform: Platform) -> None:
        super().__init__()
        self._platform = platform

    async def answer(self, request: Request) -> Answer:
        if request.postpath:
            raise Refused(404, "Not found", "There is nothing at this path")
        return await self.of(await self._platform.tenant(header(request, "X-Auth-APIKey")), request)

    async def of(self, tenant: Tenant, request: Request) -> Answer:
        """The answer for an account."""
        raise NotImplementedError


class Ping(_OfPlatform):
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


class Send(_OfPlatform):
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


class Log(_OfPlatform):
    """``GET /api/transactional/log``: the messages, newest first; ``…/log/ID``: one with its content."""

    async def answer(self, request: Request) -> Answer:
        return await self.of(await self._platform.tenant(header(request, "X-Auth-APIKey")), request)

    async def of(self, tenant: Tenant, request: Request) -> Answer:
        if not request.postpath:
            return await self._list(tenant, request)
        if len(request.postpath) > 1:
            raise Refused(404, "Not found", "There is nothing at this path")
        id = request.postpath[0].decode("ascii", "replace")
        found = await self._platform.read(lambda connection: store.one(connection, tenant.id, id))
        if found is None:
            raise Refused(404, "Not found", "This account has no such message")
        return Answer(wire.dump(whole(*found)))

    async def _list(self, tenant: Tenant, request: Request) -> Answer:
        wanted, limit = wanted_of(request), _limit(request)
        unknown = [name for name in request.args if name.decode("latin-1") not in (*_FILTERS, "limit")]
        if unknown:
            raise rules.wrong(f"{unknown[0].decode('latin-1')[:100]}: no such filter; {', '.join(_FILTERS)}, limit are")
        found = await self._platform.read(lambda connection: store.listed(connection, tenant.id, wanted, limit + 1))
        if found is None:
            raise rules.wrong("before: this account has no such message")
        more = found[limit - 1].id if len(found) > limit else None
        return Answer(wire.dump({"messages": [row(each) for each in found[:limit]], "before": more}))


def wanted_of(request: Request) -> store.Filter:
    """The filters in the query of a request."""
    return store.Filter(**{name: rules.storable(argument(request, name)) for name in _FILTERS})


def _limit(request: Request) -> int:
    given = argument(request, "limit")
    if not given:
        return LISTED
    if not (given.isascii() and given.isdecimal() and len(given) < 5 and 1 <= int(given) <= MOST_LISTED):
        raise rules.wrong(f"limit: must be a number from 1 to {MOST_LISTED}")
    return int(given)


def instant(seconds: float) -> str:
    """A time as RFC 3339 has it, in UTC: ``2026-11-23T14:42:00.125Z``."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def row(entry: store.Entry) -> dict[str, Any]:
    """A line of the log as JSON; the fields have the names of the contract."""
    fields = attrs.asdict(entry.fields)
    fields["to"] = fields.pop("recipient")
    return {
        "id": entry.id,
        "created": instant(entry.created),
        "status": entry.status,
        "size": entry.size,
        "attachments": entry.attachments,
        **fields,
    }


def whole(entry: store.Entry, content: store.Content) -> dict[str, Any]:
    """A message as JSON: its line of the log, what was posted, and the body that would be sent."""
    posted = json.loads(content.posted, parse_constant=str)
    files = [{"filename": name, "content_type": kind, "size": size} for name, kind, size in content.attachments]
    body = posted.get("body") or "" if content.rendered is None else content.rendered
    return {**row(entry), "attachments": files, "body": body, "posted": posted}
