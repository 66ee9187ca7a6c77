"""One HTTP request as a value, and the seam through which it becomes an :class:`~relay.client.answers.Answer`.

There are two ways through the seam.  :class:`relay.client.pool.Pool` is the relay's own, and the fast one;
:mod:`relay.client.exchange` goes through treq, or anything with its interface, for who embeds the relay.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlsplit

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from relay.client.answers import Answer

#: A part of a body.
Piece = bytes | memoryview
#: (name, value) of header fields.
Fields = tuple[tuple[str, str], ...]

_PORTS = {"http": 80, "https": 443}


@frozen
class Origin:
    """Where connections go (RFC 9110 section 4.3.1).

    :ivar host: a name, or an address without brackets.
    """

    scheme: str
    host: str
    port: int


@frozen
class Request:
    """One HTTP request.

    :ivar url: in its final form: ASCII, percent-encoded.
    :ivar common: the header fields that it shares with many others.
    :ivar own: those that only it has.
    :ivar body: in pieces, None for a request without one.
    """

    method: str
    url: str
    common: Fields = ()
    own: Fields = ()
    body: Sequence[Piece] | None = None

    @property
    def origin(self) -> Origin:
        """Where it goes."""
        return _start(self.method, self.url, self.common)[0]

    @property
    def repeatable(self) -> bool:
        """Whether it may be repeated when nobody knows whether it has arrived."""
        return self.body is None or any(name == "Idempotency-Key" for name, _ in self.common + self.own)

    @property
    def head(self) -> bytes:
        """The request line and the header, with the empty line at its end (RFC 9112 section 2.1)."""
        lines = [_start(self.method, self.url, self.common)[1], *map(_line, self.own)]
        if self.body is not None:
            lines.append(f"Content-Length: {sum(map(len, self.body))}\r\n")
        lines.append("\r\n")
        return "".join(lines).encode("utf-8", "replace")


class Exchange(Protocol):
    """What sends requests for the relay."""

    async def exchange(self, request: Request, *, seconds: float, limit: int) -> Answer:
        """Send one request and read its answer, within *seconds* from connecting to the end of the body.

        At the deadline, and when whoever awaits this cancels it, the connection is aborted.  No redirect is followed.

        :param limit: bytes of the body that are read; past it the connection is aborted.
        :raises relay.client.answers.NoAnswer: no status came.
        """


@runtime_checkable
class Client(Protocol):
    """What the relay needs of treq: a :class:`treq.client.HTTPClient`, or one of its fakes."""

    def request(self, method: str, url: str, **options: Any) -> Deferred[Any]:
        """Fire with the response once its headers are there."""


def exchange_of(client: Client | Exchange, clock: IReactorTime) -> Exchange:
    """*client* as an exchange; in front of treq stands :class:`relay.client.exchange.ThroughTreq`."""
    if not isinstance(client, Client):
        return client
    # Imported here: the relay itself needs neither treq nor Twisted's HTTP client, which take long to import.
    from relay.client.exchange import ThroughTreq

    return ThroughTreq(client, clock)


@lru_cache(maxsize=256)
def _start(method: str, url: str, common: Fields) -> tuple[Origin, str]:
    """What many requests have in common: where they go, and how their heads begin."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    origin = Origin(parts.scheme, host, parts.port or _PORTS.get(parts.scheme, 0))
    named = f"[{host}]" if ":" in host else host
    if origin.port != _PORTS.get(origin.scheme):
        named = f"{named}:{origin.port}"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return origin, f"{method} {target} HTTP/1.1\r\nHost: {named}\r\n" + "".join(map(_line, common))


def _line(field: tuple[str, str]) -> str:
    """One line of a header; what would end it within becomes a space."""
    name, value = field
    return f"{name}: {' '.join(value.splitlines())}\r\n"
