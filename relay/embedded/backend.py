"""The embedded backend as one thing to start, listen with and stop."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from attrs import define, field
from sqlalchemy.exc import DatabaseError, OperationalError
from twisted.internet.defer import Deferred
from twisted.web.server import Site

from relay.embedded import accounts, schema
from relay.embedded.api import api
from relay.embedded.api.core import Platform, Render
from relay.embedded.database import Database, Executor, Threads, change, open_sqlite
from relay.embedded.render import Renderer
from relay.embedded.resource import LARGEST_REQUEST, site
from relay.embedded.web.pages import Frontend, Hint, pages
from relay.errors import ConfigError

#: The files under the data folder.
DATABASE = "platform.sqlite3"
KEY_FILE = "api-key"

#: Crockford's base 32: no letters that look like digits.
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def new_id() -> str:
    """A message's public id: 80 random bits, so that it tells nothing of its neighbours."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(16))


@define
class Backend:
    """The platform in small.

    :ivar api_key: opens the account; never show it but where the operator asked for it.
    :ivar key_file: where it stands.
    :ivar hint: how a first message is sent; set it when the ports are known.
    """

    api_key: str = field(repr=False)
    key_file: Path
    _platform: Platform = field(repr=False)
    _stop_rendering: Callable[[], Deferred[None]] = field(repr=False)
    _reactor: Any = field(repr=False)
    hint: Hint = field(factory=Hint)

    @classmethod
    def open(
        cls,
        data: Path,
        *,
        reactor: Any,
        now: Callable[[], float] = time.time,
        new_id: Callable[[], str] = new_id,
        executor: Callable[[int, str], Executor] | None = None,
        render: Render | None = None,
    ) -> Backend:
        """Open the backend that keeps its state under *data*, making what is missing.

        It blocks for a moment, and starts threads: call it when the service starts, after a fork.

        :param data: a folder that exists.
        :param executor: makes the executor for so many threads of such a name; default: threads of our own.
        :param render: renders a body; default: :class:`~relay.embedded.render.Renderer`.
        :raises ConfigError: the folder or a file in it cannot be used.
        """
        executor = executor or partial(Threads, reactor)
        engine, key = _prepared(data, now)
        database = Database(engine, executor(2, "embedded-read"), executor(1, "embedded-write"))
        renderer = Renderer(reactor)
        platform = Platform(database, render or renderer.render, now, new_id)
        return cls(key, data / KEY_FILE, platform, renderer.stop, reactor)

    def site(self, largest: int = LARGEST_REQUEST) -> Site:
        """The HTTP API and the pages, to listen with.

        :param largest: bound of a request's body, in bytes.
        """
        root = pages(Frontend(self._platform, self.key_file, lambda: self.hint))
        root.putChild(b"api", api(self._platform))
        return site(root, self._reactor, largest)

    def close(self) -> Deferred[None]:
        """Finish what is under way and let go of threads, processes and files.  Stop listening first."""
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        await self._stop_rendering()
        await self._platform.database.close()


def _prepared(data: Path, now: Callable[[], float]) -> tuple[Any, str]:
    """The engine on a database of the right schema, and the account's API key."""
    try:
        key = accounts.key_from(data / KEY_FILE)
        engine = open_sqlite(data / DATABASE)
        change(engine, schema.prepare)
        change(engine, lambda connection: accounts.establish(connection, key, now()))
    except OSError as error:
        raise ConfigError([f"data: {error.filename}: {error.strerror}"]) from None
    except DatabaseError as error:
        # The driver's words alone: SQLAlchemy's would show the statement.
        use = "is locked by another process" if isinstance(error, OperationalError) else "is not a database of ours"
        raise ConfigError([f"data: {data / DATABASE}: {error.orig} (perhaps it {use})"]) from None
    return engine, key
