"""What a worker tells the others, so that all together keep the limits of one relay.

What is open is counted by each and told; a tenth of a second may pass until the others know, less when a limit is near.
Failures, keys that were refused and messages of clients that left are told at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorTime

from relay.smtp.auth import Keys
from relay.smtp.limits import Connections, Rate
from relay.spool.ledger import Ledger

#: Seconds for which counts are gathered before they are told.
GATHER = 0.1

#: How many connections a worker may have more than another, before it leaves it the next ones.
AHEAD = 4

#: Seconds for which it does: one that takes none in that time is busy, or hangs.
PAUSE = 0.002


class Sharing:
    """Listens to the parts of an intake, and tells them what other workers say.

    :param tell: says something to all others, by way of the parent.
    :param expect_memories: called when another worker has remembered something.
    :param pause: lets others take connections for so many seconds.
    """

    def __init__(
        self,
        tell: Callable[..., None],
        clock: IReactorTime,
        *,
        connections: Connections,
        rate: Rate,
        keys: Keys,
        ledger: Ledger,
        expect_memories: Callable[[], None],
        pause: Callable[[float], None],
    ) -> None:
        self._tell = tell
        self._clock = clock
        self._connections = connections
        self._rate = rate
        self._keys = keys
        self._ledger = ledger
        self._changed: set[str] = set()  # addresses
        self._counted: Counter[str] = Counter()  # messages by sender
        self._gathering = False
        self._pause = pause
        self._seen = 0  # connections of ours, when we last looked
        self._others: dict[int, dict[str, int]] = {}  # connections by worker and address
        self._totals: dict[int, int] = {}  # connections by worker
        self._topics: dict[str, Callable[..., None]] = {
            "connections": self._connections_of,
            "messages": self._messages_of,
            "failure": self._failure_of,
            "forget": lambda worker, digest: keys.forget_digest(bytes.fromhex(digest)),
            "left": lambda worker, fingerprint: ledger.left_elsewhere(worker, bytes.fromhex(fingerprint)),
            "ended": lambda worker, fingerprint: ledger.ended_elsewhere(worker, bytes.fromhex(fingerprint)),
            "remembered": lambda worker: expect_memories(),
        }
        connections.changed = self._connection_changed
        rate.counted = self._message_counted
        keys.penalties.added = self._failed
        keys.forgotten = lambda digest: tell("forget", digest.hex())
        ledger.left = lambda fingerprint: tell("left", fingerprint.hex())
        ledger.ended = lambda fingerprint: tell("ended", fingerprint.hex())
        ledger.remembered = lambda: tell("remembered")
        self._introduce()

    # --- what others say

    def told(self, worker: int, topic: str, *news: Any) -> None:
        """Another worker, or the parent (0), says something."""
        self._topics[topic](worker, *news)

    def gone(self, worker: int) -> None:
        """Another worker has ended."""
        self._totals.pop(worker, None)
        for address, count in self._others.pop(worker, {}).items():
            self._connections.count_elsewhere(address, -count)
        self._ledger.process_gone(worker)

    def again(self) -> None:
        """There is somebody new, who knows nothing yet: say once more what is."""
        self._changed.update(self._connections.by_address)
        self._introduce()
        for fingerprint in self._ledger.under_way:
            self._ledger.left(fingerprint)

    def _introduce(self) -> None:
        """Let the others know us, also where there is nothing to tell."""
        self._changed.add("")
        self._gather()

    def _connections_of(self, worker: int, counts: dict[str, int]) -> None:
        known = self._others.setdefault(worker, {})
        for address, count in counts.items():
            more = count - known.pop(address, 0)
            self._connections.count_elsewhere(address, more)
            self._totals[worker] = self._totals.get(worker, 0) + more
            if count:
                known[address] = count

    def _messages_of(self, worker: int, counts: dict[str, int]) -> None:
        for sender, count in counts.items():
            self._rate.count_elsewhere(sender, count)

    def _failure_of(self, worker: int, address: str, digest: str) -> None:
        self._keys.penalties.count(address, bytes.fromhex(digest))

    # --- what is told

    def _connection_changed(self, address: str) -> None:
        self._changed.add(address)
        before, self._seen = self._seen, self._connections.total
        if self._totals and before < self._seen > min(self._totals.values()) + AHEAD:
            self._pause(PAUSE)
        if self._connections.is_tight(address):
            self._tell_connections()
        else:
            self._gather()

    def _message_counted(self, sender: str) -> None:
        self._counted[sender] += 1
        self._gather()

    def _failed(self, address: str, digest: bytes) -> None:
        self._tell("failure", address, digest.hex())

    def _gather(self) -> None:
        if not self._gathering:
            self._gathering = True
            self._clock.callLater(GATHER, self._tell_counts)

    def _tell_connections(self) -> None:
        if self._changed:
            self._tell("connections", {each: self._connections.by_address.get(each, 0) for each in self._changed})
            self._changed.clear()

    def _tell_counts(self) -> None:
        self._gathering = False
        self._tell_connections()
        if self._counted:
            self._tell("messages", dict(self._counted))
            self._counted.clear()
