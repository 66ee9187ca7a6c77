"""What happens to a message between the socket and the platform: parse, check, route, post.

Every stage is a callable that is handed in, so that an embedder replaces one and keeps the rest::

    pipeline = Pipeline(account=keys.account, post=backend.send, parse=my_parse)
    receipt = await pipeline.accept(envelope, content)
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable, Container, Sequence
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


@define
class _Trace:
    """What is known of a message so far; becomes its submissions, and its :class:`~relay.values.Record`.

    :ivar given_key: of a message that the parser refused.
    """

    envelope: Envelope
    size: int
    started: float
    seconds: dict[str, float] = field(factory=dict)
    message: Message | None = None
    given_key: str = ""
    account: Account | None = None
    tag: str = ""
    route: str = ""

    def refused(self, glance: Glance) -> None:
        """The parser refused the message, and this is what can be told of it."""
        self.message = Message("", glance.from_email, glance.subject, "")
        self.given_key = glance.api_key

    def record(self, now: float, failure: Failure | None, receipt: Receipt | None) -> Record:
        """The line of the message log for what the client is told."""
        envelope, message, account = self.envelope, self.message or _UNREAD, self.account or self.envelope.account
        outcomes = receipt.outcomes if receipt else ()
        reply = replies.reply(failure) if failure else replies.accepted(receipt.id if receipt else envelope.id)
        return Record(
            id=envelope.id,
            account=account.name if account else "",
            key=account.prefix if account else "",
            peer=envelope.peer,
            sender=envelope.sender,
            recipients=envelope.recipients,
            tag=self.tag,
            route=self.route,
            result=_result(failure, outcomes),
            verdict=str(reply),
            reason=failure.reason.value if failure else "",
            milliseconds=(now - self.started) * 1000,
            size=self.size,
            seconds=self.seconds,
            outcomes=outcomes,
            images_removed=message.images_removed,
            attachments_removed=message.attachments_removed,
            cid_references=message.cid_references,
            headers_removed=message.headers_removed,
            from_email=message.from_email,
            subject=message.subject,
            digest=account.digest if account else key_digest(self.given_key) if self.given_key else b"",
        )


#: In place of a message of which nothing is known.
_UNREAD = Message("", "", "", "")


def _result(failure: Failure | None, outcomes: tuple[Outcome, ...]) -> str:
    if failure is not None:
        return "temporary" if isinstance(failure, TemporaryFailure) else "refused"
    result = "accepted"
    for outcome in outcomes:
        if outcome.failure is not None:
            return "partial"
        if outcome.spooled:
            result = "spooled"
    return result


def _to_a_message(failure: Failure) -> Failure:
    """*failure* as the answer to a message: 535 and 454 are replies to AUTH alone (RFC 4954 section 6)."""
    if failure.reason is Reason.BAD_KEY:
        return PermanentFailure(Reason.KEY_REFUSED, failure.text)
    if failure.reason is Reason.AUTH_UNAVAILABLE:
        return TemporaryFailure(Reason.UNREACHABLE)
    return failure


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
        trace = _Trace(envelope, len(content), self.clock())
        receipt = failure = None
        try:
            receipt = await self._take(trace, content, presence or Presence())
            failure = replies.verdict(receipt)
        except Failure as refused:
            failure = _to_a_message(refused)
            if trace.message is None:
                trace.refused(self.glance(content))
        except Exception:
            log.failure("message {id} failed", id=envelope.id)
            failure = TemporaryFailure(Reason.INTERNAL)
        self.record(trace.record(self.clock(), failure, receipt))
        if receipt is None:
            assert failure is not None
            raise failure
        return receipt

    async def _take(self, trace: _Trace, content: bytes, presence: Presence) -> Receipt:
        """All that is decided before anything is posted, and the delivery."""
        envelope, clock, seconds = trace.envelope, self.clock, trace.seconds
        message = trace.message = self.parse(content)
        trace.tag = routing.tag(message.tag)
        trace.route = message.route
        parsed = clock()
        seconds["parse"] = parsed - trace.started
        # The message's own key wins over AUTH (SMTP.md, "Authentication").
        account = envelope.account if message.api_key is None else await self.account(message.api_key, envelope.peer)
        if account is None:
            raise PermanentFailure(Reason.AUTH_REQUIRED)
        trace.account = account
        known = clock()
        seconds["account"] = known - parsed
        trace.route = self.route(message, account)
        self.check(message)
        checked = clock()
        seconds["check"] = checked - known
        receipt = await self._deliver(trace, message, account, content, presence)
        seconds["post"] = clock() - checked
        return receipt

    async def _deliver(
        self, trace: _Trace, message: Message, account: Account, content: bytes, presence: Presence
    ) -> Receipt:
        """Deliver what the ledger does not know to be delivered already."""
        envelope = trace.envelope
        deliver = self.deliver or Posting(self.post, self.forget, self.concurrency).all
        if self.ledger is None:
            return Receipt(envelope.id, await deliver(account, _submissions(trace, message, account, envelope.id)))
        claim = await self.ledger.begin(envelope, account, message, content, presence)
        try:
            missing = _submissions(trace, message, account, claim.id, claim.taken)
            outcomes = await deliver(account, missing) if missing else ()
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


def _submissions(
    trace: _Trace, message: Message, account: Account, id: str, taken: Container[str] = ()
) -> list[Submission]:
    """One for each recipient but those who are *taken* care of.

    :param id: names the Idempotency-Key of each, together with the recipient.
    """
    recipients = trace.envelope.recipients
    submissions = []
    for recipient, name in zip(recipients, names.recipient_names(message.to_names, recipients), strict=True):
        if recipient not in taken:
            submissions.append(
                Submission(
                    api_key=account.key,
                    request_id=id,
                    idempotency_key=f"{id}-{_digest(recipient)}",
                    fromname=message.from_name,
                    fromemail=message.from_email,
                    to=recipient,
                    toname=name,
                    subject=message.subject,
                    replyto=message.reply_to,
                    returnpath=trace.envelope.sender,
                    body=message.body,
                    tag=trace.tag,
                    route=trace.route,
                    template=message.template,
                    variables=message.variables,
                    attachments=message.attachments,
                )
            )
    return submissions
