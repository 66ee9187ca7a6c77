"""The tables of the embedded backend, in SQLAlchemy Core, for SQLite now and PostgreSQL later.

Every table but ``meta`` is owned by an account: its ``account`` column stands in every query.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from relay.errors import ConfigError

#: The version of the tables below, kept in ``meta``.  Raise it with a migration.
VERSION = 1

metadata = sa.MetaData()

#: Facts about the database itself.
meta = sa.Table(
    "meta",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

accounts = sa.Table(
    "accounts",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("default_route", sa.Text, nullable=False, default=""),
    sa.Column("created", sa.Double, nullable=False),
)


def _account(*, key: bool = False) -> sa.Column[int]:
    return sa.Column("account", sa.ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False, primary_key=key)


def _message() -> sa.Column[int]:
    return sa.Column("message", sa.ForeignKey("messages.seq", ondelete="CASCADE"), primary_key=True)


#: Only the SHA-256 of a key is kept: the keys are random (238 bits), so no salt and no slow hash are needed.
api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("sha256", sa.String(64), primary_key=True),
    _account(),
    sa.Column("prefix", sa.String(8), nullable=False),
    sa.Column("created", sa.Double, nullable=False),
)

routes = sa.Table(
    "routes",
    metadata,
    _account(key=True),
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
)

#: The different tags an account has used; the contract bounds their number.
tags = sa.Table(
    "tags",
    metadata,
    _account(key=True),
    sa.Column("tag", sa.String(18), primary_key=True),
    sa.Column("created", sa.Double, nullable=False),
)

#: One row a submission, as it would be sent: the fields are those after rendering.  What is big is in ``contents``.
messages = sa.Table(
    "messages",
    metadata,
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    _account(),
    sa.Column("id", sa.String(32), nullable=False),
    sa.Column("request_id", sa.Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("fromname", sa.Text, nullable=False),
    sa.Column("fromemail", sa.Text, nullable=False),
    sa.Column("recipient", sa.Text, nullable=False),
    sa.Column("toname", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("replyto", sa.Text, nullable=False),
    sa.Column("returnpath", sa.Text, nullable=False),
    sa.Column("tag", sa.String(18), nullable=False),
    sa.Column("route", sa.String(64), nullable=False),
    sa.Column("template", sa.Text, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("attachments", sa.Integer, nullable=False),
    sa.UniqueConstraint("account", "id"),
    sa.Index("messages_newest", "account", "seq"),
    sa.Index("messages_tag", "account", "tag", "seq"),
    sa.Index("messages_request", "account", "request_id"),
)
sa.Index("messages_recipient", messages.c.account, sa.func.lower(messages.c.recipient), messages.c.seq)

#: The JSON as it was posted, and the body after rendering; NULL where nothing was rendered.
contents = sa.Table(
    "contents",
    metadata,
    _message(),
    sa.Column("posted", sa.LargeBinary, nullable=False),
    sa.Column("rendered", sa.Text),
)

attachments = sa.Table(
    "attachments",
    metadata,
    _message(),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("filename", sa.Text, nullable=False),
    sa.Column("content_type", sa.Text, nullable=False),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("content", sa.LargeBinary, nullable=False),
)

#: Which message an Idempotency-Key stands for, and the fingerprint of what was posted with it.
idempotency = sa.Table(
    "idempotency",
    metadata,
    _account(key=True),
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("id", sa.String(32), nullable=False),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("created", sa.Double, nullable=False),
)


def inserted(result: sa.CursorResult[Any]) -> int:
    """The key that the database gave the one row just inserted."""
    key = result.inserted_primary_key
    if key is None:
        raise ValueError("not an insert of one row")
    return int(key[0])


def prepare(connection: sa.Connection) -> None:
    """Create the tables in an empty database, or check that it is one of ours.

    :raises ConfigError: a newer version of this program made it.
    """
    if not sa.inspect(connection).has_table("meta"):
        metadata.create_all(connection)
        connection.execute(sa.insert(meta).values(name="schema", value=str(VERSION)))
        return
    found = connection.execute(sa.select(meta.c.value).where(meta.c.name == "schema")).scalar_one_or_none()
    if found is None or not found.isdecimal() or int(found) > VERSION:
        raise ConfigError(
            [
                f"data: the database has schema version {found or 'unknown'} and this program knows {VERSION}; "
                "run the newer smtp-relay that made it, or choose another folder with --data"
            ]
        )
