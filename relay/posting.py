"""Posts the submissions of a message side by side: each has one outcome, whatever happens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence

from attrs import frozen
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger

from relay.errors import Failure, Reason, TemporaryFailure
from relay.values import Account, Outcome, Submission

#: One submission to the platform; returning means that the platform has it, else it raises a failure.
Post = Callable[[Submission], Awaitable[None]]
#: The submissions of one message, to wherever they go: one outcome each, in order.  Never raises a failure.
Deliver = Callable[[Account, Sequence[Submission]], Awaitable[tuple[Outcome, ...]]]

log = Logger()


def ignore(_: object) -> None:
    """A stage that does nothing."""


async def side_by_side(work: Iterator[Awaitable[None]], lanes: int) -> None:
    """Await all of *work*, at most *lanes* at a time, each begun when a lane is free."""

    async def until_none_is_left() -> None:
        for each in work:
            await each

    await gatherResults([Deferred.fromCoroutine(until_none_is_left()) for _ in range(lanes)])


@frozen
class Posting:
    """Hands submissions to the platform.

    :ivar post: hands over one.
    :ivar forget: told of a key that the platform refused.
    :ivar concurrency: recipients of one message posted side by side.
    """

    post: Post
    forget: Callable[[str], None] = ignore
    concurrency: int = 10

    async def one(self, submission: Submission) -> Outcome:
        """Post one submission; a defect of ours is a temporary failure."""
        try:
            await self.post(submission)
        except Failure as failure:
            if failure.reason is Reason.KEY_REFUSED:
                self.forget(submission.api_key)
            return Outcome(submission.to, failure)
        except Exception:
            log.failure("posting {id} for {recipient} failed", id=submission.request_id, recipient=submission.to)
            return Outcome(submission.to, TemporaryFailure(Reason.INTERNAL))
        return Outcome(submission.to)

    async def all(self, account: Account, submissions: Sequence[Submission]) -> tuple[Outcome, ...]:
        """Post all submissions of a message (a :data:`Deliver`)."""
        if len(submissions) == 1:
            return (await self.one(submissions[0]),)
        outcomes: dict[str, Outcome] = {}

        async def post(submission: Submission) -> None:
            outcomes[submission.to] = await self.one(submission)

        await side_by_side((post(each) for each in submissions), min(self.concurrency, len(submissions)))
        return tuple(outcomes[each.to] for each in submissions)
