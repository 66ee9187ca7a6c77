"""Several workers that keep the limits of one relay: each tells the others, on one clock and without a process."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relay.errors import PermanentFailure, Reason
from relay.policy import Auth, Spool
from relay.presence import Presence
from relay.smtp.auth import Keys
from relay.smtp.limits import Connections, Rate
from relay.spool.ledger import Ledger
from relay.spool.memory import MemoryStore
from relay.testing import KEY, FakePlatform
from relay.values import Account, Envelope, Message, Outcome, key_digest
from relay.workers.sharing import AHEAD, GATHER, PAUSE, Sharing

ADDRESS = "192.0.2.1"


class Shared:
    """What one worker has."""

    def __init__(self, clock: Clock, platform: FakePlatform, store: MemoryStore, tell: Callable[..., None]) -> None:
        self.connections = Connections(4, 3)
        self.rate = Rate(4, clock.seconds)
        self.keys = Keys(platform.ping, Auth(), clock)
        self.ledger = Ledger(store, monotonic=clock.seconds)
        self.expected = 0
        self.pauses: list[float] = []
        self.sharing = Sharing(
            tell,
            clock,
            connections=self.connections,
            rate=self.rate,
            keys=self.keys,
            ledger=self.ledger,
            expect_memories=self.expect,
            pause=self.pauses.append,
        )

    def expect(self) -> None:
        self.expected += 1


class SharingTests(SynchronousTestCase):
    """Two workers, and what the parent passes on."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.platform = FakePlatform()
        self.store = MemoryStore(self.clock, Spool())
        self.workers: dict[int, Shared] = {}
        self.first, self.second = self.join(1), self.join(2)

    def join(self, number: int) -> Shared:
        made = Shared(self.clock, self.platform, self.store, partial(self.tell, number))
        self.workers[number] = made
        for other, each in self.workers.items():
            if other != number:
                each.sharing.again()
        return made

    def tell(self, number: int, *news: Any) -> None:
        for other, each in self.workers.items():
            if other != number:
                each.sharing.told(number, *news)

    def gathered(self) -> None:
        """What is gathered is told."""
        self.clock.advance(GATHER)

    # --- counts

    def test_connections_of_an_address(self) -> None:
        """An address has its connections in all workers together; one that ends makes room everywhere."""
        for _ in range(2):
            self.assertIsNone(self.first.connections.add(ADDRESS))
        self.gathered()
        self.assertIsNone(self.second.connections.add(ADDRESS))
        refusal = self.second.connections.add(ADDRESS)
        assert refusal is not None
        self.assertEqual(refusal.reason, Reason.ABUSE)
        self.second.connections.remove(ADDRESS)
        self.first.connections.remove(ADDRESS)
        self.gathered()
        self.assertIsNone(self.second.connections.add(ADDRESS))

    def test_connections_in_all(self) -> None:
        """The relay has its connections in all workers together."""
        for number in range(4):
            self.assertIsNone(self.first.connections.add(f"192.0.2.{number}"))
        self.gathered()
        refusal = self.second.connections.add("192.0.2.9")
        assert refusal is not None
        self.assertEqual(refusal.reason, Reason.SHUTDOWN)

    def test_balance(self) -> None:
        """A worker with more connections than another leaves it the next ones, as long as it lives."""
        for number in range(AHEAD):
            self.first.connections.add(f"192.0.2.{number}")
        self.gathered()
        self.assertEqual(self.first.pauses, [])
        self.first.connections.add("192.0.2.9")
        self.assertEqual(self.first.pauses, [PAUSE])
        self.first.connections.remove("192.0.2.9")
        self.assertEqual(self.first.pauses, [PAUSE])
        self.second.connections.add("192.0.2.10")
        self.gathered()
        self.first.connections.add("192.0.2.9")
        self.assertEqual(self.first.pauses, [PAUSE])
        self.first.sharing.gone(2)
        for number in range(20, 30):
            self.first.connections.add(f"192.0.2.{number}")
        self.assertEqual(self.first.pauses, [PAUSE])

    def test_gone(self) -> None:
        """A worker that was killed has no connections any more, and nothing under way."""
        for _ in range(3):
            self.first.connections.add(ADDRESS)
        self.gathered()
        del self.workers[1]
        self.second.sharing.gone(1)
        self.assertIsNone(self.second.connections.add(ADDRESS))

    def test_joined_later(self) -> None:
        """A worker that was started later knows what the others have."""
        for _ in range(3):
            self.first.connections.add(ADDRESS)
        self.gathered()
        third = self.join(3)
        self.gathered()
        self.assertIsNotNone(third.connections.add(ADDRESS))

    def test_messages_a_minute(self) -> None:
        """A sender has its messages a minute in all workers together, and what was too many is missing afterwards."""
        taken = [each.rate.take("acme") for _ in range(4) for each in (self.first, self.second)]
        self.assertEqual(taken, [True] * 8)
        self.gathered()
        self.assertFalse(self.first.rate.take("acme"))
        self.assertTrue(self.first.rate.take("other"))
        self.clock.advance(60)
        self.assertFalse(self.second.rate.take("acme"))
        self.clock.advance(30)
        self.assertTrue(self.second.rate.take("acme"))

    # --- keys

    def test_failures(self) -> None:
        """Who guesses at one worker is slowed down at the other."""
        self.failureResultOf(Deferred.fromCoroutine(self.first.keys.account("wrong", ADDRESS)), PermanentFailure)
        asked = Deferred.fromCoroutine(self.second.keys.account("other", ADDRESS))
        self.assertNoResult(asked)
        self.clock.advance(1)
        self.failureResultOf(asked, PermanentFailure)

    def test_forgotten(self) -> None:
        """A key that the platform refused to one worker, or that was reset, is asked for again at the other."""
        for forget in (
            lambda: self.first.keys.forget(KEY),
            lambda: self.second.sharing.told(0, "forget", key_digest(KEY).hex()),
        ):
            self.successResultOf(Deferred.fromCoroutine(self.second.keys.account(KEY)))
            before = self.platform.pings
            forget()
            self.successResultOf(Deferred.fromCoroutine(self.second.keys.account(KEY)))
            self.assertEqual(self.platform.pings, before + 1)

    # --- repetitions

    def begin(self, worker: Shared, id: str, gone: bool = False) -> Deferred[Any]:
        """A message comes to *worker*; perhaps its client leaves at once."""
        presence = Presence()
        envelope = Envelope(id, "a@example.com", ("b@example.com",))
        message = Message("", "a@example.com", "", "")
        begun = Deferred.fromCoroutine(
            worker.ledger.begin(envelope, Account(KEY, "Acme"), message, b"From: a\r\n\r\nHello\r\n", presence)
        )
        if gone:
            presence.leave()
        return begun

    def end(self, worker: Shared, claim: Any) -> None:
        self.successResultOf(Deferred.fromCoroutine(worker.ledger.end(claim, (Outcome("b@example.com"),), None)))

    def test_repetition(self) -> None:
        """A client that left one worker and repeats its message to the other waits for the first to end."""
        first = self.successResultOf(self.begin(self.first, "ID1", gone=True))
        repetition = self.begin(self.second, "ID2")
        self.assertNoResult(repetition)
        self.end(self.first, first)
        claim = self.successResultOf(repetition)
        self.assertEqual((claim.id, claim.taken), ("ID1", frozenset({"b@example.com"})))
        self.assertEqual(self.second.expected, 1)

    def test_repetition_of_one_that_was_killed(self) -> None:
        """When the other worker is killed its messages keep nobody waiting."""
        self.successResultOf(self.begin(self.first, "ID1", gone=True))
        repetition = self.begin(self.second, "ID2")
        del self.workers[1]
        self.second.sharing.gone(1)
        self.assertEqual(self.successResultOf(repetition).id, "ID2")

    def test_repetition_to_one_that_joined(self) -> None:
        """A worker that was started later knows what is under way."""
        first = self.successResultOf(self.begin(self.first, "ID1", gone=True))
        repetition = self.begin(self.join(3), "ID3")
        self.assertNoResult(repetition)
        self.end(self.first, first)
        self.assertEqual(self.successResultOf(repetition).id, "ID1")
