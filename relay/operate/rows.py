"""How an operator sees the spool: each recipient as cells of a table, as lines, as a JSON object."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from typing import Any

from relay.operate.table import Column, duration, printable
from relay.spool.operators import Shown
from relay.spool.values import Row

#: Columns of a terminal from which a recipient is on one line.
WIDE = 120

_COLUMNS = (
    Column("ID"),
    Column("AGE", right=True),
    Column("TRIES", right=True),
    Column("NEXT", right=True),
    Column("RECIPIENT", 28),
    Column("ACCOUNT", 14),
    Column("TAG", 12),
    Column("LAST ANSWER"),
)

#: What people call the fields of a message, in the order of :func:`lines`.
_FIELDS = {
    "subject": "Subject",
    "replyto": "Reply-To",
    "returnpath": "Return-Path",
    "tag": "Tag",
    "route": "Route",
    "template": "Template",
}


def columns(width: int) -> Sequence[Sequence[Column]]:
    """One line a recipient where the terminal has *width* for it, else two."""
    return (_COLUMNS,) if width >= WIDE else (_COLUMNS[:5], _COLUMNS[5:])


def cells(row: Row, now: float) -> dict[str, str]:
    """The cells of *row*, by the head of their column."""
    answer = f"{row.reason}: {row.last_answer}" if row.reason else row.last_answer
    found = {
        "ID": row.id,
        "AGE": duration(now - row.created),
        "TRIES": str(row.attempts),
        "NEXT": _next(row, now),
        "RECIPIENT": row.recipient,
        # --account takes the digest's beginning, too.
        "ACCOUNT": row.account_name or row.account[:8],
        "TAG": row.tag,
        "LAST ANSWER": answer or "-",
    }
    return {head: printable(cell) for head, cell in found.items()}


def _next(row: Row, now: float) -> str:
    """When *row* is posted next."""
    if row.state == "waiting" and row.next_attempt is not None:
        return duration(max(row.next_attempt - now, 1))
    return {"due": "now", "in flight": "posting"}.get(row.state, row.state)


def lines(message: Shown, now: float) -> Iterator[str]:
    """*message* for people: all but its body and its variables."""
    fields = message.fields
    facts = [
        ("Message", message.id),
        ("Account", f"{message.account_name} (digest {message.account[:8]})".strip()),
        ("Accepted", f"{iso(message.created)}, {duration(now - message.created)} ago"),
        ("Size", f"{message.size:,} bytes"),
        ("From", f"{fields.get('fromname', '')} <{fields.get('fromemail', '')}>".strip()),
        *((said, str(fields.get(name, ""))) for name, said in _FIELDS.items()),
        *(("Attachment", f"{name} ({kind}, {size:,} bytes)") for name, kind, size in message.attachments),
    ]
    yield from (f"{name:<12}{printable(value)}" for name, value in facts if value)
    for row in message.rows:
        attempts = f"{row.attempts} attempt{'' if row.attempts == 1 else 's'}"
        yield from ("", printable(row.recipient), f"  {_state(row, now)}; {attempts}")
        if row.last_answer:
            yield f"  {printable(row.last_answer)}"


def _state(row: Row, now: float) -> str:
    if row.state == "waiting":
        return f"waiting, next attempt in {_next(row, now)}"
    said = {"due": "due now", "in flight": "being posted", "failed": f"failed: {row.reason}"}
    return printable(said.get(row.state, row.state))


def row_object(row: Row, now: float) -> dict[str, Any]:
    """*row* for programs; keys may be added, and never change."""
    return {
        "id": row.id,
        "account": row.account_name,
        "account_digest": row.account,
        "recipient": row.recipient,
        "tag": row.tag,
        "accepted_at": iso(row.created),
        "age": round(max(now - row.created, 0), 3),
        "size": row.size,
        **_progress(row),
    }


def message_object(message: Shown) -> dict[str, Any]:
    """*message* for programs; keys may be added, and never change."""
    return {
        "id": message.id,
        "account": message.account_name,
        "account_digest": message.account,
        "accepted_at": iso(message.created),
        "size": message.size,
        "fields": dict(message.fields),
        "attachments": [
            {"filename": name, "content_type": kind, "size": size} for name, kind, size in message.attachments
        ],
        "recipients": [{"recipient": row.recipient, **_progress(row)} for row in message.rows],
    }


def _progress(row: Row) -> dict[str, Any]:
    return {
        "state": row.state,
        "attempts": row.attempts,
        "next_attempt_at": None if row.next_attempt is None else iso(row.next_attempt),
        "last_answer": row.last_answer,
        "reason": row.reason,
    }


def iso(seconds: float) -> str:
    """*seconds* since the epoch in ISO 8601, UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
