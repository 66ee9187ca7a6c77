"""kill -9 again and again under load: benchmarks/crash.py with 25 kills, and whether it would see what it looks for."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from .support import ROOT, WORKERS

BENCHMARKS = ROOT / "benchmarks"

KILLS = 25


class KillTests(SynchronousTestCase):
    """The short form of the long run in docs/durability."""

    def test_kills(self) -> None:
        """After 25 kills every message with a 250 is at the platform exactly once, and none is invented."""
        self.kill("--workers", WORKERS)

    def kill(self, *options: str) -> None:
        folder = Path(tempfile.mkdtemp(prefix="relay-crash-"))
        self.addCleanup(shutil.rmtree, folder)
        numbers = folder / "numbers.json"
        ran = subprocess.run(
            [
                *(sys.executable, str(BENCHMARKS / "crash.py")),
                *("--kills", str(KILLS), "--after", "0.05", "0.5"),
                *("--json", str(numbers), "--folder", str(folder / "relay"), *options),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        self.assertEqual(ran.returncode, 0, ran.stdout)
        said = json.loads(numbers.read_text())
        self.assertEqual((said["kills"], said["violations"]), (KILLS, 0))
        # It was a load, and the platform had its moods.
        self.assertGreater(said["messages with a 250"], 100)
        self.assertGreater(said["attempts by end"]["left"], 0)
        self.assertGreater(said["submissions that the Idempotency-Key absorbed"], 0)


class ComparisonTests(SynchronousTestCase):
    """The comparison sees each kind of damage."""

    def setUp(self) -> None:
        sys.path.insert(0, str(BENCHMARKS))
        self.addCleanup(sys.path.remove, str(BENCHMARKS))
        self.crash: Any = importlib.import_module("crash")
        self.faulty: Any = importlib.import_module("faulty")

    def violations(
        self, ends: list[tuple[str, int | None]], *there: tuple[str, str], key: str = "", recipients: int = 1
    ) -> list[str]:
        """What is found of one message.

        :param ends: how each attempt ended, and in which life of the relay.
        :param there: Idempotency-Key and token of each message at the platform, for each recipient.
        """
        attempts = [self.crash.Attempt(*each) for each in ends]
        to = tuple(f"r{number}@example.org" for number in range(recipients))
        sent = self.crash.Sent("1-1", to, "key", key, "<p>Hello</p>", attempts)
        platform = self.faulty.FaultyPlatform(frozenset())
        for recipient in to:
            for id, token in there:
                platform.taken[f"{id}-{recipient}"] = self.faulty.Taken(recipient, token, "<p>Hello</p>", "")
        report = self.crash.Report()
        report.compare([sent], platform)
        return [each.partition(":")[0] for each in report.violations]

    def test_all_is_well(self) -> None:
        """A message that is there once is no violation, nor one without a 250 that is not there."""
        self.assertEqual(self.violations([("told", 0)], ("A", "1-1")), [])
        self.assertEqual(self.violations([("refused", 0)]), [])

    def test_lost(self) -> None:
        """A 250 without a message."""
        self.assertEqual(self.violations([("told", 0)]), ["lost"])

    def test_twice(self) -> None:
        """One 250 and two messages."""
        self.assertEqual(self.violations([("told", 0)], ("A", "1-1"), ("B", "1-1")), ["twice"])
        self.assertEqual(self.violations([("refused", 0), ("told", 0)], ("A", "1-1"), ("B", "1-1")), ["twice"])

    def test_verdict_lost_with_the_relay(self) -> None:
        """A second message is excused once for each verdict that went down with the relay, and never with a key."""
        ends = [("lost", None), ("told", 1)]
        self.assertEqual(self.violations(ends, ("A", "1-1"), ("B", "1-1")), [])
        self.assertEqual(self.violations(ends, ("A", "1-1"), ("B", "1-1"), ("C", "1-1")), ["twice"])
        self.assertEqual(self.violations(ends, ("A", "1-1"), ("B", "1-1"), key="order-1"), ["twice"])

    def test_left(self) -> None:
        """Second messages of clients that left are excused when the relay was killed meanwhile, or are very few."""
        two = ("A", "1-1"), ("B", "1-1")
        many = self.crash.FEW_INSTANTS + 1
        self.assertEqual(self.violations([("left", 0), ("told", 1)], *two, recipients=many), [])
        self.assertEqual(self.violations([("left", 0), ("told", 0)], *two, recipients=many), ["twice"])
        self.assertEqual(self.violations([("left", 0), ("told", 0)], *two), [])
        self.assertEqual(self.violations([("left", 0), ("told", 0)], *two, key="order-1"), ["twice"])

    def test_invented(self) -> None:
        """A message that nobody sent."""
        self.assertEqual(self.violations([("told", 0)], ("A", "1-1"), ("B", "2-2")), ["invented"])
