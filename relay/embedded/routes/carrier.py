"""Hands over what waits for one route, with the spool's runner: attempts, leases, backoff and a breaker."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial

from attrs import frozen
from sqlalchemy.exc import SQLAlchemyError
from twisted.internet.interfaces import IReactorTime

from relay import policy
from relay.embedded import deliveries
from relay.embedded.database import Database, Executor, Query, T
from relay.embedded.deliveries import Answer
from relay.embedded.routes.building import build
from relay.embedded.routes.pace import Pace
from relay.embedded.routes.ways import NotTaken, Way
from relay.errors import Failure, PermanentFailure, Reason, TemporaryFailure
from relay.spool.breaker import Breaker
from relay.spool.runner import Runner
from relay.spool.values import Leased, Settlement
from relay.values import Submission


@frozen
class Desk:
    """What carriers share.

    :ivar building: runs the building of messages.
    :ivar owner: who this backend is, among those of one database.
    :ivar now: seconds since the epoch.
    :ivar clock: monotonic.
    """

    database: Database
    building: Executor
    owner: str
    policy: policy.Embedded
    now: Callable[[], float]
    clock: IReactorTime
    random: Callable[[], float] = random.random


class Carrier:
    """One route at work; to the runner it is store and platform at once.

    :ivar breaker: whether the route counts as down.
    """

    def __init__(self, desk: Desk, route: str, way: Way) -> None:
        self._desk = desk
        self._route = route
        self._way = way
        self._pace = Pace(way.rate, desk.clock)
        self._last = 0  # the account that had the last turn
        self._answers: dict[int, Answer] = {}  # of attempts that are not settled
        self.breaker = Breaker(policy.Breaker(), desk.clock, name=f"route {route}")
        self.breaker.on_change = lambda state: self.wake()
        given = desk.policy
        self._lease = given.lease
        spool = policy.Spool(
            concurrency=way.lanes,
            retry_first=given.retry_first,
            retry_maximum=given.retry_maximum,
            give_up=given.give_up,
            lease=given.lease,
        )
        self._runner = Runner(self, self._post, self.breaker, spool, desk.clock, random=desk.random)

    def start(self) -> None:
        """Begin."""
        self._runner.start()

    def wake(self) -> None:
        """Something new waits."""
        self._runner.wake()

    async def stop(self, seconds: float) -> None:
        """Take nothing new, and let what is under way finish within *seconds*."""
        await self._runner.stop(seconds)
        await self._way.close()

    # --- the runner's store

    async def take(self, limit: int) -> Sequence[Leased]:
        """See :class:`relay.spool.runner.Store`."""
        room = self._pace.room()
        limit = limit if room is None else min(limit, room)
        now = self._desk.now()
        due = await self._read(partial(deliveries.next_due, route=self._route)) if limit else None
        if due is None or due > now:
            return []
        desk = self._desk
        rows = await self._write(
            partial(
                deliveries.take,
                route=self._route,
                owner=desk.owner,
                limit=limit,
                now=desk.now(),
                lease=self._lease,
                after=self._last,
            )
        )
        self._pace.spend(len(rows))
        if rows:
            self._last = int(rows[-1].account)
        return rows

    async def renew(self, rows: Sequence[int]) -> None:
        """See :class:`relay.spool.runner.Store`."""
        until = self._desk.now() + self._lease
        await self._write(partial(deliveries.renew, owner=self._desk.owner, seqs=rows, until=until))

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """See :class:`relay.spool.runner.Store`."""
        given = [(each, self._answers.get(each.row)) for each in settlements]
        settle = partial(deliveries.settle, owner=self._desk.owner, settlements=given, now=self._desk.now())
        await self._write(settle)
        for each in settlements:
            self._answers.pop(each.row, None)

    async def next_due(self) -> float | None:
        """See :class:`relay.spool.runner.Store`."""
        due = await self._read(partial(deliveries.next_due, route=self._route))
        return None if due is None else max(due - self._desk.now(), self._pace.wait())

    async def _read(self, query: Query[T]) -> T:
        try:
            return await self._desk.database.read(query)
        except SQLAlchemyError as error:
            raise _store_failed(error) from None

    async def _write(self, query: Query[T]) -> T:
        try:
            return await self._desk.database.write(query)
        except SQLAlchemyError as error:
            raise _store_failed(error) from None

    # --- the runner's platform

    async def _post(self, submission: Submission, platform: str) -> None:
        """Hand one message over, and let the breaker know, whatever happens."""
        probe = self.breaker.open
        if probe and not self.breaker.allow_probe():
            raise TemporaryFailure(Reason.UNREACHABLE)
        seq = int(submission.idempotency_key)
        outcome: Failure | None = TemporaryFailure(Reason.INTERNAL)
        text, by = "Local error, the reason is in the log", "this platform"
        try:
            text, by = await self._send(seq, submission.request_id)
            outcome = None
        except NotTaken as refused:
            outcome, text, by = refused.failure, refused.text, refused.by
        except Failure as failure:
            outcome, text = failure, failure.text or str(failure)
        finally:
            self._answers[seq] = Answer(self._desk.now(), text, by)
            if outcome is None:
                self.breaker.succeeded()
            else:
                self.breaker.failed(outcome, probe=probe)
        if outcome is not None:
            raise outcome

    async def _send(self, seq: int, id: str) -> tuple[str, str]:
        message = await self._read(partial(deliveries.content, seq=seq))
        if message is None:
            raise PermanentFailure(Reason.BAD_MESSAGE, "550 5.6.0 The content of this message is no longer kept")
        built = await self._desk.building.run(partial(build, message))
        return await self._way.send(built, id)


def _store_failed(error: SQLAlchemyError) -> TemporaryFailure:
    """The driver's words alone: SQLAlchemy's would show the statement and its values."""
    said = str(getattr(error, "orig", None) or type(error).__name__)
    return TemporaryFailure(Reason.INTERNAL, f"the embedded backend's database: {said}")
