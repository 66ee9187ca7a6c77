"""The arithmetic of benchmarks/compare.py: medians, ratios to the yardstick, and rows that are marked bad."""

from __future__ import annotations

from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from benchmarks.comparison.figures import YARDSTICK, Figure, Row, Run, rows

RUN = Run("relay", "W2", 0, asked=100, taken=100, counted=100, refused=0, cpu=0.05, seconds=0.5)


def runs(program: str, workload: str, *milliseconds: float, **values: Any) -> list[Run]:
    """A run of a hundred messages in each round, with so many milliseconds of CPU for a message."""
    return [
        evolve(RUN, program=program, workload=workload, round=round, cpu=each / 10, **values)
        for round, each in enumerate(milliseconds)
    ]


def yardstick(workload: str, *milliseconds: float, **values: Any) -> list[Run]:
    """The same of smtp-sink."""
    return runs(YARDSTICK, workload, *milliseconds, counted=None, **values)


class RunTests(SynchronousTestCase):
    """One run."""

    def test_cpu_of_a_message(self) -> None:
        """CPU is told in milliseconds of one message."""
        self.assertAlmostEqual(RUN.cpu_ms, 0.5)

    def test_good(self) -> None:
        """A run is good when each message has a 250 and is at the platform; smtp-sink has no platform."""
        self.assertTrue(RUN.good)
        self.assertTrue(evolve(RUN, counted=None).good)

    def test_bad(self) -> None:
        """One message too few or too many at the platform, a client without a 250, a refusal, a change: it is bad."""
        wrong: list[dict[str, Any]] = [
            {"counted": 99},
            {"counted": 101},
            {"counted": 0},
            {"taken": 99},
            {"refused": 1},
            {"changed": "body"},
        ]
        for each in wrong:
            self.assertFalse(evolve(RUN, **each).good, each)


class RowTests(SynchronousTestCase):
    """All runs of a program under a workload."""

    def row(self, *made: list[Run], target: float = 4.2) -> Row:
        """The relay's row under W2."""
        found = rows([run for each in made for run in each], {"W4": "W2"}, {"W2": target, "W4": target}, "relay")
        (row,) = [each for each in found if each.program == "relay"]
        return row

    def test_medians(self) -> None:
        """The row has the medians of CPU and rate, and the sums of the messages."""
        row = self.row(runs("relay", "W2", 0.3, 0.9, 0.5))
        self.assertAlmostEqual(row.cpu_ms, 0.5)
        self.assertAlmostEqual(row.rate, 200)
        self.assertEqual((row.runs, row.asked, row.counted, row.good), (3, 300, 300, True))

    def test_ratio(self) -> None:
        """Each run is related to the yardstick of its own round, and the median of that is the ratio."""
        row = self.row(yardstick("W2", 0.1, 0.2, 0.1), runs("relay", "W2", 0.3, 0.8, 0.5))
        assert row.ratio is not None and row.spread is not None
        self.assertAlmostEqual(row.ratio, 4.0)
        self.assertAlmostEqual(row.spread[0], 3.0)
        self.assertAlmostEqual(row.spread[1], 5.0)

    def test_yardstick_of_another_workload(self) -> None:
        """W4 is related to the yardstick under W2."""
        row = self.row(yardstick("W2", 0.1), yardstick("W4", 0.5), runs("relay", "W4", 0.5))
        assert row.ratio is not None
        self.assertAlmostEqual(row.ratio, 5.0)
        self.assertEqual(row.verdict, "missed")

    def test_no_yardstick(self) -> None:
        """Without a good yardstick there is no ratio, and nothing is missed."""
        for each in ([], yardstick("W2", 0.1, taken=0), yardstick("W2", 0.0), yardstick("W1", 0.1)):
            row = self.row(each, runs("relay", "W2", 0.5))
            self.assertEqual((row.ratio, row.spread, row.verdict), (None, None, "ok"))

    def test_verdicts(self) -> None:
        """A ratio at its target is good, one above misses it, and one bad run makes the row bad whatever its ratio."""
        sink = yardstick("W2", 0.25, 0.25)
        self.assertEqual(self.row(sink, runs("relay", "W2", 1.0, 1.0), target=4.0).verdict, "ok")
        self.assertEqual(self.row(sink, runs("relay", "W2", 1.1, 1.1), target=4.0).verdict, "missed")
        bad = [*runs("relay", "W2", 0.1), *runs("relay", "W2", 0.1, counted=99)]
        self.assertEqual(self.row(sink, bad, target=4.0).verdict, "BAD")

    def test_targets_are_the_relays(self) -> None:
        """The target of a workload is none of another program's."""
        found = rows(runs("naive Twisted", "W2", 9.0), {}, {"W2": 4.2}, "relay")
        self.assertEqual([(each.target, each.verdict) for each in found], [(None, "ok")])

    def test_order(self) -> None:
        """Rows stand in the order of their first runs."""
        made = [*yardstick("W1", 0.1), *runs("relay", "W1", 0.5), *yardstick("W2", 0.1), *runs("relay", "W1", 0.5)]
        found = [(each.workload, each.program) for each in rows(made, {}, {}, "relay")]
        self.assertEqual(found, [("W1", YARDSTICK), ("W1", "relay"), ("W2", YARDSTICK)])

    def test_latency(self) -> None:
        """The latencies are the medians of the runs that have them."""
        row = self.row([evolve(RUN, p50=1.0, p99=5.0), evolve(RUN, p50=3.0, p99=9.0), RUN])
        self.assertEqual((row.p50, row.p99), (2.0, 7.0))


class FigureTests(SynchronousTestCase):
    """What is no CPU of a message."""

    def test_verdicts(self) -> None:
        """The median is held against the target; what went wrong is bad."""
        self.assertEqual(Figure("idle", "an idle session", "kB", [9.0, 3.0, 4.0], 4.0).verdict, "ok")
        self.assertEqual(Figure("idle", "an idle session", "kB", [9.0, 3.0, 4.1], 4.0).verdict, "missed")
        self.assertEqual(Figure("idle", "an idle session", "kB", [9.0]).verdict, "ok")
        self.assertEqual(Figure("idle", "an idle session", "kB", [1.0], 4.0, good=False).verdict, "BAD")
