"""Several platforms that stand in for each other.

A platform honours the Idempotency-Key that it knows, and knows only its own.  So the next platform is tried only
when the one before surely has not taken the message:

==========================================================  =====================================================
the connection was refused, no such name, no route,         the next one
connect or TLS handshake failed or met the deadline
the platform counts as down                                 the next one
503; 404, 405, other 4xx, 3xx (a wrong URL)                 the next one
500, 502, 504 (RFC 9110: behind them the message            this one again, later
may have been taken), a lost or cut answer, a deadline
after sending, a 2xx that is not the contract's
408, 425, 429                                               this one again, later: it works, and asks for patience
400, 401, 403, 413, 422                                     none: it is refused
==========================================================  =====================================================

Where a platform may have the message, the failure names it (:attr:`relay.errors.TemporaryFailure.platform`), and
whoever tries again gives that name to :meth:`Platforms.send`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Iterable, Sequence
from typing import Protocol

from attrs import define
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from relay.errors import ConfigError, Failure, Reason, TemporaryFailure
from relay.values import Account, Submission

#: In what order platforms are tried; the second starts with one that depends on the Idempotency-Key.
ORDERS = ("in-order", "round-robin")

log = Logger()


class Backend(Protocol):
    """One platform: :class:`relay.client.backend.Backend`, or an embedder's own."""

    @property
    def url(self) -> str:
        """Its name, the same after a restart."""

    def ping(self, key: str) -> Awaitable[Account]:
        """The account behind *key*."""

    def send(self, submission: Submission) -> Awaitable[None]:
        """Hand over one submission."""

    def reachable(self) -> Awaitable[bool]:
        """Whether it answers."""


class Breaker(Protocol):
    """Whether one platform counts as down: :class:`relay.spool.breaker.Breaker`."""

    @property
    def closed(self) -> bool:
        """Whether it works, as far as one knows."""

    def wait(self) -> float:
        """Seconds until something may be posted."""

    def allow_probe(self) -> bool:
        """Whether the caller may post although it is down."""

    def succeeded(self) -> None:
        """It did what it was asked."""

    def failed(self, failure: Failure, *, probe: bool = False) -> None:
        """It, or the way to it, failed."""


@define(eq=False)
class _Member:
    """One platform and its breaker; *vetted*: it answered while it counted as down, and the next post is its probe."""

    backend: Backend
    breaker: Breaker
    vetted: bool = False

    @property
    def name(self) -> str:
        return self.backend.url


class Platforms:
    """One platform or several, each behind a breaker; used as a single :class:`Backend` is.

    :param backends: at least one, the preferred ones first.
    :param breakers: one for each.
    :param order: one of :data:`ORDERS`.
    :raises ConfigError: two platforms have the same URL, or there is none.
    """

    def __init__(self, backends: Sequence[Backend], breakers: Sequence[Breaker], order: str = "in-order") -> None:
        self._members = [_Member(*pair) for pair in zip(backends, breakers, strict=True)]
        self._by_name = {member.name: member for member in self._members}
        self._turning = order == "round-robin"
        if not self._members or order not in ORDERS:
            raise ConfigError([f"backend: at least one is needed, and an order of {' or '.join(ORDERS)}"])
        if len(self._by_name) < len(self._members):
            raise ConfigError(["backend: the same URL is given twice"])

    @property
    def open(self) -> bool:
        """Whether every platform counts as down."""
        return not any(member.breaker.closed for member in self._members)

    def wait(self) -> float:
        """Seconds until something may be posted to any of them; 0: now."""
        return min(0.0 if member.vetted else member.breaker.wait() for member in self._members)

    async def send(self, submission: Submission, platform: str = "") -> None:
        """Hand over *submission* to the first platform that takes it.

        :param platform: the name of the one that may have it; no other is tried, unless the configuration names it
            no more.
        :raises PermanentFailure: as :meth:`relay.client.backend.Backend.send`.
        :raises TemporaryFailure: that of the last platform that was tried; ``UNREACHABLE`` when all are down.
        """
        bound = self._by_name.get(platform)
        if bound is None and platform and len(self._members) > 1:
            log.warn("{id} may be at {platform}, which is no backend any more", id=submission.request_id,
                     platform=platform)  # fmt: skip
        last: TemporaryFailure | None = None
        for member in [bound] if bound else self._in_turn(submission):
            if not member.breaker.closed and not self._may_probe(member, bound is not None or self.open):
                continue
            try:
                return await self._post(member, submission)
            except TemporaryFailure as failure:
                if failure.sent or failure.reason is Reason.BUSY:
                    raise
                last = failure
        raise last or TemporaryFailure(Reason.UNREACHABLE)

    async def ping(self, key: str) -> Account:
        """The account behind *key*, from the first platform that says something on it.

        It is asked of platforms that are down too, after the others, and is no probe: a platform that answers a
        ping may still take no mail.

        :raises PermanentFailure: ``BAD_KEY``.
        :raises TemporaryFailure: ``AUTH_UNAVAILABLE``; no platform said whether the key is good.
        """
        last = TemporaryFailure(Reason.AUTH_UNAVAILABLE)
        for member in self._working_first():
            try:
                return await member.backend.ping(key)
            except TemporaryFailure as failure:
                last = failure
        raise last

    async def reachable(self) -> bool:
        """Whether any platform answers."""
        for member in self._working_first():
            if await member.backend.reachable():
                return True
        return False

    def _in_turn(self, submission: Submission) -> list[_Member]:
        if not self._turning:
            return self._members
        # Not by a count: a relay that was killed may have posted it, and only that platform would know the key.
        digest = hashlib.sha256(submission.idempotency_key.encode("utf-8", "surrogatepass")).digest()
        first = int.from_bytes(digest, "big") % len(self._members)
        return self._members[first:] + self._members[:first]

    def _working_first(self) -> Iterable[_Member]:
        return sorted(self._members, key=lambda member: not member.breaker.closed)

    def _may_probe(self, member: _Member, alone: bool) -> bool:
        """Whether to post to *member*, which is down, as its probe.

        Where another platform works nobody shall wait for one that does not, nor be bound to it by a lost answer:
        it is first asked something harmless, beside the message.
        """
        if member.vetted:
            member.vetted = False
            return True
        if not member.breaker.allow_probe():
            return False
        if not alone:
            Deferred.fromCoroutine(self._vet(member))
        return alone

    async def _vet(self, member: _Member) -> None:
        try:
            member.vetted = await member.backend.reachable()
        except Exception:
            log.failure("platform {platform} could not be asked", platform=member.name)
        if not member.vetted:
            member.breaker.failed(TemporaryFailure(Reason.UNREACHABLE), probe=True)

    async def _post(self, member: _Member, submission: Submission) -> None:
        """Post to one platform, and let its breaker know, whatever happens."""
        probe = not member.breaker.closed
        try:
            await member.backend.send(submission)
        except Failure as failure:
            member.breaker.failed(failure, probe=probe)  # which takes a refusal for good for a success
            if isinstance(failure, TemporaryFailure) and failure.sent:
                failure.platform = member.name
            raise
        except Exception:
            log.failure("posting {id} for {recipient} failed", id=submission.request_id, recipient=submission.to)
            defect = TemporaryFailure(Reason.INTERNAL, sent=True)
            member.breaker.failed(defect, probe=probe)
            defect.platform = member.name
            raise defect from None
        else:
            member.breaker.succeeded()
