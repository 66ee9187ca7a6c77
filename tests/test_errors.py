"""relay.errors: the two failures and the reasons behind them."""

from __future__ import annotations

import pickle

from twisted.trial.unittest import SynchronousTestCase

from relay.errors import ConfigError, Failure, PermanentFailure, Reason, TemporaryFailure


class FailureTests(SynchronousTestCase):
    """A refusal as it stands in a log."""

    def test_two_kinds(self) -> None:
        """Both kinds of failure are caught as one, and neither is the other."""
        self.assertTrue(issubclass(PermanentFailure, Failure) and issubclass(TemporaryFailure, Failure))
        self.assertFalse(
            issubclass(PermanentFailure, TemporaryFailure) or issubclass(TemporaryFailure, PermanentFailure)
        )

    def test_with_text(self) -> None:
        """In a log a failure is its reason and what to change."""
        self.assertEqual(str(PermanentFailure(Reason.ROUTE, "name a route")), "route: name a route")

    def test_without_text(self) -> None:
        """Without a text it is its reason alone."""
        self.assertEqual(str(TemporaryFailure(Reason.BUSY)), "busy")

    def test_retry_after(self) -> None:
        """A temporary failure carries how many seconds the platform asked to wait, if it did."""
        self.assertEqual(TemporaryFailure(Reason.BUSY, "", 30.0).retry_after, 30.0)
        self.assertIsNone(TemporaryFailure(Reason.BUSY).retry_after)

    def test_labels(self) -> None:
        """The labels of the reasons are lower-case words with hyphens, fit for a metric."""
        for reason in Reason:
            self.assertRegex(reason.value, r"\A[a-z0-9]+(-[a-z0-9]+)*\Z")

    def test_pickled(self) -> None:
        """A failure that crosses a process keeps its reason and its text."""
        copy = pickle.loads(pickle.dumps(PermanentFailure(Reason.BAD_TEMPLATE, "line 3")))
        self.assertEqual((copy.reason, copy.text), (Reason.BAD_TEMPLATE, "line 3"))


class ConfigErrorTests(SynchronousTestCase):
    """A wrong configuration."""

    def test_all_at_once(self) -> None:
        """Every problem is told, one a line."""
        error = ConfigError(["relay.toml: limits.idle: must be at least 1", "--backend: not a URL"])
        self.assertEqual(len(error.problems), 2)
        self.assertEqual(str(error).splitlines(), list(error.problems))
