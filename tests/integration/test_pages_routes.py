"""Routes, the queue and the settings, as people see them in a browser."""

from __future__ import annotations

import re
from typing import ClassVar

from tests.integration.browser import PagesCase
from tests.integration.smarthosts import Sink, add_route, smarthost, status, until

LATER = "450 4.2.1 The mailbox is full, try again later"


class RoutesTests(PagesCase):
    """An administrator makes a route to a real smarthost."""

    settings: ClassVar[dict[str, str]] = {"embedded_retry_first": "600"}

    def test_new_route(self) -> None:
        """From the empty form, over a mistake, to a tested route that an account uses."""
        sink = Sink(self)
        page = self.sign_in(self.administrator)
        page.goto("/admin/routes")
        page.get_by_role("link", name="New smarthost").click()
        self.shots(page, "route-new")
        page.get_by_label("Id", exact=True).fill("out")
        page.get_by_label("Host", exact=True).fill("http://127.0.0.1")
        page.get_by_role("button", name="Make the route").click()
        page.get_by_role("alert").wait_for()
        self.shots(page, "route-problem")
        page.get_by_label("Name", exact=True).fill("Our smarthost")
        page.get_by_label("Host", exact=True).fill("127.0.0.1")
        page.get_by_label("Port", exact=True).fill(str(sink.port))
        page.get_by_label("Encryption", exact=True).select_option("none")
        page.get_by_label("Local", exact=True).check()
        page.get_by_role("button", name="Make the route").click()
        page.get_by_text("The route Our smarthost is there").wait_for()
        page.get_by_role("button", name="Test it").click()
        page.get_by_text("It would take messages").wait_for()
        self.assertIn("220", page.locator(".talk").inner_text())
        self.shots(page, "route-tested")
        id = self.post(route="out")
        until(lambda: sink.ids() == [id], "the message came")
        page.get_by_text("Delete…").click()
        self.shots(page, "route-delete", full=False)
        page.goto("/admin/routes")
        self.shots(page, "routes")

    def test_no_answer(self) -> None:
        """A smarthost that is not there is said to be so."""
        add_route(self.relay, "gone", smarthost(9, user="me", password="canary-secret"))
        page = self.sign_in(self.administrator)
        page.goto("/admin/routes/gone")
        page.get_by_role("button", name="Test it").click()
        page.get_by_text("It would take no messages").wait_for()
        self.assertNotIn("canary", page.content())
        self.shots(page, "route-failed")


class QueueTests(PagesCase):
    """What waits for a smarthost that wants nothing now."""

    settings: ClassVar[dict[str, str]] = {"embedded_retry_first": "600"}

    def test_queue(self) -> None:
        """The queue shows what waits and why; what is tried again goes out, what is given up fails."""
        busy = Sink(self, "-r", "RCPT")
        add_route(self.relay, "out", smarthost(busy.port))
        add_route(self.relay, "newsletter", smarthost(9))
        recipients = ("jane@example.org", "joe@example.org", "a.very.long.name.of.somebody@example.org")
        ids = [self.post(route="out", to=each, tag="orders") for each in recipients]
        others = [self.post(route="newsletter", to=f"reader{n}@example.org") for n in range(6)]
        until(lambda: {status(self.relay, id) for id in ids} == {"deferred"}, "all are deferred")
        until(lambda: "deferred" in {status(self.relay, id) for id in others}, "the others wait")
        page = self.sign_in(self.administrator)
        page.goto("/admin/queue")
        self.shots(page, "queue")
        page.get_by_role("navigation", name="Routes").get_by_role("link", name="out").click()
        page.wait_for_url("**/admin/queue?route=out")
        page.get_by_role("row", name=re.compile("joe@")).get_by_role("button", name="Give up").click()
        page.get_by_text("1 message given up").wait_for()
        busy.stop()
        sink = Sink(self, port=busy.port)
        page.get_by_role("button", name="Try all of out now").click()
        until(lambda: sorted(sink.ids()) == sorted([ids[0], ids[2]]), "the others went out")
        self.assertEqual(status(self.relay, ids[1]), "failed")
        page.goto("/admin/queue?route=newsletter")
        page.get_by_text("Give all up…").click()
        self.shots(page, "queue-give-up", full=False)
        page.get_by_role("button", name="Give them up").click()
        page.get_by_text("given up.").wait_for()
        page.goto("/admin/queue")
        self.shots(page, "queue-empty")


class SettingsTests(PagesCase):
    """A user chooses a default route, and sends a message again."""

    def test_default_route(self) -> None:
        """Messages that name no route go by the chosen one; the button of a message repeats it."""
        sink = Sink(self)
        add_route(self.relay, "out", smarthost(sink.port))
        page = self.sign_in()
        page.goto("/settings")
        page.get_by_label("Route of messages that name none").select_option("out")
        page.get_by_role("button", name="Save").click()
        page.get_by_text("The settings were saved").wait_for()
        self.shots(page, "settings")
        id = self.post()
        until(lambda: status(self.relay, id) == "delivered", "it was delivered")
        page.goto(f"/message/{id}")
        self.shots(page, "message-delivered")
        page.get_by_role("button", name="Send it again").click()
        page.get_by_text("Sent again").wait_for()
        until(lambda: len(sink.ids()) == 2, "it went out again")
