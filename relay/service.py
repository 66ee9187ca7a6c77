"""Puts the relay together: a :class:`~relay.config.Config` becomes a service.

:func:`makeService` is all that most need.  Who embeds a part takes the pieces: :func:`make_pipeline`, whose
stages ``attrs.evolve`` replaces, and :func:`make_factory`, which listens with any pipeline.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO, TypeVar

from twisted.application.internet import TimerService
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IReactorTime
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized

from relay.client.agent import Client, make_client
from relay.client.backend import Backend, base_url
from relay.client.platforms import Platforms
from relay.client.webhook import Webhook, webhook_url
from relay.config import DEFAULT_LISTEN, Config
from relay.errors import ConfigError, Reason
from relay.message import parse, template
from relay.operate import banner, descriptors, health, signals, tls
from relay.operate.datadir import DataDirectory
from relay.operate.listening import CannotStart, Listener, Where, host_port, shown
from relay.operate.log import log_record
from relay.operate.metrics import Metrics
from relay.pipeline import Ledger, Pipeline
from relay.posting import Deliver, ignore
from relay.smtp.auth import Keys, make_portal
from relay.smtp.factory import Observer, SubmissionFactory, TLSContext
from relay.spool.breaker import Breaker, State
from relay.spool.pacing import within
from relay.spool.service import Policies, SpoolService
from relay.spool.store import Store
from relay.spool.writer import Thread, WriterThread
from relay.values import Account, Record, Submission

if TYPE_CHECKING:
    from relay.embedded.backend import Backend as EmbeddedBackend

#: Seconds between two looks at the certificate's end.
_DAY = 86_400.0
#: Seconds for which a spool that does not answer, as a server that hangs, may keep us from stopping; twice.
_CLOSING = 10.0
#: Seconds of ``limits.drain``, at most half of it, that are kept for spooling what the platform has not answered.
_SPOOLING = 1.0

log = Logger()

T = TypeVar("T")


class Platform(Protocol):
    """The platform as the pipeline needs it; :class:`relay.client.backend.Backend`, or an embedder's own."""

    def ping(self, key: str) -> Awaitable[Account]:
        """The account behind *key*."""

    def send(self, submission: Submission) -> Awaitable[None]:
        """Hand over one submission."""


def make_pipeline(
    config: Config,
    platform: Platform,
    keys: Keys,
    record: Callable[[Record], None],
    *,
    deliver: Deliver | None = None,
    ledger: Ledger | None = None,
) -> Pipeline:
    """The stages as the configuration wants them.

    :param record: told of every message.
    :param deliver: takes all submissions of a message; None posts them, and spools nothing.
    :param ledger: knows repetitions; None: every message is a new one.
    """
    return Pipeline(
        account=keys.account,
        post=platform.send,
        parse=partial(parse, policy=config.content, limits=config.limits),
        check=template.check if config.content.check_templates else ignore,
        deliver=deliver,
        ledger=ledger,
        forget=keys.forget,
        record=record,
        concurrency=config.platform.concurrency,
    )


def make_factory(
    config: Config,
    pipeline: Pipeline,
    keys: Keys,
    *,
    clock: IReactorTime,
    tls: TLSContext | None = None,
    observer: Observer | None = None,
) -> SubmissionFactory:
    """What to listen with.

    :param tls: gives the context of each STARTTLS; None: it is not offered.
    """
    portal = make_portal(keys, pipeline.accept, header_auth=config.session.header_auth)
    return SubmissionFactory(
        portal,
        clock=clock,
        hostname=config.hostname,
        limits=config.limits,
        policy=config.session,
        tls=tls,
        observer=observer,
    )


def makeService(config: Config, reactor: Any = None) -> RelayService:
    """The whole relay.

    :param reactor: the process' own by default.
    :raises ConfigError: an endpoint, the certificate or the authorities of the platform are not usable.
    """
    if reactor is None:
        from twisted.internet import reactor
    return RelayService(config, reactor)


class _Observer(Metrics):
    """The metrics, and a line in the log for what no pipeline tells of."""

    def message_refused(self, reason: Reason, peer: str) -> None:
        super().message_refused(reason, peer)
        log.info("message refused peer={peer} reason={reason}", peer=peer, reason=reason.value)

    def message_recorded(self, record: Record) -> None:
        """A message has its verdict."""
        self.record(record)
        log_record(record)


class RelayService(MultiService):
    """Listeners, sessions, the pipeline, the platform's client, and the embedded backend where none is configured.

    Ports are bound in :meth:`privilegedStartService`; files are touched in :meth:`startService`, so that
    ``twistd --uid`` makes them its own.

    :ivar terminal: where the banner goes when it is a terminal.
    :ivar spool_thread: makes the thread that the spool is written in, of the reactor.
    :ivar sheds_privileges: whether the process starts as root and goes on as another user.
    :ivar log_observer: what twistd shall log to, in place of its own; None leaves it.
    """

    def __init__(self, config: Config, reactor: Any) -> None:
        MultiService.__init__(self)
        self.name = "smtp-relay"
        self.config = config
        self.terminal: TextIO | None = sys.__stdout__
        self.log_observer: ILogObserver | None = None
        self.sheds_privileges = False
        self.spool_thread: Callable[[Any], Thread] = partial(WriterThread, waits=True)
        self.metrics = _Observer()
        self._reactor = reactor
        self._bound = False
        self._stopped = False
        self._data: DataDirectory | None = None
        self._factory: SubmissionFactory | None = None
        self._embedded: EmbeddedBackend | None = None
        self._spool: SpoolService | None = None
        self._webhook_client: Client | None = None
        self._breakers: dict[str, str] = {}
        problems: list[str] = []
        self._smtp, self._web = _listeners(config, reactor, problems)
        self._certificates = _collect(problems, partial(_given_certificates, config, reactor))
        client = _collect(problems, partial(make_client, reactor, config.platform))
        for url in config.backend:
            _collect(problems, partial(base_url, url))
        if config.failures.webhook:
            _collect(problems, partial(webhook_url, config.failures.webhook))
        if client is None or problems:
            raise ConfigError(problems)
        self._client = client

    def setServiceParent(self, parent: Any) -> None:
        """See :class:`twisted.application.service.IService`; an application takes our log observer with us."""
        if self.log_observer is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self.log_observer)
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
        if not self.config.backend:
            late += ["relay.embedded.backend", "relay.embedded.pages", "relay.embedded.resource"]
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
        """Make everything and let the listeners have it."""
        config, reactor = self.config, self._reactor
        certificates = self._certificates = self._certificates or self._own_certificates()
        platforms = self._make_platforms(config.backend or (self._serve_embedded(),))
        keys = Keys(platforms.ping, config.auth, reactor)
        spool = self._spool = self._open_spool(platforms, keys)
        pipeline = make_pipeline(
            config, platforms, keys, self.metrics.message_recorded, deliver=spool.deliver, ledger=spool.ledger
        )
        self._factory = make_factory(
            config, pipeline, keys, clock=reactor, tls=certificates.current, observer=self.metrics
        )
        for listener in self._smtp:
            listener.serve(self._factory)
        self._readiness = health.Readiness(platforms.reachable, reactor, lambda: self._breakers)
        self._readiness.listening = True
        self._web["admin"].serve(health.make_site(self.metrics, self._readiness, reactor))
        self.metrics.watch_certificate(lambda: certificates.not_after)
        daily = TimerService(_DAY, certificates.warn)
        daily.clock = reactor
        daily.setServiceParent(self)

    def _make_platforms(self, urls: Sequence[str]) -> Platforms:
        """The platforms, each behind its breaker."""
        config, clock = self.config, self._reactor

        def changed(name: str, state: State) -> None:
            self._breakers[name] = state.value
            self.metrics.breaker_changed(name, state.value)
            if self._spool is not None:
                self._spool.wake()

        backends = [
            Backend(url, self._client, policy=config.platform, clock=clock, answered=self.metrics.backend_answered)
            for url in urls
        ]
        breakers = [
            Breaker(config.breaker, clock, name=each.url, on_change=partial(changed, each.url)) for each in backends
        ]
        for backend in backends:
            changed(backend.url, State.CLOSED)
        return Platforms(backends, breakers, config.backend_order)

    def _open_spool(self, platforms: Platforms, keys: Keys) -> SpoolService:
        """Open the spool, before the first message is taken."""
        config, clock = self.config, self._reactor
        data = Path(config.data).absolute()
        thread = self.spool_thread(clock)
        opening = Deferred.fromCoroutine(
            Store.open(
                config.spool_url,
                key_file=Path(config.spool.key_file) if config.spool.key_file else data / "spool.key",
                policy=config.spool,
                reactor=clock,
                thread=thread,
                keep=config.ledger.keep,
                notices=bool(config.failures.webhook),
            )
        )
        store = thread.wait_for(opening)
        webhook = None
        if config.failures.webhook:
            # A client of its own: platform.ca_file says whom the platform trusts, not the webhook.
            self._webhook_client = make_client(clock)
            webhook = Webhook(config.failures.webhook, self._webhook_client, clock).post
        deadline = config.platform.timeout * max(len(config.backend), 1)
        limits, concurrency = config.limits, config.platform.concurrency
        policies = Policies(config.spool, config.delivery, deadline, concurrency, limits.memory, config.ledger.keep)
        spool = SpoolService(store, platforms, policies, clock, self.metrics, forget=keys.forget, post_json=webhook)
        child: Any = spool  # untyped in Twisted
        child.setServiceParent(self)
        return spool

    def _own_certificates(self) -> tls.Certificates:
        paths = tls.make(self.config.data, self.config.hostname)
        return tls.Certificates(*paths, self._reactor)

    def _serve_embedded(self) -> str:
        """Start the embedded backend; its URL."""
        # Imported here: a relay before a platform of its own needs neither SQLAlchemy nor Jinja2.
        from relay.embedded.backend import Backend as EmbeddedBackend
        from relay.embedded.pages import Hint
        from relay.embedded.resource import LARGEST_REQUEST

        embedded = self._embedded = EmbeddedBackend.open(Path(self.config.data), reactor=self._reactor)
        # A message may grow in JSON: every quote and line end is two characters there.
        site = embedded.site(max(LARGEST_REQUEST, 2 * self.config.limits.message_size + 2**20))
        self._web["dashboard"].serve(site)
        self._web["internal"].serve(site)
        target = self._target()
        if target is not None:
            embedded.hint = Hint(*target)
        return f"http://{shown(self._web['internal'].address)}"

    def _target(self) -> tuple[str, int] | None:
        """Where a client on this machine sends a first message."""
        plain = [each for each in self._smtp if not each.where.endpoint.startswith("haproxy:")]
        return next((target for each in plain if (target := host_port(each.address))), None)

    # --- running

    def _begin(self) -> None:
        """The reactor runs: signals are ours from now on, and whoever reads "ready" may send them."""
        if signals.owns_process(self._reactor):
            signals.install(self._reactor, self._stop_reactor, self._reload)
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
        )
        if self.terminal is not None and self.terminal.isatty():
            self.terminal.write(banner.for_terminal(ready))
            self.terminal.flush()
        else:
            for line in banner.for_log(ready):
                log.info("{line}", line=line)
        log.info("ready")

    def _reload(self) -> None:
        """SIGHUP."""
        if self._certificates is not None:
            self._certificates.reload()

    def _stop_reactor(self) -> None:
        """SIGTERM, SIGINT; one that comes twice changes nothing."""
        with suppress(ReactorNotRunning):
            self._reactor.stop()

    # --- stopping

    def stopService(self) -> Deferred[None]:
        """Take no new connections, let the sessions finish, then let go of everything (THREATS.md, SIGTERM)."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        log.info("stopping")
        self._stopped = True
        if self._factory is not None:
            self._readiness.stopping = True
            for listener in self._smtp:
                await listener.stop()
            await self._drain(self._factory)
        answers = True
        if self._spool is not None:
            seconds = self.config.limits.drain
            answers = await within(self._reactor, seconds + _CLOSING, self._spool.stop(seconds))
        self._client.close()
        if self._webhook_client is not None:
            self._webhook_client.close()
        for listener in (*self._smtp, *self._web.values()):
            await listener.stop()
        if self._embedded is not None:
            await self._embedded.close()
        if not await within(self._reactor, _CLOSING, self._close()) or not answers:
            log.error("the spool does not answer, and is left as it is")
        self._release()
        log.info("stopped")

    async def _close(self) -> None:
        stopped: Any = MultiService.stopService(self)
        if isinstance(stopped, Deferred):
            await stopped
        if self._spool is not None:
            await self._spool.close()

    async def _drain(self, factory: SubmissionFactory) -> None:
        """Let the sessions finish; shortly before they are cut off, what they wait for is spooled."""
        seconds = self.config.limits.drain
        late = None
        if self._spool is not None:
            late = self._reactor.callLater(seconds - min(seconds / 2, _SPOOLING), self._spool.hurry)
        await factory.drain()
        if late is not None and late.active():
            late.cancel()

    def _release(self) -> None:
        if self._data is not None:
            self._data.release()


def _listeners(config: Config, reactor: Any, problems: list[str]) -> tuple[list[Listener], dict[str, Listener]]:
    """The SMTP listeners, and the others by name."""
    source = config.source("listen")
    default = "listen" not in config.sources and config.listen == DEFAULT_LISTEN
    smtp = [Where("smtp", endpoint, source, default) for endpoint in config.listen]
    web = [Where("admin", config.admin, config.source("admin"))]
    if not config.backend:
        web.append(Where("dashboard", config.dashboard, config.source("dashboard")))
        web.append(Where("internal", "tcp:0:interface=127.0.0.1", "the relay's own way to the embedded backend"))
    made = [
        (where, _collect(problems, partial(Listener, reactor, where, config.proxy_from))) for where in (*smtp, *web)
    ]
    usable = [(where, listener) for where, listener in made if listener is not None]
    return (
        [listener for where, listener in usable if where.name == "smtp"],
        {where.name: listener for where, listener in usable if where.name != "smtp"},
    )


def _given_certificates(config: Config, reactor: Any) -> tls.Certificates | None:
    """The certificate that the configuration names, None where it names none."""
    if not config.certificate:
        return None
    return tls.Certificates(config.certificate, config.private_key, reactor)


def _collect(problems: list[str], make: Callable[[], T]) -> T | None:
    """What *make* makes, or None with its problems added to *problems*."""
    try:
        return make()
    except ConfigError as error:
        problems.extend(error.problems)
        return None
