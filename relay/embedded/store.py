"""The messages: what is kept of each submission and of what became of it.

Whoever reads them gives the account; :mod:`relay.embedded.listing` finds them.  Statuses are changed here alone,
because what the dashboard counts changes with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import sqlalchemy as sa
from attrs import field, frozen

from relay.embedded import rules, tallies, words
from relay.embedded.schema import attachments, contents, events, idempotency, inserted, messages, tags
from relay.values import Attachment

#: How long an Idempotency-Key stands for the message it came with first, in seconds.
REMEMBERED = 86_400.0


class Status:
    """What became of a message so far; the values of ``messages.status``."""

    #: Stored, on a route that sends nothing.
    CAPTURED = "captured"
    #: Its route has yet to take it.
    QUEUED = "queued"
    #: Its route was tried, and will be tried again.
    DEFERRED = "deferred"
    #: Its route took it.
    DELIVERED = "delivered"
    #: Its route refused it, or was tried for too long.
    FAILED = "failed"
    #: It was never accepted: the client got an error.
    REFUSED = "refused"


STATUSES = (
    Status.CAPTURED,
    Status.QUEUED,
    Status.DEFERRED,
    Status.DELIVERED,
    Status.FAILED,
    Status.REFUSED,
)


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
    :ivar status: one of :class:`Status`.
    :ivar answer: why it was refused, as the client was told.
    :ivar resent: the id of the message that this one repeats.
    :ivar undefined: the variables that it uses and that did not come with it.
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
    status: str = Status.CAPTURED
    answer: str = ""
    resent: str = ""
    undefined: tuple[str, ...] = ()


@frozen
class Added:
    """A message in the store.

    :ivar id: its public id, or that of the message which its Idempotency-Key stands for.
    :ivar seq: its key in the tables; None where its Idempotency-Key stands for an earlier one: nothing was added.
    """

    id: str
    seq: int | None


@frozen
class Entry:
    """A row of the log.

    :ivar seq: its key in the tables; newer ones have a larger one.
    :ivar updated: when its status or its answer changed last.
    :ivar attempts: how often its route was tried.
    :ivar answer: the route's last answer; of a refused message the reply that the client got.
    :ivar resent: the id of the message that this one repeats.
    """

    seq: int
    id: str
    created: float
    status: str
    size: int
    attachments: int
    updated: float
    attempts: int
    answer: str
    resent: str
    fields: Fields


@frozen
class Content:
    """What is big of a message; *attachments* are (filename, content type, bytes)."""

    posted: bytes = field(repr=False)
    rendered: str | None = field(repr=False)
    attachments: tuple[tuple[str, str, int], ...]


@frozen
class Event:
    """A step of a message's timeline.

    :ivar kind: ``"accepted"``, ``"undefined"``, ``"attempt"``, ``"resent"``, or the :class:`Status` that it came to.
    :ivar answer: the exact words of who answered.
    :ivar detail: who that was, or why it happened; the names of the variables that are undefined.
    """

    at: float
    kind: str
    answer: str = ""
    detail: str = ""


_FIELDS = tuple(each.name for each in attrs.fields(Fields))
_OWN = tuple(each.name for each in attrs.fields(Entry) if each.name != "fields")

#: What :func:`entry` makes an entry of.
ENTRY = [messages.c[name] for name in (*_OWN, *_FIELDS)]


def add(connection: sa.Connection, new: New) -> Added:
    """Store *new*, unless its Idempotency-Key stands for an earlier message.

    :raises Refused: 422 for a key that came with another message, 400 for one tag too many.
    """
    if new.idempotency_key:
        known = repeated(connection, new.account, new.idempotency_key, new.fingerprint, new.created)
        if known is not None:
            return Added(known, None)
        remember(connection, new.account, new.idempotency_key, new.id, new.fingerprint, new.created)
    if new.status != Status.REFUSED:
        _count_tag(connection, new.account, new.fields.tag, new.created)
    seq = _insert(connection, new)
    tallies.count(connection, new.account, new.created, new.fields.tag, new.status)
    connection.execute(_ADD_CONTENT, {"message": seq, "posted": new.posted, "rendered": new.rendered})
    for position, each in enumerate(new.attachments):
        _attach(connection, seq, position, each)
    if new.undefined:
        note(connection, seq, new.created, "undefined", detail=", ".join(new.undefined))
    return Added(new.id, seq)


def change_status(
    connection: sa.Connection, seq: int, status: str, *, at: float, answer: str = "", attempts: int | None = None
) -> None:
    """Let a message have *status* from *at* on; the timeline is told of it with :func:`note`.

    :param answer: what it came to it by.
    :param attempts: how often its route was tried; None leaves that.
    """
    mine = messages.c.seq == seq
    query = sa.select(messages.c.account, messages.c.created, messages.c.tag, messages.c.status)
    found = connection.execute(query.where(mine).with_for_update()).one_or_none()
    if found is None:
        return
    changed: dict[str, Any] = {"status": status, "updated": at, "answer": answer}
    if attempts is not None:
        changed["attempts"] = attempts
    connection.execute(sa.update(messages).where(mine).values(changed))
    tallies.move(connection, found.account, found.created, found.tag, found.status, status)


def note(connection: sa.Connection, seq: int, at: float, kind: str, answer: str = "", detail: str = "") -> None:
    """Add a step to a message's timeline."""
    connection.execute(_ADD_EVENT, {"message": seq, "at": at, "kind": kind, "answer": answer, "detail": detail})


def timeline(connection: sa.Connection, entry: Entry) -> list[Event]:
    """All that happened to a message, from its acceptance on, which has no row of its own."""
    began = Event(entry.created, Status.REFUSED if entry.status == Status.REFUSED else "accepted", detail=entry.resent)
    if entry.status == Status.REFUSED:
        return [attrs.evolve(began, answer=entry.answer)]
    query = sa.select(events.c.at, events.c.kind, events.c.answer, events.c.detail)
    found = connection.execute(query.where(events.c.message == entry.seq).order_by(events.c.seq))
    return [began, *(Event(*row) for row in found)]


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


def one(connection: sa.Connection, account: int, id: str) -> tuple[Entry, Content | None] | None:
    """A message with all of its content, which is None when it is no longer kept."""
    row = connection.execute(sa.select(*ENTRY).where(messages.c.account == account, messages.c.id == id)).one_or_none()
    if row is None:
        return None
    found = entry(row)
    big = connection.execute(sa.select(contents).where(contents.c.message == found.seq)).one_or_none()
    if big is None:
        return found, None
    files = connection.execute(
        sa.select(attachments.c.filename, attachments.c.content_type, attachments.c.size)
        .where(attachments.c.message == found.seq)
        .order_by(attachments.c.position)
    )
    listed = tuple((each.filename, each.content_type, each.size) for each in files)
    return found, Content(big.posted, big.rendered, listed)


def files(connection: sa.Connection, seq: int) -> tuple[Attachment, ...]:
    """The attachments of a message, with what is in them."""
    columns = (attachments.c.filename, attachments.c.content_type, attachments.c.content)
    query = sa.select(*columns).where(attachments.c.message == seq).order_by(attachments.c.position)
    return tuple(Attachment(*row) for row in connection.execute(query))


def entry(row: sa.Row[Any]) -> Entry:
    """A row of the columns :data:`ENTRY`."""
    own: dict[str, Any] = dict(zip(_OWN, row, strict=False))
    return Entry(**own, fields=Fields(*row[len(_OWN) :]))


# Statements of their own, made once, and rows as parameters: an insert with its values in it takes SQLAlchemy three
# times as long, and these run with every message.
_ADD_MESSAGE = sa.insert(messages)
_ADD_CONTENT = sa.insert(contents)
_ADD_ATTACHMENT = sa.insert(attachments)
_ADD_EVENT = sa.insert(events)
_KNOWN_TAG = sa.select(tags.c.tag).where(tags.c.account == sa.bindparam("of"), tags.c.tag == sa.bindparam("named"))


def _insert(connection: sa.Connection, new: New) -> int:
    fields = {name: getattr(new.fields, name) for name in _FIELDS}
    to, sender = (fields["recipient"], fields["toname"]), (fields["fromemail"], fields["fromname"])
    row = {
        "account": new.account,
        "id": new.id,
        "created": new.created,
        "updated": new.created,
        "status": new.status,
        "answer": new.answer,
        "resent": new.resent,
        "size": new.size,
        "attachments": len(new.attachments),
        "words": words.of(new.account, to, sender, fields["subject"]),
        **fields,
    }
    return inserted(connection.execute(_ADD_MESSAGE, row))


def _count_tag(connection: sa.Connection, account: int, tag: str, now: float) -> None:
    """Note the use of *tag*; the contract allows an account 400 different ones."""
    if tag == rules.UNTAGGED:
        return
    if connection.execute(_KNOWN_TAG, {"of": account, "named": tag}).first() is not None:
        return
    mine = tags.c.account == account
    used = connection.execute(sa.select(sa.func.count()).select_from(tags).where(mine)).scalar_one()
    if used >= rules.MOST_TAGS:
        raise rules.wrong(f"tag: {tag} is new, and this account has used {rules.MOST_TAGS} different ones, the most")
    connection.execute(sa.insert(tags).values(account=account, tag=tag, created=now))


def remember(connection: sa.Connection, account: int, key: str, id: str, fingerprint: str, now: float) -> None:
    """Let *key* stand for what has this id, in the place of one that it stood for more than a day ago."""
    mine = (idempotency.c.account == account, idempotency.c.key == key)
    connection.execute(sa.delete(idempotency).where(*mine))
    values = {"account": account, "key": key, "id": id, "fingerprint": fingerprint, "created": now}
    connection.execute(sa.insert(idempotency).values(values))


def _attach(connection: sa.Connection, seq: int, position: int, given: Attachment) -> None:
    row = {
        "message": seq,
        "position": position,
        "filename": given.filename,
        "content_type": given.content_type,
        "size": len(given.content),
        "content": given.content,
    }
    connection.execute(_ADD_ATTACHMENT, row)
