"""The API of the embedded backend: what it keeps, and how it is asked for it."""

from __future__ import annotations

import json
from typing import Any

import attrs
import sqlalchemy as sa
from twisted.internet.defer import Deferred

from relay import wire
from relay.client.bodies import Bodies
from relay.embedded import accounts, keys
from relay.embedded.database import change
from relay.embedded.rules import Refused
from relay.embedded.template import Rendered
from relay.values import Attachment, Route
from tests.embedded.inmemory import MESSAGE, BackendCase, Exchange, Held, Inline, Reply, ask

SEND = "/api/transactional/send"


class StoredTests(BackendCase):
    """What the log has of a submission."""

    def test_fields(self) -> None:
        """Every field of the submission is in the log, with when it came and what became of it."""
        reply = self.post(MESSAGE, X_Request_ID="4C0FFEE")
        (row,) = self.logged()
        same = {name: value for name, value in MESSAGE.items() if name not in ("body", "variables", "route")}
        self.assertEqual({name: row[name] for name in same}, same)
        self.assertEqual(row["id"], reply.json["id"])
        self.assertEqual(row["route"], "capture")
        self.assertEqual(row["status"], "captured")
        self.assertEqual(row["request_id"], "4C0FFEE")
        self.assertEqual(row["size"], len(MESSAGE["body"]))
        self.assertEqual(row["created"], "2026-11-23T13:20:00.000Z")

    def test_whole(self) -> None:
        """One message comes with the JSON as it was posted, and with the body."""
        id = self.sent(body="<p>Zoë \U0001f600</p>", extra={"kept": True})
        whole = self.get(f"/api/transactional/log/{id}").json
        self.assertEqual(whole["posted"], {**MESSAGE, "body": "<p>Zoë \U0001f600</p>", "extra": {"kept": True}})
        self.assertEqual(whole["body"], "<p>Zoë \U0001f600</p>")

    def test_rendered(self) -> None:
        """With variables the body is rendered, escaped; subject, From and Reply-To get their names replaced."""
        id = self.sent(
            body="<p>{{ name }}{% for n in list %}, {{ n }}{% endfor %}</p>",
            subject="Hi {{name}}, {{unknown}}",
            fromname="{{ name }}",
            fromemail="{{box}}@example.com",
            replyto="{{box}}@example.com",
            toname="{{name}}",
            variables={"name": "<Zoë>", "list": [1, 2], "box": "shop"},
        )
        whole = self.get(f"/api/transactional/log/{id}").json
        self.assertEqual(whole["body"], "<p>&lt;Zoë&gt;, 1, 2</p>")
        self.assertEqual(whole["subject"], "Hi <Zoë>, {{unknown}}")
        self.assertEqual(whole["fromname"], "<Zoë>")
        self.assertEqual((whole["fromemail"], whole["replyto"]), ("shop@example.com",) * 2)
        self.assertEqual(whole["toname"], "{{name}}")
        self.assertEqual(whole["posted"]["subject"], "Hi {{name}}, {{unknown}}")

    def test_not_rendered(self) -> None:
        """Without variables nothing is replaced; with an empty object it is."""
        plain = self.sent(body="{{ name }}", subject="{{name}}")
        self.assertEqual(self.get(f"/api/transactional/log/{plain}").json["body"], "{{ name }}")
        empty = self.sent(body="a{{ name }}", variables={})
        self.assertEqual(self.get(f"/api/transactional/log/{empty}").json["body"], "a")

    def test_subject_grows(self) -> None:
        """A subject that its variables make too long is refused by name."""
        reply = self.post({**MESSAGE, "subject": "{{a}}{{a}}", "variables": {"a": "x" * 6000}})
        self.assertEqual(reply.status, 400)
        self.assertIn("subject: ", reply.json["description"])

    def test_what_databases_refuse(self) -> None:
        """NUL and lone surrogates break neither the database nor the log; the JSON is kept as it came."""
        id = self.sent(body="a\x00b\ud800c")
        whole = self.get(f"/api/transactional/log/{id}").json
        self.assertEqual(whole["body"], "a\x00b\ud800c")
        id = self.sent(body="{{ a }}", variables={"a": "\x00\ud800"})
        self.assertEqual(self.get(f"/api/transactional/log/{id}").json["body"], "\ufffd\ufffd")

    def test_restart(self) -> None:
        """After a restart the key is the same and the messages are there."""
        key, id = self.backend.api_key, self.sent()
        self.successResultOf(self.backend.close())
        self.start()
        self.assertEqual(self.backend.api_key, key)
        self.assertEqual([row["id"] for row in self.logged()], [id])


class LogTests(BackendCase):
    """How the log is asked."""

    def test_newest_first(self) -> None:
        """The newest message comes first."""
        ids = [self.sent() for _ in range(3)]
        self.assertEqual([row["id"] for row in self.logged()], ids[::-1])

    def test_filters(self) -> None:
        """Each filter leaves what matches it."""
        one = self.sent(to="Jane@Example.org", tag="orders", subject="50% off_now")
        two = self.sent(to="joe@example.org", tag="welcome")
        self.post({**MESSAGE, "to": "x@example.org"}, X_Request_ID="4C0FFEE")
        three = self.logged()[0]["id"]
        for query, ids in {
            "?to=jane@example.org": [one],
            "?to=JOE%40example.org": [two],
            "?to=j": [three, two, one],
            "?to=xj": [],
            "?tag=ORDERS": [one],
            "?status=captured": [three, two, one],
            "?status=failed": [],
            "?route=capture&tag=orders": [one],
            "?request_id=4C0FFEE": [three],
            "?search=JOE": [two],
            "?search=50%25": [one],
            "?search=off_n": [one],
            "?search=0%25": [],
            "?search=_%25": [],
            "?search=shop@": [three, two, one],
        }.items():
            self.assertEqual([row["id"] for row in self.logged(query)], ids, query)

    def test_pages(self) -> None:
        """``limit`` and ``before`` walk through the log without gap or repetition, to its end."""
        ids = [self.sent() for _ in range(5)][::-1]
        seen, before = [], ""
        for _ in range(3):
            page = self.get(f"/api/transactional/log?limit=2{before}").json
            seen.append([row["id"] for row in page["messages"]])
            before = f"&before={page['before']}"
        self.assertEqual(seen, [ids[:2], ids[2:4], ids[4:]])
        self.assertIsNone(page["before"])

    def test_wrong_questions(self) -> None:
        """A filter that is not there, a limit out of range and a strange cursor are named."""
        for query, word in {
            "?form=a": "form",
            "?limit=0": "limit",
            "?status=lost": "captured, queued",
            "?limit=501": "limit",
            "?limit=x": "limit",
            "?limit=-1": "limit",
            "?before=NOPE": "before",
        }.items():
            reply = self.get(f"/api/transactional/log{query}")
            self.assertEqual(reply.status, 400, query)
            self.assertIn(word, reply.json["description"])

    def test_not_there(self) -> None:
        """An id that is not there, and a path below an id, are 404."""
        id = self.sent()
        for path in ("NOPE", f"{id}/more", "%00", "%ff"):
            self.assertEqual(self.get(f"/api/transactional/log/{path}").status, 404, path)

    def test_head(self) -> None:
        """HEAD has the headers of GET and no body."""
        reply = ask(self.site, "HEAD", "/api/ping", {"X-Auth-APIKey": self.backend.api_key})
        self.assertEqual((reply.status, reply.body), (200, b""))
        self.assertNotEqual(reply.headers["content-length"], "0")

    def test_healthy(self) -> None:
        """``/api/healthy`` says ok to anyone, and no more."""
        reply = ask(self.site, "GET", "/api/healthy")
        self.assertEqual((reply.status, reply.json), (200, {"result": "ok"}))
        self.assertEqual(ask(self.site, "GET", "/api/healthy/more").status, 404)


class TwoAccountsTests(BackendCase):
    """Accounts own everything."""

    KEY = "second-account-key-0123456789"

    def setUp(self) -> None:
        super().setUp()
        engine = self.engine()

        def second(connection: sa.Connection) -> None:
            account = accounts.add(connection, "Second", 0.0)
            keys.add_key(connection, account, self.KEY, 0.0)
            accounts.add_route(connection, account, Route("archive", "Archive of mail"), 0.0)

        change(engine, second)

    def test_separate(self) -> None:
        """No path shows one account the other's messages."""
        mine = self.sent()
        theirs = self.post({**MESSAGE, "route": "archive"}, key=self.KEY).json["id"]
        self.assertEqual([row["id"] for row in self.logged()], [mine])
        listed = self.get("/api/transactional/log", key=self.KEY).json["messages"]
        self.assertEqual([row["id"] for row in listed], [theirs])
        self.assertEqual(self.get(f"/api/transactional/log/{theirs}").status, 404)
        self.assertEqual(self.get(f"/api/transactional/log/{mine}", key=self.KEY).status, 404)
        self.assertEqual(self.get(f"/api/transactional/log?before={theirs}").status, 400)

    def test_separate_idempotency(self) -> None:
        """The same Idempotency-Key of two accounts stands for two messages."""
        mine = self.post(MESSAGE, Idempotency_Key="K").json["id"]
        theirs = self.post({**MESSAGE, "route": "archive"}, key=self.KEY, Idempotency_Key="K").json["id"]
        self.assertNotEqual(mine, theirs)

    def test_several_routes(self) -> None:
        """An account with several routes and no default must name one, and is told which there are."""
        reply = self.post(MESSAGE, key=self.KEY)
        self.assertEqual(reply.status, 400)
        self.assertIn("archive, capture", reply.json["description"])
        self.assertEqual(self.post({**MESSAGE, "route": "archive of MAIL"}, key=self.KEY).status, 200)
        self.assertEqual(self.post({**MESSAGE, "route": "archive"}).status, 403)

    def test_ping(self) -> None:
        """Each key is told of its own account's routes."""
        (said,) = self.get("/api/ping", key=self.KEY).json
        routes = [{"id": "archive", "name": "Archive of mail"}, {"id": "capture", "name": "Capture"}]
        self.assertEqual(said, {"name": "Second", "routes": routes, "default_route": ""})


class IdempotencyTests(BackendCase):
    """The same message again."""

    def test_stored_once(self) -> None:
        """A repetition is stored once."""
        for _ in range(3):
            self.post(MESSAGE, Idempotency_Key="K")
        self.assertEqual(len(self.logged()), 1)

    def test_without_key(self) -> None:
        """Without a key, the same message twice is two messages."""
        self.assertNotEqual(self.sent(), self.sent())

    def test_a_day(self) -> None:
        """A key is remembered for 24 hours, across a restart, and then stands for a new message."""
        first = self.post(MESSAGE, Idempotency_Key="K").json["id"]
        self.clock.advance(86_399)
        self.successResultOf(self.backend.close())
        self.start()
        self.assertEqual(self.post(MESSAGE, Idempotency_Key="K").json["id"], first)
        self.clock.advance(1)
        second = self.post({**MESSAGE, "subject": "Other"}, Idempotency_Key="K").json["id"]
        self.assertNotEqual(second, first)
        self.clock.advance(86_399)
        self.assertEqual(self.post({**MESSAGE, "subject": "Other"}, Idempotency_Key="K").json["id"], second)

    def test_form_of_the_json(self) -> None:
        """The order and spacing of the JSON do not make another message; an attachment does."""
        first = self.post(MESSAGE, Idempotency_Key="K").json["id"]
        turned = dict(reversed(MESSAGE.items()))
        self.assertEqual(self.post(turned, Idempotency_Key="K").json["id"], first)

    def test_rendered_once(self) -> None:
        """A repetition of a message with variables is not rendered again."""
        rendered: list[str] = []

        async def render(source: str, variables: Any) -> Rendered:
            rendered.append(source)
            return Rendered(source)

        self.successResultOf(self.backend.close())
        self.start(render=render)
        for _ in range(2):
            self.post({**MESSAGE, "variables": {}}, Idempotency_Key="K")
        self.assertEqual(len(rendered), 1)


class WaitingTests(BackendCase):
    """While the database is busy."""

    def setUp(self) -> None:
        super().setUp()
        self.successResultOf(self.backend.close())
        self.writer = Held()
        self.start(executor=lambda threads, name: self.writer if threads == 1 else Inline())
        # The cleanup that closes the backend needs its commits done.
        self.addCleanup(self.writer.release)

    def exchange(self, key: str, **changed: Any) -> Exchange:
        """A submission under way."""
        exchange = Exchange(self.site, "127.0.0.1")
        headers = [("X-Auth-APIKey", self.backend.api_key), ("Idempotency-Key", key)]
        exchange.send("POST", SEND, headers, json.dumps({**MESSAGE, **changed}).encode())
        return exchange

    def replies(self, exchanges: list[Exchange]) -> list[Reply]:
        while self.writer.jobs:
            self.writer.release()
        return [exchange.reply() for exchange in exchanges]

    def test_durable_before_200(self) -> None:
        """No answer goes out before the commit."""
        exchange = self.exchange("K")
        self.assertFalse(exchange.answered)
        self.assertEqual(self.logged(), [])
        (reply,) = self.replies([exchange])
        self.assertEqual(reply.status, 200)

    def test_two_at_once(self) -> None:
        """Two concurrent submissions with one key get the same id and are stored once."""
        replies = self.replies([self.exchange("K"), self.exchange("K"), self.exchange("K")])
        self.assertEqual([reply.status for reply in replies], [200] * 3)
        self.assertEqual(len({reply.json["id"] for reply in replies}), 1)
        self.assertEqual(len(self.logged()), 1)

    def test_two_at_once_that_differ(self) -> None:
        """Of two concurrent different messages with one key the second is refused."""
        first, second = self.replies([self.exchange("K"), self.exchange("K", subject="Other")])
        self.assertEqual((first.status, second.status), (200, 422))

    def test_one_commit(self) -> None:
        """What arrives during a commit shares the next one."""
        exchanges = [self.exchange(str(number)) for number in range(10)]
        self.assertEqual(len(self.writer.jobs), 1)
        self.writer.release()
        self.assertEqual([exchange.answered for exchange in exchanges], [True] + [False] * 9)
        self.assertEqual(len(self.writer.jobs), 1)
        self.writer.release()
        self.assertTrue(all(exchange.answered for exchange in exchanges))

    def test_client_gone(self) -> None:
        """A client that leaves before its answer loses nothing and disturbs nobody."""
        gone, stays = self.exchange("K"), self.exchange("L")
        gone.transport.loseConnection()
        self.assertEqual(self.replies([stays])[0].status, 200)
        self.assertEqual(len(self.logged()), 2)


class FaultTests(BackendCase):
    """When something under the API fails."""

    def broken(self, error: Exception) -> None:
        """Let every commit fail with *error*."""

        class Broken(Inline):
            def run(self, job: Any) -> Deferred[Any]:
                def fail() -> None:
                    raise error

                return super().run(fail)

        self.successResultOf(self.backend.close())
        self.start(executor=lambda threads, name: Broken() if threads == 1 else Inline())

    def test_disk_full(self) -> None:
        """A commit that fails is a 503, so that the client comes again, and the log has the reason."""
        self.broken(sa.exc.OperationalError("INSERT", {}, Exception("database or disk is full")))
        reply = self.post(MESSAGE)
        self.assertEqual(reply.status, 503)
        self.assertNotIn("INSERT", reply.text)
        self.assertEqual(ask(self.site, "GET", "/api/healthy").status, 503)
        self.assertEqual(len(self.flushLoggedErrors(sa.exc.OperationalError)), 2)

    def test_bug(self) -> None:
        """An unknown exception is a 500 without a traceback, and is logged without the key."""
        self.broken(ZeroDivisionError("secret detail"))
        reply = self.post(MESSAGE)
        self.assertEqual(reply.status, 500)
        self.assertEqual(set(reply.json), {"title", "description"})
        self.assertNotIn("secret", reply.text)
        (failure,) = self.flushLoggedErrors(ZeroDivisionError)
        self.assertNotIn(self.backend.api_key, failure.getTraceback())

    def test_rendering_busy(self) -> None:
        """When too many templates wait the client is asked to come again."""

        async def render(source: str, variables: Any) -> Rendered:
            raise Refused(503, "Busy", "Too many templates wait")

        self.successResultOf(self.backend.close())
        self.start(render=render)
        self.assertEqual(self.post({**MESSAGE, "variables": {}}).status, 503)


class FormTests(BackendCase):
    """multipart/form-data with attachments."""

    def form(self, *parts: tuple[str, str, bytes], boundary: str = "b0") -> Reply:
        """POST a form of (name with parameters, content type, content)."""
        body = b"".join(
            b'--b0\r\nContent-Disposition: form-data; name="%b\r\nContent-Type: %b\r\n\r\n%b\r\n'
            % (name.encode(), kind.encode(), content)
            for name, kind, content in parts
        )
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}", "X-Auth-APIKey": self.backend.api_key}
        return ask(self.site, "POST", SEND, headers, body + b"--b0--\r\n")

    PAYLOAD = ('payload"', "application/json", json.dumps(MESSAGE).encode())

    def test_attachments(self) -> None:
        """Files are kept with name, type and size."""
        reply = self.form(
            self.PAYLOAD,
            ('attachment_metadata"', "application/json", b'{"filename": "Rechnung M\xc3\xa4rz.pdf"}'),
            ('attachment"; filename="x.pdf"', "application/pdf", b"%PDF-1.7 \x00\xff\r\n--b"),
            ('attachment_metadata"', "application/json", b"{}"),
            ('attachment"; filename="../../etc/passwd"', "text/plain", b""),
        )
        self.assertEqual(reply.status, 200, reply.body)
        files = self.get(f"/api/transactional/log/{reply.json['id']}").json["attachments"]
        self.assertEqual(files[0], {"filename": "Rechnung März.pdf", "content_type": "application/pdf", "size": 16})
        self.assertEqual((files[1]["content_type"], files[1]["size"]), ("text/plain", 0))
        self.assertEqual(self.logged()[0]["attachments"], 2)

    def test_without_files(self) -> None:
        """A form with the payload alone is a submission."""
        self.assertEqual(self.form(self.PAYLOAD).status, 200)

    def test_as_the_relay_sends_it(self) -> None:
        """What the relay's client writes is understood, and its repetition is the same message."""
        submission = wire.decode_submission(self.PAYLOAD[2], idempotency_key="K")
        submission = attrs.evolve(submission, attachments=(Attachment('ä "b".txt', "text/plain", b"hello"),))
        encoded = Bodies().encode(submission)
        kind, body = encoded.content_type, b"".join(encoded.pieces)
        headers = {"Content-Type": kind, "X-Auth-APIKey": self.backend.api_key, "Idempotency-Key": "K"}
        first, again = (ask(self.site, "POST", SEND, headers, body) for _ in range(2))
        self.assertEqual(first.status, 200, first.body)
        self.assertEqual(first.json, again.json)
        (file,) = self.get(f"/api/transactional/log/{first.json['id']}").json["attachments"]
        self.assertEqual(file, {"filename": 'ä "b".txt', "content_type": "text/plain", "size": 5})

    def test_damaged(self) -> None:
        """A form that is not one, or lacks the payload, is a 400 that says so."""
        metadata = ('attachment_metadata"', "application/json", b"{}")
        file = ('attachment"; filename="a"', "text/plain", b"a")
        for reply, word in (
            (self.form(), "payload"),
            (self.form(self.PAYLOAD, self.PAYLOAD), "payload"),
            (self.form(self.PAYLOAD, boundary="other"), "form"),
            (self.form(self.PAYLOAD, boundary=""), "form"),
            (self.form(self.PAYLOAD, metadata), "attachment_metadata"),
            (self.form(self.PAYLOAD, ('attachment_metadata"', "application/json", b"[]"), file), "JSON object"),
            (self.form(self.PAYLOAD, ('other"', "text/plain", b"")), "other"),
            (self.form(self.PAYLOAD, *([file] * 402)), "form"),
        ):
            self.assertEqual(reply.status, 400, reply.body)
            self.assertIn(word, reply.json["description"])
