"""A test in memory: no port, no platform."""

from own_stage import factory
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relay.config import Config
from relay.testing import Dialogue, FakePlatform, make_message


class OwnStageTests(SynchronousTestCase):
    """The stages of ``own_stage``."""

    def setUp(self) -> None:
        """A client that has said where the message goes."""
        self.platform = FakePlatform()
        self.client = Dialogue(factory(Config(), self.platform, Clock()))
        self.client.envelope("jane@example.org")

    def test_newsletter(self) -> None:
        """A newsletter goes by the route for bulk mail."""
        (reply,) = self.client.message(make_message(X_Transactional_Tag="Newsletter"))
        self.assertRegex(reply, "^250 Ok: queued as ")
        self.assertEqual(self.platform.submissions[0].route, "bulk")

    def test_unfinished(self) -> None:
        """A subject that is not finished is refused."""
        (reply,) = self.client.message(make_message(Subject="TODO"))
        self.assertEqual(reply, "554 5.6.0 The subject is not finished")
        self.assertEqual(self.platform.submissions, [])
