"""The straight Twisted design: its own ESMTP server, ``email``, and treq with a persistent pool.

python benchmarks/peers/naive_twisted.py PORT PLATFORM
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import treq
from obvious import Refused, submissions
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ServerFactory
from twisted.mail import smtp
from twisted.web.client import HTTPConnectionPool
from zope.interface import implementer


@implementer(smtp.IMessage)
class Message:
    """Collects its lines and posts them."""

    def __init__(self, url: str, pool: HTTPConnectionPool, sender: str, recipient: str) -> None:
        self._url = url
        self._pool = pool
        self._sender = sender
        self._recipient = recipient
        self._lines: list[bytes] = []

    def lineReceived(self, line: bytes) -> None:
        self._lines.append(line)

    def eomReceived(self) -> Deferred[bytes]:
        return Deferred.fromCoroutine(self._post())

    async def _post(self) -> bytes:
        try:
            key, wanted = submissions(b"\r\n".join(self._lines) + b"\r\n", self._sender, [self._recipient])
        except Refused as refused:
            raise smtp.SMTPServerError(refused.code, refused.text) from None
        for each in wanted:
            response = await treq.post(self._url, json=each, headers={"X-Auth-APIKey": key}, pool=self._pool)
            await treq.content(response)
            if response.code != 200:
                raise smtp.SMTPServerError(451, "The platform did not take it")
        return b"Ok"

    def connectionLost(self) -> None:
        self._lines = []


@implementer(smtp.IMessageDelivery)
class Delivery:
    """Takes mail from and for everybody."""

    def __init__(self, url: str, pool: HTTPConnectionPool) -> None:
        self._url = url
        self._pool = pool
        self._sender = ""

    def receivedHeader(self, helo: Any, origin: Any, recipients: Any) -> None:
        return None

    def validateFrom(self, helo: Any, origin: Any) -> Any:
        self._sender = str(origin)
        return origin

    def validateTo(self, user: Any) -> Callable[[], Message]:
        return lambda: Message(self._url, self._pool, self._sender, str(user.dest))


class Factory(ServerFactory):
    """Twisted's ESMTP, nothing changed."""

    noisy = False

    def __init__(self, url: str, pool: HTTPConnectionPool) -> None:
        self._url = url
        self._pool = pool

    def buildProtocol(self, addr: Any) -> smtp.ESMTP:
        protocol = smtp.ESMTP()
        protocol.delivery = Delivery(self._url, self._pool)
        protocol.factory = self
        protocol.host = b"localhost"
        return protocol


def main(port: int, platform: str) -> None:
    """Serve until SIGTERM."""
    here: Any = reactor
    pool = HTTPConnectionPool(here, persistent=True)
    pool.maxPersistentPerHost = 64
    factory = Factory(f"{platform}/api/transactional/send", pool)
    here.listenTCP(port, factory, backlog=1024, interface="127.0.0.1")
    here.run()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
