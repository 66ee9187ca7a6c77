"""What every resource of the API works with: the platform, and the account behind a key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from functools import partial
from typing import Any

from attrs import frozen
from sqlalchemy.exc import SQLAlchemyError
from twisted.logger import Logger
from twisted.web.server import Request

from relay import wire
from relay.embedded import forms, keys, rules
from relay.embedded.accounts import Tenant
from relay.embedded.database import Database, Query, T, TooSlow
from relay.embedded.keys import Keys
from relay.embedded.resource import Answer, Endpoint, argument, nothing
from relay.embedded.routes.carriers import Carriers
from relay.embedded.rules import Refused
from relay.embedded.template import Rendered
from relay.spool.crypto import Cipher
from relay.values import JSONObject

#: Renders a body, or without variables looks at it for mistakes; raises
#: :class:`~relay.embedded.template.TemplateError`, or :class:`Refused` when it is too busy.
Render = Callable[[str, "JSONObject | None"], Awaitable[Rendered]]

_log = Logger()


@frozen
class Platform:
    """What the resources work with.

    :ivar cipher: seals what the database keeps and a copy of it must not tell.
    """

    database: Database
    keys: Keys
    cipher: Cipher
    render: Render
    now: Callable[[], float]
    new_id: Callable[[], str]
    carriers: Carriers

    async def read(self, query: Query[T]) -> T:
        """What *query* finds.

        :raises Refused: 503, the database cannot answer.
        """
        try:
            return await self.database.read(query)
        except SQLAlchemyError:
            _log.failure("embedded: the database cannot be read")
            raise _unavailable() from None

    async def look(self, query: Query[T]) -> T:
        """What *query* finds for a page; it gives way to messages.

        :raises Refused: 503, it takes too long, or the database cannot answer.
        """
        try:
            return await self.database.look(query)
        except TooSlow:
            raise Refused(
                503, "Too much to look through", "This took too long: give more filters, or a shorter time"
            ) from None
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
        found = await self.read(partial(keys.by_key, key=key)) if key else None
        if found is None:
            raise Refused(401, "Unauthorized", "The X-Auth-APIKey header does not hold a valid API key")
        self.keys.use(key or "")
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


def document(request: Request, *known: str) -> dict[str, Any]:
    """The fields of the JSON object in the request's body, which may be empty.

    :param known: the fields that there are; a wrong name must not pass for one that was left out.
    :raises Refused: 415 for another kind of body, 400 for one that is damaged or has an unknown field.
    """
    forms.check_json(header(request, "Content-Type"), header(request, "Content-Encoding"))
    given = body(request)
    try:
        fields = wire.decode_object(given) if given.strip() else {}
    except wire.WireError as error:
        raise Refused(400, "Wrong body", str(error)) from None
    for name in fields:
        if name not in known:
            raise rules.wrong(f"{rules.shown(name)}: no such field; {', '.join(known) or 'none'} are")
    return fields


def idempotency_key(request: Request) -> str:
    """What the client calls this request, ``""`` where it gives it no name.

    :raises Refused: 400, it is no key.
    """
    key = header(request, "Idempotency-Key")
    if len(key) > 255 or not key.isascii() or not key.isprintable():
        raise rules.wrong("Idempotency-Key: must be at most 255 printable ASCII characters")
    return key


def parameters(request: Request, *known: str) -> None:
    """Let a query pass that asks for *known* things only: a wrong name must not pass for one that was left out.

    :raises Refused: 400.
    """
    for name in request.args or ():
        if name.decode("utf-8", "replace") not in known:
            shown = rules.shown(name.decode("utf-8", "replace"))
            raise rules.wrong(f"{shown}: no such parameter; {', '.join(known)} are")


def moment(request: Request, name: str) -> float | None:
    """A time in the query, in seconds since the epoch: a day, or RFC 3339; UTC where it names no zone.

    :raises Refused: 400, it is none.
    """
    given = argument(request, name)
    if not given:
        return None
    # Python 3.10 does not know the Z.
    text = given[:-1] + "+00:00" if given[-1] in "zZ" else given
    try:
        time = datetime.fromisoformat(text)
        return (time if time.tzinfo else time.replace(tzinfo=timezone.utc)).timestamp()
    except (ValueError, OverflowError):
        raise rules.wrong(f"{name}: must be a time like 2026-11-23 or 2026-11-23T14:42:00Z") from None


def instant(seconds: float) -> str:
    """A time as RFC 3339 has it, in UTC: ``2026-11-23T14:42:00.125Z``."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class PlatformEndpoint(Endpoint):
    """A path that works with the platform."""

    def __init__(self, platform: Platform) -> None:
        super().__init__()
        self._platform = platform


class AccountEndpoint(PlatformEndpoint):
    """A path for who gives an API key."""

    async def answer(self, request: Request) -> Answer:
        if request.postpath:
            raise nothing()
        return await self.of(await self._platform.tenant(header(request, "X-Auth-APIKey")), request)

    async def of(self, tenant: Tenant, request: Request) -> Answer:
        """The answer for an account."""
        raise NotImplementedError
