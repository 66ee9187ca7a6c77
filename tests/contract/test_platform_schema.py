"""The embedded backend's tables; tests/integration/test_platform_postgresql.py has the same on PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from twisted.trial.unittest import SynchronousTestCase

from relay.embedded import accounts, keys, schema
from relay.embedded.database import change, open_sqlite
from relay.embedded.migrations import REVISIONS
from tests.contract.tables import described

#: What the program made before there were revisions.
BEFORE = (
    "CREATE TABLE meta (name VARCHAR(64) PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE accounts (id INTEGER PRIMARY KEY, name TEXT NOT NULL, default_route TEXT NOT NULL, "
    "created DOUBLE PRECISION NOT NULL)",
)


def _ours(name: str | None, kind: str, parents: object) -> bool:
    """Whether both databases have it: the index of words is another in each."""
    return not (name or "").startswith(("search", "messages_search"))


class SchemaContract:
    """Whatever the database."""

    engine: sa.Engine

    def new_engine(self) -> sa.Engine:
        """A new, empty database."""
        raise NotImplementedError

    def setUp(self) -> None:
        self.engine = self.new_engine()

    def test_made(self) -> None:
        """An empty database gets at once what it would get from all revisions, one after another."""
        change(self.engine, schema.prepare)
        migrated = self.new_engine()
        change(migrated, REVISIONS.migrate)
        with self.engine.connect() as connection, migrated.connect() as other:
            self.assertEqual(described(connection), described(other))

    def test_schema(self) -> None:
        """The migrations make the very tables that the code works with."""
        change(self.engine, REVISIONS.migrate)
        with self.engine.connect() as connection:
            context = MigrationContext.configure(
                connection, opts={"version_table": REVISIONS.table, "include_name": _ours}
            )
            self.assertEqual(compare_metadata(context, schema.metadata), [])

    def test_twice(self) -> None:
        """A database that is up to date stays as it is."""
        change(self.engine, schema.prepare)
        account = change(self.engine, lambda connection: accounts.made(connection, 1.0))
        change(self.engine, lambda connection: keys.add_key(connection, account, "k" * 40, 1.0))
        change(self.engine, schema.prepare)
        with self.engine.connect() as connection:
            self.assertEqual(keys.by_key(connection, "k" * 40), accounts.first(connection))

    def test_foreign(self) -> None:
        """A database with tables of the same names that another program made is refused."""
        with self.engine.begin() as connection:
            for statement in BEFORE:
                connection.exec_driver_sql(statement)
        with self.assertRaises(schema.ConfigError) as caught:
            change(self.engine, schema.prepare)
        self.assertIn("unknown", str(caught.exception))


class SQLiteTests(SchemaContract, SynchronousTestCase):
    """On SQLite."""

    def new_engine(self) -> sa.Engine:
        engine = open_sqlite(Path(self.mktemp()))
        self.addCleanup(engine.dispose)
        return engine

    def test_head(self) -> None:
        """The newest revision is the one that the program takes for it."""
        self.assertEqual(ScriptDirectory(REVISIONS.folder).get_current_head(), REVISIONS.head)

    def test_before_revisions(self) -> None:
        """What was stored before there were revisions is there still, on its route, and counted."""
        change(self.engine, _as_it_was)
        change(self.engine, schema.prepare)
        with self.engine.connect() as connection:
            tenant = accounts.first(connection)
            self.assertEqual([route.id for route in tenant.routes], ["capture"])
            self.assertEqual(connection.execute(sa.select(schema.messages.c.subject)).scalars().all(), ["Hello"])
            self.assertEqual(
                [tuple(row) for row in connection.execute(sa.select(schema.tallies))],
                [(1, 2, "welcome", "captured", 1)],
            )


def _as_it_was(connection: sa.Connection) -> None:
    """A database from before there were revisions, with a message."""

    script = ScriptDirectory(REVISIONS.folder).get_revision("0001")
    with Operations.context(MigrationContext.configure(connection)):
        script.module.upgrade()
    for statement in (
        "INSERT INTO meta VALUES ('schema', '1')",
        "INSERT INTO accounts VALUES (1, 'Local', '', 1.0)",
        "INSERT INTO routes VALUES (1, 'capture', 'Capture', 'capture')",
        "INSERT INTO messages VALUES (1, 1, 'ID', 'R', 7300.5, '', 'a@x', 'b@x', '', 'Hello', '', '', 'welcome', "
        "'capture', '', 'captured', 5, 0)",
    ):
        connection.exec_driver_sql(statement)
