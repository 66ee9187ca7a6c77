"""Faults of the platform at the other end (THREATS.md), byte for byte, in memory.

One suite for both ways to exchange: the relay's own, and treq.
"""

from __future__ import annotations

import gzip
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionRefusedError, DNSLookupError, TimeoutError

from relay.errors import PermanentFailure, Reason, TemporaryFailure
from tests.client.platformcase import PlatformCase, ThroughTreq
from tests.client.rawserver import ACCEPTED, CLOSE, http_answer

JSON = b'{"tag":"t","to":"a@x","result":"ok"}'


class FaultCase(PlatformCase):
    """One submission, one fault."""

    def fault(self, *steps: Any, **policy: Any) -> Deferred[Any]:
        """Send to a platform that answers with *steps*."""
        self.start(list(steps), **policy)
        return self.send()

    def assert_unknown(self, label: str, *steps: Any, **policy: Any) -> None:
        """*steps* are an unknown outcome that the metrics call *label*; one POST, and no connection is left."""
        self.assert_failed(self.fault(*steps, **policy), TemporaryFailure, Reason.UNKNOWN_OUTCOME)
        self.platform.flush()
        self.assertEqual(self.labels, [label])
        self.assertEqual(len(self.platform.requests), 1)
        self.assertEqual(self.platform.open, 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class LostTests(FaultCase):
    """The answer does not come, or not whole: nobody knows whether the platform has the message."""

    def test_closed_without_answer(self) -> None:
        """A new connection that is closed without an answer is an unknown outcome, and not repeated at once."""
        self.assert_unknown("lost", CLOSE)

    def test_cut_in_the_headers(self) -> None:
        """The connection ends within the status line or the headers."""
        for part in (b"HT", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Len"):
            self.assert_unknown("truncated", part, CLOSE)

    def test_cut_body(self) -> None:
        """A body shorter than its Content-Length is cut, though what is there may be JSON."""
        for body in (b"", JSON[:9], JSON):
            self.assert_unknown("truncated", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n" + body, CLOSE)

    def test_cut_chunk(self) -> None:
        """A chunked body is cut within a chunk, or before its last one."""
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        whole = b"%x\r\n%b\r\n" % (len(JSON), JSON)
        for part in (b"", b"5", whole[:9], whole, whole + b"0\r\n"):
            self.assert_unknown("truncated", head + part, CLOSE)

    def test_damaged_chunk(self) -> None:
        """A chunk that is none ends the connection."""
        self.assert_unknown("truncated", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n")

    def test_http_1_0_cut(self) -> None:
        """An HTTP/1.0 body, ended by the end of the connection, that stops in the middle of its JSON."""
        self.assert_unknown("truncated", b"HTTP/1.0 200 OK\r\n\r\n" + JSON[:-1], CLOSE)

    def test_http_1_0_whole(self) -> None:
        """An HTTP/1.0 body whose JSON is closed is an acceptance: an object cannot be a part of one."""
        self.assert_sent(self.fault(b"HTTP/1.0 200 OK\r\n\r\n" + JSON, CLOSE))
        self.assertEqual(self.labels, ["200"])

    def test_not_http(self) -> None:
        """An answer that is not HTTP: somebody else listens there."""
        for nonsense in (b"220 mail.example ESMTP\r\n\r\n", b"\x15\x03\x01\x00\x02\x02\x16\r\n\r\n"):
            self.assert_unknown("truncated", nonsense)

    def test_contradictory_length(self) -> None:
        """Two lengths in one answer, or one that is no number: it is not read."""
        for lengths in (b"Content-Length: 2\r\nContent-Length: 3", b"Content-Length: x", b"Content-Length: -1"):
            self.assert_unknown("truncated", b"HTTP/1.1 200 OK\r\n" + lengths + b"\r\n\r\n{}")


class SizeTests(FaultCase):
    """No answer takes more memory than is allowed."""

    def test_body_without_end(self) -> None:
        """A success that goes on and on is cut off, and its outcome is unknown."""
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        self.assert_unknown("truncated", head, *[b"400\r\n" + b" " * 1024 + b"\r\n"] * 64, answer_size=4096)

    def test_fifty_megabytes(self) -> None:
        """50 MB of body are not kept: reading stops at the limit."""
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 52428800\r\n\r\n"
        self.assert_unknown("truncated", head, b" " * 70_000, b" " * 70_000)

    def test_long_error(self) -> None:
        """The status of an error counts, though its body is too long to read."""
        asked = self.fault(http_answer(400, b"x" * 5000), answer_size=4096)
        self.assert_failed(asked, PermanentFailure, Reason.REFUSED)
        self.platform.flush()
        self.assertEqual((self.labels, self.platform.open), (["400"], 0))

    def test_at_the_limit(self) -> None:
        """A body of just the allowed size is read, in chunks of one byte too."""
        body = b'["' + b"x" * 4092 + b'"]'
        self.assert_sent(self.fault(http_answer(200, body), answer_size=4096))
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        self.assert_sent(self.fault(head, chunks, answer_size=4096))

    def assert_cut_off(self, first: bytes, *rest: bytes) -> None:
        """The connection is closed before all of *rest* is read, and the outcome unknown."""
        asked = self.fault(first)
        for piece in rest:
            self.assertNoResult(asked)
            self.platform.connections[0].transport.write(piece)
            self.platform.flush()
            if not self.platform.open:
                break
        self.assert_failed(asked, TemporaryFailure, Reason.UNKNOWN_OUTCOME)
        self.assertEqual((self.labels, self.platform.open), (["truncated"], 0))

    def test_headers_without_end(self) -> None:
        """Headers that never end are cut off."""
        self.assert_cut_off(b"HTTP/1.1 200 OK\r\n", *[b"X-Filler: 1234567890123456\r\n" * 500] * 40)

    def test_interim_answers_without_end(self) -> None:
        """So are interim answers, one after the other."""
        self.assert_cut_off(b"HTTP/1.1 102 Processing\r\n\r\n", *[b"HTTP/1.1 102 Processing\r\n\r\n" * 1000] * 20)

    def test_interim_answer(self) -> None:
        """One interim answer before the true one is passed over."""
        self.assert_sent(self.fault(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", ACCEPTED))

    def test_gzip_bomb(self) -> None:
        """A compressed body is not inflated: 20 kB that would become 20 MB are read as they are, and are no JSON."""
        bomb = gzip.compress(b'["' + b" " * 20_000_000 + b'"]')
        asked = self.fault(http_answer(200, bomb, "Content-Encoding: gzip"))
        self.assert_failed(asked, TemporaryFailure, Reason.MISCONFIGURED)

    def test_compressed_error(self) -> None:
        """A compressed description is not shown; the status counts."""
        body = gzip.compress(b'{"description":"words"}')
        asked = self.fault(http_answer(400, body, "Content-Encoding: gzip"))
        self.assertEqual(self.assert_failed(asked, PermanentFailure, Reason.REFUSED).text, "")


class DeadlineTests(FaultCase):
    """One deadline from connecting to the end of the body, and nothing left behind it."""

    def assert_expires(self, *steps: Any) -> None:
        asked = self.fault(*steps, timeout=30.0)
        self.clock.advance(29.9)
        self.platform.flush()
        self.assertNoResult(asked)
        self.clock.advance(0.1)
        self.assert_failed(asked, TemporaryFailure, Reason.UNREACHABLE)
        self.platform.flush()
        self.assertEqual((self.labels, self.platform.open), (["timeout"], 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_silence(self) -> None:
        """A platform that takes the request and says nothing."""
        self.assert_expires()

    def test_slow_headers(self) -> None:
        """One that stops within the headers."""
        self.assert_expires(b"HTTP/1.1 200 OK\r\nContent-")

    def test_slow_body(self) -> None:
        """One that stops within the body, or never ends it."""
        self.assert_expires(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{")
        self.assert_expires(b"HTTP/1.1 400 Bad\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n")

    def test_dripping_body(self) -> None:
        """A byte every ten seconds does not move the deadline."""
        asked = self.fault(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", timeout=30.0)
        for _ in range(3):
            self.platform.connections[0].transport.write(b" ")
            self.platform.flush()
            self.clock.advance(10)
        self.assert_failed(asked, TemporaryFailure, Reason.UNREACHABLE)

    def test_connecting(self) -> None:
        """A connection that is not made: the attempt is cancelled."""
        self.start(timeout=30.0)
        cancelled: list[bool] = []
        self.endpoints.waiting = Deferred(lambda _: cancelled.append(True))
        asked = self.send()
        self.clock.advance(30)
        self.assert_failed(asked, TemporaryFailure, Reason.UNREACHABLE)
        self.assertEqual((self.labels, cancelled), (["timeout"], [True]))

    def test_cancelled(self) -> None:
        """Whoever gives up a submission gives up its connection."""
        asked = self.fault(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{")
        asked.cancel()
        self.failureResultOf(asked)
        self.platform.flush()
        self.assertEqual((self.platform.open, self.clock.getDelayedCalls()), (0, []))


class ConnectTests(FaultCase):
    """The platform is not reached, and has nothing."""

    def test_kinds(self) -> None:
        """Refused, no such name, no route, a timeout: each is temporary, and has its label."""
        for error, label in (
            (ConnectionRefusedError(), "refused"),
            (DNSLookupError("no such host"), "dns"),
            (TimeoutError(), "timeout"),
            (ConnectError(string="no route"), "error"),
            (OSError("network is unreachable"), "error"),
        ):
            self.start()
            self.platform.failure = error
            self.assert_failed(self.send(), TemporaryFailure, Reason.UNREACHABLE)
            self.assertEqual(self.labels, [label])


class LostThroughTreqTests(ThroughTreq, LostTests):
    """The same through treq."""


class SizeThroughTreqTests(ThroughTreq, SizeTests):
    """The same through treq."""


class DeadlineThroughTreqTests(ThroughTreq, DeadlineTests):
    """The same through treq."""


class ConnectThroughTreqTests(ThroughTreq, ConnectTests):
    """The same through treq."""
