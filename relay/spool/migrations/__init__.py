"""Brings a database to the schema of this program, with Alembic and without an alembic.ini.

Alembic takes a third of a second to import, and is needed only where the database is not at :data:`HEAD` yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from relay.errors import ConfigError

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext, RevisionStep
    from alembic.script import ScriptDirectory

#: The newest revision of ``versions/``; a test holds it against what is there.
HEAD = "0001"

#: Where the version stands; not Alembic's default name, because the database may hold other programs' tables.
VERSION_TABLE = "spool_version"

_VERSION = sa.table(VERSION_TABLE)


def current(connection: sa.Connection) -> str | None:
    """The revision of the database, None when it is empty."""
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    found: str | None = connection.execute(sa.select(sa.column("version_num")).select_from(_VERSION)).scalar()
    return found


def upgrade(connection: sa.Connection) -> None:
    """Run what is missing, within the transaction of *connection*.

    :raises ConfigError: a newer version of this program made the database.
    """
    found = current(connection)
    if found == HEAD:
        return
    if found is not None and not knows(found):
        raise ConfigError([newer(found)])
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext

    scripts = _scripts()

    def missing(revision: Any, context: MigrationContext) -> list[RevisionStep]:
        # The only door to the steps that Alembic has beside its command line.
        return list(scripts._upgrade_revs("head", revision))

    context = MigrationContext.configure(
        connection, opts={"version_table": VERSION_TABLE, "fn": missing, "script": scripts}
    )
    with Operations.context(context):
        context.run_migrations()


def knows(revision: str) -> bool:
    """Whether *revision* is one of this program's."""
    return revision in {script.revision for script in _scripts().walk_revisions()}


def newer(found: str) -> str:
    """What to say of a database whose revision is unknown."""
    return (
        f"spool: the database has schema revision {found} and this program knows {HEAD} and older; "
        "run the newer smtp-relay that made it, or choose another spool"
    )


def _scripts() -> ScriptDirectory:
    from alembic.script import ScriptDirectory

    return ScriptDirectory(__path__[0])
