"""What the operator sees when the relay is ready."""

from __future__ import annotations

import shlex

import attrs
from twisted.trial.unittest import SynchronousTestCase

from relay.operate import banner

KEY = "canary-0123456789"
EMBEDDED = banner.Ready(
    smtp=("0.0.0.0:587", "0.0.0.0:2525"),
    target=("127.0.0.1", 587),
    admin="127.0.0.1:9587",
    dashboard="127.0.0.1:8080",
    api_key=KEY,
    key_file="/var/lib/smtp relay/api-key",
)
OWN = banner.Ready(smtp=("0.0.0.0:587",), target=("::1", 587), admin="127.0.0.1:9587", backend="https://api.example")


FIRST = attrs.evolve(
    EMBEDDED, people=(("admin@localhost", "canary-password"),), passwords_file="/var/lib/smtp relay/first-passwords"
)


class BannerTests(SynchronousTestCase):
    def test_terminal(self) -> None:
        """A terminal gets the addresses, the API key, and a swaks line with the key in it."""
        text = banner.for_terminal(EMBEDDED)
        for part in ("0.0.0.0:587, 0.0.0.0:2525", "http://127.0.0.1:8080/", "http://127.0.0.1:9587/", f"{KEY}\n"):
            self.assertIn(part, text)
        self.assertIn(f"--auth-password {KEY} ", text)

    def test_log(self) -> None:
        """The log gets the key's file and never the key; the swaks line reads the file."""
        lines = list(banner.for_log(EMBEDDED))
        self.assertNotIn(KEY, "\n".join(lines))
        self.assertEqual(lines[0], "the API key is in /var/lib/smtp relay/api-key")
        self.assertIn("\"$(cat '/var/lib/smtp relay/api-key')\"", lines[1])

    def test_first_passwords(self) -> None:
        """At the first start a terminal gets the passwords; the log gets their file and never a password."""
        self.assertIn("admin@localhost  canary-password\n", banner.for_terminal(FIRST))
        lines = "\n".join(banner.for_log(FIRST))
        self.assertIn("the first passwords are in /var/lib/smtp relay/first-passwords", lines)
        self.assertNotIn("canary-password", lines + repr(FIRST) + banner.for_terminal(EMBEDDED))

    def test_swaks(self) -> None:
        """The line is a whole command: server, STARTTLS, AUTH, a Subject and an HTML body."""
        words = shlex.split(banner.swaks(EMBEDDED, "KEY"))
        self.assertEqual(words[:3], ["swaks", "--server", "127.0.0.1:587"])
        self.assertIn("--tls", words)
        self.assertIn("Subject: Hello", words)
        self.assertIn("<h1>Hello</h1><p>It works.</p>", words)

    def test_own_platform(self) -> None:
        """With a platform of one's own there is no dashboard, and the key is the reader's to fill in."""
        text = banner.for_terminal(OWN)
        self.assertIn("https://api.example", text)
        self.assertNotIn("Dashboard", text)
        self.assertIn("--server [::1]:587", text)
        self.assertIn("--auth-password YOUR-API-KEY", text)
        self.assertEqual(len(list(banner.for_log(OWN))), 1)

    def test_no_port(self) -> None:
        """Where nothing listens on a port there is no swaks line."""
        ready = banner.Ready(smtp=("/run/relay.sock",), target=None, admin="127.0.0.1:9587")
        self.assertNotIn("swaks", banner.for_terminal(ready))
        self.assertEqual(list(banner.for_log(ready)), [])

    def test_repr(self) -> None:
        """The key is in no repr."""
        self.assertNotIn(KEY, repr(EMBEDDED))
