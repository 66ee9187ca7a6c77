"""Two relays on one PostgreSQL: one of them dies, and the other one delivers what both have promised."""

from __future__ import annotations

import shutil
import signal
import smtplib
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import sqlalchemy as sa
from attrs import define, field
from twisted.trial.unittest import SynchronousTestCase

from . import platform, support
from .postgresql import new_database
from .support import PATIENCE, Relay
from .test_spool_relay import KEY, QUICK, Held, content, down, send, until

#: How long a dead relay's rows are left alone, in seconds.
LEASE = 3.0


@define
class Load:
    """Clients of one relay, which send until :meth:`stop` and note what was promised.

    :ivar promised: subjects with a 250.
    :ivar tried: all subjects.
    """

    name: str
    relay: Relay
    promised: list[str] = field(factory=list)
    tried: list[str] = field(factory=list)
    _over: threading.Event = field(factory=threading.Event)
    _threads: list[threading.Thread] = field(factory=list)

    def start(self) -> None:
        """Two clients begin."""
        for client in range(2):
            thread = threading.Thread(target=self._run, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self, client: int) -> None:
        for number in range(10_000):
            if self._over.is_set():
                return
            subject = f"{self.name}{client}.{number}"
            self.tried.append(subject)
            try:
                code, _ = send(self.relay, content(subject), *recipients(subject))
            except (OSError, smtplib.SMTPException):
                return  # it was killed
            assert code == 250, code
            self.promised.append(subject)

    def stop(self) -> None:
        """Send no more."""
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()


def key_of(post: platform.Post) -> str:
    """Its Idempotency-Key."""
    return post.headers["idempotency-key"]


def what(post: platform.Post) -> tuple[str, str]:
    """Subject and recipient."""
    return post.fields["subject"], post.fields["to"]


def recipients(subject: str) -> list[str]:
    """Two for each message."""
    return [f"{name}.{subject}@example.org" for name in ("jane", "joe")]


class TwoRelaysTests(SynchronousTestCase):
    """Each relay has a platform of its own, so that one sees who posts what."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="relay-two-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.stack = ExitStack()
        self.addCleanup(self.stack.close)
        self.url = new_database(self)
        self.platforms = [self.stack.enter_context(platform.running(KEY)) for _ in range(2)]
        for each in self.platforms:
            each.answer = down

    def relay(self, number: int, **settings: object) -> Relay:
        """Relay *number* of the two; the first one makes the key of the spool."""
        folder = self.folder / f"{number}"
        folder.mkdir()
        settings = {**QUICK, "spool_lease": LEASE, "breaker_failures": 3, **settings}
        relay = support.start(
            folder, "--spool", self.url, backend=self.platforms[number].url, dashboard="", **settings
        )  # fmt: skip
        self.addCleanup(relay.process.kill)
        relay.wait_for(r"#info\] ready$")
        return relay

    def rows(self) -> int:
        """How many recipients wait."""
        engine = sa.create_engine(sa.make_url(self.url).set(drivername="postgresql+psycopg"), poolclass=sa.NullPool)
        with engine.connect() as connection:
            return int(connection.execute(sa.text("SELECT count(*) FROM spool_recipient")).scalar_one())

    def test_one_killed(self) -> None:
        """Nothing that had a 250 is lost and nothing is sent twice; the dead relay's rows come after their lease."""
        first = self.relay(0)
        second = self.relay(1, spool_key_file=first.data / "spool.key")
        loads = [Load("a", first), Load("b", second)]
        for load in loads:
            load.start()
        until(lambda: self.rows() > 100)
        # The first relay's platform works again, and then does not answer: rows are under way when the relay dies.
        by_first: dict[str, tuple[str, str]] = {}
        by_second: dict[str, tuple[str, str]] = {}
        posts_of_second: Counter[str] = Counter()
        under_way: dict[str, str] = {}
        held = Held()
        self.addCleanup(held.release)

        def hold(post: platform.Post) -> tuple[int, object]:
            if len(by_first) < 10:
                by_first[key_of(post)] = what(post)
                return platform.accept(post)
            under_way[key_of(post)] = post.fields["subject"]
            return held(post)

        self.platforms[0].answer = hold
        until(lambda: sum(each in loads[0].promised for each in [*under_way.values()]) >= 5)
        first.signal(signal.SIGKILL)
        first.wait()
        killed = time.monotonic()
        loads[0].stop()
        taken_over: dict[str, float] = {}

        def accept(post: platform.Post) -> tuple[int, object]:
            if key_of(post) in under_way:
                taken_over.setdefault(key_of(post), time.monotonic() - killed)
            by_second[key_of(post)] = what(post)
            posts_of_second[key_of(post)] += 1
            return platform.accept(post)

        self.platforms[1].answer = accept
        until(lambda: len(by_second) > 100)
        loads[1].stop()
        until(lambda: not self.rows())
        self.assertEqual(second.stop(), 0)

        promised = {(each, to) for load in loads for each in load.promised for to in recipients(each)}
        tried = {(each, to) for load in loads for each in load.tried for to in recipients(each)}
        promised_subjects = {subject for subject, _ in promised}
        self.assertGreater(len(loads[0].promised), 10)
        self.assertGreater(len(loads[1].promised), 10)
        accepted = Counter((by_first | by_second).values())  # as a platform that honours the Idempotency-Key
        self.assertEqual(promised - accepted.keys(), set())
        self.assertEqual(accepted.keys() - tried, set())
        self.assertEqual([each for each, number in accepted.items() if number > 1], [])
        self.assertEqual([each for each, number in posts_of_second.items() if number > 1], [])
        # Those under way come again, with the same Idempotency-Key, when nobody can be on it any more.
        self.assertEqual(taken_over.keys(), {key for key, subject in under_way.items() if subject in promised_subjects})
        self.assertGreater(min(taken_over.values()), LEASE / 2)
        for relay in (first, second):
            self.assertNotIn("Traceback", relay.output)
