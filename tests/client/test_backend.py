"""What goes to the platform, and what becomes of what it says."""

from __future__ import annotations

import json
from typing import Any

from treq.testing import StubTreq
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import Request

from relay import __version__, wire
from relay.client.backend import Backend, base_url, join
from relay.errors import ConfigError, PermanentFailure, Reason, TemporaryFailure
from relay.values import Account, Attachment, Route
from tests.client.platformcase import KEY, SUBMISSION, PlatformCase, capturedLogs, logged
from tests.client.rawserver import ACCEPTED, CLOSE, http_answer


class URLTests(SynchronousTestCase):
    """The URL of the configuration."""

    def test_join(self) -> None:
        """A path goes below the base, which may have a prefix, a slash at its end, a port or an IPv6 address."""
        for base, url in (
            ("https://api.example", "https://api.example/api/ping"),
            ("https://api.example/", "https://api.example/api/ping"),
            ("https://api.example/v1", "https://api.example/v1/api/ping"),
            ("https://api.example/v1/", "https://api.example/v1/api/ping"),
            (" http://127.0.0.1:8080 ", "http://127.0.0.1:8080/api/ping"),
            ("http://[::1]:8080", "http://[::1]:8080/api/ping"),
            ("https://bücher.example", "https://xn--bcher-kva.example/api/ping"),
        ):
            self.assertEqual(join(base_url(base), "/api/ping"), url)
            self.assertEqual(join(base_url(base), "api/ping"), url)

    def test_refused(self) -> None:
        """What is no base of an API is refused with a sentence, which never shows a password."""
        for url in (
            "",
            "api.example",
            "ftp://api.example",
            "https://",
            "http://h:port",
            "https://u:secret@api.example",
            "https://api.example?key=secret",
            "https://api.example/#x",
        ):
            error = self.assertRaises(ConfigError, base_url, url)
            self.assertEqual(len(error.problems), 1)
            self.assertTrue(error.problems[0].startswith("backend: "), url)
            self.assertNotIn("secret", str(error))


class SendTests(PlatformCase):
    """POST /api/transactional/send."""

    def test_request(self) -> None:
        """One POST has the contract's path, headers and JSON."""
        self.start([ACCEPTED], url="http://platform.test/v1/")
        self.assert_sent(self.send())
        (request,) = self.platform.requests
        self.assertEqual(request.line, "POST /v1/api/transactional/send HTTP/1.1")
        for name, value in {
            "host": "platform.test",
            "x-auth-apikey": KEY,
            "content-type": "application/json",
            "x-request-id": "ABC123",
            "idempotency-key": "ABC123-1",
            "user-agent": f"smtp-relay/{__version__}",
            "accept": "application/json",
        }.items():
            self.assertEqual(request.headers[name], value)
        self.assertEqual(request.body, wire.encode_submission(SUBMISSION))
        self.assertEqual(self.labels, ["200"])

    def test_ipv6(self) -> None:
        """A platform may be given as an IPv6 address."""
        self.start([ACCEPTED], url="http://[::1]:8080/v1")
        self.assert_sent(self.send())
        self.assertEqual(self.platform.requests[0].headers["host"], "[::1]:8080")
        self.assertEqual(self.platform.requests[0].line, "POST /v1/api/transactional/send HTTP/1.1")

    def test_no_compression_asked_for(self) -> None:
        """The platform is asked for the bytes as they are, once."""
        self.start([ACCEPTED])
        self.assert_sent(self.send())
        lines = [line.lower() for line in self.platform.requests[0].header_lines]
        self.assertEqual([line for line in lines if line.startswith("accept-encoding")], ["accept-encoding: identity"])

    def test_no_cookies(self) -> None:
        """A cookie that the platform sets is not sent back: an account's request knows nothing of another's."""
        cookie = http_answer(200, b"{}", "Set-Cookie: session=1; Path=/")
        self.start([cookie], [ACCEPTED])
        self.assert_sent(self.send())
        self.assert_sent(self.send())
        self.assertNotIn("cookie", self.platform.requests[1].headers)

    def test_attachments(self) -> None:
        """A submission with attachments is a multipart form with the same headers beside it."""
        self.start([ACCEPTED])
        self.assert_sent(self.send(attachments=[Attachment("a.pdf", "application/pdf", b"%PDF")]))
        (request,) = self.platform.requests
        self.assertTrue(request.headers["content-type"].startswith("multipart/form-data; boundary="))
        self.assertEqual(request.headers["idempotency-key"], "ABC123-1")
        self.assertIn(b"%PDF", request.body)
        self.assertTrue(request.body.endswith(b"--\r\n"))

    def test_large_body(self) -> None:
        """A body of some megabytes arrives whole."""
        self.start([ACCEPTED])
        self.assert_sent(self.send(body="ä" * 2_000_000))
        self.assertEqual(len(json.loads(self.platform.requests[0].body)["body"]), 2_000_000)

    def test_statuses(self) -> None:
        """Each row of the contract's table, through HTTP."""
        said = b'{"title":"Error","description":"the platform\'s words"}'
        rows: list[tuple[int, type[Exception], Reason, str]] = [
            (400, PermanentFailure, Reason.REFUSED, "the platform's words"),
            (422, PermanentFailure, Reason.REFUSED, "the platform's words"),
            (401, PermanentFailure, Reason.KEY_REFUSED, ""),
            (403, PermanentFailure, Reason.FORBIDDEN, "the platform's words"),
            (413, PermanentFailure, Reason.PLATFORM_TOO_BIG, ""),
            (404, TemporaryFailure, Reason.MISCONFIGURED, ""),
            (405, TemporaryFailure, Reason.MISCONFIGURED, ""),
            (409, TemporaryFailure, Reason.MISCONFIGURED, ""),
            (303, TemporaryFailure, Reason.MISCONFIGURED, ""),
            (408, TemporaryFailure, Reason.BUSY, ""),
            (425, TemporaryFailure, Reason.BUSY, ""),
            (429, TemporaryFailure, Reason.BUSY, ""),
            (500, TemporaryFailure, Reason.UNREACHABLE, ""),
            (503, TemporaryFailure, Reason.UNREACHABLE, ""),
        ]
        self.start(*([http_answer(row[0], said)] for row in rows))
        for status, kind, reason, text in rows:
            failure = self.failureResultOf(self.send(), kind).value
            self.assertEqual((failure.reason, failure.text), (reason, text), status)
        self.assertEqual(self.labels, [str(row[0]) for row in rows])

    def test_retry_after(self) -> None:
        """429 hands on how long to wait, clamped by the configuration."""
        self.start(
            [http_answer(429, b"", "Retry-After: 30")],
            [http_answer(429, b"", "Retry-After: -1")],
            [http_answer(429, b"", "Retry-After: 1000000000")],
            [http_answer(429, b"", "Retry-After: Sun, 09 Sep 2001 01:47:40 GMT")],
            retry_after_maximum=600.0,
        )
        waits = [self.failureResultOf(self.send(), TemporaryFailure).value.retry_after for _ in range(4)]
        self.assertEqual(waits, [30.0, 1.0, 600.0, 60.0])

    def test_redirect_is_not_followed(self) -> None:
        """A 303 to a 200 is no acceptance and no second request; the log says where it pointed."""
        for location in ("/elsewhere", "http://platform.test/elsewhere"):
            self.start([http_answer(303, b"", f"Location: {location}")], [ACCEPTED])
            with capturedLogs() as events:
                self.assert_failed(self.send(), TemporaryFailure, Reason.MISCONFIGURED)
            self.assertIn(f"answered 303 to {location}", logged(events))
            self.assertEqual(len(self.platform.requests), 1)

    def test_https_stays_https(self) -> None:
        """Where https is configured nothing goes out in clear text, though the platform redirect to http."""
        recorder = Recorder(301, "http://platform.test/api/transactional/send")
        self.start()
        self.backend = Backend("https://platform.test", recorder, clock=self.clock)
        self.assert_failed(self.send(), TemporaryFailure, Reason.MISCONFIGURED)
        self.assertEqual(recorder.urls, ["https://platform.test/api/transactional/send"])
        self.assertIs(recorder.options["allow_redirects"], False)

    def test_misconfiguration_is_logged(self) -> None:
        """The operator reads which URL answered what, once a minute and not once a message."""
        self.start(*[[http_answer(404, b"Not found")]] * 5)
        with capturedLogs() as events:
            for seconds in (0, 1, 58, 0.9, 0.2):
                self.clock.advance(seconds)
                self.assert_failed(self.send(), TemporaryFailure, Reason.MISCONFIGURED)
        lines = [event for event in events if event["log_level"].name == "error"]
        self.assertEqual(len(lines), 2)
        self.assertIn("http://platform.test/api/transactional/send answered 404", logged(lines))

    def test_login_page(self) -> None:
        """A page with 200 that is no JSON is no acceptance: temporary, and in the log."""
        self.start([http_answer(200, b"<html>Please sign in</html>", "Content-Type: text/html")])
        with capturedLogs() as events:
            self.assert_failed(self.send(), TemporaryFailure, Reason.MISCONFIGURED)
        self.assertIn("answered 200 without JSON", logged(events))

    def test_key_that_no_header_carries(self) -> None:
        """A key with a line end, a control character, a space around it or beyond ASCII is refused unsent."""
        self.start()
        for key in ("", "a\r\nX-Evil: 1", "a\0b", " a", "a ", "schlüssel", "a" * 5000):
            self.assert_failed(self.send(api_key=key), PermanentFailure, Reason.KEY_REFUSED)
            self.assert_failed(self.ask(self.backend.ping(key)), PermanentFailure, Reason.BAD_KEY)
        self.assertEqual(self.platform.connections, [])

    def test_key_in_no_log(self) -> None:
        """Success, every kind of refusal, a repeated key and a lost connection leave no key in a log or an error."""
        echo = f'{{"description":"bad key {KEY}"}}'.encode()
        script: list[list[Any]] = [[http_answer(each, echo, f"Location: /{KEY}")] for each in (200, 302, 400, 403, 500)]
        self.start(*script, [CLOSE], [CLOSE], [b"nonsense\r\n\r\n"])
        said = []
        with capturedLogs() as events:
            self.assert_sent(self.send())
            for _ in range(6):
                failure = self.failureResultOf(self.send())
                said += [failure.getTraceback(), repr(failure.value), str(failure.value)]
        self.assertEqual(len(self.platform.requests), 8)
        self.assertNotIn(KEY, logged(events) + "".join(said))


class Recorder:
    """A client in treq's place, that records what it is asked and redirects."""

    def __init__(self, status: int, location: str) -> None:
        self.urls: list[str] = []
        self._resource = Answering(status, b"", {"Location": location})

    def request(self, method: str, url: str, **options: Any) -> Deferred[Any]:
        self.urls.append(url)
        self.options = options
        answer: Deferred[Any] = StubTreq(self._resource).request(method, url, **options)
        return answer


class Answering(Resource):
    """Gives one answer to everything."""

    isLeaf = True

    def __init__(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        super().__init__()
        self._answer = status, body, headers or {}
        self.keys: list[str | None] = []

    def render(self, request: Request) -> bytes:
        status, body, headers = self._answer
        self.keys.append(request.getHeader("x-auth-apikey"))
        request.setResponseCode(status)
        for name, value in headers.items():
            request.setHeader(name, value)
        return body


class StubTests(SynchronousTestCase):
    """The client is replaceable: treq's own fake will do."""

    def test_stub(self) -> None:
        """A submission and a ping run through treq's StubTreq."""
        resource = Answering(200, b"[]")
        backend = Backend("https://platform.test", StubTreq(resource), clock=Clock())
        self.assertIsNone(self.successResultOf(Deferred.fromCoroutine(backend.send(SUBMISSION))))
        self.successResultOf(Deferred.fromCoroutine(backend.ping(KEY)))
        self.assertEqual(resource.keys, [KEY, KEY])

    def test_unexpected_error(self) -> None:
        """A client that fails in a way nobody thought of is a temporary failure and a traceback in the log."""

        class Broken:
            def request(self, method: str, url: str, **options: Any) -> Deferred[Any]:
                return succeed(None).addCallback(lambda _: 1 // 0)

        backend = Backend("https://platform.test", Broken(), clock=Clock())
        failure = self.failureResultOf(Deferred.fromCoroutine(backend.send(SUBMISSION)), TemporaryFailure)
        self.assertIs(failure.value.reason, Reason.UNKNOWN_OUTCOME)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class PingTests(PlatformCase):
    """GET /api/ping."""

    def ping(self, *steps: Any, **policy: Any) -> Deferred[Any]:
        self.start(list(steps), **policy)
        return self.ask(self.backend.ping(KEY))

    def test_good(self) -> None:
        """A good key gives the account: name, routes and default route."""
        account = Account(KEY, "Company", (Route("1", "eu"), Route("2", "us")), "2")
        self.assertEqual(self.successResultOf(self.ping(http_answer(200, wire.encode_ping(account)))), account)
        (request,) = self.platform.requests
        self.assertEqual(request.line, "GET /api/ping HTTP/1.1")
        self.assertEqual(request.headers["x-auth-apikey"], KEY)
        self.assertNotIn("idempotency-key", request.headers)

    def test_sparse(self) -> None:
        """A platform that tells only the company's name is understood."""
        found = self.successResultOf(self.ping(http_answer(200, b'[{"name":"Company"}]')))
        self.assertEqual(found, Account(KEY, "Company"))

    def test_bad(self) -> None:
        """401 means that the key is not good, and so does 403 in the platform's own form."""
        self.assert_failed(self.ping(http_answer(401)), PermanentFailure, Reason.BAD_KEY)
        said = b'{"title":"Forbidden","description":"Account closed"}'
        self.assert_failed(self.ping(http_answer(403, said)), PermanentFailure, Reason.BAD_KEY)

    def test_not_known(self) -> None:
        """Whatever does not come from the platform's API says nothing about the key."""
        for steps in (
            [http_answer(403, b"<html>Blocked by the firewall</html>")],
            [http_answer(200, b"<html>Please sign in</html>")],
            [http_answer(204)],
            [http_answer(302, b"", "Location: /login")],
            [http_answer(404)],
            [http_answer(400)],
            [http_answer(500)],
            [http_answer(200, b"[")[:-1], CLOSE],
            [CLOSE],
        ):
            self.assert_failed(self.ping(*steps), TemporaryFailure, Reason.AUTH_UNAVAILABLE)

    def test_busy(self) -> None:
        """429 hands on how long to wait."""
        asked = self.ping(http_answer(429, b"", "Retry-After: 5"))
        self.assertEqual(self.assert_failed(asked, TemporaryFailure, Reason.AUTH_UNAVAILABLE).retry_after, 5.0)

    def test_deadline(self) -> None:
        """A ping has its own deadline."""
        asked = self.ping(ping_timeout=3.0, timeout=30.0)
        self.clock.advance(2.9)
        self.assertNoResult(asked)
        self.clock.advance(0.1)
        self.assert_failed(asked, TemporaryFailure, Reason.AUTH_UNAVAILABLE)
        self.assertEqual(self.labels, ["timeout"])

    def test_misconfiguration_is_logged(self) -> None:
        """A wrong ping path is in the log with its URL, without the key."""
        with capturedLogs() as events:
            self.failureResultOf(self.ping(http_answer(404)))
        self.assertIn("http://platform.test/api/ping answered 404", logged(events))
        self.assertNotIn(KEY, logged(events))


class ReachableTests(PlatformCase):
    """Whether the relay is ready (/readyz)."""

    def reachable(self, *steps: Any) -> Any:
        self.start(list(steps))
        return self.successResultOf(self.ask(self.backend.reachable()))

    def test_answers(self) -> None:
        """Any complete answer but 404 and 5xx says that the platform is there; the question carries no key."""
        for status, there in ((401, True), (200, True), (403, True), (400, True), (429, True), (404, False)):
            self.assertIs(self.reachable(http_answer(status, b"{}")), there, status)
            self.assertNotIn("x-auth-apikey", self.platform.requests[0].headers)
        for status in (500, 502, 503):
            self.assertIs(self.reachable(http_answer(status)), False)

    def test_faults(self) -> None:
        """A lost connection, half an answer and a platform that is down say that it is not."""
        self.assertIs(self.reachable(CLOSE), False)
        self.assertIs(self.reachable(http_answer(401, b"12345")[:-1], CLOSE), False)
        self.start()
        self.platform.failure = OSError("no route")
        self.assertIs(self.successResultOf(self.ask(self.backend.reachable())), False)

    def test_deadline(self) -> None:
        """A platform that is silent is not there when the ping's deadline has passed."""
        self.start([])
        asked = self.ask(self.backend.reachable())
        self.clock.advance(10.0)
        self.assertIs(self.successResultOf(asked), False)
