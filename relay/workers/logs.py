"""What a worker logs: it says which worker it is, and goes where the relay's log is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import frozen
from twisted.logger import ILogObserver, LogEvent, LogLevel
from twisted.python.failure import Failure
from zope.interface import implementer

from relay.operate.log import said


@implementer(ILogObserver)
@frozen
class Named:
    """Notes in each event of which worker it is."""

    number: int
    observer: ILogObserver

    def __call__(self, event: LogEvent) -> None:
        """See :class:`twisted.logger.ILogObserver`."""
        event["worker"] = self.number
        self.observer(event)


@implementer(ILogObserver)
@frozen
class ToParent:
    """Hands each event to the parent.

    :ivar tell: says something to it.
    """

    tell: Callable[..., None]

    def __call__(self, event: LogEvent) -> None:
        """See :class:`twisted.logger.ILogObserver`."""
        text = said(event)
        failure = event.get("log_failure")
        if isinstance(failure, Failure):
            text = f"{text}\n{failure.getTraceback()}"
        level = event.get("log_level", LogLevel.info).name
        fields = {
            name: value
            for name, value in event.items()
            if not name.startswith("log_") and isinstance(value, str | int | float | None)
        }
        self.tell("log", event.get("log_time", 0.0), level, event.get("log_namespace", "-"), text, fields)


def event(time: float, level: str, namespace: str, text: str, fields: dict[str, Any]) -> LogEvent:
    """The event that :class:`ToParent` handed over."""
    return {
        **fields,
        "log_time": time,
        "log_level": LogLevel.levelWithName(level),
        "log_namespace": namespace,
        "log_system": f"worker {fields.get('worker')} {namespace}#{level}",
        "log_format": "{log_text}",
        "log_text": text,
    }
