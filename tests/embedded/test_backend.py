"""Opening the embedded backend: the key, its file, the database."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from relay.embedded.backend import new_id
from relay.embedded.database import change, open_sqlite
from relay.embedded.keys import new_key
from relay.errors import ConfigError
from tests.embedded.inmemory import MESSAGE, BackendCase, Exchange, ask


class KeyTests(BackendCase):
    """The API key and the file it stands in."""

    sqlite_only = True

    def restart(self) -> None:
        self.successResultOf(self.backend.close())
        self.start()

    def test_first_start(self) -> None:
        """The first start makes a key that stands in api-key, which its owner alone can read."""
        self.assertEqual(self.backend.key_file, self.data / "api-key")
        self.assertEqual(self.backend.key_file.read_text(), f"{self.backend.api_key}\n")
        self.assertEqual(stat.S_IMODE(self.backend.key_file.stat().st_mode), 0o600)
        self.assertEqual(stat.S_IMODE((self.data / "platform.sqlite3").stat().st_mode), 0o600)

    def test_whatever_the_umask(self) -> None:
        """The files are private under any umask, and nothing else is left behind."""
        self.successResultOf(self.backend.close())
        for file in self.data.iterdir():
            file.unlink()
        self.addCleanup(os.umask, os.umask(0))
        self.start()
        for file in self.data.iterdir():
            self.assertEqual(stat.S_IMODE(file.stat().st_mode), 0o600, file)
        self.assertEqual(
            {file.name for file in self.data.iterdir()} - {"platform.sqlite3-wal", "platform.sqlite3-shm"},
            {"api-key", "first-passwords", "platform.key", "platform.sqlite3"},
        )

    def test_not_stored(self) -> None:
        """The database holds the key's hash and never the key, nor does the backend's repr."""
        self.post(MESSAGE)
        key = self.backend.api_key
        self.assertNotIn(key, repr(self.backend))
        for file in self.data.glob("platform.sqlite3*"):
            self.assertNotIn(key.encode(), file.read_bytes(), file)

    def test_random(self) -> None:
        """Keys are 40 letters and digits, ids 16, and no two are the same."""
        self.assertEqual(len({new_key() for _ in range(100)}), 100)
        self.assertRegex(new_key(), r"\A[A-Za-z0-9]{40}\Z")
        self.assertEqual(len({new_id() for _ in range(100)}), 100)
        self.assertRegex(new_id(), r"\A[0-9A-Z]{16}\Z")

    def test_deleted(self) -> None:
        """Deleting the file and restarting makes a new key; the old one stops, the messages stay."""
        old, id = self.backend.api_key, self.sent()
        self.backend.key_file.unlink()
        self.restart()
        self.assertNotEqual(self.backend.api_key, old)
        self.assertEqual(self.get("/api/ping", key=old).status, 401)
        self.assertEqual([row["id"] for row in self.logged()], [id])

    def test_chosen(self) -> None:
        """A key of one's own in the file is taken at the next start."""
        self.backend.key_file.write_text("my-own-key-for-tests\n")
        self.restart()
        self.assertEqual(self.backend.api_key, "my-own-key-for-tests")
        self.assertEqual(self.get("/api/ping").status, 200)

    def test_unusable(self) -> None:
        """A key that is short, or has spaces, is refused with the file's name and without its content."""
        for text in ("", "short", "a key with spaces in it", "schlüssel-mit-umlaut"):
            self.backend.key_file.write_text(text)
            error = self.assertRaises(ConfigError, self.start)
            self.assertIn("api-key", str(error))
            if text:
                self.assertNotIn(text, str(error))


class DatabaseFileTests(BackendCase):
    """A data folder that is not as it should be."""

    sqlite_only = True

    def setUp(self) -> None:
        super().setUp()
        self.successResultOf(self.backend.close())
        self.database = self.data / "platform.sqlite3"

    def test_newer(self) -> None:
        """A database of a newer version is refused and left alone."""
        engine = open_sqlite(self.database)
        self.addCleanup(engine.dispose)
        change(engine, lambda connection: connection.exec_driver_sql("UPDATE platform_version SET version_num = '99'"))
        error = self.assertRaises(ConfigError, self.start)
        self.assertIn("99", str(error))

    def test_of_something_else(self) -> None:
        """A file that is no database is refused by name, without a statement of ours."""
        for file in self.data.glob("platform.sqlite3*"):
            file.unlink()
        self.database.write_bytes(b"not a database, but long enough to be looked at" * 100)
        error = self.assertRaises(ConfigError, self.start)
        self.assertIn("platform.sqlite3", str(error))
        self.assertNotIn("PRAGMA", str(error))

    def test_no_folder(self) -> None:
        """A data folder that is missing is refused by name."""
        self.data = Path(self.mktemp())
        error = self.assertRaises(ConfigError, self.start)
        self.assertIn(str(self.data), str(error))


class SiteTests(BackendCase):
    """What holds for every answer."""

    def test_headers(self) -> None:
        """No answer names its software's version, may be sniffed, or is cached."""
        for path in ("/", "/api/ping", "/nope", "/api/nope", "/message/x"):
            headers = ask(self.site, "GET", path).headers
            self.assertEqual(headers["server"], "smtp-relay")
            self.assertEqual(headers["x-content-type-options"], "nosniff")
            self.assertEqual(headers["cache-control"], "no-store")

    def test_endless_body(self) -> None:
        """A body far past the bound is cut off, not read to its end."""
        exchange = Exchange(self.site, "127.0.0.1")
        headers = [("Content-Length", str(10**12))]
        exchange.send("POST", "/api/transactional/send", headers, b"x" * 300_000)
        self.assertTrue(exchange.transport.connected)
        exchange.protocol.dataReceived(b"x" * 1_000_000)
        self.assertFalse(exchange.transport.connected)
