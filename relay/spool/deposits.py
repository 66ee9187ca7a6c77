"""What comes into the spool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from attrs import field, frozen
from sqlalchemy import exc

from relay.errors import ConfigError, Reason, TemporaryFailure
from relay.spool.crypto import Cipher
from relay.spool.database import insert
from relay.spool.failures import notice_body
from relay.spool.schema import accounts, attachments, contents, messages, meta, notices, recipients
from relay.spool.usage import Usage
from relay.spool.values import Entry, Spooled
from relay.spool.writer import Transaction
from relay.values import Attachment
from relay.wire import TEXT_FIELDS, dump

#: What a message's recipients share.
SHARED_FIELDS = tuple(name for name in TEXT_FIELDS if name not in ("to", "toname"))

#: What a recipient's row costs beside the content, for ``max_bytes``.
ROW_SIZE = 512

#: Holds what :data:`CHECK` says, encrypted: tells whether a key file belongs to the database.
CHECK_NAME = "key-check"
CHECK = "smtp-relay spool"

_check = sa.select(meta.c.value).where(meta.c.name == CHECK_NAME)
_account = sa.select(accounts.c.id, accounts.c.name).where(accounts.c.digest == sa.bindparam("wanted"))
_rename = sa.update(accounts).where(accounts.c.id == sa.bindparam("wanted")).values(name=sa.bindparam("named"))


@frozen
class Deposit:
    """A message made ready for the tables, outside the writer's thread.

    :ivar size: what it counts for, in bytes.
    """

    message: Spooled
    api_key: str = field(repr=False)
    request_id: str
    tag: str
    fields: bytes = field(repr=False)
    attachments: Sequence[Attachment] = field(repr=False)
    size: int


def deposit(message: Spooled) -> Deposit:
    """*message*, encoded.

    :raises ValueError: its variables hold what JSON has no form for.
    """
    shared = message.entries[0].submission
    values: dict[str, object] = {name: getattr(shared, name) for name in SHARED_FIELDS}
    values["variables"] = shared.variables
    fields = dump(values)
    size = len(fields) + sum(len(each.content) for each in shared.attachments) + ROW_SIZE * len(message.entries)
    return Deposit(message, shared.api_key, text(shared.request_id), text(shared.tag), fields, shared.attachments, size)


class Deposits:
    """Puts messages into the tables.

    :param owner: who holds the rows that are in flight from the start.
    :param tells: whether a failure makes a notice for ``failures.webhook``.
    """

    def __init__(self, cipher: Cipher, usage: Usage, owner: str, tells: bool) -> None:
        self._cipher = cipher
        self._usage = usage
        self._owner = owner
        self._tells = tells
        self._accounts: dict[str, tuple[int, str]] = {}
        self._changes: int | None = None

    def forget(self) -> None:
        """Accounts may have been removed."""
        self._accounts.clear()

    def put(self, transaction: Transaction, deposits: Sequence[Deposit]) -> Sequence[tuple[int, ...] | Exception]:
        """Insert all that fit; the numbers of each one's rows."""
        room = self._usage.room(transaction)
        fitting = [each for each in deposits if room.take(len(each.message.entries), each.size)]
        if not fitting:
            return [TemporaryFailure(Reason.SPOOL_FULL) for _ in deposits]
        try:
            rows = iter(self._insert(transaction, fitting))
        except exc.IntegrityError:
            # Another relay has removed an account that was used no more, or made the same; the rerun looks.
            self.forget()
            raise
        taken = {id(each) for each in fitting}
        return [next(rows) if id(each) in taken else TemporaryFailure(Reason.SPOOL_FULL) for each in deposits]

    def _insert(self, transaction: Transaction, deposits: Sequence[Deposit]) -> list[tuple[int, ...]]:
        ids = self._account_ids(transaction, deposits)
        total = sum(len(each.message.entries) for each in deposits)
        failed = sum(entry.failed for each in deposits for entry in each.message.entries) if self._tells else 0
        numbers = transaction.database.numbers(transaction.connection, len(deposits) + total + failed)
        rows = _Rows(transaction.now, self._owner, self._tells, iter(numbers))
        answers = [rows.add(each, ids[each.message.account]) for each in deposits]
        transaction.puts.extend(row[0] for row in rows.messages)
        for table, values in (
            (messages, rows.messages),
            (contents, rows.contents),
            (attachments, rows.attachments),
            (recipients, rows.recipients),
            (notices, rows.notices),
        ):
            insert(transaction.connection, table, values)
        size = sum(each.size for each in deposits)
        transaction.grow(total, size)
        return answers

    def _account_ids(self, transaction: Transaction, deposits: Sequence[Deposit]) -> dict[str, int]:
        """The number of each account in *deposits*, by its digest; those of one transaction are locked in order."""
        changes = transaction.database.changes(transaction.connection)
        if changes != self._changes:
            # Another process may have removed an account, and its number may be another's now.
            self._changes = changes
            self.forget()
        wanted = {each.message.account: each for each in deposits}
        ids: dict[str, int] = {}
        for digest in sorted(wanted):
            name = text(wanted[digest].message.account_name)
            known = self._accounts.get(digest)
            if known is None or known[1] != name:
                known = self._keep_account(transaction, digest, name, wanted[digest].api_key), name
            ids[digest] = known[0]
        return ids

    def _keep_account(self, transaction: Transaction, digest: str, name: str, api_key: str) -> int:
        """The number of an account that is not known to have this name, made where it is new."""
        connection = transaction.connection
        found = connection.execute(_account, {"wanted": digest}).one_or_none()
        if found is None:
            check_cipher(connection, self._cipher)
            row = {"digest": digest, "name": name, "key": self._cipher.encrypt(api_key, digest)}
            number = inserted(connection.execute(sa.insert(accounts).values(row)))
        else:
            number = int(found.id)
            if found.name != name:
                connection.execute(_rename, {"wanted": number, "named": name})
        # Only what is committed may be relied upon.
        transaction.committed.append(lambda: self._accounts.update({digest: (number, name)}))
        return number


class _Rows:
    """The rows of several messages, table by table, with the values in the order of the columns."""

    def __init__(self, now: float, owner: str, tells: bool, numbers: Any) -> None:
        self._now = now
        self._owner = owner
        self._tells = tells
        self._numbers = numbers
        self.messages: list[tuple[Any, ...]] = []
        self.contents: list[tuple[Any, ...]] = []
        self.attachments: list[tuple[Any, ...]] = []
        self.recipients: list[tuple[Any, ...]] = []
        self.notices: list[tuple[Any, ...]] = []

    def add(self, deposit: Deposit, account: int) -> tuple[int, ...]:
        """Note the rows of *deposit*; the numbers of its recipients."""
        seq = next(self._numbers)
        message = deposit.message
        self.messages.append((seq, text(message.id), deposit.request_id, deposit.tag, self._now, deposit.size))
        self.contents.append((seq, deposit.fields))
        for position, each in enumerate(deposit.attachments):
            self.attachments.append((seq, position, octets(each.filename), text(each.content_type), each.content))
        return tuple(self._recipient(seq, account, deposit, entry) for entry in message.entries)

    def _recipient(self, seq: int, account: int, deposit: Deposit, entry: Entry) -> int:
        row: int = next(self._numbers)
        now = self._now
        submission = entry.submission
        ready = None if entry.failed else now + (entry.in_flight or max(0.0, entry.delay))
        self.recipients.append(
            (
                row,
                seq,
                account,
                submission.to,
                octets(submission.toname),
                submission.idempotency_key,
                now,
                entry.attempts,
                ready,
                self._owner if entry.in_flight and not entry.failed else None,
                text(entry.last_answer),
                now if entry.failed else None,
                entry.reason,
                text(entry.platform),
            )
        )
        if entry.failed and self._tells:
            body = notice_body(
                submission,
                deposit.message.account_name,
                reason=entry.reason,
                answer=entry.last_answer,
                attempts=entry.attempts,
                accepted_at=now,
                failed_at=now,
            )
            self.notices.append((next(self._numbers), row, body, now, 0, now, None))
        return row


def key_check(connection: sa.Connection) -> bytes | None:
    """What tells the right key file, None in a new database."""
    return connection.execute(_check).scalar_one_or_none()


def check_cipher(connection: sa.Connection, cipher: Cipher) -> None:
    """Raise ConfigError unless the database's keys are encrypted with the key of *cipher*.

    Another relay may have made another key file while the spool was empty.
    """
    found = key_check(connection)
    if found is None or not cipher.reads(found, CHECK_NAME, CHECK):
        raise ConfigError(["spool.key_file: another relay uses this spool with another key file"])


def inserted(result: sa.CursorResult[Any]) -> int:
    """The key that the database gave the one row just inserted."""
    key = result.inserted_primary_key
    if key is None:
        raise ValueError("not an insert of one row")
    return int(key[0])


def text(value: str) -> str:
    """*value* as a database can keep it: for people; what goes to the platform is kept exactly."""
    return value.encode("utf-8", "replace").decode().replace("\0", "")


def octets(value: str) -> bytes:
    """*value*, exactly."""
    return value.encode("utf-8", "surrogatepass")
