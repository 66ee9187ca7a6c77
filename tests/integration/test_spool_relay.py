"""A relay with a spool, as a process: what a 250 is worth while the platform, the relay or the client is gone."""

from __future__ import annotations

import json
import shutil
import signal
import smtplib
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from . import platform, support
from .clients.programs import require
from .support import PATIENCE, Relay, running

KEY = "canary-spool-0123456789"

#: Times that let a message through within a second of the platform being well.
QUICK = {
    "spool_retry_first": "0.1",
    "spool_retry_maximum": "0.2",
    "breaker_probe": "0.1",
    "platform_timeout": "10",
    "auth_delay": "0",
}

#: System calls that change a file, or put it on the disk.
WRITES = "write,pwrite64,writev,pwritev,fsync,fdatasync,sync_file_range,ftruncate,unlink,rename"


def down(post: platform.Post) -> tuple[int, object]:
    """What a platform says that takes nothing."""
    return 503, {"title": "Unavailable", "description": "back soon"}


def content(subject: str = "Hello", **headers: str) -> bytes:
    """A message, the same octets each time."""
    lines = ["From: Shop <shop@example.com>", "To: Jane <jane@example.org>", f"Subject: {subject}"]
    lines += [f"X-Transactional-{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "Content-Type: text/html", "", "<p>Hello</p>", ""]).encode()


@contextmanager
def signed_in(relay: Relay) -> Iterator[smtplib.SMTP]:
    """A session; loopback needs no TLS."""
    with closing(smtplib.SMTP("127.0.0.1", relay.port, timeout=PATIENCE)) as session:
        session.login("shop", KEY)
        yield session


def begin(session: smtplib.SMTP, *recipients: str) -> None:
    """The envelope and DATA."""
    session.mail("shop@example.com")
    for recipient in recipients or ("jane@example.org",):
        session.rcpt(recipient)
    assert session.docmd("DATA")[0] == 354


def send(relay: Relay, message: bytes, *recipients: str) -> tuple[int, str]:
    """Hand over one message in a session of its own; code and text of the verdict."""
    with signed_in(relay) as session:
        begin(session, *recipients)
        session.send(message + b".\r\n")
        code, text = session.getreply()
    return code, text.decode()


def until(true: Callable[[], bool]) -> None:
    """Ask until it is true: of another process, whose state nobody tells us of."""
    pause, deadline = threading.Event(), time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "it does not come true"
        pause.wait(0.02)


class Held:
    """Answers of the platform that wait until :meth:`release`."""

    def __init__(self) -> None:
        self._released = threading.Event()

    def __call__(self, post: platform.Post) -> tuple[int, object]:
        self._released.wait(PATIENCE)
        return platform.accept(post)

    def release(self) -> None:
        self._released.set()


class SpoolCase(SynchronousTestCase):
    """A platform, and a folder that one relay after the other works in."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="relay-spool-"))
        self.addCleanup(shutil.rmtree, self.folder)
        there = platform.running(KEY)
        self.platform = there.__enter__()
        self.addCleanup(there.__exit__, None, None, None)

    @property
    def spool(self) -> Path:
        return self.folder / "data" / "spool.sqlite3"

    @contextmanager
    def relay(self, **settings: object) -> Iterator[Relay]:
        """A relay that is stopped at the end and exits with 0."""
        with running(folder=self.folder, backend=self.platform.url, dashboard="", **{**QUICK, **settings}) as relay:
            yield relay

    @contextmanager
    def killed(self, **settings: object) -> Iterator[Relay]:
        """A relay that is killed at the end."""
        relay = support.start(self.folder, backend=self.platform.url, dashboard="", **{**QUICK, **settings})
        self.addCleanup(relay.process.kill)
        relay.wait_for(r"#info\] ready$")
        yield relay
        relay.signal(signal.SIGKILL)
        relay.wait()

    def held(self) -> Held:
        """Let the platform's answers wait."""
        held = self.platform.answer = Held()
        self.addCleanup(held.release)
        return held

    def query(self, statement: str) -> list[Any]:
        """Rows of the spool's file."""
        with closing(sqlite3.connect(f"file:{self.spool}?mode=ro", uri=True, timeout=10)) as database:
            return database.execute(statement).fetchall()

    def recipients(self) -> list[str]:
        """Who waits in the spool."""
        return sorted(each for (each,) in self.query("SELECT recipient FROM spool_recipient"))

    def keys(self) -> list[str]:
        """The Idempotency-Keys that the platform saw, in order."""
        return [post.headers["idempotency-key"] for post in self.platform.posts]


class OutageTests(SpoolCase):
    """The platform is away."""

    def test_down_and_back(self) -> None:
        """With the platform down a message gets its 250; when it is back, it has the message once, under that id."""
        self.platform.answer = down
        with self.relay() as relay:
            code, text = send(relay, content(), "jane@example.org", "joe@example.org")
            self.assertEqual(code, 250)
            self.assertEqual(self.recipients(), ["jane@example.org", "joe@example.org"])
            taken: list[platform.Post] = []

            def accept(post: platform.Post) -> tuple[int, object]:
                taken.append(post)
                return platform.accept(post)

            self.platform.answer = accept
            until(lambda: not self.recipients())
        self.assertEqual(sorted(post.fields["to"] for post in taken), ["jane@example.org", "joe@example.org"])
        self.assertEqual({post.headers["x-request-id"] for post in taken}, {text.split()[-1]})
        self.assertEqual(len(set(self.keys())), 2)
        self.assertEqual(self.query("SELECT count(*) FROM spool_message"), [(0,)])

    def test_slow(self) -> None:
        """Who waits for a slow platform gets its 250 after delivery.wait, and the platform the message once."""
        held = self.held()
        with self.relay(delivery_wait="0.3") as relay:
            self.assertEqual(send(relay, content())[0], 250)
            self.assertEqual(self.recipients(), ["jane@example.org"])
            held.release()
            until(lambda: not self.recipients())
        self.assertEqual(len(self.platform.posts), 1)

    def test_breaker(self) -> None:
        """After some failures in a row nobody waits for the platform; /readyz and /metrics say so, until it is back."""
        self.platform.answer = down
        # Each worker has a breaker of its own, and counts for itself.
        with self.relay(breaker_failures=2, breaker_probe=5, workers="1") as relay:
            states = []
            for number in range(3):
                self.assertEqual(send(relay, content(f"{number}"))[0], 250)
                states.append(json.loads(relay.get("/readyz")[1])["breakers"][self.platform.url])
            self.assertEqual((states, len(self.platform.posts)), (["closed", "open", "open"], 2))
            state = f'smtp_relay_breaker{{platform="{self.platform.url}",state="%s"}} 1.0'
            self.assertIn(state % "open", relay.get("/metrics")[1])
            self.platform.answer = platform.accept
            until(lambda: not self.recipients())
            self.assertIn(state % "closed", relay.get("/metrics")[1])

    def test_refused_for_good(self) -> None:
        """A wrong template still reaches the sender at once, and nothing is kept."""
        self.platform.answer = lambda post: (400, {"title": "Bad", "description": "no such template"})
        with self.relay() as relay:
            self.assertEqual(send(relay, content()), (554, "5.6.0 no such template"))
            self.assertEqual(self.recipients(), [])


class RestartTests(SpoolCase):
    """The relay is gone."""

    def test_killed_with_rows(self) -> None:
        """After kill -9 the next start delivers what was promised, with the same Idempotency-Keys."""
        self.platform.answer = down
        with self.killed(breaker_failures=100) as relay:
            for number in range(3):
                self.assertEqual(send(relay, content(f"{number}"))[0], 250)
        before = set(self.keys())
        self.platform.posts.clear()
        self.platform.answer = platform.accept
        with self.relay():
            self.platform.wait(lambda posts: len(posts) >= 3)
            until(lambda: not self.recipients())
        self.assertEqual(sorted(post.fields["subject"] for post in self.platform.posts), ["0", "1", "2"])
        self.assertEqual(set(self.keys()), before)

    def test_killed_after_it_was_taken(self) -> None:
        """A message that the platform took as the relay died is posted again with the Idempotency-Key it came with."""
        held = self.held()
        with self.killed(delivery_wait="0.2") as relay:
            self.assertEqual(send(relay, content())[0], 250)
        held.release()
        self.platform.answer = platform.accept
        with self.relay():
            until(lambda: not self.recipients())
        self.assertEqual(len(self.platform.posts), 2)
        self.assertEqual(len(set(self.keys())), 1)

    def test_stopped_with_a_post_in_flight(self) -> None:
        """SIGTERM lets a slow POST finish: its client gets 250, the relay exits with 0, nothing stays behind."""
        held = self.held()
        verdicts = []
        with self.relay(delivery_wait=30) as relay:
            client = threading.Thread(target=lambda: verdicts.append(send(relay, content())))
            client.start()
            self.platform.wait(bool)
            relay.signal(signal.SIGTERM)
            relay.wait_for("stopping")
            held.release()
            client.join(PATIENCE)
            self.assertEqual(relay.wait(), 0)
        self.assertEqual(verdicts[0][0], 250)
        self.assertEqual((len(self.platform.posts), self.recipients()), (1, []))

    def test_stopped_with_a_client_that_waits(self) -> None:
        """Before the drain's deadline what a client waits for is spooled, and it gets its 250."""
        held = self.held()
        with self.relay(delivery_wait=30, limits_drain=1) as relay:
            verdicts: list[tuple[int, str]] = []
            client = threading.Thread(target=lambda: verdicts.append(send(relay, content())))
            client.start()
            self.platform.wait(bool)
            self.assertEqual(relay.stop(), 0)
            client.join(PATIENCE)
        self.assertEqual([code for code, _ in verdicts], [250])
        self.assertEqual(self.recipients(), ["jane@example.org"])
        held.release()
        self.platform.answer = platform.accept
        with self.relay():
            until(lambda: not self.recipients())
        self.assertEqual((len(self.platform.posts), len(set(self.keys()))), (2, 1))

    def test_stopped_without_a_verdict(self) -> None:
        """A client that was cut off in the end, and repeats its message, repeats its Idempotency-Key."""
        held = self.held()
        with self.relay(delivery_mode="direct", limits_drain=1) as relay, signed_in(relay) as session:
            begin(session)
            session.send(content() + b".\r\n")
            self.platform.wait(bool)
            self.assertEqual(relay.stop(), 0)
        held.release()
        self.platform.answer = platform.accept
        with self.relay(delivery_mode="direct") as relay:
            self.assertEqual(send(relay, content())[0], 250)
        self.assertEqual((len(self.platform.posts), len(set(self.keys()))), (2, 1))

    def test_stopped_with_a_post_that_is_followed(self) -> None:
        """SIGTERM lets a POST finish whose client has its 250 already."""
        held = self.held()
        with self.relay(delivery_wait="0.2") as relay:
            self.assertEqual(send(relay, content())[0], 250)
            relay.signal(signal.SIGTERM)
            relay.wait_for("stopping")
            held.release()
            self.assertEqual(relay.wait(), 0)
        self.assertEqual((len(self.platform.posts), self.recipients()), (1, []))

    def test_stopped_before_the_answer(self) -> None:
        """A POST whose answer does not come before the drain's deadline is posted again after the next start."""
        held = self.held()
        with self.relay(delivery_wait="0.2", limits_drain="0.3") as relay:
            self.assertEqual(send(relay, content())[0], 250)
            self.assertEqual(relay.stop(), 0)
        self.assertEqual(self.recipients(), ["jane@example.org"])
        held.release()
        self.platform.answer = platform.accept
        with self.relay():
            until(lambda: not self.recipients())
        self.assertEqual((len(self.platform.posts), len(set(self.keys()))), (2, 1))


class DirectPathTests(SpoolCase):
    """The platform is up."""

    def test_no_disk_write(self) -> None:
        """200 messages that the platform takes at once change no file and flush nothing; one for the spool does."""
        require("strace", "strace")
        with self.relay() as relay:
            self.several(relay, 5)  # what comes with the first message
            before = self.state()
            seen = self.traced(relay, lambda: self.several(relay, 200))
            self.assertEqual(seen, [])
            self.assertEqual(self.state(), before)
            self.assertEqual(len(self.platform.posts), 205)
            self.platform.answer = down
            seen = self.traced(relay, lambda: self.several(relay, 1))
            self.assertTrue([call for call in seen if "sync" in call and "spool.sqlite3-wal" in call], seen)
            self.platform.answer = platform.accept

    def several(self, relay: Relay, number: int) -> None:
        with signed_in(relay) as session:
            for each in range(number):
                begin(session)
                session.send(content(f"{each}") + b".\r\n")
                self.assertEqual(session.getreply()[0], 250)

    def state(self) -> dict[str, tuple[int, int]]:
        """Size and time of every file of the relay's."""
        return {
            str(each): (each.stat().st_size, each.stat().st_mtime_ns)
            for each in (self.folder / "data").rglob("*")
            if each.is_file()
        }

    def traced(self, relay: Relay, work: Callable[[], None]) -> list[str]:
        """The system calls of *relay* during *work* that write to its files."""
        trace = self.folder / "trace"
        processes = [word for pid in (relay.pid, *relay.workers) for word in ("-p", str(pid))]
        tracing = subprocess.Popen(
            ["strace", "-f", "-y", *processes, "-o", str(trace), "-e", f"trace={WRITES}"],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert tracing.stderr is not None
        with tracing.stderr:
            said = tracing.stderr.readline()
            if "attached" not in said:
                tracing.wait()
                raise SkipTest(f"strace cannot attach to a process here: {said.strip()}")
            try:
                work()
            finally:
                tracing.send_signal(signal.SIGINT)
                tracing.wait(PATIENCE)
        return [line for line in trace.read_text("utf-8", "replace").splitlines() if f"{self.folder}/data" in line]


class LedgerTests(SpoolCase):
    """A client that does not know its verdict."""

    def leave(self, relay: Relay, how: Callable[[socket.socket], object], message: bytes) -> None:
        """Send *message*, and leave while the platform has it."""
        posts = len(self.platform.posts)
        with signed_in(relay) as session:
            begin(session, "jane@example.org", "joe@example.org")
            session.send(message + b".\r\n")
            self.platform.wait(lambda seen: len(seen) >= posts + 2)
            assert session.sock is not None
            how(session.sock)

    def test_left_and_repeated(self) -> None:
        """A client that gave up waiting and repeats its message makes the platform have it once, under the first id."""

        def reset(connection: socket.socket) -> None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.close()

        with self.relay() as relay:
            for number, how in enumerate((socket.socket.close, reset)):
                held, message = self.held(), content(f"{number}")
                self.leave(relay, how, message)
                ids = {post.headers["x-request-id"] for post in self.platform.posts[-2:]}
                answers: list[tuple[int, str]] = []
                again = threading.Thread(
                    target=lambda message=message, answers=answers: answers.append(
                        send(relay, message, "joe@example.org", "jane@example.org")
                    )
                )
                again.start()
                held.release()
                again.join(PATIENCE)
                self.assertEqual(answers, [(250, f"Ok: queued as {ids.pop()}")])
                self.assertEqual(len(self.platform.posts), 2 * number + 2)

    def test_left_spooled_and_repeated(self) -> None:
        """Who leaves while its message is spooled for a slow platform, and repeats it, has one message in the spool."""
        held = self.held()
        with self.relay(delivery_wait="0.3") as relay:
            self.leave(relay, socket.socket.close, content())
            self.assertEqual(send(relay, content(), "jane@example.org", "joe@example.org")[0], 250)
            self.assertEqual(len(self.recipients()), 2)
            held.release()
            until(lambda: not self.recipients())
        self.assertEqual(len(self.platform.posts), 2)

    def test_explicit_key_and_kill(self) -> None:
        """With X-Transactional-Idempotency-Key a repetition after kill -9 comes with the first Idempotency-Keys."""
        held = self.held()
        message = content(Idempotency_Key="order-1")
        with self.killed() as relay:
            self.leave(relay, socket.socket.close, message)
        held.release()
        self.platform.answer = platform.accept
        with self.relay() as relay:
            self.assertEqual(send(relay, message, "jane@example.org", "joe@example.org")[0], 250)
            self.assertEqual(len(set(self.keys())), 2)
            posts = len(self.platform.posts)
            self.assertEqual(send(relay, message, "jane@example.org", "joe@example.org")[0], 250)
            self.assertEqual(len(self.platform.posts), posts)


class LimitTests(SpoolCase):
    """The spool is full."""

    def test_rows(self) -> None:
        """Past spool.max_rows it is 452 4.3.1, and nothing of the message is kept or comes later."""
        self.platform.answer = down
        with self.relay(spool_max_rows=3, breaker_failures=100) as relay:
            self.assertEqual(send(relay, content("1"), "a@example.org", "b@example.org")[0], 250)
            code, text = send(relay, content("2"), "c@example.org", "d@example.org")
            self.assertEqual((code, text[:6]), (452, "4.3.1 "))
            self.assertEqual(self.recipients(), ["a@example.org", "b@example.org"])
            self.assertEqual(send(relay, content("3"), "e@example.org")[0], 250)
            self.platform.posts.clear()
            self.platform.answer = platform.accept
            until(lambda: not self.recipients())
            self.assertEqual(send(relay, content("4"), "f@example.org")[0], 250)
        self.assertEqual(
            sorted({post.fields["to"] for post in self.platform.posts}),
            ["a@example.org", "b@example.org", "e@example.org", "f@example.org"],
        )

    def test_octets(self) -> None:
        """Past spool.max_bytes too."""
        self.platform.answer = down
        with self.relay(spool_max_bytes=100_000, breaker_failures=100) as relay:
            long = content("long").replace(b"Hello</p>", b"x" * 500 + b"</p>")
            answers = [send(relay, long.replace(b"long", b"%d" % number)) for number in range(3)]
            self.assertEqual({code for code, _ in answers}, {250})
            huge = content("huge").replace(b"Hello</p>", b"x\r\n" * 40_000 + b"</p>")
            code, text = send(relay, huge)
            self.assertEqual((code, text[:6]), (452, "4.3.1 "))
            self.assertEqual(len(self.recipients()), 3)

    def test_disk(self) -> None:
        """Below spool.min_free too, and a message that the platform takes at once passes."""
        with self.relay(spool_min_free=2**60) as relay:
            self.assertEqual(send(relay, content("1"))[0], 250)
            self.platform.answer = down
            code, text = send(relay, content("2"))
            self.assertEqual((code, text[:6]), (452, "4.3.1 "))
            self.assertEqual(self.recipients(), [])


class SecretTests(SpoolCase):
    """The API key in the spool."""

    def test_canary(self) -> None:
        """Neither a file under data nor the log has the API key: not of a row, a failure, or a memory."""

        def answer(post: platform.Post) -> tuple[int, object]:
            if post.fields["to"].startswith("refused"):
                return 400, {"title": "Bad", "description": f"the key {KEY} has no such template"}
            return 500, {"title": "Broken", "description": f"the key {KEY} is broken"}

        self.platform.answer = answer
        with self.killed(spool_retry_first=60, breaker_failures=100) as relay:
            self.assertEqual(send(relay, content(), "refused@example.org", "jane@example.org")[0], 250)
            self.assertEqual(send(relay, content(Idempotency_Key="order-1"))[0], 250)
            self.assertEqual(len(self.recipients()), 3)
            texts = {"output": relay.output, "metrics": relay.get("/metrics")[1], "ready": relay.get("/readyz")[1]}
            texts |= self.files()
        texts |= {f"{name} after the kill": text for name, text in self.files().items()}
        self.platform.answer = platform.accept
        with self.relay() as relay:
            self.platform.wait(lambda posts: posts[-1].headers["x-auth-apikey"] == KEY)
            texts |= {"output of the second": relay.output}
        self.assertTrue(any("spool.sqlite3" in name for name in texts), list(texts))
        for name, text in texts.items():
            self.assertNotIn(KEY[:8], text, name)

    def files(self) -> dict[str, str]:
        files = [each for each in (self.folder / "data").rglob("*") if each.is_file()]
        return {str(each): each.read_bytes().decode("latin-1") for each in files}
