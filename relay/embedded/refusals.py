"""Submissions that were refused stand in the log too, once each, with the answer that the client got and why."""

from __future__ import annotations

import attrs
import sqlalchemy as sa

from relay.embedded import rules, store
from relay.embedded.schema import messages
from relay.embedded.store import New, Status

#: Longest answer that is kept, and the most of a field, in characters.
LONGEST_ANSWER = 2000
LONGEST_FIELD = 1000

#: Stands for the JSON of a message that the relay refused: none was posted.
UNSEEN = b"{}"


def put(connection: sa.Connection, new: New) -> None:
    """Keep *new*, which was refused; where the log has it already, from who saw it first, only the answer is new."""
    fields = new.fields
    if fields.request_id:
        query = sa.select(messages.c.seq).where(
            messages.c.account == new.account,
            messages.c.request_id == fields.request_id,
            messages.c.recipient == fields.recipient,
            messages.c.status == Status.REFUSED,
        )
        known = connection.execute(query).scalars().first()
        if known is not None:
            store.change_status(connection, known, Status.REFUSED, at=new.created, answer=new.answer)
            return
    store.add(connection, new)


def refused(account: int, id: str, created: float, fields: store.Fields, answer: str, posted: bytes = UNSEEN) -> New:
    """A refused submission; whatever its fields hold, a database takes it.

    :param id: its public id.
    :param answer: what the client was told.
    :param posted: the JSON as it came, :data:`UNSEEN` where none did.
    """
    texts = {name: rules.storable(value)[:LONGEST_FIELD] for name, value in attrs.asdict(fields).items()}
    texts["tag"] = rules.known_tag(texts["tag"])
    texts["route"] = texts["route"][:64]
    return New(
        account=account,
        id=id,
        created=created,
        fields=store.Fields(**texts),
        posted=posted,
        rendered=None,
        size=len(posted) if posted != UNSEEN else 0,
        idempotency_key="",
        fingerprint="",
        status=Status.REFUSED,
        answer=rules.storable(answer)[:LONGEST_ANSWER],
    )
