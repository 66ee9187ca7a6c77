"""An email platform that takes every message once, and is down, slow and wrong in between.

It speaks HTTP_CONTRACT.md and honours the Idempotency-Key for as long as it lives, in whichever way it behaves at
the moment.  It shares no code with the relay or its embedded backend.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from attrs import define, field, frozen

#: How the platform behaves for a while: the kinds of answer to choose from, each as likely as the others.
MOODS: dict[str, tuple[str, ...]] = {
    "well": ("well",),
    "down": (),  # nobody listens, what is open is reset
    "slow": ("slow", "slow", "well"),
    "silent": ("silent",),
    "500": ("500",),
    "500 behind": ("500 taken", "500"),
    "503": ("503",),
    "busy": ("429",),
    "garbage": ("garbage", "garbage taken"),
    "cut": ("cut",),
    "closed": ("closed", "closed taken", "reset taken"),
    "mixed": (
        *("well",) * 6,
        *("slow", "500", "500 taken", "503", "429", "garbage", "garbage taken", "cut", "closed", "closed taken"),
        *("reset taken", "404"),
    ),
}

#: Of these the platform has the message, whatever the relay hears.
_TAKEN = frozenset(["well", "slow", "silent", "cut", "500 taken", "garbage taken", "closed taken", "reset taken"])

_STATUS = {
    "500": "500 Internal Server Error",
    "500 taken": "500 Internal Server Error",
    "503": "503 Service Unavailable",
    "429": "429 Too Many Requests",
    "404": "404 Not Found",
}


@frozen
class Taken:
    """A message for one recipient, as the platform has it."""

    to: str
    subject: str
    body: str
    sender: str


@define(eq=False)
class FaultyPlatform:
    """The platform's end, on a port of loopback that it keeps.

    :param keys: the good API keys.
    :param slow: seconds, least and most, that a slow answer takes; a silent one never comes.
    :ivar taken: what it has, by Idempotency-Key.
    :ivar absorbed: how many submissions it did not take a second time for their Idempotency-Key.
    :ivar contradictions: Idempotency-Keys that came with another message than before.
    :ivar answers: how often it gave each kind of answer.
    """

    keys: frozenset[str]
    chance: random.Random = field(factory=random.Random)
    slow: tuple[float, float] = (0.3, 1.5)
    taken: dict[str, Taken] = field(factory=dict)
    absorbed: int = 0
    contradictions: list[str] = field(factory=list)
    answers: Counter[str] = field(factory=Counter)
    mood: str = "well"
    port: int = 0
    _sockets: set[socket.socket] = field(factory=set)
    _lock: threading.Lock = field(factory=threading.Lock)
    _listener: socket.socket | None = None

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Be there, and well."""
        self.port = self.port or free_port(self.chance)
        self._listen()

    def become(self, mood: str) -> None:
        """Behave like *mood* from now on."""
        before, self.mood = self.mood, mood
        if mood == "down" and before != "down":
            self._vanish()
        elif before == "down" and mood != "down":
            self._listen()

    def stop(self) -> None:
        """Be gone."""
        if self.mood != "down":
            self.become("down")

    def live(self, until: threading.Event, moods: Sequence[str], least: float, most: float) -> None:
        """Change the mood at random until the event, to well every other time; then be well."""
        while not until.wait(self.chance.uniform(least, most)):
            self.become(self.chance.choice(moods) if self.mood == "well" else "well")
        self.become("well")

    # --- connections

    def _listen(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(512)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _vanish(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
            listener.close()
        with self._lock:
            sockets = list(self._sockets)
        for each in sockets:
            reset(each)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                self._sockets.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stream = connection.makefile("rb")
            while self._listener is not None and self._exchange(connection, stream):
                pass
        except (OSError, ValueError):
            pass  # the relay was killed, or we are down
        finally:
            with self._lock:
                self._sockets.discard(connection)
            connection.close()

    def _exchange(self, connection: socket.socket, stream: Any) -> bool:
        """One request and its answer; whether the connection stays."""
        request = stream.readline()
        headers: dict[str, str] = {}
        for line in iter(stream.readline, b"\r\n"):
            if not line:
                return False
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        body = stream.read(int(headers.get("content-length", 0)))
        if headers.get("x-auth-apikey") not in self.keys:
            return _send(connection, "401 Unauthorized", {"title": "Unauthorized", "description": "Invalid API key"})
        if request.startswith(b"GET"):
            return _send(connection, "200 OK", [{"name": "Example Ltd"}])
        return self._submission(connection, headers["idempotency-key"], json.loads(body))

    # --- submissions

    def _submission(self, connection: socket.socket, key: str, fields: dict[str, Any]) -> bool:
        kinds = MOODS[self.mood]
        if not kinds:
            raise OSError("down")
        kind = self.chance.choice(kinds)
        with self._lock:
            self.answers[kind] += 1
        if kind == "slow":
            time.sleep(self.chance.uniform(*self.slow))
        if kind in _TAKEN:
            self._take(key, fields)
        ok = {"tag": fields["tag"], "to": fields["to"], "result": "ok"}
        if kind in ("well", "slow"):
            return _send(connection, "200 OK", ok)
        if kind in _STATUS:
            retry_after = "Retry-After: 1\r\n" if kind == "429" else ""
            return _send(connection, _STATUS[kind], {"title": "No", "description": "not now"}, retry_after)
        if kind.startswith("garbage"):
            return _send_raw(connection, b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n<html>no json")
        if kind == "cut":
            whole = json.dumps(ok).encode()
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(whole)
            _send_raw(connection, head + whole[: len(whole) // 2])
        elif kind == "silent":
            connection.recv(1)  # until the relay gives up
        elif kind == "reset taken":
            reset(connection)
        return False

    def _take(self, key: str, fields: dict[str, Any]) -> None:
        """Have a message, unless its Idempotency-Key says that it is there."""
        new = Taken(fields["to"], fields["subject"], fields["body"], fields["returnpath"])
        with self._lock:
            old = self.taken.setdefault(key, new)
            if old is not new:
                self.absorbed += 1
                if old != new:
                    self.contradictions.append(key)


def _send(connection: socket.socket, status: str, value: object, more: str = "") -> bool:
    body = json.dumps(value).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return _send_raw(connection, head.encode() + body)


def _send_raw(connection: socket.socket, octets: bytes) -> bool:
    connection.sendall(octets)
    return True


def reset(connection: socket.socket) -> None:
    """End a connection with RST."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RD)  # wakes the thread that reads
    with contextlib.suppress(OSError):
        connection.close()


def free_port(chance: random.Random) -> int:
    """A port of loopback that nobody uses, and that the system gives to no outgoing connection meanwhile."""
    while True:
        port = chance.randrange(15_000, 32_000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
