"""Accounts and their API keys.

The first start makes one account, with one route.  Until accounts can be administered, the file ``api-key``
in the data folder is the truth: at each start the account has the key that stands there, and no other; where
the file is missing a new key is made.  So deleting the file and restarting resets the key.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import string
from pathlib import Path

import sqlalchemy as sa
from attrs import frozen

from relay.embedded.schema import account_routes, accounts, api_keys, inserted, routes
from relay.errors import ConfigError
from relay.values import Account, Route, key_prefix

#: The route that stores what it would send.
CAPTURE = Route("capture", "Capture")

#: Letters and digits only: a key needs no quoting in a shell, a URL or a header, and a double click selects it.
_ALPHABET = string.ascii_letters + string.digits
_LENGTH = 40
_KEY = re.compile(r"[!-~]{16,200}")


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


def new_key() -> str:
    """A random API key of 238 bits."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))


def digest(key: str) -> str:
    """What of a key is stored: its SHA-256, in hexadecimal digits."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def by_key(connection: sa.Connection, key: str) -> Tenant | None:
    """The account that *key* opens."""
    wanted = digest(key)
    found = connection.execute(
        sa.select(api_keys.c.sha256, accounts.c.id, accounts.c.name, accounts.c.default_route)
        .join(accounts, accounts.c.id == api_keys.c.account)
        .where(api_keys.c.sha256 == wanted, accounts.c.disabled.is_(None))
    ).one_or_none()
    if found is None or not hmac.compare_digest(found.sha256, wanted):
        return None
    return _tenant(connection, found.id, found.name, found.default_route)


def first(connection: sa.Connection) -> Tenant:
    """The account that the first start made."""
    found = connection.execute(sa.select(accounts).order_by(accounts.c.id).limit(1)).one()
    return _tenant(connection, found.id, found.name, found.default_route)


def establish(connection: sa.Connection, key: str, now: float) -> Tenant:
    """Make the first account where there is none, and give it *key* as its only one."""
    account = connection.execute(sa.select(sa.func.min(accounts.c.id))).scalar_one()
    if account is None:
        account = add(connection, "Local", now)
    holder = connection.execute(sa.select(api_keys.c.account).where(api_keys.c.sha256 == digest(key))).scalar()
    if holder != account:
        connection.execute(sa.delete(api_keys).where(api_keys.c.account == account))
        add_key(connection, account, key, now)
    return first(connection)


def add(connection: sa.Connection, name: str, now: float) -> int:
    """A new account with the capture route and no key yet; its id."""
    account = inserted(connection.execute(sa.insert(accounts).values(name=name, default_route="", created=now)))
    add_route(connection, account, CAPTURE, now)
    return account


def add_key(connection: sa.Connection, account: int, key: str, now: float) -> None:
    """Let *key* open the account."""
    values = {"sha256": digest(key), "account": account, "prefix": key_prefix(key), "created": now}
    connection.execute(sa.insert(api_keys).values(values))


def add_route(connection: sa.Connection, account: int, route: Route, now: float) -> None:
    """Let the account use a route that stores what it would send, which is made where it is missing."""
    if connection.execute(sa.select(routes.c.id).where(routes.c.id == route.id)).first() is None:
        capture = {"kind": "capture", "settings": "{}", "secret": b""}
        connection.execute(sa.insert(routes).values(id=route.id, name=route.name, created=now, **capture))
    connection.execute(sa.insert(account_routes).values(account=account, route=route.id))


def key_from(path: Path) -> str:
    """The key in the file *path*, which is made with a new one where it is missing.

    :raises ConfigError: the file holds no usable key.
    :raises OSError: it cannot be read or written.
    """
    try:
        key = path.read_text("ascii", "replace").strip()
    except FileNotFoundError:
        key = new_key()
        _write(path, key)
    if not _KEY.fullmatch(key):
        raise ConfigError(
            [f"{path}: must hold one API key of 16 to 200 ASCII characters without spaces; delete it to get a new one"]
        )
    return key


def _write(path: Path, key: str) -> None:
    """Write the file so that at any moment it is whole or missing, and readable to its owner alone."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
        file.write(f"{key}\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _tenant(connection: sa.Connection, account: int, name: str, default_route: str) -> Tenant:
    given = sa.select(account_routes.c.route).where(account_routes.c.account == account)
    listed = connection.execute(
        sa.select(routes.c.id, routes.c.name).where(routes.c.id.in_(given)).order_by(routes.c.id)
    )
    found = tuple(Route(row.id, row.name) for row in listed)
    return Tenant(account, name, found, default_route or (found[0].id if len(found) == 1 else ""))
