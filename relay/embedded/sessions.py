"""Who is signed in.  A session is known by the SHA-256 of what its cookie holds."""

from __future__ import annotations

import hashlib
import secrets

import sqlalchemy as sa
from attrs import frozen

from relay.embedded.accounts import Tenant, by_id
from relay.embedded.people import COLUMNS, User
from relay.embedded.schema import accounts, sessions, users

#: How exactly it is known when a session was used last, in seconds: a look at a page need not write.
SEEN = 60.0


@frozen
class Session:
    """One who is signed in.

    :ivar tenant: the account whose data is shown; None for an administrator who looks at none.
    """

    id: str
    user: User
    tenant: Tenant | None
    seen: float


def new_token() -> str:
    """What the cookie of a new session holds: 256 random bits."""
    return secrets.token_urlsafe(32)


def digest(token: str) -> str:
    """What of a token is stored."""
    return hashlib.sha256(token.encode()).hexdigest()


def begin(connection: sa.Connection, user: int, token: str, now: float, oldest: float) -> None:
    """Let *token* be a session of *user*; sessions not used since *oldest* go.

    :param token: fresh from :func:`new_token`.
    """
    connection.execute(sa.delete(sessions).where(sessions.c.seen < oldest))
    values = {"id": digest(token), "user": user, "created": now, "seen": now}
    connection.execute(sa.insert(sessions).values(values))
    connection.execute(sa.update(users).where(users.c.id == user).values(signed_in=now))


def find(connection: sa.Connection, token: str, oldest: float) -> Session | None:
    """The session of *token*, where it was used since *oldest* and its user and account are not disabled."""
    id = digest(token)
    row = connection.execute(
        sa.select(sessions.c.account.label("looked_at"), sessions.c.seen, *COLUMNS)
        .join(users, users.c.id == sessions.c.user)
        .outerjoin(accounts, accounts.c.id == users.c.account)
        .where(
            sessions.c.id == id,
            sessions.c.seen >= oldest,
            users.c.disabled.is_(None),
            accounts.c.disabled.is_(None),
        )
    ).one_or_none()
    if row is None:
        return None
    user = User(*row[2:])
    account = row.looked_at if user.administrator else user.account
    tenant = None if account is None else by_id(connection, account)
    return Session(id, user, tenant, row.seen)


def touch(connection: sa.Connection, id: str, now: float) -> None:
    """Note that the session was used."""
    connection.execute(sa.update(sessions).where(sessions.c.id == id).values(seen=now))


def look_at(connection: sa.Connection, id: str, account: int | None) -> None:
    """Show the administrator of the session this account, or with None no more."""
    connection.execute(sa.update(sessions).where(sessions.c.id == id).values(account=account))


def end(connection: sa.Connection, id: str) -> None:
    """Sign out."""
    connection.execute(sa.delete(sessions).where(sessions.c.id == id))
