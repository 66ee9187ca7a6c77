"""Who is told of a recipient that is given up: the log, and ``failures.webhook``."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timezone
from typing import Protocol

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from relay import policy, replies, wire
from relay.errors import Failure
from relay.spool.pacing import Backoff, Pause
from relay.spool.values import Delivered, Failed, Leased, Notice, Retry, Settlement
from relay.values import Submission, key_prefix

#: POSTs JSON to the webhook under an Idempotency-Key; the status of the answer.  Raises a failure without one.
PostJSON = Callable[[bytes, str], Awaitable[int]]

#: Notices posted side by side.
LANES = 4
#: Seconds between two looks at the store.
LOOK = 15.0

log = Logger()


def log_failed(
    submission: Submission, account_name: str, *, reason: str, answer: str, attempts: int, age: float
) -> None:
    """One line for a recipient that is given up.

    :param account_name: what the platform calls the account; where it does not, the key's prefix stands for it.
    :param answer: the last one, one line.
    :param age: seconds since the message was accepted.
    """
    log.error(
        "failed {id} recipient={recipient} account={account!r} tag={tag!r} reason={reason} attempts={attempts}"
        " age={age:.0f} answer={answer!r}",
        id=submission.request_id,
        recipient=replies.one_line(submission.to),
        account=replies.one_line(account_name) or key_prefix(submission.api_key),
        tag=submission.tag,
        reason=reason,
        attempts=attempts,
        age=age,
        answer=answer,
    )


def log_row(row: Leased, failed: Failed) -> None:
    """One line for a row that is given up, after one more attempt where there is an answer."""
    log_failed(
        row.submission,
        row.account_name,
        reason=failed.reason,
        answer=failed.last_answer or "not tried again, the platform is down",
        attempts=row.attempts + bool(failed.last_answer),
        age=row.age,
    )


def notice_body(
    submission: Submission,
    account_name: str,
    *,
    reason: str,
    answer: str,
    attempts: int,
    accepted_at: float,
    failed_at: float,
) -> bytes:
    """The JSON that the webhook gets for a recipient that is given up; it has no content and no key.

    :param accepted_at: seconds since the epoch, as is *failed_at*; both are ISO 8601 in the JSON.
    """
    return wire.dump(
        {
            "id": submission.request_id,
            "account": account_name or key_prefix(submission.api_key),
            "recipient": submission.to,
            "tag": submission.tag,
            "reason": reason,
            "answer": answer,
            "attempts": attempts,
            "accepted_at": _iso(accepted_at),
            "failed_at": _iso(failed_at),
        }
    )


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")


class Store(Protocol):
    """What the webhook needs of the store; any call may raise a failure."""

    def take_notices(self, limit: int) -> Awaitable[Sequence[Notice]]:
        """At most *limit* notices that are due, under a lease of ``spool.lease`` seconds."""

    def settle_notices(self, settlements: Sequence[Settlement]) -> Awaitable[object]:
        """Note what became of notices: one that is delivered or failed is gone."""


class Webhook:
    """Tells ``failures.webhook`` of each failure until it answers 2xx, or ``spool.give_up`` is over.

    :param clock: monotonic.
    :param random: from 0 to 1, for the jitter of the backoff.
    """

    def __init__(
        self,
        store: Store,
        post_json: PostJSON,
        policy: policy.Spool,
        clock: IReactorTime,
        *,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._post_json = post_json
        self._policy = policy
        self._backoff = Backoff(policy, random)
        self._stopping = False
        self._looking = False
        self._looks, self._drained = Pause(clock), Pause(clock)

    def start(self) -> None:
        """Begin."""
        self._looking = True
        Deferred.fromCoroutine(self._look_until_stopped())

    def wake(self) -> None:
        """There is a new failure."""
        self._looks.end()

    def stop(self, seconds: float = 0.0) -> Deferred[None]:
        """Let what is under way finish within *seconds*; the rest is told when the relay starts again."""
        return Deferred.fromCoroutine(self._stop(seconds))

    async def _stop(self, seconds: float) -> None:
        self._stopping = True
        self._looks.end()
        if self._looking:
            await self._drained.wait(seconds)

    async def _look_until_stopped(self) -> None:
        while not self._stopping:
            try:
                more = await self._look()
            except Failure as failure:
                log.error("notices for failures.webhook cannot be read or written: {problem}", problem=str(failure))
                more = False
            except Exception:
                log.failure("notices for failures.webhook cannot be read or written")
                more = False
            if not more and not self._stopping:
                await self._looks.wait(LOOK)
        self._looking = False
        self._drained.end()

    async def _look(self) -> bool:
        """Post the notices that are due, as many as there are lanes; whether there may be more."""
        notices = await self._store.take_notices(LANES)
        if self._stopping or not notices:
            return False
        settlements = await gatherResults([Deferred.fromCoroutine(self._attempt(each)) for each in notices])
        await self._store.settle_notices(settlements)
        return len(notices) == LANES

    async def _attempt(self, notice: Notice) -> Settlement:
        try:
            # The number alone is not enough: another relay, or a spool that begins anew, counts from 1 too.
            digest = hashlib.sha256(notice.body).hexdigest()[:16]
            status = await self._post_json(notice.body, f"{notice.row}-{digest}")
            answer = f"HTTP status {status}"
        except Failure as failure:
            status, answer = 0, str(failure)
        except Exception:
            log.failure("a notice for failures.webhook failed")
            status, answer = 0, "internal error"
        if 200 <= status <= 299:
            return Delivered(notice.row)
        if notice.age >= self._policy.give_up:
            log.error("failures.webhook was not told of failure {row}: {answer}", row=notice.row, answer=answer)
            return Failed(notice.row, "expired", answer)
        delay = self._backoff(notice.attempts + 1)
        log.warn("failures.webhook: {answer}; again in {seconds:.0f} s", answer=answer, seconds=delay)
        return Retry(notice.row, delay, answer)
