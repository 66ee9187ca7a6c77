"""Who may sign in: the users of accounts, and the administrators, who belong to none."""

from __future__ import annotations

import re

import sqlalchemy as sa
from attrs import frozen

from relay.embedded.rules import wrong
from relay.embedded.schema import accounts, inserted, sessions, users

_EMAIL = re.compile(r"[^\s@<>\"'\x00-\x1f\x7f]{1,64}@[^\s@<>\"'\x00-\x1f\x7f]{1,189}")


@frozen
class User:
    """One who may sign in.

    :ivar account: the id of the user's account, None for an administrator.
    :ivar signed_in: when it did last, None before the first time.
    :ivar disabled: since when it may not, None where it may.
    """

    id: int
    account: int | None
    email: str
    created: float
    signed_in: float | None
    disabled: float | None

    @property
    def administrator(self) -> bool:
        """Whether it sees all accounts."""
        return self.account is None


COLUMNS = [users.c[name] for name in ("id", "account", "email", "created", "signed_in", "disabled")]


def normal(email: str) -> str:
    """*email* as it is stored.

    :raises Refused: 400, it is no address.
    """
    email = email.strip().lower()
    if not _EMAIL.fullmatch(email):
        raise wrong("The e-mail address must look like name@example.com")
    return email


def add(connection: sa.Connection, email: str, hashed: str, account: int | None, now: float) -> int:
    """A new user of an account, or with None an administrator; its id.

    :raises Refused: 400, the address is taken, or there is no such account.
    """
    if connection.execute(sa.select(users.c.id).where(users.c.email == email)).first() is not None:
        raise wrong(f"There is a user {email} already")
    known = sa.select(accounts.c.id).where(accounts.c.id == account)
    if account is not None and connection.execute(known).first() is None:
        raise wrong("There is no such account")
    values = {"account": account, "email": email, "password": hashed, "created": now}
    return inserted(connection.execute(sa.insert(users).values(values)))


def one(connection: sa.Connection, id: int) -> User | None:
    """The user with this id."""
    row = connection.execute(sa.select(*COLUMNS).where(users.c.id == id)).first()
    return None if row is None else User(*row)


def by_email(connection: sa.Connection, email: str) -> User | None:
    """The user with this address."""
    row = connection.execute(sa.select(*COLUMNS).where(users.c.email == email.strip().lower())).first()
    return None if row is None else User(*row)


def credentials(connection: sa.Connection, email: str) -> tuple[User, str] | None:
    """The user who may sign in with this address, and the hash of the password."""
    row = connection.execute(
        sa.select(users.c.password, *COLUMNS)
        .outerjoin(accounts, accounts.c.id == users.c.account)
        .where(users.c.email == email, users.c.disabled.is_(None), accounts.c.disabled.is_(None))
    ).first()
    return None if row is None else (User(*row[1:]), str(row[0]))


def listed(connection: sa.Connection) -> list[tuple[User, str]]:
    """Every user with the name of the account, ``""`` for administrators, who come first."""
    found = connection.execute(
        sa.select(accounts.c.name, *COLUMNS)
        .outerjoin(accounts, accounts.c.id == users.c.account)
        .order_by(accounts.c.name.is_not(None), accounts.c.name, users.c.email)
    )
    return [(User(*row[1:]), row[0] or "") for row in found]


def set_password(connection: sa.Connection, id: int, hashed: str, keep: str = "") -> None:
    """Give the user another password; it is signed out everywhere.

    :param keep: the id of a session that stays.
    """
    connection.execute(sa.update(users).where(users.c.id == id).values(password=hashed))
    connection.execute(sa.delete(sessions).where(sessions.c.user == id, sessions.c.id != keep))


def disable(connection: sa.Connection, id: int, now: float) -> None:
    """Let the user sign in no more, and sign it out everywhere.

    :raises Refused: 400, nobody would be left who administers.
    """
    mine = connection.execute(sa.select(users.c.account).where(users.c.id == id)).one_or_none()
    others = sa.select(sa.func.count()).where(users.c.account.is_(None), users.c.disabled.is_(None), users.c.id != id)
    if mine is not None and mine.account is None and connection.execute(others).scalar_one() == 0:
        raise wrong("This is the only administrator who may sign in")
    connection.execute(sa.update(users).where(users.c.id == id).values(disabled=now))
    connection.execute(sa.delete(sessions).where(sessions.c.user == id))


def enable(connection: sa.Connection, id: int) -> None:
    """Let the user sign in again."""
    connection.execute(sa.update(users).where(users.c.id == id).values(disabled=None))
