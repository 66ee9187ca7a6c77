"""How many messages of each hour and tag have which status: what the dashboard counts."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from relay.embedded.schema import tallies

#: Seconds that one row stands for.
HOUR = 3600


def hour(at: float) -> int:
    """The hour, since the epoch, that the time *at* lies in."""
    return int(at // HOUR)


def count(connection: sa.Connection, account: int, created: float, tag: str, status: str) -> None:
    """One message more has *status*."""
    row = {"account": account, "hour": hour(created), "tag": tag, "status": status, "messages": 1}
    connection.execute(_COUNT[connection.dialect.name], row)


def move(connection: sa.Connection, account: int, created: float, tag: str, before: str, after: str) -> None:
    """A message has the status *after*, and no longer *before*."""
    if before == after:
        return
    row = {"of": account, "at": hour(created), "with": tag, "was": before}
    connection.execute(_UNCOUNT, row)
    count(connection, account, created, tag, after)


# Made once: they run with every message.


def _counting(dialect: type[sqlite.Insert] | type[postgresql.Insert]) -> sa.Executable:
    insert = dialect(tallies)
    more = tallies.c.messages + insert.excluded.messages
    return insert.on_conflict_do_update(index_elements=list(tallies.primary_key), set_={"messages": more})


_COUNT = {"sqlite": _counting(sqlite.Insert), "postgresql": _counting(postgresql.Insert)}

_UNCOUNT = (
    sa.update(tallies)
    .where(
        tallies.c.account == sa.bindparam("of"),
        tallies.c.hour == sa.bindparam("at"),
        tallies.c.tag == sa.bindparam("with"),
        tallies.c.status == sa.bindparam("was"),
        tallies.c.messages > 0,
    )
    .values(messages=tallies.c.messages - 1)
)
