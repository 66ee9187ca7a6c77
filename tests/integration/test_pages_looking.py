"""The dashboard, the log and the page of a message, as people see them in a browser."""

from __future__ import annotations

import contextlib
import random
import re
import smtplib
import time
from typing import Any

from playwright.sync_api import expect

from relay.embedded import store
from relay.embedded.database import change, open_sqlite
from relay.embedded.store import Status
from tests.integration.browser import PagesCase

BODY = """<html><body style="margin:0;background:#eef1f6;font-family:Arial,sans-serif">
<table width="100%" cellpadding="0" cellspacing="0"><tr><td align="center" style="padding:32px 12px">
<table width="560" style="max-width:100%;background:#fff;border-radius:8px;padding:32px"><tr><td>
<h1 style="margin:0 0 12px;color:#1f2a44">Your order is on its way</h1>
<p style="color:#445">Hello {{ name }}, we handed order <b>{{ order }}</b> to the carrier today.</p>
<p><a style="background:#3f5be0;color:#fff;padding:12px 20px;text-decoration:none" href="#">Track it</a></p>
</td></tr></table></td></tr></table></body></html>"""


class LookingCase(PagesCase):
    """With messages."""

    def smtp(self, *, to: str = "jane@example.org", headers: str = "", html: str = "<p>Hello</p>") -> str:
        """Send a message by SMTP; the last reply."""
        text = f"From: Example Shop <shop@example.com>\r\nTo: {to}\r\nContent-Type: text/html\r\n{headers}\r\n{html}"
        with smtplib.SMTP("127.0.0.1", self.relay.port) as client:
            client.ehlo()
            client.login("api", self.relay.api_key)
            client.mail("bounce@example.com")
            client.rcpt(to)
            code, reply = client.data(text.encode())
            return f"{code} {reply.decode()}"

    def month(self) -> None:
        """A month of messages of every kind, straight into the database."""
        dice, now = random.Random(7), time.time()
        engine = open_sqlite(self.relay.data / "platform.sqlite3")
        self.addCleanup(engine.dispose)
        tags = ("order-confirmation", "password-reset", "newsletter", "invoice", "untagged")
        kinds = (Status.DELIVERED,) * 88 + (Status.FAILED,) * 5 + (Status.DEFERRED,) * 4 + (Status.REFUSED,) * 3
        answers = {
            Status.DELIVERED: "250 2.0.0 Ok: queued as 4C0FFEE",
            Status.FAILED: "550 5.1.1 <{}>: Recipient address rejected: User unknown",
            Status.DEFERRED: "451 4.7.1 Greylisted, try again in 5 minutes",
            Status.REFUSED: "550 5.7.1 This account has no route premium; it has capture",
        }

        def fill(connection: Any) -> None:
            for number in range(1500):
                at = now - 30 * 86_400 * (1 - number / 1500) ** 1.4
                status, tag = dice.choice(kinds), dice.choices(tags, (30, 12, 40, 15, 8))[0]
                name = dice.choice(("Jane Doe", "Joe Smith", "Zoë Müller", "Li Wei", "Ana García"))
                to = f"{name.split()[0].lower()}@example.{dice.choice(('org', 'net', 'com'))}"
                subject = {
                    "order-confirmation": f"Your order {dice.randrange(10**6)} is on its way",
                    "password-reset": "Reset your password",
                    "newsletter": "November at Example Shop",
                    "invoice": f"Invoice {dice.randrange(10**6)}",
                    "untagged": "Hello from Example Shop",
                }[tag]
                fields = store.Fields(
                    f"R{number}", "Example Shop", "shop@example.com", to, name, subject, "", "", tag, "capture", ""
                )
                seq = store.add(
                    connection,
                    store.New(
                        1, f"MONTH{number:05}", at, fields, b'{"body":"<p>Hello</p>"}', None, 2, "", "", status=status,
                        answer=answers[status].format(to),
                    ),
                ).seq  # fmt: skip
                assert seq is not None

        change(engine, fill)


class FirstMessageTests(LookingCase):
    """From the first start to the first message."""

    def test_first(self) -> None:
        """The log waits for the first message, and shows it when it arrives, without a hand moved."""
        page = self.sign_in()
        page.goto("/log")
        page.get_by_text("Waiting for your first message").wait_for()
        expect(page.locator("[data-live-state]")).to_have_text("Live")
        self.shots(page, "log-first")
        self.smtp(headers="Subject: The first one\r\n")
        page.get_by_role("link", name="The first one").click()
        page.get_by_role("heading", name="The first one").wait_for()


class DashboardTests(LookingCase):
    """The dashboard."""

    def test_dashboard(self) -> None:
        """A month is counted and drawn; a tag leads to its messages."""
        page = self.sign_in()
        page.goto("/")
        self.shots(page, "dashboard-empty")
        self.month()
        page.goto("/")
        self.shots(page, "dashboard-day")
        page.get_by_role("link", name="30 days").click()
        expect(page.locator("svg g.step")).to_have_count(30)
        self.shots(page, "dashboard")
        page.get_by_text("As a table").click()
        self.shots(page, "dashboard-table")
        row = page.get_by_role("row").filter(has=page.get_by_role("link", name="password-reset"))
        row.get_by_role("link").click()
        page.wait_for_url(re.compile(r"/log\?tag=password-reset&since="))
        expect(page.locator("table.log tbody tr").first).to_contain_text("Reset your password")

    def test_overview(self) -> None:
        """An administrator sees all accounts and the queue."""
        self.month()
        page = self.sign_in(self.administrator)
        page.goto("/admin/overview?period=30d")
        page.get_by_text("Waiting in the queue").wait_for()
        self.shots(page, "overview")


class LogTests(LookingCase):
    """The log."""

    def test_live(self) -> None:
        """New messages come by themselves; a pause holds them back, and going on brings them."""
        self.month()
        page = self.sign_in()
        page.goto("/log")
        state = page.locator("[data-live-state]")
        expect(state).to_have_text("Live")
        self.shots(page, "log")
        self.smtp(headers="Subject: While you look\r\n")
        expect(page.locator("table.log tbody tr").first).to_contain_text("While you look")
        page.get_by_role("button", name="Pause").click()
        expect(state).to_have_text("Paused")
        self.smtp(headers="Subject: While paused\r\n")
        page.get_by_role("button", name="Go on").click()
        expect(page.locator("table.log tbody tr").first).to_contain_text("While paused")
        self.assertEqual(page.get_by_role("link", name="While you look").count(), 1)

    def test_reconnects(self) -> None:
        """When the connection is lost the page says so, and goes on by itself, without a gap."""
        self.post(subject="Before")
        page = self.sign_in()
        page.goto("/log")
        state = page.locator("[data-live-state]")
        expect(state).to_have_text("Live")
        page.context.set_offline(True)
        page.evaluate("dispatchEvent(new Event('offline'))")
        page.context.set_offline(False)
        self.post(subject="After")
        expect(page.locator("table.log tbody tr").first).to_contain_text("After", timeout=20_000)
        expect(state).to_have_text("Live")

    def test_search(self) -> None:
        """What is searched for stands in the address and in the form; a key puts the cursor there."""
        self.month()
        page = self.sign_in()
        page.goto("/log")
        page.keyboard.press("/")
        page.keyboard.type("zoë invoice")
        page.keyboard.press("Enter")
        page.wait_for_url("**/log?search=zo%C3%AB+invoice")
        expect(page.locator("table.log tbody tr").first).to_contain_text("Invoice")
        page.get_by_label("Status").select_option("failed")
        page.get_by_text("More filters").click()
        page.get_by_label("Sender", exact=True).fill("shop@example.com")
        page.get_by_role("button", name="Search").click()
        page.wait_for_url(re.compile("sender=shop%40example.com"))
        self.shots(page, "log-search")
        page.goto("/log?search=nothinglikethis")
        page.get_by_text("No message matches").wait_for()
        self.shots(page, "log-none")

    def test_without_scripts(self) -> None:
        """Without JavaScript it is all there, with a link to load it again."""
        self.post(subject="Plain")
        page = self.sign_in(java_script_enabled=False)
        page.goto("/log")
        page.get_by_role("link", name="Plain").wait_for()
        page.get_by_role("link", name="Refresh").click()
        page.get_by_role("link", name="Plain").click()
        page.get_by_label("Phone").wait_for(state="attached")
        self.assertTrue(page.locator("iframe.preview").is_visible())


class MessageTests(LookingCase):
    """The page of a message."""

    def test_message(self) -> None:
        """It shows the message at two widths, what the client got, what was removed, and what became of it."""
        headers = (
            "Subject: Your order is on its way",
            "X-Mailer: Shop 2.1",
            "X-Transactional-Tag: orders",
            'X-Transactional-Variables: {"name": "Jane", "order": "1234"}',
        )
        reply = self.smtp(headers="".join(f"{each}\r\n" for each in headers), html=BODY)
        page = self.sign_in()
        page.goto("/log")
        page.get_by_role("link", name="Your order is on its way").click()
        with contextlib.suppress(AssertionError):
            expect(page.get_by_text(reply)).to_be_visible(timeout=2000)
        page.reload()
        expect(page.get_by_text(reply)).to_be_visible()
        page.get_by_text("discarded").click()
        page.get_by_text("X-Mailer").wait_for()
        frame = page.frame_locator("iframe.preview")
        expect(frame.get_by_text("order 1234")).to_be_visible()
        self.shots(page, "message")
        wide = page.locator("iframe.preview").bounding_box()
        page.get_by_text("Phone", exact=True).click()
        narrow = page.locator("iframe.preview").bounding_box()
        assert wide is not None and narrow is not None
        self.assertGreater(wide["width"], 800)
        self.assertLessEqual(narrow["width"], 400)
        self.shots(page, "message-narrow")
        for view, word in (("Source", "<h1"), ("JSON as posted", '"fromname"'), ("Variables", '"order": "1234"')):
            page.get_by_role("link", name=view).click()
            expect(page.locator("pre.source")).to_contain_text(word)
        self.shots(page, "message-variables")
        page.get_by_role("button", name="Send it again").click()
        page.get_by_text("Sent again").wait_for()

    def test_refused(self) -> None:
        """A refused message is in the log with the reply that the client got, and its page says why."""
        reply = self.smtp(headers="Subject: On no route\r\nX-Transactional-Route: premium\r\n")
        self.assertTrue(reply.startswith("550"), reply)
        page = self.sign_in()
        page.goto("/log?status=refused")
        for _ in range(20):
            if page.get_by_role("link", name="On no route").count():
                break
            page.reload()
        page.get_by_role("link", name="On no route").click()
        expect(page.locator(".problem")).to_contain_text(reply)
        self.shots(page, "message-refused")

    def test_timeline(self) -> None:
        """Every attempt is in the timeline, with the exact answer."""
        self.post(subject="Slow to arrive", tag="orders")
        engine = open_sqlite(self.relay.data / "platform.sqlite3")
        self.addCleanup(engine.dispose)
        began = time.time() - 900

        def happen(connection: Any) -> None:
            for number, (kind, answer) in enumerate(
                (
                    ("queued", ""),
                    ("deferred", "451 4.7.1 <jane@example.org>: Recipient address rejected: Greylisted"),
                    ("deferred", "421 4.3.2 Service shutting down and closing transmission channel"),
                    ("delivered", "250 2.0.0 Ok: queued as 9F1B3C21A7"),
                )
            ):
                detail = "" if kind == "queued" else "smtp.example.net:587"
                store.note(connection, 1, began + 300 * number, kind, answer, detail)
            store.change_status(connection, 1, Status.DELIVERED, at=began + 900, answer=answer, attempts=3)

        change(engine, happen)
        page = self.sign_in()
        page.goto("/log")
        page.get_by_role("link", name="Slow to arrive").click()
        page.get_by_text("9F1B3C21A7").wait_for()
        self.shots(page, "message-timeline")
