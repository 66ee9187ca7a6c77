"""API keys: found, shown, reset, and stopped in every cache at once.

The first account's key stands in the file ``api-key`` in the data folder too.  With SQLite another key that somebody
wrote there is taken at the next start, and where the file is missing a new key is made: so deleting the file and
restarting resets the key.  With PostgreSQL, which several backends may share, and for a key that was reset since, the
database is the truth and the file is written anew.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import string
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import sqlalchemy as sa
from attrs import field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from relay.embedded import accounts, schema
from relay.embedded.accounts import Tenant
from relay.embedded.database import Database, change, is_postgresql
from relay.embedded.schema import api_keys, revocations
from relay.errors import ConfigError
from relay.spool.crypto import Cipher, Unreadable
from relay.values import key_prefix

#: Letters and digits only: a key needs no quoting in a shell, a URL or a header, and a double click selects it.
_ALPHABET = string.ascii_letters + string.digits
_LENGTH = 40
_KEY = re.compile(r"[!-~]{16,200}")


#: How exactly it is known when a key was used last, in seconds.
USED = 60.0

#: How often this process looks for keys that another one reset, in seconds, and by how much clocks may differ.
LOOK = 1.0
SKEW = 300.0

#: How long it is known that a key was reset, in seconds: a copy of ``api-key`` from before does not bring it back.
REMEMBERED = 31_536_000.0

_log = Logger()


@frozen
class Key:
    """The key of an account, for who may see it.

    :ivar text: the key itself, ``""`` where only its hash is known.
    :ivar used: when it was used last, None before the first time.
    """

    text: str = field(repr=False)
    prefix: str
    created: float
    used: float | None


def new_key() -> str:
    """A random API key of 238 bits."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))


def digest(key: str) -> str:
    """What of a key is stored: its SHA-256, in hexadecimal digits."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def by_key(connection: sa.Connection, key: str) -> Tenant | None:
    """The account that *key* opens."""
    wanted = digest(key)
    table = schema.accounts
    found = connection.execute(
        sa.select(api_keys.c.sha256, table.c.id, table.c.name, table.c.default_route)
        .join(table, table.c.id == api_keys.c.account)
        .where(api_keys.c.sha256 == wanted, table.c.disabled.is_(None))
    ).one_or_none()
    if found is None or not hmac.compare_digest(found.sha256, wanted):
        return None
    return accounts.tenant(connection, found)


def of_account(connection: sa.Connection, account: int, cipher: Cipher) -> Key | None:
    """The key of an account, None where it has none."""
    row = connection.execute(sa.select(api_keys).where(api_keys.c.account == account)).first()
    if row is None:
        return None
    try:
        text = cipher.decrypt(row.sealed, _context(account)) if row.sealed else ""
    except Unreadable:
        text = ""
    return Key(text, row.prefix, row.created, row.used)


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
    account = accounts.made(connection, now)
    held = connection.execute(sa.select(api_keys).where(api_keys.c.account == account)).first()
    shown = of_account(connection, account, cipher)
    known = shown.text if shown is not None else ""
    if held is not None and given and held.sha256 == digest(given):
        if not known:
            # Of a database from before keys could be shown.
            _seal(connection, account, given, cipher)
        return given
    if known and (is_postgresql(connection) or _is_revoked(connection, given)):
        return known
    return reset(connection, account, cipher, now, given or new_key())[0]


def reset(
    connection: sa.Connection, account: int, cipher: Cipher, now: float, key: str = ""
) -> tuple[str, list[bytes]]:
    """Let another key open the account, and no other; the key, and the digests of those that do no more.

    :param key: default: a new one.
    """
    key = key or new_key()
    connection.execute(sa.delete(revocations).where(revocations.c.at < now - REMEMBERED))
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


def add_key(connection: sa.Connection, account: int, key: str, now: float) -> None:
    """Let *key* open the account."""
    values = {"sha256": digest(key), "account": account, "prefix": key_prefix(key), "created": now}
    connection.execute(sa.insert(api_keys).values(values))


def note_use(connection: sa.Connection, used: Mapping[str, float]) -> None:
    """Keys were used, by digest."""
    for sha256, at in used.items():
        connection.execute(sa.update(api_keys).where(api_keys.c.sha256 == sha256).values(used=at))


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
    """Write the file so that at any moment it is whole or missing, and readable to its owner alone.

    Written by root it belongs to who has the folder, as a command's beside a relay that runs as another user.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
        if os.geteuid() == 0:
            folder_of = path.parent.stat()
            os.fchown(file.fileno(), folder_of.st_uid, folder_of.st_gid)
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


class Keys:
    """The keys of a running backend.

    :param file: where the first account's key stands.
    :param forget: called with the SHA-256 of each key that stopped to be good.
    """

    def __init__(
        self,
        database: Database,
        cipher: Cipher,
        file: Path,
        now: Callable[[], float],
        forget: Callable[[bytes], None],
    ) -> None:
        self._database = database
        self._cipher = cipher
        self._file = file
        self._now = now
        self._forget = forget
        self._used: dict[str, float] = {}
        self._unwritten: dict[str, float] = {}
        self._seen: dict[str, float] = {}
        self._blind = False
        self._looking = LoopingCall(lambda: Deferred.fromCoroutine(self.look()))

    def start(self, clock: IReactorTime) -> None:
        """Look every second for keys that another process reset, or the command line."""
        self._looking.clock = clock
        self._looking.start(LOOK, now=False)

    def stop(self) -> None:
        """Look no more."""
        if self._looking.running:
            self._looking.stop()

    async def of(self, account: int) -> Key | None:
        """The key of an account, None where it has none."""
        return await self._database.read(lambda connection: of_account(connection, account, self._cipher))

    async def reset(self, account: int) -> str:
        """A new key for the account; the old one stops at once."""
        now = self._now()
        key, old = await self._database.write(lambda connection: reset(connection, account, self._cipher, now))
        self.forget(old)
        await self._database.read(self._write)
        return key

    def forget(self, digests: list[bytes]) -> None:
        """These keys are good no more."""
        for each in digests:
            self._used.pop(each.hex(), None)
            self._forget(each)

    async def refresh(self, accounts: Iterable[int]) -> None:
        """The routes of *accounts* have changed: what this relay remembers of their keys is old."""
        mine = sa.select(api_keys.c.sha256).where(api_keys.c.account.in_(sorted(set(accounts))))
        found = await self._database.read(lambda connection: list(connection.execute(mine).scalars()))
        self.forget([bytes.fromhex(each) for each in found])

    def use(self, key: str) -> None:
        """*key* was used just now; that is noted once a minute."""
        now, name = self._now(), digest(key)
        if now - self._used.get(name, -USED) >= USED:
            self._used[name] = self._unwritten[name] = now

    async def look(self) -> None:
        """Forget what was reset elsewhere since the last look, and write down which keys were used."""
        since = self._now() - SKEW
        wanted = sa.select(revocations).where(revocations.c.at > since)
        used, self._unwritten = self._unwritten, {}
        try:
            if used:
                await self._database.write(partial(note_use, used=used))
            rows = await self._database.read(lambda connection: list(connection.execute(wanted)))
        except sa.exc.SQLAlchemyError as error:
            if not self._blind:
                _log.error("embedded: the database tells of no resets: {error}", error=type(error).__name__)
            self._blind = True
            return
        self._blind = False
        fresh = [row.sha256 for row in rows if self._seen.get(row.sha256) != row.at]
        self._seen = {row.sha256: row.at for row in rows}
        if fresh:
            self.forget([bytes.fromhex(each) for each in fresh])
            await self._database.read(self._write)

    def _write(self, connection: sa.Connection) -> None:
        """Let the file hold the first account's key."""
        held = of_account(connection, accounts.first(connection).id, self._cipher)
        try:
            if held is not None and held.text and key_from(self._file) != held.text:
                write_private(self._file, f"{held.text}\n")
        except (OSError, ConfigError) as error:
            _log.error("embedded: {file} cannot be written: {error}", file=str(self._file), error=str(error))
