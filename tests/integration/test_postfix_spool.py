"""Postfix with the relay as its relay host, and a platform that is away for a while: every message arrives once."""

from __future__ import annotations

import tempfile
import threading
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from . import platform, support
from .clients import postfix

KEY = "integration-key-7f3a"

MESSAGES = 40


class OutageTests(SynchronousTestCase):
    """Postfix hands over with 20 connections at a time while the platform goes down and comes back."""

    def setUp(self) -> None:
        self.stack = ExitStack()
        self.addCleanup(self.stack.close)
        self.directory = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-postfix-")))
        self.directory.chmod(0o711)  # Postfix' processes are not root's
        self.platform = self.stack.enter_context(platform.running(KEY))
        self.relay = self.stack.enter_context(
            support.running(
                backend=self.platform.url,
                require_tls="always",
                spool_retry_first="0.2",
                spool_retry_maximum="0.5",
                breaker_probe="0.2",
                platform_timeout=2,
                delivery_wait="0.5",
            )
        )
        root = self.directory / "postfix"
        root.mkdir()
        self.postfix = self.stack.enter_context(postfix.running(root, self.relay.port, KEY))

    def send(self, numbers: range) -> None:
        """Queue messages, each to two recipients."""
        for number in numbers:
            message = f"From: shop@example.com\nSubject: {number}\n\nHi\n".encode()
            self.postfix.send("shop@example.com", [f"{name}{number}@example.org" for name in ("jane", "joe")], message)

    def test_every_message_once(self) -> None:
        """Sent while the platform was up, down and slow: all have their 250 before it is back, and arrive once."""
        taken: Counter[tuple[str, str]] = Counter()
        keys: set[str] = set()
        lock = threading.Lock()
        back = threading.Event()
        self.addCleanup(back.set)

        def take(post: platform.Post) -> tuple[int, object]:
            """As a platform does that honours the Idempotency-Key."""
            with lock:
                if post.headers["idempotency-key"] not in keys:
                    keys.add(post.headers["idempotency-key"])
                    taken[post.fields["subject"], post.fields["to"]] += 1
            return platform.accept(post)

        def lose(post: platform.Post) -> tuple[int, object]:
            """Take it, and let nobody know."""
            take(post)
            return 500, {"title": "Broken", "description": "nobody knows"}

        def slow(post: platform.Post) -> tuple[int, object]:
            back.wait(2.5)
            return take(post)

        self.platform.answer = take
        self.send(range(10))
        self.platform.wait(lambda posts: len(posts) >= 20)
        for number, answer in enumerate((lose, lambda post: (503, {"title": "Down", "description": "wait"}), slow), 1):
            self.platform.answer = answer
            self.send(range(number * 10, number * 10 + 10))
            self.postfix.wait_for("status=sent", times=20 * (number + 1))
        self.assertEqual(self.postfix.log().count("status=deferred"), 0)
        self.platform.answer = take
        back.set()
        wanted = {
            (str(number), f"{name}{number}@example.org") for number in range(MESSAGES) for name in ("jane", "joe")
        }
        self.platform.wait(lambda posts: taken.keys() >= wanted)
        self.assertEqual(taken, Counter(wanted))
