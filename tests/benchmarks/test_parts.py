"""In which order benchmarks/compare.py runs what it compares."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from benchmarks.comparison.figures import YARDSTICK
from benchmarks.comparison.messages import WORKLOADS
from benchmarks.comparison.parts import in_turn
from benchmarks.comparison.programs import RELAY, TWISTED


class Stub:
    """A program that has only its name."""

    def __init__(self, name: str) -> None:
        self.name = name


class TurnTests(SynchronousTestCase):
    """A round."""

    def turns(self, *names: str) -> list[tuple[str, str]]:
        running: list[Any] = [Stub(YARDSTICK), Stub(RELAY), Stub(TWISTED)]
        return [(program.name, each.name) for program, each in in_turn(running, [WORKLOADS[name] for name in names])]

    def test_yardstick_first(self) -> None:
        """Each workload's yardstick runs before the programs that are related to it."""
        self.assertEqual(
            self.turns("W1", "W2", "W4"),
            [
                (YARDSTICK, "W1"),
                (RELAY, "W1"),
                (TWISTED, "W1"),
                (YARDSTICK, "W2"),
                (RELAY, "W2"),
                (RELAY, "W4"),
                (TWISTED, "W2"),
                (TWISTED, "W4"),
            ],
        )

    def test_borrowed_yardstick(self) -> None:
        """W4 alone runs the yardstick under W2, and nothing else under W2."""
        self.assertEqual(self.turns("W4"), [(YARDSTICK, "W2"), (RELAY, "W4"), (TWISTED, "W4")])
