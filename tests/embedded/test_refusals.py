"""What was refused stands in the log, once, with the answer that the client got."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from twisted.web.server import Site

from tests.embedded.inmemory import MESSAGE, BackendCase, Reply, ask

TOKEN = "the relay's own"


class RefusedByAPITests(BackendCase):
    """What the HTTP API itself refuses."""

    def refused(self) -> list[dict[str, Any]]:
        return self.logged("?status=refused")

    def test_logged(self) -> None:
        """A refusal of any kind is in the log with its answer, and counted as refused."""
        for changed, word in (
            ({"route": "nope"}, "403 Route not available"),
            ({"tag": "much too long a tag for this"}, "tag: must be"),
            ({"to": "nobody"}, "to: is not an address"),
            ({"template": "nope"}, "403 Template not available"),
            ({"body": "{{ a", "variables": {}}, "Template error"),
        ):
            self.assertGreaterEqual(self.post({**MESSAGE, **changed}).status, 400)
            newest = self.refused()[0]
            self.assertIn(word, newest["answer"])
            self.assertEqual((newest["subject"], newest["status"]), ("Hello", "refused"))
        self.assertEqual(len(self.refused()), 5)
        self.assertEqual(self.logged("?status=captured"), [])

    def test_unreadable(self) -> None:
        """So is a body that is no message; one without a good key is nobody's."""
        headers = {"X-Auth-APIKey": self.backend.api_key, "Content-Type": "application/json"}
        ask(self.site, "POST", "/api/transactional/send", headers, b"{")
        ask(self.site, "POST", "/api/transactional/send", {**headers, "X-Auth-APIKey": "wrong"}, b"{")
        (entry,) = self.refused()
        self.assertIn("400", entry["answer"])

    def test_page(self) -> None:
        """Its page says what the client got, and has what was posted."""
        self.post({**MESSAGE, "route": "nope", "body": "<b>x</b>"})
        id = self.refused()[0]["id"]
        looks = self.browser()
        text = looks.get(f"/message/{id}").text
        self.assertIn("It was refused, and the sender was told:", text)
        self.assertIn("This account has no route nope", text)
        self.assertIn("<b>x</b>", looks.get(f"/message/{id}/preview").text)


class ReportsTests(BackendCase):
    """What the relay tells."""

    def start(self, **options: Any) -> None:
        super().start(**options)
        self.relay: Site = self.backend.relay_site(TOKEN)

    def report(self, token: str = TOKEN, site: Site | None = None, **changed: Any) -> Reply:
        report = {
            "id": "4C0FFEE",
            "account": hashlib.sha256(self.backend.api_key.encode()).hexdigest(),
            "peer": "192.0.2.7",
            "reply": "250 Ok: queued as 4C0FFEE",
            "reason": "",
            "milliseconds": 12.3,
            "refused": {},
            "sender": "bounce@example.com",
            "from": "shop@example.com",
            "subject": "Hello",
            "tag": "orders",
            "route": "",
            "size": 5,
            "images": 2,
            "attachments": 1,
            "cids": 0,
            "headers": ["X-Mailer", "List-Unsubscribe"],
            **changed,
        }
        body = json.dumps({"reports": [report]}).encode()
        return ask(site or self.relay, "POST", "/api/relay/reports", {"X-Relay-Token": token}, body)

    def test_told(self) -> None:
        """The page of a message says what the client got, from where it came, and what was removed."""
        reply = self.post(MESSAGE, X_Request_ID="4C0FFEE")
        self.assertEqual(self.report().status, 200)
        text = self.browser().get(f"/message/{reply.json['id']}").text
        for word in (
            "250 Ok: queued as 4C0FFEE",
            "192.0.2.7",
            "2 images removed",
            "1 attachment removed",
            "X-Mailer, List-Unsubscribe",
        ):
            self.assertIn(word, text)
        self.assertNotIn("cid:", text)

    def test_refused(self) -> None:
        """A message that never came to the backend is in the log, for each recipient, with the reply."""
        reply = "554 5.6.1 Attachments are not allowed"
        self.report(
            reply=reply, refused={"jane@example.org": reply, "joe@example.org": reply}, tag="Much Too Long A Tag"
        )
        found = self.logged("?status=refused")
        self.assertEqual([each["to"] for each in found], ["joe@example.org", "jane@example.org"])
        self.assertEqual({each["answer"] for each in found}, {reply})
        self.assertEqual({each["tag"] for each in found}, {"untagged"})
        self.assertEqual({each["request_id"] for each in found}, {"4C0FFEE"})
        text = self.browser().get(f"/message/{found[0]['id']}").text
        self.assertIn("there is no content to show", text)
        self.assertNotIn("<iframe", text)

    def test_once(self) -> None:
        """What the API refused and the relay tells of is one message, with what the client got."""
        self.post({**MESSAGE, "route": "nope"}, X_Request_ID="4C0FFEE")
        reply = "550 5.7.1 Route not available"
        for _ in range(2):
            self.report(reply=reply, refused={MESSAGE["to"]: reply})
        (entry,) = self.logged()
        self.assertEqual(entry["answer"], reply)
        looks = self.browser()
        self.assertIn("&lt;p&gt;Hello", looks.get(f"/message/{entry['id']}?view=source").text)
        self.assertEqual(self.get("/api/transactional/stats").status, 200)

    def test_strangers(self) -> None:
        """Nobody else may tell, there is no such path for others, and a key that is not known tells nothing."""
        self.assertEqual(self.report(token="wrong").status, 404)
        self.assertEqual(self.report(site=self.site).status, 404)
        refused = {"jane@example.org": "550 No"}
        self.assertEqual(self.report(account="0" * 64, refused=refused).status, 200)
        self.assertEqual(self.logged(), [])
        self.assertEqual(ask(self.relay, "GET", "/log").status, 404)

    def test_wrong(self) -> None:
        """What is no report is refused whole."""
        for body in (b"", b"{}", b'{"reports": 1}', b'{"reports": [{}]}', b'{"reports": [1]}', b"[]"):
            reply = ask(self.relay, "POST", "/api/relay/reports", {"X-Relay-Token": TOKEN}, body)
            self.assertEqual(reply.status, 400, body)
