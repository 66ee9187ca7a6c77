"""A chart of messages over time as SVG, made here: numbers in, geometry out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone

from attrs import frozen

from relay.embedded.tallies import Counts, Period

#: The size of the drawing; the page stretches it.
WIDTH = 1000.0
HEIGHT = 200.0

#: The part of a step's width that its bar takes.
_BAR = 0.7

#: From the bottom of a bar to its top.
STACK = ("delivered", "captured", "queued", "deferred", "failed", "refused")

#: Most labels under the chart.
_LABELS = 7


@frozen
class Part:
    """One status within a bar."""

    status: str
    y: float
    height: float


@frozen
class Bar:
    """One step of time.

    :ivar left: where the step begins, for the area that the pointer is over.
    :ivar label: its time.
    :ivar title: what it says in words.
    """

    left: float
    x: float
    parts: tuple[Part, ...]
    label: str
    title: str
    counts: Counts


@frozen
class Chart:
    """All of it.

    :ivar step: width of a step.
    :ivar width: of a bar.
    :ivar top: the number at the upper end of the scale.
    :ivar labels: of each step what stands below it, mostly ``""``.
    :ivar every: how many steps there are from one of them to the next.
    :ivar summary: what it shows in a sentence.
    """

    bars: tuple[Bar, ...]
    step: float
    width: float
    top: int
    labels: tuple[str, ...]
    every: int
    summary: str


def chart(period: Period, steps: Sequence[tuple[float, Counts]]) -> Chart:
    """The chart of what :func:`relay.embedded.tallies.over_time` counted."""
    top = _round_up(max((counts.all for _, counts in steps), default=0))
    step = WIDTH / max(len(steps), 1)
    bars = []
    for number, (begin, counts) in enumerate(steps):
        label = _label(begin, period)
        title = f"{label}: {_words(counts)}"
        left = number * step
        bars.append(Bar(left, left + step * (1 - _BAR) / 2, _parts(counts, top), label, title, counts))
    every = -(-len(bars) // _LABELS) or 1
    labels = tuple(bar.label if number % every == 0 else "" for number, bar in enumerate(bars))
    total = sum(counts.all for _, counts in steps)
    return Chart(tuple(bars), step, step * _BAR, top, labels, every, f"{total} messages in {len(bars)} steps of time")


def _parts(counts: Counts, top: int) -> tuple[Part, ...]:
    parts, y = [], HEIGHT
    for status in STACK:
        number = getattr(counts, status)
        if number:
            # What is there is seen.
            height = max(number / top * HEIGHT, 1.5)
            y -= height
            parts.append(Part(status, round(y, 2), round(height, 2)))
    return tuple(parts)


def _words(counts: Counts) -> str:
    said = [f"{getattr(counts, status)} {status}" for status in STACK if getattr(counts, status)]
    return ", ".join(said) or "nothing"


def _label(begin: float, period: Period) -> str:
    at = datetime.fromtimestamp(begin, timezone.utc)
    if period.step == 24:
        return at.strftime("%d %b")
    return at.strftime("%H:%M") if period.hours <= 24 else at.strftime("%d %b %H:%M")


def _round_up(number: int) -> int:
    """The scale's end: an even number of few digits, not below *number*."""
    power = 1
    while number > 100 * power:
        power *= 10
    return next(
        first * power for first in (2, 4, 6, 8, 10, 12, 16, 20, 30, 40, 50, 60, 80, 100) if first * power >= number
    )
