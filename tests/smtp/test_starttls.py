"""STARTTLS forgets everything that was said in clear text (RFC 3207 section 4.2; THREATS.md, "TLS and AUTH")."""

from __future__ import annotations

from typing import Any

from relay.policy import Session
from relay.testing import KEY, Dialogue, make_message
from tests.smtp.test_auth import plain
from tests.smtp.test_session import QUEUED, SessionCase

CONTEXT: Any = object()


class StartTLSTests(SessionCase):
    """The state of a session across STARTTLS; the handshake itself is tested over sockets."""

    def tls_dialogue(self, address: str = "192.0.2.1", **arguments: Any) -> Dialogue:
        """A session of a relay that has a certificate."""
        return self.dialogue(tls=lambda: CONTEXT, address=address, **arguments)

    def test_offered(self) -> None:
        """STARTTLS is offered in clear text, AUTH in TLS."""
        dialogue = self.tls_dialogue()
        self.assertIn("250 STARTTLS", dialogue.hello())
        self.assert_replies(dialogue, ("STARTTLS", "220"))
        self.assertIs(dialogue.transport.tls, CONTEXT)
        offered = dialogue.hello()
        self.assertNotIn("STARTTLS", " ".join(offered))
        self.assertIn("250-AUTH PLAIN LOGIN", offered)
        self.assert_replies(dialogue, (plain(KEY), "235"), ("STARTTLS", "503 5.5.1"))
        dialogue.envelope()
        self.assertRegex(dialogue.message(make_message(key=None))[0], QUEUED)

    def test_injection(self) -> None:
        """What was sent behind STARTTLS in clear text does not run in TLS, whole lines or half ones."""
        for behind in (b"RSET\r\nMAIL FROM:<i@x>\r\n", b"MAIL FR", b"\x16\x03\x01\x02\x00\x01\x00", b"\r\n"):
            dialogue = self.tls_dialogue()
            dialogue.hello()
            answer = dialogue.session.dataReceived(b"STARTTLS\r\n" + behind) or dialogue.read()
            self.assertEqual([each[:3] for each in answer], ["220"])
            self.assert_replies(dialogue, ("RCPT TO:<a@b>", "503 5.5.1"))
            self.assertTrue(dialogue.hello()[0].startswith("250"))

    def test_everything_is_forgotten(self) -> None:
        """EHLO, AUTH and MAIL are forgotten at STARTTLS."""
        dialogue = self.tls_dialogue(address="127.0.0.1")
        dialogue.hello()
        dialogue.command(plain(KEY))
        dialogue.command("MAIL FROM:<a@b>")
        dialogue.command("RCPT TO:<a@b>")
        dialogue.command("STARTTLS")
        self.assert_replies(
            dialogue, ("DATA", "503 5.5.1"), ("RCPT TO:<a@b>", "503 5.5.1"), ("MAIL FROM:<a@b>", "503 5.5.1"),
            (plain(KEY), "503 5.5.1"),
        )  # fmt: skip
        dialogue.envelope()
        self.assertEqual(dialogue.message(make_message(key=None))[0][:9], "530 5.7.0")

    def test_forgotten_with_header_auth_off(self) -> None:
        """A login in clear text does not carry over into TLS."""
        dialogue = self.tls_dialogue(address="127.0.0.1", policy=Session(header_auth=False))
        dialogue.hello()
        dialogue.command(plain(KEY))
        dialogue.command("STARTTLS")
        dialogue.hello()
        self.assert_replies(dialogue, ("MAIL FROM:<a@b>", "530 5.7.0"), (plain(KEY), "235"), ("MAIL FROM:<a@b>", "250"))

    def test_arguments(self) -> None:
        """STARTTLS takes no argument."""
        dialogue = self.tls_dialogue()
        dialogue.hello()
        self.assert_replies(dialogue, ("STARTTLS now", "501 5.5.4"), ("STARTTLS", "220"))

    def test_stalled_handshake(self) -> None:
        """A client that says STARTTLS and nothing more is cut off after 60 seconds, without a word."""
        dialogue = self.tls_dialogue()
        dialogue.hello()
        dialogue.command("STARTTLS")
        self.clock.advance(59)
        self.assertFalse(dialogue.closed)
        self.clock.advance(1)
        self.assertTrue(dialogue.transport.aborted)

    def test_quit_in_tls(self) -> None:
        """Commands behind QUIT do not run in TLS either."""
        dialogue = self.tls_dialogue()
        dialogue.command("STARTTLS")
        self.assertEqual(dialogue.send("QUIT\r\nNOOP\r\nEHLO x\r\n"), ["221 Bye"])


class StartTLSOctetTests(StartTLSTests):
    """The same, one octet at a time."""

    one_octet_at_a_time = True
