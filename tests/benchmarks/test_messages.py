"""The messages of benchmarks/compare.py: the relay makes of each what the measurement expects at the platform."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from benchmarks.comparison.messages import KEY, RECIPIENT, SENDER, WORKLOADS, letters
from relay.testing import Dialogue, FakePlatform, make_factory
from relay.values import Account

LETTERS = letters()


class LetterTests(SynchronousTestCase):
    """The messages themselves."""

    def test_sizes(self) -> None:
        """They have the sizes that the workloads tell."""
        sizes = {name: len(letter.content) for name, letter in LETTERS.items()}
        self.assertTrue(4096 < sizes["html4k"] < 5000, sizes)
        self.assertTrue(1 << 20 < sizes["html1m"] < 1.1e6, sizes)
        self.assertTrue(6000 < sizes["alt6k"] < 7500, sizes)
        self.assertEqual({each.letter for each in WORKLOADS.values()}, LETTERS.keys())

    def test_unsigned(self) -> None:
        """For a client that signs in the key is not in the message."""
        for letter in LETTERS.values():
            self.assertIn(KEY.encode(), letter.content)
            self.assertNotIn(KEY.encode(), letter.unsigned)

    def test_differences(self) -> None:
        """A field or a body that came otherwise is named; line ends do not count."""
        letter = LETTERS["html4k"]
        posted: dict[str, Any] = {
            "fromname": "Example Shop",
            "fromemail": "orders@shop.example",
            "to": RECIPIENT,
            "subject": letter.subject,
            "returnpath": SENDER,
            "tag": "welcome",
            "body": letter.body.replace("\n", "\r\n"),
        }
        self.assertEqual(letter.differences(posted), "")
        self.assertEqual(letter.differences({**posted, "to": "other@customer.example"}), "to")
        self.assertEqual(letter.differences({**posted, "body": letter.body[:-9], "subject": ""}), "subject, body")
        self.assertEqual(letter.differences({**posted, "body": letter.body.replace("\n.dots", "\n..dots")}), "body")

    def test_the_relay_changes_nothing(self) -> None:
        """What the relay posts of each message is what the measurement expects."""
        platform = FakePlatform(Account(KEY, "Benchmark"))
        client = Dialogue(make_factory(platform))
        for name, letter in LETTERS.items():
            client.envelope(RECIPIENT, sender=SENDER)
            self.assertRegex(client.message(letter.content.replace(b"\n", b"\r\n"))[0], "^250 ", name)
            self.assertEqual(letter.differences(attrs.asdict(platform.submissions[-1])), "", name)
