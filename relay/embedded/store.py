"""The messages: what is kept of each submission, and how it is found again.  Every query carries the account."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import sqlalchemy as sa
from attrs import field, frozen

from relay.embedded import rules
from relay.embedded.schema import attachments, contents, idempotency, inserted, messages, tags
from relay.values import Attachment

#: How long an Idempotency-Key stands for the message it came with first, in seconds.
REMEMBERED = 86_400.0

#: The status of a message on a route that stores it and sends nothing.
CAPTURED = "captured"


@frozen
class Fields:
    """The columns of a message that come from the submission, after rendering."""

    request_id: str
    fromname: str
    fromemail: str
    recipient: str
    toname: str
    subject: str
    replyto: str
    returnpath: str
    tag: str
    route: str
    template: str


@frozen
class New:
    """A submission on its way into the store.

    :ivar id: its public id.
    :ivar created: seconds since the epoch.
    :ivar posted: the JSON as it came.
    :ivar rendered: the body after rendering, None where nothing was rendered.
    :ivar size: of the body that would be sent, in bytes.
    :ivar idempotency_key: ``""`` when the client gave none.
    :ivar fingerprint: see :func:`relay.embedded.rules.fingerprint`.
    """

    account: int
    id: str
    created: float
    fields: Fields
    posted: bytes = field(repr=False)
    rendered: str | None = field(repr=False)
    size: int
    idempotency_key: str
    fingerprint: str
    attachments: Sequence[Attachment] = ()


@frozen
class Entry:
    """A row of the log."""

    id: str
    created: float
    status: str
    size: int
    attachments: int
    fields: Fields


@frozen
class Content:
    """What is big of a message; *attachments* are (filename, content type, bytes)."""

    posted: bytes = field(repr=False)
    rendered: str | None = field(repr=False)
    attachments: tuple[tuple[str, str, int], ...]


@frozen
class Filter:
    """Which messages are wanted; ``""`` is any.

    :ivar to: the recipient's address, in any case.
    :ivar search: a part of the recipient's address, the sender's address or the subject, in any case.
    :ivar before: the id of a message: only older ones.
    """

    to: str = ""
    tag: str = ""
    status: str = ""
    route: str = ""
    request_id: str = ""
    search: str = ""
    before: str = ""


_FIELDS = tuple(each.name for each in attrs.fields(Fields))
_ENTRY = [messages.c[name] for name in ("id", "created", "status", "size", "attachments", *_FIELDS)]


def add(connection: sa.Connection, new: New) -> str:
    """Store *new*; its id, or that of the message which its Idempotency-Key stands for.

    :raises Refused: 422 for a key that came with another message, 400 for one tag too many.
    """
    if new.idempotency_key:
        known = repeated(connection, new.account, new.idempotency_key, new.fingerprint, new.created)
        if known is not None:
            return known
        _remember(connection, new)
    _count_tag(connection, new.account, new.fields.tag, new.created)
    values = {name: getattr(new.fields, name) for name in _FIELDS}
    made = connection.execute(
        sa.insert(messages).values(
            account=new.account,
            id=new.id,
            created=new.created,
            status=CAPTURED,
            size=new.size,
            attachments=len(new.attachments),
            **values,
        )
    )
    seq = inserted(made)
    connection.execute(sa.insert(contents).values(message=seq, posted=new.posted, rendered=new.rendered))
    for position, each in enumerate(new.attachments):
        _attach(connection, seq, position, each)
    return new.id


def repeated(connection: sa.Connection, account: int, key: str, fingerprint: str, now: float) -> str | None:
    """The id of the message that *key* stands for, None where it stands for none (any more).

    :raises Refused: 422: the key came with another message.
    """
    found = connection.execute(
        sa.select(idempotency).where(idempotency.c.account == account, idempotency.c.key == key)
    ).one_or_none()
    if found is None or found.created <= now - REMEMBERED:
        return None
    if found.fingerprint != fingerprint:
        raise rules.Refused(
            422,
            "Idempotency-Key used before",
            "This Idempotency-Key came with another message within the last 24 hours",
        )
    known: str = found.id
    return known


def listed(connection: sa.Connection, account: int, wanted: Filter, limit: int) -> list[Entry] | None:
    """At most *limit* messages, newest first; None where ``before`` names no message of this account."""
    query = sa.select(*_ENTRY).where(messages.c.account == account, *_conditions(wanted))
    if wanted.before:
        seq = connection.execute(_one(messages.c.seq, account, wanted.before)).scalar()
        if seq is None:
            return None
        query = query.where(messages.c.seq < seq)
    found = connection.execute(query.order_by(messages.c.seq.desc()).limit(limit))
    return [_entry(row) for row in found]


def one(connection: sa.Connection, account: int, id: str) -> tuple[Entry, Content] | None:
    """A message with all of its content."""
    seq = connection.execute(_one(messages.c.seq, account, id)).scalar()
    if seq is None:
        return None
    row = connection.execute(sa.select(*_ENTRY).where(messages.c.seq == seq)).one()
    big = connection.execute(sa.select(contents).where(contents.c.message == seq)).one()
    files = connection.execute(
        sa.select(attachments.c.filename, attachments.c.content_type, attachments.c.size)
        .where(attachments.c.message == seq)
        .order_by(attachments.c.position)
    )
    found = tuple((each.filename, each.content_type, each.size) for each in files)
    return _entry(row), Content(big.posted, big.rendered, found)


def _one(column: sa.Column[int], account: int, id: str) -> sa.Select[int]:
    return sa.select(column).where(messages.c.account == account, messages.c.id == id)


def _conditions(wanted: Filter) -> list[sa.ColumnElement[bool]]:
    exact = {"tag": wanted.tag.lower(), "status": wanted.status, "route": wanted.route, "request_id": wanted.request_id}
    conditions = [messages.c[name] == value for name, value in exact.items() if value]
    if wanted.to:
        conditions.append(sa.func.lower(messages.c.recipient) == wanted.to.lower())
    if wanted.search:
        columns = (messages.c.recipient, messages.c.fromemail, messages.c.subject)
        conditions.append(sa.or_(*(each.icontains(wanted.search, autoescape=True) for each in columns)))
    return conditions


def _entry(row: sa.Row[Any]) -> Entry:
    id, created, status, size, attached, *fields = tuple(row)
    return Entry(id, created, status, size, attached, Fields(*fields))


def _count_tag(connection: sa.Connection, account: int, tag: str, now: float) -> None:
    """Note the use of *tag*; the contract allows an account 400 different ones."""
    if tag == rules.UNTAGGED:
        return
    mine = tags.c.account == account
    if connection.execute(sa.select(tags.c.tag).where(mine, tags.c.tag == tag)).first() is not None:
        return
    used = connection.execute(sa.select(sa.func.count()).select_from(tags).where(mine)).scalar_one()
    if used >= rules.MOST_TAGS:
        raise rules.wrong(f"tag: {tag} is new, and this account has used {rules.MOST_TAGS} different ones, the most")
    connection.execute(sa.insert(tags).values(account=account, tag=tag, created=now))


def _remember(connection: sa.Connection, new: New) -> None:
    """Let the key stand for this message, in the place of one that it stood for more than a day ago."""
    mine = (idempotency.c.account == new.account, idempotency.c.key == new.idempotency_key)
    connection.execute(sa.delete(idempotency).where(*mine))
    connection.execute(
        sa.insert(idempotency).values(
            account=new.account,
            key=new.idempotency_key,
            id=new.id,
            fingerprint=new.fingerprint,
            created=new.created,
        )
    )


def _attach(connection: sa.Connection, seq: int, position: int, given: Attachment) -> None:
    connection.execute(
        sa.insert(attachments).values(
            message=seq,
            position=position,
            filename=given.filename,
            content_type=given.content_type,
            size=len(given.content),
            content=given.content,
        )
    )
