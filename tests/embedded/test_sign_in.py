"""Signing in and out: sessions, forms, throttling, and what others cannot do."""

from __future__ import annotations

import stat

import sqlalchemy as sa
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from relay.embedded import schema, sessions
from relay.embedded.first import ADMINISTRATOR, USER
from relay.embedded.passwords import Passwords
from relay.embedded.throttle import FREE, MOST, Throttle, network
from relay.embedded.web.frame import inside
from relay.policy import Embedded
from tests.embedded.inmemory import HASHER, BackendCase, Browser, Held, ask


class SignInTests(BackendCase):
    """Who comes in."""

    def test_needed(self) -> None:
        """Without signing in every page leads to the sign-in page, and from there back to what was wanted."""
        self.sent()
        for path in ("/", "/log?tag=welcome", "/message/X", "/message/X/preview", "/nope", "/admin/accounts"):
            reply = ask(self.site, "GET", path)
            self.assertEqual(reply.status, 303, path)
            self.assertTrue(reply.headers["location"].startswith("/sign-in?next=/"), reply.headers)
            self.assertEqual(reply.body, b"")
        browser = self.browser("")
        form = {"email": USER, "password": self.passwords[USER], "next": "/log?tag=welcome"}
        reply = browser.post("/sign-in", form)
        self.assertEqual(reply.headers["location"], "/log?tag=welcome")
        self.assertIn("Hello", browser.follow(reply).text)

    def test_api_key_is_none(self) -> None:
        """Neither the API key nor HTTP Basic opens a page, on this machine either."""
        for headers in (
            {"X-Auth-APIKey": self.backend.api_key},
            {"Authorization": "Basic " + f"api:{self.backend.api_key}".encode().hex()},
        ):
            self.assertEqual(ask(self.site, "GET", "/log", headers).status, 303)

    def test_wrong(self) -> None:
        """A wrong password and an unknown address get the same words."""
        browser = self.browser("")
        pages = []
        for email, password in ((USER, "wrong"), ("nobody@localhost", "wrong"), (USER, ""), ("", "")):
            reply = self.browser("").post("/sign-in", {"email": email, "password": password})
            self.assertEqual(reply.status, 403)
            self.assertIn("The e-mail address or the password is wrong.", reply.text)
            pages.append(reply.text)
        self.assertEqual(browser.get("/log").status, 303)

    def test_the_cookie(self) -> None:
        """The cookie is signed, for this host alone, not for script, and its name differs from another backend's."""
        reply = self.browser("").post("/sign-in", {"email": USER, "password": self.passwords[USER]})
        self.assertEqual(reply.status, 403 if not reply.cookies else 303)
        (cookie,) = [each for each in reply.cookies if "-session=" in each]
        self.assertRegex(
            cookie, r"\Arelay-[0-9a-f]{8}-session=[\w.-]{60,}; Path=/; HttpOnly; SameSite=Lax; Max-Age=34560000\Z"
        )

    def test_secure(self) -> None:
        """Where people come by https, the cookies are for https alone."""
        self.policy = Embedded(database=self.policy.database, public_url="https://mail.example.com")
        self.start()
        reply = self.browser("").post("/sign-in", {"email": USER, "password": self.passwords[USER]})
        for cookie in reply.cookies:
            self.assertTrue(cookie.startswith("__Host-relay-"), cookie)
            self.assertIn("; Secure", cookie)

    def test_forged(self) -> None:
        """A cookie that was changed, or of another backend, is none."""
        browser = self.browser()
        ((name, value),) = browser.cookies.items()
        changed = value[:9] + ("A" if value[9] != "A" else "B") + value[10:]
        for forged in (changed, value[:-2], "", "x", "x.y", value + "x", "é"):
            browser.cookies = {name: forged}
            self.assertEqual(browser.get("/log").status, 303, forged)
        browser.cookies = {name: value}
        self.assertEqual(browser.get("/log").status, 200)

    def test_fixation(self) -> None:
        """Signing in begins a new session and ends the one that the browser brought."""
        browser = self.browser()
        before = dict(browser.cookies)
        browser.get("/sign-out")
        token = browser.csrf("/sign-out")
        other = self.browser("")
        other.cookies = dict(before)
        # The form of who is signed in already is not shown: it comes from another tab.
        visitor = self.browser("")
        csrf = visitor.csrf("/sign-in")
        other.cookies.update(visitor.cookies)
        fields = {"email": ADMINISTRATOR, "password": self.passwords[ADMINISTRATOR], "csrf": csrf}
        self.assertEqual(other.post("/sign-in", fields).status, 303)
        self.assertNotEqual(other.cookies, before)
        self.assertEqual(browser.get("/log").status, 303)
        self.assertTrue(token)

    def test_sign_out(self) -> None:
        """Signing out ends the session at the server: the cookie opens nothing then; a look at its page does not."""
        browser = self.browser()
        kept = dict(browser.cookies)
        self.assertEqual(browser.get("/sign-out").status, 200)
        self.assertEqual(browser.get("/log").status, 200)
        self.assertEqual(browser.post("/sign-out").headers["location"], "/sign-in")
        self.assertEqual(browser.cookies, {})
        browser.cookies = kept
        self.assertEqual(browser.get("/log").status, 303)

    def test_idle(self) -> None:
        """A session that is used lives on; after a week without a look it is over."""
        browser = self.browser()
        for _ in range(3):
            self.clock.advance(500_000)
            self.assertEqual(browser.get("/log").status, 200)
        self.clock.advance(604_801)
        self.assertEqual(browser.get("/log").status, 303)

    def test_not_stored(self) -> None:
        """The database holds neither passwords nor what the cookies hold."""
        self.browser()
        rows = self.change(
            lambda connection: [
                *connection.execute(sa.select(schema.users)),
                *connection.execute(sa.select(schema.sessions)),
            ]
        )
        text = repr(rows)
        self.assertIn("$argon2id$", text)
        for password in self.passwords.values():
            self.assertNotIn(password, text)
        self.assertNotIn(self.passwords[USER], repr(self.backend))

    def test_logged(self) -> None:
        """The log tells who signed in and whose password was wrong, from where, and nothing that was typed."""
        lines: list[str] = []

        def observe(event: LogEvent) -> None:
            lines.append(formatEvent(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        for email, password in ((USER, "canary-1"), ("canary-2", "canary-3"), (USER, self.passwords[USER])):
            self.browser("", "192.0.2.1").post("/sign-in", {"email": email, "password": password})
        self.assertEqual(
            [line for line in lines if "192.0.2.1" in line],
            [
                f"embedded: {USER} from 192.0.2.1 not signed in",
                "embedded: a stranger from 192.0.2.1 not signed in",
                f"embedded: {USER} from 192.0.2.1 signed in",
            ],
        )
        self.assertNotIn("canary", "".join(lines))
        self.assertNotIn(self.passwords[USER], "".join(lines))

    def test_inside(self) -> None:
        """Only a path of ours is what one comes to after signing in."""
        for path in ("/", "/log?a=b&c=%2F", "/message/X#y"):
            self.assertEqual(inside(path), path)
        for path in (
            "",
            "log",
            "//evil.example",
            "/\\evil.example",
            "https://evil.example",
            "/x\r\nSet-Cookie: a",
            "/ x",
        ):
            self.assertEqual(inside(path), "/", path)
        browser = self.browser("")
        form = {"email": USER, "password": self.passwords[USER], "next": "//evil.example/"}
        self.assertEqual(browser.post("/sign-in", form).headers["location"], "/")


class FirstTests(BackendCase):
    """The first start."""

    def test_passwords(self) -> None:
        """It makes an administrator and a user, whose passwords stand in a private file until both have signed in."""
        file = self.data / "first-passwords"
        self.assertEqual(stat.S_IMODE(file.stat().st_mode), 0o600)
        for email, password in self.passwords.items():
            self.assertRegex(file.read_text(), rf"(?m)^\w+ +{email} +{password}$")
        self.browser(USER)
        self.assertTrue(file.exists())
        self.assertIn("first-passwords", self.browser("").get("/sign-in").text)
        self.browser(ADMINISTRATOR)
        self.assertFalse(file.exists())
        self.assertNotIn("first-passwords", self.browser("").get("/sign-in").text)

    def test_second_start(self) -> None:
        """The next start makes nobody, and leaves the file to who has not read it yet."""
        self.assertIsNotNone(self.backend.first)
        self.start()
        self.assertIsNone(self.backend.first)
        self.assertTrue((self.data / "first-passwords").exists())
        self.browser(USER)


class ThrottleTests(BackendCase):
    """Guessing."""

    def attempt(self, email: str, password: str = "wrong", peer: str = "192.0.2.1") -> int:
        return self.browser("", peer).post("/sign-in", {"email": email, "password": password}).status

    def test_address(self) -> None:
        """After three failures for an e-mail address each next attempt waits twice as long, wherever it comes from."""
        for number in range(3):
            self.assertEqual(self.attempt(USER, peer=f"192.0.2.{number}"), 403)
        reply = self.browser("", "192.0.2.9").post("/sign-in", {"email": USER, "password": self.passwords[USER]})
        self.assertEqual((reply.status, reply.headers["retry-after"]), (429, "1"))
        self.assertIn("try again in 1 second.", reply.text)
        self.clock.advance(1)
        self.assertEqual(self.attempt(USER), 403)
        self.clock.advance(1)
        self.assertEqual(self.attempt(USER), 429)
        self.clock.advance(1)
        self.assertEqual(self.attempt(USER, self.passwords[USER]), 303)
        self.assertEqual(self.attempt(USER), 403)

    def test_source(self) -> None:
        """Who tries many e-mail addresses waits too, others do not."""
        for number in range(FREE["address"]):
            self.assertEqual(self.attempt(f"{number}@localhost"), 403)
        self.assertEqual(self.attempt(USER), 429)
        self.assertEqual(self.attempt(USER, self.passwords[USER], peer="192.0.2.2"), 303)

    def test_own_password_covers_nothing(self) -> None:
        """One good password does not let who guesses go on."""
        for number in range(FREE["address"] - 1):
            self.attempt(f"{number}@localhost")
        self.assertEqual(self.attempt(USER, self.passwords[USER]), 303)
        self.assertEqual(self.attempt("x@localhost"), 403)
        self.assertEqual(self.attempt("y@localhost"), 429)

    def test_bounded(self) -> None:
        """However many try, the memory stays bounded, and after an hour they are forgotten."""
        throttle = Throttle(self.clock)
        for number in range(MOST + 10):
            throttle.tried(("email", str(number)))
        self.assertEqual(len(throttle._failures), MOST)
        for _ in range(60):
            throttle.tried(("email", "x"))
        self.assertEqual(throttle.wait(("email", "x")), 300.0)
        self.clock.advance(3600)
        self.assertEqual(throttle.wait(("email", "x")), 0.0)

    def test_network(self) -> None:
        """Of IPv6 the network counts, which one host may have all of."""
        self.assertEqual(network("2001:db8::1"), network("2001:db8::ffff:2"))
        self.assertNotEqual(network("2001:db8::1"), network("2001:db8:0:1::1"))
        self.assertEqual(network("::ffff:192.0.2.1"), "192.0.2.1")
        self.assertEqual(network("192.0.2.1"), "192.0.2.1")
        self.assertEqual(network("unix"), "unix")


class PasswordsTests(BackendCase):
    """Hashing."""

    def test_off_the_reactor(self) -> None:
        """Hashing runs in the executor, and who comes when too many wait is told to come again."""
        held = Held()
        passwords = Passwords(held, HASHER)
        waiting = [Deferred.fromCoroutine(passwords.match(None, "x")) for _ in range(50)]
        refused = self.failureResultOf(Deferred.fromCoroutine(passwords.match(None, "x"))).value
        self.assertEqual(refused.status, 503)
        self.assertEqual(len(held.jobs), 50)
        held.release()
        self.assertEqual([self.successResultOf(each) for each in waiting], [False] * 50)

    def test_change(self) -> None:
        """A user changes the password with the old one; other sessions end, this one stays."""
        browser, other = self.browser(), self.browser()
        wrong = browser.post("/password", {"old": "wrong", "new": "a new password"})
        self.assertEqual(wrong.status, 403)
        short = browser.post("/password", {"old": self.passwords[USER], "new": "short"})
        self.assertIn("10 to 200 characters", short.text)
        self.assertEqual(other.get("/log").status, 200)
        changed = browser.post("/password", {"old": self.passwords[USER], "new": "a new password"})
        self.assertEqual(changed.status, 303)
        self.assertEqual(other.get("/log").status, 303)
        self.assertIn("Your password was changed", browser.get("/log").text)
        self.assertNotIn("Your password was changed", browser.get("/log").text)
        self.passwords[USER] = "a new password"
        self.browser()


class FormTests(BackendCase):
    """What is sent from elsewhere (THREATS.md, "CSRF, clickjacking")."""

    def setUp(self) -> None:
        super().setUp()
        self.looks: Browser = self.browser()

    def refused(self, **options: object) -> None:
        reply = self.looks.post("/sign-out", **options)  # type: ignore[arg-type]
        self.assertIn(reply.status, (400, 403), options)
        self.assertEqual(self.looks.get("/log").status, 200, options)

    def test_token(self) -> None:
        """Without the token of the session a form does nothing."""
        stranger = self.browser(ADMINISTRATOR)
        for token in ("", "x", "é", stranger.csrf("/sign-out")):
            self.refused(fields={"csrf": token})

    def test_origin(self) -> None:
        """Nor when the browser says that it comes from elsewhere."""
        for headers in (
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://localhost:8081"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
            {"Origin": "", "Referer": "https://evil.example/x"},
            {"Content-Type": "text/plain"},
            {"Content-Type": "multipart/form-data; boundary=x"},
        ):
            self.refused(headers=headers)

    def test_sign_in_from_elsewhere(self) -> None:
        """Nobody signs another one in, who would then work in a stranger's account."""
        fields = {"email": USER, "password": self.passwords[USER]}
        visitor = self.browser("")
        self.assertEqual(visitor.post("/sign-in", fields, headers={"Origin": "https://evil.example"}).status, 403)
        self.assertEqual(Browser(self.site).post("/sign-in", {**fields, "csrf": "x"}).status, 403)
        stranger = self.browser("")
        self.assertEqual(visitor.post("/sign-in", {**fields, "csrf": stranger.csrf("/sign-in")}).status, 403)

    def test_behind_a_proxy(self) -> None:
        """Behind a proxy that changes the Host header the public URL counts as ours."""
        self.policy = Embedded(database=self.policy.database, public_url="https://mail.example.com")
        self.start()
        browser = Browser(self.site)
        headers = {"Origin": "https://mail.example.com", "Sec-Fetch-Site": "same-origin"}
        reply = browser.post("/sign-in", {"email": USER, "password": self.passwords[USER]}, headers=headers)
        self.assertEqual(reply.status, 303)

    def test_get_changes_nothing(self) -> None:
        """A GET of a page that takes a form changes nothing."""
        before = self.change(lambda connection: list(connection.execute(sa.select(schema.sessions.c.id))))
        admin = self.browser(ADMINISTRATOR)
        for path in ("/sign-out", "/password", "/admin/leave", "/admin/accounts/1/look"):
            self.looks.get(path)
            admin.get(path)
        after = self.change(lambda connection: list(connection.execute(sa.select(schema.sessions.c.account))))
        self.assertEqual((len(before), len(after)), (1, 2))
        self.assertEqual({row.account for row in after}, {None})

    def test_not_framed(self) -> None:
        """No page lets itself be framed."""
        for path in ("/log", "/sign-out", "/nope"):
            headers = self.looks.get(path).headers
            self.assertIn("frame-ancestors 'none'", headers["content-security-policy"])
            self.assertEqual(headers["x-frame-options"], "DENY")


class ImpersonationTests(BackendCase):
    """An administrator looks at an account."""

    def test_look_and_leave(self) -> None:
        """It sees what the account's user sees, with a banner that says so, until it leaves."""
        self.sent(subject="For Local")
        admin = self.browser(ADMINISTRATOR)
        self.assertEqual(admin.get("/log").headers["location"], "/admin/accounts")
        self.assertIn("Local", admin.get("/admin/accounts").text)
        admin.post("/admin/accounts/1/look", page="/admin/accounts")
        page = admin.get("/log").text
        self.assertIn("For Local", page)
        self.assertIn("You look at the account <strong>Local</strong>", page)
        admin.post("/admin/leave", page="/log")
        self.assertEqual(admin.get("/log").status, 303)

    def test_users_do_not(self) -> None:
        """A user has no page of administrators, and looks at no other account."""
        self.add_account("Second")
        user = self.browser()
        for path in ("/admin/accounts", "/admin/leave"):
            self.assertEqual(user.get(path).status, 403)
        self.assertEqual(user.post("/admin/accounts/2/look").status, 403)
        self.assertNotIn("/admin/", user.get("/log").text)

    def test_disabled(self) -> None:
        """Users of a disabled account, and disabled users, are signed out and do not come in."""
        browser = self.browser()
        self.change(lambda connection: connection.execute(sa.update(schema.accounts).values(disabled=1.0)))
        self.assertEqual(browser.get("/log").status, 303)
        reply = self.browser("").post("/sign-in", {"email": USER, "password": self.passwords[USER]})
        self.assertEqual(reply.status, 403)

    def test_digest(self) -> None:
        """Tokens are random."""
        self.assertEqual(len({sessions.new_token() for _ in range(100)}), 100)
