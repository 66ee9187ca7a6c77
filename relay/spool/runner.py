"""Posts what the spool holds until the platform has it, or it is given up.

The runner keeps a row under a lease while it posts it, and the store alone knows when a row is due: no clock that
somebody can set has a say in when a row is tried again.  While the platform counts as down nothing is posted but
probes, so that an outage costs the rows that wait no attempt.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from relay import policy, replies
from relay.errors import Failure, PermanentFailure, Reason, TemporaryFailure
from relay.spool import failures
from relay.spool.pacing import Backoff, Pause
from relay.spool.values import Delivered, Failed, Leased, Retry, Settlement
from relay.values import Submission

#: Posts one submission, to the platform of that name or, for ``""``, to any; raises a failure.
Post = Callable[[Submission, str], Awaitable[None]]

#: Longest time in seconds between two looks at the store: ``smtp-relay queue retry`` and other relays change it too.
LONGEST_LOOK = 2.0
#: Shortest, when a row is due that could not be taken: another relay is about to.
SHORTEST_LOOK = 0.1
#: Seconds after which a store that failed is asked again.
STORE_PAUSE = 5.0
#: Most settlements of one call.
MOST_SETTLED = 1000
#: The reason of a row that grew too old while the platform was down.
EXPIRED = "expired"

log = Logger()


class Store(Protocol):
    """What the runner needs of the store; any call may raise a failure."""

    def take(self, limit: int) -> Awaitable[Sequence[Leased]]:
        """At most *limit* rows that are due, under a lease of ``spool.lease`` seconds."""

    def renew(self, rows: Sequence[int]) -> Awaitable[None]:
        """Let the leases begin anew."""

    def settle(self, settlements: Sequence[Settlement]) -> Awaitable[object]:
        """Note what became of rows, durably; a row that is not there any more is no error."""

    def next_due(self) -> Awaitable[float | None]:
        """Seconds until the next row is due, None when none will be."""


class Breaker(Protocol):
    """Whether the platform, or each of several, counts as down; *post* itself reports to it."""

    @property
    def open(self) -> bool:
        """Whether nothing but probes is posted."""

    def wait(self) -> float:
        """Seconds until something may be posted."""


class Observer(Protocol):
    """Told what happens, for the metrics."""

    def attempted(self, seconds: float) -> None:
        """A row was posted, with any outcome."""

    def delivered(self) -> None:
        """The platform has taken a row."""

    def retried(self, reason: str) -> None:
        """A row stays in the spool, for the reason of a temporary failure."""

    def failed(self, reason: str) -> None:
        """A row is given up."""


class Silent:
    """Counts nothing."""

    def attempted(self, seconds: float) -> None:
        """Nothing."""

    def delivered(self) -> None:
        """Nothing."""

    def retried(self, reason: str) -> None:
        """Nothing."""

    def failed(self, reason: str) -> None:
        """Nothing."""


class Runner:
    """Takes rows that are due, posts them side by side, and settles them.

    :param breaker: asked before rows are taken.
    :param clock: monotonic.
    :param random: from 0 to 1, for the jitter of the backoff.
    :param given_up: told of each row that is a failure from now on, when that is durable.
    """

    def __init__(
        self,
        store: Store,
        post: Post,
        breaker: Breaker,
        policy: policy.Spool,
        clock: IReactorTime,
        observer: Observer | None = None,
        *,
        random: Callable[[], float] = random.random,
        given_up: Callable[[Leased, Failed], None] = failures.log_row,
    ) -> None:
        self._store = store
        self._post = post
        self._breaker = breaker
        self._policy = policy
        self._clock = clock
        self._observer = observer or Silent()
        self._backoff = Backoff(policy, random)
        self._given_up = given_up
        self._leases: dict[int, Leased] = {}  # taken and not settled
        self._posting = 0
        self._settlements: list[Settlement] = []  # to be settled
        self._batch = MOST_SETTLED
        self._flushing = False
        self._more = False  # whether the last look left rows that may be due
        self._stopping = False
        self._over = False
        self._looks, self._renewals, self._trouble, self._drained = (Pause(clock) for _ in range(4))

    def start(self) -> None:
        """Begin."""
        Deferred.fromCoroutine(self._look_until_stopped())
        Deferred.fromCoroutine(self._renew_until_over())

    def wake(self) -> None:
        """There may be something new in the spool, or the breaker has changed."""
        self._looks.end()

    def stop(self, seconds: float = 0.0) -> Deferred[None]:
        """Take nothing new, and let what is being posted finish.

        :param seconds: how long that may take; what is not settled then keeps its lease, and is posted again with
            the same Idempotency-Key when the lease ends or the relay starts.
        """
        return Deferred.fromCoroutine(self._stop(seconds))

    async def _stop(self, seconds: float) -> None:
        self._stopping = True
        self._looks.end()
        if self._busy:
            await self._drained.wait(seconds)
        self._over = True
        self._renewals.end()
        self._trouble.end()

    @property
    def _busy(self) -> bool:
        return bool(self._posting or self._settlements or self._flushing)

    # --- taking

    async def _look_until_stopped(self) -> None:
        while not self._stopping:
            try:
                seconds = await self._look()
            except Exception as error:
                _complain("read", error)
                seconds = STORE_PAUSE
            if not self._stopping:
                await self._looks.wait(seconds)

    async def _look(self) -> float:
        """Take and begin what there is room for; the seconds until the next look."""
        self._more = True
        room = self._room()
        if room <= 0:
            return LONGEST_LOOK  # whatever makes room wakes us
        closed = self._breaker.wait()
        if closed > 0:
            return min(closed, LONGEST_LOOK)
        rows = await self._store.take(room)
        if self._stopping:
            return 0.0
        self._more = len(rows) >= room
        for row in rows:
            if row.row not in self._leases:  # else its lease had run out, and it is ours still
                self._begin(row)
        if self._more:
            return LONGEST_LOOK
        due = await self._store.next_due()
        return LONGEST_LOOK if due is None else min(max(due, SHORTEST_LOOK), LONGEST_LOOK)

    def _room(self) -> int:
        """How many rows may be taken: one for each free lane, one alone as a probe, none past too many unsettled."""
        lanes = self._policy.concurrency
        if len(self._settlements) >= lanes:
            return 0
        return min(lanes - self._posting, 1 if self._breaker.open else lanes)

    async def _renew_until_over(self) -> None:
        while not self._over:
            await self._renewals.wait(self._policy.lease / 3)
            if self._leases and not self._over:
                try:
                    await self._store.renew(sorted(self._leases))
                except Exception as error:
                    _complain("written", error)

    # --- posting

    def _begin(self, row: Leased) -> None:
        self._leases[row.row] = row
        self._posting += 1
        Deferred.fromCoroutine(self._deliver(row))

    async def _deliver(self, row: Leased) -> None:
        try:
            settlement = await self._attempt(row)
        except Exception:
            log.failure("row {row} of the spool failed", row=row.row)
            settlement = self._after(row, TemporaryFailure(Reason.INTERNAL))
        self._posting -= 1
        self._settlements.append(settlement)
        if not self._flushing:
            self._flushing = True
            Deferred.fromCoroutine(self._flush())
        if self._more:
            self._looks.end()

    async def _attempt(self, row: Leased) -> Settlement:
        """Post one row, or fail it unposted where it is too old and the platform is down; never raises a failure."""
        if self._breaker.open and row.age >= self._policy.give_up:
            self._observer.failed(EXPIRED)
            return Failed(row.row, EXPIRED, "")  # no attempt: the last answer stays
        begun = self._clock.seconds()
        try:
            await self._post(row.submission, row.platform)
        except Failure as failure:
            outcome: Failure | None = failure
        except Exception:
            submission = row.submission
            log.failure("posting {id} for {recipient} failed", id=submission.request_id, recipient=submission.to)
            outcome = TemporaryFailure(Reason.INTERNAL)
        else:
            outcome = None
        self._observer.attempted(self._clock.seconds() - begun)
        return self._after(row, outcome)

    def _after(self, row: Leased, failure: Failure | None) -> Settlement:
        """What becomes of *row* after an attempt."""
        if failure is None:
            self._observer.delivered()
            return Delivered(row.row)
        reason, answer = failure.reason.value, _answer(failure)
        if isinstance(failure, PermanentFailure):
            self._observer.failed(reason)
            return Failed(row.row, reason, answer)
        if row.age >= self._policy.give_up:
            self._observer.failed(EXPIRED)
            return Failed(row.row, EXPIRED, answer)
        self._observer.retried(reason)
        delay = self._backoff(row.attempts + 1, getattr(failure, "retry_after", None))
        return Retry(row.row, delay, answer, getattr(failure, "platform", "") or row.platform)

    # --- settling

    async def _flush(self) -> None:
        """Settle all that there is, and what comes meanwhile, in as few calls as that takes."""
        while self._settlements and not self._over:
            batch = self._settlements[: self._batch]
            del self._settlements[: self._batch]
            try:
                await self._store.settle(batch)
            except Exception as error:
                _complain("written", error)
                # Should one of them be the cause, it must not keep the others from being settled.
                self._settlements += batch
                self._batch = 1
                await self._trouble.wait(STORE_PAUSE)
            else:
                self._batch = MOST_SETTLED
                self._settled(batch)
        self._flushing = False
        if self._stopping and not self._busy:
            self._drained.end()

    def _settled(self, batch: Sequence[Settlement]) -> None:
        for settlement in batch:
            row = self._leases.pop(settlement.row)
            if isinstance(settlement, Delivered):
                log.info(
                    "delivered {id} recipient={recipient} attempts={attempts} age={age:.0f}",
                    id=row.submission.request_id,
                    recipient=replies.one_line(row.submission.to),
                    attempts=row.attempts + 1,
                    age=row.age,
                )
            elif isinstance(settlement, Failed):
                try:
                    self._given_up(row, settlement)
                except Exception:
                    log.failure("nobody could be told of the failure of row {row}", row=row.row)
        if self._more or any(isinstance(each, Retry) for each in batch):
            self._looks.end()


def _answer(failure: Failure) -> str:
    """The answer of an attempt as it is kept: the line that a client would have got."""
    return str(replies.reply(failure))


def _complain(what: str, error: Exception) -> None:
    """Log that the store failed: in a line where it says why, else as the defect that it is."""
    if isinstance(error, Failure):
        log.error("the spool cannot be {what}: {problem}", what=what, problem=str(error))
    else:
        log.failure("the spool cannot be {what}", what=what)
