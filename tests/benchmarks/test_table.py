"""The tables of benchmarks/compare.py, and docs/performance, which shows the last of them."""

from __future__ import annotations

import re
from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from benchmarks.comparison.figures import YARDSTICK, Figure, Run
from benchmarks.comparison.messages import WORKLOADS, signed_in
from benchmarks.comparison.programs import RELAY, TWISTED
from benchmarks.comparison.result import Result
from benchmarks.comparison.table import BEGIN, END, page, replaced, text

from ..test_docs import DOCS, ROOT

RUN = Run(RELAY, "W2", 0, asked=1000, taken=1000, counted=1000, refused=0, cpu=0.2, seconds=2.0)
RUNS = (
    evolve(RUN, program=YARDSTICK, counted=None, cpu=0.05),
    RUN,
    evolve(RUN, program=TWISTED, cpu=2.0),
    evolve(RUN, program=YARDSTICK, workload=signed_in("W2", ""), counted=None, cpu=0.1),
    evolve(RUN, workload=signed_in("W2", "AUTH"), cpu=0.3),
)
FIGURES = (Figure("latency", "p99", "ms", (3.0, 7.0, 4.0), 5.0), Figure("memory", "peak", "MB", (1234.5,)))
RESULT = Result(
    "2026-11-25 12:00 UTC",
    {"processor": "Abacus", "cores": 2, "kernel": "6.1"},
    {"CPython": "3.11.7"},
    {"repeat": 1},
    RUNS,
    FIGURES,
)
PAGE = (DOCS / "performance.rst").read_text("utf-8")
LAST = (ROOT / "benchmarks" / "result.json").read_text("utf-8")


def with_run(**values: Any) -> Result:
    """The result with another run of the relay under W2."""
    return evolve(RESULT, runs=(RUNS[0], evolve(RUN, **values)))


class TextTests(SynchronousTestCase):
    """On the terminal."""

    def line(self, result: Result, *words: str) -> list[str]:
        """The cells of the line that begins with *words*."""
        (found,) = [line.split() for line in text(result).splitlines() if line.split()[: len(words)] == list(words)]
        return found[len(words) :]

    def test_row(self) -> None:
        """A row has CPU, ratio, target, rate, and the messages sent and counted."""
        self.assertEqual(
            self.line(RESULT, "W2", "relay"), ["0.200", "4.00", "4.00–4.00", "4.2", "500", "1000", "1000", "ok"]
        )
        self.assertEqual(
            self.line(RESULT, "W2", "smtp-sink"), ["0.050", "1.00", "1.00–1.00", "–", "500", "1000", "–", "ok"]
        )

    def test_missed(self) -> None:
        """What is over its target is marked."""
        self.assertEqual(self.line(with_run(cpu=0.25), "W2", "relay")[-1], "missed")

    def test_bad(self) -> None:
        """A row with a message that the platform did not count is marked, however fast it was."""
        self.assertEqual(self.line(with_run(cpu=0.01, counted=999), "W2", "relay")[-2:], ["999", "BAD"])

    def test_signed_in(self) -> None:
        """AUTH is related to the yardstick that the same client drove."""
        self.assertEqual(self.line(RESULT, "W2", "AUTH", "relay")[:2], ["0.300", "3.00"])

    def test_figures(self) -> None:
        """A figure has its median, unit, target and verdict."""
        self.assertEqual(self.line(RESULT, "p99"), ["4", "ms", "5", "ok"])
        self.assertEqual(self.line(RESULT, "peak"), ["1234", "MB", "–", "ok"])

    def test_nothing(self) -> None:
        """Nothing measured is no table."""
        self.assertEqual(text(evolve(RESULT, runs=(), figures=())), "")


class PageTests(SynchronousTestCase):
    """In the documents."""

    def cells(self, result: Result) -> list[list[str]]:
        """The cells of each table: a simple table of reStructuredText has its columns where its rules are."""
        found = []
        for block in page(result).split("\n\n"):
            if not block.startswith("=="):
                continue
            rule, *lines = block.splitlines()
            columns = [each.span() for each in re.finditer("=+", rule)]
            self.assertEqual([lines[1], lines[-1]], [rule, rule])
            rows = [lines[0], *lines[2:-1]]
            found.append([row[begin:end].strip() for row in rows for begin, end in columns])
            gaps = {row[end : end + 2].strip() for row in rows for _, end in columns}
            self.assertEqual(gaps, {""}, "a cell is wider than its column")
        return found

    def test_tables(self) -> None:
        """Ratios, milliseconds, signing in and figures are four tables."""
        ratios, milliseconds, signed, figures = self.cells(
            evolve(RESULT, runs=(*RUNS, evolve(RUN, workload="W2 plain")))
        )
        self.assertEqual(ratios[:4], ["\\", TWISTED, RELAY, "lowest–highest"])
        self.assertEqual(ratios[6:], ["W2", "40.00", "4.00", "4.00–4.00", "4.2", WORKLOADS["W2"].words])
        self.assertEqual(milliseconds[-6:], ["W2", "0.050", "2.000", "0.200", "5000/s", "1000 of 1000"])
        self.assertEqual(signed[-7:], ["W2", "0.200", "0.300", "–", "2.00", "3.00", "–"])
        self.assertEqual(figures[4:8], ["p99", "4 ms", "5", "\\"])

    def test_bad(self) -> None:
        """A bad row is marked here, too."""
        ratios, _, _ = self.cells(with_run(counted=999))
        self.assertEqual(ratios[-4], "4.00 BAD")

    def test_replaced(self) -> None:
        """Only what stands between the two lines is made anew; a page or a result without what it takes is refused."""
        self.assertEqual(replaced(f"a\n{BEGIN}\nold\n{END}\nb\n", "new\n"), f"a\n{BEGIN}\n\nnew\n\n{END}\nb\n")
        self.assertRaises(ValueError, page, evolve(RESULT, runs=RUNS[:1]))
        self.assertRaises(ValueError, replaced, "a page without them", "new")

    def test_the_page_shows_the_result(self) -> None:
        """docs/performance has the tables of benchmarks/result.json: ``compare.py --page`` was run."""
        self.assertEqual(replaced(PAGE, page(Result.from_json(LAST))), PAGE)

    def test_the_result_is_whole(self) -> None:
        """The result that is shown is of all workloads, and no row is bad."""
        rows = Result.from_json(LAST).rows
        self.assertEqual({each.workload for each in rows} & WORKLOADS.keys(), WORKLOADS.keys())
        self.assertEqual([each for each in rows if not each.good], [])


class JsonTests(SynchronousTestCase):
    """The result as a file."""

    def test_there_and_back(self) -> None:
        """What was written is read again, runs and figures and all."""
        self.assertEqual(Result.from_json(RESULT.to_json()), RESULT)
