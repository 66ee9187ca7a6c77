"""A delivery of your own in place of the spool: the queue that your program has anyway."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from relay.config import Config
from relay.errors import Failure, Reason, TemporaryFailure
from relay.service import Platform, make_factory, make_pipeline
from relay.smtp.auth import Keys
from relay.smtp.factory import SubmissionFactory
from relay.values import Account, Outcome, Submission

#: Keeps submissions durably; your program posts them later.
Keep = Callable[[Sequence[Submission]], Awaitable[None]]


async def deliver(keep: Keep, account: Account, submissions: Sequence[Submission]) -> tuple[Outcome, ...]:
    """One outcome for each submission, in order; the client gets its 250 after it."""
    failure: Failure | None = None
    try:
        await keep(submissions)
    except OSError:
        failure = TemporaryFailure(Reason.SPOOL_FAILED)
    return tuple(Outcome(each.to, failure, spooled=failure is None) for each in submissions)


def factory(config: Config, platform: Platform, keep: Keep, reactor: Any) -> SubmissionFactory:
    """What to listen with; the platform is asked about keys only."""
    keys = Keys(platform.ping, config.auth, reactor)
    pipeline = make_pipeline(config, platform, keys, record=lambda record: None, deliver=partial(deliver, keep))
    return make_factory(config, pipeline, keys, clock=reactor)
