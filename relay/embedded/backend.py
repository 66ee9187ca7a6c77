"""The embedded backend as one thing to start, listen with and stop."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from argon2 import PasswordHasher
from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import Site

from relay.embedded import first
from relay.embedded.api import api
from relay.embedded.api.core import Platform, Render
from relay.embedded.database import Database, Executor, Threads
from relay.embedded.keys import Keys
from relay.embedded.live import Live, newest
from relay.embedded.opening import KEY_FILE, Opened, open_store
from relay.embedded.passwords import THREADS, Passwords
from relay.embedded.render import Renderer
from relay.embedded.resource import LARGEST_REQUEST, site
from relay.embedded.retention import Retention
from relay.embedded.routes.carrier import Desk
from relay.embedded.routes.carriers import Carriers
from relay.embedded.routes.maildir import Folder
from relay.embedded.routes.smtp import Post
from relay.embedded.routes.values import Maildir, PostalRoute, Smarthost
from relay.embedded.routes.ways import Way
from relay.embedded.throttle import Throttle
from relay.embedded.web import LINKS, pages
from relay.embedded.web.cookies import Cookies
from relay.embedded.web.frame import Frontend
from relay.embedded.web.hint import Hint
from relay.embedded.web.turns import Turns
from relay.policy import Embedded
from relay.spool.clock import SteadyClock
from relay.spool.crypto import Cipher

#: Crockford's base 32: no letters that look like digits.
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

#: The folder of all maildirs, under the data folder.
MAILDIRS = "maildir"
#: Threads that build messages and write them to maildirs.
BUILDERS = 2
#: Seconds that messages under way have when the backend stops.
DRAIN = 30.0

_log = Logger()

#: The way to a smarthost.
Reach = Callable[[Smarthost], Way]


def new_id() -> str:
    """A message's public id: 80 random bits, so that it tells nothing of its neighbours."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(16))


@define
class Backend:
    """The platform in small.

    :ivar api_key: opens the first account; never show it but where the operator asked for it.
    :ivar key_file: where it stands.
    :ivar first: who may sign in since this, the first start; None later.
    :ivar settled: fires when they may.
    :ivar hint: how a first message is sent; set it when the ports are known.
    """

    api_key: str = field(repr=False)
    key_file: Path
    first: first.People | None = field(repr=False)
    _platform: Platform = field(repr=False)
    _building: Executor = field(repr=False)
    _passwords: Passwords = field(repr=False)
    _cookies: Cookies = field(repr=False)
    _policy: Embedded = field(repr=False)
    _live: Live = field(repr=False)
    _retention: Retention = field(repr=False)
    _stop_rendering: Callable[[], Deferred[None]] = field(repr=False)
    _reactor: Any = field(repr=False)
    hint: Hint = field(factory=Hint)
    settled: Deferred[None] = field(init=False, repr=False)

    @classmethod
    def open(
        cls,
        data: Path,
        *,
        reactor: Any,
        policy: Embedded | None = None,
        now: Callable[[], float] = time.time,
        new_id: Callable[[], str] = new_id,
        executor: Callable[[int, str], Executor] | None = None,
        render: Render | None = None,
        hasher: PasswordHasher | None = None,
        forget: Callable[[bytes], None] | None = None,
        opened: Opened | None = None,
        reach: Reach | None = None,
    ) -> Backend:
        """Open the backend that keeps its state under *data*, making what is missing.

        It blocks for a moment, and starts threads: call it when the service starts, after a fork.

        :param data: a folder that exists.
        :param executor: makes the executor for so many threads of such a name; default: threads of our own.
        :param render: renders a body; default: :class:`~relay.embedded.render.Renderer`.
        :param opened: what :func:`~relay.embedded.opening.open_store` has opened there; default: it does it now.
        :param reach: the way to a smarthost; default: over sockets.
        :param hasher: argon2 with its costs; default: those of RFC 9106 for little memory.
        :param forget: called with the SHA-256 of each API key that stopped to be good.
        :raises ConfigError: the folder, a file in it, the database or the key file cannot be used.
        """
        policy = policy or Embedded()
        executor = executor or partial(Threads, reactor)
        hasher = hasher or PasswordHasher()
        opened = opened or open_store(data, policy, now)
        database = Database(
            opened.engine,
            executor(2, "embedded-read"),
            executor(1, "embedded-write"),
            executor(2, "embedded-look"),
        )
        renderer = Renderer(reactor)
        keys = Keys(database, opened.cipher, data / KEY_FILE, now, forget or (lambda digest: None))
        keys.start(reactor)
        building = executor(BUILDERS, "embedded-routes")
        steady = SteadyClock(now, reactor.seconds).now
        desk = Desk(database, building, secrets.token_hex(16), policy, steady, reactor)
        folders = Path(policy.maildir) if policy.maildir else data / MAILDIRS
        way = partial(way_of, reach=reach or partial(Post.to, reactor=reactor), folders=folders, writing=building)
        carriers = Carriers(desk, opened.cipher, way)
        carriers.start()
        secret = opened.cipher.derive("cookies")
        live = Live(
            lambda account: database.look(partial(newest, account=account)), reactor, shared=bool(policy.database)
        )
        database.on_commit = live.changed
        retention = Retention(database, policy, now, reactor)
        retention.start()
        backend = cls(
            api_key=opened.key,
            key_file=data / KEY_FILE,
            first=opened.first,
            platform=Platform(database, keys, opened.cipher, render or renderer.render, now, new_id, carriers),
            building=building,
            passwords=Passwords(executor(THREADS, "embedded-password"), hasher),
            cookies=Cookies(secret, secure=policy.public_url.startswith("https:")),
            policy=policy,
            live=live,
            retention=retention,
            stop_rendering=renderer.stop,
            reactor=reactor,
            hint=Hint(key_file=data / KEY_FILE),
        )
        backend.settled = Deferred.fromCoroutine(backend._settle())
        return backend

    def site(self, largest: int = LARGEST_REQUEST) -> Site:
        """The HTTP API and the pages, to listen with.

        :param largest: bound of a request's body, in bytes.
        """
        frontend = Frontend(
            platform=self._platform,
            policy=self._policy,
            passwords=self._passwords,
            throttle=Throttle(self._reactor),
            cookies=self._cookies,
            links=LINKS,
            signed_in=self._signed_in,
            passwords_file=lambda: first.FILE if self.passwords_file.exists() else "",
            hint=lambda: self.hint,
            live=self._live,
            turns=Turns(self._reactor),
        )
        root = pages(frontend)
        root.putChild(b"api", api(self._platform))
        return site(root, self._reactor, largest)

    @property
    def keys(self) -> Keys:
        """The API keys of all accounts."""
        return self._platform.keys

    @property
    def cipher(self) -> Cipher:
        """What the secrets in the database are sealed with."""
        return self._platform.cipher

    @property
    def passwords_file(self) -> Path:
        """Where the first passwords stand until they have served; whoever shows them may delete it."""
        return self.key_file.parent / first.FILE

    def relay_site(self, token: str, largest: int = LARGEST_REQUEST) -> Site:
        """The HTTP API for the relay itself, on a listener of its own.

        :param token: what the relay shows where nobody else may.
        """
        root = Resource()
        root.putChild(b"api", api(self._platform, token))
        return site(root, self._reactor, largest)

    async def _settle(self) -> None:
        """Let the first ones sign in: their passwords take a while to hash."""
        if self.first is None:
            return
        try:
            hashed = [await self._passwords.hashed(password) for _, password in self.first.people]
            add = partial(first.add, made=self.first, hashed=hashed, now=self._platform.now())
            if not await self._platform.write(add):
                _log.warn("another backend on this database was faster: its first passwords count")
                self.first = None
                self.passwords_file.unlink(missing_ok=True)
        except Exception:
            _log.failure("nobody can sign in yet; the next start makes the first users")

    async def _signed_in(self) -> None:
        """Somebody has signed in: the first passwords may have served."""
        await self._platform.read(partial(first.forget, data=self.key_file.parent))

    def close(self) -> Deferred[None]:
        """Finish what is under way and let go of threads, processes and files.  Stop listening first."""
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        await self.settled
        self._platform.keys.stop()
        self._live.stop()
        self._retention.stop()
        await self._platform.carriers.stop(DRAIN)
        await self._stop_rendering()
        await self._platform.database.close()
        self._building.stop()
        self._passwords.stop()


def way_of(route: PostalRoute, *, reach: Reach, folders: Path, writing: Executor) -> Way | None:
    """How messages leave by *route*, None where they do not."""
    settings = route.settings
    if isinstance(settings, Smarthost):
        return reach(settings)
    return Folder(folders / settings.folder, writing) if isinstance(settings, Maildir) else None
