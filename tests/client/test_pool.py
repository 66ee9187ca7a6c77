"""Connections to the platform are kept, checked, repeated on, and closed."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock

from relay.client.pool import KEPT, make_client
from relay.client.request import Request, target
from relay.errors import ConfigError, PermanentFailure, Reason, TemporaryFailure
from relay.policy import Platform
from tests.client.platformcase import KEY, PlatformCase
from tests.client.rawserver import ACCEPTED, CLOSE, http_answer


class KeepTests(PlatformCase):
    """Keep-alive."""

    def test_reuse(self) -> None:
        """Submissions one after the other, and a ping, share one connection."""
        self.start([ACCEPTED], [ACCEPTED], [http_answer(200, b"[]")])
        self.assert_sent(self.send())
        self.assert_sent(self.send())
        self.successResultOf(self.ask(self.backend.ping(KEY)))
        self.assertEqual((len(self.platform.connections), self.platform.open), (1, 1))

    def test_side_by_side(self) -> None:
        """Submissions side by side have a connection each, and so many stay open as are allowed."""
        self.start([], [], [], connections=2)
        sent = [self.send() for _ in range(3)]
        for connection in self.platform.connections:
            connection.play([ACCEPTED])
        self.platform.flush()
        for each in sent:
            self.assert_sent(each)
        self.assertEqual((len(self.platform.connections), self.platform.open), (3, 2))

    def test_idle(self) -> None:
        """A connection that nobody needs is closed, before the platform would do it."""
        self.start([ACCEPTED])
        self.assert_sent(self.send())
        self.clock.advance(KEPT - 0.1)
        self.platform.flush()
        self.assertEqual(self.platform.open, 1)
        self.clock.advance(0.1)
        self.platform.flush()
        self.assertEqual((self.platform.open, self.clock.getDelayedCalls()), (0, []))

    def test_last_used_first(self) -> None:
        """The connection used last is used again, so that those too many grow old and go."""
        self.start([], [], *[[ACCEPTED]] * 3)
        both = [self.send(), self.send()]
        for connection in self.platform.connections:
            connection.play([ACCEPTED])
            self.platform.flush()
        for each in both:
            self.assert_sent(each)
        for _ in range(3):
            self.clock.advance(KEPT / 2)
            self.assert_sent(self.send())
            self.platform.flush()
        self.assertEqual([bool(each.connected) for each in self.platform.connections], [False, True])

    def test_connection_close(self) -> None:
        """A connection whose platform says that it closes it is not used again."""
        self.start([http_answer(200, b"{}", "Connection: close")], [ACCEPTED])
        self.assert_sent(self.send())
        self.platform.flush()
        self.assertEqual(self.platform.open, 0)
        self.assert_sent(self.send())
        self.assertEqual(len(self.platform.connections), 2)

    def test_closed_by_the_platform(self) -> None:
        """One that the platform has closed in the meantime is forgotten."""
        self.start([ACCEPTED], [ACCEPTED])
        self.assert_sent(self.send())
        self.platform.connections[0].play([CLOSE])
        self.platform.flush()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assert_sent(self.send())
        self.assertEqual((len(self.platform.connections), len(self.platform.requests)), (2, 2))

    def test_unasked_answer(self) -> None:
        """An answer that nobody asked for ends the connection: it must not become the next request's."""
        self.start([ACCEPTED], [http_answer(400)])
        self.assert_sent(self.send())
        self.platform.connections[0].play([ACCEPTED])
        self.platform.flush()
        self.assertEqual(self.platform.open, 0)
        self.assert_failed(self.send(), PermanentFailure, Reason.REFUSED)

    def test_close(self) -> None:
        """When the relay stops, idle connections are closed, and one in use as soon as its answer is there."""
        self.start([], [ACCEPTED])
        slow, _ = self.send(), self.send()
        self.client.close()
        self.platform.flush()
        self.assertEqual(self.platform.open, 1)
        self.platform.connections[0].play([ACCEPTED])
        self.platform.flush()
        self.assert_sent(slow)
        self.assertEqual((self.platform.open, self.clock.getDelayedCalls()), (0, []))


class StaleTests(PlatformCase):
    """A kept connection that the platform closes just when a request leaves."""

    def test_repeated_once(self) -> None:
        """The POST is repeated at once on a new connection, the same to the byte."""
        self.start([ACCEPTED], [CLOSE], [ACCEPTED])
        self.assert_sent(self.send())
        self.assert_sent(self.send(idempotency_key="ABC123-2"))
        _, first, second = self.platform.requests
        self.assertEqual(first, second)
        self.assertEqual(second.headers["idempotency-key"], "ABC123-2")
        self.assertEqual(len(self.platform.connections), 2)
        self.assertEqual(self.labels, ["200", "200"])

    def test_not_twice(self) -> None:
        """When the new connection is lost too, the outcome is unknown."""
        self.start([ACCEPTED], [CLOSE], [CLOSE], [ACCEPTED])
        self.assert_sent(self.send())
        self.assert_failed(self.send(), TemporaryFailure, Reason.UNKNOWN_OUTCOME)
        self.assertEqual(len(self.platform.requests), 3)

    def test_not_after_a_byte(self) -> None:
        """Once a byte of the answer was there the platform had the request: it is not repeated at once."""
        self.start([ACCEPTED], [b"H", CLOSE], [ACCEPTED])
        self.assert_sent(self.send())
        self.assert_failed(self.send(), TemporaryFailure, Reason.UNKNOWN_OUTCOME)
        self.assertEqual(len(self.platform.requests), 2)

    def test_not_at_the_deadline(self) -> None:
        """A deadline on a kept connection ends the submission, and repeats nothing."""
        self.start([ACCEPTED], [], [ACCEPTED])
        self.assert_sent(self.send())
        asked = self.send()
        self.clock.advance(30)
        self.assert_failed(asked, TemporaryFailure, Reason.UNREACHABLE)
        self.platform.flush()
        self.assertEqual((len(self.platform.requests), self.platform.open), (2, 0))

    def test_ping(self) -> None:
        """A ping, which has no side effects, is repeated as well."""
        self.start([ACCEPTED], [CLOSE], [http_answer(401)])
        self.assert_sent(self.send())
        self.assert_failed(self.ask(self.backend.ping(KEY)), PermanentFailure, Reason.BAD_KEY)

    def test_not_without_idempotency_key(self) -> None:
        """A POST of somebody else that has no Idempotency-Key is not repeated."""
        self.start([ACCEPTED], [CLOSE], [ACCEPTED])
        self.assert_sent(self.send())
        other = Request(target("POST", "http://platform.test/other"), body=(b"{}",))
        asked = self.ask(self.client.exchange(other, seconds=9, limit=99))
        self.failureResultOf(asked)
        self.assertEqual(len(self.platform.requests), 2)

    def test_refused_then(self) -> None:
        """When the new connection is refused, nothing is known of the first attempt: an unknown outcome."""
        self.start([ACCEPTED], [])
        self.assert_sent(self.send())
        asked = self.send()
        self.platform.failure = ConnectionRefusedError()
        self.platform.connections[0].play([CLOSE])
        self.platform.flush()
        self.assert_failed(asked, TemporaryFailure, Reason.UNKNOWN_OUTCOME)


class WriteTests(PlatformCase):
    """What is left of a submission whose answer comes early."""

    def test_early_answer(self) -> None:
        """A platform that refuses a message before it has read it, and reads no more, holds no connection open."""
        self.start([http_answer(413, b"", "Connection: close")])
        self.assert_failed(self.send(body="x" * 1_000_000), PermanentFailure, Reason.PLATFORM_TOO_BIG)
        self.platform.flush()
        self.assertEqual(self.platform.open, 0)


class TrustTests(PlatformCase):
    """``platform.ca_file``."""

    def problem(self, ca_file: str) -> str:
        error = self.assertRaises(ConfigError, make_client, Clock(), Platform(ca_file=ca_file))
        self.assertEqual(len(error.problems), 1)
        return error.problems[0]

    def written(self, content: bytes) -> str:
        path = Path(self.mktemp())
        path.write_bytes(content)
        return str(path)

    def test_absent(self) -> None:
        """A file that is not there is named."""
        self.assertEqual(
            self.problem("/nowhere/ca.pem"),
            "platform.ca_file: /nowhere/ca.pem cannot be read: No such file or directory",
        )

    def test_empty(self) -> None:
        """So is one without a certificate, such as a key."""
        self.assertIn("holds no certificate in PEM form", self.problem(self.written(b"-----BEGIN PRIVATE KEY-----\n")))

    def test_damaged(self) -> None:
        """So is one whose certificate is damaged."""
        pem = b"-----BEGIN CERTIFICATE-----\nbm9uc2Vuc2U=\n-----END CERTIFICATE-----\n"
        self.assertIn("damaged", self.problem(self.written(pem)))
