"""What benchmarks/compare.py says when something is missing."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from benchmarks.comparison import needs


class AdviceTests(SynchronousTestCase):
    """The commands that install it."""

    def test_debian(self) -> None:
        """A program is named with its Debian package, each package once."""
        said = needs.advice(["smtp-sink", "smtp-source", "cc"])
        self.assertIn("missing: smtp-sink, smtp-source, cc\n", said)
        self.assertIn("apt-get install --no-install-recommends gcc libc6-dev postfix", said)
        self.assertNotIn("pip", said)

    def test_pypi(self) -> None:
        """A package is named with the extra that brings it."""
        said = needs.advice(["aiosmtpd", "aiohttp"])
        self.assertEqual(said.count("-m pip install -e '.[bench]'"), 1)
        self.assertNotIn("apt-get", said)

    def test_missing(self) -> None:
        """What is there is not missing."""
        self.assertEqual(needs.missing(["treq", "no_such_package"]), ["no_such_package"])
