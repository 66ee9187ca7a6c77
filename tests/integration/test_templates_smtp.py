"""Messages over SMTP that name a template of the embedded platform."""

from __future__ import annotations

import json
import smtplib
import urllib.request
from email.message import EmailMessage
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.support import Relay, running

TEMPLATES = {
    "welcome": {"subject": "Hi {{name}}", "fromemail": "shop@example.com", "body": "<p>Hello {{ name }}</p>"},
    "broken": {"subject": "Hi", "fromemail": "shop@example.com", "body": "<p>\n{{ order.number }}</p>"},
}


class TemplateTests(SynchronousTestCase):
    """A relay with its embedded backend, and templates made over the API."""

    def setUp(self) -> None:
        entered = running()
        self.relay: Relay = entered.__enter__()
        self.addCleanup(entered.__exit__, None, None, None)
        for id, fields in TEMPLATES.items():
            self.put(id, {"name": id, **fields})

    def put(self, id: str, template: dict[str, Any]) -> None:
        """Make a template."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.relay.dashboard}/api/transactional/templates/{id}",
            json.dumps(template).encode(),
            {"X-Auth-APIKey": self.relay.api_key, "Content-Type": "application/json"},
            method="PUT",
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            self.assertEqual(reply.status, 201)

    def send(self, template: str, variables: dict[str, Any] | None = None) -> tuple[int, str]:
        """The reply to a message without From, Subject and body."""
        message = EmailMessage()
        message["To"] = "Jane <jane@example.org>"
        message["X-Auth-APIKey"] = self.relay.api_key
        message["X-Transactional-Template"] = template
        if variables is not None:
            message["X-Transactional-Variables"] = json.dumps(variables)
        with smtplib.SMTP("127.0.0.1", self.relay.port, timeout=60) as client:
            client.ehlo()
            client.mail("bounce@example.com")
            client.rcpt("jane@example.org")
            code, text = client.data(message.as_bytes())
        return code, text.decode()

    def test_sent(self) -> None:
        """A message that has nothing but variables is what its template makes of them."""
        self.assertEqual(self.send("Welcome", {"name": "<Zoë>"})[0], 250)
        (row,) = self.relay.messages()
        self.assertEqual(
            (row["subject"], row["fromemail"], row["template"]), ("Hi <Zoë>", "shop@example.com", "welcome")
        )
        self.assertEqual(row["size"], len("<p>Hello &lt;Zoë&gt;</p>".encode()))

    def test_unknown(self) -> None:
        """A template that the account does not have is 550, and named."""
        code, text = self.send("nope", {})
        self.assertEqual(code, 550, text)
        self.assertIn("no such template: nope", text)

    def test_mistake(self) -> None:
        """A template that fails with these variables is 554, with the line and the words."""
        code, text = self.send("broken", {})
        self.assertEqual(code, 554, text)
        self.assertIn("line 2: 'order' is undefined", text)
        self.assertEqual(self.send("broken", {"order": {"number": 1}})[0], 250)
