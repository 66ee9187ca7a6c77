"""API keys at rest."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from relay.errors import ConfigError
from relay.spool.crypto import Cipher, Unreadable


class CipherTests(SynchronousTestCase):
    """A key file, and what it encrypts."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.cipher = Cipher(self.path)
        self.cipher.make()

    def test_round_trip(self) -> None:
        """What was encrypted comes back, by another process with the same file too, and any text does."""
        other = Cipher(self.path)
        self.assertTrue(other.load())
        for text in ("", "secret", "ü\udcff"):
            first, second = (self.cipher.encrypt(text, "account") for _ in range(2))
            self.assertNotEqual(first, second)
            self.assertEqual(other.decrypt(first, "account"), text)

    def test_unreadable(self) -> None:
        """What was changed, cut, or is of another account or key file, is not read."""
        sealed = self.cipher.encrypt("secret", "account")
        other = Cipher(Path(self.mktemp()))
        other.make()
        for cipher, given, context in (
            (self.cipher, sealed[:-1] + bytes([sealed[-1] ^ 1]), "account"),
            (self.cipher, sealed[:20], "account"),
            (self.cipher, b"", "account"),
            (self.cipher, sealed, "another account"),
            (other, sealed, "account"),
        ):
            with self.assertRaises(Unreadable):
                cipher.decrypt(given, context)
            self.assertFalse(cipher.reads(given, context, "secret"))

    def test_never_replaced(self) -> None:
        """A key file that is there stays, when two relays start at the same time."""
        key = self.path.read_bytes()
        Cipher(self.path).make()
        self.assertEqual(self.path.read_bytes(), key)

    def test_none(self) -> None:
        """Without a key file there is nothing to load, and nothing is encrypted."""
        cipher = Cipher(Path(self.mktemp()))
        self.assertFalse(cipher.load())
        with self.assertRaises(RuntimeError):
            cipher.encrypt("secret", "account")

    def test_no_key(self) -> None:
        """A file that is no key is refused, and named."""
        self.path.write_bytes(b"x" * 31)
        with self.assertRaises(ConfigError) as caught:
            Cipher(self.path).load()
        self.assertIn(str(self.path), str(caught.exception))
