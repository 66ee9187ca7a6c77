"""Fakes for tests of the relay and of what embeds it: a client's end of a session, and a platform.  All in memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from itertools import count
from typing import Any

from attrs import define, field
from twisted.cred.portal import Portal
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReactorTime, ITLSTransport
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure as TwistedFailure
from zope.interface import implementer

from relay.errors import Failure, PermanentFailure, Reason, TemporaryFailure
from relay.pipeline import Pipeline
from relay.policy import Auth, Spool
from relay.smtp.auth import Keys, make_portal
from relay.smtp.factory import SubmissionFactory
from relay.spool.failures import notice_body
from relay.spool.values import (
    Counts,
    Delivered,
    Entry,
    Failed,
    Leased,
    Notice,
    Remembered,
    Retry,
    Row,
    Settlement,
    Spooled,
)
from relay.values import Account, Submission

#: The key that :class:`FakePlatform` accepts.
KEY = "test-key-0123456789"


class FakePlatform:
    """A platform in memory.

    :ivar accounts: the accounts by key; any other key is refused.
    :ivar submissions: what was posted, in order, refused ones too.
    :ivar verdicts: by recipient, the failure that its posting raises.
    :ivar down: the failure that everything raises, or None.
    :ivar held: while not None, postings wait; :meth:`release` lets one through.
    """

    def __init__(self, *accounts: Account) -> None:
        self.accounts = {account.key: account for account in accounts or (Account(KEY, "Test Company"),)}
        self.submissions: list[Submission] = []
        self.verdicts: dict[str, Failure] = {}
        self.down: Failure | None = None
        self.held: list[Deferred[None]] | None = None
        self.pings = 0

    async def ping(self, key: str) -> Account:
        """The account behind *key*."""
        self.pings += 1
        if self.down is not None:
            raise self.down
        if key not in self.accounts:
            raise PermanentFailure(Reason.BAD_KEY)
        return self.accounts[key]

    async def send(self, submission: Submission) -> None:
        """Take one submission, or raise its verdict."""
        self.submissions.append(submission)
        if self.held is not None:
            turn: Deferred[None] = Deferred()
            self.held.append(turn)
            await turn
        if self.down is not None:
            raise self.down
        if submission.to in self.verdicts:
            raise self.verdicts[submission.to]

    def release(self, place: int = 0) -> None:
        """Let one held posting go on."""
        assert self.held is not None
        self.held.pop(place).callback(None)


#: When a :class:`MemoryStore` begins, in seconds since the epoch.
EPOCH = 1_700_000_000.0


@define
class _Kept:
    """A recipient, or a notice, in a :class:`MemoryStore`; times are those of the clock."""

    row: int
    created: float
    next_attempt: float
    lease_until: float = 0.0
    attempts: int = 0
    last_answer: str = ""
    # of a recipient
    message: Spooled = field(default=None, repr=False)
    entry: Entry = field(default=None, repr=False)
    platform: str = ""
    failed: float | None = None
    reason: str = ""
    # of a notice
    body: bytes = b""

    def due_in(self, now: float) -> float:
        """Seconds until it may be taken; negative when it could have been."""
        return max(self.next_attempt, self.lease_until) - now


class MemoryStore:
    """A spool in memory, with the contract of the real one; nothing outlives it.

    :param clock: its steady clock.
    :param notices: whether a failure makes a notice for ``failures.webhook``.
    :param keep: seconds for which a message is remembered (``ledger.keep``).
    :ivar down: the failure that everything raises, or None.
    """

    def __init__(
        self, clock: IReactorTime, policy: Spool | None = None, *, notices: bool = False, keep: float = 86_400.0
    ) -> None:
        self.down: Failure | None = None
        self._clock = clock
        self._policy = policy or Spool()
        self._tells = notices
        self._keep = keep
        self._numbers = count(1)
        self._rows: dict[int, _Kept] = {}
        self._notices: dict[int, _Kept] = {}
        self._memories: dict[bytes, tuple[float, Remembered]] = {}
        self._served = ""

    async def put(self, message: Spooled) -> list[int]:
        """Keep a message; the rows of its entries, in order.

        :raises TemporaryFailure: SPOOL_FULL.
        """
        self._check()
        counts = await self.counts()
        octets = counts.octets + len(message.entries[0].submission.body)
        if len(self._rows) + len(message.entries) > self._policy.max_rows or octets > self._policy.max_bytes:
            raise TemporaryFailure(Reason.SPOOL_FULL)
        return [self._put(message, entry) for entry in message.entries]

    def _put(self, message: Spooled, entry: Entry) -> int:
        now = self._clock.seconds()
        row = _Kept(
            next(self._numbers),
            created=now,
            next_attempt=now + entry.delay,
            lease_until=now + entry.in_flight,
            attempts=entry.attempts,
            last_answer=entry.last_answer,
            message=message,
            entry=entry,
            platform=entry.platform,
        )
        self._rows[row.row] = row
        if entry.failed:
            self._fail(row, entry.reason)
        return row.row

    async def take(self, limit: int, *, exclude_accounts: Collection[str] = ()) -> list[Leased]:
        """At most *limit* rows that are due, under a lease: one of each account in turn, its longest due first."""
        self._check()
        now = self._clock.seconds()
        waiting: dict[str, list[_Kept]] = {}
        for row in sorted(self._rows.values(), key=lambda row: (row.due_in(now), row.row)):
            if row.failed is None and row.due_in(now) <= 0 and row.message.account not in exclude_accounts:
                waiting.setdefault(row.message.account, []).append(row)
        taken: list[_Kept] = []
        while waiting and len(taken) < limit:
            account = min((each for each in waiting if each > self._served), default=min(waiting))
            taken.append(waiting[account].pop(0))
            if not waiting[account]:
                del waiting[account]
            self._served = account
        for row in taken:
            row.lease_until = now + self._policy.lease
        return [self._leased(row) for row in taken]

    def _leased(self, row: _Kept) -> Leased:
        return Leased(
            row.row,
            row.entry.submission,
            row.message.account,
            row.message.account_name,
            row.attempts,
            EPOCH + row.created,
            self._clock.seconds() - row.created,
            row.platform,
        )

    async def renew(self, rows: Iterable[int]) -> None:
        """Let the leases of *rows* begin anew."""
        self._check()
        for row in rows:
            if row in self._rows:
                self._rows[row].lease_until = self._clock.seconds() + self._policy.lease

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Note what became of rows; those that are gone are passed over."""
        self._check()
        for settlement in settlements:
            row = self._rows.get(settlement.row)
            if row is None:
                continue
            if isinstance(settlement, Delivered):
                del self._rows[row.row]
                continue
            self._again(row, settlement)
            if isinstance(settlement, Retry):
                row.platform = settlement.platform
            else:
                self._fail(row, settlement.reason)

    def _again(self, row: _Kept, settlement: Retry | Failed) -> None:
        if settlement.last_answer:  # else it was given up unposted
            row.attempts += 1
            row.last_answer = settlement.last_answer
        row.lease_until = 0.0
        if isinstance(settlement, Retry):
            row.next_attempt = self._clock.seconds() + settlement.delay

    def _fail(self, row: _Kept, reason: str) -> None:
        now = row.failed = self._clock.seconds()
        row.reason = reason
        if self._tells:
            body = notice_body(
                row.entry.submission,
                row.message.account_name,
                reason=reason,
                answer=row.last_answer,
                attempts=row.attempts,
                accepted_at=EPOCH + row.created,
                failed_at=EPOCH + now,
            )
            notice = _Kept(next(self._numbers), created=now, next_attempt=now, body=body)
            self._notices[notice.row] = notice

    async def next_due(self) -> float | None:
        """Seconds until a row may be taken, 0 when one may now; None without one."""
        self._check()
        now = self._clock.seconds()
        soonest = min((row.due_in(now) for row in self._rows.values() if row.failed is None), default=None)
        return None if soonest is None else max(soonest, 0.0)

    async def counts(self) -> Counts:
        """How full it is."""
        self._check()
        now = self._clock.seconds()
        alive = [row for row in self._rows.values() if row.failed is None]
        in_flight = sum(row.lease_until > now for row in alive)
        contents = {row.message.id: len(row.entry.submission.body) for row in self._rows.values()}
        return Counts(
            waiting=len(alive) - in_flight,
            in_flight=in_flight,
            failed=len(self._rows) - len(alive),
            octets=sum(contents.values()),
            oldest=max((now - row.created for row in alive), default=0.0),
        )

    # --- the ledger

    async def remember(self, entry: Remembered) -> None:
        """Keep *entry*; one with the same fingerprint is replaced."""
        self._check()
        self._memories[entry.fingerprint] = self._clock.seconds() + self._keep, entry

    async def recall(self, fingerprint: bytes) -> Remembered | None:
        """The entry, None when there is none or it is too old."""
        self._check()
        until, entry = self._memories.get(fingerprint, (0.0, None))
        return entry if until > self._clock.seconds() else None

    async def forget(self, fingerprint: bytes) -> None:
        """Drop the entry."""
        self._check()
        self._memories.pop(fingerprint, None)

    async def has_memories(self) -> bool:
        """Whether there is any entry."""
        self._check()
        return bool(self._memories)

    # --- notices

    async def take_notices(self, limit: int) -> list[Notice]:
        """At most *limit* notices that are due, the oldest first, under a lease."""
        self._check()
        now = self._clock.seconds()
        taken = [notice for notice in self._notices.values() if notice.due_in(now) <= 0][:limit]
        for notice in taken:
            notice.lease_until = now + self._policy.lease
        return [Notice(each.row, each.body, each.attempts, EPOCH + each.created, now - each.created) for each in taken]

    async def settle_notices(self, settlements: Sequence[Settlement]) -> None:
        """Note what became of notices: delivered and failed ones are gone."""
        self._check()
        for settlement in settlements:
            if not isinstance(settlement, Retry):
                self._notices.pop(settlement.row, None)
            elif settlement.row in self._notices:
                self._again(self._notices[settlement.row], settlement)

    # --- operators

    async def listing(self) -> list[Row]:
        """Every row as an operator sees it."""
        self._check()
        return [self._shown(row) for row in self._rows.values()]

    def _shown(self, row: _Kept) -> Row:
        now, submission = self._clock.seconds(), row.entry.submission
        state = "failed" if row.failed is not None else "in flight" if row.lease_until > now else ""
        return Row(
            row=row.row,
            id=row.message.id,
            account=row.message.account,
            account_name=row.message.account_name,
            recipient=submission.to,
            tag=submission.tag,
            state=state or ("waiting" if row.next_attempt > now else "due"),
            created=EPOCH + row.created,
            attempts=row.attempts,
            next_attempt=None if row.failed is not None else EPOCH + row.next_attempt,
            last_answer=row.last_answer,
            reason=row.reason,
            size=len(submission.body),
        )

    async def purge(self) -> None:
        """Drop failures and ledger entries that are too old."""
        self._check()
        now = self._clock.seconds()
        for row in list(self._rows.values()):
            if row.failed is not None and now - row.failed >= self._policy.keep_failures:
                del self._rows[row.row]
        self._memories = {key: value for key, value in self._memories.items() if value[0] > now}

    async def close(self) -> None:
        """Nothing is left to be done."""

    def _check(self) -> None:
        if self.down is not None:
            raise self.down


@implementer(ITLSTransport)
class Transport(StringTransport):
    """A transport that remembers that it was aborted, and that TLS was started; octets are never encrypted."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        StringTransport.__init__(self, peerAddress=IPv4Address("TCP", address, 40000))
        self.aborted = False
        self.tls: object = None
        self.write_closed = False

    def loseWriteConnection(self) -> None:
        """The other end reads to the end; it may still send."""
        self.write_closed = True

    def getTcpNoDelay(self) -> bool:
        """See ITCPTransport."""
        return False

    def setTcpNoDelay(self, enabled: bool) -> None:
        """See ITCPTransport."""

    def getTcpKeepAlive(self) -> bool:
        """See ITCPTransport."""
        return False

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """See ITCPTransport."""

    def startTLS(self, contextFactory: object) -> None:
        """From now on everything counts as encrypted."""
        self.tls = contextFactory

    def abortConnection(self) -> None:
        """Cut off."""
        self.aborted = True
        StringTransport.abortConnection(self)


class Dialogue:
    """The client's end of one session.

    :param one_octet_at_a_time: cut everything that is sent into segments of one octet.
    """

    def __init__(
        self,
        factory: SubmissionFactory,
        *,
        address: str = "127.0.0.1",
        one_octet_at_a_time: bool = False,
    ) -> None:
        self.transport = Transport(address)
        self.session = factory.buildProtocol(None)
        self.session.factory = factory
        self._split = one_octet_at_a_time
        self._gone = False
        self.session.makeConnection(self.transport)
        self.greeting = self.read()

    def read(self) -> list[str]:
        """The lines that the relay has sent since the last call."""
        octets = StringTransport.value(self.transport)
        StringTransport.clear(self.transport)
        return bytes(octets).decode().splitlines()

    def send(self, octets: bytes | str) -> list[str]:
        """Send octets as they are; the lines that come back."""
        octets = octets.encode() if isinstance(octets, str) else octets
        for segment in [octets[i : i + 1] for i in range(len(octets))] if self._split else [octets]:
            self.session.dataReceived(segment)
        return self.read()

    def command(self, line: bytes | str) -> list[str]:
        """Send one line; the lines that come back."""
        return self.send((line.encode() if isinstance(line, str) else line) + b"\r\n")

    def hello(self) -> list[str]:
        """EHLO."""
        return self.command("EHLO client.example")

    def envelope(self, *recipients: str, sender: str = "bounce@shop.example") -> list[str]:
        """EHLO, MAIL, RCPT and DATA; the answer to DATA."""
        self.hello()
        self.command(f"MAIL FROM:<{sender}>")
        for recipient in recipients or ("rcpt@customer.example",):
            self.command(f"RCPT TO:<{recipient}>")
        return self.command("DATA")

    def message(self, content: bytes | str) -> list[str]:
        """The content, dot-stuffed, and its end; the verdict, if it is there."""
        octets = content.encode() if isinstance(content, str) else content
        if not octets.endswith(b"\r\n"):
            octets += b"\r\n"
        stuffed = octets.replace(b"\r\n.", b"\r\n..")
        return self.send((b"." + stuffed if stuffed.startswith(b".") else stuffed) + b".\r\n")

    def leave(self) -> None:
        """The connection is lost."""
        if not self._gone:
            self._gone = True
            self.session.connectionLost(TwistedFailure(ConnectionDone()))

    @property
    def closed(self) -> bool:
        """Whether the relay has ended the connection."""
        return self.transport.disconnecting or self.transport.aborted or self.transport.write_closed


def make_message(body: str = "<p>Hello</p>", key: str | None = KEY, **headers: str) -> str:
    """A message as an application sends it; ``Reply_To="x"`` becomes ``Reply-To: x``."""
    fields = {"From": "Shop <shop@shop.example>", "Subject": "Hello", "Content-Type": "text/html; charset=utf-8"}
    if key is not None:
        fields["X-Auth-APIKey"] = key
    fields.update({name.replace("_", "-"): value for name, value in headers.items()})
    return "".join(f"{name}: {value}\r\n" for name, value in fields.items()) + f"\r\n{body}\r\n"


def make_factory(
    platform: FakePlatform,
    clock: Clock | None = None,
    *,
    auth: Auth | None = None,
    pipeline: dict[str, Any] | None = None,
    accept: Callable[..., Awaitable[Any]] | None = None,
    portal: Portal | None = None,
    **arguments: Any,
) -> SubmissionFactory:
    """A factory before a platform in memory, with the whole pipeline between them.

    :param pipeline: arguments of :class:`~relay.pipeline.Pipeline` to replace.
    :param accept: replaces the pipeline as a whole.
    :param arguments: of :class:`~relay.smtp.factory.SubmissionFactory`.
    """
    clock = clock or Clock()
    keys = Keys(platform.ping, auth or Auth(), clock)
    stages: dict[str, Any] = {"account": keys.account, "post": platform.send, "forget": keys.forget}
    stages.update(pipeline or {})
    take = accept or Pipeline(**stages).accept
    policy = arguments.get("policy")
    header_auth = policy.header_auth if policy is not None else True
    return SubmissionFactory(portal or make_portal(keys, take, header_auth=header_auth), clock=clock, **arguments)
