"""The page "Integrate" in a browser: from nothing to the first message, copying and resetting the key."""

from __future__ import annotations

import smtplib
from email.message import EmailMessage

from tests.integration.browser import PagesCase


class IntegrateTests(PagesCase):
    """A user who has just signed in."""

    def send(self, key: str) -> None:
        """Send a message by SMTP."""
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = "a@example.com", "b@example.org", "My first message"
        message.set_content("<h1>It works</h1>", subtype="html")
        with smtplib.SMTP("127.0.0.1", self.relay.port, timeout=60) as relay:
            relay.starttls()
            relay.login("api", key)
            relay.send_message(message)

    def test_first_message(self) -> None:
        """The page waits, and turns into a link when the message is there, without being loaded again."""
        page = self.sign_in()
        page.get_by_role("link", name="Integrate").click()
        page.get_by_text("Waiting for your first message").wait_for()
        self.shots(page, "integrate-waiting")
        page.evaluate("window.stays = true")
        self.send(page.locator("#key").inner_text())
        page.get_by_role("link", name="My first message").click()
        page.wait_for_url("**/message/*")
        page.go_back()
        self.assertTrue(page.get_by_text("My first message").is_visible())

    def test_copy(self) -> None:
        """A click copies the key, and the code of each language with it."""
        page = self.sign_in(permissions=["clipboard-read", "clipboard-write"])
        page.goto("/integrate")
        page.locator("[data-copy=key]").click()
        self.assertEqual(page.evaluate("navigator.clipboard.readText()"), self.relay.api_key)
        page.get_by_text("Copied").wait_for()
        page.get_by_role("link", name="Django").click()
        page.wait_for_url("**code=django*")
        self.shots(page, "integrate-django")
        page.locator("[data-copy=code-1]").click()
        self.assertIn(self.relay.api_key, page.evaluate("navigator.clipboard.readText()"))

    def test_reset(self) -> None:
        """A reset asks, and then the old key is refused at once, although the relay has just accepted it."""
        page = self.sign_in()
        page.goto("/integrate")
        old = self.relay.api_key
        self.send(old)
        page.get_by_text("Reset…").click()
        self.shots(page, "integrate-reset")
        page.get_by_role("button", name="Reset the API key").click()
        page.get_by_text("The API key was reset").wait_for()
        self.shots(page, "integrate-was-reset")
        self.assertRaises(smtplib.SMTPAuthenticationError, self.send, old)
        new = page.locator("#key").inner_text()
        self.assertEqual(self.relay.api_key, new)
        self.send(new)

    def test_api(self) -> None:
        """The other way to send."""
        page = self.sign_in()
        page.goto("/integrate/api")
        self.shots(page, "integrate-api")

    def test_impersonating(self) -> None:
        """An administrator sees all of it but the key, which is in no byte of the page."""
        page = self.sign_in(self.administrator)
        page.get_by_role("button", name="Look at it").click()
        page.goto("/integrate")
        page.get_by_text("The API key is not shown to administrators").wait_for()
        self.assertNotIn(self.relay.api_key, page.content())
        self.shots(page, "integrate-impersonating")

    def test_without_script(self) -> None:
        """Without script the page loads itself again until the message is there."""
        page = self.sign_in(java_script_enabled=False)
        page.goto("/integrate")
        self.send(self.relay.api_key)
        page.get_by_role("link", name="My first message").wait_for()
