"""What the relay tells of the SMTP transactions of an account: the replies that clients got, what was removed."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import sqlalchemy as sa
from attrs import frozen

from relay.embedded.database import upsert
from relay.embedded.schema import transactions


@frozen
class Transaction:
    """One message as it came by SMTP.

    :ivar reply: what the client got.
    :ivar milliseconds: from the end of DATA to the reply.
    :ivar images: image parts left out.
    :ivar attachments: other parts left out.
    :ivar cids: ``cid:`` references that the HTML still holds.
    :ivar headers: names of the headers that do not count.
    """

    request_id: str
    created: float
    peer: str
    reply: str
    milliseconds: float
    images: int = 0
    attachments: int = 0
    cids: int = 0
    headers: tuple[str, ...] = ()


def put(connection: sa.Connection, account: int, told: Transaction) -> None:
    """Keep *told*, in the place of what was told of the same transaction before."""
    row = {
        "account": account,
        "request_id": told.request_id,
        "created": told.created,
        "peer": told.peer,
        "reply": told.reply,
        "milliseconds": told.milliseconds,
        "images": told.images,
        "attachments": told.attachments,
        "cids": told.cids,
        "headers": json.dumps(told.headers),
    }
    connection.execute(_put(connection.dialect.name), row)


def one(connection: sa.Connection, account: int, request_id: str) -> Transaction | None:
    """The transaction that a message came with."""
    if not request_id:
        return None
    mine = (transactions.c.account == account, transactions.c.request_id == request_id)
    row = connection.execute(sa.select(*_COLUMNS).where(*mine)).one_or_none()
    if row is None:
        return None
    values: dict[str, Any] = dict(row._mapping)
    return Transaction(**{**values, "headers": tuple(json.loads(values["headers"]))})


_COLUMNS = [column for column in transactions.c if column.name != "account"]


@cache
def _put(dialect: str) -> sa.Executable:
    """What runs with every message, made once."""
    insert = upsert(transactions, dialect)
    keys = list(transactions.primary_key)
    changed = {column.name: insert.excluded[column.name] for column in transactions.c if column not in keys}
    return insert.on_conflict_do_update(index_elements=keys, set_=changed)
