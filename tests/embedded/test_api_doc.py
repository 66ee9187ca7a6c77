"""``/api/doc``, and the key that is reset over the API."""

from __future__ import annotations

import json
from typing import Any

from relay.embedded.api import PATHS, api
from relay.embedded.api.operations import OPERATIONS
from relay.embedded.api.shapes import SCHEMAS
from relay.embedded.api.tree import Folder
from tests.embedded.inmemory import MESSAGE, BackendCase, ask


class DocTests(BackendCase):
    """The document."""

    def document(self) -> dict[str, Any]:
        reply = ask(self.site, "GET", "/api/doc")
        self.assertEqual((reply.status, reply.headers["content-type"]), (200, "application/json"))
        found: dict[str, Any] = reply.json
        return found

    def walk(self, folder: Folder, path: str = "/api") -> dict[str, set[str]]:
        """The methods of every path that the tree answers at; ``{}`` is a segment with any text."""
        found = {} if folder.own is None else {path: {each.lower() for each in folder.own.methods} - {"head"}}
        below = dict(folder.below, **({"{}": folder.any} if folder.any else {}))
        for name, inner in below.items():
            found |= self.walk(inner, f"{path}/{name}")
        return found

    def test_every_route(self) -> None:
        """Every path and method of the tree is in the document, and nothing else is."""
        root = api(self.backend._platform)
        assert isinstance(root, Folder)
        documented = {
            "/".join("{}" if part.startswith("{") else part for part in path.split("/")): set(methods)
            for path, methods in self.document()["paths"].items()
        }
        self.assertEqual(documented, self.walk(root))
        self.assertEqual(len(documented), len(PATHS))

    def test_references(self) -> None:
        """Every reference in it leads to something, and every schema is used."""
        document = self.document()
        text = json.dumps(document)
        used = {part.partition('"')[0] for part in text.split('"$ref": "#/')[1:]}
        for reference in used:
            place: Any = document
            for name in reference.split("/"):
                self.assertIn(name, place, reference)
                place = place[name]
        schemas = {each.rpartition("/")[2] for each in used if "/schemas/" in each}
        self.assertEqual(schemas, {*SCHEMAS, "Document"})

    def test_errors(self) -> None:
        """Every operation has the errors that any may have, and those with a path that may be nowhere have 404."""
        for path, methods in self.document()["paths"].items():
            for method, operation in methods.items():
                answers = set(operation["responses"])
                self.assertLessEqual({"400", "500", "503"}, answers, path)
                self.assertEqual("401" in answers, operation.get("security") != [], path)
                self.assertEqual("404" in answers, "{" in path or operation["operationId"] == "make_template", path)
                self.assertEqual("415" in answers, "requestBody" in operation, path)
                self.assertEqual("requestBody" in operation, method in ("post", "put", "patch"), path)

    def test_names(self) -> None:
        """No two operations have one name, so that clients can be generated."""
        self.assertEqual(len({each.name for each in OPERATIONS}), len(OPERATIONS))


class ResetTests(BackendCase):
    """``/api/reset/apikey``."""

    def test_reset(self) -> None:
        """The answer holds another key, which is good; the one before is good no more."""
        old = self.backend.api_key
        reply = ask(self.site, "POST", "/api/reset/apikey", {"X-Auth-APIKey": old})
        self.assertEqual(reply.status, 200, reply.body)
        self.assertEqual(self.get("/api/ping", key=old).status, 401)
        self.assertEqual(ask(self.site, "POST", "/api/reset/apikey", {"X-Auth-APIKey": old}).status, 401)
        self.assertEqual(self.post(MESSAGE, key=reply.json["key"]).status, 200)

    def test_nothing_else_holds_it(self) -> None:
        """No other answer has the key."""
        key = self.backend.api_key
        for operation in OPERATIONS:
            if operation.name != "reset_key":
                path = operation.path.replace("{version}", "1").replace("{id}", "x").replace("{tag}", "untagged")
                body = b"" if operation.method == "get" else b"{}"
                headers = {"X-Auth-APIKey": key, "Content-Type": "application/json"}
                reply = ask(self.site, operation.method.upper(), f"/api/{path}", headers, body)
                self.assertNotIn(key, reply.text, path)

    def test_signing_in_is_no_key(self) -> None:
        """Who is signed in, an administrator who looks at the account among them, gets nothing of the API by that."""
        admin = self.browser("admin@localhost")
        admin.post("/admin/accounts/1/look", page="/admin/accounts")
        for browser in (admin, self.browser()):
            for operation in OPERATIONS:
                if not operation.public and operation.method == "get":
                    path = operation.path.replace("{version}", "1").replace("{id}", "x").replace("{tag}", "untagged")
                    self.assertEqual(browser.get(f"/api/{path}").status, 401, path)
            self.assertEqual(browser.post("/api/reset/apikey", page="/password").status, 401)
