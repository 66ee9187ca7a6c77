"""The tables of the embedded backend, in SQLAlchemy Core, for SQLite and PostgreSQL.

They come to an empty database as they stand here, to another one through :mod:`relay.embedded.migrations`; a test
holds these against each other.  What belongs to an account has a column ``account``, which stands in every query.
All times are seconds since the epoch, UTC.
"""

# Over 300 lines: the tables side by side.

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from relay.embedded import words
from relay.embedded.migrations import REVISIONS
from relay.errors import ConfigError

#: The version that a database has in ``meta`` which was made before there were revisions.
BEFORE_REVISIONS = "1"

metadata = sa.MetaData()


def number() -> sa.BigInteger:
    """64 bits; SQLite makes a primary key its own row id only when it is called INTEGER."""
    return sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _account(*, key: bool = False) -> sa.Column[int]:
    return sa.Column("account", sa.ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False, primary_key=key)


def _message(*, key: bool = True) -> sa.Column[int]:
    return sa.Column(
        "message",
        sa.ForeignKey("messages.seq", ondelete="CASCADE"),
        nullable=False,
        primary_key=key,
        autoincrement=False,
    )


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False, server_default="0")


# --- people

#: Facts about the database itself, by name.
meta = sa.Table(
    "meta",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

#: Customers.  *disabled*: since when its keys and its users are refused, NULL: they are not.
accounts = sa.Table(
    "accounts",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("default_route", sa.Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("disabled", sa.Double),
    sa.Index("accounts_name", "name", unique=True),
)

#: Who may sign in.  *account* is NULL for an administrator, who sees all accounts; *email* is in lower case;
#: *password* is a hash of argon2.
users = sa.Table(
    "users",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("account", sa.ForeignKey("accounts.id", ondelete="CASCADE")),
    sa.Column("email", sa.Text, nullable=False, unique=True),
    sa.Column("password", sa.Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("signed_in", sa.Double),
    sa.Column("disabled", sa.Double),
    sa.Index("users_account", "account"),
)

#: Who is signed in.  *id* is the SHA-256 of what the signed cookie holds; *account* is the one that an administrator
#: looks at ("impersonates").
sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("user", sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("account", sa.ForeignKey("accounts.id", ondelete="CASCADE")),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("seen", sa.Double, nullable=False),
)

#: An account's API key.  It is found by its SHA-256: keys are random (238 bits), so no salt and no slow hash are
#: needed.  *sealed* is the key itself, encrypted, for the page that shows it.
api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("sha256", sa.String(64), primary_key=True),
    _account(),
    sa.Column("prefix", sa.String(8), nullable=False),
    sa.Column("sealed", sa.LargeBinary, nullable=False, server_default=sa.text("''")),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("used", sa.Double),
)

#: Keys that were reset, for the caches of other processes.
revocations = sa.Table(
    "revocations",
    metadata,
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("at", sa.Double, nullable=False, index=True),
)

# --- sending

#: Postal routes.  *settings* is a JSON object, other for each kind (:mod:`relay.embedded.routes`); *secret* is the
#: smarthost's password, encrypted, empty without one.
routes = sa.Table(
    "routes",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("settings", sa.Text, nullable=False),
    sa.Column("secret", sa.LargeBinary, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
)

#: Which routes an account may use.
account_routes = sa.Table(
    "account_routes",
    metadata,
    _account(key=True),
    sa.Column("route", sa.ForeignKey("routes.id", ondelete="CASCADE"), primary_key=True),
)

_TEMPLATE = ("name", "subject", "fromname", "fromemail", "replyto", "returnpath", "tag", "body")

#: *sample* are variables to try it with, as they were typed.
templates = sa.Table(
    "templates",
    metadata,
    _account(key=True),
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("updated", sa.Double, nullable=False),
    _text("sample"),
    *(sa.Column(name, sa.Text, nullable=False) for name in _TEMPLATE),
)

#: Every version of a template, the current one too; *author* is the e-mail address of who saved it, or ``API``.
template_versions = sa.Table(
    "template_versions",
    metadata,
    sa.Column("account", sa.Integer, primary_key=True),
    sa.Column("template", sa.String(64), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("saved", sa.Double, nullable=False),
    sa.Column("author", sa.Text, nullable=False),
    *(sa.Column(name, sa.Text, nullable=False) for name in _TEMPLATE),
    sa.ForeignKeyConstraint(["account", "template"], ["templates.account", "templates.id"], ondelete="CASCADE"),
)

#: The different tags an account has used; the contract bounds their number.
tags = sa.Table(
    "tags",
    metadata,
    _account(key=True),
    sa.Column("tag", sa.String(18), primary_key=True),
    sa.Column("created", sa.Double, nullable=False),
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
    sa.Index("idempotency_created", "created"),
)

# --- messages

#: One row a submission, as it would be sent: the fields are those after rendering.  What is big is in ``contents``.
#: *status* is one of :class:`relay.embedded.store.Status`; *answer* the last answer of the route, or for a refused
#: message the reply that the client got; *updated* when either changed; *resent* the id of the message that this one
#: repeats; *words* is what it is found by (:mod:`relay.embedded.words`), in an index that each database has in its own
#: way: ``search`` of SQLite's FTS5, ``messages_search`` of PostgreSQL's GIN.
messages = sa.Table(
    "messages",
    metadata,
    sa.Column("seq", number(), primary_key=True),
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
    sa.Column("updated", sa.Double, nullable=False, server_default="0"),
    _count("attempts"),
    _text("answer"),
    _text("resent"),
    _text("words"),
    sa.UniqueConstraint("account", "id"),
    sa.Index("messages_newest", "account", "seq"),
    sa.Index("messages_created", "created"),
    sa.Index("messages_status", "account", "status", "seq"),
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
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("filename", sa.Text, nullable=False),
    sa.Column("content_type", sa.Text, nullable=False),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("content", sa.LargeBinary, nullable=False),
)

#: The timeline of a message: *kind* is what happened, *answer* the exact words of who answered, *detail* who that was.
events = sa.Table(
    "events",
    metadata,
    sa.Column("seq", number(), primary_key=True),
    _message(key=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    _text("answer"),
    _text("detail"),
    sa.Index("events_message", "message", "seq"),
)

#: Messages that a route has yet to take.  ``ready`` says from when one may be taken: its next attempt, or, while
#: ``owner`` has it, the end of the lease.  ``since`` is when its time until it is given up began.
deliveries = sa.Table(
    "deliveries",
    metadata,
    _message(),
    _account(),
    sa.Column("route", sa.String(64), nullable=False),
    sa.Column("since", sa.Double, nullable=False),
    sa.Column("ready", sa.Double, nullable=False),
    sa.Column("owner", sa.String(32)),
    _count("attempts"),
    sa.Index("deliveries_ready", "route", "account", "ready"),
)

#: What the relay tells of an SMTP transaction (RFC 5321 section 3.3): the reply that the client got, and what was
#: removed from the message; *headers* is a JSON list of names.
transactions = sa.Table(
    "transactions",
    metadata,
    _account(key=True),
    sa.Column("request_id", sa.String(64), primary_key=True),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("peer", sa.Text, nullable=False),
    sa.Column("reply", sa.Text, nullable=False),
    sa.Column("milliseconds", sa.Double, nullable=False),
    sa.Column("images", sa.Integer, nullable=False),
    sa.Column("attachments", sa.Integer, nullable=False),
    sa.Column("cids", sa.Integer, nullable=False),
    sa.Column("headers", sa.Text, nullable=False),
    sa.Index("transactions_created", "created"),
)

#: How many messages of an hour (seconds since the epoch / 3600) and a tag have a status now: what the dashboard
#: counts.  It changes in the transaction that changes the message.
tallies = sa.Table(
    "tallies",
    metadata,
    _account(key=True),
    sa.Column("hour", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("tag", sa.String(18), primary_key=True),
    sa.Column("status", sa.String(16), primary_key=True),
    sa.Column("messages", sa.Integer, nullable=False),
    sqlite_with_rowid=False,
)


def inserted(result: sa.CursorResult[Any]) -> int:
    """The key that the database gave the one row just inserted."""
    key = result.inserted_primary_key
    if key is None:
        raise ValueError("not an insert of one row")
    return int(key[0])


def prepare(connection: sa.Connection) -> None:
    """Bring the database to the tables above.

    :raises ConfigError: a newer version of this program made it.
    """
    if connection.dialect.name == "postgresql":
        # Several backends may start at once.
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(2041890574)")
    if REVISIONS.current(connection) is None and sa.inspect(connection).has_table("meta"):
        _adopt(connection)
    REVISIONS.upgrade(connection, make)


def make(connection: sa.Connection) -> None:
    """Make the tables in a database that has none of them."""
    metadata.create_all(connection, checkfirst=False)
    for statement in words.INDEX[connection.dialect.name]:
        connection.exec_driver_sql(statement)


def _adopt(connection: sa.Connection) -> None:
    """Give a database from before there were revisions the first one.

    :raises ConfigError: it is none of those.
    """
    found = connection.execute(sa.select(meta.c.value).where(meta.c.name == "schema")).scalar_one_or_none()
    if found != BEFORE_REVISIONS:
        raise ConfigError([REVISIONS.newer(found or "unknown")])
    REVISIONS.stamp(connection, "0001")
