"""What a client is told: one table from :class:`~relay.errors.Reason` to an SMTP reply (SMTP.md, HTTP_CONTRACT.md).

Whether a failure is 4xx or 5xx is decided here and nowhere else.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from relay.errors import Failure, Reason, TemporaryFailure
from relay.values import Receipt

#: Longest description of the platform's that is passed on, in characters (HTTP_CONTRACT.md).
LONGEST_TEXT = 400

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


class Reply(NamedTuple):
    """One SMTP reply (RFC 5321 section 4.2); *enhanced* is ``""`` where there is none (RFC 3463)."""

    code: int
    enhanced: str
    text: str

    def __str__(self) -> str:
        return f"{self.code} {self.enhanced} {self.text}" if self.enhanced else f"{self.code} {self.text}"

    def line(self) -> bytes:
        """The reply as it stands on the wire, CR LF included; what is not ASCII becomes ``?``."""
        return f"{self}\r\n".encode("ascii", "replace")


_R = Reason
_TABLE: dict[Reason, Reply] = {
    _R.UNKNOWN_COMMAND: Reply(500, "5.5.1", "Command not recognized"),
    _R.BAD_LINE: Reply(500, "5.5.2", "Commands are ASCII lines that end in CR LF"),
    _R.NOT_IMPLEMENTED: Reply(502, "5.5.1", "Command not implemented"),
    _R.SYNTAX: Reply(501, "5.5.2", "Syntax error"),
    _R.ARGUMENTS: Reply(501, "5.5.4", "Arguments not allowed here"),
    _R.UNKNOWN_PARAMETER: Reply(555, "5.5.4", "Parameter not recognized"),
    _R.BAD_SEQUENCE: Reply(503, "5.5.1", "Bad sequence of commands"),
    _R.SENDER_SYNTAX: Reply(501, "5.1.7", "Sender address: syntax is MAIL FROM:<local@domain>"),
    _R.RECIPIENT_SYNTAX: Reply(501, "5.1.3", "Recipient address: syntax is RCPT TO:<local@domain>"),
    _R.NON_ASCII_ADDRESS: Reply(553, "5.6.7", "A non-ASCII address needs SMTPUTF8 at MAIL"),
    _R.TOO_MANY_RECIPIENTS: Reply(452, "4.5.3", "Too many recipients, send the rest in another message"),
    _R.TOO_BIG: Reply(552, "5.3.4", "Message is too big"),
    _R.BARE_NEWLINE: Reply(550, "5.5.2", "Lines of a message must end in CR LF"),
    _R.MEMORY: Reply(452, "4.3.1", "Not enough memory now, try again later"),
    _R.RATE: Reply(450, "4.7.1", "Too many messages, try again later"),
    _R.IDLE: Reply(421, "4.4.2", "Timeout, closing connection"),
    _R.SHUTDOWN: Reply(421, "4.3.2", "Service is stopping, try again later"),
    _R.ABUSE: Reply(421, "4.7.0", "Too many errors, closing connection"),
    _R.TLS_REQUIRED: Reply(530, "5.7.0", "Send STARTTLS first"),
    _R.TLS_REQUIRED_FOR_AUTH: Reply(538, "5.7.11", "Send STARTTLS before AUTH"),
    _R.AUTH_REQUIRED: Reply(
        530, "5.7.0", "Authentication required: AUTH with the API key as password, or X-Auth-APIKey"
    ),
    _R.BAD_BASE64: Reply(501, "5.5.2", "Not valid base64"),
    _R.AUTH_CANCELLED: Reply(501, "5.7.0", "Authentication cancelled"),
    _R.UNKNOWN_MECHANISM: Reply(504, "5.5.4", "Mechanism not supported, use PLAIN or LOGIN"),
    _R.BAD_KEY: Reply(535, "5.7.8", "API key not accepted"),
    _R.AUTH_UNAVAILABLE: Reply(454, "4.7.0", "The API key cannot be checked now, try again later"),
    _R.BAD_MESSAGE: Reply(554, "5.6.0", "Message is malformed"),
    _R.UNSUPPORTED_CONTENT: Reply(554, "5.6.1", "Content not supported"),
    _R.BAD_VARIABLES: Reply(554, "5.6.0", "X-Transactional-Variables is not a JSON object"),
    _R.BAD_TEMPLATE: Reply(554, "5.6.0", "Template syntax error"),
    _R.ROUTE: Reply(550, "5.7.1", "Route not available"),
    _R.REFUSED: Reply(554, "5.6.0", "Refused by the platform"),
    _R.KEY_REFUSED: Reply(554, "5.7.8", "API key not accepted"),
    _R.FORBIDDEN: Reply(550, "5.7.1", "Not allowed for this API key"),
    _R.PLATFORM_TOO_BIG: Reply(552, "5.3.4", "Message is too big for the platform"),
    _R.MISCONFIGURED: Reply(451, "4.3.5", "The relay's platform is misconfigured, try again later"),
    _R.BUSY: Reply(451, "4.7.1", "The platform is busy, try again later"),
    _R.UNREACHABLE: Reply(451, "4.4.1", "The platform is not reachable, try again later"),
    _R.UNKNOWN_OUTCOME: Reply(451, "4.4.2", "The platform's answer was lost, try again later"),
    _R.SPOOL_FULL: Reply(452, "4.3.1", "The spool is full, try again later"),
    _R.SPOOL_FAILED: Reply(451, "4.3.0", "The spool cannot be written, try again later"),
    _R.INTERNAL: Reply(451, "4.3.0", "Local error, try again later"),
}


def one_line(text: str) -> str:
    """*text* for a reply: runs of control characters and line ends become a space, at most 400 characters."""
    return _UNPRINTABLE.sub(" ", text).strip()[:LONGEST_TEXT]


def reply(failure: Failure) -> Reply:
    """The reply for *failure*; its own text where it has one, else the standard one."""
    standard = _TABLE[failure.reason]
    text = one_line(failure.text)
    return standard._replace(text=text) if text else standard


def accepted(message_id: str) -> Reply:
    """The success line: the id last, no enhanced code before "Ok" (Symfony and Laravel read the id from it)."""
    return Reply(250, "", f"Ok: queued as {message_id}")


def verdict(receipt: Receipt) -> Failure | None:
    """The one answer for a message with several recipients, None for 250.

    A recipient that should have been spooled and was not: that failure, so that the client sends the message again;
    the ledger knows who has it already.  Else all or some accepted: 250, because a 4xx or 5xx would make the client
    send to the accepted ones again.  None accepted: the first temporary failure if there is one, else the first.
    """
    if len(receipt.outcomes) == 1:
        return receipt.outcomes[0].failure
    failures = [outcome.failure for outcome in receipt.outcomes if outcome.failure is not None]
    for failure in failures:
        if failure.reason in (Reason.SPOOL_FULL, Reason.SPOOL_FAILED):
            return failure
    if len(failures) < len(receipt.outcomes):
        return None
    return next((each for each in failures if isinstance(each, TemporaryFailure)), failures[0])
