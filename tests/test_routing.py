"""relay.routing: MESSAGE.md, "Tag" and "Route"."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.errors import PermanentFailure, Reason
from relay.replies import reply
from relay.routing import UNTAGGED, route, tag
from relay.values import Account, Message, Route

MAIN = Route("17", "Main")
BULK = Route("18", "Bulk")


def message(route: str = "") -> Message:
    """A message whose X-Transactional-Route is *route*."""
    return Message("Shop", "shop@example.com", "Hello", "<p>Hi</p>", route=route)


class TagTests(SynchronousTestCase):
    """The tag on the wire."""

    def test_normalized(self) -> None:
        """A tag is stripped and lower-cased."""
        self.assertEqual(tag("  Password-Reset \t"), "password-reset")

    def test_blank(self) -> None:
        """No tag, or a blank one, is ``untagged``."""
        self.assertEqual((tag(""), tag(" \t ")), ("untagged", "untagged"))

    @given(st.text())
    def test_settled(self, given: str) -> None:
        """A tag is never blank, and normalizing it again changes nothing."""
        once = tag(given)
        self.assertTrue(once.strip())
        self.assertEqual(tag(once), once)
        self.assertEqual(once == UNTAGGED, given.strip().lower() in ("", UNTAGGED))


class RouteTests(SynchronousTestCase):
    """The route on the wire."""

    def test_header(self) -> None:
        """The header's route is used, with its blanks removed."""
        self.assertEqual(route(message(" Bulk "), Account("k", routes=(MAIN, BULK))), "Bulk")

    def test_header_the_relay_does_not_know(self) -> None:
        """A route that the relay does not know is left to the platform to judge."""
        self.assertEqual(route(message("other"), Account("k", routes=(MAIN,))), "other")

    def test_only_route(self) -> None:
        """Without the header the account's only route is used, by its id."""
        self.assertEqual(route(message(), Account("k", routes=(MAIN,))), "17")

    def test_default_route(self) -> None:
        """Without the header the account's default route is used, if it has one."""
        self.assertEqual(route(message(), Account("k", routes=(MAIN, BULK), default_route="18")), "18")

    def test_several_routes(self) -> None:
        """Several routes and none given is refused with 550 5.7.1, naming them and the header."""
        failure = self.assertRaises(PermanentFailure, route, message(), Account("k", routes=(MAIN, BULK)))
        self.assertEqual(failure.reason, Reason.ROUTE)
        self.assertRegex(str(reply(failure)), r"^550 5\.7\.1 .*X-Transactional-Route: Main, Bulk$")

    def test_nameless_routes(self) -> None:
        """A route without a name is listed by its id."""
        failure = self.assertRaises(PermanentFailure, route, message(), Account("k", routes=(Route("17", ""), BULK)))
        self.assertIn("17, Bulk", failure.text)

    def test_unknown_routes(self) -> None:
        """Where the platform does not tell an account's routes the choice is the platform's."""
        self.assertEqual(route(message(), Account("k")), "")

    def test_no_routes(self) -> None:
        """An account with no route at all is left to the platform to refuse."""
        self.assertEqual(route(message(), Account("k", routes=())), "")
