"""POSTs to ``failures.webhook``."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from relay.client.webhook import SECONDS, Webhook
from relay.errors import ConfigError, Reason, TemporaryFailure
from tests.client.platformcase import PlatformCase, capturedLogs, logged
from tests.client.rawserver import CLOSE, http_answer

URL = "https://hooks.example/services/secret-canary?token=t"


class WebhookTests(PlatformCase):
    """One POST."""

    def post(self, *steps: object) -> Deferred[int]:
        """POST to a platform that answers with *steps*."""
        self.start(list(steps))
        webhook = Webhook("http://hooks.example/services/secret-canary?token=t", self.client, self.clock)
        return self.ask(webhook.post(b'{"id":"ID7"}', "7-abc"))

    def test_request(self) -> None:
        """The body goes to the URL as it is given, as JSON under its Idempotency-Key; the status comes back."""
        self.assertEqual(self.successResultOf(self.post(http_answer(204))), 204)
        (request,) = self.platform.requests
        self.assertEqual(request.line, "POST /services/secret-canary?token=t HTTP/1.1")
        self.assertEqual(request.headers["content-type"], "application/json")
        self.assertEqual(request.headers["idempotency-key"], "7-abc")
        self.assertEqual(request.body, b'{"id":"ID7"}')

    def test_redirect(self) -> None:
        """A redirect is not followed."""
        self.assertEqual(self.successResultOf(self.post(http_answer(303, b"", "Location: http://hooks.example/"))), 303)
        self.assertEqual(len(self.platform.requests), 1)

    def test_no_answer(self) -> None:
        """An answer that is lost or late is a temporary failure, and the URL, a secret, is in no log."""
        with capturedLogs() as events:
            self.assert_failed(self.post(CLOSE), TemporaryFailure, Reason.UNKNOWN_OUTCOME)
            asked = self.post()
            self.clock.advance(SECONDS)
            self.assert_failed(asked, TemporaryFailure, Reason.UNREACHABLE)
        self.assertNotIn("canary", logged(events))

    def test_url(self) -> None:
        """What is no URL to POST to is refused in a sentence that does not repeat it."""
        self.start()
        for url in ("", "canary", "ftp://h.example/canary", "https://u:canary@h.example/", "https://h.example/#canary"):
            error = self.assertRaises(ConfigError, Webhook, url, self.client, self.clock)
            self.assertTrue(error.problems[0].startswith("failures.webhook: "))
            self.assertNotIn("canary", str(error))
        for url in (URL, "http://[::1]:8080/x", "https://bücher.example/x"):
            Webhook(url, self.client, self.clock)
