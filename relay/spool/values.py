"""The values that the spool keeps and gives back.  All are frozen; times are seconds since the epoch."""

from __future__ import annotations

from attrs import field, frozen

from relay.values import Submission


@frozen
class Seat:
    """One of several processes of a relay that work on one spool.

    :ivar number: which one, from 1; no two that live have the same.
    :ivar owner: what its leases say.
    :ivar epoch: when the machine's monotonic clock began, in seconds since the epoch: the same for all, so that a
        clock that is set makes no two of them disagree on whose lease has ended.
    :ivar free: owners that are gone, whose rows are due at once.
    """

    number: int
    owner: str
    epoch: float
    free: tuple[str, ...] = ()


@frozen
class Entry:
    """One recipient on its way into the spool.

    :ivar submission: what is to be posted; its Idempotency-Key stays the same for every attempt.
    :ivar attempts: how often it was posted already.
    :ivar last_answer: what the last attempt was answered, one line, ``""`` before the first.
    :ivar delay: seconds until the next attempt.
    :ivar in_flight: seconds that a posting under way may still take, in which nobody else may take the row; 0: none is.
    :ivar failed: whether it is a failure already (the platform refused it while others of its message were taken).
    :ivar reason: the :class:`~relay.errors.Reason` value of a failure.
    :ivar platform: the one of several platforms that may have it already, and alone knows its Idempotency-Key;
        ``""``: none.
    """

    submission: Submission
    attempts: int = 0
    last_answer: str = ""
    delay: float = 0.0
    in_flight: float = 0.0
    failed: bool = False
    reason: str = ""
    platform: str = ""


@frozen
class Spooled:
    """A message for the spool: what its recipients share is kept once.

    :ivar id: the queue id that the client was told.
    :ivar account: the SHA-256 of the API key in hexadecimal, which names the account in the spool.
    :ivar account_name: for people.
    :ivar entries: at least one; their submissions differ in ``to``, ``toname`` and ``idempotency_key`` only.
    """

    id: str
    account: str
    account_name: str
    entries: tuple[Entry, ...]


@frozen
class Leased:
    """A row that this process may post until its lease ends.

    :ivar row: the row's number.
    :ivar created: when the message was accepted.
    :ivar age: seconds since then, by the store's clock, which no change of the machine's time moves.
    :ivar platform: as in :class:`Entry`.
    """

    row: int
    submission: Submission
    account: str
    account_name: str
    attempts: int
    created: float
    age: float = 0.0
    platform: str = ""


@frozen
class Delivered:
    """The platform has it."""

    row: int


@frozen
class Retry:
    """Try again in *delay* seconds; *last_answer* is one line, *platform* as in :class:`Entry`."""

    row: int
    delay: float
    last_answer: str
    platform: str = ""


@frozen
class Failed:
    """It is given up: the platform refused it for good, or it grew too old.

    :ivar last_answer: ``""`` when it was not posted again: the last answer stays, and it is no attempt.
    """

    row: int
    reason: str
    last_answer: str


#: What became of a leased row.
Settlement = Delivered | Retry | Failed


@frozen
class Remembered:
    """A message whose verdict the client may not know (the ledger).

    :ivar fingerprint: SHA-256 over account, envelope and content without trace headers, or over the account and
        the X-Transactional-Idempotency-Key.
    :ivar id: the message's first id.
    :ivar recipients: those that the platform has or the spool holds.
    """

    fingerprint: bytes
    id: str
    recipients: tuple[str, ...] = ()


@frozen
class Notice:
    """A failure that ``failures.webhook`` has not been told of yet.

    :ivar body: the JSON to POST (:func:`relay.spool.failures.notice_body`).
    :ivar attempts: how often it was POSTed already.
    :ivar created: when the failure was noted; *age* is the seconds since then, by the store's clock.
    """

    row: int
    body: bytes
    attempts: int
    created: float
    age: float = 0.0


@frozen
class Row:
    """What an operator sees of a row: no content, no key.

    :ivar state: ``"due"``, ``"waiting"``, ``"in flight"`` or ``"failed"``.
    :ivar next_attempt: when; None for a failure.
    """

    row: int
    id: str
    account: str
    account_name: str
    recipient: str
    tag: str
    state: str
    created: float
    attempts: int
    next_attempt: float | None
    last_answer: str
    reason: str = ""
    size: int = 0


@frozen
class Counts:
    """How full the spool is.

    :ivar waiting: rows that are due or will be.
    :ivar in_flight: rows under a lease.
    :ivar octets: size of the contents.
    :ivar oldest: age in seconds of the oldest row that is not a failure, 0 without one.
    """

    waiting: int = 0
    in_flight: int = 0
    failed: int = 0
    octets: int = 0
    oldest: float = field(default=0.0)
