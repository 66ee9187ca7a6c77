"""The administrators' pages: accounts and users."""

from __future__ import annotations

import re

from relay.embedded.first import ADMINISTRATOR, USER
from relay.values import key_digest
from tests.embedded.inmemory import BackendCase, Reply


class AdminCase(BackendCase):
    """An administrator who has signed in."""

    def setUp(self) -> None:
        self.forgotten: list[bytes] = []
        super().setUp()
        self.admin = self.browser(ADMINISTRATOR)

    def start(self, **options: object) -> None:
        super().start(forget=self.forgotten.append, **options)

    def send(self, path: str, page: str = "/admin/users", **fields: str) -> Reply:
        """Send a form of *page*, and go where it leads."""
        reply = self.admin.post(path, fields, page=page)
        return self.admin.follow(reply) if reply.status == 303 else reply


class AccountsTests(AdminCase):
    """``/admin/accounts``."""

    def test_add(self) -> None:
        """A new account has its page, no users, a key that its users see, and a route."""
        page = self.send("/admin/accounts", name=" Example <Ltd> ")
        self.assertIn("Example &lt;Ltd&gt; was added", page.text)
        self.assertIn("Nobody can sign in to this account yet", page.text)
        self.assertIn("Capture", page.text)
        self.add_user("jane@example.com", 2)
        (key,) = re.findall(r'<code id="key">(\w+)</code>', self.browser("jane@example.com").get("/integrate").text)
        self.assertEqual(self.get("/api/ping", key=key).json[0]["name"], "Example <Ltd>")
        self.assertNotIn(key, page.text)

    def test_wrong_name(self) -> None:
        """A name that is taken or empty is told, with what was typed."""
        reply = self.send("/admin/accounts", name="Local")
        self.assertEqual(reply.status, 400)
        self.assertIn("There is an account Local already.", reply.text)
        self.assertIn('name="name" value="Local"', reply.text)
        self.assertEqual(self.send("/admin/accounts", name="").status, 400)
        self.assertEqual(self.send("/admin/accounts/1/rename", name="\x07").status, 400)

    def test_rename(self) -> None:
        """An account gets another name."""
        page = self.send("/admin/accounts/1/rename", name="Zoë")
        self.assertIn("<h1>Zoë ", page.text)
        self.assertEqual(self.get("/api/ping").json[0]["name"], "Zoë")

    def test_disable(self) -> None:
        """A disabled account's users and key are refused at once, in the relay's cache too, until it is enabled."""
        user = self.browser(USER)
        self.assertIn("is disabled", self.send("/admin/accounts/1/disable").text)
        self.assertEqual(self.get("/api/ping").status, 401)
        self.assertEqual(user.get("/log").status, 303)
        self.assertEqual(self.forgotten, [key_digest(self.backend.api_key)])
        self.send("/admin/accounts/1/enable")
        self.assertEqual(self.get("/api/ping").status, 200)
        self.assertEqual(user.get("/log").status, 200)

    def test_reset(self) -> None:
        """The key is reset, and neither the old nor the new one is shown."""
        old = self.backend.api_key
        page = self.send("/admin/accounts/1/reset")
        new = self.backend.key_file.read_text().strip()
        self.assertEqual((self.get("/api/ping", key=old).status, self.get("/api/ping", key=new).status), (401, 200))
        for key in (old, new):
            self.assertNotIn(key, page.text)

    def test_keys_are_not_shown(self) -> None:
        """No page of the administrators has a key, nor its beginning."""
        for path in ("/admin/accounts", "/admin/accounts/1", "/admin/users", "/admin/overview"):
            reply = self.admin.get(path)
            self.assertEqual(reply.status, 200)
            self.assertNotIn(self.backend.api_key[:4], reply.text.replace(self.admin.csrf(path), ""))

    def test_not_there(self) -> None:
        """What is not there is 404."""
        for path in ("/admin/accounts/99", "/admin/accounts/x", "/admin/accounts/1/look/x", "/admin", "/admin/nope"):
            self.assertEqual(self.admin.get(path).status, 404, path)
        for path in (
            "/admin/accounts/99/disable",
            "/admin/accounts/1/nope",
            "/admin/accounts/1",
            "/admin/users/99/enable",
        ):
            self.assertEqual(self.send(path).status, 404, path)


class UsersTests(AdminCase):
    """``/admin/users``."""

    def test_add(self) -> None:
        """A new user gets a random password, which is shown this once."""
        page = self.send("/admin/users", email="Jane@Example.com", account="1")
        (self.passwords["jane@example.com"],) = re.findall(r'<code id="password">([^<]+)</code>', page.text)
        self.assertEqual(self.browser("jane@example.com").get("/log").status, 200)
        self.assertNotIn(self.passwords["jane@example.com"], self.admin.get("/admin/users").text)

    def test_add_administrator(self) -> None:
        """An administrator is of no account; a password that was given is not shown."""
        page = self.send("/admin/users", email="root@example.com", account="administrator", password="a good password")
        self.assertNotIn("a good password", page.text)
        self.passwords["root@example.com"] = "a good password"
        self.assertEqual(self.browser("root@example.com").get("/admin/users").status, 200)

    def test_wrong(self) -> None:
        """What is wrong is told, with what was typed."""
        for fields, words in (
            ({"email": "nobody", "account": "1"}, "must look like"),
            ({"email": "x@example.com", "account": ""}, "Choose the account"),
            ({"email": "x@example.com", "account": "99"}, "There is no such account"),
            ({"email": "x@example.com", "account": "1", "password": "short"}, "10 to 200 characters"),
            ({"email": USER, "account": "1"}, "already"),
        ):
            reply = self.send("/admin/users", **fields)
            self.assertEqual(reply.status, 400)
            self.assertIn(words, reply.text)
            self.assertIn(f'value="{fields["email"]}"', reply.text)

    def test_password(self) -> None:
        """A new random password signs the user out; the administrator who renews the own one stays."""
        user = self.browser(USER)
        page = self.send("/admin/users/2/password")
        (self.passwords[USER],) = re.findall(r'<code id="password">([^<]+)</code>', page.text)
        self.assertEqual(user.get("/log").status, 303)
        self.browser(USER)
        self.send("/admin/users/1/password")
        self.assertEqual(self.admin.get("/admin/users").status, 200)

    def test_disable(self) -> None:
        """A disabled user is signed out and does not come in until enabled; the last administrator stays."""
        user = self.browser(USER)
        self.assertIn("is disabled", self.send("/admin/users/2/disable").text)
        self.assertEqual(user.get("/log").status, 303)
        self.send("/admin/users/2/enable")
        self.browser(USER)
        reply = self.send("/admin/users/1/disable")
        self.assertEqual(reply.status, 400)
        self.assertIn("only administrator", reply.text)


class OthersTests(AdminCase):
    """Who is no administrator."""

    def test_refused(self) -> None:
        """A user sees none of these pages, and changes nothing by them, with a token of the own session."""
        user = self.browser(USER)
        for path in ("/admin/accounts", "/admin/accounts/1", "/admin/users", "/admin/overview", "/admin/leave"):
            self.assertEqual(user.get(path).status, 403, path)
        for path in (
            "/admin/accounts",
            "/admin/accounts/1/look",
            "/admin/accounts/1/reset",
            "/admin/accounts/1/disable",
            "/admin/users",
            "/admin/users/1/password",
            "/admin/users/1/disable",
            "/admin/leave",
        ):
            fields = {"name": "x", "email": "x@example.com", "account": "administrator"}
            self.assertEqual(user.post(path, fields, page="/password").status, 403, path)
        self.assertEqual(self.get("/api/ping").status, 200)
        self.browser(ADMINISTRATOR)
