"""The two ways in which a message can fail, and why.

Every refusal in the relay, of a command, a message or a recipient, is one :class:`Failure` with one
:class:`Reason`.  What a client sees for a reason stands in :mod:`relay.replies` and nowhere else.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence


class Reason(enum.Enum):
    """Why something was refused; the value is the label in logs and metrics."""

    # The session (SMTP.md, "Replies for refusals")
    UNKNOWN_COMMAND = "unknown-command"
    BAD_LINE = "bad-line"
    NOT_IMPLEMENTED = "not-implemented"
    SYNTAX = "syntax"
    ARGUMENTS = "arguments"
    UNKNOWN_PARAMETER = "unknown-parameter"
    BAD_SEQUENCE = "bad-sequence"
    SENDER_SYNTAX = "sender-syntax"
    RECIPIENT_SYNTAX = "recipient-syntax"
    NON_ASCII_ADDRESS = "non-ascii-address"
    TOO_MANY_RECIPIENTS = "too-many-recipients"
    TOO_BIG = "too-big"
    BARE_NEWLINE = "bare-newline"
    MEMORY = "memory"
    RATE = "rate"
    IDLE = "idle"
    SHUTDOWN = "shutdown"
    ABUSE = "abuse"
    # Authentication
    TLS_REQUIRED = "tls-required"
    TLS_REQUIRED_FOR_AUTH = "tls-required-for-auth"
    AUTH_REQUIRED = "auth-required"
    BAD_BASE64 = "bad-base64"
    AUTH_CANCELLED = "auth-cancelled"
    UNKNOWN_MECHANISM = "unknown-mechanism"
    BAD_KEY = "bad-key"
    AUTH_UNAVAILABLE = "auth-unavailable"
    # The message (MESSAGE.md)
    BAD_MESSAGE = "bad-message"
    UNSUPPORTED_CONTENT = "unsupported-content"
    BAD_VARIABLES = "bad-variables"
    BAD_TEMPLATE = "bad-template"
    ROUTE = "route"
    # The platform (HTTP_CONTRACT.md, "What the relay makes of the answer")
    REFUSED = "refused"
    KEY_REFUSED = "key-refused"
    FORBIDDEN = "forbidden"
    PLATFORM_TOO_BIG = "platform-too-big"
    MISCONFIGURED = "misconfigured"
    BUSY = "busy"
    UNREACHABLE = "unreachable"
    UNKNOWN_OUTCOME = "unknown-outcome"
    # Ourselves
    SPOOL_FULL = "spool-full"
    SPOOL_FAILED = "spool-failed"
    INTERNAL = "internal"


class Failure(Exception):
    """A refusal.  Raise one of the two subclasses.

    :param reason: why, as a term.
    :param text: what to change, for the person who reads the reply: one sentence without a full stop.
        It may quote the client's or the platform's words; :mod:`relay.replies` makes them safe for a line.
        Empty: the reply has the standard text of the reason.
    """

    def __init__(self, reason: Reason, text: str = "") -> None:
        super().__init__(reason, text)
        self.reason = reason
        self.text = text

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.text}" if self.text else self.reason.value


class PermanentFailure(Failure):
    """The same thing again would fail again: 5xx."""


class TemporaryFailure(Failure):
    """The same thing may succeed later: 4xx.

    :param retry_after: seconds the platform asked to wait, already clamped, or None.
    :param sent: whether the platform may have taken the message all the same.
    :ivar platform: the name of the platform that may have; ``""`` where there is only one, or none has.
    """

    def __init__(self, reason: Reason, text: str = "", retry_after: float | None = None, *, sent: bool = False) -> None:
        super().__init__(reason, text)
        self.retry_after = retry_after
        self.sent = sent
        self.platform = ""


class ConfigError(Exception):
    """The configuration is wrong.

    :param problems: every problem found, each one line that names the source, the key and the allowed values.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)
