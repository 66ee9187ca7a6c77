"""API keys: shown, reset, and stopped at once wherever they are remembered."""

from __future__ import annotations

import sqlalchemy as sa
from twisted.internet.defer import Deferred

from relay.embedded import accounts, keys, schema
from relay.errors import ConfigError
from relay.values import key_digest
from tests.embedded.inmemory import BackendCase


class KeysCase(BackendCase):
    """A backend that tells which keys are to be forgotten."""

    def setUp(self) -> None:
        self.forgotten: list[bytes] = []
        super().setUp()

    def start(self, **options: object) -> None:
        super().start(forget=self.forgotten.append, **options)
        self.keys = self.backend.keys


class ResetTests(KeysCase):
    """A new key."""

    def test_reset(self) -> None:
        """The old key stops at once, in the relay's cache too; the new one works and stands in the file."""
        old = self.backend.api_key
        new = self.successResultOf(Deferred.fromCoroutine(self.keys.reset(1)))
        self.assertEqual((self.get("/api/ping", key=old).status, self.get("/api/ping", key=new).status), (401, 200))
        self.assertEqual(self.forgotten, [key_digest(old)])
        self.assertEqual(self.backend.key_file.read_text(), f"{new}\n")
        self.clock.advance(1)
        self.assertEqual(set(self.forgotten), {key_digest(old)})

    def test_another_account(self) -> None:
        """Another account's reset leaves the first one's key and file alone."""
        account = self.add_account("Second", key="k" * 40)
        new = self.successResultOf(Deferred.fromCoroutine(self.keys.reset(account)))
        self.assertEqual(self.get("/api/ping", key=new).json[0]["name"], "Second")
        self.assertEqual(self.get("/api/ping", key="k" * 40).status, 401)
        self.assertEqual(self.get("/api/ping").status, 200)
        self.assertEqual(self.backend.key_file.read_text(), f"{self.backend.api_key}\n")

    def test_shown(self) -> None:
        """The key can be shown again, and the database alone does not tell it."""
        held = self.successResultOf(Deferred.fromCoroutine(self.keys.of(1)))
        self.assertEqual((held.text, held.used), (self.backend.api_key, None))
        self.assertNotIn(self.backend.api_key, repr(held))
        rows = self.change(lambda connection: list(connection.execute(sa.select(schema.api_keys))))
        self.assertNotIn(self.backend.api_key, repr(rows))
        self.assertIsNone(self.successResultOf(Deferred.fromCoroutine(self.keys.of(99))))

    def test_before_sealing(self) -> None:
        """The key of a database from before keys could be shown stays, and can be shown after the next start."""
        self.change(lambda connection: connection.execute(sa.update(schema.api_keys).values(sealed=b"")))
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(self.keys.of(1))).text, "")
        old = self.backend.api_key
        self.start()
        self.assertEqual(self.backend.api_key, old)
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(self.keys.of(1))).text, old)

    def test_used(self) -> None:
        """When a key was used last is known to the minute."""
        begin = self.clock.seconds()
        for seconds in (0, 30, 30, 30):
            self.clock.advance(seconds)
            self.get("/api/ping")
        self.clock.advance(1)
        held = self.successResultOf(Deferred.fromCoroutine(self.keys.of(1)))
        self.assertEqual(held.used, begin + 60)

    def test_old_file(self) -> None:
        """A copy of api-key from before a reset does not bring the old key back at the next start."""
        old = self.backend.key_file.read_text()
        new = self.successResultOf(Deferred.fromCoroutine(self.keys.reset(1)))
        self.backend.key_file.write_text(old)
        self.start()
        self.assertEqual(self.backend.api_key, new)
        self.assertEqual(self.backend.key_file.read_text(), f"{new}\n")


class ElsewhereTests(KeysCase):
    """What another process, or the command line, changes."""

    def test_reset(self) -> None:
        """A key that is reset elsewhere is forgotten within a second, once; the file has the new one."""
        now = self.clock.seconds()
        new, _ = self.change(lambda connection: keys.reset(connection, 1, self.backend.cipher, now))
        self.assertEqual(self.forgotten, [])
        self.clock.advance(1)
        self.assertEqual(self.forgotten, [key_digest(self.backend.api_key)])
        self.assertEqual(self.backend.key_file.read_text(), f"{new}\n")
        for _ in range(5):
            self.clock.advance(1)
        self.assertEqual(len(self.forgotten), 1)

    def test_disabled(self) -> None:
        """The key of an account that is disabled is forgotten and refused, and works again when it is enabled."""
        for times in (1, 2):
            now = self.clock.seconds()
            self.change(lambda connection, now=now: accounts.disable(connection, 1, now))
            self.clock.advance(1)
            self.assertEqual(self.forgotten, [key_digest(self.backend.api_key)] * times)
            self.assertEqual(self.get("/api/ping").status, 401)
            self.change(lambda connection: accounts.enable(connection, 1))
            self.assertEqual(self.get("/api/ping").status, 200)
            self.clock.advance(1)

    def test_closed(self) -> None:
        """A backend that is closed looks no more."""
        self.successResultOf(self.backend.close())
        self.assertEqual(self.clock.getDelayedCalls(), [])


class CipherTests(KeysCase):
    """The file platform.key."""

    def reopen(self) -> str:
        self.successResultOf(self.backend.close())
        return str(self.assertRaises(ConfigError, self.start))

    def test_missing(self) -> None:
        """Without the key file of its database the backend does not start, and says which file is missing."""
        (self.data / "platform.key").unlink()
        said = self.reopen()
        self.assertIn("embedded.key_file", said)
        self.assertIn("platform.key is missing", said)
        self.assertFalse((self.data / "platform.key").exists())

    def test_another(self) -> None:
        """Nor with another one."""
        (self.data / "platform.key").write_bytes(b"x" * 32)
        self.assertIn("is not the key file that the database was made with", self.reopen())
        (self.data / "platform.key").write_bytes(b"short")
        self.assertIn("has 5 bytes", self.reopen())


class NameTests(KeysCase):
    """What an account may be called."""

    def test_refused(self) -> None:
        """An empty name, one with control characters, and one that is taken are refused."""
        for name in ("", " ", " x", "x ", "a\nb", "x" * 101, "Local", "\x1b[31m"):
            self.assertRaises(accounts.WrongName, self.add_account, name)
        self.change(lambda connection: accounts.rename(connection, 1, "Local"))
        self.change(lambda connection: accounts.rename(connection, 1, "Zoë & Söhne"))
        self.assertEqual(self.get("/api/ping").json[0]["name"], "Zoë & Söhne")
