"""What a database's tables are like, for a comparison of two databases."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

#: What SQLAlchemy does not tell, in each database's own words.  PostgreSQL makes the names of primary keys up.
_STATEMENTS = {
    "postgresql": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND indexname !~ '_pkey1?$'",
    "sqlite": "SELECT name, sql FROM sqlite_master WHERE type IN ('index', 'trigger') OR sql LIKE 'CREATE VIRTUAL%'",
}


def described(connection: sa.Connection) -> dict[str, Any]:
    """All tables, with columns, keys and indexes, in no order of their columns."""
    inspector = sa.inspect(connection)
    found: dict[str, Any] = {name: _table(inspector, name) for name in inspector.get_table_names()}
    statements = connection.exec_driver_sql(_STATEMENTS[connection.dialect.name])
    found["statements"] = {name: " ".join((text or "").split()) for name, text in statements}
    found["sequences"] = sorted(inspector.get_sequence_names()) if connection.dialect.supports_sequences else []
    return found


def _table(inspector: sa.Inspector, name: str) -> dict[str, Any]:
    columns = {each["name"]: {**each, "type": repr(each["type"])} for each in inspector.get_columns(name)}
    return {
        "columns": columns,
        "key": inspector.get_pk_constraint(name)["constrained_columns"],
        "foreign": sorted(inspector.get_foreign_keys(name), key=str),
        "unique": sorted(inspector.get_unique_constraints(name), key=str),
        "options": inspector.get_table_options(name),
    }
