"""``/admin/routes``: the postal routes, who may use them, and whether they work."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from twisted.web.server import Request

from relay.embedded import accounts
from relay.embedded.resource import Answer, argument
from relay.embedded.routes import table, values
from relay.embedded.routes.values import Maildir, PostalRoute, Smarthost, WrongRoute
from relay.embedded.rules import Refused
from relay.embedded.web.frame import AdminPage, Form, FormPage, Viewer, html


class Routes(FormPage, AdminPage):
    """The list; below it ``new``, and each route by its id with ``test`` and ``delete``."""

    #: What is done with a POST to ``/admin/routes/ID/WORD``.
    _ACTIONS: ClassVar[tuple[str, ...]] = ("", "test", "delete")

    async def of(self, viewer: Viewer, request: Request) -> Answer:
        id, action = _below(request)
        if action:
            raise Refused(404, "Not found", "There is no such page")
        if not id:
            return await self._list(viewer)
        if id == "new":
            kind = argument(request, "kind") or "smtp"
            if kind not in values.KINDS:
                raise Refused(404, "Not found", "There is no such kind of routes")
            return await self._form(viewer, kind, {"kind": kind}, new=True)
        route = await self._route(id)
        return await self._form(viewer, route.kind, _shown(route), route=route)

    async def submitted(self, viewer: Viewer, request: Request, form: Form) -> Answer:
        id, action = _below(request)
        if not id or action not in self._ACTIONS or (id == "new" and action):
            raise Refused(404, "Not found", "There is no such page")
        if id == "new":
            return await self._add(viewer, request, form)
        route = await self._route(id)
        if action == "test":
            return await self._test(viewer, route)
        if action == "delete":
            return await self._delete(request, route)
        return await self._save(viewer, request, form, route)

    async def _list(self, viewer: Viewer) -> Answer:
        platform = self.frontend.platform
        listed, waits = await platform.read(
            lambda connection: (table.listed(connection, platform.cipher), table.waiting(connection))
        )
        holders = await platform.read(
            lambda connection: {each.id: len(table.holders(connection, each.id)) for each in listed}
        )
        return html(
            "routes.html", viewer, routes=listed, waiting=waits, holders=holders, kinds=values.KINDS,
            down=platform.carriers.down(), target=_target,
        )  # fmt: skip

    async def _form(
        self,
        viewer: Viewer,
        kind: str,
        fields: Mapping[str, Any],
        *,
        route: PostalRoute | None = None,
        new: bool = False,
        problems: Mapping[str, str] | None = None,
        given: set[int] | None = None,
        tested: tuple[list[tuple[str, str]], str] | None = None,
    ) -> Answer:
        """The page of one route.

        :param fields: what stands in the form.
        :param given: the accounts that are ticked; None: those that have the route.
        :param tested: what was said when it was tried.
        """
        platform = self.frontend.platform
        everybody = await platform.read(accounts.listed)
        if given is None:
            id = route.id if route is not None else ""
            given = await platform.read(partial(table.holders, id=id)) if id else set()
        waits = (await platform.read(table.waiting)).get(route.id, 0) if route is not None else 0
        return html(
            "route.html", viewer, 400 if problems else 200, route=route, new=new, kind=kind, fields=fields,
            problems=problems or {}, accounts=everybody, given=given, tested=tested, waiting=waits,
            kinds=values.KINDS, tls=values.TLS, down=route is not None and route.id in platform.carriers.down(),
        )  # fmt: skip

    async def _add(self, viewer: Viewer, request: Request, form: Form) -> Answer:
        platform, kind, given = self.frontend.platform, form.text("kind"), _accounts(form)
        now = platform.now()

        def add(connection: Any) -> None:
            table.add(connection, platform.cipher, route, now)
            table.give(connection, route.id, given)

        try:
            route = _parsed(form.text("id"), kind, form)
            await platform.write(add)
        except WrongRoute as wrong:
            kind = kind if kind in values.KINDS else "smtp"
            return await self._form(viewer, kind, form, new=True, problems=wrong.problems, given=given)
        await self._changed(given)
        return self.see_other(request, f"/admin/routes/{route.id}", f"The route {route.name} is there.")

    async def _save(self, viewer: Viewer, request: Request, form: Form, old: PostalRoute) -> Answer:
        platform, given = self.frontend.platform, _accounts(form)
        before = await platform.read(partial(table.holders, id=old.id))

        def save(connection: Any) -> None:
            table.change(connection, platform.cipher, route)
            table.give(connection, route.id, given)

        try:
            route = values.parse(old.id, old.kind, form, password=_kept(old, form))
            await platform.write(save)
        except WrongRoute as wrong:
            fields = {"id": old.id, **form}
            return await self._form(viewer, old.kind, fields, route=old, problems=wrong.problems, given=given)
        await self._changed(given | before)
        return self.see_other(request, f"/admin/routes/{route.id}", f"The route {route.name} was saved.")

    async def _test(self, viewer: Viewer, route: PostalRoute) -> Answer:
        tested = await self.frontend.platform.carriers.probe(route)
        return await self._form(viewer, route.kind, _shown(route), route=route, tested=tested)

    async def _delete(self, request: Request, route: PostalRoute) -> Answer:
        platform = self.frontend.platform
        before = await platform.read(partial(table.holders, id=route.id))
        await platform.write(partial(table.remove, id=route.id))
        await self._changed(before)
        return self.see_other(request, "/admin/routes", f"The route {route.name} was deleted.")

    async def _changed(self, given: set[int]) -> None:
        """Routes work by their new settings at once, and the relay asks anew what *given* accounts may use."""
        self.frontend.platform.carriers.look()
        await self.frontend.platform.keys.refresh(given)

    async def _route(self, id: str) -> PostalRoute:
        platform = self.frontend.platform
        found = await platform.read(partial(table.one, cipher=platform.cipher, id=id))
        if found is None:
            raise Refused(404, "Not found", "There is no such route")
        return found


def _below(request: Request) -> tuple[str, str]:
    """The route's id and the word behind it, each ``""`` where it is absent."""
    parts = [part.decode("utf-8", "replace") for part in request.postpath or ()]
    if len(parts) > 2:
        raise Refused(404, "Not found", "There is no such page")
    id, action, *_ = [*parts, "", ""]
    return id, action


def _parsed(id: str, kind: str, form: Form) -> PostalRoute:
    """The route in a form.

    :raises WrongRoute: with every problem, that of the id too.
    """
    problems: dict[str, str] = {}
    try:
        id = values.parse_id(id)
        if id == "new":
            raise WrongRoute({"id": "must be another word than new"})
    except WrongRoute as wrong:
        id, problems = "x", wrong.problems
    try:
        route = values.parse(id, kind, form)
    except WrongRoute as wrong:
        raise WrongRoute({**problems, **wrong.problems}) from None
    if problems:
        raise WrongRoute(problems)
    return route


def _kept(old: PostalRoute, form: Form) -> str:
    """The password that an empty field stands for: none for another host, which must not learn it."""
    settings = old.settings
    same = isinstance(settings, Smarthost) and (settings.host, settings.user) == (form.text("host"), form.text("user"))
    return values.password_of(settings) if same else ""


def _accounts(form: Form) -> set[int]:
    """The accounts that are ticked."""
    given = form.every.get("account", [])
    return {int(each) for each in given if each.isascii() and each.isdecimal() and len(each) < 10}


def _shown(route: PostalRoute) -> dict[str, Any]:
    """What stands in the form, the password left out."""
    return values.public(route)


def _target(route: PostalRoute) -> str:
    """Where messages go, in a word."""
    settings = route.settings
    if isinstance(settings, Smarthost):
        return f"{settings.host}:{settings.port}"
    return f"maildir/{settings.folder}" if isinstance(settings, Maildir) else "nowhere, it stores"
