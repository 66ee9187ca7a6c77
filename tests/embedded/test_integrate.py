"""The page "Integrate": what a program needs to send, and who is shown the key."""

from __future__ import annotations

import html
import json
import re
import shlex
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.embedded.first import ADMINISTRATOR
from relay.embedded.web.hint import Hint
from relay.embedded.web.samples import SAMPLES, Facts, code
from relay.values import key_digest
from tests.embedded.inmemory import BackendCase, Browser

PEM = "-----BEGIN CERTIFICATE-----\nTUlJQg==\n-----END CERTIFICATE-----\n"


class IntegrateCase(BackendCase):
    """A relay that listens on three ports with a certificate of its own."""

    def setUp(self) -> None:
        self.forgotten: list[bytes] = []
        super().setUp()
        certificate = self.data / "certificate.pem"
        certificate.write_text(f"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n{PEM}")
        self.backend.hint = Hint("relay.example.com", 2525, ports=(587, 2525, 8025), certificate=certificate)

    def start(self, **options: object) -> None:
        super().start(forget=self.forgotten.append, **options)

    def impersonating(self) -> Browser:
        """An administrator who looks at the first account."""
        admin = self.browser(ADMINISTRATOR)
        admin.post("/admin/accounts/1/look", page="/admin/accounts")
        return admin


class PageTests(IntegrateCase):
    """What it shows."""

    def test_settings(self) -> None:
        """Host name, the ports that are listened on, STARTTLS, and the key with a button to copy it."""
        text = self.browser().get("/integrate").text
        for word in ("relay.example.com", "<code>587</code>", "<code>2525</code>", "<code>8025</code>", "STARTTLS"):
            self.assertIn(word, text)
        self.assertIn(f'<code id="key">{self.backend.api_key}</code>', text)
        self.assertIn('data-copy="key"', text)
        self.assertIn("Not used yet", text)

    def test_code(self) -> None:
        """Each language has code with this account's host and key."""
        browser = self.browser()
        for sample in SAMPLES:
            text = html.unescape(browser.get(f"/integrate?code={sample.id}").text)
            codes = "".join(re.findall(r'<pre id="code-\d+" tabindex="0">(.*?)</pre>', text, re.S))
            self.assertIn("relay.example.com", codes, sample.id)
            self.assertIn(self.backend.api_key, codes, sample.id)
            self.assertIn(f'href="/integrate?code={sample.id}#code" aria-current="true"', text)
        self.assertIn("swaks --server", browser.get("/integrate?code=nope").text)

    def test_first_message(self) -> None:
        """The page waits for the first message, and then leads to it; without script it loads itself again."""
        browser = self.browser()
        text = browser.get("/integrate").text
        self.assertIn("Waiting for your first message", text)
        self.assertIn('http-equiv="refresh"', text)
        self.assertEqual(browser.get("/integrate/first.json").json, {})
        id = self.sent(subject="<b>First</b>")
        self.assertEqual(browser.get("/integrate/first.json").json, {"href": f"/message/{id}", "label": "<b>First</b>"})
        text = browser.get("/integrate").text
        self.assertIn(f'href="/message/{id}">&lt;b&gt;First', text)
        self.assertNotIn('http-equiv="refresh"', text)

    def test_last_use(self) -> None:
        """It says when the key was used last."""
        self.sent()
        self.clock.advance(1)
        self.assertIn("Last used", self.browser().get("/integrate").text)

    def test_certificate(self) -> None:
        """The certificate can be downloaded, and nothing else that stands in its file."""
        reply = self.browser().get("/integrate/certificate.pem")
        self.assertEqual(reply.text, PEM)
        self.assertIn("attachment", reply.headers["content-disposition"])
        self.backend.hint = Hint("relay.example.com")
        self.assertEqual(self.browser().get("/integrate/certificate.pem").status, 404)
        self.assertNotIn("certificate.pem", self.browser().get("/integrate?code=python").text)
        self.backend.hint = Hint("relay.example.com", certificate=Path("nowhere.pem"))
        self.assertEqual(self.browser().get("/integrate/certificate.pem").status, 404)

    def test_not_there(self) -> None:
        """What is not there is 404."""
        browser = self.browser()
        for path in ("/integrate/nope", "/integrate/api/x"):
            self.assertEqual(browser.get(path).status, 404)
        self.assertEqual(browser.post("/integrate/nope", page="/integrate").status, 404)


class ResetTests(IntegrateCase):
    """The button."""

    def test_reset(self) -> None:
        """The new key is shown; the old one stops at once, in the relay's cache too."""
        browser, old = self.browser(), self.backend.api_key
        reply = browser.post("/integrate/reset", page="/integrate")
        text = browser.follow(reply).text
        self.assertIn("The API key was reset", text)
        self.assertNotIn(old, text)
        (new,) = re.findall(r'<code id="key">(\w+)</code>', text)
        self.assertEqual((self.get("/api/ping", key=new).status, self.get("/api/ping", key=old).status), (200, 401))
        self.assertEqual(self.forgotten, [key_digest(old)])

    def test_get(self) -> None:
        """A GET resets nothing."""
        self.assertEqual(self.browser().get("/integrate/reset").status, 404)
        self.assertEqual(self.get("/api/ping").status, 200)


class ImpersonationTests(IntegrateCase):
    """An administrator who looks at the account."""

    def test_blank(self) -> None:
        """The key is in no byte of any page; the code has a word in its place."""
        admin = self.impersonating()
        self.sent()
        for path in ("/integrate", "/integrate/api", *(f"/integrate?code={sample.id}" for sample in SAMPLES)):
            reply = admin.get(path)
            self.assertEqual(reply.status, 200)
            self.assertNotIn(self.backend.api_key, reply.text)
            self.assertNotIn(self.backend.api_key[:4], reply.text)
            self.assertIn("YOUR-API-KEY", reply.text)
        self.assertIn("The API key is not shown to administrators", admin.get("/integrate").text)

    def test_reset(self) -> None:
        """It may reset the key, and is not shown the new one; the account's user is."""
        admin, old = self.impersonating(), self.backend.api_key
        text = admin.follow(admin.post("/integrate/reset", page="/integrate")).text
        (new,) = re.findall(r'<code id="key">(\w+)</code>', self.browser().get("/integrate").text)
        self.assertNotEqual(new, old)
        self.assertNotIn(new, text)


class QuotingTests(SynchronousTestCase):
    """A key of one's own may have any printable character."""

    @settings(deadline=None)
    @given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=16, max_size=60))
    def test_quoted(self, key: str) -> None:
        """It is one word of a shell, one string of Python and JavaScript, and nothing is put in by PHP or Ruby."""
        facts = Facts("relay.example.com", 2525, key, True)
        self.assertIn(key, shlex.split(code("swaks.sh", facts).replace("\\\n", "")))
        line = next(line for line in code("settings.py", facts).splitlines() if "PASSWORD" in line)
        self.assertEqual(json.loads(line.partition(" = ")[2]), key)
        (quoted,) = re.findall(r"Password = '(.*)';", code("send.php", facts))
        self.assertEqual(re.sub(r"\\(.)", r"\1", quoted), key)
        line = next(line for line in code("rails.rb", facts).splitlines() if "password:" in line).strip()
        self.assertRegex(line, r"""\Apassword: (?:"[A-Za-z0-9.-]+"|'(?:[^'\\]|\\['\\])+'),\Z""")
