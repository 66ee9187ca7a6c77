"""``/api/transactional/templates``."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from relay.embedded import accounts, template
from relay.embedded.template import Rendered
from relay.values import Route
from tests.embedded.inmemory import MESSAGE, BackendCase, Reply, ask

TEMPLATES = "/api/transactional/templates"

FIELDS = {
    "name": "Welcome mail",
    "subject": "Hi {{name}}",
    "fromname": "Shop",
    "fromemail": "shop@example.com",
    "replyto": "help@example.com",
    "returnpath": "",
    "tag": "welcome",
    "body": "<p>{{ name }}</p>",
}


class TemplateCase(BackendCase):
    """An account with the template ``welcome-mail``."""

    def setUp(self) -> None:
        super().setUp()
        self.made = self.call("POST", "", FIELDS, status=201).json

    def call(self, method: str, path: str = "", given: object = None, status: int = 200, **headers: str) -> Reply:
        """A request below the templates, with the status that it must get."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {"X-Auth-APIKey": self.backend.api_key, "Content-Type": "application/json", **named}
        body = b"" if given is None else json.dumps(given).encode()
        reply = ask(self.site, method, f"{TEMPLATES}{path}", sent, body)
        self.assertEqual(reply.status, status, reply.body)
        return reply

    def refused(
        self, status: int, word: str, method: str, path: str = "", given: object = None, **headers: str
    ) -> None:
        """It is refused, with an error of the contract that has *word*."""
        reply = self.call(method, path, given, status, **headers)
        self.assertEqual(set(reply.json), {"title", "description"})
        self.assertIn(word, reply.json["description"])


class ManagedTests(TemplateCase):
    """Made, read, changed, deleted."""

    def test_made(self) -> None:
        """A template comes back with its id, its version and its times."""
        at = "2026-11-23T13:20:00.000Z"
        expected = {"id": "welcome-mail", "version": 1, "created": at, "updated": at, **FIELDS}
        self.assertEqual(self.made, expected)
        self.assertEqual(self.call("GET", "/welcome-mail").json, expected)
        self.assertEqual(self.call("GET", "/Welcome-Mail").json, expected)

    def test_listed(self) -> None:
        """The list has no bodies, and takes a search and a tag."""
        self.call("POST", "", {"id": "order", "name": "An order"}, 201)
        listed = self.call("GET").json["templates"]
        self.assertEqual([each["id"] for each in listed], ["order", "welcome-mail"])
        self.assertEqual(listed[1], {name: value for name, value in self.made.items() if name != "body"})
        for query, ids in {"?search=ORD": ["order"], "?tag=welcome": ["welcome-mail"], "?search=x&tag=y": []}.items():
            self.assertEqual([each["id"] for each in self.call("GET", query).json["templates"]], ids, query)

    def test_wrong(self) -> None:
        """What is wrong with a template is named."""
        for given, word in (
            ({}, "name: is missing"),
            ({"name": 1}, "name: must be a string"),
            ({"name": "a", "Subject": "b"}, "Subject: no such field"),
            ({"name": "a", "id": "a b"}, "id: "),
            ({"name": "a", "id": " "}, "id: "),
            ({"name": "a", "tag": "Ä"}, "tag: "),
            ({"name": "a", "fromemail": "shop"}, "fromemail: "),
            ({"name": "a", "subject": "a\nb"}, "subject: "),
            ({"name": "a", "body": "a\n{{ b c }}"}, "body: line 2: expected token"),
            ([], "object"),
        ):
            self.refused(400, word, "POST", "", given)
        self.assertEqual(len(self.call("GET").json["templates"]), 1)

    def test_taken(self) -> None:
        """An id that is taken is 409."""
        self.refused(409, "welcome-mail", "POST", "", {"name": "a", "id": "welcome-mail"})

    def test_kinds_of_body(self) -> None:
        """Only JSON is taken, and only as it is."""
        self.refused(415, "application/json", "POST", "", FIELDS, Content_Type="multipart/form-data; boundary=b")
        self.refused(415, "compressed", "POST", "", FIELDS, Content_Encoding="gzip")

    def test_replaced(self) -> None:
        """PUT replaces every field, and makes the template where it is missing."""
        self.clock.advance(60)
        put = self.call("PUT", "/welcome-mail", {"name": "Welcome", "subject": "Two"}).json
        self.assertEqual((put["version"], put["subject"], put["body"]), (2, "Two", ""))
        self.assertEqual((put["created"], put["updated"]), (self.made["created"], "2026-11-23T13:21:00.000Z"))
        new = self.call("PUT", "/order", {"name": "Order"}, 201).json
        self.assertEqual((new["id"], new["version"]), ("order", 1))
        self.assertEqual(self.call("PUT", "/order", {"name": "Order"}).json, new)
        self.refused(400, "id", "PUT", "/a%20b", {"name": "a"})
        self.refused(400, "name", "PUT", "/order", {})

    def test_put_back(self) -> None:
        """What was read can be put back, and is the same version."""
        self.assertEqual(self.call("PUT", "/welcome-mail", self.made).json, self.made)
        self.refused(400, "keeps its id", "PUT", "/welcome-mail", {**self.made, "id": "other"})

    def test_changed(self) -> None:
        """PATCH changes what is given and leaves the rest."""
        patched = self.call("PATCH", "/welcome-mail", {"tag": "HELLO"}).json
        self.assertEqual(patched, {**self.made, "tag": "hello", "version": 2})
        self.refused(404, "no such template", "PATCH", "/nope", {"tag": "a"})
        self.refused(400, "line 1", "PATCH", "/welcome-mail", {"body": "{% if %}"})

    def test_saved_meanwhile(self) -> None:
        """Who gives the version that it changes is told when it is not the newest, for PUT and PATCH."""
        self.call("PATCH", "/welcome-mail", {"subject": "Two", "version": 1})
        self.refused(409, "Version 2", "PATCH", "/welcome-mail", {"subject": "Three", "version": 1})
        self.refused(409, "Version 2", "PUT", "/welcome-mail", {**FIELDS, "version": 1})
        self.refused(404, "no such template", "PUT", "/nope", {**FIELDS, "version": 1})
        for version in ("1", True, 1.0):
            self.refused(400, "version", "PATCH", "/welcome-mail", {"version": version})

    def test_deleted(self) -> None:
        """A deleted template is gone."""
        self.assertEqual(self.call("DELETE", "/welcome-mail").json, {"result": "ok"})
        for method in ("GET", "DELETE"):
            self.refused(404, "no such template", method, "/welcome-mail")

    def test_duplicate(self) -> None:
        """A copy has an id of its own."""
        copy = self.call("POST", "/welcome-mail/duplicate", status=201).json
        self.assertEqual((copy["id"], copy["name"]), ("copy-of-welcome-mail", "Copy of Welcome mail"))
        self.assertEqual(copy["body"], FIELDS["body"])

    def test_versions(self) -> None:
        """The history is listed newest first, a version has its body, and comes back by restoring it."""
        self.call("PATCH", "/welcome-mail", {"body": "<p>Two</p>"})
        listed = self.call("GET", "/welcome-mail/versions").json["versions"]
        self.assertEqual([(each["version"], each["author"]) for each in listed], [(2, "API"), (1, "API")])
        self.assertNotIn("body", listed[0])
        one = self.call("GET", "/welcome-mail/versions/1").json
        self.assertEqual({name: one[name] for name in FIELDS}, FIELDS)
        restored = self.call("POST", "/welcome-mail/versions/1/restore").json
        self.assertEqual((restored["version"], restored["body"]), (3, FIELDS["body"]))
        for path in ("/welcome-mail/versions/9", "/welcome-mail/versions/x", "/nope/versions/1", "/nope/versions"):
            self.refused(404, "", "GET", path)

    def test_idempotency(self) -> None:
        """The same creation again makes no second template; another one with its key is 422."""
        given = {"name": "Order"}
        first = self.call("POST", "", given, 201, Idempotency_Key="K").json
        self.assertEqual(self.call("POST", "", given, 201, Idempotency_Key="K").json, first)
        self.refused(422, "Idempotency-Key", "POST", "", {"name": "Other"}, Idempotency_Key="K")
        self.assertEqual(len(self.call("GET").json["templates"]), 2)
        self.refused(400, "Idempotency-Key", "POST", "", given, Idempotency_Key="x" * 256)

    def test_methods(self) -> None:
        """A method that a path does not have is 405 with those that it has."""
        for path, allow in {"": "GET, HEAD, POST", "/a": "GET, HEAD, PUT, PATCH, DELETE", "/a/test": "POST"}.items():
            self.assertEqual(self.call("OPTIONS", path, status=405).headers["allow"], allow)

    def test_key(self) -> None:
        """No path answers without a key."""
        for path in ("", "/a", "/a/versions", "/a/versions/1"):
            self.assertEqual(ask(self.site, "GET", f"{TEMPLATES}{path}").status, 401)


class PreviewTests(TemplateCase):
    """What a template would become."""

    def preview(self, status: int = 200, **given: Any) -> Any:
        return self.call("POST", "/welcome-mail/preview", given, status).json

    def test_rendered(self) -> None:
        """The fields come as a message would have them."""
        shown = self.preview(variables={"name": "<Zoë>"})
        self.assertEqual((shown["subject"], shown["body"]), ("Hi <Zoë>", "<p>&lt;Zoë&gt;</p>"))
        self.assertEqual((shown["undefined"], shown["error"]), ([], None))

    def test_changed(self) -> None:
        """Fields that are not saved yet can be tried; nothing is stored."""
        shown = self.preview(variables={}, body="{{ a }}", subject="{{b}} {{a}}", fromname="{{c}}")
        self.assertEqual((shown["body"], shown["subject"]), ("", "{{b}} {{a}}"))
        self.assertEqual(shown["undefined"], ["a", "b", "c"])
        self.assertEqual(self.call("GET", "/welcome-mail").json, self.made)
        self.assertEqual(self.logged(), [])

    def test_without_variables(self) -> None:
        """Null is a message without variables, which goes out as it stands; no variables at all is an empty object."""
        self.assertEqual(self.preview(variables=None)["body"], FIELDS["body"])
        self.assertEqual(self.preview()["undefined"], ["name"])

    def test_mistake(self) -> None:
        """A mistake comes with the field, the line and the words, and the template as it is."""
        shown = self.preview(body="a\nb\n{{ order.total }}")
        self.assertEqual(shown["error"], {"field": "body", "line": 3, "description": "'order' is undefined"})
        self.assertEqual(shown["body"], "a\nb\n{{ order.total }}")
        shown = self.preview(subject="{{a}}{{a}}", variables={"a": "x" * 6000})
        self.assertEqual((shown["error"]["field"], shown["error"]["line"]), ("subject", None))

    def test_wrong(self) -> None:
        """Variables that are no object, or too deep, and wrong fields are refused."""
        deep: dict[str, Any] = {}
        for _ in range(101):
            deep = {"a": deep}
        for given in ({"variables": []}, {"variables": deep}, {"name": ""}, {"other": ""}, {"body": 1}):
            self.preview(400, **given)
        self.refused(404, "no such template", "POST", "/nope/preview", {})


class TestTests(TemplateCase):
    """A test of a template."""

    def test_sent(self) -> None:
        """It goes out as a message with the template and these variables."""
        reply = self.call("POST", "/welcome-mail/test", {"to": "jane@example.org", "variables": {"name": "Zoë"}}).json
        self.assertEqual((reply["tag"], reply["to"], reply["result"]), ("welcome", "jane@example.org", "ok"))
        whole = self.get(f"/api/transactional/log/{reply['id']}").json
        expected = {"subject": "Hi Zoë", "body": "<p>Zoë</p>", "template": "welcome-mail", "route": "capture"}
        self.assertEqual({name: whole[name] for name in expected}, expected)

    def test_defaults(self) -> None:
        """What neither the template nor the request has gets a default."""
        self.call("POST", "", {"id": "bare", "name": "Bare", "body": "x"}, 201)
        self.call("POST", "/bare/test", {"to": "jane@example.org"})
        self.call("POST", "/bare/test", {"to": "jane@example.org", "fromemail": "a@example.com", "subject": "S"})
        given, bare = self.logged()
        self.assertEqual(
            (bare["subject"], bare["fromemail"], bare["tag"]), ("Test of bare", "jane@example.org", "untagged")
        )
        self.assertEqual((given["subject"], given["fromemail"]), ("S", "a@example.com"))

    def test_wrong(self) -> None:
        """It is refused as a message would be."""
        for given, word in (
            ({}, "to: is missing"),
            ({"to": "jane"}, "to: is not an address"),
            ({"to": "jane@example.org", "variables": 1}, "variables"),
            ({"to": "jane@example.org", "template": "other"}, "template: no such field"),
        ):
            self.refused(400, word, "POST", "/welcome-mail/test", given)
        self.refused(403, "nope", "POST", "/welcome-mail/test", {"to": "jane@example.org", "route": "nope"})
        self.refused(404, "no such template", "POST", "/nope/test", {"to": "jane@example.org"})

    def test_once(self) -> None:
        """With an Idempotency-Key a repetition sends nothing."""
        given = {"to": "jane@example.org", "variables": {"name": "Zoë"}}
        replies = [self.call("POST", "/welcome-mail/test", given, Idempotency_Key="K").json for _ in range(2)]
        self.assertEqual(replies[0], replies[1])
        self.assertEqual(len(self.logged()), 1)


class SettingsTests(BackendCase):
    """What an account has and may choose."""

    def put(self, given: object, status: int = 200) -> Any:
        sent = {"X-Auth-APIKey": self.backend.api_key}
        reply = ask(self.site, "PUT", "/api/transactional/settings", sent, json.dumps(given).encode())
        self.assertEqual(reply.status, status, reply.body)
        return reply.json

    def test_routes(self) -> None:
        """The routes are those of the account."""
        self.assertEqual(self.get("/api/transactional/routes").json, {"routes": [{"id": "capture", "name": "Capture"}]})

    def test_default_route(self) -> None:
        """The route of messages that name none is chosen by id or name, and taken back with nothing."""
        self.assertEqual(self.put({"default_route": "Capture"}), {"default_route": "capture"})
        self.assertEqual(self.get("/api/transactional/settings").json, {"default_route": "capture"})
        # The only route is used though none is chosen.
        self.assertEqual(self.put({"default_route": ""}), {"default_route": "capture"})

    def test_wrong(self) -> None:
        """Another account's route, and what is no route, are refused with those that there are."""
        self.assertIn("capture", self.put({"default_route": "nope"}, 403)["description"])
        for given in ({}, {"default_route": None}, {"default_route": 1}, {"route": "capture"}):
            self.assertIn("default_route", self.put(given, 400)["description"])


class SeveralRoutesTests(SettingsTests):
    """An account with two routes, beside another one with a third."""

    def setUp(self) -> None:
        super().setUp()

        def give(connection: sa.Connection) -> None:
            accounts.add_route(connection, 1, Route("archive", "The archive"), 0.0)
            other = accounts.add(connection, "Other", 0.0)
            accounts.add_route(connection, other, Route("theirs", "Theirs"), 0.0)

        self.change(give)

    def test_routes(self) -> None:
        """The routes are those of the account, and no others."""
        listed = self.get("/api/transactional/routes").json["routes"]
        self.assertEqual([each["id"] for each in listed], ["archive", "capture"])

    def test_default_route(self) -> None:
        """Messages that name no route go by the one that is chosen; without one they must name theirs."""
        self.assertEqual(self.post(MESSAGE).status, 400)
        self.assertEqual(self.put({"default_route": "the ARCHIVE"}), {"default_route": "archive"})
        self.sent()
        self.assertEqual(self.logged("?status=captured")[0]["route"], "archive")
        self.assertEqual(self.put({"default_route": ""}), {"default_route": ""})
        self.assertEqual(self.post(MESSAGE).status, 400)
        self.assertIn("archive, capture", self.put({"default_route": "theirs"}, 403)["description"])


class BusyTests(TemplateCase):
    """When rendering does not get on."""

    def test_checked_only_where_needed(self) -> None:
        """A template without Jinja2 is saved without rendering; one with it is looked at once."""
        asked: list[str] = []

        async def render(source: str, variables: Any) -> Rendered:
            asked.append(source)
            return template.render(source, variables)

        self.successResultOf(self.backend.close())
        self.start(render=render)
        self.call("POST", "", {"name": "Plain", "body": "<p>Plain { text }</p>"}, 201)
        self.assertEqual(asked, [])
        self.call("POST", "", {"name": "Other", "body": "{{ a }}"}, 201)
        self.assertEqual(asked, ["{{ a }}"])
