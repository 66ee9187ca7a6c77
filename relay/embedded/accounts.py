"""Accounts and their API keys.

The first start makes one account, with one route.  Its key stands in the file ``api-key`` in the data folder too.
With SQLite another key that somebody wrote there is taken at the next start, and where the file is missing a new key
is made: so deleting the file and restarting resets the key.  With PostgreSQL, which several backends may share, and
for a key that was reset since, the database is the truth and the file is written anew.
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

from relay.embedded.database import change, is_postgresql
from relay.embedded.schema import account_routes, accounts, api_keys, inserted, revocations, routes
from relay.errors import ConfigError
from relay.spool.crypto import Cipher
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


@frozen
class Row:
    """An account in the administrators' list."""

    id: int
    name: str
    created: float
    disabled: float | None


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


def by_id(connection: sa.Connection, id: int) -> Tenant | None:
    """The account with this id, also a disabled one."""
    found = connection.execute(sa.select(accounts).where(accounts.c.id == id)).one_or_none()
    return None if found is None else _tenant(connection, found.id, found.name, found.default_route)


def listed(connection: sa.Connection) -> list[Row]:
    """Every account by name."""
    columns = (accounts.c.id, accounts.c.name, accounts.c.created, accounts.c.disabled)
    found = connection.execute(sa.select(*columns).order_by(sa.func.lower(accounts.c.name), accounts.c.id))
    return [Row(*row) for row in found]


def first(connection: sa.Connection) -> Tenant:
    """The account that the first start made."""
    found = connection.execute(sa.select(accounts).order_by(accounts.c.id).limit(1)).one()
    return _tenant(connection, found.id, found.name, found.default_route)


def made(connection: sa.Connection, now: float) -> int:
    """The id of the first account, which is made where there is none."""
    account: int | None = connection.execute(sa.select(sa.func.min(accounts.c.id))).scalar_one()
    return add(connection, "Local", now) if account is None else account


def settle(engine: sa.Engine, path: Path, cipher: Cipher, now: float) -> str:
    """Make the first account where there is none, and see that *path* holds its key; the key.

    :raises ConfigError: the file holds no usable key.
    :raises OSError: it cannot be read or written.
    """
    given = key_from(path)
    key = change(engine, lambda connection: establish(connection, given, cipher, now))
    if key != given:
        write_private(path, f"{key}\n")
    return key


def establish(connection: sa.Connection, given: str, cipher: Cipher, now: float) -> str:
    """Make the first account where there is none, and let a key open it: the key.

    :param given: what the file ``api-key`` holds, ``""`` where it is missing.
    """
    account = made(connection, now)
    held = connection.execute(sa.select(api_keys).where(api_keys.c.account == account)).first()
    known = cipher.decrypt(held.sealed, _context(account)) if held is not None and held.sealed else ""
    if held is not None and given and held.sha256 == digest(given):
        if not known:
            # Of a database from before keys could be shown.
            _seal(connection, account, given, cipher)
        return given
    if known and (is_postgresql(connection) or _is_revoked(connection, given)):
        return known
    return reset_key(connection, account, cipher, now, given or new_key())[0]


def reset_key(
    connection: sa.Connection, account: int, cipher: Cipher, now: float, key: str = ""
) -> tuple[str, list[bytes]]:
    """Let another key open the account, and no other; the key, and the digests of those that do no more.

    :param key: default: a new one.
    """
    key = key or new_key()
    mine = api_keys.c.account == account
    old = list(connection.execute(sa.select(api_keys.c.sha256).where(mine)).scalars())
    connection.execute(sa.delete(api_keys).where(mine))
    for each in old:
        connection.execute(sa.delete(revocations).where(revocations.c.sha256 == each))
        connection.execute(sa.insert(revocations).values(sha256=each, at=now))
    connection.execute(sa.delete(revocations).where(revocations.c.sha256 == digest(key)))
    add_key(connection, account, key, now)
    _seal(connection, account, key, cipher)
    return key, [bytes.fromhex(each) for each in old]


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
    """The key in the file *path*, ``""`` where it is missing.

    :raises ConfigError: the file holds no usable key.
    :raises OSError: it cannot be read.
    """
    try:
        key = path.read_text("ascii", "replace").strip()
    except FileNotFoundError:
        return ""
    if not _KEY.fullmatch(key):
        raise ConfigError(
            [f"{path}: must hold one API key of 16 to 200 ASCII characters without spaces; delete it to get a new one"]
        )
    return key


def write_private(path: Path, text: str) -> None:
    """Write the file so that at any moment it is whole or missing, and readable to its owner alone."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _context(account: int) -> str:
    return f"api-key {account}"


def _seal(connection: sa.Connection, account: int, key: str, cipher: Cipher) -> None:
    """Keep *key* so that it can be shown."""
    sealed = cipher.encrypt(key, _context(account))
    connection.execute(sa.update(api_keys).where(api_keys.c.sha256 == digest(key)).values(sealed=sealed))


def _is_revoked(connection: sa.Connection, key: str) -> bool:
    return connection.execute(sa.select(revocations).where(revocations.c.sha256 == digest(key))).first() is not None


def _tenant(connection: sa.Connection, account: int, name: str, default_route: str) -> Tenant:
    given = sa.select(account_routes.c.route).where(account_routes.c.account == account)
    listed = connection.execute(
        sa.select(routes.c.id, routes.c.name).where(routes.c.id.in_(given)).order_by(routes.c.id)
    )
    found = tuple(Route(row.id, row.name) for row in listed)
    return Tenant(account, name, found, default_route or (found[0].id if len(found) == 1 else ""))
