"""What was measured, as frozen values, and the arithmetic on them: medians, ratios, which rows are bad."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from attrs import field, frozen

#: Postfix' program that takes each message and does nothing with it: what all are related to.
YARDSTICK = "smtp-sink"


@frozen
class Run:
    """One program under one workload, once.

    :ivar round: runs of the same round were made one after the other, and are compared with each other.
    :ivar asked: messages that the client was to send.
    :ivar taken: messages that the client has a 250 for.
    :ivar counted: POSTs that the platform answered 200; None for a program that posts nothing.
    :ivar refused: POSTs that the platform answered otherwise.
    :ivar cpu: CPU seconds, user and system, of the program and its children.
    :ivar seconds: of the wall clock.
    :ivar p50: milliseconds of a whole transaction, where the client notes them.
    :ivar others: cores that were busy with something else meanwhile.
    :ivar changed: what the platform got otherwise than it was sent; empty if all is well.
    """

    program: str
    workload: str
    round: int
    asked: int
    taken: int
    counted: int | None
    refused: int
    cpu: float
    seconds: float
    p50: float | None = None
    p99: float | None = None
    others: float = 0.0
    changed: str = ""

    @property
    def good(self) -> bool:
        """Whether every message has a 250 and is at the platform, once and unchanged."""
        return self.taken == self.asked and self.counted in (None, self.asked) and not self.refused and not self.changed

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds of a message."""
        return self.cpu * 1000 / self.asked


@frozen
class Row:
    """All runs of one program under one workload.

    :ivar cpu_ms: the median.
    :ivar ratio: the median of the ratios to the yardstick of the same round; None without a good one.
    :ivar spread: the lowest and the highest of these ratios.
    """

    program: str
    workload: str
    runs: int
    asked: int
    counted: int | None
    good: bool
    cpu_ms: float
    rate: float
    ratio: float | None
    spread: tuple[float, float] | None = None
    target: float | None = None
    p50: float | None = None
    p99: float | None = None

    @property
    def verdict(self) -> str:
        """``ok``, ``missed`` when it is over its target, or ``BAD`` when its messages were not all delivered."""
        if not self.good:
            return "BAD"
        if self.target is None or self.ratio is None:
            return "ok"
        return "ok" if self.ratio <= self.target else "missed"


def _floats(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(values)


@frozen
class Figure:
    """Something else than CPU of a message: a latency, a size, a time.

    :ivar part: the part of the measurement it belongs to.
    :ivar values: one a run, in *unit*.
    :ivar target: what it is to be at most, None without one.
    :ivar good: False if what was measured went wrong.
    :ivar remark: what happened; of the last run.
    """

    part: str
    name: str
    unit: str
    values: tuple[float, ...] = field(converter=_floats)
    target: float | None = None
    good: bool = True
    remark: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def verdict(self) -> str:
        """See :attr:`Row.verdict`."""
        if not self.good:
            return "BAD"
        return "ok" if self.target is None or self.median <= self.target else "missed"


def rows(runs: Sequence[Run], yardsticks: dict[str, str], targets: dict[str, float], subject: str) -> list[Row]:
    """A row for each program and workload, in the order in which they first come.

    :param yardsticks: the workload under which the yardstick is run to be compared with each workload.
    :param targets: of each workload, for the program *subject* alone.
    """
    found: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        found.setdefault((run.workload, run.program), []).append(run)
    measures = {(run.workload, run.round): run for run in runs if run.program == YARDSTICK}
    made = []
    for (workload, program), same in found.items():
        ratios = _ratios(same, yardsticks.get(workload, workload), measures)
        target = targets.get(workload) if program == subject else None
        made.append(_row(program, workload, same, ratios, target))
    return made


def _ratios(runs: Iterable[Run], workload: str, measures: dict[tuple[str, int], Run]) -> list[float]:
    """Each run's CPU in units of the yardstick's of the same round."""
    pairs = [(run, measures.get((workload, run.round))) for run in runs]
    return [run.cpu_ms / measure.cpu_ms for run, measure in pairs if measure and measure.good and measure.cpu > 0]


def _row(program: str, workload: str, runs: Sequence[Run], ratios: Sequence[float], target: float | None) -> Row:
    counts = [run.counted for run in runs if run.counted is not None]
    return Row(
        program=program,
        workload=workload,
        runs=len(runs),
        asked=sum(run.asked for run in runs),
        counted=sum(counts) if counts else None,
        good=all(run.good for run in runs),
        cpu_ms=statistics.median(run.cpu_ms for run in runs),
        rate=statistics.median(run.taken / run.seconds for run in runs),
        ratio=statistics.median(ratios) if ratios else None,
        spread=(min(ratios), max(ratios)) if ratios else None,
        target=target,
        p50=_median(run.p50 for run in runs),
        p99=_median(run.p99 for run in runs),
    )


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
