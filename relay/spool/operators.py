"""What an operator does with the spool: look, try again, drop, sweep.

Everything works on a transaction, so that the relay (:class:`relay.spool.store.Store`) and the command line share
it.  :class:`Queue` is for the command line: no reactor and no key file, with the relay running or stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import sqlalchemy as sa
from attrs import frozen
from sqlalchemy import exc

from relay.errors import ConfigError
from relay.spool.database import SQLite, chunks, database, explain
from relay.spool.migrations import REVISIONS
from relay.spool.removal import remove_rows
from relay.spool.schema import accounts, attachments, contents, memories, messages, notices, recipients
from relay.spool.usage import count
from relay.spool.values import Counts, Row
from relay.spool.writer import Transaction

T = TypeVar("T")

#: Most rows changed in one transaction: nobody else can write meanwhile.
PART = 500

_wanted: sa.BindParameter[int] = sa.bindparam("wanted", expanding=True)

_rows = (
    sa.select(
        recipients,
        messages.c.id,
        messages.c.tag,
        messages.c.created,
        messages.c.size,
        accounts.c.digest,
        accounts.c.name.label("account_name"),
    )
    .join(messages, messages.c.seq == recipients.c.message)
    .join(accounts, accounts.c.id == recipients.c.account)
    .order_by(recipients.c.row)
)
_numbers = _rows.with_only_columns(recipients.c.row)
_in_flight = sa.and_(recipients.c.owner.is_not(None), recipients.c.ready > sa.bindparam("now"))

#: Due from the beginning of time: whatever the clock of the relay says.
_retry_due = sa.update(recipients).where(recipients.c.row.in_(_wanted)).values(ready=0.0, owner=None)
#: A failure begins anew.
_retry_failed = (
    sa.update(recipients)
    .where(recipients.c.row.in_(_wanted), recipients.c.failed.is_not(None))
    .values(failed=None, reason="", attempts=0, since=sa.bindparam("now"))
)
_forget_notices = sa.delete(notices).where(notices.c.recipient.in_(_wanted))


@frozen
class Selection:
    """Which rows: those for which all that is given holds, so all rows when nothing is.

    :ivar id: the queue id of their message.
    :ivar account: the account's name, or its digest or the first 8 digits of it at least.
    :ivar failed: failures only, or all but failures.
    """

    id: str = ""
    account: str = ""
    failed: bool | None = None

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """For a WHERE over recipients, messages and accounts."""
        found: list[sa.ColumnElement[bool]] = []
        if self.id:
            found.append(messages.c.id == self.id)
        if self.account:
            of_account = sa.or_(accounts.c.name == self.account, accounts.c.digest == self.account)
            if len(self.account) >= 8:
                of_account = sa.or_(of_account, accounts.c.digest.startswith(self.account, autoescape=True))
            found.append(of_account)
        if self.failed is not None:
            found.append(recipients.c.failed.is_not(None) if self.failed else recipients.c.failed.is_(None))
        return found


#: All rows.
EVERYTHING = Selection()


@frozen
class Listing:
    """What to list.

    :ivar after: rows with a higher number only, for the next page.
    """

    selection: Selection = EVERYTHING
    limit: int = 1000
    after: int = 0


@frozen
class Shown:
    """A message as an operator sees it: not its key, its body or its variables.

    :ivar fields: the other fields that its recipients share.
    :ivar attachments: file name, content type and size in bytes of each.
    """

    id: str
    account: str
    account_name: str
    created: float
    size: int
    fields: Mapping[str, Any]
    attachments: tuple[tuple[str, str, int], ...]
    rows: tuple[Row, ...]


def listing(transaction: Transaction, asked: Sequence[Listing]) -> list[list[Row]]:
    """The rows of each, by number."""
    return [_listing(transaction, each) for each in asked]


def _listing(transaction: Transaction, asked: Listing) -> list[Row]:
    statement = _rows.where(recipients.c.row > asked.after, *asked.selection.conditions()).limit(asked.limit)
    return [_row(each, transaction.now) for each in transaction.connection.execute(statement)]


def _row(row: Any, now: float) -> Row:
    if row.failed is not None:
        state = "failed"
    elif row.ready <= now:
        state = "due"
    else:
        state = "in flight" if row.owner is not None else "waiting"
    return Row(
        row=row.row,
        id=row.id,
        account=row.digest,
        account_name=row.account_name,
        recipient=row.recipient,
        tag=row.tag,
        state=state,
        created=row.created,
        attempts=row.attempts,
        # One that the operator hurried has no time.
        next_attempt=None if row.failed is not None else row.ready or now,
        last_answer=row.last_answer,
        reason=row.reason,
        size=row.size,
    )


def show(transaction: Transaction, ids: Sequence[str]) -> list[list[Shown]]:
    """The messages with each of *ids*; more than one only if a client's words made the id."""
    return [_show(transaction, each) for each in ids]


def _show(transaction: Transaction, id: str) -> list[Shown]:
    connection = transaction.connection
    found: dict[int, list[Any]] = {}
    for row in connection.execute(_rows.where(messages.c.id == id)):
        found.setdefault(row.message, []).append(row)
    return [_message(connection, seq, rows, transaction.now) for seq, rows in found.items()]


def _message(connection: sa.Connection, seq: int, rows: Sequence[Any], now: float) -> Shown:
    kept = connection.execute(sa.select(contents.c.fields).where(contents.c.message == seq)).scalar_one()
    fields = json.loads(bytes(kept))
    columns = attachments.c
    files = connection.execute(
        sa.select(columns.filename, columns.content_type, sa.func.length(columns.content))
        .where(columns.message == seq)
        .order_by(columns.position)
    )
    return Shown(
        id=rows[0].id,
        account=rows[0].digest,
        account_name=rows[0].account_name,
        created=rows[0].created,
        size=rows[0].size,
        fields={name: value for name, value in fields.items() if name not in ("body", "variables")},
        attachments=tuple((bytes(name).decode("utf-8", "replace"), kind, size) for name, kind, size in files),
        rows=tuple(_row(row, now) for row in rows),
    )


def pick(transaction: Transaction, asked: Listing) -> list[int]:
    """The numbers of the selected rows that nobody is posting now; those that follow ``after``."""
    statement = _numbers.where(recipients.c.row > asked.after, *asked.selection.conditions()).where(~_in_flight)
    parameters = {"now": transaction.now}
    return list(
        transaction.connection.execute(
            statement.limit(asked.limit).with_for_update(of=recipients), parameters
        ).scalars()
    )


def retry(transaction: Transaction, asked: Listing) -> list[int]:
    """Make rows due now, failures too, for which everything begins anew; their numbers."""
    rows = pick(transaction, asked)
    for part in chunks(rows):
        parameters = {"wanted": part, "now": transaction.now}
        transaction.connection.execute(_forget_notices, parameters)
        transaction.connection.execute(_retry_due, parameters)
        transaction.connection.execute(_retry_failed, parameters)
    return rows


def drop(transaction: Transaction, asked: Listing) -> list[int]:
    """Remove rows, unsent; their numbers."""
    rows = pick(transaction, asked)
    transaction.shrink(*remove_rows(transaction.connection, rows))
    return rows


def purge(transaction: Transaction, keep_failures: float) -> int:
    """Remove a part of what has been kept long enough; how many failures, :data:`PART` when there may be more.

    :param keep_failures: in seconds.
    """
    connection, now = transaction.connection, transaction.now
    old = sa.select(recipients.c.row).where(recipients.c.failed < now - keep_failures).limit(PART)
    rows = list(connection.execute(old).scalars())
    transaction.shrink(*remove_rows(connection, rows))
    connection.execute(sa.delete(notices).where(notices.c.created < now - keep_failures))
    connection.execute(sa.delete(memories).where(memories.c.expires <= now))
    unused = ~sa.exists().where(recipients.c.account == accounts.c.id)
    connection.execute(sa.delete(accounts).where(unused))
    return len(rows)


class Queue:
    """The spool for the command line; open it with :func:`open_queue`."""

    def __init__(self, place: Any, connection: sa.Connection, now: Callable[[], float]) -> None:
        self._database = place
        self._connection = connection
        self._now = now

    def listing(self, selection: Selection = EVERYTHING, limit: int = 1000, after: int = 0) -> list[Row]:
        """At most *limit* rows, by number, from the one that follows *after*."""
        return self._run(lambda each: _listing(each, Listing(selection, limit, after)))

    def show(self, id: str) -> list[Shown]:
        """The messages with the queue id *id*."""
        return self._run(lambda each: _show(each, id))

    def counts(self) -> Counts:
        """How full it is."""
        return self._run(count)

    def retry(self, selection: Selection) -> int:
        """Make the selected rows due now; how many.  One that is being posted is left alone."""
        return self._all(retry, selection)

    def drop(self, selection: Selection) -> int:
        """Remove the selected rows, unsent; how many.  One that is being posted is left alone."""
        return self._all(drop, selection)

    def _all(self, change: Callable[[Transaction, Listing], list[int]], selection: Selection) -> int:
        changed = after = 0
        while rows := self._part(change, Listing(selection, PART, after)):
            changed += len(rows)
            after = rows[-1]
        return changed

    def _part(self, change: Callable[[Transaction, Listing], list[int]], asked: Listing) -> list[int]:
        return self._run(lambda each: change(each, asked), writes=True)

    def _run(self, operation: Callable[[Transaction], T], writes: bool = False) -> T:
        # Reading must not keep the relay from writing.
        connection = self._connection.execution_options(writes=writes)
        try:
            with connection.begin():
                now = self._database.now(connection)
                return operation(Transaction(connection, self._database, self._now() if now is None else now))
        except exc.DBAPIError as error:
            raise _unusable(self._database.place, error) from None


@contextmanager
def open_queue(url: str, *, now: Callable[[], float] = time.time) -> Iterator[Queue]:
    """The spool at *url*, with the relay running or stopped.

    :raises ConfigError: there is none, or it cannot be used.
    """
    place = database(url)
    if isinstance(place, SQLite) and not place.path.exists():
        raise ConfigError([f"spool: there is none at {place.place}; is --data the relay's?"])
    try:
        connection = place.connect().execution_options(writes=False)
    except exc.SQLAlchemyError as error:
        raise _unusable(place.place, error) from None
    try:
        with connection.begin():
            _check(connection, place.place)
        yield Queue(place, connection, now)
    except exc.DBAPIError as error:
        raise _unusable(place.place, error) from None
    finally:
        connection.invalidate()
        connection.close()


def _check(connection: sa.Connection, place: str) -> None:
    found = REVISIONS.current(connection)
    if found is None:
        raise ConfigError([f"spool: {place} is empty; start the relay first"])
    if found == REVISIONS.head:
        return
    if REVISIONS.knows(found):
        raise ConfigError([f"spool: {place} is of an older version; start this version of the relay first"])
    raise ConfigError([REVISIONS.newer(found)])


def _unusable(place: str, error: BaseException) -> ConfigError:
    return ConfigError([f"spool: cannot use {place}: {explain(error)}"])
