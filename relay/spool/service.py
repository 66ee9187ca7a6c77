"""The spool as a whole: what keeps messages, what posts them again, who remembers, who is told."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Protocol

from attrs import define
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from relay import policy
from relay.errors import Failure, PermanentFailure, Reason
from relay.periodic import Periodic
from relay.posting import Posting
from relay.spool import failures, runner
from relay.spool.handover import Handover
from relay.spool.ledger import Ledger
from relay.spool.pacing import Backoff
from relay.spool.store import Store
from relay.spool.values import Counts, Entry, Failed, Leased
from relay.values import Account, Submission

#: Seconds between two looks at how full the spool is.
_LOOK = 5.0
#: Seconds between two rounds of throwing away what is too old.
_PURGE = 300.0

log = Logger()


class Platforms(Protocol):
    """Where the runner posts; :class:`relay.client.platforms.Platforms`."""

    @property
    def open(self) -> bool:
        """Whether all count as down."""

    def wait(self) -> float:
        """Seconds until something may be posted."""

    def send(self, submission: Submission, platform: str = "") -> Awaitable[None]:
        """Hand over one submission."""


class Observer(runner.Observer, Protocol):
    """Told what happens, for the metrics."""

    def spool_counted(self, counts: Counts) -> None:
        """How full the spool is now."""


@define(eq=False)
class Policies:
    """The groups of the configuration that the spool follows."""

    spool: policy.Spool
    delivery: policy.Delivery
    #: seconds after which a posting has ended in any case (``platform.timeout`` for each platform)
    deadline: float
    #: recipients of one message posted side by side (``platform.concurrency``)
    concurrency: int = 10
    #: bytes of content that postings hold whose clients have their 250 (``limits.memory``)
    memory: int = policy.Limits().memory
    #: seconds for which the ledger remembers (``ledger.keep``)
    keep: float = policy.Ledger().keep


class SpoolService(MultiService):
    """Starts and stops with the relay.

    :param post_json: POSTs to ``failures.webhook``; None: there is none.
    :param forget: told of a key that the platform refused.
    :ivar deliver: takes the submissions of a message (a :data:`relay.posting.Deliver`).
    :ivar ledger: knows repetitions.
    """

    def __init__(
        self,
        store: Store,
        platforms: Platforms,
        policies: Policies,
        clock: IReactorTime,
        observer: Observer,
        *,
        forget: Callable[[str], None],
        post_json: failures.PostJSON | None = None,
    ) -> None:
        MultiService.__init__(self)
        self.name = "spool"
        self.store = store
        self._observer = observer
        self._forget = forget
        self._platforms = platforms
        self._runner = runner.Runner(
            store, self._post, platforms, policies.spool, clock, observer, given_up=self._row_given_up
        )
        self._webhook = None
        if post_json is not None:
            self._webhook = failures.Webhook(store, post_json, policies.spool, clock)
        self._handover = Handover(
            posting=Posting(platforms.send, forget, policies.concurrency),
            spool=store,
            policy=policies.delivery,
            clock=clock,
            memory=policies.memory,
            deadline=policies.deadline,
            backoff=Backoff(policies.spool, random.random),
            is_down=lambda: platforms.open,
            wake=self.wake,
            given_up=self._given_up,
        )
        self.deliver = self._handover.deliver
        self.ledger = Ledger(store, policies.keep, clock.seconds)
        for seconds, work in ((_LOOK, self._count), (_PURGE, self._purge)):
            Periodic(clock, seconds, work).setServiceParent(self)

    def startService(self) -> None:
        """Begin to post what is due."""
        MultiService.startService(self)
        self._runner.start()
        if self._webhook is not None:
            self._webhook.start()

    def wake(self) -> None:
        """There is something new in the spool, or a platform is back."""
        self._runner.wake()

    async def free(self, owner: str) -> None:
        """Let what the process *owner*, which is gone, had under way be posted again."""
        await self.store.free(owner)
        self.wake()

    def hurry(self) -> None:
        """The time to stop is nearly over: spool what clients wait for."""
        self._handover.hurry()

    async def stop(self, seconds: float) -> None:
        """Let what is being posted finish within *seconds*; what is not is posted again after the next start.

        Call it when all sessions have ended.
        """
        await gatherResults([self._runner.stop(seconds), Deferred.fromCoroutine(self._handover.stop(seconds))])
        if self._webhook is not None:
            await self._webhook.stop(min(seconds, 1.0))
        await self.ledger.abandon()

    async def close(self) -> None:
        """Let go of the store, when nobody needs it any more."""
        await self.store.close()

    async def _post(self, submission: Submission, platform: str) -> None:
        """Post one row; a key that is refused is forgotten, whoever finds it out."""
        try:
            await self._platforms.send(submission, platform)
        except PermanentFailure as failure:
            if failure.reason is Reason.KEY_REFUSED:
                self._forget(submission.api_key)
            raise

    def _row_given_up(self, row: Leased, failed: Failed) -> None:
        failures.log_row(row, failed)
        if self._webhook is not None:
            self._webhook.wake()

    def _given_up(self, account: Account, entry: Entry) -> None:
        failures.log_failed(
            entry.submission,
            account.name,
            reason=entry.reason,
            answer=entry.last_answer,
            attempts=entry.attempts,
            age=0.0,
        )
        self._observer.failed(entry.reason)
        if self._webhook is not None:
            self._webhook.wake()

    async def _count(self) -> None:
        try:
            self._observer.spool_counted(await self.store.counts())
        except Failure as failure:
            log.debug("the spool cannot be counted: {why}", why=str(failure))
        except Exception:
            # Or its timer would never run again.
            log.failure("the spool cannot be counted")

    async def _purge(self) -> None:
        try:
            await self.store.purge()
        except Failure as failure:
            log.warn("the spool cannot be purged: {why}", why=str(failure))
        except Exception:
            log.failure("the spool cannot be purged")
