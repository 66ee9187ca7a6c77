"""Brings a database to the tables of this program, with Alembic and without an alembic.ini.

Alembic takes a third of a second to import, and is needed only where an older version of this program has made tables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from attrs import frozen

from relay.errors import ConfigError

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext, RevisionStep
    from alembic.script import ScriptDirectory


@frozen
class Revisions:
    """The revisions of one set of tables.

    :ivar folder: holds ``versions/``.
    :ivar head: the newest of them; a test holds it against what is there.
    :ivar table: where a database keeps its revision; not Alembic's default name, because the database may hold
        other programs' tables.
    :ivar what: what the tables are for, as the configuration calls it, for messages.
    """

    folder: str
    head: str
    table: str
    what: str

    def current(self, connection: sa.Connection) -> str | None:
        """The revision of the database, None when it is empty."""
        if not sa.inspect(connection).has_table(self.table):
            return None
        version = sa.table(self.table)
        found: str | None = connection.execute(sa.select(sa.column("version_num")).select_from(version)).scalar()
        return found

    def upgrade(self, connection: sa.Connection, make: Callable[[sa.Connection], None]) -> None:
        """Run what is missing, within the transaction of *connection*.

        :param make: makes the tables of the head where there are none; a test holds them against the revisions'.
        :raises ConfigError: a newer version of this program made the database.
        """
        found = self.current(connection)
        if found is None:
            make(connection)
            self.stamp(connection, self.head)
        elif not self.knows(found):
            raise ConfigError([self.newer(found)])
        elif found != self.head:
            self.migrate(connection)

    def stamp(self, connection: sa.Connection, revision: str) -> None:
        """Note *revision* where none is noted yet, in the table that Alembic would make."""
        key = sa.PrimaryKeyConstraint("version_num", name=f"{self.table}_pkc")
        version = sa.Table(self.table, sa.MetaData(), sa.Column("version_num", sa.String(32)), key)
        version.create(connection)
        connection.execute(sa.insert(version).values(version_num=revision))

    def migrate(self, connection: sa.Connection) -> None:
        """Run all revisions that are missing, from the first one where there are no tables."""
        from alembic.operations import Operations
        from alembic.runtime.migration import MigrationContext

        scripts = self._scripts()

        def missing(revision: Any, context: MigrationContext) -> list[RevisionStep]:
            # The only door to the steps that Alembic has beside its command line.
            return list(scripts._upgrade_revs("head", revision))

        context = MigrationContext.configure(
            connection, opts={"version_table": self.table, "fn": missing, "script": scripts}
        )
        with Operations.context(context):
            context.run_migrations()

    def knows(self, revision: str) -> bool:
        """Whether *revision* is one of this program's."""
        return revision == self.head or revision in {script.revision for script in self._scripts().walk_revisions()}

    def newer(self, found: str) -> str:
        """What to say of a database whose revision is unknown."""
        return (
            f"{self.what}: the database has schema revision {found} and this program knows {self.head} and older; "
            f"run the newer smtp-relay that made it, or choose another {self.what}"
        )

    def _scripts(self) -> ScriptDirectory:
        from alembic.script import ScriptDirectory

        return ScriptDirectory(self.folder)
