"""The first tables of the spool."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    if op.get_bind().dialect.name == "postgresql":
        op.execute(sa.schema.CreateSequence(sa.Sequence("spool_serial", data_type=sa.BigInteger)))
    op.create_table(
        "spool_meta",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("value", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "spool_account",
        sa.Column("id", number, primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("key", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "spool_message",
        sa.Column("seq", number, primary_key=True, autoincrement=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("tag", sa.Text, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "spool_content",
        sa.Column("message", number, sa.ForeignKey("spool_message.seq"), primary_key=True, autoincrement=False),
        sa.Column("fields", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "spool_attachment",
        sa.Column("message", number, sa.ForeignKey("spool_message.seq"), primary_key=True, autoincrement=False),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("filename", sa.LargeBinary, nullable=False),
        sa.Column("content_type", sa.Text, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "spool_recipient",
        sa.Column("row", number, primary_key=True, autoincrement=False),
        sa.Column("message", number, sa.ForeignKey("spool_message.seq"), nullable=False, index=True),
        sa.Column("account", number, sa.ForeignKey("spool_account.id"), nullable=False),
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
    )
    op.create_index("spool_recipient_ready", "spool_recipient", ["account", "ready"])
    op.create_index(
        "spool_recipient_failed",
        "spool_recipient",
        ["failed"],
        sqlite_where=sa.text("failed IS NOT NULL"),
        postgresql_where=sa.text("failed IS NOT NULL"),
    )
    op.create_table(
        "spool_memory",
        sa.Column("fingerprint", sa.LargeBinary, primary_key=True),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("recipients", sa.LargeBinary, nullable=False),
        sa.Column("expires", sa.Double, nullable=False, index=True),
    )
    op.create_table(
        "spool_notice",
        sa.Column("row", number, primary_key=True, autoincrement=False),
        sa.Column("recipient", number, nullable=False, index=True),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("ready", sa.Double, nullable=False, index=True),
        sa.Column("owner", sa.String(32)),
    )
