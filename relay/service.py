"""Puts the relay together: a :class:`~relay.config.Config` becomes a service.

:func:`makeService` is all that most need; the pieces are in :mod:`relay.intake`.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized

from relay.config import DEFAULT_LISTEN, Config
from relay.errors import ConfigError
from relay.intake import CLOSING, GREETED, Intake, Internal, MakeThread, Platform, collect, make_factory, make_pipeline
from relay.operate import banner, descriptors, signals, tls
from relay.operate.datadir import DataDirectory
from relay.operate.listening import CannotStart, Listener, Where, host_port, shown
from relay.spool.pacing import within
from relay.spool.writer import WriterThread

if TYPE_CHECKING:
    from relay.embedded.backend import Backend as EmbeddedBackend
    from relay.embedded.opening import Opened
    from relay.workers.parent import Workers

__all__ = ["Platform", "RelayService", "makeService", "make_factory", "make_pipeline"]

log = Logger()


def makeService(config: Config, reactor: Any = None) -> RelayService:
    """The whole relay.

    :param reactor: the process' own by default.
    :raises ConfigError: an endpoint, the certificate or the authorities of the platform are not usable.
    """
    if reactor is None:
        from twisted.internet import reactor
    return RelayService(config, reactor)


class RelayService(MultiService):
    """Listeners, sessions, the pipeline, the platform's client, and the embedded backend where none is configured.

    Ports are bound in :meth:`privilegedStartService`; files are touched in :meth:`startService`, so that
    ``twistd --uid`` makes them its own.

    :ivar terminal: where the banner goes when it is a terminal.
    :ivar spool_thread: makes the thread that the spool is written in, of the reactor.
    :ivar sheds_privileges: whether the process starts as root and goes on as another user.
    :ivar log_observer: what twistd shall log to, in place of its own; None leaves it to *text_log*.
    :ivar text_log: makes the observer that writes what twistd's would, for less, or None: twistd's own does.
    :ivar reread: reads the configuration again at SIGHUP, where there are workers; None: it stays.
    :ivar completed: called when all is made that a start makes.
    :ivar logs_to_output: whether the log is the standard output, to which workers may write, too.
    """

    def __init__(self, config: Config, reactor: Any) -> None:
        MultiService.__init__(self)
        self.name = "smtp-relay"
        self.config = config
        self.terminal: TextIO | None = sys.__stdout__
        self.log_observer: ILogObserver | None = None
        self.text_log: Callable[[], ILogObserver | None] = lambda: None
        self.sheds_privileges = False
        self.spool_thread: MakeThread = partial(WriterThread, waits=True)
        self._reactor = reactor
        self._bound = False
        self._stopped = False
        self._data: DataDirectory | None = None
        self._opened: Opened | None = None
        self._embedded: EmbeddedBackend | None = None
        self._internal: Internal | None = None
        problems: list[str] = []
        self._smtp, self._web = _listeners(config, reactor, problems)
        intake = collect(problems, partial(_make_intake, config, reactor))
        if intake is None or problems:
            raise ConfigError(problems)
        self._intake = intake
        self.reread: Callable[[], Config] | None = None
        self.completed: Callable[[], None] = lambda: None
        self.logs_to_output = False
        child: Any = intake  # untyped in Twisted
        child.setServiceParent(self)

    def setServiceParent(self, parent: Any) -> None:
        """See :class:`twisted.application.service.IService`; an application takes our log observer with us."""
        if isinstance(parent, Componentized):
            observer = self.log_observer or self.text_log()
            if observer is not None:
                parent.setComponent(ILogObserver, observer)
        MultiService.setServiceParent(self, parent)

    # --- starting

    def privilegedStartService(self) -> None:
        """Bind every port.

        :raises CannotStart: one cannot be bound.
        """
        with self._fatal():
            self._bind()
        if self.sheds_privileges:
            self._import_the_rest()
        MultiService.privilegedStartService(self)

    def _import_the_rest(self) -> None:
        """Import now what is otherwise imported when it is needed: the user to be may not read where it is."""
        late = ["alembic.operations", "alembic.runtime.migration", "alembic.script", "jinja2"]
        late += ["relay.message.template", "relay.operate.health", "relay.pipeline"]
        if not self.config.backend:
            late += ["relay.embedded.backend", "relay.embedded.resource"]
        for each in late:
            import_module(each)

    def startService(self) -> None:
        """Serve, as soon as the reactor runs.

        :raises CannotStart: the data directory, or what is in it, cannot be used.
        :raises RuntimeError: it was stopped: its listeners are closed for good.
        """
        if self._stopped:
            raise RuntimeError("a relay that was stopped does not start again, make a new one")
        with self._fatal():
            if not self._bound:
                self._bind()
            self._data = DataDirectory(self.config.data)
            self._serve()
        MultiService.startService(self)
        self._reactor.callWhenRunning(self._begin)

    @contextmanager
    def _fatal(self) -> Iterator[None]:
        """What cannot be used is logged, and ends the process without a traceback."""
        try:
            yield
        except (CannotStart, ConfigError, OSError) as error:
            if isinstance(error, OSError):
                error = CannotStart(
                    f"data: {error.filename or self.config.data}: {error.strerror}; --data names another directory"
                )
            elif isinstance(error, ConfigError):
                error = CannotStart("\n".join(error.problems))
            log.critical("{problem}", problem=str(error))
            for listener in (*self._smtp, *self._web.values()):
                listener.stop()
            self._release()
            raise error from None

    def _bind(self) -> None:
        if signals.owns_process(self._reactor):
            descriptors.make_room(descriptors.needed(self.config.limits.connections))
        self._smtp = [listener for listener in self._smtp if listener.bind()]
        if not self._smtp:
            raise CannotStart("no SMTP port can be listened on without root; give another with --listen")
        for listener in self._web.values():
            listener.bind()
        self._bound = True

    def _serve(self) -> None:
        """Make what can fail, and let the SMTP listeners have it."""
        if not self.config.backend:
            # Imported here: a relay before a platform of its own does not need it.
            from relay.embedded.opening import open_store

            self._opened = open_store(Path(self.config.data), self.config.embedded)
            self._internal = Internal(f"http://{shown(self._web['internal'].address)}", secrets.token_urlsafe(32))
        if not isinstance(self._intake, Intake):
            self._intake.reread, self._intake.inherits_output = self.reread, self.logs_to_output
        self._intake.open(self._smtp, self._internal, self.spool_thread)

    async def _complete(self) -> None:
        """Make the rest, which takes longer than all before; meanwhile its connections wait, and sessions begin."""
        # Imported here: nobody needs HTTP to be greeted.
        from relay.operate.health import make_site

        self._web["admin"].serve(make_site(self._intake, self._reactor))
        self._intake.complete()
        if self._opened is not None and self._internal is not None:
            await self._serve_embedded(self._opened, self._internal)

    async def _serve_embedded(self, opened: Opened, internal: Internal) -> None:
        """Start the embedded backend."""
        from relay.embedded.backend import Backend as EmbeddedBackend
        from relay.embedded.resource import LARGEST_REQUEST
        from relay.embedded.web.hint import Hint

        embedded = self._embedded = EmbeddedBackend.open(
            Path(self.config.data),
            opened=opened,
            policy=self.config.embedded,
            reactor=self._reactor,
            forget=self.forget_digest,
        )
        # A message may grow in JSON: every quote and line end is two characters there.
        largest = max(LARGEST_REQUEST, 2 * self.config.limits.message_size + 2**20)
        self._web["internal"].serve(embedded.relay_site(internal.token, largest))
        target = self._target()
        embedded.hint = Hint(
            self._name(),
            target[1] if target is not None else 0,
            key_file=embedded.key_file,
            ports=tuple(found[1] for found in self._targets()),
            certificate=None if self.config.certificate else Path(self.config.data) / tls.CERTIFICATE,
        )
        await embedded.settled  # or somebody might sign in too early
        self._web["dashboard"].serve(embedded.site(largest))

    def _target(self) -> tuple[str, int] | None:
        """Where a client on this machine sends a first message."""
        return next(iter(self._targets()), None)

    def _targets(self) -> list[tuple[str, int]]:
        """Where clients send messages."""
        plain = [each for each in self._smtp if not each.where.endpoint.startswith("haproxy:")]
        return [target for each in plain if (target := host_port(each.address))]

    def _name(self) -> str:
        """What clients call this host; the certificate has that name."""
        everywhere = any(getattr(each.address, "host", "") in ("0.0.0.0", "::") for each in self._smtp)
        return self.config.hostname if everywhere or "hostname" in self.config.sources else "localhost"

    # --- running

    def _begin(self) -> None:
        """The reactor runs: signals are ours from now on, and whoever reads "ready" may send them."""
        if signals.owns_process(self._reactor):
            signals.install(self._reactor, self._stop_reactor, self._intake.reload)
        Deferred.fromCoroutine(self._get_ready()).addErrback(lambda failure: log.failure("the start failed", failure))

    async def _get_ready(self) -> None:
        """Make the rest as soon as who waits is greeted, and announce that all is there."""
        taking: Deferred[None] = Deferred()
        self._intake.when_ready(partial(taking.callback, None))
        await deferLater(self._reactor, GREETED)
        try:
            if not self._stopped:
                await self._complete()
        finally:
            self.completed()
        await taking
        if not self._stopped:
            self._announce()

    def _announce(self) -> None:
        for listener in (*self._smtp, *self._web.values()):
            where = listener.where
            if where.name != "internal":
                said = f"{where.name} {shown(listener.address)} ({where.endpoint})"
                log.info("listening {said}", said=said)
        embedded, dashboard = self._embedded, self._web.get("dashboard")
        ready = banner.Ready(
            smtp=tuple(shown(listener.address) for listener in self._smtp),
            target=self._target(),
            admin=shown(self._web["admin"].address),
            dashboard=shown(dashboard.address) if dashboard else "",
            backend=", ".join(self.config.backend),
            api_key=embedded.api_key if embedded else "",
            key_file=str(embedded.key_file) if embedded else "",
            people=embedded.first.people if embedded and embedded.first else (),
            passwords_file=str(embedded.passwords_file) if embedded and embedded.passwords_file.exists() else "",
        )
        if self.terminal is not None and self.terminal.isatty():
            self.terminal.write(banner.for_terminal(ready))
            self.terminal.flush()
            if embedded and embedded.first:
                embedded.passwords_file.unlink(missing_ok=True)
        else:
            for line in banner.for_log(ready):
                log.info("{line}", line=line)
        log.info("ready")

    def forget_digest(self, digest: bytes) -> None:
        """The embedded backend does not know the key with this digest any more: it stops to pass at once."""
        self._intake.forget_digest(digest)

    def _stop_reactor(self) -> None:
        """SIGTERM, SIGINT; one that comes twice changes nothing."""
        with suppress(ReactorNotRunning):
            self._reactor.stop()

    # --- stopping

    def stopService(self) -> Deferred[None]:
        """Take no new connections, let the sessions finish, then let go of everything (THREATS.md, SIGTERM)."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._stopped = True
        await self._intake.refuse()
        log.info("stopping")
        answers = await self._intake.drain()
        for listener in (*self._smtp, *self._web.values()):
            await listener.stop()
        if self._embedded is not None:
            await self._embedded.close()
        elif self._opened is not None:
            self._opened.engine.dispose()
        if not await within(self._reactor, CLOSING, self._close()) or not answers:
            log.error("the spool does not answer, and is left as it is")
        self._release()
        log.info("stopped")

    async def _close(self) -> None:
        stopped: Any = MultiService.stopService(self)
        if isinstance(stopped, Deferred):
            await stopped
        await self._intake.close()

    def _release(self) -> None:
        if self._data is not None:
            self._data.release()


def _make_intake(config: Config, reactor: Any) -> Intake | Workers:
    """Who takes mail: this process, or several others."""
    if config.processes == 1:
        return Intake(config, reactor)
    # Imported here: most relays are one process.
    from relay.workers.parent import Workers

    return Workers(config, reactor)


def _listeners(config: Config, reactor: Any, problems: list[str]) -> tuple[list[Listener], dict[str, Listener]]:
    """The SMTP listeners, and the others by name."""
    source = config.source("listen")
    default = "listen" not in config.sources and config.listen == DEFAULT_LISTEN
    smtp = [Where("smtp", endpoint, source, default) for endpoint in config.listen]
    web = [Where("admin", config.admin, config.source("admin"))]
    if not config.backend:
        web.append(Where("dashboard", config.dashboard, config.source("dashboard")))
        web.append(Where("internal", "tcp:0:interface=127.0.0.1", "the relay's own way to the embedded backend"))
    made = [(where, collect(problems, partial(Listener, reactor, where, config.proxy_from))) for where in (*smtp, *web)]
    usable = [(where, listener) for where, listener in made if listener is not None]
    return (
        [listener for where, listener in usable if where.name == "smtp"],
        {where.name: listener for where, listener in usable if where.name != "smtp"},
    )
