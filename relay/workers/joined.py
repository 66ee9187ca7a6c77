"""The metrics of all workers as one: what each counts is added up, also of those that are gone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from attrs import define, field
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

#: A metric as it is handed over: name, meaning, kind, and for each sample name, labels, value and exemplar.
Family = list[Any]

#: A sample's name and labels.
_Key = tuple[str, tuple[tuple[str, str], ...]]

#: Gauges that are not added up.  Each worker looks at the same spool and certificate; a platform is in a state when
#: one worker sees it so.
_JOIN: dict[str, Callable[[float, float], float]] = {
    "smtp_relay_certificate_expiry_timestamp_seconds": min,
    "smtp_relay_breaker": max,
    "smtp_relay_spool_recipients": max,
    "smtp_relay_spool_bytes": max,
    "smtp_relay_spool_oldest_seconds": max,
    "smtp_relay_build_info": max,
}


def families(registry: CollectorRegistry) -> list[Family]:
    """All that *registry* counts, as JSON holds it."""
    return [
        [each.name, each.documentation, each.type, [_sample(sample) for sample in each.samples]]
        for each in registry.collect()
    ]


def _sample(sample: Any) -> list[Any]:
    exemplar = sample.exemplar
    shown = [exemplar.labels, exemplar.value, exemplar.timestamp] if exemplar is not None else None
    return [sample.name, sample.labels, sample.value, shown]


class Watched(Protocol):
    """What is counted of the workers themselves; :class:`relay.workers.supervision.Supervisor`."""

    @property
    def takes(self) -> Sequence[object]:
        """Those that take connections."""

    restarts: int


@define(eq=False)
class Joined(Collector):
    """A collector of what the workers have said last.

    :ivar latest: by worker.
    """

    _watched: Watched
    latest: dict[int, list[Family]] = field(factory=dict)
    _gone: list[Family] = field(factory=list)

    def end(self, worker: int) -> None:
        """It is gone: what it counted stays, what it was does not."""
        left = [each for each in self.latest.pop(worker, []) if each[2] in ("counter", "histogram")]
        self._gone = [_family(each) for each in joined([self._gone, left])]

    def collect(self) -> Iterator[Metric]:
        """See :class:`prometheus_client.registry.Collector`."""
        yield from joined([self._gone, *self.latest.values()])
        yield GaugeMetricFamily("smtp_relay_workers", "Workers that take connections.", len(self._watched.takes))
        yield CounterMetricFamily(
            "smtp_relay_worker_restarts", "Workers that ended by themselves.", self._watched.restarts
        )


def joined(parts: Iterable[list[Family]]) -> Iterator[Metric]:
    """The metrics of *parts* as one."""
    found: dict[str, tuple[Family, dict[_Key, list[Any]]]] = {}
    for family in (family for part in parts for family in part):
        _, samples = found.setdefault(family[0], (family, {}))
        for sample in family[3]:
            key = sample[0], tuple(sorted(sample[1].items()))
            samples[key] = _together(samples[key], sample) if key in samples else sample
    for (name, meaning, kind, _), samples in found.values():
        metric = Metric(name, meaning, kind)
        for sample, labels, value, exemplar in samples.values():
            metric.add_sample(sample, labels, value, exemplar=Exemplar(*exemplar) if exemplar else None)
        yield metric


def _together(one: list[Any], other: list[Any]) -> list[Any]:
    name, labels, value, exemplar = one
    join = min if name.endswith("_created") else _JOIN.get(name, _sum)
    return [name, labels, join(value, other[2]), exemplar or other[3]]


def _sum(one: float, other: float) -> float:
    return one + other


def _family(metric: Metric) -> Family:
    return [metric.name, metric.documentation, metric.type, [_sample(sample) for sample in metric.samples]]
