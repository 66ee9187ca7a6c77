"""The parent: what it hands to a worker, how it answers for all, and what a SIGHUP takes over.  In memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from unittest import mock

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from relay import service
from relay.config import Config, taken_over
from relay.errors import ConfigError
from relay.intake import GREETED
from relay.policy import Limits
from relay.spool.writer import Inline
from relay.workers.channel import FIRST_SOCKET
from relay.workers.parent import Workers, share_of
from tests.workers.processes import Process

#: The descriptor of each port.
SOCKET = 77

SECRET = "postgresql://relay:canary-0123456789@127.0.0.1/relay"


class Reactor(MemoryReactorClock):
    """Starts processes that a test plays.

    :ivar spawned: each, and how it was started.
    """

    def __init__(self) -> None:
        super().__init__()
        self.spawned: list[tuple[Process, dict[str, Any]]] = []

    def listenTCP(self, *args: Any, **kwargs: Any) -> Any:
        """A port with a descriptor that others may inherit."""
        port: Any = super().listenTCP(*args, **kwargs)
        port.stopReading = lambda: None
        port.fileno = lambda: SOCKET
        return port

    def spawnProcess(self, worker: Any, executable: str, args: Any, env: Any, childFDs: Any) -> None:
        started = {"executable": executable, "args": args, "env": env, "childFDs": childFDs}
        self.spawned.append((Process(worker), started))


class ParentCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.events: list[dict] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)
        self.reactor = Reactor()

    def config(self, **values: Any) -> Config:
        defaults = {
            "data": os.path.abspath(self.mktemp()),
            "backend": ("http://127.0.0.1:1",),
            "hostname": "relay.example",
            "listen": ("tcp:2525",),
            "workers": "2",
        }
        return Config(**{**defaults, **values})

    def start(self, **values: Any) -> service.RelayService:
        made = service.makeService(self.config(**values), self.reactor)
        made.terminal = None
        made.spool_thread = lambda reactor: Inline()
        made.privilegedStartService()
        made.startService()
        self.reactor.run()
        self.reactor.advance(GREETED)
        self.made = made
        return made

    @property
    def processes(self) -> list[Process]:
        return [process for process, _ in self.reactor.spawned]

    def ready(self) -> None:
        for each in self.processes:
            if not each.worker.ready.called:
                each.says("ready")

    @property
    def said(self) -> list[str]:
        return [str(event.get("log_format", "")).format_map(event) for event in self.events]

    def ended(self) -> None:
        """Stop, with workers that obey."""
        stopping = self.made.stopService()
        for each in self.processes:
            if not each.worker.gone.called:
                each.says("retired")
        for each in self.processes:
            if not each.worker.gone.called:
                each.ends()
        self.successResultOf(stopping)


class StartTests(ParentCase):
    def test_hello(self) -> None:
        """A worker gets sockets and configuration; what is secret stands neither in its arguments nor its variables."""
        patch = mock.patch.dict(os.environ, {"SMTP_RELAY_SPOOL_URL": SECRET})
        patch.start()
        self.addCleanup(patch.stop)
        made = self.start()
        (first, started), (second, _) = self.reactor.spawned
        self.assertEqual(started["args"][1:], ["-m", "relay.workers", "1"])
        self.assertEqual(started["childFDs"], {0: "w", 3: "r", 1: "r", 2: "r", FIRST_SOCKET: SOCKET})
        self.assertNotIn("canary", str(started))
        self.assertEqual(taken_over(first.hello["config"]).backend, made.config.backend)
        self.assertEqual(first.hello["listeners"], ["tcp:2525"])
        self.assertNotEqual(first.hello["owner"], second.hello["owner"])
        self.assertEqual(first.hello["epoch"], second.hello["epoch"])
        self.ended()

    def test_ready(self) -> None:
        """The relay is ready when both take connections; it accepts none itself."""
        self.start()
        self.assertNotIn("ready", self.said)
        self.ready()
        self.assertEqual(self.said[-1], "ready")
        self.ended()
        self.assertEqual(self.said[-1], "stopped")

    def test_problems(self) -> None:
        """What is wrong with the configuration is said at the start, as for one process."""
        for values in ({"certificate": "/nonexistent", "private_key": "/nonexistent"}, {"listen": ("a:1",)}):
            self.assertRaises(ConfigError, service.makeService, self.config(**values), self.reactor)

    def test_shares(self) -> None:
        """Memory and lanes are divided, but a worker can always take a message of the largest size."""
        shared = share_of(self.config(workers="4", limits=Limits(memory=400, message_size=90)))
        self.assertEqual((shared.limits.memory, shared.spool.concurrency), (100, 5))
        self.assertEqual(
            share_of(self.config(workers="64", limits=Limits(memory=400, message_size=90))).limits.memory, 90
        )


class RunningCase(ParentCase):
    """Two workers that take connections."""

    def setUp(self) -> None:
        super().setUp()
        self.start()
        self.ready()
        self.workers = self.made._intake
        assert isinstance(self.workers, Workers)
        self.addCleanup(self.ended)


class RunningTests(RunningCase):
    """While all goes well, and when one is killed."""

    def ask(self, asked: Any) -> Deferred[Any]:
        return Deferred.fromCoroutine(asked)

    def answer(self, process: Process, word: str, said: Any) -> None:
        (question,) = next(values for name, *values in reversed(process.told) if name == word)
        process.says("answer", question, said)

    def test_readiness(self) -> None:
        """One worker that is ready is enough; a platform is in the state that the worst-off worker sees."""
        missing = self.ask(self.workers.missing())
        first, second = self.processes
        self.answer(first, "state", {"missing": {"platform": "does not answer"}, "breakers": {"p": "open"}})
        self.assertNoResult(missing)
        self.answer(second, "state", {"missing": {}, "breakers": {"p": "closed"}})
        self.assertEqual(self.successResultOf(missing), {})
        self.assertEqual(self.workers.breakers(), {"p": "open"})

    def test_silence(self) -> None:
        """A worker that does not answer in time, or ends, holds nobody up."""
        missing = self.ask(self.workers.missing())
        self.processes[0].ends(9)
        self.assertNoResult(missing)
        self.reactor.advance(2)
        self.assertEqual(self.successResultOf(missing), {"workers": "none takes connections"})

    def test_heir(self) -> None:
        """What a killed worker had under way goes to one that lives at once, or to the next that starts."""
        first, second = self.processes
        first.ends(9)
        self.assertEqual(second.told[-1], ["free", first.hello["owner"]])
        self.reactor.advance(0)
        second.ends(9)  # the successor is not ready yet
        self.processes[2].ends(9)
        self.reactor.advance(30)
        owners = {second.hello["owner"], self.processes[2].hello["owner"]}
        self.assertEqual({owner for each in self.processes[3:] for owner in each.hello["free"]}, owners)
        self.ready()

    def test_forgotten_key(self) -> None:
        """A key that was reset in the embedded backend is forgotten by every worker."""
        self.made.forget_digest(b"\x01\x02")
        self.assertEqual([each.told[-1] for each in self.processes], [["told", 0, "forget", "0102"]] * 2)

    def test_passed_on(self) -> None:
        """What one worker tells comes to the others, with its number."""
        first, second = self.processes
        first.says("tell", "left", "aa")
        self.assertEqual(second.told[-1], ["told", 1, "left", "aa"])
        self.assertNotIn("told", first.words)

    def test_log(self) -> None:
        """What a worker logs, and what it cries out in the end, is in the relay's log with its number."""
        first, second = self.processes
        first.says("log", 1.0, "warn", "relay.x", "hello {braces}", {"worker": 1, "id": "ID1"})
        second.prints("Fatal Python error\n")
        said, cried = self.events[-2:]
        self.assertEqual((said["log_text"], said["log_level"].name, said["id"]), ("hello {braces}", "warn", "ID1"))
        self.assertEqual(said["log_system"], "worker 1 relay.x#warn")
        self.assertEqual((cried["number"], cried["line"]), (2, "Fatal Python error"))


class ReloadTests(RunningCase):
    """SIGHUP."""

    def reload(self, **values: Any) -> None:
        """SIGHUP, when the configuration has other values."""
        self.workers.reread = lambda: attrs.evolve(self.made.config, **values)
        self.workers.reload()

    def replaced(self) -> None:
        """The successors come, and those before retire."""
        for number in (2, 3):
            self.processes[number].says("ready")
            self.processes[number - 2].says("retired")

    def test_new_configuration(self) -> None:
        """Successors get the new configuration, but for what needs a new start, which a warning names."""
        embedded = attrs.evolve(self.made.config.embedded, keep_log=3.0)
        self.reload(limits=Limits(idle=5.0), admin="tcp:1", workers="5", embedded=embedded)
        self.replaced()
        config = taken_over(self.processes[3].hello["config"])
        self.assertEqual((config.limits.idle, config.admin, config.workers), (5.0, self.made.config.admin, "2"))
        for key in ("admin", "workers", "embedded.keep_log"):
            self.assertIn(f"{key} is other than it was, and is taken over by a new start only", self.said)
        self.assertEqual(self.said[-1], "all workers have been replaced")

    def test_bad_certificate(self) -> None:
        """A certificate that is none leaves all as they are, and is logged."""
        path = Path(self.mktemp())
        path.write_text("nonsense")
        self.reload(certificate=str(path), private_key=str(path))
        self.assertIn("certificate not loaded, the old one stays", self.said[-1])
        self.assertEqual(len(self.processes), 2)

    def test_bad_configuration(self) -> None:
        """A configuration that is wrong leaves all as they are, and every problem is logged."""

        def wrong() -> Config:
            raise ConfigError(["one", "two"])

        self.workers.reread = wrong
        self.workers.reload()
        self.assertEqual(
            self.said[-2:], [f"configuration not loaded, the old one stays: {each}" for each in ("one", "two")]
        )
        self.reload(backend=("ftp://x",))
        self.assertIn("configuration not loaded", self.said[-1])
        self.assertEqual(len(self.processes), 2)

    def test_successor_that_dies(self) -> None:
        """When a successor does not start the old ones serve on, and the log says so."""
        self.reload(limits=Limits(idle=5.0))
        self.processes[2].ends(1)
        self.assertEqual(self.said[-1], "not all workers have been replaced: a new one does not start")
        self.assertNotIn("retire", self.processes[0].words)
