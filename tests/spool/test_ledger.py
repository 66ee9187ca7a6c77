"""A client that repeats a message does not make the platform send it twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relay.errors import Failure, PermanentFailure, Reason, TemporaryFailure
from relay.smtp.delivery import new_id
from relay.spool.ledger import Ledger, fingerprint
from relay.spool.values import Remembered
from relay.testing import KEY, Dialogue, FakePlatform, make_factory, make_message
from relay.values import Account, Envelope, Outcome, Submission


class FakeMemory:
    """The ledger's part of the store, in memory; ``broken`` is what it raises instead."""

    def __init__(self) -> None:
        self.entries: dict[bytes, Remembered] = {}
        self.writes = 0
        self.reads = 0
        self.broken: Failure | None = None
        self.forgetting: Deferred[None] | None = None
        self.recalling: Deferred[None] | None = None

    def _check(self) -> None:
        if self.broken is not None:
            raise self.broken

    async def remember(self, entry: Remembered) -> None:
        """Keep."""
        self.writes += 1
        self._check()
        self.entries[entry.fingerprint] = entry

    async def claim(self, entry: Remembered) -> Remembered:
        """Keep what is not there."""
        if entry.fingerprint not in self.entries:
            await self.remember(entry)
        return self.entries[entry.fingerprint]

    async def recall(self, fingerprint: bytes) -> Remembered | None:
        """Find; takes until :attr:`recalling` fires, if there is one."""
        self.reads += 1
        self._check()
        if self.recalling is not None:
            await self.recalling
        return self.entries.get(fingerprint)

    async def forget(self, fingerprint: bytes) -> None:
        """Drop; takes until :attr:`forgetting` fires, if there is one."""
        self._check()
        if self.forgetting is not None:
            await self.forgetting
        self.entries.pop(fingerprint, None)

    async def has_memories(self) -> bool:
        """Any?"""
        self._check()
        return bool(self.entries)


class LedgerTests(SynchronousTestCase):
    """Through a session: what a client sees, and what the platform gets."""

    def setUp(self) -> None:
        """A relay with a ledger."""
        self.clock = Clock()
        self.platform = FakePlatform()
        self.memory = FakeMemory()
        self.factory = self.start()

    def start(self) -> Any:
        """The relay, started (again)."""
        ledger = Ledger(self.memory, 86_400.0, self.clock.seconds)
        return make_factory(self.platform, self.clock, pipeline={"ledger": ledger})

    def send(self, *recipients: str, **headers: str) -> Dialogue:
        """One message over a new connection."""
        dialogue = Dialogue(self.factory)
        dialogue.envelope(*recipients or ("a@x",))
        self.answers = dialogue.message(make_message(**headers))
        return dialogue

    def posted(self) -> list[str]:
        """The recipients that the platform was sent to, in order."""
        return [each.to for each in self.platform.submissions]

    def test_answered_250(self) -> None:
        """A message that was answered 250 and is sent again is a new message, and nothing was written for it."""
        self.send()
        first = self.answers[0]
        self.send()
        self.assertNotEqual(first, self.answers[0])
        self.assertEqual(self.posted(), ["a@x", "a@x"])
        self.assertEqual((self.memory.writes, self.memory.reads), (0, 0))

    def test_left_before_the_verdict(self) -> None:
        """A client that left before its 250, and repeats the message, gets the first id; nothing is posted twice."""
        self.platform.held = []
        dialogue = self.send("a@x", "b@x")
        dialogue.leave()
        self.platform.release()
        self.platform.release()
        first = self.platform.submissions[0].request_id
        self.platform.held = None
        self.send("b@x", "a@x")
        self.assertEqual(self.answers, [f"250 Ok: queued as {first}"])
        self.assertEqual(self.posted(), ["a@x", "b@x"])
        self.send("a@x", "b@x")
        self.assertEqual(len(self.posted()), 4)

    def test_left_before_the_verdict_of_the_repetition(self) -> None:
        """A client that leaves again while its repetition is being forgotten gets the first id once more."""
        self.platform.held = []
        self.send().leave()
        self.platform.release()
        self.memory.forgetting = Deferred()
        dialogue = self.send()
        self.assertEqual(self.answers, [])
        dialogue.leave()
        self.memory.forgetting.callback(None)
        self.memory.forgetting = None
        self.send()
        self.assertEqual(self.answers, [f"250 Ok: queued as {self.platform.submissions[0].request_id}"])
        self.assertEqual(self.posted(), ["a@x"])

    def test_repeated_while_under_way(self) -> None:
        """A repetition that comes while the first is still under way waits for it."""
        self.platform.held = []
        self.send().leave()
        dialogue = self.send()
        self.assertEqual((self.answers, len(self.posted())), ([], 1))
        self.platform.release()
        self.assertEqual(dialogue.read(), [f"250 Ok: queued as {self.platform.submissions[0].request_id}"])
        self.assertEqual(self.posted(), ["a@x"])

    def test_two_repetitions(self) -> None:
        """Repetitions that are given up themselves change nothing."""
        self.platform.held = []
        self.send().leave()
        self.send().leave()
        self.send().leave()
        self.platform.release()
        self.platform.held = None
        self.send()
        self.assertEqual(self.posted(), ["a@x"])

    def test_left_and_failed(self) -> None:
        """What the platform did not take is posted at the repetition."""
        self.platform.held = []
        self.platform.verdicts = {"b@x": PermanentFailure(Reason.REFUSED)}
        self.send("a@x", "b@x").leave()
        self.platform.release()
        self.platform.release()
        self.platform.held, self.platform.verdicts = None, {}
        self.send("a@x", "b@x")
        self.assertEqual(self.posted(), ["a@x", "b@x", "b@x"])
        self.assertEqual(self.platform.submissions[1].idempotency_key, self.platform.submissions[2].idempotency_key)

    def test_lost_answer(self) -> None:
        """After 451 the repetition carries the same Idempotency-Key: the platform may have the message already."""
        self.platform.verdicts = {"a@x": TemporaryFailure(Reason.UNKNOWN_OUTCOME)}
        self.send()
        self.assertEqual(self.answers[0][:9], "451 4.4.2")
        self.platform.verdicts = {}
        self.send()
        keys = {each.idempotency_key for each in self.platform.submissions}
        self.assertEqual((len(self.posted()), len(keys)), (2, 1))
        self.assertEqual(self.memory.entries, {})

    def test_answer_of_somebody_else(self) -> None:
        """Behind a 200 that is not the contract's the platform may have it: the repetition has the first key."""
        self.platform.verdicts = {"a@x": TemporaryFailure(Reason.MISCONFIGURED, sent=True)}
        self.send()
        self.assertEqual(self.answers[0][:9], "451 4.3.5")
        self.platform.verdicts = {}
        self.send()
        self.assertEqual(len({each.idempotency_key for each in self.platform.submissions}), 1)

    def test_after_a_restart(self) -> None:
        """What is remembered outlives the process."""
        self.platform.verdicts = {"a@x": TemporaryFailure(Reason.UNKNOWN_OUTCOME)}
        self.send()
        self.platform.verdicts = {}
        self.factory = self.start()
        self.send()
        self.assertEqual(len({each.idempotency_key for each in self.platform.submissions}), 1)

    def test_explicit_key(self) -> None:
        """The same X-Transactional-Idempotency-Key is one message, although it was answered 250."""
        self.send(X_Transactional_Idempotency_Key="order-7", Subject="One")
        first = self.answers
        self.send(X_Transactional_Idempotency_Key="order-7", Subject="Two")
        self.assertEqual((self.answers, self.posted()), (first, ["a@x"]))
        self.send("b@x", X_Transactional_Idempotency_Key="order-7")
        self.assertEqual((self.answers, self.posted()), (first, ["a@x", "b@x"]))
        self.send(X_Transactional_Idempotency_Key="order-8")
        self.assertEqual(self.posted(), ["a@x", "b@x", "a@x"])

    def test_explicit_key_of_another_account(self) -> None:
        """Another account's key is another message."""
        self.platform.accounts["other-key"] = Account("other-key")
        self.send(X_Transactional_Idempotency_Key="order-7")
        dialogue = Dialogue(self.factory)
        dialogue.envelope("a@x")
        dialogue.message(make_message(key="other-key", X_Transactional_Idempotency_Key="order-7"))
        self.assertEqual(len(self.posted()), 2)

    def test_explicit_key_and_a_crash(self) -> None:
        """A relay that died between the posting and the verdict posts again under the same Idempotency-Key."""
        self.platform.held = []
        self.send(X_Transactional_Idempotency_Key="order-7")
        self.factory = self.start()
        self.platform.held = None
        self.send(X_Transactional_Idempotency_Key="order-7")
        self.assertEqual(len({each.idempotency_key for each in self.platform.submissions}), 1)

    def test_explicit_key_in_parallel(self) -> None:
        """Two at once with one key: the second waits, and nothing is posted twice."""
        self.platform.held = []
        first = self.send(X_Transactional_Idempotency_Key="order-7")
        second = self.send(X_Transactional_Idempotency_Key="order-7")
        self.platform.release()
        self.assertEqual(first.read(), second.read())
        self.assertEqual(self.posted(), ["a@x"])

    def recalled(self) -> None:
        """The store has found what it was asked for."""
        recalling, self.memory.recalling = self.memory.recalling, None
        assert recalling is not None
        recalling.callback(None)

    def test_explicit_key_in_parallel_look_up(self) -> None:
        """The second waits too when it comes while the first is being looked up."""
        self.memory.recalling = Deferred()
        self.platform.held = []
        dialogues = [self.send(X_Transactional_Idempotency_Key="order-7") for _ in range(3)]
        self.recalled()
        self.platform.release()
        answers = [dialogue.read() for dialogue in dialogues]
        self.assertRegex(answers[0][0], "^250 ")
        self.assertEqual(answers, [answers[0]] * 3)
        self.assertEqual(self.posted(), ["a@x"])

    def test_left_while_looked_up(self) -> None:
        """A repetition waits for a client that left while its message was looked up, and for its repetition."""
        self.memory.entries[b"other"] = Remembered(b"other", "OTHER")
        self.memory.recalling = Deferred()
        self.platform.held = []
        self.send().leave()
        self.send().leave()
        dialogue = self.send()
        self.recalled()
        self.assertEqual((self.posted(), dialogue.read()), (["a@x"], []))
        self.platform.release()
        self.assertRegex(dialogue.read()[0], "^250 ")
        self.assertEqual(self.posted(), ["a@x"])

    def test_look_up_fails(self) -> None:
        """When the first cannot be looked up, those that waited for it are."""
        self.memory.recalling = Deferred()
        dialogues = [self.send(X_Transactional_Idempotency_Key="order-7") for _ in range(2)]
        failing, self.memory.recalling = self.memory.recalling, None
        failing.errback(TemporaryFailure(Reason.SPOOL_FAILED))
        answers = [dialogue.read()[0][:3] for dialogue in dialogues]
        self.assertEqual((answers, self.posted()), (["451", "250"], ["a@x"]))

    def test_abandoned(self) -> None:
        """What was still under way when the relay ended is posted again with the same Idempotency-Key."""
        self.platform.held = []
        ledger = Ledger(self.memory)
        self.factory = make_factory(self.platform, self.clock, pipeline={"ledger": ledger})
        self.send().leave()
        self.successResultOf(Deferred.fromCoroutine(ledger.abandon()))
        self.platform.held = None
        self.factory = self.start()
        self.send()
        self.assertEqual(self.posted(), ["a@x", "a@x"])
        self.assertEqual(len({each.idempotency_key for each in self.platform.submissions}), 1)

    def test_broken_stage(self) -> None:
        """After a defect of ours the repetition comes to the platform with the first Idempotency-Key."""

        async def deliver(account: Account, submissions: Sequence[Submission]) -> tuple[Outcome, ...]:
            for each in submissions:
                await self.platform.send(each)
            raise RuntimeError("a defect")

        pipeline = {"ledger": Ledger(self.memory), "deliver": deliver}
        self.factory = make_factory(self.platform, self.clock, pipeline=pipeline)
        self.send()
        self.assertEqual(self.answers[0][:9], "451 4.3.0")
        self.send()
        self.assertEqual(len(self.posted()), 2)
        self.assertEqual(len({each.idempotency_key for each in self.platform.submissions}), 1)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 2)

    def test_bad_explicit_key(self) -> None:
        """An idempotency key has 1 to 256 characters and stands once."""
        for value in ("", "x" * 257):
            self.send(X_Transactional_Idempotency_Key=value)
            self.assertEqual(self.answers[0][:9], "554 5.6.0")

    def test_memory_broken(self) -> None:
        """While the store is broken a message without a key passes, and one with a key is 451."""
        self.memory.broken = TemporaryFailure(Reason.SPOOL_FAILED)
        self.send()
        self.assertEqual(self.answers[0][:3], "250")
        self.send(X_Transactional_Idempotency_Key="order-7")
        self.assertEqual(self.answers[0][:9], "451 4.3.0")
        self.memory.broken = None
        self.send(X_Transactional_Idempotency_Key="order-7")
        self.assertEqual(self.answers[0][:3], "250")

    def test_remembered_without_the_store(self) -> None:
        """What the store does not take is remembered until the relay stops."""
        self.memory.broken = TemporaryFailure(Reason.SPOOL_FAILED)
        self.platform.verdicts = {"a@x": TemporaryFailure(Reason.UNKNOWN_OUTCOME)}
        self.send()
        self.platform.verdicts = {}
        self.send()
        self.assertEqual(len({each.idempotency_key for each in self.platform.submissions}), 1)

    def test_remembered_without_the_store_too_long(self) -> None:
        """What the store did not take counts no longer than what it did: the same message is a new one then."""
        for headers in ({}, {"X_Transactional_Idempotency_Key": "order-7"}):
            dialogue = self.begin(**headers)
            self.memory.broken = TemporaryFailure(Reason.SPOOL_FAILED)
            dialogue.leave()
            self.platform.release()
            self.memory.broken = self.platform.held = None
            self.memory.entries.clear()
            posted = len(self.posted())
            self.clock.advance(86_401)
            self.send(**headers)
            self.assertEqual((self.answers[0][:3], len(self.posted())), ("250", posted + 1))

    def test_written_after_all(self) -> None:
        """What the store takes later replaces what it did not."""
        dialogue = self.begin("a@x", X_Transactional_Idempotency_Key="order-7")
        self.memory.broken = TemporaryFailure(Reason.SPOOL_FAILED)
        dialogue.leave()
        self.platform.release()
        self.memory.broken = self.platform.held = None
        for _ in range(2):
            self.send("a@x", "b@x", X_Transactional_Idempotency_Key="order-7")
        self.assertEqual(self.posted(), ["a@x", "b@x"])

    def begin(self, *recipients: str, **headers: str) -> Dialogue:
        """A message that the platform has, and has not answered yet."""
        self.platform.held = []
        return self.send(*recipients, **headers)


class FingerprintTests(SynchronousTestCase):
    """:func:`relay.spool.ledger.fingerprint`."""

    def of(self, content: str, *recipients: str, sender: str = "s@x", key: str = KEY) -> bytes:
        """The fingerprint of a message."""
        return fingerprint(Account(key), Envelope(new_id(), sender, recipients or ("a@x",)), content.encode())

    def test_same(self) -> None:
        """Trace headers and the order of recipients do not count."""
        plain = "Subject: x\r\nFrom: a@b\r\n\r\nbody\r\n"
        traced = "Received: from a\r\n\tby b; now\r\nReturn-Path: <x@y>\r\n" + plain.replace(
            "From", "Received: c\r\nFrom"
        )
        self.assertEqual(self.of(plain, "a@x", "b@x"), self.of(traced, "b@x", "a@x"))

    def test_different(self) -> None:
        """Account, sender, recipients, every other header and the body do."""
        plain = "Subject: x\r\n\r\nbody\r\n"
        prints = {
            self.of(plain), self.of(plain, key="other"), self.of(plain, sender="t@x"), self.of(plain, "b@x"),
            self.of(plain, "a@x", "b@x"), self.of("Subject: y\r\n\r\nbody\r\n"), self.of("Subject: x\r\n\r\nBody\r\n"),
            self.of("Subject: x\r\n\r\nReceived: by c\r\nbody\r\n"), self.of("Subject: x\r\nDate: now\r\n\r\nbody\r\n"),
        }  # fmt: skip
        self.assertEqual(len(prints), 9)
