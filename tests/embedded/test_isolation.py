"""One account reads and changes nothing of another's: every path of the pages and of the API is walked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from relay.embedded import schema
from relay.embedded.api import PATHS
from relay.embedded.web import TABLE, message, templates
from tests.embedded.inmemory import MESSAGE, BackendCase, Browser, Exchange, ask

#: What no answer to the other account may hold; the ids of A's objects are not among them, because B asks for them.
CANARY = "zanzibar"

#: B's API key, and A's template.
KEY = "b" * 40
TEMPLATE = "neutral-template"

TAKEN = {"name": "taken", "subject": "taken", "body": "taken", "version": "1", "to": "b@example.org"}


def _below(shape: tuple[str, ...]) -> str:
    """A path of the table of templates; for any segment stands a version."""
    return "".join("/1" if part == "{}" else f"/{part}" for part in shape)


#: The pages, by their path in the table: what is below each, to be looked at and to be posted to.  A page that is
#: not here fails the test: say what B may try with A's ids.
PAGES: dict[str, tuple[tuple[str, ...], tuple[tuple[str, dict[str, str]], ...]]] = {
    "": (("?period=30d",), ()),
    "log": (
        ("", "?search={canary}", "?id={id}", "?before={id}", "?request_id=R1", "?to={canary}", "/export.csv", "/{id}"),
        (),
    ),
    "events": (("?after={id}", "?search={canary}"), ()),
    "message": (tuple(f"/{{id}}/{below}".rstrip("/") for below in message._BELOW), (("/{id}/resend", {}),)),
    "templates": (
        ("", *(f"/{{template}}{_below(shape)}" for shape in templates.SHOWN)),
        tuple((f"/{{template}}{_below(shape)}", TAKEN) for shape in templates.TAKEN),
    ),
    "integrate": (("",), ()),
    "reference": (("",), ()),
    "settings": (("",), (("", {"default_route": "secret-route"}),)),
    "sign-in": (("",), ()),
    "sign-out": (("",), ()),
    "password": (("",), ()),
    "admin/overview": (("",), ()),
    "admin/accounts": (
        ("", "/1"),
        tuple((f"/1/{what}", {}) for what in ("look", "disable", "enable", "reset", "rename")),
    ),
    "admin/users": (
        ("", "?account=1"),
        (
            ("", {"email": "c@localhost", "account": "1"}),
            *((f"/{user}/{what}", {}) for user in (1, 2) for what in ("password", "disable")),
        ),
    ),
    "admin/routes": (("", "/secret-route"), (("/secret-route", {"name": "taken"}), ("/secret-route/delete", {}))),
    "admin/queue": (("",), (("", {"do": "give-up", "id": "{id}"}),)),
    "admin/leave": (("",), (("", {}),)),
}

#: What stands for the names in the paths of the API.
NAMES = {"id": ("{id}", TEMPLATE), "version": ("1",), "tag": ("neutral-tag",)}

#: What is posted to every path of the API.
BODIES: tuple[dict[str, Any], ...] = (
    {},
    {**MESSAGE, "template": TEMPLATE},
    {**MESSAGE, "route": "secret-route"},
    {"id": "taken", "name": "taken", "subject": "taken", "body": "taken"},
    {"to": "b@example.org", "variables": {}},
    {"default_route": "secret-route"},
)

#: Paths of the API that are for everybody, or whose work is on the account of the key alone.
OWN = ("reset/apikey",)


class IsolationTests(BackendCase):
    """Account A has all that there is to have; B tries everything."""

    def setUp(self) -> None:
        super().setUp()
        self.add_account("B", KEY)
        self.add_user("b@localhost", 2)
        self.change(self.secrets)
        key = self.backend.api_key
        made = ask(
            self.site,
            "POST",
            "/api/transactional/templates",
            {"X-Auth-APIKey": key, "Content-Type": "application/json"},
            json.dumps({"id": TEMPLATE, "name": CANARY, "subject": CANARY, "body": f"<p>{CANARY}</p>"}).encode(),
        )
        self.assertLess(made.status, 300, made.body)
        fields = {"subject": f"about {CANARY}", "to": f"{CANARY}@example.org", "body": f"<p>{CANARY}</p>"}
        reply = self.post({**MESSAGE, **fields, "tag": CANARY, "route": "capture"}, X_Request_ID="R1")
        self.assertEqual(reply.status, 200, reply.body)
        self.message = reply.json["id"]
        self.post({**MESSAGE, "subject": CANARY, "tag": "neutral-tag", "route": "capture"})
        self.b = self.browser("b@localhost")

    def secrets(self, connection: sa.Connection) -> None:
        """What else A has: a route of its own, a timeline, what the relay told; its name."""
        connection.execute(sa.update(schema.accounts).where(schema.accounts.c.id == 1).values(name=CANARY))
        route = {"id": "secret-route", "name": CANARY, "kind": "capture", "settings": "{}", "secret": b""}
        connection.execute(sa.insert(schema.routes).values(**route, created=1.0))
        connection.execute(sa.insert(schema.account_routes).values(account=1, route="secret-route"))
        told = {"peer": CANARY, "reply": CANARY, "headers": f'["{CANARY}"]', "images": 1, "attachments": 1, "cids": 1}
        told = {"account": 1, "request_id": "R1", "created": 1.0, "milliseconds": 1.0, **told}
        connection.execute(sa.insert(schema.transactions).values(told))

    def state(self) -> dict[str, list[tuple[Any, ...]]]:
        """All that A has."""

        def rows(connection: sa.Connection) -> dict[str, list[tuple[Any, ...]]]:
            mine = sa.select(schema.messages.c.seq).where(schema.messages.c.account == 1)
            found = {}
            for table in schema.metadata.sorted_tables:
                # Of a key counts that it is there: it notes when it is used.
                columns = [column for column in table.c if column is not schema.api_keys.c.used]
                if "account" in table.c and table is not schema.sessions:
                    query = sa.select(*columns).where(table.c.account == 1)
                elif "message" in table.c:
                    query = sa.select(table).where(table.c.message.in_(mine))
                elif table in (schema.routes, schema.accounts):
                    query = sa.select(table)
                else:
                    continue
                found[table.name] = sorted((tuple(row) for row in connection.execute(query)), key=repr)
            return found

        return self.change(rows)

    def filled(self, text: str) -> str:
        return text.replace("{id}", self.message).replace("{template}", TEMPLATE).replace("{canary}", CANARY)

    def check(self, asked: str, answer: bytes) -> None:
        """*answer* holds nothing of A's; what B said itself may be repeated."""
        text = answer.decode("utf-8", "replace").lower()
        if CANARY in asked:
            # The word may stand in the form and in links, where B wrote it; A's messages may not.
            for secret in (f"about {CANARY}", f"{CANARY}@example.org", f"<p>{CANARY}"):
                self.assertNotIn(secret, text, asked)
            return
        self.assertNotIn(CANARY, text, asked)

    def requests(self, browser: Browser) -> Iterator[tuple[str, int, bytes]]:
        """(what was asked, status, answer) of every page."""
        for path, (looks, posts) in PAGES.items():
            for below in looks:
                asked = self.filled(f"/{path}{below}")
                if path == "events":
                    yield f"GET {asked}", *self.streamed(browser, asked)
                    continue
                reply = browser.get(asked)
                yield f"GET {asked}", reply.status, reply.body
            for below, fields in posts:
                asked = self.filled(f"/{path}{below}")
                form = {name: self.filled(value) for name, value in fields.items()}
                reply = browser.post(asked, form, page="/password")
                yield f"POST {asked}", reply.status, reply.body

    def streamed(self, browser: Browser, path: str) -> tuple[int, bytes]:
        exchange = Exchange(self.site, "127.0.0.1")
        cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
        exchange.send("GET", path, [("Cookie", cookies)], b"")
        self.clock.advance(1)
        self.post({**MESSAGE, "subject": CANARY, "route": "capture"})
        self.clock.advance(1)
        told = exchange.transport.value()
        exchange.transport.loseConnection()
        return int(told.split()[1]), told

    def test_every_page_is_here(self) -> None:
        """The walk knows every page: who adds one says here what another account may try."""
        self.assertEqual(set(PAGES), {row.path for row in TABLE})

    def test_the_walk_sees(self) -> None:
        """A itself finds what B must not, so that the walk would see it."""
        a = self.browser()
        for path in (
            "/log",
            f"/message/{self.message}",
            f"/message/{self.message}/message.eml",
            "/templates",
            "/settings",
            "/",
        ):
            self.assertIn(CANARY, a.get(path).text.lower(), path)
        self.assertIn(CANARY.encode(), self.streamed(a, "/events")[1])
        for path in ("log", f"log/{self.message}", "templates", f"templates/{TEMPLATE}", "tags", "routes"):
            self.assertIn(CANARY, self.get(f"/api/transactional/{path}").text.lower(), path)

    def test_pages(self) -> None:
        """No page shows B anything of A's, and nothing that B sends changes it."""
        before = self.state()
        for asked, status, answer in self.requests(self.b):
            self.assertLess(status, 500, asked)
            self.check(asked, answer)
            if "/admin/" in asked:
                self.assertEqual(status, 403, asked)
        after = self.state()
        # While it listened to the events, A went on.
        self.assertEqual(self.but_new(before, after), before)

    def test_nobody(self) -> None:
        """Nor does any to one who has not signed in."""
        nobody = self.browser("")
        for asked, status, answer in self.requests(nobody):
            self.assertLess(status, 500, asked)
            self.check(asked, answer)
            path = asked.split()[1].partition("?")[0]
            if path not in ("/sign-in",):
                self.assertIn(status, (303, 403), asked)

    def but_new(self, before: dict[str, list[Any]], after: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """*after* without the messages that A itself sent meanwhile, in the tables that only grow by them."""
        growing = {"messages", "contents", "tags", "events"}
        found = {}
        for name, rows in after.items():
            if name == "tallies":
                found[name] = before[name]
            else:
                found[name] = [row for row in rows if name not in growing or row in before[name]]
        return found

    def test_api(self) -> None:
        """No path of the API, by any method, tells B anything of A's or changes it."""
        before = self.state()
        for path, endpoint in PATHS.items():
            if path in OWN:
                continue
            for asked in self.paths(path):
                for method in getattr(endpoint, "methods", ("GET",)):
                    bodies = BODIES if method in ("POST", "PUT", "PATCH") else (None,)
                    for body in bodies:
                        headers = {"X-Auth-APIKey": KEY, "Content-Type": "application/json"}
                        sent = b"" if body is None else json.dumps(body).encode()
                        reply = ask(self.site, method, asked, headers, sent)
                        self.assertLess(reply.status, 500, (method, asked, body, reply.body))
                        self.check(f"{method} {asked}", reply.body)
        queries = (
            f"?before={self.message}",
            f"?id={self.message}",
            "?request_id=R1",
            f"?search={CANARY}",
            "?format=csv",
        )
        for query in queries:
            reply = self.get(f"/api/transactional/log{query}", key=KEY)
            self.check(f"GET {query}", reply.body)
        self.assertEqual(self.state(), before)

    def paths(self, path: str) -> list[str]:
        """*path* with every name in it filled in; a name that is not in NAMES fails."""
        found = [""]
        for part in path.split("/"):
            values = NAMES[part[1:-1]] if part.startswith("{") else (part,)
            found = [f"{before}/{self.filled(value)}" for before in found for value in values]
        return [f"/api{each}" for each in found]

    def test_idempotency_key(self) -> None:
        """B's Idempotency-Key is not A's."""
        a = self.post({**MESSAGE, "route": "capture"}, Idempotency_Key="same")
        b = self.post({**MESSAGE, "subject": "another"}, key=KEY, Idempotency_Key="same")
        self.assertEqual(b.status, 200)
        self.assertNotEqual(a.json["id"], b.json["id"])
