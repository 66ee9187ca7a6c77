"""What the relay counts, for Prometheus.  Every relay has its own registry, so that two live in one process.

A message is counted a dozen times.  So what counts messages and sessions is plain numbers, which become metrics when
somebody asks: prometheus_client takes a lock for each step, and checks an exemplar more slowly than we parse a header.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence

from attrs import define, field, frozen
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.core import CounterMetricFamily, Exemplar, HistogramMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from relay import __version__
from relay.errors import Reason
from relay.spool.values import Counts
from relay.values import Record

#: Upper bounds of the histogram, in seconds: a post takes milliseconds, and ends at 30 s.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

# prometheus_client does not type it.
_openmetrics: Callable[[CollectorRegistry], bytes] = openmetrics.generate_latest

_PLAIN = b"text/plain; version=0.0.4; charset=utf-8"
_OPENMETRICS = b"application/openmetrics-text; version=1.0.0; charset=utf-8"


class _Numbers(dict[tuple[str, ...], int]):
    """A counter: how often by the values of its labels, ``numbers["a", "b"] += 1``.

    :param now: seconds since the epoch.
    :ivar began: when each was counted first.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__()
        self._now = now
        self.began: dict[tuple[str, ...], float] = {}

    def __missing__(self, labels: tuple[str, ...]) -> int:
        self.began[labels] = self._now()
        return 0


@frozen(eq=False)
class _Counter(Collector):
    """Shows numbers as a counter."""

    name: str
    words: str
    labels: Sequence[str]
    numbers: _Numbers

    def collect(self) -> Iterator[CounterMetricFamily]:
        """As :meth:`prometheus_client.registry.Collector.collect`."""
        family = CounterMetricFamily(self.name, self.words, labels=self.labels)
        for labels, number in self.numbers.items():
            family.add_metric(labels, number, self.numbers.began[labels])
        yield family


@define
class _Times:
    """How often something took how long: in each bucket, and the last message there.

    :ivar counts: by bucket, the last one without an upper bound.
    :ivar examples: message id, seconds, and when it was, by bucket.
    """

    counts: list[int] = field(factory=lambda: [0] * (len(_BUCKETS) + 1))
    examples: list[tuple[str, float, float] | None] = field(factory=lambda: [None] * (len(_BUCKETS) + 1))
    total: float = 0.0

    def buckets(self) -> Iterator[tuple[str, float] | tuple[str, float, Exemplar]]:
        """Upper bound, how many were at most that, and an exemplar where there is one."""
        count = 0
        for bound, each, example in zip((*_BUCKETS, "+Inf"), self.counts, self.examples, strict=True):
            count += each
            if example is None:
                yield str(bound), count
            else:
                message_id, seconds, when = example
                yield str(bound), count, Exemplar({"message_id": message_id}, seconds, when)


class _Stages(Collector):
    """A histogram of the time of each stage, with the id of a message in each bucket."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._stages: dict[str, _Times] = {}

    def observe(self, stages: Mapping[str, float], message_id: str) -> None:
        """A message was that many seconds in each stage."""
        now = self._now()
        for stage, seconds in stages.items():
            times = self._stages.get(stage)
            if times is None:
                times = self._stages[stage] = _Times()
            place = bisect_left(_BUCKETS, seconds)
            times.counts[place] += 1
            times.examples[place] = message_id, seconds, now
            times.total += seconds

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """As :meth:`prometheus_client.registry.Collector.collect`."""
        family = HistogramMetricFamily("smtp_relay_stage_seconds", "Time of a message in each stage.", labels=["stage"])
        for stage, times in self._stages.items():
            family.add_metric([stage], list(times.buckets()), times.total)
        yield family


class Metrics:
    """The counters, and what tells them: the pipeline a record, the sessions and the client each event.

    :param now: seconds since the epoch.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self.registry = registry = CollectorRegistry()

        def count(name: str, words: str, *labels: str) -> _Numbers:
            numbers = _Numbers(now)
            registry.register(_Counter(name, words, labels, numbers))
            return numbers

        self._messages = count("smtp_relay_messages", "Messages by what the client was told.", "result", "reason")
        self._recipients = count("smtp_relay_recipients", "Recipients by outcome.", "outcome", "reason")
        self._stages = _Stages(now)
        registry.register(self._stages)
        self._open = 0
        Gauge("smtp_relay_sessions_open", "Open SMTP sessions.", registry=registry).set_function(lambda: self._open)
        self._sessions = count("smtp_relay_sessions", "SMTP sessions begun.")
        self._sessions[()] += 0
        self._sessions_refused = Counter(
            "smtp_relay_sessions_refused", "Connections refused at the greeting.", ["reason"], registry=registry
        )
        self._auth_failures = Counter(
            "smtp_relay_auth_failures", "API keys not accepted, at AUTH or in a message.", registry=registry
        )
        self._answers = count(
            "smtp_relay_backend_answers", "Answers of the platform by HTTP status, or why there was none.", "status"
        )
        self._certificate = Gauge(
            "smtp_relay_certificate_expiry_timestamp_seconds", "End of the certificate's validity.", registry=registry
        )
        self._breaker = Gauge(
            "smtp_relay_breaker",
            "1 for the state of each platform: closed works, open is down, half-open is probed.",
            ["platform", "state"],
            registry=registry,
        )
        self._attempts = Histogram(
            "smtp_relay_spool_attempt_seconds",
            "Time of a posting from the spool.",
            registry=registry,
            buckets=_BUCKETS,
        )
        self._spool_outcomes = Counter(
            "smtp_relay_spool_outcomes", "Postings from the spool by outcome.", ["outcome", "reason"], registry=registry
        )
        self._spool_rows = Gauge(
            "smtp_relay_spool_recipients", "Recipients in the spool by state.", ["state"], registry=registry
        )
        self._spool_octets = Gauge("smtp_relay_spool_bytes", "Content in the spool.", registry=registry)
        self._spool_oldest = Gauge(
            "smtp_relay_spool_oldest_seconds", "Age of the oldest recipient that waits.", registry=registry
        )
        Info("smtp_relay_build", "The relay's version.", registry=registry).info({"version": __version__})

    def record(self, record: Record) -> None:
        """A message has its verdict."""
        self._messages[record.result, record.reason] += 1
        self._stages.observe(record.seconds, record.id)
        for outcome in record.outcomes:
            if outcome.failure is None:
                self._recipients["spooled" if outcome.spooled else "accepted", ""] += 1
            else:
                self._recipients["failed", outcome.failure.reason.value] += 1

    def session_opened(self) -> None:
        """A client has connected and is served."""
        self._open += 1
        self._sessions[()] += 1

    def session_closed(self) -> None:
        """A session that was opened has ended."""
        self._open -= 1

    def session_refused(self, reason: Reason) -> None:
        """A connection was turned away at the greeting."""
        self._sessions_refused.labels(reason.value).inc()

    def auth_failed(self) -> None:
        """An AUTH command was answered with a failure."""
        self._auth_failures.inc()

    def message_refused(self, reason: Reason, peer: str) -> None:
        """The session refused a message that never reached the pipeline."""
        self._messages["refused", reason.value] += 1

    def breaker_changed(self, platform: str, state: str) -> None:
        """A platform counts as up, down, or is probed."""
        for each in ("closed", "open", "half-open"):
            self._breaker.labels(platform, each).set(each == state)

    def attempted(self, seconds: float) -> None:
        """A row of the spool was posted."""
        self._attempts.observe(seconds)

    def delivered(self) -> None:
        """The platform has taken a row of the spool."""
        self._spool_outcomes.labels("delivered", "").inc()

    def retried(self, reason: str) -> None:
        """A row stays in the spool."""
        self._spool_outcomes.labels("retried", reason).inc()

    def failed(self, reason: str) -> None:
        """A recipient is given up."""
        self._spool_outcomes.labels("failed", reason).inc()

    def spool_counted(self, counts: Counts) -> None:
        """How full the spool is."""
        for state in ("waiting", "in_flight", "failed"):
            self._spool_rows.labels(state).set(getattr(counts, state))
        self._spool_octets.set(counts.octets)
        self._spool_oldest.set(counts.oldest)

    def backend_answered(self, status: str) -> None:
        """The platform answered with *status*, or why it did not."""
        self._answers[(status,)] += 1

    def watch_certificate(self, not_after: Callable[[], float]) -> None:
        """Ask *not_after* when the certificate in use ends, seconds since the epoch."""
        self._certificate.set_function(not_after)

    def exposition(self, accept: str = "") -> tuple[bytes, bytes]:
        """All of it as text.

        :param accept: the Accept header; OpenMetrics, which has the exemplars, where it is named.
        :return: the Content-Type and the body.
        """
        return exposition(self.registry, accept)


def exposition(registry: CollectorRegistry, accept: str) -> tuple[bytes, bytes]:
    """See :meth:`Metrics.exposition`."""
    if "application/openmetrics-text" in accept:
        return _OPENMETRICS, _openmetrics(registry)
    return _PLAIN, generate_latest(registry)
