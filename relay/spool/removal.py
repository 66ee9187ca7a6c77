"""What leaves the spool: a message's content goes with its last recipient."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from relay.spool.database import chunks
from relay.spool.schema import attachments, contents, messages, recipients

_messages: sa.BindParameter[int] = sa.bindparam("messages", expanding=True)
_rows: sa.BindParameter[int] = sa.bindparam("rows", expanding=True)

_of_rows = (
    sa.select(recipients.c.row, recipients.c.message)
    .where(recipients.c.row.in_(_rows))
    .order_by(recipients.c.row)
    .with_for_update()
)
_delete_rows = sa.delete(recipients).where(recipients.c.row.in_(_rows))
#: Held while the last recipient is looked for, or two relays that end the last two would each see the other's.
_lock_messages = (
    sa.select(messages.c.seq).where(messages.c.seq.in_(_messages)).order_by(messages.c.seq).with_for_update()
)
_empty = (
    sa.select(messages.c.seq, messages.c.size)
    .where(messages.c.seq.in_(_messages))
    .where(~sa.exists().where(recipients.c.message == messages.c.seq))
)
_delete_messages = [
    sa.delete(contents).where(contents.c.message.in_(_messages)),
    sa.delete(attachments).where(attachments.c.message.in_(_messages)),
    sa.delete(messages).where(messages.c.seq.in_(_messages)),
]
_delete_recipients = sa.delete(recipients).where(recipients.c.message.in_(_messages))


def remove_rows(connection: sa.Connection, rows: Sequence[int]) -> tuple[int, int]:
    """Delete those of the recipients *rows* that are there, and messages that have no other.

    :return: number of recipients, and size of the messages.
    """
    removed = octets = 0
    for part in chunks(sorted(rows)):
        found = connection.execute(_of_rows, {"rows": part}).all()
        if not found:
            continue
        connection.execute(_delete_rows, {"rows": [row for row, _ in found]})
        concerned = {"messages": sorted({message for _, message in found})}
        if connection.dialect.name == "postgresql":
            connection.execute(_lock_messages, concerned)
        empty = connection.execute(_empty, concerned).all()
        if empty:
            for statement in _delete_messages:
                connection.execute(statement, {"messages": [seq for seq, _ in empty]})
        removed += len(found)
        octets += sum(size for _, size in empty)
    return removed, octets


def remove_messages(connection: sa.Connection, numbers: Sequence[int]) -> None:
    """Delete whole messages, whether they are there or not."""
    for part in chunks(numbers):
        for statement in (_delete_recipients, *_delete_messages):
            connection.execute(statement, {"messages": part})
