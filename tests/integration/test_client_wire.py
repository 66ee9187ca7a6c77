"""What the clients put on the wire, recorded (``clients/record.py``), fed to the parser: memory only.

Whoever has no PHP, Ruby or Go sees here that a change of the parser does not harm their users.
"""

from __future__ import annotations

import re

from twisted.trial.unittest import SynchronousTestCase

from relay.message import names, parse
from relay.values import Message

from .clients import meant, programs

WIRE = programs.HERE / "wire"
HEADER = "-header"


def recorded(name: str) -> bytes:
    """The recording *name*, line ends as a session hands them on: curl sends LF files as they are."""
    return re.sub(rb"\r\n|\r|\n", b"\r\n", (WIRE / f"{name}.eml").read_bytes())


def all_recordings() -> list[str]:
    """The names of all recordings."""
    return sorted(path.stem for path in WIRE.glob("*.eml"))


class RecordingTests(SynchronousTestCase):
    """Every recording, field by field."""

    def each(self) -> list[tuple[str, Message]]:
        """(name, what the parser makes of it) of every recording."""
        return [(name, parse(recorded(name))) for name in all_recordings()]

    def test_all_are_there(self) -> None:
        """Every client is recorded twice: signed in with AUTH, and with the header."""
        wanted = {client.name + suffix for client in programs.CLIENTS for suffix in ("", HEADER)}
        self.assertEqual(set(all_recordings()), wanted)

    def test_variables(self) -> None:
        """The variables come through every mailer's folding and encoding unharmed."""
        for name, message in self.each():
            self.assertEqual(message.variables, meant.VARIABLES, name)

    def test_sender(self) -> None:
        """The From name keeps its umlaut and its comma, and stays one address."""
        for name, message in self.each():
            self.assertEqual((message.from_name, message.from_email), meant.FROM, name)

    def test_recipients(self) -> None:
        """Each visible recipient has the name beside its address in To; the blind one has none."""
        wanted = {address: display for display, address in meant.TO} | {meant.BCC: ""}
        for name, message in self.each():
            found = {each: names.recipient_name(message.to_names, each, False) for each in meant.RECIPIENTS}
            self.assertEqual(found, wanted, name)

    def test_subject(self) -> None:
        """The subject is decoded, with its dash and its euro sign."""
        for name, message in self.each():
            self.assertEqual(message.subject, meant.SUBJECT, name)

    def test_reply_to(self) -> None:
        """Reply-To is decoded and whole."""
        for name, message in self.each():
            self.assertEqual(message.reply_to, f"{meant.REPLY_TO[0]} <{meant.REPLY_TO[1]}>", name)

    def test_tag_and_route(self) -> None:
        """Tag and route are what was given."""
        for name, message in self.each():
            self.assertEqual((message.tag, message.route), (meant.TAG, meant.ROUTE), name)

    def test_api_key(self) -> None:
        """The key is read from the header, and where there is none there is none."""
        for name, message in self.each():
            key = "recorded-key-0000" if name.endswith(HEADER) else None
            self.assertEqual(message.api_key, key, name)

    def test_body(self) -> None:
        """The HTML is the one that was meant: its dots, its long line, and not the text alternative."""
        wanted = {client.name: client.html for client in programs.CLIENTS}
        for name, message in self.each():
            # Not assertEqual: a difference of 40,000 characters takes it seconds to print.
            self.assertTrue(message.body == wanted[name.removesuffix(HEADER)], f"{name}: {message.body[:200]!r}")

    def test_image(self) -> None:
        """The image is removed and counted, and the reference to it is left as it is."""
        for name, message in self.each():
            self.assertEqual((message.images_removed, message.cid_references), (1, 1), name)
