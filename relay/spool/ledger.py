"""Remembers which recipients of a message the platform has, whenever the client may not know it.

The client may not know it when the verdict was not 250, or when it had left before the 250 was written.  Its
repetition of the message then posts only what is missing, under the first id and so with the same
Idempotency-Keys.  A message that was answered 250 and is sent again is a new message, unless
X-Transactional-Idempotency-Key says otherwise.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger

from relay import policy
from relay.errors import Failure, Reason
from relay.presence import Presence
from relay.spool.values import Remembered
from relay.values import Account, Envelope, Message, Outcome

log = Logger()

#: Headers that each hop adds (RFC 5321 section 4.4), which a repetition may have anew.
_TRACE = re.compile(rb"(?im)^(?:received|return-path|x-received|delivered-to):[^\n]*\n(?:[ \t][^\n]*\n)*")

#: Reasons after which nobody knows whether the platform has the message.
_DOUBTFUL = frozenset(
    [Reason.UNKNOWN_OUTCOME, Reason.UNREACHABLE, Reason.INTERNAL, Reason.SPOOL_FULL, Reason.SPOOL_FAILED]
)


#: Entries kept in memory while the store takes none.
MOST_UNWRITTEN = 10_000


class Memory(Protocol):
    """What the ledger needs of the store."""

    async def remember(self, entry: Remembered) -> None:
        """Keep *entry* durably; one with the same fingerprint is replaced."""

    async def claim(self, entry: Remembered) -> Remembered:
        """Keep *entry* unless there is one with its fingerprint; what is there then."""

    async def recall(self, fingerprint: bytes) -> Remembered | None:
        """The entry, None when there is none or it is too old."""

    async def forget(self, fingerprint: bytes) -> None:
        """Drop the entry."""

    async def has_memories(self) -> bool:
        """Whether there is any entry; cheap, asked for every message."""


@define(eq=False)
class Claim:
    """One message in the ledger's eyes, while it is delivered.

    :ivar id: the id to deliver it under: its own, or that of the message it repeats.
    :ivar taken: recipients that need not be posted to again.
    :ivar explicit: the fingerprint that X-Transactional-Idempotency-Key gives, or None.
    :ivar known: whether it repeats a message that is remembered.
    """

    id: str
    envelope: Envelope
    account: Account
    content: bytes
    presence: Presence
    explicit: bytes | None = None
    taken: frozenset[str] = frozenset()
    known: bool = False
    ended: bool = False
    looked_up: bool = False
    _fingerprint: bytes | None = field(default=None, init=False)

    @property
    def fingerprint(self) -> bytes:
        """What a repetition of the message has in common with it; computed when somebody asks."""
        if self._fingerprint is None:
            self._fingerprint = self.explicit or fingerprint(self.account, self.envelope, self.content)
        return self._fingerprint


def fingerprint(account: Account, envelope: Envelope, content: bytes) -> bytes:
    """SHA-256 over account, envelope, and the content without trace headers."""
    head, blank, body = content.partition(b"\r\n\r\n")
    return _digest(
        account.key,
        envelope.sender,
        *sorted(envelope.recipients),
        _TRACE.sub(b"", head + b"\r\n") + blank,
        body,
    )


def _doubtful(failure: Failure | None) -> bool:
    """Whether the platform may have the recipient all the same."""
    return failure is not None and (failure.reason in _DOUBTFUL or getattr(failure, "sent", False))


def explicit_fingerprint(account: Account, key: str) -> bytes:
    """SHA-256 over the account and its X-Transactional-Idempotency-Key."""
    return _digest("idempotency", account.key, key)


def _digest(*pieces: str | bytes) -> bytes:
    digest = hashlib.sha256()
    for piece in pieces:
        octets = piece if isinstance(piece, bytes) else piece.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(octets))
        digest.update(octets)
    return digest.digest()


@define(eq=False)
class _UnderWay:
    """The message whose end its repetitions have to wait for, and those that wait."""

    claim: Claim
    waiting: list[Deferred[None]] = field(factory=list)


@define(eq=False)
class _Elsewhere:
    """The processes in which a message is under way, and repetitions of it that wait here."""

    processes: set[int] = field(factory=set)
    waiting: list[Deferred[None]] = field(factory=list)


def _nobody(*_: object) -> None:
    """Told of something that concerns no other process."""


class Ledger:
    """What is remembered, and what is under way for clients that have left.

    :param keep: seconds for which *memory* does, and so do we what it does not take.
    :param monotonic: in seconds.
    :ivar left: told of a fingerprint when its message is under way for a client that has left, or has an
        idempotency key: repetitions that come to other processes are to wait.
    :ivar ended: told of it when they need not wait any longer.
    :ivar remembered: called when there is something new to recall.
    """

    def __init__(
        self,
        memory: Memory,
        keep: float = policy.Ledger().keep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._memory = memory
        self._keep = keep
        self._monotonic = monotonic
        self._begun: set[Claim] = set()
        self._under_way: dict[bytes, _UnderWay] = {}  # by fingerprint
        # What the store did not take, and until when it counts; the next to end first.
        self._unwritten: OrderedDict[bytes, tuple[float, Remembered]] = OrderedDict()
        self._elsewhere: dict[bytes, _Elsewhere] = {}  # by fingerprint
        self.left: Callable[[bytes], None] = _nobody
        self.ended: Callable[[bytes], None] = _nobody
        self.remembered: Callable[[], None] = _nobody

    async def begin(
        self, envelope: Envelope, account: Account, message: Message, content: bytes, presence: Presence
    ) -> Claim:
        """Look a message up before it is delivered; :meth:`end` has to follow.

        :raises TemporaryFailure: it has an idempotency key, and the store cannot be asked.
        """
        explicit = explicit_fingerprint(account, message.idempotency_key) if message.idempotency_key else None
        claim = Claim(envelope.id, envelope, account, content, presence, explicit)
        if explicit is None:
            presence.when_gone(partial(self._let_repetitions_wait, claim))
        try:
            remembered = await self._memory.has_memories()
        except Failure:
            remembered = False
        if explicit is None and not (remembered or self._under_way or self._unwritten or self._elsewhere):
            claim.looked_up = True  # there is nothing that it could repeat
        else:
            await self._find(claim)
        self._begun.add(claim)
        return claim

    async def end(self, claim: Claim, outcomes: Sequence[Outcome], failure: Failure | None) -> None:
        """Note what became of a message, before its verdict is told.

        :param outcomes: none when nothing was posted.
        :param failure: the verdict, None for 250.
        """
        try:
            if failure is not None or claim.known or claim.explicit is not None or claim.presence.gone:
                await self._note(claim, outcomes, failure)
            # else the client is told 250 for a message of which nobody else knows
        finally:
            claim.ended = True
            self._begun.discard(claim)
            claim.presence.told()  # which else would keep the content as long as the session's message
            self._release(claim)

    async def abandon(self) -> None:
        """The relay ends, and the sessions have: remember what is still being delivered under the id that it has."""
        entries = [Remembered(each.fingerprint, each.id, tuple(sorted(each.taken))) for each in self._begun]
        await gatherResults([Deferred.fromCoroutine(self._remember(each)) for each in entries])

    # --- other processes

    @property
    def under_way(self) -> list[bytes]:
        """What :attr:`left` was told of and :attr:`ended` was not."""
        return [fingerprint for fingerprint, each in self._under_way.items() if each.claim.looked_up]

    def left_elsewhere(self, process: int, fingerprint: bytes) -> None:
        """A message is under way in another process, whose client has left."""
        self._elsewhere.setdefault(fingerprint, _Elsewhere()).processes.add(process)

    def ended_elsewhere(self, process: int, fingerprint: bytes) -> None:
        """It is not any more."""
        entry = self._elsewhere.get(fingerprint)
        if entry is None:
            return
        entry.processes.discard(process)
        if not entry.processes:
            del self._elsewhere[fingerprint]
            for waiter in entry.waiting:
                waiter.callback(None)

    def process_gone(self, process: int) -> None:
        """Nothing is under way in that process any more."""
        for fingerprint in list(self._elsewhere):
            self.ended_elsewhere(process, fingerprint)

    def _announce(self, claim: Claim) -> None:
        """Let repetitions in other processes wait, where they wait in this one.

        Whoever still looks up is not announced: two processes would wait for each other.
        """
        if self._under_way and claim.looked_up:
            under_way = self._under_way.get(claim.fingerprint)
            if under_way is not None and under_way.claim is claim:
                self.left(claim.fingerprint)

    # --- one message

    def _let_repetitions_wait(self, claim: Claim) -> None:
        """The client of a message under way has left: its repetition has to wait for what becomes of it."""
        if not claim.ended:
            self._under_way.setdefault(claim.fingerprint, _UnderWay(claim))
            self._announce(claim)

    def _release(self, claim: Claim) -> None:
        if self._under_way:
            under_way = self._under_way.get(claim.fingerprint)
            if under_way is not None and under_way.claim is claim:
                del self._under_way[claim.fingerprint]
                if claim.looked_up:
                    self.ended(claim.fingerprint)
                for waiter in under_way.waiting:
                    waiter.callback(None)

    async def _find(self, claim: Claim) -> None:
        """Find out what *claim* repeats; with an idempotency key it is remembered from now on."""
        try:
            await self._look_up(claim)
            claim.looked_up = True
            self._announce(claim)
            if claim.explicit is not None and not claim.known:
                # After a crash it is delivered under the same id.
                # Another process may have been faster.
                claim.id = (await self._memory.claim(Remembered(claim.explicit, claim.id))).id
                self.remembered()
        except Exception:
            claim.ended = True
            self._release(claim)
            raise

    async def _look_up(self, claim: Claim) -> None:
        while (waiting := self._before(claim)) is not None:
            waiter: Deferred[None] = Deferred()
            waiting.append(waiter)
            await waiter
        if claim.explicit is not None or claim.presence.gone:
            # Before anything is awaited: a repetition that comes meanwhile must not be looked up beside it.
            self._let_repetitions_wait(claim)
        until, entry = self._unwritten.get(claim.fingerprint, (0.0, None))
        if entry is None or until <= self._monotonic():
            self._unwritten.pop(claim.fingerprint, None)
            entry = None
            try:
                entry = await self._memory.recall(claim.fingerprint)
            except Failure:
                if claim.explicit is not None:
                    raise
        if entry is not None:
            claim.known = True
            claim.id = entry.id
            claim.taken = frozenset(entry.recipients)

    def _before(self, claim: Claim) -> list[Deferred[None]] | None:
        """Those that wait for a message which *claim* repeats and which is under way; None: there is none."""
        here = self._under_way.get(claim.fingerprint)
        if here is not None and here.claim is not claim:
            return here.waiting
        elsewhere = self._elsewhere.get(claim.fingerprint)
        return elsewhere.waiting if elsewhere is not None else None

    async def _note(self, claim: Claim, outcomes: Sequence[Outcome], failure: Failure | None) -> None:
        taken = claim.taken.union(outcome.recipient for outcome in outcomes if outcome.failure is None)
        doubtful = any(_doubtful(outcome.failure) for outcome in outcomes)
        told = failure is None and not claim.presence.gone
        if claim.known and told and claim.explicit is None:
            await self._forget(claim.fingerprint)
            told = not claim.presence.gone  # it may have left meanwhile
        if claim.explicit is not None or (not told and (taken or doubtful)):
            await self._remember(Remembered(claim.fingerprint, claim.id, tuple(sorted(taken))))

    async def _remember(self, entry: Remembered) -> None:
        try:
            await self._memory.remember(entry)
        except Failure as failure:
            log.error("the ledger could not be written: {why}; message {id} is remembered until the relay stops",
                      id=entry.id, why=str(failure))  # fmt: skip
            self._unwritten.pop(entry.fingerprint, None)
            self._unwritten[entry.fingerprint] = (self._monotonic() + self._keep, entry)
            if len(self._unwritten) > MOST_UNWRITTEN:
                self._unwritten.popitem(last=False)
        else:
            self._unwritten.pop(entry.fingerprint, None)
            self.remembered()

    async def _forget(self, fingerprint: bytes) -> None:
        self._unwritten.pop(fingerprint, None)
        try:
            await self._memory.forget(fingerprint)
        except Failure as failure:
            log.error("the ledger could not be written: {why}", why=str(failure))
