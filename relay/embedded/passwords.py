"""Passwords: hashed with argon2 (RFC 9106) off the reactor thread, two at a time."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from relay.embedded.database import Executor, T
from relay.embedded.rules import Refused, wrong

#: Threads that hash; each needs 64 MiB while it does.
THREADS = 2

#: Most that wait for a thread.
WAITING = 50

#: How long a password may be, in characters.
SHORTEST = 10
LONGEST = 200

#: No letter that looks like a digit or another letter.
_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"


def new_password() -> str:
    """A random password of 98 bits that can be read aloud."""
    return "-".join("".join(secrets.choice(_ALPHABET) for _ in range(5)) for _ in range(4))


def check(password: str) -> str:
    """*password*, which may be one.

    :raises Refused: 400, it is too short or too long.
    """
    if not SHORTEST <= len(password) <= LONGEST:
        raise wrong(f"The password must have {SHORTEST} to {LONGEST} characters")
    return password


class Passwords:
    """Hashes and compares.

    :param executor: of :data:`THREADS` threads.
    :param hasher: argon2 with its costs; default: those of RFC 9106 for little memory.
    """

    def __init__(self, executor: Executor, hasher: PasswordHasher | None = None) -> None:
        self._executor = executor
        self._hasher = hasher or PasswordHasher()
        self._nobody: str | None = None
        self._waiting = 0

    async def hashed(self, password: str) -> str:
        """What of *password* is stored."""
        return await self._run(partial(self._hasher.hash, password))

    async def match(self, hashed: str | None, password: str) -> bool:
        """Whether *password* is the one that was *hashed*.

        :param hashed: None where nobody has one; the answer takes as long then.
        :raises Refused: 503, too many wait already.
        """
        return await self._run(partial(self._compare, hashed, password[:LONGEST]))

    def stop(self) -> None:
        """Let go of the threads."""
        self._executor.stop()

    async def _run(self, job: Callable[[], T]) -> T:
        if self._waiting >= WAITING:
            raise Refused(503, "Busy", "Too many people sign in at once, try again in a moment", [("Retry-After", "5")])
        self._waiting += 1
        try:
            return await self._executor.run(job)
        finally:
            self._waiting -= 1

    def _compare(self, hashed: str | None, password: str) -> bool:
        if self._nobody is None:
            self._nobody = self._hasher.hash(secrets.token_urlsafe())
        try:
            return self._hasher.verify(hashed or self._nobody, password) and hashed is not None
        except (VerificationError, InvalidHashError):
            return False
