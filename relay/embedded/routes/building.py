"""The message that goes out, made of the fields that came (RFC 5322, RFC 2045): pure, and the same every time.

It is ASCII in short lines wherever it came from: bodies in quoted-printable or base64, names and subjects in encoded
words.  Only an address whose local part is not ASCII needs SMTPUTF8 (RFC 6531); domains become A-labels.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from email.header import Header
from email.message import EmailMessage
from email.policy import SMTPUTF8, Policy
from email.utils import format_datetime
from urllib.parse import quote

import idna
from attrs import field, frozen

from relay.embedded.routes import plain
from relay.embedded.store import Fields
from relay.errors import PermanentFailure, Reason
from relay.values import Attachment

#: Longest line of a header that stands as it is; RFC 5322 section 2.1.1 wants at most 78.
_LINE = 76

#: Only the addresses that need it are not ASCII.
_POLICY = SMTPUTF8

_CHARSET = "utf-8''"

_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_PRINTABLE = re.compile(r"[!-~]+(?: [!-~]+)*")
_QUOTED = r'"(?:[^"\\\x00-\x1f\x7f]|\\[ -~])*"'
_LOCAL = re.compile(rf'[^\s"(),:;<>@\[\\\]\x00-\x1f\x7f]{{1,64}}|{_QUOTED}')
_LITERAL = re.compile(r"\[[0-9A-Za-z:.-]{1,80}\]")
_DOMAIN = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252}[A-Za-z0-9_])?")
_MAILBOX = re.compile(rf"(?P<name>(?:[^\"<>]|{_QUOTED})*)<(?P<address>[^<>]+)>")
_FILENAME = re.compile(r"[A-Za-z0-9 !#$&+,.;=@^_`{}~()-]{1,50}")
_PIECE = re.compile(r"(?:%[0-9A-F]{2}|[^%]){1,50}(?<!%)(?<!%.)|.+")
_TYPE = re.compile(r"(?!message/|multipart/)[a-z]+/[A-Za-z0-9][A-Za-z0-9.+_-]{0,100}", re.IGNORECASE)


@frozen
class Outgoing:
    """A message as the store has it.

    :ivar id: its public id.
    :ivar created: seconds since the epoch.
    :ivar body: the HTML, after rendering.
    """

    id: str
    created: float
    fields: Fields
    body: str = field(repr=False)
    attachments: Sequence[Attachment] = ()


@frozen
class Built:
    """What a mail server gets.

    :ivar sender: for MAIL FROM, ``""`` is the null sender.
    :ivar content: header and body, every line ends in CR LF; dots are not doubled yet.
    :ivar utf8: whether it needs SMTPUTF8.
    """

    sender: str
    recipient: str
    content: bytes = field(repr=False)
    utf8: bool = False


def build(message: Outgoing) -> Built:
    """The message to send.

    :raises PermanentFailure: an address is none.
    """
    fields = message.fields
    author = _address("fromemail", fields.fromemail)
    recipient = _address("to", fields.recipient)
    sender = _address("returnpath", fields.returnpath) if fields.returnpath.strip() else ""
    reply_to = _mailboxes(fields.replyto)
    made = _mime(message)
    head = {
        "Date": format_datetime(datetime.fromtimestamp(int(message.created), timezone.utc)),
        "Message-ID": f"<{message.id}@{_id_domain(author)}>",
        "From": _folded("From", [_mailbox(fields.fromname, author)]),
        "To": _folded("To", [_mailbox(fields.toname, recipient)]),
        **({"Reply-To": _folded("Reply-To", reply_to)} if reply_to else {}),
        "Subject": _subject(fields.subject),
        "MIME-Version": "1.0",
    }
    for name, value in head.items():
        _set(made, name, value)
    return Built(sender, recipient, made.as_bytes(), not "".join([*head.values(), sender]).isascii())


class _Header(str):
    """A value that is folded already; ``email`` keeps what has a name as it is."""

    name: str

    def fold(self, *, policy: Policy[EmailMessage]) -> str:
        """See :class:`email.headerregistry.BaseHeader`."""
        return f"{self.name}: {self}{policy.linesep}"


def _set(message: EmailMessage, name: str, value: str) -> None:
    """Set a header to what the wire shall have: ``email`` folds slowly, and not always into what was meant."""
    header = _Header(value)
    header.name = name
    message[name] = header


# --- header


def _clean(text: str) -> str:
    """*text* as one line: nothing in it can begin a header of its own."""
    return _UNSAFE.sub(" ", text).strip()


def _address(name: str, given: str) -> str:
    """An address for the wire, its domain in A-labels (RFC 5890).

    :raises PermanentFailure: it is none.
    """
    address = given.strip()
    local, _, domain = address.rpartition("@")
    if not domain.isascii():
        try:
            domain = idna.encode(domain, uts46=True).decode()
        except UnicodeError:  # idna.IDNAError is one
            domain = ""
    if _UNSAFE.search(address) or not (
        _LOCAL.fullmatch(local) and (_DOMAIN.fullmatch(domain) or _LITERAL.fullmatch(domain))
    ):
        shown = _clean(address)[:100] or "nothing"
        raise PermanentFailure(Reason.BAD_MESSAGE, f"{name}: is not an address like name@example.com: {shown}")
    return f"{local}@{domain}"


def _id_domain(author: str) -> str:
    """What stands on the right of a Message-ID: a domain, no address literal."""
    domain = author.rpartition("@")[2]
    return domain if domain[0] != "[" else f"{domain[1:-1].replace(':', '-')}.invalid"


def _words(name: str, text: str) -> str:
    """*text* in encoded words (RFC 2047), folded.

    :param name: of the header it begins, for the room that it takes.
    """
    return Header(text, "utf-8", maxlinelen=_LINE, header_name=name).encode(linesep="\r\n")


def _phrase(name: str) -> str:
    """A display name: atoms, a quoted string, or encoded words."""
    if _PLAIN_NAME.fullmatch(name) and len(name) < _LINE - 20 and "=?" not in name:
        return name
    if _PRINTABLE.fullmatch(name) and len(name) < _LINE - 20 and "=?" not in name:
        escaped = name.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return _words("Reply-To", name)


def _mailbox(name: str, address: str) -> str:
    cleaned = _clean(name)
    return f"{_phrase(cleaned)} <{address}>" if cleaned else address


def _folded(name: str, mailboxes: Sequence[str]) -> str:
    """An address header; each mailbox that does not fit begins a line, and so does an address."""
    lines = [f"{name}:"]
    for word in re.split(r" (?=<[^<>]*>,?$)|\r\n ", ",\r\n ".join(mailboxes)):
        if len(lines[-1]) + 1 + len(word) > _LINE and lines[-1] != f"{name}:":
            lines.append("")
        lines[-1] += f" {word}"
    return "\r\n".join(lines).partition(": ")[2]


def _subject(given: str) -> str:
    subject = _clean(given)
    if not subject:
        return ""
    if _PRINTABLE.fullmatch(subject) and len(subject) <= _LINE - len("Subject: ") and "=?" not in subject:
        return subject
    return _words("Subject", subject)


def _mailboxes(given: str) -> list[str]:
    """The mailboxes of a Reply-To; what holds no address is left out."""
    found: list[str] = []
    for part in _comma_separated(given):
        match = _MAILBOX.fullmatch(part)
        name, address = (match["name"].strip(), match["address"]) if match else ("", part)
        if len(name) > 1 and name[0] == name[-1] == '"':
            name = re.sub(r"\\(.)", r"\1", name[1:-1])
        try:
            found.append(_mailbox(name, _address("replyto", address)))
        except PermanentFailure:
            continue
    return found


def _comma_separated(text: str) -> list[str]:
    """The entries of a list; a comma within quotes separates nothing."""
    parts, quoted = [""], False
    for piece in re.split(r'([",])', text):
        quoted ^= piece == '"'
        if piece == "," and not quoted:
            parts.append("")
        else:
            parts[-1] += piece
    return [part.strip() for part in parts if part.strip()]


# --- body


def _mime(message: Outgoing) -> EmailMessage:
    """The text and the HTML side by side, and files behind them."""
    html = re.sub(r"\r\n?", "\n", message.body).encode("utf-8", "replace")
    text = plain.of_html(message.body).encode("utf-8", "replace")
    both = _multipart("alternative", f"=_{message.id}_1")
    both.attach(_text("plain", text))
    both.attach(_text("html", html))
    if not message.attachments:
        return both
    mixed = _multipart("mixed", f"=_{message.id}_2")
    mixed.attach(both)
    for each in message.attachments:
        mixed.attach(_file(each))
    return mixed


def _multipart(kind: str, boundary: str) -> EmailMessage:
    """A multipart whose boundary stands in no part: ``=_`` is neither quoted-printable nor base64."""
    made = EmailMessage(_POLICY)
    _set(made, "Content-Type", f'multipart/{kind}; boundary="{boundary}"')
    return made


def _part(content_type: str, transfer_encoding: str, payload: bytes) -> EmailMessage:
    made = EmailMessage(_POLICY)
    _set(made, "Content-Type", content_type)
    _set(made, "Content-Transfer-Encoding", transfer_encoding)
    made.set_payload(payload.decode("ascii"))
    return made


def _text(kind: str, content: bytes) -> EmailMessage:
    """A part in the transfer encoding that is shorter."""
    high = len(content) - len(content.decode("utf-8", "ignore").encode("ascii", "ignore"))
    if 2 * high > len(content) // 3:
        payload = base64.encodebytes(content.replace(b"\n", b"\r\n"))
        return _part(f'text/{kind}; charset="utf-8"', "base64", payload)
    return _part(f'text/{kind}; charset="utf-8"', "quoted-printable", binascii.b2a_qp(content, istext=True))


def _file(given: Attachment) -> EmailMessage:
    kind = given.content_type.partition(";")[0].strip()
    made = _part(
        kind if _TYPE.fullmatch(kind) else "application/octet-stream", "base64", base64.encodebytes(given.content)
    )
    _set(made, "Content-Disposition", _disposition(_clean(given.filename) or "unnamed"))
    return made


def _disposition(filename: str) -> str:
    """The header that names a file, in pieces where it is long (RFC 2231)."""
    if _FILENAME.fullmatch(filename):
        return f'attachment; filename="{filename}"'
    pieces = _PIECE.findall(quote(filename, safe="", errors="replace"))
    if len(pieces) == 1:
        return f"attachment; filename*={_CHARSET}{pieces[0]}"
    parameters = [f"filename*{n}*={_CHARSET if n == 0 else ''}{piece}" for n, piece in enumerate(pieces)]
    return "attachment;\r\n " + ";\r\n ".join(parameters)
