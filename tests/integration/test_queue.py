"""``smtp-relay queue`` as an operator runs it, beside a relay and without one, on SQLite and on PostgreSQL."""

from __future__ import annotations

import json
import os
import pty
import shutil
import smtplib
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import skipUnless

from twisted.trial.unittest import SynchronousTestCase

from . import platform
from .postgresql import new_database
from .support import PATIENCE, SMTP_RELAY, Relay, environment, running

KEY = "test-key-0123456789"
NOBODY = 65534

#: A process of a user without any rights.
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all", "--")


def down(post: platform.Post) -> tuple[int, object]:
    """What a platform says that is being repaired."""
    return 503, {"title": "Unavailable", "description": "back soon"}


def send(relay: Relay, *recipients: str) -> str:
    """Send a message; the id of the 250."""
    with smtplib.SMTP("127.0.0.1", relay.port, timeout=PATIENCE) as client:
        client.starttls()
        client.login("anyone", KEY)
        client.mail("shop@example.com")
        for recipient in recipients:
            client.rcpt(recipient)
        code, text = client.data(b"From: Shop <shop@example.com>\r\nSubject: Hello\r\n\r\nHello\r\n")
    assert code == 250, text
    return text.split()[-1].decode()


class QueueCase(SynchronousTestCase):
    """A relay whose platform is down, and that waits ten minutes after each failure."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.url = self.new_url()
        self.options = ["--spool", self.url] if self.url else []

    def new_url(self) -> str:
        return ""

    @contextmanager
    def relay(self, at: platform.Platform) -> Iterator[Relay]:
        with running(
            *self.options, folder=self.folder, backend=at.url, dashboard="", spool_retry_first=600, breaker_failures=100
        ) as relay:
            yield relay

    def run_(self, *words: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*before, SMTP_RELAY, "queue", *words, "--data", str(self.folder / "data"), *self.options],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=environment({}),
            timeout=PATIENCE,
        )

    def said(self, *words: str) -> str:
        """What a command says that does what it should."""
        ran = self.run_(*words)
        self.assertEqual((ran.returncode, ran.stderr), (0, ""), ran.stdout)
        return ran.stdout

    def refused(self, *words: str, before: tuple[str, ...] = ()) -> str:
        """The one line of a command that cannot do it."""
        ran = self.run_(*words, before=before)
        self.assertEqual((ran.returncode, ran.stdout), (1, ""), ran.stderr)
        (line,) = ran.stderr.splitlines()
        self.assertRegex(line, "^smtp-relay: ")
        return line

    def listed(self, *words: str) -> list[tuple[str, str]]:
        """Recipient and state of each row."""
        rows = [json.loads(line) for line in self.said("--json", *words).splitlines()]
        return [(row["recipient"], row["state"]) for row in rows]


class SQLiteTests(QueueCase):
    def test_running(self) -> None:
        """Beside a running relay the queue is shown, and what is retried is posted within seconds, not minutes."""
        with platform.running(KEY) as at, self.relay(at) as relay:
            self.assertEqual(self.said(), "The spool is empty\n")
            at.answer = down
            id = send(relay, "jane@example.org", "bo@example.org")
            self.assertEqual(self.listed(), [("jane@example.org", "waiting"), ("bo@example.org", "waiting")])
            self.assertIn("Subject     Hello\n", self.said("show", id))
            self.assertNotIn(KEY, self.said("show", id) + self.said("show", id, "--json"))
            at.answer = platform.accept
            self.assertEqual(self.said("retry", id), f"{id}: 2 recipients due now\n")
            # The relay's own time would be ten minutes; at.wait gives up before.
            posts = at.wait(lambda posts: len(posts) == 4, timeout=20)
            keys = {(post.fields["to"], post.headers["idempotency-key"]) for post in posts}
            self.assertEqual(len(keys), 2)

    def test_failures(self) -> None:
        """What the platform refuses for good is among the failures, and retried when it takes it."""
        with platform.running(KEY) as at, self.relay(at) as relay:
            at.answer = down
            id = send(relay, "jane@example.org")
            at.answer = lambda post: (422, {"title": "Invalid", "description": "tag: unknown"})
            self.said("retry", "--all")
            relay.wait_for(f"failed {id}")
            self.assertEqual(self.listed("--failed"), [("jane@example.org", "failed")])
            at.answer = platform.accept
            self.assertEqual(self.said("retry", "--failed"), "1 recipient due now\n")
            at.wait(lambda posts: len(posts) == 3, timeout=20)

    def test_stopped(self) -> None:
        """Without a relay the queue is the same; what is dropped is never posted, what is retried is at the start."""
        with platform.running(KEY) as at:
            at.answer = down
            with self.relay(at) as relay:
                kept, dropped = send(relay, "jane@example.org"), send(relay, "bo@example.org")
            self.assertEqual([each for each, _ in self.listed()], ["jane@example.org", "bo@example.org"])
            self.assertEqual(self.said("drop", dropped), f"{dropped}: 1 recipient dropped\n")
            self.assertIn(f"{dropped}: no such message", self.refused("drop", dropped))
            self.assertEqual(self.said("retry", kept), f"{kept}: 1 recipient due now\n")
            at.answer = platform.accept
            before = len(at.posts)
            with self.relay(at):
                posts = at.wait(lambda posts: len(posts) > before, timeout=20)
            self.assertEqual([post.fields["to"] for post in posts[before:]], ["jane@example.org"])


class PostgreSQLTests(SQLiteTests):
    """The same with PostgreSQL."""

    def new_url(self) -> str:
        return new_database(self)

    def test_empty_database(self) -> None:
        """A database that no relay has used is told as one."""
        self.assertIn("start the relay first", self.refused("list"))


class ConsoleTests(QueueCase):
    """What surrounds the command: pipes, terminals, users."""

    def setUp(self) -> None:
        super().setUp()
        with platform.running(KEY) as at:
            at.answer = down
            with self.relay(at) as relay:
                self.ids = [send(relay, "jane@example.org") for _ in range(3)]

    def test_reader_that_leaves(self) -> None:
        """A reader such as head, which closes the pipe early, causes no complaint."""
        words = [SMTP_RELAY, "queue", "--data", str(self.folder / "data"), "--json"]
        reading, writing = os.pipe()
        os.close(reading)
        ran = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, env=environment({}), timeout=PATIENCE)
        os.close(writing)
        self.assertEqual((ran.returncode, ran.stderr), (0, b""))

    @skipUnless(os.path.exists("/dev/full"), "Linux")
    def test_full_output(self) -> None:
        """An output that cannot be written is told in a line."""
        words = [SMTP_RELAY, "queue", "--data", str(self.folder / "data")]
        with open("/dev/full", "wb") as full:
            ran = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, env=environment({}), timeout=PATIENCE)
        self.assertEqual((ran.returncode, ran.stderr), (1, b"smtp-relay: the output: No space left on device\n"))

    @skipUnless(os.geteuid() == 0 and shutil.which("setpriv"), "needs root and setpriv")
    def test_other_user(self) -> None:
        """Another user is told whose command it is."""
        os.chmod(self.folder, 0o755)
        self.assertIn("as the user that the relay runs as", self.refused("list", before=AS_NOBODY))

    @skipUnless(os.geteuid() == 0 and shutil.which("setpriv"), "needs root and setpriv")
    def test_root_beside(self) -> None:
        """What root looks at stays its owner's."""
        data = self.folder / "data"
        for each in (self.folder, data, *data.iterdir()):
            os.chown(each, NOBODY, NOBODY)
        self.said("retry", "--all")
        self.assertEqual({each.stat().st_uid for each in data.iterdir()}, {NOBODY})
        self.assertEqual(self.run_("list", before=AS_NOBODY).returncode, 0)

    def test_confirmation(self) -> None:
        """At a terminal drop asks, and does nothing without a yes; --yes asks nothing."""
        for answer, left in ((b"\n", 3), (b"n\n", 3), (b"\x04", 3), (b"y\n", 2)):
            output = self.at_terminal(answer, "drop", self.ids[0])
            self.assertIn(f"Drop {self.ids[0]} to jane@example.org?", output)
            self.assertNotIn("Traceback", output)
            self.assertEqual(len(self.listed()), left, answer)
        self.assertNotIn("?", self.at_terminal(b"", "drop", self.ids[1], "--yes"))
        self.assertEqual(len(self.listed()), 1)

    def at_terminal(self, answer: bytes, *words: str) -> str:
        """What a command says at a terminal where *answer* is typed."""
        primary, terminal = pty.openpty()
        process = subprocess.Popen(
            [SMTP_RELAY, "queue", *words, "--data", str(self.folder / "data")],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env=environment({}),
        )
        os.close(terminal)
        watchdog = threading.Timer(PATIENCE, process.kill)
        watchdog.start()
        os.write(primary, answer)
        output = b""
        try:
            while read := os.read(primary, 4096):
                output += read
        except OSError:
            pass  # EIO: the command has ended
        process.wait()
        watchdog.cancel()
        os.close(primary)
        return output.decode()
