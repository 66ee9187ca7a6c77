"""The first tables of the embedded backend: one account, messages that are stored.

A database that was made before there were revisions has them already (:func:`relay.embedded.schema.prepare`).
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _account(*, key: bool = False) -> sa.Column[int]:
    owner = sa.ForeignKey("accounts.id", ondelete="CASCADE")
    return sa.Column("account", sa.Integer, owner, nullable=False, primary_key=key)


def _message() -> sa.ForeignKey:
    return sa.ForeignKey("messages.seq", ondelete="CASCADE")


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "meta",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    op.create_table(
        "accounts",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("default_route", sa.Text, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
    )
    op.create_table(
        "api_keys",
        sa.Column("sha256", sa.String(64), primary_key=True),
        _account(),
        sa.Column("prefix", sa.String(8), nullable=False),
        sa.Column("created", sa.Double, nullable=False),
    )
    op.create_table(
        "routes",
        _account(key=True),
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
    )
    op.create_table(
        "tags",
        _account(key=True),
        sa.Column("tag", sa.String(18), primary_key=True),
        sa.Column("created", sa.Double, nullable=False),
    )
    op.create_table(
        "messages",
        sa.Column("seq", number, primary_key=True),
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
    )
    op.create_index("messages_newest", "messages", ["account", "seq"])
    op.create_index("messages_tag", "messages", ["account", "tag", "seq"])
    op.create_index("messages_request", "messages", ["account", "request_id"])
    op.create_index("messages_recipient", "messages", ["account", sa.text("lower(recipient)"), "seq"])
    op.create_table(
        "contents",
        sa.Column("message", number, _message(), primary_key=True, autoincrement=False),
        sa.Column("posted", sa.LargeBinary, nullable=False),
        sa.Column("rendered", sa.Text),
    )
    op.create_table(
        "attachments",
        sa.Column("message", number, _message(), primary_key=True, autoincrement=False),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("filename", sa.Text, nullable=False),
        sa.Column("content_type", sa.Text, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "idempotency",
        _account(key=True),
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("created", sa.Double, nullable=False),
    )
