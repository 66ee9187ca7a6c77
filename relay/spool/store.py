"""The spool: what the platform could not take yet, durable.

Every operation is a coroutine; it runs in the one writer thread (:mod:`relay.spool.writer`) and comes back when it
is committed.  All raise :class:`~relay.errors.TemporaryFailure` with ``SPOOL_FAILED`` when the disk or the database
fails, and ``SPOOL_FULL`` when the disk is full; nothing of them has happened then, and all may be repeated.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from attrs import define, field
from sqlalchemy import exc
from twisted.internet.interfaces import IReactorFromThreads

from relay.errors import ConfigError
from relay.policy import Ledger, Spool
from relay.spool import operators
from relay.spool.clock import SteadyClock
from relay.spool.crypto import Cipher
from relay.spool.database import Database, database, explain
from relay.spool.deposits import Deposits, deposit
from relay.spool.leases import Leases, Request
from relay.spool.memories import Memories
from relay.spool.notices import Notices
from relay.spool.opening import free_rows, join, prepare
from relay.spool.operators import EVERYTHING, PART, Listing, Selection, Shown
from relay.spool.usage import Census, Usage
from relay.spool.values import Counts, Leased, Notice, Remembered, Row, Seat, Settlement, Spooled
from relay.spool.writer import Thread, Transaction, Work, Writer, WriterThread


@define(eq=False)
class Store:
    """Open it with :meth:`open`.

    :ivar owner: this process, as the leases call it.
    """

    owner: str
    _database: Database = field(repr=False)
    _writer: Writer = field(repr=False)
    _clock: SteadyClock = field(repr=False)
    _deposits: Deposits = field(repr=False)
    _leases: Leases = field(repr=False)
    _notices: Notices = field(repr=False)
    _memories: Memories = field(repr=False)
    _census: Census = field(repr=False)
    _policy: Spool = field(repr=False)
    _monotonic: Callable[[], float] = field(repr=False)
    _asked: float = field(default=0.0, repr=False)

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        key_file: Path,
        policy: Spool,
        reactor: IReactorFromThreads,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        thread: Thread | None = None,
        keep: float = Ledger().keep,
        notices: bool = False,
        seat: Seat | None = None,
    ) -> Store:
        """Open the spool at *url*, making what is missing.  It starts a thread: call it after a fork.

        :param url: ``sqlite:////path/to/spool.sqlite3`` or ``postgresql://…``.
        :param key_file: what API keys are encrypted with; made where it is missing and nothing is kept yet.
        :param now: the wall clock, for SQLite; with PostgreSQL the server's counts.
        :param thread: where the database is used; default: a thread of our own.
        :param keep: how long the ledger remembers, in seconds.
        :param notices: whether a failure makes a notice for ``failures.webhook``.
        :param seat: which of several processes this one is, on a spool that their parent has opened and closed;
            its clock counts then, not *now*.
        :raises ConfigError: it cannot be opened: in use, of a newer version, out of reach, another key file.
        """
        place = database(url, seat.number if seat else None)
        place.lock()
        owner = seat.owner if seat else uuid.uuid4().hex
        cipher = Cipher(key_file)
        clock = SteadyClock(now if seat is None else partial(_of_all, seat, monotonic), monotonic)
        usage = Usage(policy, monotonic)
        deposits = Deposits(cipher, usage, owner, notices)
        memories = Memories(keep)
        fresh = [True]

        def opened(transaction: Transaction) -> None:
            usage.forget()
            deposits.forget()
            if fresh:
                if seat is None:
                    prepare(transaction, cipher=cipher, clock=clock, policy=policy, keep=keep)
                else:
                    join(transaction, cipher=cipher, clock=clock, free=seat.free)
                transaction.committed.append(fresh.clear)
            memories.look(transaction)
            usage.refresh(transaction)

        def time_now() -> float:
            # Nothing is kept that a jump could hit: a clock that was wrong at the start may get right.
            if not (place.shared or memories.any or usage.rows):
                clock.follow()
            return clock.now()

        writer = Writer(place, thread or WriterThread(reactor), time_now, opened, usage.committed, monotonic)
        store = cls(
            owner,
            place,
            writer,
            clock,
            deposits,
            Leases(cipher, owner, policy.lease, notices),
            Notices(owner, policy.lease),
            memories,
            Census(monotonic),
            policy,
            monotonic,
        )
        try:
            await writer.open()
        except Exception as error:
            await store.close()
            if isinstance(error, exc.SQLAlchemyError | OSError):
                raise ConfigError([f"spool: cannot open {place.place}: {explain(error)}"]) from None
            raise
        return store

    async def close(self) -> None:
        """Finish what was asked for, then let go of the database."""
        await self._writer.close()
        self._database.unlock()

    def now(self) -> float:
        """The time by the store's clock: what ``created`` is to be compared with."""
        return self._clock.now()

    # --- rows

    async def put(self, message: Spooled) -> tuple[int, ...]:
        """Keep *message*; durable when it returns.

        :return: the numbers of the rows, in the order of the entries.
        :raises TemporaryFailure: SPOOL_FULL past a limit or when the disk is full.
        """
        return await self._writer.submit(self._deposits.put, deposit(message))

    async def take(self, limit: int, *, exclude_accounts: Iterable[str] = ()) -> list[Leased]:
        """At most *limit* due rows, under a lease of this process; fewer when their contents are big.

        Round robin over the accounts with due rows; within one, those that are due longest first.

        :param exclude_accounts: digests of accounts whose rows are left.
        """
        return await self._writer.submit(self._leases.take, Request(limit, frozenset(exclude_accounts)))

    async def renew(self, rows: Iterable[int]) -> None:
        """Hold *rows* for another lease, as far as they are still ours."""
        await self._writer.submit(self._leases.renew, tuple(rows))

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Note what became of leased rows."""
        await self._writer.submit(self._leases.settle, tuple(settlements))

    async def free(self, owner: str) -> None:
        """Make the rows due that the process *owner*, which is gone, had under way."""
        await self._writer.submit(_free, owner)

    async def next_due(self) -> float | None:
        """Seconds until the earliest row is due or a lease ends; None without rows that wait."""
        return await self._writer.submit(self._leases.next_due, None)

    async def counts(self) -> Counts:
        """How full it is; for a big spool some seconds old, because counting keeps the writer busy."""
        return await self._writer.submit(self._census.count, None)

    # --- operators

    async def listing(self, selection: Selection = EVERYTHING, limit: int = 1000, after: int = 0) -> list[Row]:
        """At most *limit* rows, by number, from the one that follows *after*."""
        return await self._writer.submit(operators.listing, Listing(selection, limit, after))

    async def show(self, id: str) -> list[Shown]:
        """The messages with the queue id *id*."""
        return await self._writer.submit(operators.show, id)

    async def retry(self, selection: Selection) -> int:
        """Make the selected rows due now, failures too; how many.  One that is being posted is left alone."""
        return await self._all(_retry, selection)

    async def drop(self, selection: Selection) -> int:
        """Remove the selected rows, unsent; how many.  One that is being posted is left alone."""
        return await self._all(_drop, selection)

    async def purge(self) -> int:
        """Remove what has been kept long enough: failures, memories, keys that nothing needs; how many failures."""
        removed = part = await self._writer.submit(self._purge, None)
        while part >= PART:
            part = await self._writer.submit(self._purge, None)
            removed += part
        return removed

    async def _all(self, work: Work[Listing, list[int]], selection: Selection) -> int:
        changed = after = 0
        while rows := await self._writer.submit(work, Listing(selection, PART, after)):
            changed += len(rows)
            after = rows[-1]
        return changed

    def _purge(self, transaction: Transaction, asked: Sequence[None]) -> list[int]:
        # Its accounts may be gone, and their numbers used again.
        transaction.committed.append(self._deposits.forget)
        removed = operators.purge(transaction, self._policy.keep_failures)
        self._memories.look(transaction)
        return [removed] * len(asked)

    # --- the ledger

    async def remember(self, entry: Remembered) -> None:
        """Keep *entry* for as long as the ledger does; one with the same fingerprint is replaced."""
        await self._writer.submit(self._memories.remember, entry)

    async def claim(self, entry: Remembered) -> Remembered:
        """Keep *entry*, unless there is one with its fingerprint; what is there then, the same for all."""
        return await self._writer.submit(self._memories.claim, entry)

    async def recall(self, fingerprint: bytes) -> Remembered | None:
        """The entry, None when there is none or it is too old."""
        return await self._writer.submit(self._memories.recall, fingerprint)

    async def forget(self, fingerprint: bytes) -> None:
        """Drop the entry, if there is one."""
        await self._writer.submit(self._memories.forget, fingerprint)

    async def has_memories(self) -> bool:
        """Whether :meth:`recall` may find anything: asked for each message, so without the disk.

        What another process remembers is seen within a second, or after :meth:`expect_memories`.
        """
        if self._database.shared and not self._memories.any and self._monotonic() >= self._asked + 1.0:
            self._asked = self._monotonic()
            return await self._writer.submit(self._memories.look, None)
        return self._memories.any

    def expect_memories(self) -> None:
        """Another process has remembered something."""
        self._memories.any = True

    # --- notices

    async def take_notices(self, limit: int) -> list[Notice]:
        """At most *limit* due notices, under a lease of this process."""
        return await self._writer.submit(self._notices.take, limit)

    async def settle_notices(self, settlements: Sequence[Settlement]) -> None:
        """Note what became of leased notices: one that is not to be tried again is gone."""
        await self._writer.submit(self._notices.settle, tuple(settlements))

    async def next_notice(self) -> float | None:
        """Seconds until the earliest notice is due; None without one."""
        return await self._writer.submit(self._notices.next_due, None)


def _free(transaction: Transaction, owners: Sequence[str]) -> list[None]:
    for owner in owners:
        free_rows(transaction.connection, transaction.now, owner)
    return [None] * len(owners)


def _of_all(seat: Seat, monotonic: Callable[[], float]) -> float:
    return seat.epoch + monotonic()


def _retry(transaction: Transaction, asked: Sequence[Listing]) -> list[list[int]]:
    return [operators.retry(transaction, each) for each in asked]


def _drop(transaction: Transaction, asked: Sequence[Listing]) -> list[list[int]]:
    return [operators.drop(transaction, each) for each in asked]
