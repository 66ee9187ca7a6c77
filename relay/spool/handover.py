"""Hands a message's submissions to the platform, or to the spool (``delivery.mode``).

The platform is tried while the client waits, for at most ``delivery.wait`` seconds.  What it takes is accepted,
what it refuses for good is refused, and the rest is committed to the spool before the client gets its 250.  A
posting that is still under way then goes on, while its recipient is spooled as in flight: nobody posts it a
second time before the first has failed or met its own deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from contextvars import copy_context
from functools import partial
from typing import Any, Protocol

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure

from relay import replies
from relay.coroutines import resume
from relay.deadlines import EARLY
from relay.errors import Failure, PermanentFailure, TemporaryFailure
from relay.policy import Delivery
from relay.posting import Posting, side_by_side
from relay.spool.pacing import Pause
from relay.spool.values import Delivered, Entry, Failed, Retry, Settlement, Spooled
from relay.values import Account, Outcome, Submission

log = Logger()


class Spool(Protocol):
    """What the handover needs of the store."""

    async def put(self, message: Spooled) -> Sequence[int]:
        """Keep a message durably; the rows of its entries, in order."""

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Note what became of rows."""


@define(eq=False)
class _Attempt:
    """One submission on its way: not begun, under way, or with its outcome."""

    submission: Submission
    begun: float | None = None
    outcome: Outcome | None = None
    waiter: Deferred[None] | None = None

    def run(self, posting: Coroutine[Deferred[Any], Any, Outcome], result: object = None) -> None:
        """Go on with *posting*, which waited for *result*, until it has to wait again, or has ended.

        Nobody awaits it, so that who waits for its outcome can leave, and it goes on.
        """
        try:
            waits_for = resume(posting, result)
        except StopIteration as end:
            self.outcome = end.value
        else:
            waits_for.addBoth(partial(copy_context().run, self.run, posting))
            return
        self.leave()

    def wait(self) -> Deferred[None]:
        """Fires when there is an outcome, or at :meth:`leave`."""
        self.waiter = Deferred()
        return self.waiter

    def leave(self) -> None:
        """Whoever waits for the outcome waits no longer."""
        if self.waiter is not None:
            _fire(self.waiter)


def _fire(waiter: Deferred[None]) -> None:
    """Let *waiter* fire, unless it has."""
    if not waiter.called:
        waiter.callback(None)


def account_digest(account: Account) -> str:
    """What names an account in the spool: the SHA-256 of its key in hexadecimal."""
    return account.digest.hex()


@define(eq=False, kw_only=True)
class Handover:
    """Delivers the submissions of a message (a :data:`relay.posting.Deliver`).

    :ivar posting: posts one of them, or all.
    :ivar is_down: whether the platform counts as down, so that nobody waits for it.
    :ivar memory: most bytes of content held by postings whose clients have their 250 already; past it nothing more is
        posted while a client waits, or a platform that hangs would make them as many as come in its deadline.
    :ivar deadline: seconds after which a posting has ended in any case.
    :ivar backoff: seconds to wait after that many attempts, or as long as the platform asked for.
    :ivar wake: told that there is something new in the spool.
    :ivar given_up: told of each entry that is kept as a failure.
    """

    posting: Posting
    spool: Spool
    policy: Delivery
    clock: IReactorTime
    memory: int
    deadline: float
    backoff: Callable[[int, float | None], float]
    is_down: Callable[[], bool]
    wake: Callable[[], None]
    given_up: Callable[[Account, Entry], None]
    #: What clients wait for, and since when, those first that wait longest.
    _waiting: dict[Deferred[None], float] = field(factory=dict, init=False)
    _timer: IDelayedCall | None = field(default=None, init=False)
    _following: int = field(default=0, init=False)  # postings under way whose client has its 250
    _held: int = field(default=0, init=False)  # bytes of their contents
    _hurried: bool = field(default=False, init=False)
    _followed: Pause = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._followed = Pause(self.clock)

    def hurry(self) -> None:
        """The relay stops: from now on no client waits for the platform, and what is under way is spooled."""
        self._hurried = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        waiting, self._waiting = self._waiting, {}
        for waiter in waiting:
            _fire(waiter)

    async def stop(self, seconds: float) -> None:
        """Let postings whose clients have their 250 finish within *seconds*; the others are posted again."""
        self.hurry()
        if self._following:
            await self._followed.wait(seconds)

    async def deliver(self, account: Account, submissions: Sequence[Submission]) -> tuple[Outcome, ...]:
        """One outcome for each submission, in order; after it a client may be told."""
        mode = self.policy.mode
        if mode == "direct":
            return await self.posting.all(account, submissions)
        attempts = [_Attempt(each) for each in submissions]
        if mode == "direct-first" and not self.is_down() and self._held < self.memory:
            if len(attempts) == 1:
                await self._try_one(attempts[0])
            else:
                await self._try(attempts)
        taken = [each.outcome for each in attempts if each.outcome is not None and each.outcome.failure is None]
        if len(taken) == len(attempts):
            return tuple(taken)
        return await self._spool(account, attempts)

    async def _try_one(self, attempt: _Attempt) -> None:
        """Post until it is done or the client has waited long enough; what is under way then goes on."""
        begun = attempt.begun = self.clock.seconds()
        attempt.run(self.posting.one(attempt.submission))
        if attempt.outcome is None:
            await self._wait(attempt.wait(), begun)

    async def _try(self, attempts: Sequence[_Attempt]) -> None:
        """:meth:`_try_one` for many, some of them side by side."""
        waiter: Deferred[None] = Deferred()
        begun = self.clock.seconds()

        async def post(attempt: _Attempt) -> None:
            if not waiter.called:
                attempt.begun = self.clock.seconds()
                attempt.outcome = await self.posting.one(attempt.submission)
                attempt.leave()

        work = side_by_side((post(each) for each in attempts), min(self.posting.concurrency, len(attempts)))
        Deferred.fromCoroutine(work).addCallback(lambda _: _fire(waiter))
        if not waiter.called:
            await self._wait(waiter, begun)

    async def _wait(self, waiter: Deferred[None], since: float) -> None:
        """Wait for *waiter* until a client has waited long enough: all wait equally long, so one timer does for all.

        It is left to run, as :class:`relay.deadlines.Deadlines` would not: mostly one client comes when another goes.
        """
        if self._hurried:
            self.clock.callLater(0.0, _fire, waiter)
        else:
            self._waiting[waiter] = since
            if self._timer is None:
                self._timer = self.clock.callLater(self.policy.wait, self._look)
        await waiter
        self._waiting.pop(waiter, None)

    def _look(self) -> None:
        """The client that waits longest may have waited long enough."""
        self._timer = None
        while self._waiting:
            waiter, since = next(iter(self._waiting.items()))
            left = since + self.policy.wait - self.clock.seconds()
            if left > EARLY:
                self._timer = self.clock.callLater(left, self._look)
                return
            del self._waiting[waiter]
            _fire(waiter)

    async def _spool(self, account: Account, attempts: Sequence[_Attempt]) -> tuple[Outcome, ...]:
        """Keep what the platform could not take; see the module for what becomes of the rest."""
        taken = any(each.outcome is None or not isinstance(each.outcome.failure, PermanentFailure) for each in attempts)
        if not taken:
            return tuple(each.outcome for each in attempts if each.outcome is not None)
        kept = [each for each in attempts if each.outcome is None or each.outcome.failure is not None]
        message = Spooled(
            kept[0].submission.request_id,
            account_digest(account),
            account.name,
            tuple(self._entry(each) for each in kept),
        )
        try:
            rows = await self.spool.put(message)
        except Failure as failure:
            return tuple(_unspooled(each, failure) for each in attempts)
        for attempt, entry, row in zip(kept, message.entries, rows, strict=True):
            if entry.failed:
                self.given_up(account, entry)
            elif entry.in_flight:
                size = _size(attempt.submission)
                self._following += 1
                self._held += size
                following = Deferred.fromCoroutine(self._settle(account, attempt, row))
                following.addErrback(_log_defect).addBoth(self._ended, size)
        self.wake()
        return tuple(_spooled(each) for each in attempts)

    def _entry(self, attempt: _Attempt) -> Entry:
        """How a submission that the platform has not taken is kept."""
        submission, outcome = attempt.submission, attempt.outcome
        if outcome is None:
            if attempt.begun is None:
                return Entry(submission)
            left = self.deadline - (self.clock.seconds() - attempt.begun)
            return Entry(submission, in_flight=max(left, 0.0) + 1.0)  # the attempt counts when it has ended
        failure = outcome.failure
        assert failure is not None
        answer = str(replies.reply(failure))
        if isinstance(failure, TemporaryFailure):
            delay = self.backoff(1, failure.retry_after)
            return Entry(submission, attempts=1, last_answer=answer, delay=delay, platform=failure.platform)
        return Entry(submission, attempts=1, last_answer=answer, failed=True, reason=failure.reason.value)

    async def _settle(self, account: Account, attempt: _Attempt, row: int) -> None:
        """Wait for a posting under way, and note its outcome in the spool."""
        if attempt.outcome is None:
            await attempt.wait()
        assert attempt.outcome is not None
        failure = attempt.outcome.failure
        settlement: Settlement = Delivered(row)
        if isinstance(failure, TemporaryFailure):
            delay = self.backoff(1, failure.retry_after)
            settlement = Retry(row, delay, str(replies.reply(failure)), failure.platform)
        elif failure is not None:
            settlement = Failed(row, failure.reason.value, str(replies.reply(failure)))
        try:
            await self.spool.settle([settlement])
        except Failure as broken:
            # The row comes free at its deadline and is posted with the same Idempotency-Key.
            log.error("the outcome for {recipient} of {id} could not be noted: {why}",
                      id=attempt.submission.request_id, recipient=attempt.submission.to, why=str(broken))  # fmt: skip
        else:
            if isinstance(settlement, Failed):
                self.given_up(account, self._entry(attempt))
        self.wake()

    def _ended(self, _: object, size: int) -> None:
        self._following -= 1
        self._held -= size
        if self._hurried and not self._following:
            self._followed.end()


def _size(submission: Submission) -> int:
    return len(submission.body) + sum(len(each.content) for each in submission.attachments)


def _spooled(attempt: _Attempt) -> Outcome:
    """The outcome of an attempt when everything that had to be kept is."""
    failure = attempt.outcome.failure if attempt.outcome is not None else None
    if attempt.outcome is not None and (failure is None or isinstance(failure, PermanentFailure)):
        return attempt.outcome
    return Outcome(attempt.submission.to, spooled=True)


def _unspooled(attempt: _Attempt, broken: Failure) -> Outcome:
    """The outcome of an attempt when nothing could be kept."""
    if attempt.outcome is not None and not isinstance(attempt.outcome.failure, TemporaryFailure):
        return attempt.outcome
    return Outcome(attempt.submission.to, broken)


def _log_defect(failure: TwistedFailure) -> None:
    log.failure("a posting under way could not be followed", failure)
