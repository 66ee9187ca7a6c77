"""What all sessions share: how many there are, how much they hold, how fast they send."""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from functools import lru_cache

from relay.errors import Reason, TemporaryFailure


def _nobody(_: str) -> None:
    """Told of something that concerns no other process."""


class Connections:
    """Counts open connections, in all and by address.

    :param most: most connections at a time.
    :param most_per_address: most connections at a time from one address.
    :ivar changed: told of an address when its count changes.
    """

    def __init__(self, most: int, most_per_address: int) -> None:
        self._most = most
        self._most_per_address = most_per_address
        self._by_address: Counter[str] = Counter()
        self.total = 0
        self._elsewhere: Counter[str] = Counter()
        self._total_elsewhere = 0
        self.changed: Callable[[str], None] = _nobody

    @property
    def by_address(self) -> Mapping[str, int]:
        """How many each address has."""
        return self._by_address

    def is_tight(self, address: str) -> bool:
        """Whether a limit is near, so that other processes should know at once."""
        here = self._by_address[address] + self._elsewhere[address]
        near = here >= 0.75 * self._most_per_address or self.total + self._total_elsewhere >= 0.75 * self._most
        return near and bool(self._by_address[address])

    def count_elsewhere(self, address: str, more: int) -> None:
        """Other processes of this relay have *more* connections from an address than before, or less."""
        self._total_elsewhere += more
        self._elsewhere[address] += more
        if not self._elsewhere[address]:
            del self._elsewhere[address]

    def add(self, address: str) -> TemporaryFailure | None:
        """Count a connection, which :meth:`remove` ends in either case; why it is refused, or None."""
        self.total += 1
        # Counter makes a zero of what it does not know by a call of a method.
        count = self._by_address[address] = self._by_address.get(address, 0) + 1
        self.changed(address)
        if count + self._elsewhere.get(address, 0) > self._most_per_address:
            return TemporaryFailure(Reason.ABUSE, "Too many connections from your address, try again later")
        if self.total + self._total_elsewhere > self._most:
            return TemporaryFailure(Reason.SHUTDOWN, "Too many connections, try again later")
        return None

    def remove(self, address: str) -> None:
        """A counted connection has ended."""
        self.total -= 1
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]
        self.changed(address)


class Memory:
    """A budget of octets for the messages in flight."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.held = 0

    def has(self, octets: int) -> bool:
        """Whether that many are free now."""
        return self.held + octets <= self._limit

    def take(self, octets: int) -> bool:
        """Take that many if they are free."""
        if not self.has(octets):
            return False
        self.held += octets
        return True

    def give_back(self, octets: int) -> None:
        """Octets taken are free again."""
        self.held -= octets


class Rate:
    """A token bucket for each sender: *per_minute* messages, at once or spread; 0 is no limit.

    :param clock: seconds.
    :param most: senders remembered; the one unseen for longest is forgotten first.
    :ivar counted: told of each sender whose message was counted.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float], most: int = 10_000) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._most = most
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self.counted: Callable[[str], None] = _nobody

    def take(self, sender: str) -> bool:
        """Count one message of *sender*; False when it is one too many."""
        if not self._per_minute:
            return True
        now = self._clock()
        tokens = self._tokens(sender, now)
        allowed = tokens >= 1
        self._put(sender, tokens - 1 if allowed else tokens, now)
        if allowed:
            self.counted(sender)
        return allowed

    def count_elsewhere(self, sender: str, messages: int) -> None:
        """So many messages of *sender* came to other processes: what is too many is missing afterwards."""
        if self._per_minute:
            now = self._clock()
            self._put(sender, max(self._tokens(sender, now) - messages, -float(self._per_minute)), now)

    def _tokens(self, sender: str, now: float) -> float:
        """How many messages *sender* has left now."""
        bucket = self._buckets.get(sender)
        if bucket is None:
            return self._per_minute
        tokens, last = bucket
        return min(self._per_minute, tokens + (now - last) * self._per_minute / 60)

    def _put(self, sender: str, tokens: float, now: float) -> None:
        self._buckets[sender] = (tokens, now)
        self._buckets.move_to_end(sender)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)


def peer_address(peer: object) -> str:
    """The address of a transport's peer as text, ``""`` for one without (a UNIX socket).

    An IPv4 address behind an IPv6 socket is given as IPv4, so that it counts as one address with itself.
    """
    host = getattr(peer, "host", "")
    text = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)
    return text[7:] if text.startswith("::ffff:") and "." in text else text


@lru_cache(maxsize=1024)  # asked at every EHLO and MAIL
def is_loopback(address: str) -> bool:
    """Whether *address*, from :func:`peer_address`, cannot be anywhere but on this machine."""
    if not address:
        return True
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False
