"""The HTTP contract as a platform must keep it (HTTP_CONTRACT.md): one suite for every implementation.

Another implementation is a subclass of :class:`HTTPContract` and a TestCase that defines :meth:`~HTTPContract.ask`.
"""

from __future__ import annotations

import json
from typing import Any

from tests.embedded.inmemory import MESSAGE, BackendCase, Reply, ask

SEND = "/api/transactional/send"


class HTTPContract:
    """What holds for a platform with one account, whose key is :attr:`key`, and one route, ``capture``."""

    key: str
    #: A request body larger than the platform takes, in bytes.
    oversized: int

    def ask(self, method: str, path: str, headers: list[tuple[str, str]], body: bytes) -> Reply:
        """One request and its answer."""
        raise NotImplementedError

    def send(self, _body: bytes | None = None, *, headers: dict[str, str] | None = None, **changed: Any) -> Reply:
        """POST a good submission with some fields changed; None leaves a field out."""
        fields = {name: value for name, value in {**MESSAGE, **changed}.items() if value is not None}
        body = json.dumps(fields).encode() if _body is None else _body
        given = {"X-Auth-APIKey": self.key, "Content-Type": "application/json", **(headers or {})}
        return self.ask("POST", SEND, list(given.items()), body)

    def refused(self, reply: Reply, status: int, *words: str) -> None:
        """It is an error of the contract's form, and its description has *words*."""
        self.assertEqual(reply.status, status, reply.body)
        self.assertEqual(reply.headers["content-type"], "application/json")
        self.assertEqual(set(reply.json), {"title", "description"})
        self.assertTrue(reply.json["title"])
        for word in words:
            self.assertIn(word, reply.json["description"])

    def accepted(self, reply: Reply) -> dict[str, Any]:
        """It is the contract's 200."""
        self.assertEqual(reply.status, 200, reply.body)
        self.assertEqual(reply.headers["content-type"], "application/json")
        self.assertEqual(reply.json["result"], "ok")
        return reply.json

    # Keys

    def test_ping(self) -> None:
        """A good key gets a list with the company's name, and its routes."""
        reply = self.ask("GET", "/api/ping", [("X-Auth-APIKey", self.key)], b"")
        self.assertEqual(reply.status, 200)
        self.assertEqual(reply.headers["content-type"], "application/json")
        (account,) = reply.json
        self.assertTrue(account["name"])
        self.assertEqual([route["id"] for route in account["routes"]], ["capture"])
        self.assertEqual(account["default_route"], "capture")

    def test_bad_keys(self) -> None:
        """No key, a wrong key, a key with one letter changed, and two keys are refused, at ping and at send."""
        wrong = [("X-Auth-APIKey", "wrong")], [("X-Auth-APIKey", self.key.swapcase())], [], [("X-Auth-APIKey", "é")]
        for headers in wrong:
            self.refused(self.ask("GET", "/api/ping", headers, b""), 401)
            self.refused(self.ask("POST", SEND, headers, json.dumps(MESSAGE).encode()), 401)
        twice = [("X-Auth-APIKey", self.key), ("X-Auth-APIKey", self.key)]
        self.refused(self.ask("GET", "/api/ping", twice, b""), 400, "more than once")

    def test_key_before_everything(self) -> None:
        """Who has no key learns nothing of what is wrong with the message."""
        self.refused(self.send(b"{", headers={"X-Auth-APIKey": "wrong"}), 401)

    # Methods, paths, kinds of body

    def test_methods(self) -> None:
        """A wrong method gets 405 and the right ones."""
        for method, path, allowed in (("GET", SEND, "POST"), ("PUT", SEND, "POST"), ("POST", "/api/ping", "GET, HEAD")):
            reply = self.ask(method, path, [("X-Auth-APIKey", self.key)], b"")
            self.refused(reply, 405)
            self.assertEqual(reply.headers["allow"], allowed)

    def test_paths(self) -> None:
        """What is not there is 404, in JSON."""
        for path in ("/api/", "/api/pong", "/api/transactional", f"{SEND}/more", "/api/ping/more"):
            method = "POST" if path.startswith(SEND) else "GET"
            self.refused(self.ask(method, path, [("X-Auth-APIKey", self.key)], b""), 404)

    def test_content_type(self) -> None:
        """JSON of any charset parameter is taken; a form or a compressed body gets 415."""
        self.accepted(self.send(headers={"Content-Type": "application/json; charset=utf-8"}))
        self.refused(self.send(headers={"Content-Type": "application/x-www-form-urlencoded"}), 415, "application/json")
        self.refused(self.send(headers={"Content-Type": "text/plain"}), 415)
        self.refused(self.send(headers={"Content-Encoding": "gzip"}), 415)

    def test_too_large(self) -> None:
        """A body past the bound gets 413, however its length is declared."""
        body = b"x" * self.oversized
        self.refused(self.send(body), 413)
        chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        self.refused(self.send(chunked, headers={"Transfer-Encoding": "chunked"}), 413)

    def test_not_json(self) -> None:
        """A body that is no JSON object gets 400 and where it is wrong."""
        self.refused(self.send(b'{"to": }'), 400, "column 8")
        self.refused(self.send(b""), 400, "not JSON")
        self.refused(self.send(b"[1]"), 400, "object")
        self.refused(self.send(b"\xff\xfe\xfd"), 400)
        self.refused(self.send(b"[" * 100_000), 400)

    def test_types(self) -> None:
        """A field of the wrong type is named."""
        self.refused(self.send(subject=7), 400, "subject")
        self.refused(self.send(to=["a@example.com"]), 400, "to")
        self.refused(self.send(variables=[1]), 400, "variables")
        self.refused(self.send(variables="{}"), 400, "variables")

    # Fields

    def test_accepted(self) -> None:
        """A good submission is answered with its tag, its recipient and ok."""
        said = self.accepted(self.send())
        self.assertEqual((said["tag"], said["to"]), ("welcome", "jane@example.org"))

    def test_missing(self) -> None:
        """To, subject and body are needed, and null, blank and absent are the same."""
        for name in ("to", "subject", "body"):
            for value in (None, "", " "):
                self.refused(self.send(**{name: value}), 400, name, "missing")
            body = json.dumps({**MESSAGE, name: None}).encode()
            self.refused(self.send(body), 400, name, "missing")

    def test_optional(self) -> None:
        """All the rest may be absent."""
        rest = {name: None for name in MESSAGE if name not in ("to", "subject", "body")}
        self.assertEqual(self.accepted(self.send(**rest))["tag"], "untagged")

    def test_recipients(self) -> None:
        """Addresses as RCPT TO may have them are taken, everything else is refused."""
        good = ("a@b", "a.b+c@sub.example.com", "jörg@exämple.de", '"a b"@example.com', "a@[192.0.2.1]", "o'h@x.ie")
        for address in good:
            self.assertEqual(self.accepted(self.send(to=address))["to"], address)
        bad = ("a", "@b", "a@", "a@b@c", "a b@c", "a@b c", "Jane <a@b>", "a@b, c@d", "a@.b", "a@b..c", '"a@b')
        for address in (*bad, "x" * 65 + "@b", "a@" + "b" * 256):
            self.refused(self.send(to=address), 400, "to:")

    def test_control_characters(self) -> None:
        """A line end in a field would be a header of its own: refused."""
        for name in ("to", "subject", "fromname", "fromemail", "replyto", "toname", "returnpath", "tag"):
            self.refused(self.send(**{name: "a@b\r\nBcc: c@d"}), 400, name)

    def test_tags(self) -> None:
        """A tag is lower-cased, of a-z 0-9 . _ - and at most 18 long; blank is untagged."""
        for given, tag in (
            ("Welcome-2_b.c", "welcome-2_b.c"),
            ("", "untagged"),
            (" ", "untagged"),
            ("X" * 18, "x" * 18),
        ):
            self.assertEqual(self.accepted(self.send(tag=given))["tag"], tag)
        for given in ("x" * 19, "a b", "a/b", "ä", "a,b", "<b>"):
            self.refused(self.send(tag=given), 400, "tag", "18")

    def test_many_tags(self) -> None:
        """An account has at most 400 different tags; those it has used, and none, go on."""
        for number in range(400):
            self.accepted(self.send(tag=f"t{number}"))
        self.refused(self.send(tag="one-more"), 400, "400", "one-more")
        self.accepted(self.send(tag="T399"))
        self.accepted(self.send(tag=""))

    def test_routes(self) -> None:
        """The only route is used when none is named; it is found by id or name in any case; another is refused."""
        for given in ("", "capture", "Capture", "CAPTURE", " capture "):
            self.accepted(self.send(route=given))
        for given in ("other", "capture2", "../capture", "http://127.0.0.1/"):
            self.refused(self.send(route=given), 403, "route", "capture")

    def test_templates(self) -> None:
        """A template that the account does not have is refused, though the body may be empty with it."""
        self.refused(self.send(template="welcome"), 403, "no such template", "welcome")
        self.refused(self.send(template="welcome", body="", subject=""), 403, "no such template")

    def test_variables(self) -> None:
        """With variables the body is a Jinja2 template, whose mistakes come back with their line."""
        self.accepted(self.send(body="{% if %}"))
        self.accepted(self.send(body="<p>{{ name }}</p>", variables={"name": "Zoë"}))
        self.refused(self.send(body="<p>\n{% if %}", variables={}), 400, "line 2")
        self.refused(self.send(body="{{ a.b.c }}", variables={}), 400, "line 1", "undefined")
        self.refused(self.send(body='{% include "/etc/passwd" %}', variables={}), 400, "line 1")

    def test_variables_that_are_not_json(self) -> None:
        """NaN, and objects nested past all measure, are refused."""
        nan = json.dumps({**MESSAGE, "variables": {"a": float("nan")}}).encode()
        self.refused(self.send(nan), 400, "NaN")
        for depth, status in ((90, 200), (101, 400), (500, 400), (9000, 400)):
            nested = b"[" * (depth - 1) + b"]" * (depth - 1)
            reply = self.send(b'{"to":"a@b","subject":"s","body":"b","variables":{"a":%b}}' % nested)
            self.assertEqual(reply.status, status, (depth, reply.body))

    # Idempotency-Key

    def test_repetition(self) -> None:
        """The same message with the same key is answered as the first time."""
        first = self.accepted(self.send(headers={"Idempotency-Key": "K1"}))
        self.assertEqual(self.accepted(self.send(headers={"Idempotency-Key": "K1"})), first)

    def test_repetition_rendered(self) -> None:
        """So it is for a message with variables, in whatever order they come."""
        ordered, turned = {"a": 1, "b": 2}, {"b": 2, "a": 1}
        first = self.accepted(self.send(headers={"Idempotency-Key": "K1"}, variables=ordered))
        self.assertEqual(self.accepted(self.send(headers={"Idempotency-Key": "K1"}, variables=turned)), first)

    def test_key_for_another_message(self) -> None:
        """Another message under the same key is refused, rather than lost."""
        self.accepted(self.send(headers={"Idempotency-Key": "K1"}))
        self.refused(self.send(headers={"Idempotency-Key": "K1"}, subject="Other"), 422, "24 hours")
        self.refused(self.send(headers={"Idempotency-Key": "K1"}, subject="Other", variables={}), 422)

    def test_key_of_a_refused_message(self) -> None:
        """A refusal does not use up the key."""
        self.refused(self.send(headers={"Idempotency-Key": "K1"}, to=""), 400)
        self.accepted(self.send(headers={"Idempotency-Key": "K1"}))

    def test_bad_idempotency_key(self) -> None:
        """A key is at most 255 printable ASCII characters."""
        self.accepted(self.send(headers={"Idempotency-Key": "k" * 255}))
        self.refused(self.send(headers={"Idempotency-Key": "k" * 256}), 400, "Idempotency-Key")
        self.refused(self.send(headers={"Idempotency-Key": "ä"}), 400, "Idempotency-Key")


class EmbeddedContractTests(HTTPContract, BackendCase):
    """The embedded backend keeps the contract."""

    oversized = 300_001

    def setUp(self) -> None:
        super().setUp()
        self.key = self.backend.api_key

    def ask(self, method: str, path: str, headers: list[tuple[str, str]], body: bytes) -> Reply:
        return ask(self.site, method, path, headers, body)
