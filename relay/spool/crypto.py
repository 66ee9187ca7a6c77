"""API keys at rest: AES-256-GCM (NIST SP 800-38D) under a key file of 32 random bytes."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from relay.errors import ConfigError

#: Length of the key file, in bytes.
SIZE = 32

_NONCE = 12


class Unreadable(Exception):
    """A ciphertext that another key made, or that was changed."""


class Cipher:
    """Encrypts and decrypts, once :meth:`load` or :meth:`make` gave it a key; the key is in no repr.

    :param path: the key file.
    :param setting: what the configuration calls it.
    """

    def __init__(self, path: Path, setting: str = "spool.key_file") -> None:
        self.path = path
        self._setting = setting
        self._key: AESGCM | None = None
        self._secret = b""

    def load(self) -> bool:
        """Use the key file; whether there is one.

        :raises ConfigError: it cannot be read, or is no key.
        """
        key = _read_key(self.path, self._setting)
        if key is not None:
            self._key = AESGCM(key)
            self._secret = key
        return key is not None

    def make(self) -> None:
        """Make the key file, unless another process was faster, and use it.

        :raises ConfigError: it cannot be written.
        """
        _make_key(self.path, self._setting)
        if not self.load():
            raise ConfigError([f"{self._setting}: {self.path} vanished while it was made"])

    @property
    def _aead(self) -> AESGCM:
        if self._key is None:
            raise RuntimeError("no key was loaded")
        return self._key

    def derive(self, purpose: str) -> bytes:
        """32 bytes that follow from the key and *purpose* (RFC 5869), and tell nothing of either."""
        if self._key is None:
            raise RuntimeError("no key was loaded")
        return HKDF(hashes.SHA256(), SIZE, None, purpose.encode()).derive(self._secret)

    def encrypt(self, text: str, context: str) -> bytes:
        """*text*, readable only with the same *context*, so that ciphertexts cannot be swapped."""
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._aead.encrypt(nonce, text.encode("utf-8", "surrogatepass"), context.encode())

    def decrypt(self, sealed: bytes, context: str) -> str:
        """The text of :meth:`encrypt`.

        :raises Unreadable: the key or the context is another, or *sealed* was changed.
        """
        nonce, rest = bytes(sealed[:_NONCE]), bytes(sealed[_NONCE:])
        try:
            return self._aead.decrypt(nonce, rest, context.encode()).decode("utf-8", "surrogatepass")
        except (InvalidTag, ValueError):
            raise Unreadable("not encrypted with this key file") from None

    def reads(self, sealed: bytes, context: str, expected: str) -> bool:
        """Whether *sealed* is *expected*, encrypted with this key."""
        try:
            return self.decrypt(sealed, context) == expected
        except Unreadable:
            return False


def _read_key(path: Path, setting: str) -> bytes | None:
    """What stands in the key file, None without one.

    :raises ConfigError: it cannot be read, or is not 32 bytes.
    """
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError([f"{setting}: cannot read {path}: {error.strerror}"]) from None
    if len(key) != SIZE:
        raise ConfigError([f"{setting}: {path} has {len(key)} bytes, and a key has {SIZE}; restore it from a backup"])
    return key


def _make_key(path: Path, setting: str) -> None:
    """A new random key, durable in *path* with mode 0600, unless there is one."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(SIZE))
            file.flush()
            os.fsync(file.fileno())
        try:
            # Unlike a rename, a link never replaces a key that is there.
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
        _sync_folder(path.parent)
    except OSError as error:
        raise ConfigError([f"{setting}: cannot write {path}: {error.strerror}"]) from None


def _sync_folder(folder: Path) -> None:
    """Make the new name in *folder* durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
