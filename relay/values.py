"""The values that move from the socket to the POST.  All are frozen; see DESIGN.md for who makes which."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from attrs import field, frozen

from relay.errors import Failure

#: A JSON object, as ``json.loads`` makes it.
JSONObject = Mapping[str, Any]


def key_prefix(key: str) -> str:
    """What may be shown of an API key: its first 4 characters and an ellipsis."""
    return f"{key[:4]}…" if key else ""


def key_digest(key: str) -> bytes:
    """What stands for an API key where it is to be recognized and not known: its SHA-256."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


@frozen
class Route:
    """A postal route of an account: *id* goes on the wire, either names it."""

    id: str
    name: str


@frozen
class Account:
    """A customer of the platform, known by an API key that the platform's ping has accepted.

    :ivar key: the API key; never shown.
    :ivar name: the company's name, ``""`` when the platform does not tell.
    :ivar routes: the routes it may use, or None when the platform does not tell.
    :ivar default_route: the id of the route used when a message names none, or ``""``.
    """

    key: str = field(repr=False)
    name: str = ""
    routes: tuple[Route, ...] | None = None
    default_route: str = ""

    @cached_property
    def prefix(self) -> str:
        """What may be shown of the key: :func:`key_prefix`."""
        return key_prefix(self.key)

    @cached_property
    def digest(self) -> bytes:
        """What stands for the key: :func:`key_digest`."""
        return key_digest(self.key)


@frozen
class Envelope:
    """One SMTP transaction, as MAIL and RCPT gave it (RFC 5321 section 2.3.1).

    :ivar id: the queue id of the reply, upper-case letters and digits.
    :ivar sender: MAIL FROM without angle brackets, ``""`` for the null sender.
    :ivar recipients: RCPT TO in order, duplicates removed, at least one.
    :ivar peer: the client's address, ``"192.0.2.1"``.
    :ivar account: who signed in with AUTH, or None.
    """

    id: str
    sender: str
    recipients: tuple[str, ...]
    peer: str = ""
    account: Account | None = None


@frozen
class Attachment:
    """A file beside the body; only where ``attachments = "forward"``."""

    filename: str
    content_type: str
    content: bytes = field(repr=False)


@frozen
class Message:
    """What counts of a message (MESSAGE.md).  All text is decoded and free of control characters.

    :ivar to_names: (address, name) of each mailbox in To, in order; either may be ``""``.
    :ivar reply_to: the Reply-To header, decoded, whole.
    :ivar tag: X-Transactional-Tag as given; :func:`relay.routing.tag` normalizes it.
    :ivar variables: X-Transactional-Variables, or None when there is no such header.
    :ivar body: the HTML.
    :ivar api_key: X-Auth-APIKey or None.
    :ivar idempotency_key: X-Transactional-Idempotency-Key, ``""`` without one.
    :ivar images_removed: number of image parts left out.
    :ivar attachments_removed: number of other parts left out (``attachments = "strip"``).
    :ivar cid_references: number of ``cid:`` references that the HTML still holds; not counted without other parts.
    :ivar headers_removed: names of the headers that do not count, as first written: the first 50, cut to 100
        characters.  Since they do not count, messages that differ only in them are equal.
    """

    from_name: str
    from_email: str
    subject: str
    body: str
    to_names: tuple[tuple[str, str], ...] = ()
    reply_to: str = ""
    tag: str = ""
    route: str = ""
    template: str = ""
    variables: JSONObject | None = None
    api_key: str | None = field(default=None, repr=False)
    idempotency_key: str = ""
    attachments: tuple[Attachment, ...] = ()
    images_removed: int = 0
    attachments_removed: int = 0
    cid_references: int = 0
    headers_removed: tuple[str, ...] = field(default=(), eq=False)


@frozen
class Glance:
    """What can be told of a message that is refused for its form, ``""`` where nothing can.

    :ivar api_key: X-Auth-APIKey as it stands there; nobody has accepted it.
    """

    from_email: str = ""
    subject: str = ""
    api_key: str = field(default="", repr=False)


@frozen
class Submission:
    """One POST: one message for one recipient (HTTP_CONTRACT.md).

    :ivar request_id: the message's id, sent as X-Request-ID.
    :ivar idempotency_key: the same for every attempt at this recipient of this message.
    """

    api_key: str = field(repr=False)
    request_id: str
    idempotency_key: str
    fromname: str
    fromemail: str
    to: str
    toname: str
    subject: str
    replyto: str
    returnpath: str
    body: str = field(repr=False)
    tag: str
    route: str
    template: str
    variables: JSONObject | None
    attachments: Sequence[Attachment] = ()


@frozen
class Outcome:
    """What became of one recipient; *failure* is None when the platform has it, or it is durably spooled."""

    recipient: str
    failure: Failure | None = None
    spooled: bool = False


@frozen
class Receipt:
    """What became of a message: one outcome a recipient, in the envelope's order."""

    id: str
    outcomes: tuple[Outcome, ...]


@frozen
class Record:
    """What came, from whom, and what the client was told: most of it is a line of the log.

    :ivar verdict: the reply's code, enhanced code and text, e.g. ``"250 Ok: queued as …"``.
    :ivar result: ``"accepted"``, ``"spooled"`` (at least in part), ``"partial"``, ``"temporary"`` or ``"refused"``;
        the label in the metrics.
    :ivar reason: the :class:`~relay.errors.Reason` value of the verdict, ``""`` when accepted.
    :ivar seconds: time by stage (``"parse"``, ``"account"``, ``"post"``), in order.
    :ivar milliseconds: from the end of DATA to the verdict.
    :ivar headers_removed: as in :class:`Message`; empty where the parser refused it.
    :ivar from_email: with *subject*, as in :class:`Message`, or of the :class:`Glance` where the parser refused it.
    :ivar digest: :func:`key_digest` of the account's API key, or of the one that a message brought which the parser
        refused; empty without either.
    """

    id: str
    account: str
    key: str
    peer: str
    sender: str
    recipients: tuple[str, ...]
    tag: str
    route: str
    result: str
    verdict: str
    reason: str
    milliseconds: float
    size: int
    seconds: Mapping[str, float]
    outcomes: tuple[Outcome, ...] = ()
    images_removed: int = 0
    attachments_removed: int = 0
    cid_references: int = 0
    headers_removed: tuple[str, ...] = ()
    from_email: str = ""
    subject: str = ""
    digest: bytes = field(default=b"", repr=False)
