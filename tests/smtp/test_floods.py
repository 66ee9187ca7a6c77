"""Bounds: time, memory, connections; and stopping (THREATS.md, "Floods", SIGTERM)."""

from __future__ import annotations

import tracemalloc

from relay.policy import Limits
from relay.testing import make_message
from tests.smtp.test_session import QUEUED, SessionCase


class TimeTests(SessionCase):
    """Deadlines."""

    def test_idle(self) -> None:
        """A session that is silent for 300 seconds is told 421 4.4.2 and closed."""
        dialogue = self.dialogue()
        dialogue.hello()
        self.clock.advance(299)
        self.assert_replies(dialogue, ("NOOP", "250"))
        self.clock.advance(299)
        self.assertEqual(dialogue.read(), [])
        self.clock.advance(1)
        self.assertEqual(dialogue.read()[0][:9], "421 4.4.2")
        self.assertTrue(dialogue.closed)

    def test_slow_command(self) -> None:
        """An octet a second within a command does not keep a session open."""
        dialogue = self.dialogue()
        dialogue.hello()
        for _ in range(300):
            self.assertFalse(dialogue.closed)
            dialogue.send("N")
            self.clock.advance(1)
        self.assertEqual(dialogue.read()[0][:9], "421 4.4.2")

    def test_slow_greeting(self) -> None:
        """A client has 60 seconds to say EHLO, whatever else it says."""
        dialogue = self.dialogue()
        for _ in range(59):
            self.clock.advance(1)
            dialogue.command("NOOP")
        self.clock.advance(1)
        self.assertEqual(dialogue.read()[0][:9], "421 4.4.2")
        self.assertTrue(dialogue.closed)

    def test_slow_auth(self) -> None:
        """An AUTH exchange has 60 seconds."""
        dialogue = self.dialogue()
        dialogue.hello()
        dialogue.command("AUTH LOGIN")
        self.clock.advance(59)
        self.assert_replies(dialogue, ("eA==", "334"))
        self.clock.advance(1)
        self.assertEqual(dialogue.read()[0][:9], "421 4.4.2")

    def test_slow_data(self) -> None:
        """An octet a second within DATA ends at its deadline of ten minutes."""
        dialogue = self.dialogue()
        dialogue.envelope()
        for _ in range(599):
            self.clock.advance(1)
            self.assertEqual(dialogue.send("x"), [])
        self.clock.advance(1)
        self.assertEqual(dialogue.read()[0][:9], "421 4.4.2")
        self.assertEqual(self.factory.memory.held, 0)

    def test_silence_in_data(self) -> None:
        """Silence within DATA ends at the idle limit."""
        dialogue = self.dialogue()
        dialogue.envelope()
        self.clock.advance(300)
        self.assertEqual(dialogue.read()[0][:9], "421 4.4.2")

    def test_no_421_during_a_delivery(self) -> None:
        """However long a delivery takes, no timer answers before its verdict."""
        self.platform.held = []
        dialogue = self.dialogue()
        dialogue.envelope()
        dialogue.message(make_message())
        self.clock.advance(10_000)
        self.assertEqual(dialogue.read(), [])
        self.platform.release()
        self.assertRegex(dialogue.read()[0], QUEUED)
        self.clock.advance(300)
        self.assertEqual(dialogue.read()[0][:9], "421 4.4.2")

    def test_last_reply_not_taken(self) -> None:
        """A peer that does not take the last reply is cut off."""
        dialogue = self.dialogue()
        dialogue.command("QUIT")
        self.assertFalse(dialogue.transport.aborted)
        self.clock.advance(5)
        self.assertTrue(dialogue.transport.aborted)

    def test_time_for_the_last_reply(self) -> None:
        """A peer has its five seconds for the last reply, also where its silence would have ended before."""
        dialogue = self.dialogue()
        dialogue.hello()
        self.clock.advance(298)
        dialogue.command("QUIT")
        self.clock.advance(4.5)
        self.assertFalse(dialogue.transport.aborted)
        self.clock.advance(0.5)
        self.assertTrue(dialogue.transport.aborted)

    def test_one_timer(self) -> None:
        """A session that talks moves no timer, and falls silent in time all the same."""
        dialogue = self.dialogue()
        dialogue.hello()
        (timer,) = self.clock.getDelayedCalls()
        for _ in range(50):
            self.clock.advance(1)
            self.assert_replies(dialogue, ("NOOP", "250"))
        self.assertEqual(self.clock.getDelayedCalls(), [timer])
        self.clock.advance(299)
        self.assertFalse(dialogue.closed)
        self.clock.advance(1)
        self.assertTrue(dialogue.closed)

    def test_no_timer_is_left(self) -> None:
        """A session that has ended leaves no timer behind."""
        dialogue = self.dialogue()
        dialogue.envelope()
        dialogue.message(make_message())
        dialogue.command("QUIT")
        dialogue.leave()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ReaderTests(SessionCase):
    """A peer that sends and does not read."""

    def test_never_reads(self) -> None:
        """A peer that never reads is answered no further, is not read, and is cut off at the idle limit."""
        dialogue = self.dialogue()
        dialogue.hello()
        dialogue.session.pauseProducing()
        self.assertEqual(dialogue.transport.producerState, "paused")
        self.assertEqual(dialogue.send("NOOP\r\n" * 100), [])
        self.clock.advance(300)
        self.assertTrue(dialogue.transport.aborted)
        self.assertEqual(dialogue.read(), [])

    def test_reads_again(self) -> None:
        """One that reads again gets all its answers."""
        dialogue = self.dialogue()
        dialogue.hello()
        dialogue.session.pauseProducing()
        dialogue.send("NOOP\r\n" * 100)
        dialogue.session.resumeProducing()
        self.assertEqual(dialogue.transport.producerState, "producing")
        self.assertEqual(dialogue.read(), ["250 OK"] * 100)


class MemoryTests(SessionCase):
    """What messages in flight hold."""

    def test_budget(self) -> None:
        """Messages past the budget are 452 4.3.1 at their end; what is given back serves the next."""
        dialogue = self.dialogue(limits=Limits(memory=10_000))
        other = self.another()
        dialogue.envelope()
        dialogue.send(b"x" * 6000)
        other.envelope()
        self.assertEqual(other.message(make_message("y" * 6000))[0][:9], "452 4.3.1")
        self.assertEqual(dialogue.send("\r\n.\r\n")[0][:3], "554")
        self.assertEqual(self.factory.memory.held, 0)
        other.envelope()
        self.assertRegex(other.message(make_message("y" * 6000))[0], QUEUED)

    def test_declared_size(self) -> None:
        """A SIZE that does not fit now is 452 4.3.1 at MAIL; with nothing free DATA is."""
        dialogue = self.dialogue(limits=Limits(memory=10_000))
        other = self.another()
        dialogue.envelope()
        dialogue.send(b"x" * 10_000)
        other.hello()
        self.assert_replies(
            other, ("MAIL FROM:<a@b> SIZE=1", "452 4.3.1"), ("MAIL FROM:<a@b>", "250"), ("RCPT TO:<a@b>", "250"),
            ("DATA", "452 4.3.1"),
        )  # fmt: skip

    def test_held_until_the_verdict(self) -> None:
        """A message counts until its verdict."""
        self.platform.held = []
        dialogue = self.dialogue()
        dialogue.envelope()
        dialogue.message(make_message("y" * 6000))
        self.assertGreater(self.factory.memory.held, 6000)
        self.platform.release()
        self.assertEqual(self.factory.memory.held, 0)

    def test_endless_lines(self) -> None:
        """An endless command leaves memory as it was."""
        dialogue = self.dialogue()
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        chunk = b"A" * 65_536
        dialogue.send(chunk)
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(10):
            dialogue.send(chunk)
        self.assertLess(tracemalloc.get_traced_memory()[0] - before, 100_000)

    def test_discarded_message(self) -> None:
        """A message past the limit is not kept while it goes on."""
        dialogue = self.dialogue(limits=Limits(message_size=100_000))
        dialogue.envelope()
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        before = tracemalloc.get_traced_memory()[0]
        chunk = b"A" * 65_536
        for _ in range(100):
            dialogue.send(chunk)
        self.assertLess(tracemalloc.get_traced_memory()[0] - before, 300_000)
        self.assertEqual(dialogue.send("\r\n.\r\n")[0][:9], "552 5.3.4")


class ConnectionTests(SessionCase):
    """How many connections there may be."""

    def test_one_address(self) -> None:
        """Past its share an address is told 421 4.7.0, another address is served, and an end makes room."""
        first = self.dialogue(limits=Limits(connections_per_address=3), address="192.0.2.1")
        self.another("192.0.2.1")
        self.another("192.0.2.1")
        refused = self.another("192.0.2.1")
        self.assertRegex(refused.greeting[0], "^421 4.7.0 Too many connections from your address")
        self.assertTrue(refused.closed)
        refused.leave()
        self.assertEqual(self.another("192.0.2.2").greeting[0][:3], "220")
        first.leave()
        self.assertEqual(self.another("192.0.2.1").greeting[0][:3], "220")

    def test_in_all(self) -> None:
        """Past the limit of all connections everybody is told 421 4.3.2."""
        dialogues = [self.dialogue(limits=Limits(connections=2)), self.another("192.0.2.1")]
        self.assertRegex(self.another("192.0.2.2").greeting[0], "^421 4.3.2 Too many connections")
        self.assertEqual([each.greeting[0][:3] for each in dialogues], ["220", "220"])

    def test_ten_thousand(self) -> None:
        """Ten thousand connections from one address leave no trace when they are gone."""
        self.dialogue()
        for _ in range(10_000):
            self.another("192.0.2.1").leave()
        self.assertEqual(self.factory.connections.total, 1)
        self.assertEqual(dict(self.factory.connections._by_address), {"127.0.0.1": 1})


class DrainTests(SessionCase):
    """Stopping."""

    def test_idle_sessions(self) -> None:
        """Idle sessions are told 421 4.3.2, and when they are gone the relay has stopped."""
        dialogue, other = self.dialogue(), self.another()
        other.hello()
        other.command("MAIL FROM:<a@b>")
        drained = self.factory.drain()
        for each in (dialogue, other):
            self.assertEqual(each.read()[0][:9], "421 4.3.2")
            self.assertTrue(each.closed)
            self.assertNoResult(drained)
            each.leave()
        self.successResultOf(drained)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_new_sessions(self) -> None:
        """A connection that comes while the relay stops is told 421 4.3.2."""
        self.dialogue()
        self.factory.drain()
        self.assertEqual(self.another().greeting[0][:9], "421 4.3.2")

    def test_data_is_finished(self) -> None:
        """A message that is in DATA is taken to its end, delivered and answered; then comes 421."""
        self.platform.held = []
        dialogue = self.dialogue()
        dialogue.envelope()
        dialogue.send(make_message())
        drained = self.factory.drain()
        self.assertEqual(dialogue.send(".\r\n"), [])
        self.assertNoResult(drained)
        self.platform.release()
        answers = dialogue.read()
        self.assertRegex(answers[0], QUEUED)
        self.assertEqual(answers[1][:9], "421 4.3.2")
        dialogue.leave()
        self.successResultOf(drained)

    def test_verdict_after_the_client_left(self) -> None:
        """A delivery whose client has left is waited for all the same."""
        self.platform.held = []
        dialogue = self.dialogue()
        dialogue.envelope()
        dialogue.message(make_message())
        dialogue.leave()
        drained = self.factory.drain()
        self.assertNoResult(drained)
        self.platform.release()
        self.successResultOf(drained)

    def test_deadline(self) -> None:
        """What still goes on at the deadline is cut off."""
        dialogue = self.dialogue(limits=Limits(drain=30))
        dialogue.envelope()
        dialogue.send("half a message")
        drained = self.factory.drain()
        self.clock.advance(29)
        self.assertNoResult(drained)
        self.clock.advance(1)
        self.successResultOf(drained)
        self.assertTrue(dialogue.transport.aborted)

    def test_nothing_to_do(self) -> None:
        """Without sessions it is done at once, and again."""
        self.dialogue().leave()
        self.successResultOf(self.factory.drain())
        self.successResultOf(self.factory.drain())
