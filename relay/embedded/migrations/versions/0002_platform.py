"""The platform in small: people, keys that can be shown, routes that send, templates, timelines, counts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from relay.embedded import words

revision = "0002"
down_revision = "0001"

_TEMPLATE = ("name", "subject", "fromname", "fromemail", "replyto", "returnpath", "tag", "body")
_WORDED = ("recipient", "toname", "fromemail", "fromname", "subject")


def _account(*, key: bool = False, nullable: bool = False) -> sa.Column[int]:
    owner = sa.ForeignKey("accounts.id", ondelete="CASCADE")
    return sa.Column("account", sa.Integer, owner, nullable=nullable, primary_key=key)


def _message(*, key: bool = True) -> sa.Column[int]:
    number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    owner = sa.ForeignKey("messages.seq", ondelete="CASCADE")
    return sa.Column("message", number, owner, nullable=False, primary_key=key, autoincrement=False)


def upgrade() -> None:
    _people()
    _sending()
    _messages()
    _counted()


def _people() -> None:
    op.add_column("accounts", sa.Column("disabled", sa.Double))
    op.create_index("accounts_name", "accounts", ["name"], unique=True)
    op.create_table(
        "users",
        sa.Column("id", sa.Integer, primary_key=True),
        _account(nullable=True),
        sa.Column("email", sa.Text, nullable=False, unique=True),
        sa.Column("password", sa.Text, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("signed_in", sa.Double),
        sa.Column("disabled", sa.Double),
    )
    op.create_index("users_account", "users", ["account"])
    user = sa.ForeignKey("users.id", ondelete="CASCADE")
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("user", sa.Integer, user, nullable=False, index=True),
        _account(nullable=True),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("seen", sa.Double, nullable=False),
    )
    op.add_column("api_keys", sa.Column("sealed", sa.LargeBinary, nullable=False, server_default=sa.text("''")))
    op.add_column("api_keys", sa.Column("used", sa.Double))
    op.create_table(
        "revocations",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("at", sa.Double, nullable=False, index=True),
    )


def _sending() -> None:
    """Routes were an account's own, and all of them stored only."""
    op.rename_table("routes", "routes_before")
    op.create_table(
        "routes",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("settings", sa.Text, nullable=False),
        sa.Column("secret", sa.LargeBinary, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
    )
    op.create_table(
        "account_routes",
        _account(key=True),
        sa.Column("route", sa.String(64), sa.ForeignKey("routes.id", ondelete="CASCADE"), primary_key=True),
    )
    op.execute(
        "INSERT INTO routes (id, name, kind, settings, secret, created) "
        "SELECT b.id, min(b.name), min(b.kind), '{}', '', min(a.created) "
        "FROM routes_before b JOIN accounts a ON a.id = b.account GROUP BY b.id"
    )
    op.execute("INSERT INTO account_routes (account, route) SELECT account, id FROM routes_before")
    op.drop_table("routes_before")
    fields = [sa.Column(name, sa.Text, nullable=False) for name in _TEMPLATE]
    op.create_table(
        "templates",
        _account(key=True),
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("updated", sa.Double, nullable=False),
        sa.Column("sample", sa.Text, nullable=False, server_default=""),
        *fields,
    )
    op.create_table(
        "template_versions",
        sa.Column("account", sa.Integer, primary_key=True),
        sa.Column("template", sa.String(64), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("saved", sa.Double, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in _TEMPLATE),
        sa.ForeignKeyConstraint(["account", "template"], ["templates.account", "templates.id"], ondelete="CASCADE"),
    )
    op.create_index("idempotency_created", "idempotency", ["created"])


def _messages() -> None:
    op.add_column("messages", sa.Column("updated", sa.Double, nullable=False, server_default="0"))
    op.add_column("messages", sa.Column("attempts", sa.Integer, nullable=False, server_default="0"))
    op.add_column("messages", sa.Column("answer", sa.Text, nullable=False, server_default=""))
    op.add_column("messages", sa.Column("resent", sa.Text, nullable=False, server_default=""))
    op.add_column("messages", sa.Column("words", sa.Text, nullable=False, server_default=""))
    op.execute("UPDATE messages SET updated = created")
    op.create_index("messages_created", "messages", ["created"])
    op.create_index("messages_status", "messages", ["account", "status", "seq"])
    _searched()
    op.create_table(
        "events",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        _message(key=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("answer", sa.Text, nullable=False, server_default=""),
        sa.Column("detail", sa.Text, nullable=False, server_default=""),
    )
    op.create_index("events_message", "events", ["message", "seq"])
    op.create_table(
        "deliveries",
        _message(),
        _account(),
        sa.Column("route", sa.String(64), nullable=False),
        sa.Column("since", sa.Double, nullable=False),
        sa.Column("ready", sa.Double, nullable=False),
        sa.Column("owner", sa.String(32)),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    )
    op.create_index("deliveries_ready", "deliveries", ["route", "account", "ready"])
    op.create_table(
        "transactions",
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
    )
    op.create_index("transactions_created", "transactions", ["created"])


def _searched() -> None:
    """Messages are found by their words."""
    connection = op.get_bind()
    row = sa.table("messages", *map(sa.column, ("seq", "account", "words", *_WORDED)))
    for found in connection.execute(sa.select(row)).all():
        held = words.of(
            found.account, (found.recipient, found.toname), (found.fromemail, found.fromname), found.subject
        )
        connection.execute(sa.update(row).where(row.c.seq == found.seq).values(words=held))
    for statement in words.INDEX[connection.dialect.name]:
        op.execute(statement)
    if connection.dialect.name == "sqlite":
        op.execute("INSERT INTO search (search) VALUES ('rebuild')")


def _counted() -> None:
    op.create_table(
        "tallies",
        _account(key=True),
        sa.Column("hour", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("tag", sa.String(18), primary_key=True),
        sa.Column("status", sa.String(16), primary_key=True),
        sa.Column("messages", sa.Integer, nullable=False),
        sqlite_with_rowid=False,
    )
    op.execute(
        "INSERT INTO tallies (account, hour, tag, status, messages) "
        "SELECT account, CAST(floor(created / 3600) AS INTEGER), tag, status, count(*) FROM messages "
        "GROUP BY account, CAST(floor(created / 3600) AS INTEGER), tag, status"
        if op.get_bind().dialect.name == "postgresql"
        else "INSERT INTO tallies (account, hour, tag, status, messages) "
        "SELECT account, CAST(created / 3600 AS INTEGER), tag, status, count(*) FROM messages GROUP BY 1, 2, 3, 4"
    )
