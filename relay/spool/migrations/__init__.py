"""Brings a database to the schema of this program, with Alembic and without an alembic.ini."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext, RevisionStep
from alembic.script import ScriptDirectory

from relay.errors import ConfigError

#: Where the version stands; not Alembic's default name, because the database may hold other programs' tables.
VERSION_TABLE = "spool_version"


def head() -> str:
    """The newest revision that this program knows."""
    return str(_scripts().get_current_head())


def current(connection: sa.Connection) -> str | None:
    """The revision of the database, None when it is empty."""
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()


def upgrade(connection: sa.Connection) -> None:
    """Run what is missing, within the transaction of *connection*.

    :raises ConfigError: a newer version of this program made the database.
    """
    scripts = _scripts()
    found = current(connection)
    if found is not None and not knows(found):
        raise ConfigError([newer(found)])

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
        f"spool: the database has schema revision {found} and this program knows {head()} and older; "
        "run the newer smtp-relay that made it, or choose another spool"
    )


def _scripts() -> ScriptDirectory:
    return ScriptDirectory(__path__[0])
