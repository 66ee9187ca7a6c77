"""Ids of several processes."""

from __future__ import annotations

import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

#: What chance adds to the ids of a process and of the one that it forks.
FORK = """
import os
from relay.smtp.delivery import new_id
new_id()
child = os.fork()
ids = " ".join([new_id()[10:] for _ in range(100)])
if child:
    os.waitpid(child, 0)
print(ids)
"""


class ForkTests(SynchronousTestCase):
    """:func:`relay.smtp.delivery.new_id`."""

    def test_fork(self) -> None:
        """A process that an embedder forks gives ids of its own, also in the same millisecond."""
        done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, check=True, text=True, timeout=60)
        ids = done.stdout.split()
        self.assertEqual((len(ids), len(set(ids))), (200, 200))
