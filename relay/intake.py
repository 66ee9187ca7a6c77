"""Takes mail and sees it to the platform, in one process: sessions, pipeline, the platform's client, the spool.

Who embeds a part takes the pieces: :func:`make_pipeline`, whose stages ``attrs.evolve`` replaces, and
:func:`make_factory`, which listens with any pipeline.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from attrs import field, frozen
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from relay import replies
from relay.client.backend import Backend, base_url
from relay.client.platforms import Platforms
from relay.client.pool import Pool, make_client
from relay.client.reports import Reports
from relay.client.webhook import Webhook, webhook_url
from relay.config import Config
from relay.errors import ConfigError, Reason
from relay.operate import tls
from relay.operate.listening import Listener
from relay.operate.log import log_record
from relay.operate.metrics import Metrics
from relay.operate.prompt import Prompt, Turn
from relay.operate.readiness import Readiness
from relay.periodic import Periodic
from relay.posting import Deliver, ignore
from relay.presence import Presence
from relay.smtp.auth import Keys, make_portal
from relay.smtp.factory import Observer, SubmissionFactory, TLSContext
from relay.spool.breaker import Breaker, State
from relay.spool.pacing import within
from relay.spool.service import Policies, SpoolService
from relay.spool.store import Store
from relay.spool.values import Seat
from relay.spool.writer import Thread
from relay.values import Account, Envelope, Receipt, Record, Submission

if TYPE_CHECKING:
    import relay.pipeline
    from relay.pipeline import Pipeline

#: Seconds between two looks at the certificate's end.
_DAY = 86_400.0
#: Seconds from the first turn of the reactor until the rest is made: who has connected by then is greeted first.
GREETED = 0.02
#: Seconds for which a spool that does not answer, as a server that hangs, may keep us from stopping; twice.
CLOSING = 10.0
#: Seconds that the embedded backend has, when we stop, for what it has not been told yet.
_REPORTING = 2.0
#: Seconds of ``limits.drain``, at most half of it, that are kept for spooling what the platform has not answered.
_SPOOLING = 1.0

#: Makes the thread that the spool is written in, of the reactor.
MakeThread = Callable[[Any], Thread]

log = Logger()

T = TypeVar("T")


class Platform(Protocol):
    """The platform as the pipeline needs it; :class:`relay.client.backend.Backend`, or an embedder's own."""

    def ping(self, key: str) -> Awaitable[Account]:
        """The account behind *key*."""

    def send(self, submission: Submission) -> Awaitable[None]:
        """Hand over one submission."""


@frozen
class Internal:
    """The relay's own way to the embedded backend.

    :ivar url: where it listens for the relay, on loopback.
    :ivar token: says that it is the relay that asks; new at each start, and never in an argument or a variable.
    """

    url: str
    token: str = field(repr=False)


def make_pipeline(
    config: Config,
    platform: Platform,
    keys: Keys,
    record: Callable[[Record], None],
    *,
    deliver: Deliver | None = None,
    ledger: relay.pipeline.Ledger | None = None,
) -> Pipeline:
    """The stages as the configuration wants them.

    :param record: told of every message.
    :param deliver: takes all submissions of a message; None posts them, and spools nothing.
    :param ledger: knows repetitions; None: every message is a new one.
    """
    # Imported here: see Postponed.
    from relay.message import parse, template
    from relay.pipeline import Pipeline

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


class Postponed:
    """A pipeline that is made when it is needed: nobody needs a parser to be greeted.

    :ivar pipeline: gives it.
    """

    def __init__(self, make: Callable[[], Pipeline]) -> None:
        self.pipeline: Callable[[], Pipeline] = cache(make)

    def accept(self, envelope: Envelope, content: bytes, presence: Presence) -> Awaitable[Receipt]:
        """See :meth:`relay.pipeline.Pipeline.accept`."""
        return self.pipeline().accept(envelope, content, presence)


def make_factory(
    config: Config,
    pipeline: Pipeline | Postponed,
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


def _at_once(call: Callable[[], None]) -> None:
    call()


class _Observer(Metrics):
    """The metrics, and the log of messages.

    :param at_end: calls something when all that has come is read, before it is answered.  Messages are counted and
        logged then: several in a row take half as long as one now and then, between other work.
    """

    def __init__(self, at_end: Callable[[Callable[[], None]], None] = _at_once) -> None:
        super().__init__()
        self._at_end = at_end
        self._records: list[Record] = []

    def message_refused(self, reason: Reason, peer: str) -> None:
        super().message_refused(reason, peer)
        log.info("message refused peer={peer} reason={reason}", peer=peer, reason=reason.value)

    def message_recorded(self, record: Record) -> None:
        """A message has its verdict."""
        self._records.append(record)
        if len(self._records) == 1:
            self._at_end(self._tell)

    def _tell(self) -> None:
        records, self._records = self._records, []
        for record in records:
            self.record(record)
            log_record(record, more=record is not records[-1])


class Intake(MultiService):
    """Everything between the listeners and the platform.

    :param seat: which of several processes this one is; None: there is no other.
    :raises ConfigError: the certificate, the authorities of the platform or a URL are not usable.
    :ivar metrics: what it counts.
    :ivar readiness: whether it can take mail.
    """

    def __init__(self, config: Config, reactor: Any, seat: Seat | None = None) -> None:
        MultiService.__init__(self)
        self.name = "intake"
        self._turn = Turn(reactor)
        self.metrics = _Observer(self._turn.at_end)
        self.config = config
        self._seat = seat
        self._reactor = reactor
        self._listeners: Sequence[Listener] = ()
        self.factory: SubmissionFactory | None = None
        self.keys: Keys | None = None
        self.spool: SpoolService | None = None
        self._pipeline: Postponed | None = None
        self._webhook_client: Pool | None = None
        self._reports: Reports | None = None
        self._breakers: dict[str, str] = {}
        problems: list[str] = []
        self._certificates = collect(problems, partial(_given_certificates, config, reactor))
        connect = Prompt(reactor, self._turn)
        client = collect(problems, partial(make_client, reactor, config.platform, connect=connect))
        for url in config.backend:
            collect(problems, partial(base_url, url))
        if config.failures.webhook:
            collect(problems, partial(webhook_url, config.failures.webhook))
        if client is None or problems:
            raise ConfigError(problems)
        self._client = client

    # --- starting

    def open(self, listeners: Sequence[Listener], internal: Internal | None, make_thread: MakeThread) -> None:
        """Make everything and let *listeners* have it; the data directory exists.

        :param internal: the embedded backend, None where ``backend`` names platforms.
        :raises ConfigError: what is in the data directory, or the spool, cannot be used.
        """
        config, reactor = self.config, self._reactor
        certificates = self._certificates = self._certificates or tls.Certificates(*certificate_paths(config), reactor)
        platforms = self._make_platforms(config.backend or ((internal.url,) if internal else ()))
        keys = self.keys = Keys(platforms.ping, config.auth, reactor)
        spool = self.spool = self._open_spool(platforms, keys, make_thread(reactor))
        record = self._recorder(internal)
        pipeline = self._pipeline = Postponed(
            partial(make_pipeline, config, platforms, keys, record, deliver=spool.deliver, ledger=spool.ledger)
        )
        self.factory = make_factory(
            config, pipeline, keys, clock=reactor, tls=certificates.current, observer=self.metrics
        )
        self._listeners = listeners
        for listener in listeners:
            listener.serve(self.factory, self._turn)
        self.readiness = Readiness(platforms.reachable, reactor)
        self.readiness.listening = True
        self.metrics.watch_certificate(lambda: certificates.not_after)
        Periodic(reactor, _DAY, certificates.warn).setServiceParent(self)

    def _recorder(self, internal: Internal | None) -> Callable[[Record], None]:
        """Who is told of every message: the metrics and the log, and the embedded backend."""
        if internal is None:
            return self.metrics.message_recorded
        reports = self._reports = Reports(internal.url, internal.token, self._client, self._reactor, replies.reply)

        def record(record: Record) -> None:
            self.metrics.message_recorded(record)
            reports.record(record)

        return record

    def _make_platforms(self, urls: Sequence[str]) -> Platforms:
        """The platforms, each behind its breaker."""
        config, clock = self.config, self._reactor

        def changed(name: str, state: State) -> None:
            self._breakers[name] = state.value
            self.metrics.breaker_changed(name, state.value)
            if self.spool is not None:
                self.spool.wake()

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

    def _open_spool(self, platforms: Platforms, keys: Keys, thread: Thread) -> SpoolService:
        """Open the spool, before the first message is taken."""
        config, clock = self.config, self._reactor
        store = thread.wait_for(Deferred.fromCoroutine(open_store(config, clock, thread, self._seat)))
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

    def complete(self) -> None:
        """Make what :meth:`open` leaves for later, :data:`GREETED` after it, so that no message waits for it."""
        if self._pipeline is not None:
            self._pipeline.pipeline()

    # --- running

    def when_ready(self, then: Callable[[], None]) -> None:
        """Call *then* as soon as connections are taken: now."""
        then()

    def reload(self) -> None:
        """SIGHUP: the certificate is read again."""
        if self._certificates is not None:
            self._certificates.reload()

    def forget_digest(self, digest: bytes) -> None:
        """The platform does not know the key with this digest any more."""
        if self.keys is not None:
            self.keys.forget_digest(digest)

    async def missing(self) -> Mapping[str, str]:
        """What is missing to take mail, by name; empty when ready."""
        return await self.readiness.missing()

    def breakers(self) -> Mapping[str, str]:
        """The state of each platform, by URL."""
        return self._breakers

    async def exposition(self, accept: str) -> tuple[bytes, bytes]:
        """The metrics; see :meth:`relay.operate.metrics.Metrics.exposition`."""
        return self.metrics.exposition(accept)

    def pause(self, seconds: float) -> None:
        """Take no connections for a moment, because other processes have fewer."""
        for listener in self._listeners:
            listener.pause(seconds)

    async def free(self, owner: str) -> None:
        """Post what another process had under way, which is gone."""
        if self.spool is not None:
            await self.spool.free(owner)

    # --- stopping

    async def retire(self) -> None:
        """Take no new connections, and wait until those that there are have ended."""
        for listener in self._listeners:
            await listener.stop()
        if self.factory is not None:
            await self.factory.emptied()

    async def refuse(self) -> None:
        """Take no new connections from now on: all is to end."""
        if self.factory is not None:
            self.readiness.stopping = True
        for listener in self._listeners:
            await listener.stop()

    async def drain(self) -> bool:
        """Let the sessions and the postings finish; whether the spool answered."""
        answers = True
        if self.factory is not None:
            await self._finish_sessions(self.factory)
        if self.spool is not None:
            seconds = self.config.limits.drain
            answers = await within(self._reactor, seconds + CLOSING, self.spool.stop(seconds))
        if self._reports is not None:
            await within(self._reactor, _REPORTING, self._reports.stop())
        self._client.close()
        if self._webhook_client is not None:
            self._webhook_client.close()
        return answers

    async def close(self) -> None:
        """Let go of the spool, when the service has stopped."""
        if self.spool is not None:
            await self.spool.close()

    async def _finish_sessions(self, factory: SubmissionFactory) -> None:
        """Let the sessions finish; shortly before they are cut off, what they wait for is spooled."""
        seconds = self.config.limits.drain
        late = None
        if self.spool is not None:
            late = self._reactor.callLater(seconds - min(seconds / 2, _SPOOLING), self.spool.hurry)
        await factory.drain()
        if late is not None and late.active():
            late.cancel()


async def open_store(config: Config, clock: Any, thread: Thread, seat: Seat | None = None) -> Store:
    """Open the spool of *config*.

    :param thread: where it is written.
    :param seat: which of several processes this one is.
    """
    data = Path(config.data).absolute()
    return await Store.open(
        config.spool_url,
        key_file=Path(config.spool.key_file) if config.spool.key_file else data / "spool.key",
        policy=config.spool,
        reactor=clock,
        thread=thread,
        keep=config.ledger.keep,
        notices=bool(config.failures.webhook),
        seat=seat,
    )


def certificate_paths(config: Config) -> tuple[str, str]:
    """The files of the certificate and its key: those that are named, or our own, made where they are missing."""
    if config.certificate:
        return config.certificate, config.private_key
    return tls.make(config.data, config.hostname)


def _given_certificates(config: Config, reactor: Any) -> tls.Certificates | None:
    """The certificate that the configuration names, None where it names none."""
    if not config.certificate:
        return None
    return tls.Certificates(config.certificate, config.private_key, reactor)


def collect(problems: list[str], make: Callable[[], T]) -> T | None:
    """What *make* makes, or None with its problems added to *problems*."""
    try:
        return make()
    except ConfigError as error:
        problems.extend(error.problems)
        return None
