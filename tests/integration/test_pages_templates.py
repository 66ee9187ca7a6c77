"""The pages of templates, as people see them in a browser."""

from __future__ import annotations

import re
import smtplib
import socket
from email.message import EmailMessage

from playwright.sync_api import Page, expect

from tests.integration.browser import PagesCase

SOURCE = """\
<!doctype html>
<html>
<body style="margin: 0; background: #f4f1ea; font: 16px/1.55 Georgia, serif; color: #2b2620">
  <div style="max-width: 34rem; margin: 0 auto; padding: 32px; background: #fff">
    <h1 style="font-size: 26px; margin: 0 0 8px">Thank you, {{ name }}</h1>
    <p>Your order {{ order.number }} is on its way.</p>
    <table style="width: 100%; border-collapse: collapse">
      {% for item in order["items"] %}
      <tr><td style="padding: 8px 0; border-bottom: 1px solid #ddd">{{ item.title }}</td>
      <td align="right" style="border-bottom: 1px solid #ddd">{{ item.price }}</td></tr>
      {% endfor %}
    </table>
    <p style="color: #777; font-size: 13px">The tea house, Ostfriesland</p>
  </div>
</body>
</html>
"""
VARIABLES = """\
{
  "name": "Jane",
  "order": {"number": "T-1042", "items": [
    {"title": "East Frisian blend, 250 g", "price": "9.80"},
    {"title": "Kluntje, white", "price": "3.20"}
  ]}
}"""


class EditorTests(PagesCase):
    """A template from its first letter to the message made of it."""

    def make(self, page: Page, name: str) -> None:
        """A new template, in its editor."""
        page.goto("/templates")
        page.get_by_label("Name").fill(name)
        page.get_by_role("button", name="Create template").click()
        page.wait_for_url(re.compile("/templates/.+"))

    def test_edit_and_send(self) -> None:
        """Edited with its preview beside it, saved, and named by a message over SMTP, which the log then has."""
        page = self.sign_in()
        page.goto("/templates")
        self.shots(page, "templates-none")
        self.make(page, "Order confirmation")
        preview = page.frame_locator(".paper iframe:not(.waiting)")
        preview.get_by_text("Hello Jane").wait_for()
        page.get_by_label("Subject").fill("Your order {{number}}")
        page.get_by_text("Sender and tag").click()
        page.get_by_label("From name").fill("The tea house")
        page.get_by_label("From address").fill("orders@example.com")
        page.get_by_label("Tag").fill("orders")
        page.get_by_label("HTML with Jinja2").fill(SOURCE)
        page.get_by_label("Variables to try it with").fill(VARIABLES)
        preview.get_by_text("Your order T-1042 is on its way").wait_for()
        page.get_by_text("Undefined:").wait_for()
        page.get_by_text("Your order {{number}}", exact=True).wait_for()
        self.shots(page, "template-undefined", tall=True)
        page.get_by_label("Subject").fill("Your order is on its way, {{name}}")
        page.locator("#shown-subject", has_text="on its way, Jane").wait_for()
        expect(page.get_by_text("Undefined:")).to_have_count(0)
        page.get_by_role("button", name="Save", exact=True).click()
        page.get_by_text("Saved as version 2").wait_for()
        preview.get_by_text("T-1042").wait_for()
        self.shots(page, "template", tall=True)
        page.get_by_text("Phone", exact=True).click()
        self.assertLess(page.locator(".paper iframe:not(.waiting)").bounding_box()["width"], 380)  # type: ignore[index]

        self.send("order-confirmation", VARIABLES)
        page.goto("/log")
        page.get_by_text("Your order is on its way, Jane").first.click()
        page.wait_for_url(re.compile("/message/"))
        page.get_by_text("order-confirmation").first.wait_for()

        page.goto("/templates")
        page.get_by_text("Order confirmation").wait_for()
        self.shots(page, "templates")

    def send(self, template: str, variables: str) -> None:
        """A message that names *template* over SMTP."""
        message = EmailMessage()
        message["To"] = "Jane <jane@example.org>"
        message["X-Auth-APIKey"] = self.relay.api_key
        message["X-Transactional-Template"] = template
        message["X-Transactional-Variables"] = " ".join(variables.split())
        with smtplib.SMTP("127.0.0.1", self.relay.port, timeout=60) as client:
            client.send_message(message, "bounce@example.com", ["jane@example.org"])

    def test_mistake(self) -> None:
        """A mistake is told with its line while one types, and the button leads there; it is not saved."""
        page = self.sign_in()
        self.make(page, "Broken")
        page.get_by_label("HTML with Jinja2").fill("<p>\n\n{% for item in items %}\n</p>")
        problem = page.locator("#said .problem")
        problem.get_by_text("body: line 3").wait_for()
        self.shots(page, "template-mistake", tall=True)
        page.get_by_role("button", name="Go to line 3").click()
        selected = page.evaluate(
            "getSelection().toString() || document.activeElement.value.slice("
            "document.activeElement.selectionStart, document.activeElement.selectionEnd)"
        )
        self.assertEqual(selected, "{% for item in items %}")
        page.keyboard.press("Control+s")
        page.get_by_role("alert").get_by_text("body: line 3").wait_for()
        self.assertIn("{% for item", page.get_by_label("HTML with Jinja2").input_value())

    def test_history(self) -> None:
        """Duplicated, brought back from its history, deleted after one more question; Back does not walk previews."""
        page = self.sign_in()
        self.make(page, "Welcome")
        for words in ("first words", "second words"):
            page.get_by_label("HTML with Jinja2").fill(f"<p>{words}</p>")
            page.frame_locator(".paper iframe:not(.waiting)").get_by_text(words).wait_for()
        page.get_by_role("button", name="Save", exact=True).click()
        page.get_by_text("Saved as version 2").wait_for()
        page.get_by_role("link", name="History").click()
        page.wait_for_url("**/history")
        self.shots(page, "template-history")
        page.go_back()
        page.wait_for_url("**/templates/welcome")
        page.go_forward()
        page.get_by_role("link", name="Version 1").click()
        page.frame_locator("iframe").get_by_text("Hello").wait_for()
        self.shots(page, "template-version", tall=True)
        page.get_by_role("button", name="Bring it back").click()
        page.get_by_text("Version 1 is back, as version 3").wait_for()
        page.get_by_role("button", name="Duplicate").click()
        page.wait_for_url("**/copy-of-welcome")
        page.get_by_text("Delete…").click()
        self.shots(page, "template-delete", full=False)
        page.get_by_role("button", name="Delete it").click()
        page.get_by_text("Copy of Welcome was deleted").wait_for()

    def test_send_a_test(self) -> None:
        """A test is saved and sent by one button."""
        page = self.sign_in()
        self.make(page, "Welcome")
        page.get_by_label("Subject").fill("For {{name}}")
        page.get_by_label("Send a test to").fill("me@example.org")
        page.get_by_role("button", name="Save and send a test").click()
        page.get_by_text("A test is on its way to me@example.org").wait_for()
        page.goto("/log")
        page.get_by_text("For Jane").wait_for()

    def test_without_javascript(self) -> None:
        """Without JavaScript a button previews what stands in the form, and names what is missing."""
        page = self.sign_in(java_script_enabled=False)
        self.make(page, "Plain")
        page.get_by_label("HTML with Jinja2").fill("<p>Words of {{ who }}</p>")
        page.get_by_role("button", name="Refresh").click()
        preview = page.frame_locator("iframe[name=preview]")
        preview.get_by_text("Words of").wait_for()
        preview.get_by_text("Undefined: who").wait_for()
        self.shots(page, "template-without-javascript", tall=True)
        page.get_by_role("button", name="Save", exact=True).click()
        page.get_by_text("Saved as version 2").wait_for()
        page.get_by_text("Undefined:").wait_for()


class ReferenceTests(PagesCase):
    """The page of the HTTP API."""

    def test_reference(self) -> None:
        """An operation opens with its fields."""
        page = self.sign_in()
        page.goto("/integrate")
        page.get_by_role("link", name="API reference").click()
        page.get_by_text("/api/transactional/send").click()
        page.get_by_text("X-Request-ID").wait_for()
        self.shots(page, "reference")


class HostileTests(PagesCase):
    """A template that would do harm."""

    def test_nothing_runs(self) -> None:
        """In its live preview and by itself no script runs, no form is sent, and no request leaves the browser."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        listener.settimeout(1)
        evil = f"http://127.0.0.1:{listener.getsockname()[1]}"
        page = self.sign_in()
        EditorTests.make(self, page, "Hostile")  # type: ignore[arg-type]
        answered: list[str] = []
        page.context.on("response", lambda response: answered.append(response.url))
        page.on("dialog", lambda dialog: self.fail(f"a script ran: {dialog.message}"))
        source = (
            f"<link rel=preconnect href={evil}><link rel=stylesheet href={evil}/s.css><meta http-equiv=refresh "
            f"content='0;url={evil}/refresh'><base href={evil}/><script>alert(1)</script>"
            f"<script src={evil}/s.js></script>"
            f"<img src={evil}/i.png srcset='{evil}/2.png 2x' onerror=alert(2)><svg onload=alert(3)></svg>"
            f"<style>@import '{evil}/c.css'; @font-face {{ font-family: f; src: url({evil}/f.woff) }} "
            f"body {{ background: url({evil}/b.png); font-family: f }}</style><iframe src={evil}/f></iframe>"
            f"<object data={evil}/o></object><embed src={evil}/e><video src={evil}/v poster={evil}/p></video>"
            f"<form action={evil}/form id=f><input name=a value=b><button>Go</button></form>"
            f"<script>document.getElementById('f').submit()</script><a href={evil}/a target=_top>link</a>"
            "<p>The end of it</p>"
        )
        page.get_by_label("HTML with Jinja2").fill(source)
        preview = page.frame_locator(".paper iframe:not(.waiting)")
        preview.get_by_text("The end of it").wait_for()
        preview.get_by_role("button", name="Go").click()
        page.wait_for_timeout(500)
        self.shots(page, "template-hostile", tall=True)
        page.get_by_role("button", name="Save", exact=True).click()
        page.get_by_text("Saved as version 2").wait_for()
        page.goto("/templates/hostile/preview")
        page.get_by_text("The end of it").wait_for()
        page.get_by_role("button", name="Go").click()
        page.wait_for_timeout(500)
        self.assertEqual([url for url in answered if not url.startswith((self.url, "data:"))], [])
        # The browser names requests that a policy stopped; here is whether one came.
        with self.assertRaises(TimeoutError):
            listener.accept()
