"""What happens to a message between the socket and the platform: parse, check, route, post.

Every stage is a callable that is handed in, so that an embedder replaces one and keeps the rest::

    pipeline = Pipeline(account=keys.account, post=backend.send, parse=my_parse)
    receipt = await pipeline.accept(envelope, content)
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Protocol

from attrs import define, field, frozen
from twisted.logger import Logger

from relay import replies, routing
from relay.errors import Failure, PermanentFailure, Reason, TemporaryFailure
from relay.message import glance, names, parse
from relay.posting import Deliver, Post, Posting, ignore
from relay.presence import Presence
from relay.values import (
    Account,
    Envelope,
    Glance,
    Message,
    Outcome,
    Receipt,
    Record,
    Submission,
    key_digest,
    key_prefix,
)

#: Message content to what counts of it; raises a failure.
Parse = Callable[[bytes], Message]
#: API key and client address to the account behind the key; raises a failure.
Lookup = Callable[[str, str], Awaitable[Account]]
#: Message and account to the route on the wire; raises a failure.
ChooseRoute = Callable[[Message, Account], str]

log = Logger()


class Claim(Protocol):
    """A message in the ledger's eyes: the id to deliver it under, and who need not be posted to again."""

    id: str
    taken: frozenset[str]


class Ledger(Protocol):
    """Knows which messages are repetitions; :class:`relay.spool.ledger.Ledger`, or nobody."""

    async def begin(
        self, envelope: Envelope, account: Account, message: Message, content: bytes, presence: Presence
    ) -> Claim:
        """Look a message up before it is delivered; :meth:`end` follows."""

    async def end(self, claim: Any, outcomes: Sequence[Outcome], failure: Failure | None) -> None:
        """Note what became of it, before the client is told."""


@frozen
class _Routed:
    """A message with all that its submissions need."""

    envelope: Envelope
    message: Message
    account: Account
    tag: str
    route: str

    def submissions(self, id: str) -> Iterator[Submission]:
        """One for each recipient, under *id*, which names its Idempotency-Key together with the recipient."""
        envelope, message = self.envelope, self.message
        to_names = names.recipient_names(message.to_names, envelope.recipients)
        for recipient, name in zip(envelope.recipients, to_names, strict=True):
            yield Submission(
                api_key=self.account.key,
                request_id=id,
                idempotency_key=f"{id}-{_digest(recipient)}",
                fromname=message.from_name,
                fromemail=message.from_email,
                to=recipient,
                toname=name,
                subject=message.subject,
                replyto=message.reply_to,
                returnpath=envelope.sender,
                body=message.body,
                tag=self.tag,
                route=self.route,
                template=message.template,
                variables=message.variables,
                attachments=message.attachments,
            )


@define
class _Trace:
    """What is known of a message so far; becomes its :class:`~relay.values.Record`."""

    clock: Callable[[], float]
    started: float = field(init=False)
    lap: float = field(init=False)
    seconds: dict[str, float] = field(factory=dict)
    message: Message | None = None
    glance: Glance = field(factory=Glance)
    account: Account | None = None
    tag: str = ""
    route: str = ""

    def __attrs_post_init__(self) -> None:
        self.started = self.lap = self.clock()

    def stage(self, name: str) -> None:
        """The stage *name* ends now."""
        now = self.clock()
        self.seconds[name] = now - self.lap
        self.lap = now

    def record(self, envelope: Envelope, size: int, failure: Failure | None, receipt: Receipt | None) -> Record:
        """The line of the message log for what the client is told."""
        outcomes = receipt.outcomes if receipt else ()
        reply = replies.reply(failure) if failure else replies.accepted(receipt.id if receipt else envelope.id)
        message, account = self.message, self.account or envelope.account
        sender = message or self.glance
        key = account.key if account else self.glance.api_key
        return Record(
            id=envelope.id,
            account=account.name if account else "",
            key=key_prefix(account.key) if account else "",
            peer=envelope.peer,
            sender=envelope.sender,
            recipients=envelope.recipients,
            tag=self.tag,
            route=self.route,
            result=_result(failure, outcomes),
            verdict=str(reply),
            reason=failure.reason.value if failure else "",
            milliseconds=(self.clock() - self.started) * 1000,
            size=size,
            seconds=self.seconds,
            outcomes=outcomes,
            images_removed=message.images_removed if message else 0,
            attachments_removed=message.attachments_removed if message else 0,
            cid_references=message.cid_references if message else 0,
            headers_removed=message.headers_removed if message else (),
            from_email=sender.from_email,
            subject=sender.subject,
            digest=key_digest(key) if key else b"",
        )


def _result(failure: Failure | None, outcomes: tuple[Outcome, ...]) -> str:
    if failure is not None:
        return "temporary" if isinstance(failure, TemporaryFailure) else "refused"
    if any(outcome.failure for outcome in outcomes):
        return "partial"
    return "spooled" if any(outcome.spooled for outcome in outcomes) else "accepted"


def _digest(recipient: str) -> str:
    return hashlib.sha256(recipient.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@frozen(kw_only=True)
class Pipeline:
    """The stages of a message, in order.

    :ivar account: who is behind an API key; asked where the message brings its own X-Auth-APIKey.
    :ivar post: hands one submission to the platform.
    :ivar parse: makes a :class:`~relay.values.Message` of the content.
    :ivar glance: what is told of a message that *parse* refuses.
    :ivar check: a last look at the message, such as its template's syntax; raises a failure.
    :ivar route: chooses the route.
    :ivar deliver: takes all submissions of a message; None: *post* does, *concurrency* side by side.
    :ivar ledger: knows repetitions; None: every message is a new one.
    :ivar forget: told of a key that the platform refused.
    :ivar record: told of every message, whatever became of it.
    :ivar concurrency: recipients of one message posted side by side.
    :ivar clock: monotonic seconds.
    """

    account: Lookup
    post: Post
    parse: Parse = parse
    glance: Callable[[bytes], Glance] = glance
    check: Callable[[Message], None] = ignore
    route: ChooseRoute = routing.route
    deliver: Deliver | None = None
    ledger: Ledger | None = None
    forget: Callable[[str], None] = ignore
    record: Callable[[Record], None] = ignore
    concurrency: int = 10
    clock: Callable[[], float] = time.perf_counter

    async def accept(self, envelope: Envelope, content: bytes, presence: Presence | None = None) -> Receipt:
        """Take one message to the platform.

        :param content: what DATA brought, dot-stuffing undone, lines ending in CR LF.
        :param presence: tells whether the client is still there for the verdict; None: it is.
        :return: what became of each recipient; :func:`relay.replies.verdict` makes one answer of it.
        :raises Failure: the message was refused before anything was posted.
        """
        trace = _Trace(self.clock)
        receipt = failure = None
        try:
            routed = await self._route(trace, envelope, content)
            receipt = await self._deliver(routed, content, presence or Presence())
            trace.stage("post")
            failure = replies.verdict(receipt)
        except Failure as refused:
            failure = refused
            if trace.message is None:
                trace.glance = self.glance(content)
        except Exception:
            log.failure("message {id} failed", id=envelope.id)
            failure = TemporaryFailure(Reason.INTERNAL)
        self.record(trace.record(envelope, len(content), failure, receipt))
        if receipt is None:
            assert failure is not None
            raise failure
        return receipt

    async def _route(self, trace: _Trace, envelope: Envelope, content: bytes) -> _Routed:
        """All that is decided before anything is posted."""
        message = trace.message = self.parse(content)
        trace.tag = routing.tag(message.tag)
        trace.route = message.route
        trace.stage("parse")
        account = trace.account = await self._account(envelope, message)
        trace.stage("account")
        route = trace.route = self.route(message, account)
        self.check(message)
        trace.stage("check")
        return _Routed(envelope, message, account, trace.tag, route)

    async def _account(self, envelope: Envelope, message: Message) -> Account:
        """Who sends: the message's own key wins over AUTH (SMTP.md, "Authentication")."""
        if message.api_key is None:
            if envelope.account is None:
                raise PermanentFailure(Reason.AUTH_REQUIRED)
            return envelope.account
        try:
            return await self.account(message.api_key, envelope.peer)
        except Failure as failure:
            # 535 and 454 are replies to AUTH alone (RFC 4954 section 6).
            if failure.reason is Reason.BAD_KEY:
                raise PermanentFailure(Reason.KEY_REFUSED, failure.text) from None
            if failure.reason is Reason.AUTH_UNAVAILABLE:
                raise TemporaryFailure(Reason.UNREACHABLE) from None
            raise

    async def _deliver(self, routed: _Routed, content: bytes, presence: Presence) -> Receipt:
        """Deliver what the ledger does not know to be delivered already."""
        envelope = routed.envelope
        if self.ledger is None:
            outcomes = await self._hand_over(routed.account, tuple(routed.submissions(envelope.id)))
            return Receipt(envelope.id, outcomes)
        claim = await self.ledger.begin(envelope, routed.account, routed.message, content, presence)
        try:
            missing = [each for each in routed.submissions(claim.id) if each.to not in claim.taken]
            outcomes = await self._hand_over(routed.account, missing) if missing else ()
        except BaseException:
            # Nobody knows what the platform has: the repetition must keep the id.
            broken = TemporaryFailure(Reason.INTERNAL)
            unknown = [Outcome(each, broken) for each in envelope.recipients if each not in claim.taken]
            await self.ledger.end(claim, unknown, broken)
            raise
        if claim.taken:
            by_recipient = {outcome.recipient: outcome for outcome in outcomes}
            outcomes = tuple([by_recipient.get(each) or Outcome(each) for each in envelope.recipients])
        receipt = Receipt(claim.id, outcomes)
        await self.ledger.end(claim, outcomes, replies.verdict(receipt))
        return receipt

    async def _hand_over(self, account: Account, submissions: Sequence[Submission]) -> tuple[Outcome, ...]:
        deliver = self.deliver or Posting(self.post, self.forget, self.concurrency).all
        return await deliver(account, submissions)
