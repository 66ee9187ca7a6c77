"""The parent: starts the workers on the ports that it has bound, and is one relay for whoever asks."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import evolve
from prometheus_client import CollectorRegistry
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, Logger, globalLogPublisher

from relay.config import Config, differing, handed_over, with_values_of
from relay.errors import ConfigError
from relay.intake import CLOSING, Intake, Internal, MakeThread, certificate_paths, open_store
from relay.operate import tls
from relay.operate.listening import Listener
from relay.operate.metrics import exposition
from relay.periodic import Periodic
from relay.spool.pacing import within
from relay.workers import logs
from relay.workers.asking import Asking
from relay.workers.channel import FIRST_SOCKET, FROM_PARENT, TO_PARENT, Message
from relay.workers.joined import Joined
from relay.workers.supervision import Supervisor, Worker

#: Seconds between two looks at what the workers have counted: so much a ``kill -9`` may take along.
_LOOK = 5.0
#: Seconds that a worker may take beyond all its deadlines before it is killed.
_GRACE = 5.0
#: Seconds that a worker which hangs may keep the others' ports from being closed.
_REFUSING = 5.0
#: Keys that are taken over by a new start alone: what they say is bound, open or running.
_AT_START = ("listen", "admin", "dashboard", "data", "hostname", "workers", "log_format", "spool.url", "spool.key_file")

log = Logger()


class Workers(MultiService):
    """Stands where :class:`~relay.intake.Intake` stands in a relay of one process, and has the same methods.

    :raises ConfigError: as :class:`~relay.intake.Intake`.
    :ivar reread: reads the configuration again; None keeps the one that there is.
    :ivar inherits_output: whether the workers write to our standard output: it is the log.  Else what they log
        goes through our log.
    :ivar publish: our log.
    """

    def __init__(self, config: Config, reactor: Any) -> None:
        MultiService.__init__(self)
        self.name = "workers"
        self.reread: Callable[[], Config] | None = None
        self.inherits_output = False
        self.publish: ILogObserver = globalLogPublisher
        self._config = config
        self._reactor = reactor
        _check(config, reactor)
        self._listeners: Sequence[Listener] = ()
        self._internal: Internal | None = None
        self._stopping = False
        self._breakers: Mapping[str, str] = {}
        self._owners: dict[Worker, str] = {}
        self._ownerless: list[str] = []
        # The spool has one clock, whoever works on it: see SteadyClock.
        self._epoch = time.time() - time.monotonic()
        self._supervisor = Supervisor(
            config.processes, reactor, self._start, self._hear, self._hear_output, self._ended
        )
        self._asking = Asking(reactor)
        self._joined = Joined(self._supervisor)
        self._registry = CollectorRegistry()
        self._registry.register(self._joined)

    # --- starting

    def open(self, listeners: Sequence[Listener], internal: Internal | None, make_thread: MakeThread) -> None:
        """Make what the workers expect to be there, and leave *listeners* to them.

        :raises ConfigError: what is in the data directory, or the spool, cannot be used.
        """
        _python()
        tls.load(*certificate_paths(self._config))
        thread = make_thread(self._reactor)
        thread.wait_for(Deferred.fromCoroutine(self._prepare_spool(thread)))
        self._internal = internal
        self._listeners = listeners
        self._sockets = [each.leave() for each in listeners]
        Periodic(self._reactor, _LOOK, self._look).setServiceParent(self)

    async def _prepare_spool(self, thread: Any) -> None:
        """Make the spool, and free what a relay before had under way."""
        store = await open_store(self._config, self._reactor, thread)
        await store.close()

    def complete(self) -> None:
        """Nothing: the workers do it."""

    def when_ready(self, then: Callable[[], None]) -> None:
        """Start the workers, and call *then* when all take connections."""
        self._supervisor.start().addCallback(lambda _: then())

    def _start(self, worker: Worker) -> None:
        """Start the process of *worker*; what it has to know it is told, because others see arguments and variables."""
        self._owners[worker] = secrets.token_hex(16)
        output: dict[int, Any] = {1: 1, 2: 2} if self.inherits_output else {1: "r", 2: "r"}
        sockets = dict(enumerate(self._sockets, FIRST_SOCKET))
        python = _python()
        words = [sys.executable, "-m", "relay.workers", str(worker.number)]
        self._reactor.spawnProcess(
            worker,
            python,
            words,
            _environment(),
            childFDs={FROM_PARENT: "w", TO_PARENT: "r", **output, **sockets},
        )
        worker.tell("hello", self._hello(worker))
        self._supervisor.tell("again", but=worker)

    def _hello(self, worker: Worker) -> dict[str, Any]:
        ownerless, self._ownerless = self._ownerless, []
        internal = self._internal
        return {
            "config": handed_over(share_of(self._config)),
            "listeners": [listener.where.endpoint for listener in self._listeners],
            "internal": [internal.url, internal.token] if internal else None,
            "epoch": self._epoch,
            "owner": self._owners[worker],
            "free": ownerless,
            "inherits_output": self.inherits_output,
        }

    # --- running

    def reload(self) -> None:
        """SIGHUP: replace the workers by others that have read certificate and configuration again."""
        Deferred.fromCoroutine(self._reload()).addErrback(lambda failure: log.failure("SIGHUP failed", failure))

    async def _reload(self) -> None:
        try:
            config = self._read_again()
        except ConfigError as error:
            for problem in error.problems:
                log.error("configuration not loaded, the old one stays: {problem}", problem=problem)
            return
        certificate, private_key = certificate_paths(config)
        try:
            tls.load(certificate, private_key)
        except ConfigError as error:
            log.error("certificate not loaded, the old one stays: {problem}", problem=str(error))
            return
        self._config = config
        if await self._supervisor.replace(config.limits.idle + self._longest()):
            log.info("certificate loaded: {certificate}", certificate=certificate)
            log.info("all workers have been replaced")
        elif not self._stopping:
            log.error("not all workers have been replaced: a new one does not start")

    def _read_again(self) -> Config:
        """The configuration as it is now, but for what only a new start takes over."""
        if self.reread is None:
            return self._config
        config = self.reread()
        kept = [key for key in differing(self._config, config) if key in _AT_START or key.startswith("embedded.")]
        if bool(config.backend) != bool(self._config.backend):
            kept.append("backend")
        for key in kept:
            log.warn("{key} is other than it was, and is taken over by a new start only", key=key)
        config = with_values_of(self._config, kept, config)
        _check(evolve(config, certificate="", private_key=""), self._reactor)
        return config

    def forget_digest(self, digest: bytes) -> None:
        """The platform does not know the key with this digest any more: no worker lets it pass from now on."""
        self._supervisor.tell("told", 0, "forget", digest.hex())

    async def missing(self) -> Mapping[str, str]:
        """What is missing to take mail, by name; empty when a worker is ready."""
        if self._stopping:
            return {"relay": "stopping"}
        states = await self._asking.ask(self._supervisor.takes, "state")
        self._breakers = _worst([each["breakers"] for each in states.values()])
        if not states:
            return {"workers": "none takes connections"}
        return min((each["missing"] for each in states.values()), key=len)

    def breakers(self) -> Mapping[str, str]:
        """The state of each platform, by URL: of the worker that sees it worst; asked for with :meth:`missing`."""
        return self._breakers

    async def exposition(self, accept: str) -> tuple[bytes, bytes]:
        """The metrics of all workers, added up."""
        await self._look()
        return exposition(self._registry, accept)

    async def _look(self) -> None:
        for number, counted in (await self._asking.ask(self._supervisor.workers, "metrics")).items():
            self._joined.latest[number] = counted

    # --- what workers say

    def _hear(self, worker: Worker, message: Message) -> None:
        word, *values = message
        if word == "tell":
            self._supervisor.tell("told", worker.number, *values, but=worker)
        elif word == "answer":
            self._asking.answered(worker, *values)
        elif word == "counted":
            (self._joined.latest[worker.number],) = values
        elif word == "log":
            self.publish(logs.event(*values))

    def _hear_output(self, worker: Worker, data: bytes) -> None:
        """What a worker writes that is not its log, such as the last words of a Python that cannot start."""
        for line in data.decode("utf-8", "replace").splitlines():
            log.error("worker {number} says: {line}", number=worker.number, line=line)

    def _ended(self, worker: Worker) -> None:
        owner = self._owners.pop(worker)
        self._asking.ended(worker)
        self._joined.end(worker.number)
        self._supervisor.tell("gone", worker.number)
        # What it had under way is posted by another at once, under the same Idempotency-Key.
        heir = next(iter(self._supervisor.takes), None)
        if heir is not None:
            heir.tell("free", owner)
        else:
            self._ownerless.append(owner)

    # --- stopping

    async def refuse(self) -> None:
        """Take no new connections from now on: first no worker does, then the system refuses them."""
        self._stopping = True
        await within(self._reactor, _REFUSING, _awaited(self._supervisor.refuse()))
        for listener in self._listeners:
            await listener.stop()

    async def drain(self) -> bool:
        """Let all workers end in order; those that do not are killed."""
        await self._supervisor.stop(self._longest())
        return True

    async def close(self) -> None:
        """Nothing: the workers have let go of the spool."""

    def _longest(self) -> float:
        """Seconds that a worker may take to end."""
        return 2 * self._config.limits.drain + 3 * CLOSING + _GRACE


def share_of(config: Config) -> Config:
    """What one of several workers gets of *config*: its part of what cannot be counted together."""
    number, limits = config.processes, config.limits
    return evolve(
        config,
        limits=evolve(limits, memory=max(limits.memory // number, min(limits.message_size, limits.memory))),
        spool=evolve(config.spool, concurrency=-(-config.spool.concurrency // number)),
        platform=evolve(config.platform, connections=-(-config.platform.connections // number)),
    )


def _check(config: Config, reactor: Any) -> None:
    """Whether a worker could take *config*.

    :raises ConfigError: what is wrong.
    """
    Intake(config, reactor)


def _worst(states: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The worst state of each platform."""
    order = ("closed", "half-open", "open")
    worst: dict[str, str] = {}
    for each in states:
        for platform, state in each.items():
            worst[platform] = max(worst.get(platform, "closed"), state, key=order.index)
    return worst


async def _awaited(done: Deferred[None]) -> None:
    await done


def _python() -> str:
    """The interpreter that workers run in: ours.

    :raises ConfigError: the user that the relay runs as may not read it.
    """
    if not os.access(os.__file__, os.R_OK):
        raise ConfigError(
            [f"workers: the relay's user cannot read {os.__file__}: install Python elsewhere, or use --workers 1"]
        )
    # This process may have been started where its user may not.
    return sys.executable if os.access(sys.executable, os.X_OK) else "/proc/self/exe"


def _environment() -> dict[str, str]:
    """Our own variables, without those that configure a relay, and with our module path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SMTP_RELAY_")}
    return {**kept, "PYTHONPATH": os.pathsep.join(each for each in sys.path if each)}
