"""All of tests/embedded that works with a backend, on a real PostgreSQL."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import tests.embedded
from relay.embedded import accounts, keys
from relay.embedded.backend import Backend
from relay.embedded.first import USER
from relay.errors import ConfigError
from relay.policy import Embedded
from relay.values import key_digest
from tests.embedded.inmemory import HASHER, BackendCase, Browser, Inline, ask, render
from tests.integration import postgresql


class OnPostgreSQL:
    """Has a new database for each test."""

    def database_url(self) -> str:
        assert isinstance(self, SynchronousTestCase)
        return postgresql.new_platform(self)


def _cases() -> Iterator[tuple[str, type[BackendCase]]]:
    """Every class of tests that has a backend, with a name of its own."""
    for found in pkgutil.walk_packages(tests.embedded.__path__, "tests.embedded."):
        last = found.name.rpartition(".")[2]
        if not last.startswith("test_"):
            continue
        for name, case in inspect.getmembers(import_module(found.name), inspect.isclass):
            if issubclass(case, BackendCase) and case.__module__ == found.name and not case.sqlite_only:
                prefix = "".join(word.title() for word in found.name.split(".")[2:] for word in word.split("_")[1:])
                yield f"{prefix}{name}", case


for _name, _case in _cases():
    globals()[_name] = type(_name, (OnPostgreSQL, _case), {"__module__": __name__, "__doc__": _case.__doc__})
del _case


class TwoBackendsTests(OnPostgreSQL, BackendCase):
    """Two backends with one database, each with a data folder of its own."""

    def setUp(self) -> None:
        super().setUp()
        self.forgotten: list[bytes] = []
        self.other_data = Path(self.mktemp())
        self.other_data.mkdir()
        key_file = str(self.data / "platform.key")
        self.other = self.open(Embedded(database=self.policy.database, key_file=key_file))

    def open(self, policy: Embedded) -> Backend:
        """The second one."""
        backend = Backend.open(
            self.other_data,
            reactor=self.clock,
            policy=policy,
            now=self.clock.seconds,
            executor=lambda threads, name: Inline(),
            render=render,
            hasher=HASHER,
            forget=self.forgotten.append,
        )
        self.addCleanup(lambda: self.successResultOf(backend.close()))
        return backend

    def test_one_platform(self) -> None:
        """They have the same key, the same people, and the same sessions."""
        self.assertEqual(self.other.api_key, self.backend.api_key)
        self.assertEqual(self.other.key_file.read_text(), f"{self.backend.api_key}\n")
        self.assertIsNone(self.other.first)
        self.assertFalse((self.other_data / "first-passwords").exists())
        browser = self.browser(USER)
        self.sent(subject="By the first")
        browser.site = self.other.site()
        self.assertIn("By the first", browser.get("/log").text)

    def test_reset(self) -> None:
        """A key that is reset at one stops at the other within a second, in its relay's cache too."""
        browser: Browser = self.browser(USER)
        browser.post("/integrate/reset", page="/integrate")
        self.assertEqual(
            ask(self.other.site(), "GET", "/api/ping", {"X-Auth-APIKey": self.backend.api_key}).status, 401
        )
        self.clock.advance(1)
        self.assertEqual(self.forgotten, [key_digest(self.backend.api_key)])
        self.assertEqual(self.other.key_file.read_text(), self.backend.key_file.read_text())
        self.assertNotEqual(self.other.key_file.read_text(), f"{self.backend.api_key}\n")

    def test_disabled(self) -> None:
        """So is the key of an account that is disabled."""
        self.change(lambda connection: accounts.disable(connection, 1, self.clock.seconds()))
        self.clock.advance(1)
        self.assertEqual(self.forgotten, [key_digest(self.backend.api_key)])

    def test_key_file(self) -> None:
        """Without a copy of the first one's key file the second one does not start, and makes none."""
        path = self.other_data / "platform.key"
        error = self.assertRaises(ConfigError, self.open, Embedded(database=self.policy.database))
        self.assertIn("copy it from the relay that made the database", str(error))
        self.assertFalse(path.exists())
        path.write_bytes(b"x" * 32)
        error = self.assertRaises(ConfigError, self.open, Embedded(database=self.policy.database))
        self.assertIn("is not the key file that the database was made with", str(error))

    def test_own_file(self) -> None:
        """A key that somebody wrote to api-key does not become the account's: another backend has the same account."""
        self.other.key_file.write_text(keys.new_key())
        policy = Embedded(database=self.policy.database, key_file=str(self.data / "platform.key"))
        self.assertEqual(self.open(policy).api_key, self.backend.api_key)
        self.assertEqual(self.other.key_file.read_text(), f"{self.backend.api_key}\n")


class UnreachableTests(SynchronousTestCase):
    """A server that is not there."""

    def test_said(self) -> None:
        """The setting is named, with the driver's words and without the password."""
        data = Path(self.mktemp())
        data.mkdir()
        policy = Embedded(database="postgresql://relay:canary@127.0.0.1:1/relay")
        error = self.assertRaises(ConfigError, Backend.open, data, reactor=None, policy=policy)
        self.assertRegex(str(error), "^embedded.database: .*127.0.0.1.*refused")
        self.assertNotIn("canary", str(error))
