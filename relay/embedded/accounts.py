"""Accounts: the customers of the platform."""

from __future__ import annotations

import re
from typing import Any

import sqlalchemy as sa
from attrs import frozen

from relay.embedded.schema import account_routes, accounts, api_keys, inserted, revocations, routes, users
from relay.values import Account, Route

#: The route that stores what it would send.
CAPTURE = Route("capture", "Capture")

#: A name has no control characters, no spaces around it, and at most 100 characters.
_NAME = re.compile(r"(?=\S)[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{1,100}(?<=\S)")


class WrongName(ValueError):
    """A name that no account can have; the text says why."""


@frozen
class Tenant:
    """An account as the store knows it.

    :ivar id: what its rows carry.
    :ivar default_route: the id of the route for messages that name none, ``""`` when it must be named.
    """

    id: int
    name: str
    routes: tuple[Route, ...]
    default_route: str

    def account(self, key: str) -> Account:
        """The value that a ping is answered from."""
        return Account(key, self.name, self.routes, self.default_route)


@frozen
class Row:
    """An account in a list.

    :ivar disabled: since when its key and its users are refused, None where they are not.
    :ivar prefix: the beginning of its API key, ``""`` where it has none.
    :ivar used: when the key was used last, None before the first time.
    :ivar users: how many it has.
    """

    id: int
    name: str
    created: float
    disabled: float | None
    prefix: str
    used: float | None
    users: int


def by_id(connection: sa.Connection, id: int) -> Tenant | None:
    """The account with this id, also a disabled one."""
    found = connection.execute(sa.select(accounts).where(accounts.c.id == id)).one_or_none()
    return None if found is None else tenant(connection, found)


def listed(connection: sa.Connection) -> list[Row]:
    """Every account by name."""
    return _rows(connection, sa.true())


def row(connection: sa.Connection, id: int) -> Row | None:
    """One account, as in the list."""
    return next(iter(_rows(connection, accounts.c.id == id)), None)


def _rows(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> list[Row]:
    held = sa.select(sa.func.count()).where(users.c.account == accounts.c.id).correlate(accounts).scalar_subquery()
    columns = (accounts.c.id, accounts.c.name, accounts.c.created, accounts.c.disabled)
    found = connection.execute(
        sa.select(*columns, sa.func.coalesce(api_keys.c.prefix, ""), api_keys.c.used, held)
        .outerjoin(api_keys, api_keys.c.account == accounts.c.id)
        .where(condition)
        .order_by(sa.func.lower(accounts.c.name), accounts.c.id)
    )
    return [Row(*each) for each in found]


def first(connection: sa.Connection) -> Tenant:
    """The account that the first start made."""
    found = connection.execute(sa.select(accounts).order_by(accounts.c.id).limit(1)).one()
    return tenant(connection, found)


def made(connection: sa.Connection, now: float) -> int:
    """The id of the first account, which is made where there is none."""
    account: int | None = connection.execute(sa.select(sa.func.min(accounts.c.id))).scalar_one()
    return add(connection, "Local", now) if account is None else account


def add(connection: sa.Connection, name: str, now: float) -> int:
    """A new account with the capture route and no key yet; its id.

    :raises WrongName: it is empty, too long, has control characters, or is taken.
    """
    _check(connection, name)
    account = inserted(connection.execute(sa.insert(accounts).values(name=name, default_route="", created=now)))
    add_route(connection, account, CAPTURE, now)
    return account


def rename(connection: sa.Connection, id: int, name: str) -> None:
    """Give the account another name.

    :raises WrongName: see :func:`add`.
    """
    _check(connection, name, id)
    connection.execute(sa.update(accounts).where(accounts.c.id == id).values(name=name))


def disable(connection: sa.Connection, id: int, now: float) -> list[bytes]:
    """Refuse the account's key and its users; the digests of keys that are good no more."""
    mine = sa.and_(accounts.c.id == id, accounts.c.disabled.is_(None))
    connection.execute(sa.update(accounts).where(mine).values(disabled=now))
    stopped = list(connection.execute(sa.select(api_keys.c.sha256).where(api_keys.c.account == id)).scalars())
    for each in stopped:
        connection.execute(sa.delete(revocations).where(revocations.c.sha256 == each))
        connection.execute(sa.insert(revocations).values(sha256=each, at=now))
    return [bytes.fromhex(each) for each in stopped]


def enable(connection: sa.Connection, id: int) -> None:
    """Take the account's key and its users again."""
    mine = sa.select(api_keys.c.sha256).where(api_keys.c.account == id)
    connection.execute(sa.delete(revocations).where(revocations.c.sha256.in_(mine)))
    connection.execute(sa.update(accounts).where(accounts.c.id == id).values(disabled=None))


def _check(connection: sa.Connection, name: str, id: int | None = None) -> None:
    if not _NAME.fullmatch(name):
        raise WrongName("The name of an account must have 1 to 100 characters, and no control characters")
    found = connection.execute(sa.select(accounts.c.id).where(accounts.c.name == name)).scalar_one_or_none()
    if found is not None and found != id:
        raise WrongName(f"There is an account {name} already")


def add_route(connection: sa.Connection, account: int, route: Route, now: float) -> None:
    """Let the account use a route that stores what it would send, which is made where it is missing."""
    if connection.execute(sa.select(routes.c.id).where(routes.c.id == route.id)).first() is None:
        capture = {"kind": "capture", "settings": "{}", "secret": b""}
        connection.execute(sa.insert(routes).values(id=route.id, name=route.name, created=now, **capture))
    connection.execute(sa.insert(account_routes).values(account=account, route=route.id))


def tenant(connection: sa.Connection, row: Any) -> Tenant:
    """The account of *row*, which has id, name and default_route."""
    given = sa.select(account_routes.c.route).where(account_routes.c.account == row.id)
    listed = connection.execute(
        sa.select(routes.c.id, routes.c.name).where(routes.c.id.in_(given)).order_by(routes.c.id)
    )
    found = tuple(Route(each.id, each.name) for each in listed)
    return Tenant(row.id, row.name, found, row.default_route or (found[0].id if len(found) == 1 else ""))
