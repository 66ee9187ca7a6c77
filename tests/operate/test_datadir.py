"""The data directory has one relay at a time."""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from relay.errors import ConfigError
from relay.operate.datadir import DataDirectory


class DataDirectoryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = os.path.join(self.mktemp(), "within", "data")

    def hold(self) -> DataDirectory:
        held = DataDirectory(self.path)
        self.addCleanup(held.release)
        return held

    def test_made(self) -> None:
        """A missing directory is made, for its owner alone."""
        self.hold()
        self.assertEqual(os.stat(self.path).st_mode & 0o777, 0o700)
        self.assertEqual(os.stat(os.path.join(self.path, "lock")).st_mode & 0o777, 0o600)

    def test_held(self) -> None:
        """A second relay is told who has the directory, and what to do."""
        self.hold()
        error = self.assertRaises(ConfigError, DataDirectory, self.path)
        said = f"data: {self.path} is in use by another relay (process {os.getpid()}): give each its own with --data"
        self.assertEqual(error.problems, (said,))

    def test_released(self) -> None:
        """Once released, another relay may have it; a second release does nothing to that one."""
        first = self.hold()
        first.release()
        self.hold()
        first.release()
        self.assertRaises(ConfigError, DataDirectory, self.path)

    def test_left_behind(self) -> None:
        """The lock file of a relay that was killed is no obstacle."""
        os.makedirs(self.path)
        with open(os.path.join(self.path, "lock"), "w") as file:
            file.write("1\n")
        self.hold()

    def test_unwritable(self) -> None:
        """A directory that cannot be made is the system's error."""
        os.makedirs(os.path.dirname(self.path))
        with open(self.path, "w"):
            pass
        self.assertRaises(FileExistsError, DataDirectory, self.path)
