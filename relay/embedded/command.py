"""``smtp-relay account`` and ``smtp-relay user``: who uses the embedded backend, from a shell.

The relay may be running or stopped: it notices within a second what is changed here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa
from argon2 import PasswordHasher
from attrs import field, frozen
from sqlalchemy.exc import DatabaseError

from relay.embedded import accounts, keys, passwords, people
from relay.embedded.database import T, change
from relay.embedded.opening import KEY_FILE, open_existing
from relay.embedded.people import User
from relay.embedded.rules import Refused
from relay.policy import Embedded
from relay.spool.crypto import Cipher


class CannotDo(Exception):
    """What was asked for cannot be done; the text says why."""


@frozen
class Terminal:
    """Where words come from and go to.

    :ivar say: writes a line.
    :ivar ask: asks for a password without echo, ``""`` for a random one; None where nobody can be asked.
    :ivar now: seconds since the epoch.
    """

    say: Callable[[str], None]
    ask: Callable[[str], str] | None
    now: Callable[[], float]


@frozen
class Command:
    """What was asked for.

    :ivar what: ``account`` or ``user``.
    :ivar name: what to do with it; there is a method of :class:`_Work` for each.
    :ivar word: which one: the account's name or id, or the user's e-mail address.
    :ivar account: of a new user, ``""`` for an administrator.
    :ivar password: of a new user, or a new one, ``""`` to ask for it.
    """

    what: str
    name: str
    word: str = ""
    account: str = ""
    password: str = field(default="", repr=False)


def run(data: Path, policy: Embedded, command: Command, terminal: Terminal) -> None:
    """Do it.

    :raises ConfigError: the database or the key file cannot be used.
    :raises CannotDo: there is no such account or user, or it may not be done.
    """
    engine, cipher = open_existing(data, policy)
    try:
        work = _Work(engine, cipher, data, terminal)
        getattr(work, f"{command.what}_{command.name.replace('-', '_')}")(command)
    except (Refused, accounts.WrongName) as error:
        raise CannotDo(error.description if isinstance(error, Refused) else str(error)) from None
    except DatabaseError as error:
        raise CannotDo(" ".join(str(error.orig).split())) from None
    finally:
        engine.dispose()


@frozen
class _Work:
    """The commands, one method each."""

    engine: sa.Engine
    cipher: Cipher
    data: Path
    terminal: Terminal

    def account_list(self, command: Command) -> None:
        rows = [
            (str(row.id), row.name, row.prefix or "none", str(row.users), _day(row.created), _state(row.disabled))
            for row in self._read(accounts.listed)
        ]
        self._table(("ID", "NAME", "KEY", "USERS", "SINCE", "STATE"), rows)

    def account_add(self, command: Command) -> None:
        def add(connection: sa.Connection) -> tuple[int, str]:
            account = accounts.add(connection, command.word, self.terminal.now())
            return account, keys.reset(connection, account, self.cipher, self.terminal.now())[0]

        account, key = change(self.engine, add)
        self.terminal.say(f"account {account}: {command.word}")
        self.terminal.say(f"API key: {key}")

    def account_disable(self, command: Command) -> None:
        account, name = self._account(command.word)
        change(self.engine, lambda connection: accounts.disable(connection, account, self.terminal.now()))
        self.terminal.say(f"{name} is disabled: its API key and its users are refused")

    def account_enable(self, command: Command) -> None:
        account, name = self._account(command.word)
        change(self.engine, lambda connection: accounts.enable(connection, account))
        self.terminal.say(f"{name} is enabled")

    def account_reset_key(self, command: Command) -> None:
        account, name = self._account(command.word)
        now = self.terminal.now()
        key, _ = change(self.engine, lambda connection: keys.reset(connection, account, self.cipher, now))
        if account == self._read(accounts.first).id:
            keys.write_private(self.data / KEY_FILE, f"{key}\n")
        self.terminal.say(f"API key of {name}: {key}")

    def user_list(self, command: Command) -> None:
        rows = [
            (user.email, account or "(administrator)", _day(user.signed_in, "never"), _state(user.disabled))
            for user, account in self._read(people.listed)
        ]
        self._table(("E-MAIL", "ACCOUNT", "SIGNED IN", "STATE"), rows)

    def user_add(self, command: Command) -> None:
        email = people.normal(command.word)
        account = self._account(command.account)[0] if command.account else None
        password, made = self._password(command, email)
        hashed = PasswordHasher().hash(password)
        change(self.engine, lambda connection: people.add(connection, email, hashed, account, self.terminal.now()))
        self.terminal.say(f"{email} may sign in{'' if account is not None else ' as an administrator'}")
        self._show(password, made)

    def user_passwd(self, command: Command) -> None:
        user = self._user(command.word)
        password, made = self._password(command, user.email)
        hashed = PasswordHasher().hash(password)
        change(self.engine, lambda connection: people.set_password(connection, user.id, hashed))
        self.terminal.say(f"{user.email} has another password, and is signed out everywhere")
        self._show(password, made)

    def user_disable(self, command: Command) -> None:
        user = self._user(command.word)
        change(self.engine, lambda connection: people.disable(connection, user.id, self.terminal.now()))
        self.terminal.say(f"{user.email} is disabled, and signed out everywhere")

    def user_enable(self, command: Command) -> None:
        user = self._user(command.word)
        change(self.engine, lambda connection: people.enable(connection, user.id))
        self.terminal.say(f"{user.email} is enabled")

    def _read(self, query: Callable[[sa.Connection], T]) -> T:
        with self.engine.connect() as connection:
            return query(connection)

    def _account(self, word: str) -> tuple[int, str]:
        """Id and name of the account that *word* names."""
        found = [each for each in self._read(accounts.listed) if word in (each.name, str(each.id))]
        if not found:
            raise CannotDo(f"there is no account {word}; smtp-relay account list shows all")
        # A name may look like another account's id.
        best = next((each for each in found if each.name == word), found[0])
        return best.id, best.name

    def _user(self, email: str) -> User:
        found = self._read(lambda connection: people.by_email(connection, email))
        if found is None:
            raise CannotDo(f"there is no user {email}; smtp-relay user list shows all")
        return found

    def _password(self, command: Command, email: str) -> tuple[str, bool]:
        """The password, and whether it was made here."""
        given = command.password
        if not given and self.terminal.ask is not None:
            given = self.terminal.ask(f"Password of {email} (empty: a random one): ")
            if given and self.terminal.ask("Once more: ") != given:
                raise CannotDo("the two passwords differ")
        return (passwords.check(given), False) if given else (passwords.new_password(), True)

    def _show(self, password: str, made: bool) -> None:
        if made:
            self.terminal.say(f"password: {password}")

    def _table(self, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
        for row in (heads, *rows):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self.terminal.say("  ".join(cells).rstrip())


def _day(seconds: float | None, never: str = "") -> str:
    return never if seconds is None else datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


def _state(disabled: float | None) -> str:
    return "active" if disabled is None else "disabled"
