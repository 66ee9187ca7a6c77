"""Bytes to :class:`~relay.values.Message`: pure, bounded, linear; MESSAGE.md says what becomes of what."""

from __future__ import annotations

import re

from relay.errors import PermanentFailure, Reason
from relay.message import addresses, headers, mime, text, usual, variables, words
from relay.message.headers import Fields
from relay.policy import Content, Limits
from relay.values import Attachment, Glance, JSONObject, Message

__all__ = ["general", "glance", "parse"]

_CONTENT = Content()
_LIMITS = Limits()
_CID = re.compile(r"""[=("']\s*cid:""", re.IGNORECASE)
_KEY = re.compile(rb"[\x20-\x7e]+")


def parse(content: bytes, *, policy: Content = _CONTENT, limits: Limits = _LIMITS) -> Message:
    """What counts of the message *content*.

    :param content: as received: dots unstuffed, lines ending in CR LF (within it LF is fine too).
    :raises PermanentFailure: it cannot be sent; the text says what to change.  Nothing else is ever raised.
    """
    message = usual.read(content, limits)
    return general(content, policy, limits) if message is None else message


def general(content: bytes, policy: Content = _CONTENT, limits: Limits = _LIMITS) -> Message:
    """The same as :func:`parse`, for a message of any shape."""
    fields, start = headers.read(content, limits.header_block)
    template = headers.decoded(fields, "X-Transactional-Template")
    sender = _sender(fields, template)
    subject = headers.decoded(fields, "Subject")
    if not subject and not template:
        raise PermanentFailure(Reason.BAD_MESSAGE, "There is no Subject, add one")
    given = fields.get(b"x-transactional-variables")
    values = None if given is None else variables.parse(given, deepest=limits.variables_depth)
    body = mime.find_body(content, fields, start, limits)
    html = _html(content, body, policy, values, template)
    return Message(
        from_name=sender.name,
        from_email=sender.address,
        subject=subject,
        body=html,
        to_names=_to_names(fields),
        reply_to=addresses.reply_to(headers.single_text(fields, "Reply-To")),
        tag=headers.decoded(fields, "X-Transactional-Tag"),
        route=headers.decoded(fields, "X-Transactional-Route"),
        template=template,
        variables=values,
        api_key=_api_key(fields),
        idempotency_key=_idempotency_key(fields),
        attachments=_attachments(content, body, policy),
        images_removed=body.images,
        attachments_removed=len(body.attachments) if policy.attachments == "strip" else 0,
        cid_references=_cid_references(html) if body.images or body.attachments else 0,
        headers_removed=headers.discarded(content[:start]),
    )


def glance(content: bytes, *, limits: Limits = _LIMITS) -> Glance:
    """Who sent *content* and what it is about, for the log of a message that :func:`parse` refuses; never raises."""
    try:
        fields, _ = headers.read(content, limits.header_block)
    except PermanentFailure:
        return Glance()

    def first(name: bytes) -> bytes:
        return fields.get(name, [b""])[0]

    try:
        sender = addresses.sender(headers.text(first(b"from"))).address
    except PermanentFailure:
        sender = ""
    subject = words.clean(words.decode(headers.text(first(b"subject"))))
    return Glance(sender, subject, first(b"x-auth-apikey").strip().decode("ascii", "replace"))


def _sender(fields: Fields, template: str) -> addresses.Mailbox:
    """From, which a message with a template may leave out."""
    raw = headers.single_text(fields, "From")
    if raw:
        return addresses.sender(raw)
    if template:
        return addresses.Mailbox("", "")
    raise PermanentFailure(Reason.BAD_MESSAGE, "There is no From, add one")


def _to_names(fields: Fields) -> tuple[tuple[str, str], ...]:
    return addresses.to_names(", ".join(map(headers.text, fields.get(b"to", ()))))


def _api_key(fields: Fields) -> str | None:
    """X-Auth-APIKey.  Mailers fold and encode what they do not understand: a key that was is not what was meant.

    :raises PermanentFailure: repeated, folded, encoded or empty; the text never has the value.
    """
    values = fields.get(b"x-auth-apikey")
    if values is None:
        return None
    key = values[0].strip()
    if len(values) > 1 or b"\n" in values[0] or words.WORD.search(key.decode("latin-1")) or not _KEY.fullmatch(key):
        raise PermanentFailure(
            Reason.BAD_MESSAGE, "X-Auth-APIKey must stand once, on one line, in printable ASCII and not encoded"
        )
    return key.decode("ascii")


def _idempotency_key(fields: Fields) -> str:
    """X-Transactional-Idempotency-Key, ``""`` without one.

    :raises PermanentFailure: two, or one that is empty or too long.
    """
    name = "X-Transactional-Idempotency-Key"
    if headers.single(fields, name) is None:
        return ""
    key = headers.decoded(fields, name)
    longest = headers.LONGEST_IDEMPOTENCY_KEY
    if not 1 <= len(key) <= longest:
        raise PermanentFailure(Reason.BAD_MESSAGE, f"{name} must have 1 to {longest} characters")
    return key


def _html(content: bytes, body: mime.Body, policy: Content, values: JSONObject | None, template: str) -> str:
    """The HTML to post: the message's own, or made from its text; ``""`` only with a template."""
    if body.attachments and policy.attachments == "reject":
        first = body.attachments[0]
        raise PermanentFailure(
            Reason.UNSUPPORTED_CONTENT,
            f"Attachment {first.filename or first.type} is not accepted, send a link to the file instead",
        )
    html = "" if body.html is None else body.html.text(content)
    if html and not html.isspace():
        return html
    plain = "" if body.text is None else body.text.text(content)
    if not plain or plain.isspace():
        if template:
            return ""
        raise PermanentFailure(Reason.UNSUPPORTED_CONTENT, "The message has no text, add a text/html part")
    if policy.text_only == "reject":
        raise PermanentFailure(Reason.UNSUPPORTED_CONTENT, "The message has no HTML, add a text/html part")
    return text.to_html(plain, templated=values is not None)


def _attachments(content: bytes, body: mime.Body, policy: Content) -> tuple[Attachment, ...]:
    if policy.attachments != "forward":
        return ()
    return tuple(
        Attachment(part.filename or f"attachment-{number}", part.type, part.content(content))
        for number, part in enumerate(body.attachments, 1)
    )


def _cid_references(html: str) -> int:
    if "cid:" not in html and "CID:" not in html:
        return 0
    return len(_CID.findall(html))
