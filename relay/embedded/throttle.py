"""Slows down who guesses passwords, by what is guessed and by where it comes from."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

from twisted.internet.interfaces import IReactorTime

#: Failures that cost nothing, by the kind of source: people mistype, and many may share an address.
FREE = {"email": 3, "address": 10}

#: Longest delay, and how long failures are remembered, in seconds.
LONGEST = 300.0
REMEMBERED = 3600.0

#: Most sources remembered; the one that failed first goes first.
MOST = 10_000


#: A kind of :data:`FREE`, and which one of it.
Source = tuple[str, str]


class Throttle:
    """Counts failures of sources; after those that are free each next attempt waits twice as long.

    An attempt counts as failed until it is known to be none, so that many at once gain nothing.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._failures: OrderedDict[Source, tuple[int, float]] = OrderedDict()

    def wait(self, *sources: Source) -> float:
        """Seconds until one of *sources* may try, 0.0 where all may."""
        return max(map(self._wait, sources), default=0.0)

    def tried(self, *sources: Source) -> None:
        """An attempt of *sources* begins."""
        for source in sources:
            self._failures[source] = (self._count(source) + 1, self._clock.seconds())
            self._failures.move_to_end(source)
            if len(self._failures) > MOST:
                self._failures.popitem(last=False)

    def forget(self, source: Source) -> None:
        """It was no failure, and those before count no more."""
        self._failures.pop(source, None)

    def undo(self, source: Source) -> None:
        """It was no failure; those before still count, or one good password would cover for guessing others."""
        count, last = self._failures.get(source, (0, 0.0))
        if count > 1:
            self._failures[source] = (count - 1, last)
        else:
            self.forget(source)

    def _count(self, source: Source) -> int:
        count, last = self._failures.get(source, (0, 0.0))
        return count if self._clock.seconds() - last < REMEMBERED else 0

    def _wait(self, source: Source) -> float:
        count = self._count(source)
        if count < FREE[source[0]]:
            return 0.0
        delay = min(2.0 ** min(count - FREE[source[0]], 30), LONGEST)
        return max(0.0, self._failures[source][1] + delay - self._clock.seconds())


def network(address: str) -> str:
    """What counts as one source: an IPv4 address, or the network of 64 bits that an IPv6 host is given."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    mapped = getattr(found, "ipv4_mapped", None)
    if mapped is not None or found.version == 4:
        return str(mapped or found)
    return str(ipaddress.ip_network(f"{found}/64", strict=False))
