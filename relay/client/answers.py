"""What the relay makes of the platform's answer: one pure table (HTTP_CONTRACT.md, the last section).

Nothing here knows how the answer came; see :mod:`relay.client.request`.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from email.utils import parsedate_to_datetime

from attrs import field, frozen

from relay import wire
from relay.errors import Failure, PermanentFailure, Reason, TemporaryFailure
from relay.values import key_prefix

#: The shortest Retry-After: a platform that is busy is not helped by a repetition at once.
SHORTEST_RETRY_AFTER = 1.0

_LABELS = {status: str(status) for status in range(100, 600)}
_DIGITS = re.compile(r"-?[0-9]+(\.[0-9]*)?")


class End(enum.Enum):
    """How the body of an answer ended."""

    COMPLETE = "complete"
    #: Without a length, by the end of the connection (RFC 9112 section 6.3, rule 8): it may be all or a part.
    OPEN = "open"
    #: Before the length that was announced, or within a chunk.
    CUT = "cut"
    #: Past ``platform.answer_size``; the rest was not read.
    TOO_LONG = "too-long"


@frozen
class Answer:
    """One HTTP answer.

    :ivar body: as it came, not decompressed, at most ``platform.answer_size``.
    :ivar headers: (name, value) of each field, as they came.
    """

    status: int
    body: bytes = field(default=b"", repr=False)
    end: End = End.COMPLETE
    headers: Sequence[tuple[bytes, bytes]] = ()

    def header(self, name: bytes) -> str:
        """The first value of the header field *name*, in small letters here; ``""`` without one."""
        for each, value in self.headers:
            if each.lower() == name:
                return value.decode("latin-1").strip()
        return ""

    @property
    def success(self) -> bool:
        """Whether the status is a 2xx."""
        return 200 <= self.status <= 299

    @property
    def whole(self) -> bool:
        """Whether the body is known to be all of it.

        A body that the end of the connection ended is, when it is a JSON object or list: no part of one is JSON.
        """
        if self.end is End.OPEN:
            return self.body.rstrip()[-1:] in (b"}", b"]") and wire.is_accepted(self.body)
        return self.end is End.COMPLETE

    @property
    def label(self) -> str:
        """The answer in the metrics, a bounded set: its status, or ``truncated`` where that alone says nothing."""
        if self.success and not self.whole:
            return "truncated"
        return _LABELS.get(self.status, "error")


class NoAnswer(Exception):
    """The platform gave no answer that could be read.

    :param label: ``refused``, ``dns``, ``tls``, ``timeout``, ``lost``, ``truncated`` or ``error``; for the metrics.
    :param sent: whether the platform may have the request all the same.
    """

    def __init__(self, label: str, *, sent: bool) -> None:
        super().__init__(label)
        self.label = label
        self.sent = sent

    def failure(self) -> TemporaryFailure:
        """A deadline or a failure of TLS is unreachable (HTTP_CONTRACT.md); an answer that was lost is not known."""
        unknown = self.sent and self.label not in ("timeout", "tls")
        return TemporaryFailure(Reason.UNKNOWN_OUTCOME if unknown else Reason.UNREACHABLE, sent=self.sent)


#: Status to failure, for the statuses that have a row of their own; the platform's words go with the first three.
_PERMANENT = {
    400: Reason.REFUSED,
    422: Reason.REFUSED,
    403: Reason.FORBIDDEN,
    401: Reason.KEY_REFUSED,
    413: Reason.PLATFORM_TOO_BIG,
}
_WITH_DESCRIPTION = {Reason.REFUSED, Reason.FORBIDDEN}
_BUSY = {408, 425, 429}
#: The one 5xx that says that nothing was done (RFC 9110 section 15.6.4).  Behind a 500 the platform may have broken
#: after it took the message; behind a 502 or 504 a proxy lost the answer to what it had passed on.
_UNAVAILABLE = 503


def failure(answer: Answer, *, key: str, retry_after_maximum: float, now: float) -> Failure | None:
    """The failure that *answer* to a submission is, None when the platform has it.

    A 2xx that is complete and not JSON did not come from the platform's API (a login page, a proxy, a compressed
    body): nothing says that the message was taken, and somebody has to look at the configuration.

    :param key: taken out of the description, should the platform repeat it.
    :param retry_after_maximum: seconds, the longest Retry-After that is honoured.
    :param now: seconds since the epoch, for a Retry-After that is a date when the answer has no Date.
    """
    status = answer.status
    if answer.success:
        if not answer.whole:
            return TemporaryFailure(Reason.UNKNOWN_OUTCOME, sent=True)
        return None if wire.is_accepted(answer.body) else TemporaryFailure(Reason.MISCONFIGURED, sent=True)
    if status in _PERMANENT:
        reason = _PERMANENT[status]
        return PermanentFailure(reason, description(answer, key) if reason in _WITH_DESCRIPTION else "")
    if status in _BUSY or 500 <= status <= 599:
        busy = status in _BUSY
        return TemporaryFailure(
            Reason.BUSY if busy else Reason.UNREACHABLE,
            retry_after=retry_after(answer, retry_after_maximum, now),
            sent=not busy and status != _UNAVAILABLE,
        )
    return TemporaryFailure(Reason.MISCONFIGURED)


def description(answer: Answer, key: str) -> str:
    """What the platform says of an error, without the API key; ``""`` where it says nothing."""
    said = wire.decode_error(answer.body)
    return said.replace(key, key_prefix(key)) if key else said


def oddity(answer: Answer, key: str) -> str:
    """What is wrong with an answer that no platform gives, for the log: one line, without the API key."""
    if answer.success:
        return "without JSON"
    location = answer.header(b"location")
    if not location:
        return ""
    where = ascii(location[:200])[1:-1]
    return f"to {where.replace(key, key_prefix(key)) if key else where}"


def retry_after(answer: Answer, maximum: float, now: float) -> float | None:
    """The answer's Retry-After in seconds (RFC 9110 section 10.2.3), from 1 to *maximum*; None without a valid one.

    A date is measured from the answer's own Date, so that a clock that is wrong here does no harm.
    """
    given = answer.header(b"retry-after")
    if _DIGITS.fullmatch(given):
        seconds = float(given)  # a number of any length: infinite at worst
    else:
        until = _timestamp(given)
        if until is None:
            return None
        started = _timestamp(answer.header(b"date"))
        seconds = until - (now if started is None else started)
    return min(max(seconds, SHORTEST_RETRY_AFTER), maximum)


def _timestamp(date: str) -> float | None:
    """An HTTP date in seconds since the epoch, None if it is none."""
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
