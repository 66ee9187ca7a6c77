"""The log: one structured line a message, as text or as JSON lines.

Text is twistd's own format.  No API key is ever logged, and what a client sent is made safe for a line.  There is a
line for every message, so what stands here is counted in microseconds.
"""

from __future__ import annotations

import json
from datetime import datetime, timezone
from operator import attrgetter
from time import time
from typing import Any, TextIO

from twisted.logger import (
    ILogObserver,
    LogEvent,
    Logger,
    LogLevel,
    formatEvent,
    formatEventAsClassicLogText,
    formatTime,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from relay import replies
from relay.values import Record

#: Longest value of a client's that is logged, in characters.
_LONGEST = 200

#: What is logged of a message where there is something.
_SELDOM = ("reason", "images_removed", "attachments_removed", "cid_references")
_seldom = attrgetter(*_SELDOM)

_INFO = LogLevel.info

#: Fields of a Twisted event that say how it was logged, not what happened.
_PLUMBING = frozenset({"message", "isError", "format", "time", "why", "failure"})

#: Values of an event that JSON lines show.
_SHOWN = (str, int, float, type(None))

_encode = json.JSONEncoder(default=str).encode

log = Logger()


def safe(text: str) -> str:
    """*text* for a log line: control and invisible characters become ``?``, at most 200 characters."""
    if len(text) <= _LONGEST and text.isprintable():
        return text
    line = "".join(each if each.isprintable() else "?" for each in text[: _LONGEST + 1])
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


def log_record(record: Record, more: bool = False) -> None:
    """One event for a message, and one for each recipient that failed although the message was answered 250.

    :param more: another one follows at once, so that its line is early enough to write both.
    """
    account, peer, recipient, tag, route, verdict = _texts(record)
    if len(record.recipients) > 1:
        recipient = f"{recipient}+{len(record.recipients) - 1}"
    ms = f"{record.milliseconds:.1f}"
    seldom = _seldom(record)
    fields = {name: value for name, value in zip(_SELDOM, seldom, strict=True) if value} if any(seldom) else {}
    words = "".join([f" {name}={value}" for name, value in fields.items()]) if fields else ""
    line = (
        f"account={_quoted(account)} peer={_quoted(peer)} recipient={_quoted(recipient)} tag={_quoted(tag)} "
        f"route={_quoted(route)} result={record.result} ms={ms} size={record.size}{words} verdict={_quoted(verdict)}"
    )
    # The event that log.info would emit, which takes as long for it as the rest.  What begins with log_ is no field
    # of it for JSONLines.
    event: LogEvent = {
        "log_logger": log, "log_level": _INFO, "log_namespace": log.namespace, "log_source": None, "log_time": time(),
        "log_format": "message {id} {log_line}", "log_line": line,
        "id": record.id, "account": account, "peer": peer, "recipient": recipient, "tag": tag, "route": route,
        "result": record.result, "ms": float(ms), "size": record.size, **fields, "verdict": verdict,
    }  # fmt: skip
    if more:
        event["log_more"] = True
    log.observer(event)
    if record.result == "partial":
        _log_failed(record)


def _texts(record: Record) -> tuple[str, ...]:
    """Account, peer, first recipient, tag, route and verdict, safe for a line; empty ones as ``-``."""
    texts = (
        record.account or record.key or "-", record.peer or "-", record.recipients[0] if record.recipients else "-",
        record.tag or "-", record.route or "-", record.verdict,
    )  # fmt: skip
    together = "".join(texts)
    # Nearly always they are safe, and one look at all of them is enough.
    if len(together) <= _LONGEST and together.isprintable():
        return texts
    return tuple(map(safe, texts))


def _log_failed(record: Record) -> None:
    for outcome in record.outcomes:
        if outcome.failure is not None:
            log.error(
                "recipient {recipient} of {id} failed although the message was answered 250: {reply}",
                id=record.id,
                recipient=safe(outcome.recipient),
                reason=outcome.failure.reason.value,
                reply=str(replies.reply(outcome.failure)),
            )


def _quoted(text: str) -> str:
    """A value in the text of a line; in quotes where it has spaces, so that the fields stay apart."""
    if " " not in text and '"' not in text:
        return text
    return json.dumps(text, ensure_ascii=False) if '"' in text or "\\" in text else f'"{text}"'


def said(event: LogEvent) -> str:
    """The words of an event, as :func:`twisted.logger.formatEvent` finds them, which takes ten times as long."""
    words = None
    if "log_flattened" not in event:
        # What this does not know, such as {name()}, or cannot format, is left to Twisted.
        try:
            words = str(event["log_format"].format_map(event))
        except Exception:
            words = None
    return formatEvent(event) if words is None else words


class _Lines:
    """Writes lines to a file; those of events that follow each other at once are written together."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._held = ""

    def _write(self, line: str, event: LogEvent) -> None:
        line = self._held + line
        if line and "log_more" not in event:
            self._held = ""
            self._file.write(line)
            self._file.flush()
        else:
            self._held = line


@implementer(ILogObserver)
class TextLines(_Lines):
    """Writes each event as :func:`twisted.logger.textFileLogObserver` does, in an eighth of its time.

    :param who: what stands before the logger's name, where several processes write to one log.
    """

    def __init__(self, file: TextIO, who: str = "") -> None:
        super().__init__(file)
        self._who = who
        self._second: int | None = None
        self._stamp = ""

    def __call__(self, event: LogEvent) -> None:
        """See :class:`twisted.logger.ILogObserver`."""
        self._write(self._line(event) or "", event)

    def _line(self, event: LogEvent) -> str | None:
        if "log_failure" in event or event.get("log_system") is not None:
            line = formatEventAsClassicLogText(event)
            return line and line.replace("[", f"[{self._who}", 1)
        words = said(event).replace("\n", "\n\t")
        if not words:
            return None
        level = event.get("log_level")
        name = "-" if level is None else level.name
        return f"{self._time(event.get('log_time'))} [{self._who}{event.get('log_namespace', '-')}#{name}] {words}\n"

    def _time(self, when: float | None) -> str:
        """The time stamp, which is the same for a second."""
        if when is None:
            return formatTime(None)
        if int(when) != self._second:
            self._second = int(when)
            self._stamp = formatTime(when)
        return self._stamp


@implementer(ILogObserver)
class JSONLines(_Lines):
    """Writes each event as a JSON object on a line: time, level, logger, message, and the event's own fields."""

    def __call__(self, event: LogEvent) -> None:
        """See :class:`twisted.logger.ILogObserver`."""
        # ASCII: U+2028 would end a line for some readers, and a lone surrogate has no UTF-8.
        self._write(_encode(_event_fields(event)) + "\n", event)


def _event_fields(event: LogEvent) -> dict[str, Any]:
    level = event.get("log_level", _INFO)
    fields: dict[str, Any] = {
        "time": datetime.fromtimestamp(event.get("log_time", 0.0), timezone.utc).isoformat(timespec="milliseconds"),
        "level": level.name,
        "logger": event.get("log_namespace", "-"),
        "message": said(event),
    }
    failure = event.get("log_failure")
    if isinstance(failure, Failure):
        fields["failure"] = f"{failure.type.__name__ if failure.type else ''}: {failure.getErrorMessage()}"
        fields["traceback"] = failure.getTraceback()
    for name, value in event.items():
        own = name[:4] != "log_" and name not in fields and name not in _PLUMBING
        if own and isinstance(value, _SHOWN):
            fields[name] = value
    return fields
