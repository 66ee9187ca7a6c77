"""The first start: an administrator and a user of the first account, whose passwords are told once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa
from attrs import field, frozen

from relay.embedded import accounts, people
from relay.embedded.keys import write_private
from relay.embedded.passwords import new_password
from relay.embedded.schema import users

#: The file under the data folder with the passwords, until both have signed in or a terminal has shown them.
FILE = "first-passwords"

ADMINISTRATOR = "admin@localhost"
USER = "user@localhost"


@frozen
class People:
    """Who may sign in at first, with passwords that nobody but their owners will know again."""

    administrator: str
    administrator_password: str = field(repr=False)
    user: str
    user_password: str = field(repr=False)

    @property
    def people(self) -> tuple[tuple[str, str], ...]:
        """E-mail address and password of each."""
        return (self.administrator, self.administrator_password), (self.user, self.user_password)

    def lines(self) -> str:
        """For the file."""
        return (
            f"administrator  {self.administrator}  {self.administrator_password}\n"
            f"user           {self.user}   {self.user_password}\n"
        )


def chosen(engine: sa.Engine, data: Path) -> People | None:
    """An administrator and a user where there is no user at all, to be added; None where there is one.

    :raises OSError: the file with the passwords cannot be written.
    """
    with engine.connect() as connection:
        if _exist(connection):
            forget(connection, data)
            return None
    made = People(ADMINISTRATOR, new_password(), USER, new_password())
    # Before the users: whoever exists, has a password that can be found.
    write_private(data / FILE, made.lines())
    return made


def add(connection: sa.Connection, made: People, hashed: Sequence[str], now: float) -> bool:
    """Let both sign in; False where another backend on this database was faster.

    :param hashed: what of their passwords is stored.
    """
    if _exist(connection):
        return False
    people.add(connection, made.administrator, hashed[0], None, now)
    people.add(connection, made.user, hashed[1], accounts.first(connection).id, now)
    return True


def forget(connection: sa.Connection, data: Path) -> None:
    """Delete the file once both have signed in."""
    fresh = sa.select(users.c.id).where(users.c.email.in_((ADMINISTRATOR, USER)), users.c.signed_in.is_(None))
    if (data / FILE).exists() and connection.execute(fresh).first() is None:
        (data / FILE).unlink(missing_ok=True)


def _exist(connection: sa.Connection) -> bool:
    return connection.execute(sa.select(users.c.id).limit(1)).first() is not None
