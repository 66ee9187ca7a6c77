"""The tables of the spool, in SQLAlchemy Core, for SQLite and PostgreSQL.

They come to an empty database as they stand here, to another one through :mod:`relay.spool.migrations`; a test holds
these against each other.  All times are seconds since the epoch on the store's clock (:mod:`relay.spool.clock`).
The names start with ``spool_`` because a PostgreSQL database may hold other tables too.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

#: Numbers of messages, recipients and notices.  SQLite has no sequences; there the one writer counts.
serial = sa.Sequence("spool_serial", metadata=metadata, data_type=sa.BigInteger)


def number() -> sa.BigInteger:
    """64 bits; SQLite makes a primary key its own row id only when it is called INTEGER."""
    return sa.BigInteger().with_variant(sa.Integer, "sqlite")


#: Facts about the database itself.
meta = sa.Table(
    "spool_meta",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.LargeBinary, nullable=False),
)

#: One row an API key: the SHA-256 of it in hexadecimal, and itself, encrypted (:mod:`relay.spool.crypto`).
accounts = sa.Table(
    "spool_account",
    metadata,
    sa.Column("id", number(), primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False, unique=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("key", sa.LargeBinary, nullable=False),
)

#: One row a message: small, because limits and listings walk over all of them.
messages = sa.Table(
    "spool_message",
    metadata,
    sa.Column("seq", number(), primary_key=True, autoincrement=False),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("request_id", sa.Text, nullable=False),
    sa.Column("tag", sa.Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
)

#: The JSON of what a message's recipients share.
contents = sa.Table(
    "spool_content",
    metadata,
    sa.Column("message", sa.ForeignKey(messages.c.seq), primary_key=True, autoincrement=False),
    sa.Column("fields", sa.LargeBinary, nullable=False),
)

attachments = sa.Table(
    "spool_attachment",
    metadata,
    sa.Column("message", sa.ForeignKey(messages.c.seq), primary_key=True, autoincrement=False),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("filename", sa.LargeBinary, nullable=False),
    sa.Column("content_type", sa.Text, nullable=False),
    sa.Column("content", sa.LargeBinary, nullable=False),
)

#: One row a recipient.  ``ready`` says from when it may be taken: its next attempt, or, while ``owner`` has it, the
#: end of the lease; NULL: it failed, at ``failed``.  ``since`` is when its time until it is given up began.
recipients = sa.Table(
    "spool_recipient",
    metadata,
    sa.Column("row", number(), primary_key=True, autoincrement=False),
    sa.Column("message", sa.ForeignKey(messages.c.seq), nullable=False, index=True),
    sa.Column("account", sa.ForeignKey(accounts.c.id), nullable=False),
    sa.Column("recipient", sa.Text, nullable=False),
    sa.Column("toname", sa.LargeBinary, nullable=False),
    sa.Column("idempotency_key", sa.Text, nullable=False),
    sa.Column("since", sa.Double, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("ready", sa.Double),
    sa.Column("owner", sa.String(32)),
    sa.Column("last_answer", sa.Text, nullable=False),
    sa.Column("failed", sa.Double),
    sa.Column("reason", sa.String(64), nullable=False),
    sa.Column("platform", sa.Text, nullable=False),
    sa.Index("spool_recipient_ready", "account", "ready"),
)
_is_failure = recipients.c.failed.is_not(None)
# Only failures are in it, so a message that is delivered does not pay for it.
_failures = sa.Index("spool_recipient_failed", recipients.c.failed, sqlite_where=_is_failure)

#: Messages whose verdict the client may not know (the ledger).
memories = sa.Table(
    "spool_memory",
    metadata,
    sa.Column("fingerprint", sa.LargeBinary, primary_key=True),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("recipients", sa.LargeBinary, nullable=False),
    sa.Column("expires", sa.Double, nullable=False, index=True),
)

#: Failures that ``failures.webhook`` has not been told of; ``ready`` and ``owner`` as above.
notices = sa.Table(
    "spool_notice",
    metadata,
    sa.Column("row", number(), primary_key=True, autoincrement=False),
    sa.Column("recipient", number(), nullable=False, index=True),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("ready", sa.Double, nullable=False, index=True),
    sa.Column("owner", sa.String(32)),
)


def make(connection: sa.Connection) -> None:
    """Make the tables in a database that has none of them."""
    if connection.dialect.name == "postgresql":
        # Not said above: it would have every relay import what SQLAlchemy knows of PostgreSQL.
        _failures.dialect_kwargs["postgresql_where"] = _is_failure
    metadata.create_all(connection, checkfirst=False)
