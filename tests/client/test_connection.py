"""relay.client.connection: long requests, and what an early answer leaves."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from relay.client.connection import AT_ONCE, Connection
from relay.client.request import Request, target
from relay.deadlines import Deadlines
from tests.client.rawserver import ACCEPTED, http_answer

LONG = (b"a" * AT_ONCE, b"b" * AT_ONCE, b"c")


class Full(StringTransport):
    """A transport whose peer reads only when it is told to; it has enough after every write."""

    aborted = False

    def write(self, data: bytes) -> None:
        StringTransport.write(self, data)
        if self.producer is not None:
            self.producer.pauseProducing()

    def abortConnection(self) -> None:
        self.aborted = True
        StringTransport.abortConnection(self)


class LongRequestTests(SynchronousTestCase):
    """A request that the platform reads slowly."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.transport = Full()
        self.free: list[Any] = []
        self.connection = Connection("", Deadlines(self.clock), self.free.append, lambda _: None)
        self.connection.makeConnection(self.transport)
        self.request = Request(target("POST", "http://platform.test/send"), (("Idempotency-Key", "1"),), LONG)

    def written(self) -> bytes:
        return StringTransport.value(self.transport)

    def test_piece_by_piece(self) -> None:
        """The platform's pace decides how much of the request is copied: a piece at a time, and at last all of it."""
        asked = self.connection.ask(self.request, seconds=30.0, limit=999)
        while self.transport.producer is not None:
            before = len(self.written())
            self.transport.producer.resumeProducing()
            self.assertLessEqual(len(self.written()) - before, AT_ONCE)
        head, _, body = self.written().partition(b"\r\n\r\n")
        self.assertIn(b"Content-Length: %d" % (2 * AT_ONCE + 1), head)
        self.assertEqual(body, b"".join(LONG))
        self.connection.dataReceived(ACCEPTED)
        self.assertEqual(self.successResultOf(asked).status, 200)
        self.assertEqual(self.free, [self.connection])

    def test_early_answer(self) -> None:
        """An answer before all is written is the answer, and the connection ends: the rest must not be read as more."""
        asked = self.connection.ask(self.request, seconds=30.0, limit=999)
        self.connection.dataReceived(http_answer(413, b"{}"))
        self.assertEqual(self.successResultOf(asked).status, 413)
        self.assertEqual((self.free, self.transport.aborted), ([], True))

    def test_deadline(self) -> None:
        """A platform that reads no more is given up at the deadline."""
        asked = self.connection.ask(self.request, seconds=30.0, limit=999)
        self.clock.advance(30.0)
        self.failureResultOf(asked)
        self.assertEqual((self.transport.aborted, self.clock.getDelayedCalls()), (True, []))

    def test_each_request_has_its_deadline(self) -> None:
        """The deadline of an earlier request, which was answered, ends no later one; each has its own time."""
        for seconds in (30.0, 10.0, 20.0):
            asked = self.connection.ask(Request(self.request.target), seconds=seconds, limit=999)
            self.clock.pump([5.0, 4.0])
            self.connection.dataReceived(ACCEPTED)
            self.assertEqual(self.successResultOf(asked).status, 200)
        asked = self.connection.ask(Request(self.request.target), seconds=15.0, limit=999)
        self.clock.advance(14.9)
        self.assertNoResult(asked)
        self.clock.advance(0.1)
        self.assertEqual(self.failureResultOf(asked).value.label, "timeout")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_lost(self) -> None:
        """A connection that ends while it is written to writes no more."""
        asked = self.connection.ask(self.request, seconds=30.0, limit=999)
        producer = self.transport.producer
        assert producer is not None
        producer.stopProducing()
        before = self.written()
        producer.resumeProducing()
        self.assertEqual(self.written(), before)
        self.connection.connectionLost()
        self.failureResultOf(asked)
