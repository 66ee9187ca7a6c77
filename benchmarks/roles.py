"""The processes of benchmarks/durable.py: clients, a platform, and a relay with a watch on its commits.

python benchmarks/roles.py load|platform|relay [--port N] …
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import os
import signal
import ssl
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

KEY = "test-key"

_LINE = '<tr><td>%05d</td><td><a href="https://shop.example/item/%05d">Item number %05d</a></td></tr>\r\n'
#: 4 kB of HTML; the key stands in the message, so that no session signs in.
MESSAGE = (
    "From: Example Shop <orders@shop.example>\r\nTo: Jane Doe <jane.doe@customer.example>\r\n"
    f"Subject: Your order 10023 has shipped\r\nX-Auth-APIKey: {KEY}\r\nX-Transactional-Tag: welcome\r\n"
    "MIME-Version: 1.0\r\nContent-Type: text/html; charset=utf-8\r\n\r\n"
    f"<table>\r\n{''.join(_LINE % (each, each, each) for each in range(43))}</table>\r\n"
).encode()


# --- the load: sessions that send one message after the other, and note how long each took


class Session(asyncio.Protocol):
    """Sends until nothing is left; a command at a time, as most clients do, or MAIL, RCPT and DATA in one write."""

    ENVELOPE = (b"MAIL FROM:<bounce@shop.example>\r\n", b"RCPT TO:<jane.doe@customer.example>\r\n", b"DATA\r\n")

    def __init__(self, left: list[int], seconds: list[float], codes: list[int], pipeline: bool) -> None:
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._left = left
        self._seconds = seconds
        self._codes = codes
        self._pipeline = pipeline
        self._step = -2  # greeting, EHLO, then the replies of the transaction
        self._buffer = b""
        self._begun = 0.0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n")) >= 0:
            line, self._buffer = self._buffer[:end], self._buffer[end + 2 :]
            if line[3:4] != b"-":
                self._replied(line)

    def _replied(self, line: bytes) -> None:
        self._step += 1
        if self._step == -1:
            self._transport.write(b"EHLO load\r\n")
        elif self._step == 0:
            self._next()
        elif self._step < 3 and not self._pipeline:
            self._transport.write(self.ENVELOPE[self._step])
        elif self._step == 3:
            self._transport.write(MESSAGE + b".\r\n")
        elif self._step == 4:
            self._seconds.append(time.perf_counter() - self._begun)
            self._codes.append(int(line[:3]))
            self._step = 0
            self._next()

    def _next(self) -> None:
        if self._left[0] <= 0:
            self._transport.write(b"QUIT\r\n")
            return
        self._left[0] -= 1
        self._begun = time.perf_counter()
        self._transport.write(b"".join(self.ENVELOPE) if self._pipeline else self.ENVELOPE[0])

    def connection_lost(self, error: Exception | None) -> None:
        if not self.finished.done():
            self.finished.set_result(None)


async def load(port: int, sessions: int, messages: int, pipeline: bool) -> dict[str, Any]:
    """Send, and tell how it went; JSON."""
    left, seconds, codes = [messages], [], []
    loop = asyncio.get_running_loop()
    begun = time.perf_counter()
    made = [
        await loop.create_connection(lambda: Session(left, seconds, codes, pipeline), "127.0.0.1", port)
        for _ in range(sessions)
    ]
    await asyncio.gather(*(protocol.finished for _, protocol in made))
    return {
        "begun": begun,
        "ended": time.perf_counter(),
        "seconds": seconds,
        "good": codes.count(250),
        "sent": len(codes),
    }


# --- the platform: takes everything at once


class Platform(asyncio.Protocol):
    """Answers each request; it is told by the process that starts and ends it when it is up."""

    _OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    _PING = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 17\r\n\r\n[{"name":"Load"}]'

    def __init__(self) -> None:
        self._buffer = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._buffer) < end + 4 + length:
                return
            self._buffer = self._buffer[end + 4 + length :]
            self._transport.write(self._PING if head.startswith(b"get") else self._OK)


async def serve(port: int, certificate: Path | None, private_key: Path | None) -> None:
    """Be the platform until SIGTERM, with TLS where there is a certificate."""
    loop = asyncio.get_running_loop()
    context = None
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, private_key)
    await loop.create_server(Platform, "127.0.0.1", port, backlog=512, ssl=context)
    over = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, over.set)
    print("ready", flush=True)
    await over.wait()


# --- the relay, with a watch on its commits


def relay(arguments: argparse.Namespace) -> None:
    """Run a relay as twistd does, without its log; at the end the commits, and the profile, go to a file."""
    from twisted.internet import reactor
    from twisted.logger import globalLogBeginner, textFileLogObserver

    from relay.config import load as configuration
    from relay.service import makeService
    from relay.spool.writer import WriterThread

    commits: list[tuple[float, float, int]] = []
    profile = cProfile.Profile()

    class Watched(WriterThread):
        """Notes how long each answered batch took, and how many operations it had."""

        begun = 0.0

        def run(self, work: Callable[[], None]) -> None:
            def timed() -> None:
                self.begun = time.perf_counter()
                work()

            WriterThread.run(self, timed)

        def answer(self, reply: Callable[[], None]) -> None:
            now = time.perf_counter()
            batch = reply.args[0] if isinstance(reply, partial) and reply.args else None
            if isinstance(batch, list):
                commits.append((now, now - self.begun, len(batch)))
            self.begun = now
            WriterThread.answer(self, reply)

    with open(os.devnull, "w") as nowhere:
        globalLogBeginner.beginLoggingTo([textFileLogObserver(nowhere)], redirectStandardIO=False)
        service = makeService(configuration({}, os.environ, None))
        service.spool_thread = partial(Watched, waits=True)
        service.privilegedStartService()
        service.startService()
        reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
        reactor.callWhenRunning(print, "ready", flush=True)
        # The reactor's thread, from one signal to the other.
        signal.signal(signal.SIGUSR1, lambda *_: profile.enable())
        signal.signal(signal.SIGUSR2, lambda *_: profile.disable())
        reactor.run()
        if profile.getstats():
            profile.dump_stats(arguments.folder / "profile")
    (arguments.folder / "commits.json").write_text(json.dumps(commits))


def main() -> None:
    """Play the role."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("role", choices=("load", "platform", "relay"))
    parser.add_argument("--port", type=int)
    parser.add_argument("--sessions", type=int)
    parser.add_argument("--messages", type=int)
    parser.add_argument("--pipeline", action="store_true")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--certificate", type=Path)
    parser.add_argument("--private-key", type=Path)
    arguments = parser.parse_args()
    if arguments.role == "relay":
        relay(arguments)
    elif arguments.role == "platform":
        asyncio.run(serve(arguments.port, arguments.certificate, arguments.private_key))
    else:
        told = asyncio.run(load(arguments.port, arguments.sessions, arguments.messages, arguments.pipeline))
        print(json.dumps(told))


if __name__ == "__main__":
    main()
