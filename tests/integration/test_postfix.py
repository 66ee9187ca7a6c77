"""Postfix with the relay as its relay host: it pipelines, sends to 50 recipients at a time, and tries again."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from . import platform, support
from .clients import meant, postfix, programs

KEY = "integration-key-7f3a"

#: Postfix breaks lines at 998 octets; whoever sends longer ones through it turns that off.
NO_LINE_LIMIT = "smtp_line_length_limit = 0\n"


class PostfixTests(SynchronousTestCase):
    """What arrives through a mail server in between."""

    def setUp(self) -> None:
        """A platform and a relay; each test starts the Postfix that it wants."""
        self.stack = ExitStack()
        self.addCleanup(self.stack.close)
        temporary = self.stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-postfix-"))
        self.directory = Path(temporary)
        self.directory.chmod(0o711)  # Postfix' processes are not root's
        self.platform = self.stack.enter_context(platform.running(KEY))
        # Without the spool (test_postfix_spool has it): Postfix is told of every trouble.
        settings = {"require_tls": "always", "delivery_mode": "direct"}
        self.relay = self.stack.enter_context(support.running(backend=self.platform.url, **settings))

    def start(self, key: str | None = KEY, settings: str = "") -> postfix.Postfix:
        """A Postfix that signs in with *key*."""
        root = self.directory / "postfix"
        root.mkdir()
        return self.stack.enter_context(postfix.running(root, self.relay.port, key, settings))

    def job(self, *, header_key: bool = False) -> dict[str, Any]:
        """The job of all clients."""
        path = meant.job(self.directory, host="", port=0, key=KEY, ca_file="", header_key=header_key)
        loaded: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return loaded

    def posts(self, server: postfix.Postfix, number: int) -> list[platform.Post]:
        """The posts, once there are *number* of them."""
        try:
            return self.platform.wait(lambda posts: len(posts) >= number, 40)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{server.log()}") from None

    def compare(self, posts: list[platform.Post], html: str) -> None:
        """Every field is what was meant."""
        self.assertEqual(sorted(post.fields["to"] for post in posts), sorted(meant.RECIPIENTS))
        for post in posts:
            wanted = meant.expected(post.fields["to"], html)
            self.assertTrue(post.fields["body"] == wanted.pop("body"), f"body: {post.fields['body'][:200]!r}")
            self.assertEqual({name: post.fields[name] for name in wanted}, wanted)

    def test_signed_in(self) -> None:
        """With AUTH, every field arrives as it was meant."""
        server = self.start(settings=NO_LINE_LIMIT)
        server.send(meant.FROM[1], list(meant.RECIPIENTS), programs.handmade(self.job(), bcc=False))
        self.compare(self.posts(server, 3), meant.HTML.replace("\n", "\r\n"))

    def test_header_key(self) -> None:
        """With the key in the header and no AUTH, too."""
        server = self.start(None, NO_LINE_LIMIT)
        server.send(meant.FROM[1], list(meant.RECIPIENTS), programs.handmade(self.job(header_key=True), bcc=False))
        self.compare(self.posts(server, 3), meant.HTML.replace("\n", "\r\n"))

    def test_broken_lines(self) -> None:
        """By default Postfix breaks lines at 998 octets: a header is put together again, the HTML keeps the breaks."""
        server = self.start()
        job = self.job()
        message = programs.handmade(job, bcc=False)
        name = "X-Transactional-Variables"
        value = job["headers"][name]
        message = message.replace(programs.fold(f"{name}: {value}").encode(), f"{name}: {value}".encode())
        self.assertGreater(max(map(len, message.split(b"\n\n")[0].split(b"\n"))), 1800)
        server.send(meant.FROM[1], list(meant.RECIPIENTS), message)
        posts = self.posts(server, 3)
        for post in posts:
            self.assertEqual(post.fields["variables"], meant.VARIABLES)
            # The client's damage: a line end and a blank every 998 octets, in the middle of an ä too.
            self.assertIn("\r\n ", post.fields["body"])

    def test_batches(self) -> None:
        """120 recipients come in three transactions of at most 50, and each gets the message once."""
        server = self.start()
        recipients = [f"r{number:03d}@example.org" for number in range(120)]
        server.send("shop@example.com", recipients, b"From: shop@example.com\nSubject: Hello\n\nHi\n")
        posts = self.posts(server, 120)
        self.assertEqual(sorted(post.fields["to"] for post in posts), recipients)
        transactions = Counter(post.headers["x-request-id"] for post in posts)
        self.assertEqual(sorted(transactions.values()), [20, 50, 50])

    def test_retries(self) -> None:
        """While the platform is down Postfix is told to come back, does so, and the recipient gets one message."""
        outages = [503, 500, 429]
        accepted: list[str] = []

        def answer(post: platform.Post) -> tuple[int, object]:
            if outages:
                return outages.pop(), {"title": "Down", "description": "try again"}
            accepted.append(post.fields["to"])
            return platform.accept(post)

        self.platform.answer = answer
        server = self.start()
        server.send("shop@example.com", ["jane@example.org"], b"From: shop@example.com\nSubject: Hello\n\nHi\n")
        server.wait_for("status=sent")
        self.assertEqual(accepted, ["jane@example.org"])
        self.assertEqual(server.log().count("status=deferred"), 3)
        self.assertRegex(server.log(), r"said: 451 4\.7\.1 ")

    def test_refusal(self) -> None:
        """What the platform refuses for good Postfix does not try again: the sender gets its words in the bounce."""
        self.platform.answer = lambda post: (400, {"title": "Bad", "description": "invalid tag: no-such-thing"})
        server = self.start()
        server.send("", ["jane@example.org"], b"From: shop@example.com\nSubject: Hello\n\nHi\n")
        self.posts(server, 1)
        server.wait_for("status=bounced")
        self.assertRegex(server.log(), r"status=bounced .*554 5\.6\.0 invalid tag: no-such-thing")
