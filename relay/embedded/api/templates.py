"""``/api/transactional/templates``: an account's templates (:mod:`relay.embedded.templates`)."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import attrs
import sqlalchemy as sa
from twisted.web.server import Request

from relay import wire
from relay.embedded import filling, rules, store, templates
from relay.embedded.accounts import Tenant
from relay.embedded.api import send
from relay.embedded.api.core import AccountEndpoint, Platform, document, idempotency_key, instant, parameters
from relay.embedded.api.tree import segment
from relay.embedded.resource import Answer, argument
from relay.embedded.rules import Refused, wrong
from relay.embedded.templates import API, Fields, Template, Version
from relay.values import JSONObject

_FIELDS = tuple(each.name for each in attrs.fields(Fields))

#: What the answers have beside the fields; who sends back what was answered need not take it out.
_ABOUT = ("id", "version", "created", "updated")


class Templates(AccountEndpoint):
    """``…/templates``: the list, and where new ones are made."""

    methods: ClassVar[tuple[str, ...]] = ("GET", "HEAD", "POST")

    async def of(self, tenant: Tenant, request: Request) -> Answer:
        if request.method == b"POST":
            return await self._create(tenant, request)
        parameters(request, "search", "tag")
        search, tag = rules.storable(argument(request, "search")), rules.storable(argument(request, "tag"))
        found = await self._platform.look(lambda connection: templates.listed(connection, tenant.id, search, tag))
        return Answer(wire.dump({"templates": [summary(each) for each in found]}))

    async def _create(self, tenant: Tenant, request: Request) -> Answer:
        """A new template; its repetition with the same Idempotency-Key is answered as before."""
        given = document(request, *_ABOUT, *_FIELDS)
        id, fields = _text(given, "id"), templates.checked(_fields(given, Fields("")))
        await filling.check(self._platform.render, fields)
        now, key = self._platform.now(), idempotency_key(request)
        fingerprint = rules.digest(["template", id, attrs.astuple(fields)])

        def create(connection: sa.Connection) -> Template:
            known = key and store.repeated(connection, tenant.id, key, fingerprint, now)
            if known:
                return templates.existing(connection, tenant.id, known)
            made = templates.create(connection, tenant.id, id, fields, API, now)
            if key:
                store.remember(connection, tenant.id, key, made.id, fingerprint, now)
            return made

        return _made(await self._platform.write(create))


class OneTemplate(AccountEndpoint):
    """``…/templates/{id}``."""

    methods: ClassVar[tuple[str, ...]] = ("GET", "HEAD", "PUT", "PATCH", "DELETE")

    async def of(self, tenant: Tenant, request: Request) -> Answer:
        id = segment(request, 3)
        if request.method == b"PUT":
            return await self._put(tenant, id, document(request, *_ABOUT, *_FIELDS))
        if request.method == b"PATCH":
            return await self._patch(tenant, id, document(request, *_ABOUT, *_FIELDS))
        if request.method == b"DELETE":
            await self._platform.write(lambda connection: templates.remove(connection, tenant.id, id))
            return Answer(wire.dump({"result": "ok"}))
        found = await self._platform.read(lambda connection: templates.existing(connection, tenant.id, id))
        return Answer(wire.dump(whole(found)))

    async def _put(self, tenant: Tenant, id: str, given: dict[str, Any]) -> Answer:
        """The template as it is given, new or not."""
        fields, known, now = templates.checked(_fields(given, Fields(""))), _known(given, id), self._platform.now()
        await filling.check(self._platform.render, fields)

        def put(connection: sa.Connection) -> Answer:
            if known is None and templates.one(connection, tenant.id, id) is None:
                return _made(templates.create(connection, tenant.id, id, fields, API, now))
            return Answer(wire.dump(whole(templates.save(connection, tenant.id, id, fields, API, now, known=known))))

        return await self._platform.write(put)

    async def _patch(self, tenant: Tenant, id: str, given: dict[str, Any]) -> Answer:
        """The template with the fields that are given."""
        known, now = _known(given, id), self._platform.now()
        found = await self._platform.read(lambda connection: templates.existing(connection, tenant.id, id))
        fields = templates.checked(_fields(given, found.fields))
        await filling.check(self._platform.render, fields)
        # What was checked is what was read: a save in between is not written over.
        save = partial(templates.save, account=tenant.id, id=id, fields=fields, author=API, now=now)
        saved = await self._platform.write(partial(save, known=found.version if known is None else known))
        return Answer(wire.dump(whole(saved)))


class Duplicate(AccountEndpoint):
    """``…/templates/{id}/duplicate``."""

    methods: ClassVar[tuple[str, ...]] = ("POST",)

    async def of(self, tenant: Tenant, request: Request) -> Answer:
        document(request)
        id, now = segment(request, 3), self._platform.now()
        duplicate = partial(templates.duplicate, account=tenant.id, id=id, author=API, now=now)
        return _made(await self._platform.write(duplicate))


class Versions(AccountEndpoint):
    """``…/templates/{id}/versions``: its history, newest first, without the bodies."""

    async def of(self, tenant: Tenant, request: Request) -> Answer:
        id = segment(request, 3)
        found = await self._platform.look(lambda connection: templates.versions(connection, tenant.id, id))
        return Answer(wire.dump({"versions": [_version(each, body=False) for each in found]}))


class OneVersion(AccountEndpoint):
    """``…/templates/{id}/versions/{version}``."""

    async def of(self, tenant: Tenant, request: Request) -> Answer:
        id, number = segment(request, 3), _number(segment(request, 5))
        found = await self._platform.read(lambda connection: templates.version(connection, tenant.id, id, number))
        return Answer(wire.dump(_version(found, body=True)))


class Restore(AccountEndpoint):
    """``…/templates/{id}/versions/{version}/restore``."""

    methods: ClassVar[tuple[str, ...]] = ("POST",)

    async def of(self, tenant: Tenant, request: Request) -> Answer:
        document(request)
        id, number, now = segment(request, 3), _number(segment(request, 5)), self._platform.now()
        restore = partial(templates.restore, account=tenant.id, id=id, number=number, author=API, now=now)
        return Answer(wire.dump(whole(await self._platform.write(restore))))


class Previewed(AccountEndpoint):
    """``…/templates/{id}/preview``: the template, changed or as it is, with variables; nothing is stored."""

    methods: ClassVar[tuple[str, ...]] = ("POST",)

    async def of(self, tenant: Tenant, request: Request) -> Answer:
        given, id = document(request, "variables", *_FIELDS), segment(request, 3)
        found = await self._platform.read(lambda connection: templates.existing(connection, tenant.id, id))
        fields = templates.checked(_fields(given, found.fields))
        shown = await filling.preview(self._platform.render, fields, _variables(given))
        mistake = shown.mistake
        error = mistake and {"field": mistake.name, "line": mistake.line, "description": mistake.words}
        return Answer(wire.dump({**attrs.asdict(shown.fields), "undefined": shown.undefined, "error": error}))


class Test(AccountEndpoint):
    """``…/templates/{id}/test``: a message made of it, on its way as any other."""

    methods: ClassVar[tuple[str, ...]] = ("POST",)

    async def of(self, tenant: Tenant, request: Request) -> Answer:
        given, id = document(request, *_TEST, "variables"), segment(request, 3)
        await self._platform.read(lambda connection: templates.existing(connection, tenant.id, id))
        texts = {name: _text(given, name) for name in _TEST}
        tag, sent = await test(self._platform, tenant, id, texts, _variables(given), idempotency_key(request))
        return Answer(wire.encode_accepted(tag=tag, to=texts["to"], id=sent))


_TEST = ("to", "toname", "route", "fromname", "fromemail", "subject")


async def test(
    platform: Platform, tenant: Tenant, id: str, texts: dict[str, str], variables: JSONObject | None, key: str = ""
) -> tuple[str, str]:
    """Send a test of a template; its tag and its id.

    :param texts: fields of the message: what the template has itself wins, and what neither has gets a default.
    :raises Refused: what is wrong with it.
    """
    texts = {**texts, "template": id}
    texts["fromemail"] = texts.get("fromemail") or texts["to"]
    texts["subject"] = texts.get("subject") or f"Test of {id}"
    payload = wire.dump({**texts, "variables": variables})
    given = wire.decode_submission(payload, idempotency_key=key)
    return await send.submit(platform, tenant, given, payload)


def summary(template: Template) -> dict[str, Any]:
    """A template as JSON without its body."""
    fields = {name: value for name, value in attrs.asdict(template.fields).items() if name != "body"}
    times = {"created": instant(template.created), "updated": instant(template.updated)}
    return {"id": template.id, "version": template.version, **times, **fields}


def whole(template: Template) -> dict[str, Any]:
    """A template as JSON."""
    return {**summary(template), "body": template.fields.body}


def _made(template: Template) -> Answer:
    return Answer(wire.dump(whole(template)), status=201)


def _version(version: Version, *, body: bool) -> dict[str, Any]:
    fields = attrs.asdict(version.fields)
    if not body:
        del fields["body"]
    return {"version": version.version, "saved": instant(version.saved), "author": version.author, **fields}


def _fields(given: dict[str, Any], before: Fields) -> Fields:
    """*before* with what is given."""
    return attrs.evolve(before, **{name: _text(given, name) for name in _FIELDS if name in given})


def _text(given: dict[str, Any], name: str) -> str:
    value = given.get(name)
    if value is not None and not isinstance(value, str):
        raise wrong(f"{name}: must be a string")
    return value or ""


def _variables(given: dict[str, Any]) -> JSONObject | None:
    variables = given.get("variables", {})
    if variables is not None and not isinstance(variables, dict):
        raise wrong("variables: must be an object or null")
    rules.check_variables(variables)
    return variables


def _known(given: dict[str, Any], id: str) -> int | None:
    """The version that who saves has seen, None where it is not said."""
    if _text(given, "id").lower() not in ("", id.lower()):
        raise wrong("id: is another one than that in the path; a template keeps its id")
    version = given.get("version")
    if version is not None and (not isinstance(version, int) or isinstance(version, bool)):
        raise wrong("version: must be a whole number")
    return version


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise Refused(404, "Not found", "This template has no such version")
    return int(text)
