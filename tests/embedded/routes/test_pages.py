"""The pages of routes and of what waits for them, as an administrator and a user see them."""

from __future__ import annotations

import html
import re
from typing import Any
from urllib.parse import urlencode

from relay.embedded import accounts
from relay.embedded.routes import table
from relay.embedded.routes.values import Maildir, PostalRoute, Smarthost
from relay.values import key_digest
from tests.embedded.inmemory import MESSAGE, Exchange, Reply
from tests.embedded.routes.smarthost import SCRIPT
from tests.embedded.routes.test_carriers import SMARTHOST, RoutesCase

ADMINISTRATOR = "admin@localhost"

FORM = {"kind": "smtp", "id": "out", "name": "Out", "host": "mx.example.com", "tls": "none", "user": "me",
        "password": "canary-secret"}  # fmt: skip


class PagesCase(RoutesCase):
    """An administrator at work."""

    def setUp(self) -> None:
        super().setUp()
        self.administrator = self.browser(ADMINISTRATOR)

    def add(self, **changed: Any) -> str:
        """Add a route by its form; what the next page says."""
        kind = changed.get("kind", "smtp")
        page = f"/admin/routes/new?kind={kind}"
        reply = self.administrator.post("/admin/routes/new", {**FORM, **changed}, page=page)
        self.assertEqual(reply.status, 303, said(reply.text))
        return self.administrator.follow(reply).text

    def stored(self, id: str = "out") -> PostalRoute | None:
        """The route in the table."""
        cipher = self.backend._platform.cipher
        return self.change(lambda connection: table.one(connection, cipher, id))


def said(text: str) -> str:
    """The words of a page."""
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text)))


class RoutesTests(PagesCase):
    """``/admin/routes``."""

    def test_list(self) -> None:
        """Every route is listed, with where messages go and how many accounts may use it."""
        self.route()
        text = said(self.administrator.get("/admin/routes").text)
        self.assertIn("Capture capture Capture nowhere, it stores 0 0 given to nobody", text)
        self.assertIn("Out out SMTP smarthost mx.example.com:587 1 0 working", text)

    def test_add(self) -> None:
        """A route is made by its form and given to accounts; its password is on no page."""
        account = self.change(accounts.first).id
        text = self.add(account=[str(account)])
        self.assertIn("The route Out is there.", said(text))
        self.assertNotIn("canary", text)
        self.assertEqual(self.change(lambda connection: table.holders(connection, "out")), {account})
        found = self.stored()
        assert found is not None
        self.assertEqual(found.settings, Smarthost("mx.example.com", tls="none", user="me", password="canary-secret"))

    def test_works_at_once(self) -> None:
        """Messages leave by a route as soon as it is there."""
        self.add(user="", account=[str(self.change(accounts.first).id)])
        id = self.sent(route="out")
        self.turn()
        self.assertEqual(self.status(id)[0], "delivered")

    def test_problems(self) -> None:
        """What is wrong is said at the field, and what was typed stays, but the password."""
        form = {**FORM, "id": "../x", "host": "http://mx", "port": "0"}
        reply = self.administrator.post("/admin/routes/new", form)
        self.assertEqual(reply.status, 400)
        text = said(reply.text)
        self.assertIn("must be a host name or an IP address", text)
        self.assertIn("must be a number from 1 to 65535", text)
        self.assertIn("must be 1 to 64 of a-z", text)
        self.assertIn('value="http://mx"', reply.text)
        self.assertNotIn("canary", reply.text)

    def test_taken_id(self) -> None:
        """Two routes have no id in common, and none is called as the page of a new one."""
        self.add()
        for id, words in (("OUT", "there is a route out already"), ("new", "another word than new")):
            reply = self.administrator.post("/admin/routes/new", {**FORM, "id": id})
            self.assertEqual(reply.status, 400)
            self.assertIn(words, said(reply.text))

    def test_password_stays(self) -> None:
        """An empty password is the one that is kept, unless the route goes elsewhere, where nobody may learn it."""
        self.add()
        for changed, password in (({"name": "Other"}, "canary-secret"), ({"host": "evil.example.com"}, "")):
            form = {**FORM, "password": "", **changed}
            self.assertEqual(self.administrator.post("/admin/routes/out", form).status, 303)
            found = self.stored()
            assert found is not None and isinstance(found.settings, Smarthost)
            self.assertEqual(found.settings.password, password)

    def test_taken_away(self) -> None:
        """An account that is ticked no more has lost the route."""
        account = self.change(accounts.first).id
        self.add(account=[str(account)])
        self.administrator.post("/admin/routes/out", FORM)
        self.assertEqual(self.change(lambda connection: table.holders(connection, "out")), set())

    def test_tested(self) -> None:
        """The test shows what the smarthost says, greeting, EHLO and AUTH, and no password."""
        self.smarthost.says({"EHLO": "250-mx\r\n250 AUTH PLAIN", "AUTH": "535 5.7.8 Wrong"})
        self.add()
        reply = self.tried("out")
        text = said(reply.text)
        self.assertIn("It would take no messages", text)
        for line in ("< 220 mx.example.com ESMTP", "< 250 AUTH PLAIN", "> AUTH PLAIN …", "< 535 5.7.8 Wrong"):
            self.assertIn(line, text)
        self.assertNotIn("canary", reply.text)

    def test_maildir_tested(self) -> None:
        """The test of a maildir tries to write there."""
        self.add(kind="maildir", id="box", folder="box")
        self.assertIn("can be written", said(self.tried("box").text))
        self.assertEqual(list((self.data / "maildir" / "box" / "tmp").iterdir()), [])

    def test_deleted(self) -> None:
        """A route that is deleted is gone, and says before how many messages fail with it."""
        self.route()
        self.smarthost.refuses = True
        id = self.sent()
        self.turn()
        self.assertIn("and the 1 message waiting for it fails", said(self.administrator.get("/admin/routes/out").text))
        reply = self.administrator.post("/admin/routes/out/delete", {}, page="/admin/routes/out")
        self.assertIn("The route Out was deleted", said(self.administrator.follow(reply).text))
        self.turn()
        self.assertEqual(self.status(id)[0], "failed")

    def test_nowhere(self) -> None:
        """What is no route and no kind is not found."""
        for path in ("/none", "/new?kind=fax", "/capture/test", "/a/b/c"):
            self.assertEqual(self.administrator.get(f"/admin/routes{path}").status, 404, path)
        for path in ("", "/none", "/new/test", "/capture/other"):
            reply = self.administrator.post(f"/admin/routes{path}", {}, page="/admin/routes/new")
            self.assertEqual(reply.status, 404, path)

    def test_administrators_only(self) -> None:
        """A user sees neither routes nor the queue."""
        user = self.browser()
        for path in ("/admin/routes", "/admin/routes/capture", "/admin/queue"):
            self.assertEqual(user.get(path).status, 403)
            self.assertEqual(user.post(path, {}).status, 403)

    def tried(self, id: str) -> Reply:
        """The answer to the button that tries a route, once the smarthost has said all."""
        browser = self.administrator
        exchange = Exchange(self.site, browser.peer)
        cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
        headers = {"Cookie": cookies, "Content-Type": "application/x-www-form-urlencoded"}
        token = urlencode({"csrf": browser.csrf(f"/admin/routes/{id}")}).encode()
        exchange.send("POST", f"/admin/routes/{id}/test", list(headers.items()), token)
        self.smarthost.flush()
        return exchange.reply("POST")


class QueueTests(PagesCase):
    """``/admin/queue``."""

    def setUp(self) -> None:
        super().setUp()
        self.route()
        self.smarthost.says({"RCPT": "450 4.2.1 <Full> & busy"})
        self.ids = [self.sent(), self.sent(to="joe@example.org")]
        for _ in range(4):
            self.turn()

    def page(self, path: str = "/admin/queue") -> str:
        """The words of the page."""
        return said(self.administrator.get(path).text)

    def test_list(self) -> None:
        """What waits is listed with its last answer and its next attempt."""
        text = self.page()
        self.assertIn("jane@example.org 450 4.2.1 <Full> & busy", text)
        self.assertIn("joe@example.org", text)
        self.assertIn("Queue 2", text)
        self.assertIn("Nothing waits for box", self.page("/admin/queue?route=box"))

    def test_retry(self) -> None:
        """One message or all are tried at once."""
        self.smarthost.says(SCRIPT)
        self.administrator.post("/admin/queue", {"do": "retry", "id": self.ids[0]})
        self.turn()
        self.assertEqual([self.status(id)[0] for id in self.ids], ["delivered", "deferred"])
        self.administrator.post("/admin/queue", {"do": "retry"})
        self.turn()
        self.assertEqual(self.status(self.ids[1])[0], "delivered")
        self.assertIn("Nothing waits.", self.page())

    def test_give_up(self) -> None:
        """One message or those of a route are given up, and their timeline says by whom."""
        self.administrator.post("/admin/queue", {"do": "give-up", "id": self.ids[0]})
        self.assertIn(f"given up by {ADMINISTRATOR}", self.told(self.ids[0])[-1])
        reply = self.administrator.post("/admin/queue", {"do": "give-up", "route": "out", "back": "out"})
        self.assertIn("1 message given up", said(self.administrator.follow(reply).text))
        self.assertEqual({self.status(id)[0] for id in self.ids}, {"failed"})

    def test_nothing_said(self) -> None:
        """A form that says neither what nor which gives nothing up."""
        for form in ({}, {"do": "give-up"}, {"do": "other", "route": "out"}):
            self.assertEqual(self.administrator.post("/admin/queue", form).status, 400)
        self.assertIn("Queue 2", self.page())


class SettingsTests(PagesCase):
    """``/settings``."""

    def test_relay_is_told(self) -> None:
        """What the relay remembers of an account is asked anew when its default or its routes change."""
        told: list[bytes] = []
        self.start(forget=told.append)
        mine = [key_digest(self.backend.api_key)]
        self.browser().post("/settings", {"default_route": "capture"}, page="/password")
        self.assertEqual(told, mine)
        administrator = self.browser(ADMINISTRATOR)
        page = "/admin/routes/new"
        administrator.post(page, {**FORM, "account": [str(self.change(accounts.first).id)]})
        self.assertEqual(told, mine * 2)
        administrator.post("/admin/routes/out/delete", {}, page=page)
        self.assertEqual(told, mine * 3)

    def test_default_route(self) -> None:
        """A user chooses the route of messages that name none."""
        self.route(only=False)
        user = self.browser()
        self.assertEqual(self.post(MESSAGE).status, 400)
        reply = user.post("/settings", {"default_route": "out"})
        self.assertIn("The settings were saved", said(user.follow(reply).text))
        self.assertEqual(self.found(self.sent()).fields.route, "out")
        user.post("/settings", {"default_route": ""})
        self.assertEqual(self.post(MESSAGE).status, 400)

    def test_not_the_accounts(self) -> None:
        """A route that the account has not is no choice."""
        self.route(Maildir("box"), "box", only=False)
        self.change(lambda connection: table.give(connection, "box", []))
        self.assertEqual(self.browser().post("/settings", {"default_route": "box"}, page="/password").status, 403)

    def test_only_route(self) -> None:
        """With one route there is nothing to choose."""
        self.assertIn("its only route", said(self.browser().get("/settings").text))


class ResendTests(PagesCase):
    """The button of a message that sends it again."""

    def test_resent(self) -> None:
        """The message goes out again as a new one, which the page shows."""
        self.route(SMARTHOST)
        id = self.sent()
        self.turn()
        user = self.browser()
        reply = user.post(f"/message/{id}/resend", {}, page=f"/message/{id}")
        new = reply.headers["location"].rpartition("/")[2]
        self.assertIn(f"Repeats {id}", said(user.follow(reply).text))
        self.turn()
        self.assertEqual((self.status(new)[0], len(self.smarthost.messages)), ("delivered", 2))
        self.assertIn(f"resent: {new}", self.told(id))

    def test_of_another_account(self) -> None:
        """A message of another account is not there."""
        id = self.sent()
        self.add_user("eve@example.com", self.add_account("Other"))
        eve = self.browser("eve@example.com")
        self.assertEqual(eve.post(f"/message/{id}/resend", {}, page="/password").status, 404)
        self.assertEqual(self.browser().post(f"/message/{id}/other", {}, page=f"/message/{id}").status, 405)
