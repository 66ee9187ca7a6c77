"""One HTTP request as a value, and the seam through which it becomes an :class:`~relay.client.answers.Answer`.

There are two ways through the seam.  :class:`relay.client.pool.Pool` is the relay's own, and the fast one;
:mod:`relay.client.exchange` goes through treq, or anything with its interface, for who embeds the relay.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlsplit

from attrs import field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from relay.client.answers import Answer

#: (name, value) of header fields.
Fields = tuple[tuple[str, str], ...]

_PORTS = {"http": 80, "https": 443}


@frozen(cache_hash=True)
class Origin:
    """Where connections go (RFC 9110 section 4.3.1).

    :ivar host: a name, or an address without brackets.
    """

    scheme: str
    host: str
    port: int


#: One object for each, by which it is found at once.
_origin = lru_cache(maxsize=256)(Origin)


@frozen
class Target:
    """What many requests have in common; made by :func:`target`.

    :ivar url: in its final form: ASCII, percent-encoded.
    :ivar fields: of the header.
    :ivar head: how the head of each begins (RFC 9112 section 2.1).
    """

    method: str
    url: str
    fields: Fields
    origin: Origin
    head: str = field(repr=False)


@lru_cache(maxsize=256)
def target(method: str, url: str, fields: Fields = ()) -> Target:
    """Where requests go, and how their heads begin.

    :param url: in its final form.
    :param fields: of the header, those that requests have in common.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    origin = _origin(parts.scheme, host, parts.port or _PORTS.get(parts.scheme, 0))
    named = f"[{host}]" if ":" in host else host
    if origin.port != _PORTS.get(origin.scheme):
        named = f"{named}:{origin.port}"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    head = _with_lines(f"{method} {path} HTTP/1.1\r\nHost: {named}\r\n", fields)
    return Target(method, url, fields, origin, head)


def _with_lines(head: str, fields: Fields) -> str:
    """*head* with *fields* behind it; no line end, or other control, is within any."""
    for name, value in fields:
        if not value.isprintable():
            value = "".join(each if each.isprintable() else " " for each in value)
        head += f"{name}: {value}\r\n"
    return head


@frozen
class Request:
    """One HTTP request.

    :ivar fields: of the header, those that only it has.
    :ivar body: in pieces, None for a request without one.
    """

    target: Target
    fields: Fields = ()
    body: Sequence[bytes] | None = None

    @property
    def repeatable(self) -> bool:
        """Whether it may be repeated when nobody knows whether it has arrived."""
        return self.body is None or any(name == "Idempotency-Key" for name, _ in self.fields)

    @property
    def head(self) -> bytes:
        """The request line and the header, with the empty line at its end."""
        length = "" if self.body is None else f"Content-Length: {sum(map(len, self.body))}\r\n"
        return f"{_with_lines(self.target.head, self.fields)}{length}\r\n".encode("utf-8", "replace")


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
