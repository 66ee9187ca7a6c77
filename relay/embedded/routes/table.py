"""The routes in the database: made, changed and given to accounts by administrators."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from relay.embedded.routes import values
from relay.embedded.routes.values import PostalRoute, WrongRoute
from relay.embedded.rules import Refused
from relay.embedded.schema import account_routes, accounts, deliveries, routes
from relay.spool.crypto import Cipher, Unreadable


def listed(connection: sa.Connection, cipher: Cipher) -> list[PostalRoute]:
    """All routes, by id; one whose settings cannot be read back is left out."""
    found = (_route(row, cipher) for row in connection.execute(sa.select(routes).order_by(routes.c.id)))
    return [route for route in found if route is not None]


def one(connection: sa.Connection, cipher: Cipher, id: str) -> PostalRoute | None:
    """The route of that id."""
    row = connection.execute(sa.select(routes).where(routes.c.id == id)).one_or_none()
    return None if row is None else _route(row, cipher)


def kind_of(connection: sa.Connection, id: str) -> str:
    """What kind a route is, ``""`` where it is not there."""
    return connection.execute(sa.select(routes.c.kind).where(routes.c.id == id)).scalar() or ""


def add(connection: sa.Connection, cipher: Cipher, route: PostalRoute, now: float) -> None:
    """A new route.

    :raises WrongRoute: there is one of this id, or a maildir with this folder.
    """
    if kind_of(connection, route.id):
        raise WrongRoute({"id": f"there is a route {route.id} already"})
    _check_folder(connection, route)
    connection.execute(sa.insert(routes).values(id=route.id, kind=route.kind, created=now, **_columns(cipher, route)))


def change(connection: sa.Connection, cipher: Cipher, route: PostalRoute) -> None:
    """Other settings for a route, whose kind stays: what waits for it was accepted for that.

    :raises WrongRoute: it is not there, or of another kind.
    """
    if kind_of(connection, route.id) != route.kind:
        raise WrongRoute({"kind": f"there is no route {route.id} of the kind {route.kind}"})
    _check_folder(connection, route)
    connection.execute(sa.update(routes).where(routes.c.id == route.id).values(**_columns(cipher, route)))


def remove(connection: sa.Connection, id: str) -> None:
    """Delete a route; accounts lose it, and what waits for it fails
    (:func:`relay.embedded.deliveries.fail_stranded`).
    """
    connection.execute(
        sa.update(accounts).where(sa.func.lower(accounts.c.default_route) == id.lower()).values(default_route="")
    )
    connection.execute(sa.delete(account_routes).where(account_routes.c.route == id))
    connection.execute(sa.delete(routes).where(routes.c.id == id))


def holders(connection: sa.Connection, id: str) -> set[int]:
    """The accounts that may use a route."""
    query = sa.select(account_routes.c.account).where(account_routes.c.route == id)
    return set(connection.execute(query).scalars())


def give(connection: sa.Connection, id: str, wanted: Iterable[int]) -> None:
    """Let the accounts *wanted* use a route, and no others; numbers of no account are passed over."""
    wanted = set(wanted)
    had = holders(connection, id)
    lost = had - wanted
    if lost:
        mine = (account_routes.c.route == id, account_routes.c.account.in_(lost))
        connection.execute(sa.delete(account_routes).where(*mine))
        theirs = (accounts.c.id.in_(lost), accounts.c.default_route == id)
        connection.execute(sa.update(accounts).where(*theirs).values(default_route=""))
    known = set(connection.execute(sa.select(accounts.c.id).where(accounts.c.id.in_(wanted - had))).scalars())
    if known:
        connection.execute(sa.insert(account_routes), [{"account": each, "route": id} for each in sorted(known)])


def choose_default(connection: sa.Connection, account: int, id: str) -> None:
    """Let the account's messages that name no route go by *id*, which is given to it; ``""``: they must name one."""
    mine = (account_routes.c.account == account, account_routes.c.route == id)
    if id and connection.execute(sa.select(account_routes.c.route).where(*mine)).first() is None:
        raise Refused(403, "Route not available", f"This account has no route {id}")
    connection.execute(sa.update(accounts).where(accounts.c.id == account).values(default_route=id))


def waiting(connection: sa.Connection) -> dict[str, int]:
    """How many messages wait for each route."""
    query = sa.select(deliveries.c.route, sa.func.count()).group_by(deliveries.c.route)
    return {route: count for route, count in connection.execute(query)}


def _check_folder(connection: sa.Connection, route: PostalRoute) -> None:
    """Two routes into one folder would mix the mail of accounts that have nothing to do with each other."""
    if not isinstance(route.settings, values.Maildir):
        return
    others = sa.select(routes).where(routes.c.kind == "maildir", routes.c.id != route.id)
    for row in connection.execute(others):
        if row.settings == values.dump(route.settings):
            raise WrongRoute({"folder": f"the route {row.id} has this folder already"})


def _columns(cipher: Cipher, route: PostalRoute) -> dict[str, object]:
    password = values.password_of(route.settings)
    secret = cipher.encrypt(password, _context(route.id)) if password else b""
    return {"name": route.name, "settings": values.dump(route.settings), "secret": secret}


def _context(id: str) -> str:
    """What binds a password to its route: moved to another row it cannot be read."""
    return f"route {id}"


def _route(row: sa.Row[tuple[object, ...]], cipher: Cipher) -> PostalRoute | None:
    try:
        password = cipher.decrypt(row.secret, _context(row.id)) if row.secret else ""
    except Unreadable:
        password = ""  # of another key file: the smarthost will refuse, and the administrator types it again
    try:
        return PostalRoute(row.id, row.name, values.load(row.kind, row.settings, password), row.created)
    except WrongRoute:
        return None
