"""Real smarthosts: Postfix' ``smtp-sink``, which refuses, defers, cuts off and answers slowly as it is told."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from relay.embedded import accounts
from relay.embedded.database import change, open_postgresql, open_sqlite
from relay.embedded.routes import table
from relay.embedded.routes.values import PostalRoute, Settings, Smarthost
from relay.spool.crypto import Cipher
from tests.integration.support import PATIENCE, Relay

SINK = shutil.which("smtp-sink") or shutil.which("/usr/sbin/smtp-sink")


class Sink:
    """A running ``smtp-sink``.

    :param options: of the program, such as ``-r`` ``RCPT``.
    :ivar port: on loopback.
    """

    def __init__(self, case: SynchronousTestCase, *options: str, port: int = 0) -> None:
        if SINK is None:
            reason = "no smtp-sink: apt-get install postfix"
            if os.environ.get("RELAY_NO_SKIP") == "1":
                case.fail(reason)
            raise SkipTest(reason)
        self._folder = Path(tempfile.mkdtemp(prefix="sink-", dir="/tmp"))
        self._folder.chmod(0o777)
        case.addCleanup(shutil.rmtree, self._folder)
        self.port = port or _free_port()
        user = ["-u", "nobody"] if os.getuid() == 0 else []
        dump = ["-d", f"{self._folder}/message."]
        self._process = subprocess.Popen([SINK, *user, *dump, *options, f"127.0.0.1:{self.port}", "100"])
        case.addCleanup(self.stop)
        until(lambda: _listens(self.port), "smtp-sink listens")

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def ids(self) -> list[str]:
        """The ids of the messages that came, once for each time, by their Message-ID."""
        found = []
        for path in self._folder.iterdir():
            match = re.search(r"^Message-ID: <([0-9A-Z]+)@", path.read_text("utf-8", "replace"), re.MULTILINE)
            if match:
                found.append(match[1])
        return sorted(found)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def until(true: Callable[[], object], what: str) -> None:
    """Look until something has become true: another process does it, and tells nobody.

    :raises AssertionError: it took too long.
    """
    deadline = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {PATIENCE:.0f} s: {what}")
        time.sleep(0.05)


def smarthost(port: int, **settings: Any) -> Smarthost:
    """The settings of one on this machine."""
    return Smarthost("127.0.0.1", port, **{"tls": "none", "helo": "relay.example.net", **settings})


def add_route(relay: Relay, id: str, settings: Settings, database: str = "") -> None:
    """Make a route and give it to the relay's first account; the relay looks every two seconds.

    :param database: of PostgreSQL, ``""``: the relay's SQLite.
    """
    cipher = Cipher(relay.data / "platform.key")
    cipher.load()
    engine = open_postgresql(database) if database else open_sqlite(relay.data / "platform.sqlite3")

    def add(connection: Any) -> None:
        table.add(connection, cipher, PostalRoute(id, id.title(), settings), time.time())
        table.give(connection, id, [accounts.first(connection).id])

    change(engine, add)
    engine.dispose()


def ask(relay: Relay, path: str, body: dict[str, Any] | None = None) -> Any:
    """GET, or POST where there is a body, below ``/api/transactional``."""
    headers = {"X-Auth-APIKey": relay.api_key, "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{relay.dashboard}/api/transactional/{path}", data, headers)
    with urllib.request.urlopen(request, timeout=PATIENCE) as reply:
        return json.load(reply)


def status(relay: Relay, id: str) -> str:
    """The status of a message."""
    return str(ask(relay, f"log/{id}")["status"])
