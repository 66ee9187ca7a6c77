"""A spool in memory, for tests; it has the contract of :class:`relay.spool.store.Store`, and nothing outlives it.

``tests/contract/test_store_contract.py`` runs against both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from itertools import count

from twisted.internet.interfaces import IReactorTime

from relay.errors import Failure, Reason, TemporaryFailure
from relay.policy import Ledger, Spool
from relay.spool.deposits import deposit, text
from relay.spool.memory_rows import EPOCH, Held, HeldNotice, Shared, selects
from relay.spool.operators import EVERYTHING, Selection, Shown
from relay.spool.values import Counts, Delivered, Failed, Leased, Notice, Remembered, Retry, Row, Settlement, Spooled


class MemoryStore:
    """A spool in memory, with the contract of the real one; nothing outlives it.

    :param clock: its steady clock; the spool begins at :data:`EPOCH`.
    :param notices: whether a failure makes a notice for ``failures.webhook``.
    :param keep: seconds for which a message is remembered (``ledger.keep``).
    :ivar down: the failure that everything raises, or None.
    """

    def __init__(
        self,
        clock: IReactorTime,
        policy: Spool | None = None,
        *,
        notices: bool = False,
        keep: float = Ledger().keep,
    ) -> None:
        self.down: Failure | None = None
        self._clock = clock
        self._policy = policy or Spool()
        self._tells = notices
        self._keep = keep
        self._numbers = count(1)
        self._rows: dict[int, Held] = {}
        self._notices: dict[int, HeldNotice] = {}
        self._memories: dict[bytes, tuple[float, Remembered]] = {}
        self._names: dict[str, str] = {}  # of accounts, by digest
        self._served = ""

    def now(self) -> float:
        """The time by the store's clock: what ``created`` is to be compared with."""
        return EPOCH + self._clock.seconds()

    async def close(self) -> None:
        """Refuse everything from now on."""
        self.down = TemporaryFailure(Reason.SPOOL_FAILED)

    # --- rows

    async def put(self, message: Spooled) -> tuple[int, ...]:
        """Keep a message; the rows of its entries, in order.

        :raises TemporaryFailure: SPOOL_FULL past a limit.
        """
        given = deposit(message)
        now = self._now()
        if (
            len(self._rows) + len(message.entries) > self._policy.max_rows
            or self._octets() + given.size > self._policy.max_bytes
        ):
            raise TemporaryFailure(Reason.SPOOL_FULL)
        self._names[message.account] = text(message.account_name)
        shared = Shared(given, now)
        rows = [Held.begin(next(self._numbers), shared, entry, now) for entry in message.entries]
        self._rows.update((row.number, row) for row in rows)
        for row, entry in zip(rows, message.entries, strict=True):
            if entry.failed:
                self._fail(row, entry.reason, now)
        return tuple(row.number for row in rows)

    async def take(self, limit: int, *, exclude_accounts: Collection[str] = ()) -> list[Leased]:
        """At most *limit* due rows, under a lease: one of each account in turn, its longest due first."""
        now = self._now()
        waiting: dict[str, deque[Held]] = {}
        for due in sorted((row.ready, row.number) for row in self._rows.values() if row.ready is not None):
            row = self._rows[due[1]]
            if due[0] <= now and row.message.account not in exclude_accounts:
                waiting.setdefault(row.message.account, deque()).append(row)
        turn = deque(sorted(waiting, key=lambda account: (account <= self._served, account)))
        taken: list[Held] = []
        while turn and len(taken) < limit:
            self._served = turn.popleft()
            taken.append(waiting[self._served].popleft())
            if waiting[self._served]:
                turn.append(self._served)
        for row in taken:
            row.lend(now + self._policy.lease)
        return [row.lent(now, self._name(row)) for row in taken]

    async def renew(self, rows: Iterable[int]) -> None:
        """Let the leases of *rows* begin anew, as far as they are leased."""
        now = self._now()
        for number in rows:
            row = self._rows.get(number)
            if row is not None and row.leased:
                row.lend(now + self._policy.lease)

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Note what became of leased rows; others are passed over, unless they were delivered."""
        now = self._now()
        for settlement in settlements:
            row = self._rows.get(settlement.row)
            if row is None:
                continue
            if isinstance(settlement, Delivered):
                del self._rows[row.number]
            elif row.leased:
                row.answered(settlement, now)
                if isinstance(settlement, Failed):
                    self._fail(row, settlement.reason, now)

    def _fail(self, row: Held, reason: str, now: float) -> None:
        row.fail(reason, now)
        if self._tells:
            number = next(self._numbers)
            self._notices[number] = HeldNotice(number, row.number, row.notice(now, self._name(row)), now, ready=now)

    def _name(self, row: Held) -> str:
        """The newest name of its account."""
        return self._names[row.message.account]

    async def next_due(self) -> float | None:
        """Seconds until the earliest row is due or a lease ends; None without rows that wait."""
        now = self._now()
        soonest = min((row.ready for row in self._rows.values() if row.ready is not None), default=None)
        return None if soonest is None else max(0.0, soonest - now)

    async def counts(self) -> Counts:
        """How full it is."""
        now = self._now()
        states = [row.state(now) for row in self._rows.values()]
        alive = (row.message.created for row in self._rows.values() if row.failed is None)
        return Counts(
            waiting=states.count("due") + states.count("waiting"),
            in_flight=states.count("in flight"),
            failed=states.count("failed"),
            octets=self._octets(),
            oldest=now - min(alive, default=now),
        )

    def _octets(self) -> int:
        return sum(message.deposit.size for message in {row.message for row in self._rows.values()})

    # --- operators

    async def listing(self, selection: Selection = EVERYTHING, limit: int = 1000, after: int = 0) -> list[Row]:
        """At most *limit* rows, by number, from the one that follows *after*."""
        now = self._now()
        return [row.shown(now, self._name(row)) for row in self._select(selection) if row.number > after][:limit]

    async def show(self, id: str) -> list[Shown]:
        """The messages with the queue id *id*."""
        now = self._now()
        found: dict[Shared, list[Row]] = {}
        for row in self._select(Selection(id=id)):
            found.setdefault(row.message, []).append(row.shown(now, self._name(row)))
        return [message.shown(rows) for message, rows in found.items()]

    async def retry(self, selection: Selection) -> int:
        """Make the selected rows due now, failures too; how many.  One that is being posted is left alone."""
        rows = self._at_rest(selection)
        for row in rows:
            row.hurry(self._now())
        numbers = {row.number for row in rows}
        self._notices = {key: each for key, each in self._notices.items() if each.recipient not in numbers}
        return len(rows)

    async def drop(self, selection: Selection) -> int:
        """Remove the selected rows, unsent; how many.  One that is being posted is left alone."""
        rows = self._at_rest(selection)
        for row in rows:
            del self._rows[row.number]
        return len(rows)

    async def purge(self) -> int:
        """Remove what has been kept long enough: failures, notices, memories; how many failures."""
        now = self._now()
        begin = now - self._policy.keep_failures
        old = [row.number for row in self._rows.values() if row.failed is not None and row.failed < begin]
        for number in old:
            del self._rows[number]
        self._notices = {key: each for key, each in self._notices.items() if each.created >= begin}
        self._memories = {key: each for key, each in self._memories.items() if each[0] > now}
        return len(old)

    def _select(self, selection: Selection) -> list[Held]:
        now = self._now()
        return [row for row in self._rows.values() if selects(selection, row.shown(now, self._name(row)))]

    def _at_rest(self, selection: Selection) -> list[Held]:
        """The selected rows that nobody is posting now."""
        now = self._now()
        return [row for row in self._select(selection) if row.state(now) != "in flight"]

    # --- the ledger

    async def remember(self, entry: Remembered) -> None:
        """Keep *entry* for as long as the ledger does; one with the same fingerprint is replaced."""
        self._memories[entry.fingerprint] = self._now() + self._keep, entry

    async def claim(self, entry: Remembered) -> Remembered:
        """Keep *entry*, unless there is one with its fingerprint; that which is there then."""
        found = await self.recall(entry.fingerprint)
        if found is None:
            await self.remember(entry)
        return found or entry

    async def recall(self, fingerprint: bytes) -> Remembered | None:
        """The entry, None when there is none or it is too old."""
        now = self._now()
        until, entry = self._memories.get(fingerprint, (now, None))
        return entry if until > now else None

    async def forget(self, fingerprint: bytes) -> None:
        """Drop the entry, if there is one."""
        self._now()
        self._memories.pop(fingerprint, None)

    async def has_memories(self) -> bool:
        """Whether :meth:`recall` may find anything."""
        self._now()
        return bool(self._memories)

    # --- notices

    async def take_notices(self, limit: int) -> list[Notice]:
        """At most *limit* due notices, under a lease."""
        now = self._now()
        taken = sorted((each for each in self._notices.values() if each.ready <= now), key=lambda each: each.ready)
        for notice in taken[:limit]:
            notice.ready = now + self._policy.lease
        return [each.lent(now) for each in taken[:limit]]

    async def settle_notices(self, settlements: Sequence[Settlement]) -> None:
        """Note what became of leased notices: one that is not to be tried again is gone."""
        now = self._now()
        for settlement in settlements:
            if not isinstance(settlement, Retry):
                self._notices.pop(settlement.row, None)
            elif settlement.row in self._notices:
                notice = self._notices[settlement.row]
                notice.ready = now + max(0.0, settlement.delay)
                notice.attempts += 1

    async def next_notice(self) -> float | None:
        """Seconds until the earliest notice is due; None without one."""
        now = self._now()
        soonest = min((notice.ready for notice in self._notices.values()), default=None)
        return None if soonest is None else max(0.0, soonest - now)

    def _now(self) -> float:
        """The time by the clock.

        :raises Failure: it is down; so nothing of a call happens before it asks for the time.
        """
        if self.down is not None:
            raise self.down
        return self._clock.seconds()
