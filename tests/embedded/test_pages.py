"""The pages: what they show, to whom, and that nothing in a message comes alive."""

from __future__ import annotations

import base64
import html
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from twisted.trial.unittest import SynchronousTestCase

from relay.embedded import accounts
from relay.embedded.database import change, open_sqlite
from relay.embedded.web.pages import Hint, is_local
from tests.embedded.inmemory import MESSAGE, BackendCase, Reply, ask

HOSTILE = "\"><script>alert('x')</script>&{{ 7*7 }}<img src=x onerror=alert(1)>"
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; frame-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)


class Elements(HTMLParser):
    """The elements of a page, as (tag, attributes)."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def __getitem__(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


class PagesCase(BackendCase):
    """Pages seen by a browser on this machine."""

    def page(self, path: str = "/", status: int = 200, **options: Any) -> Reply:
        reply = ask(self.site, "GET", path, **options)
        self.assertEqual(reply.status, status, reply.body)
        return reply

    def subjects(self, path: str) -> list[str]:
        """The subjects on a list, from the top."""
        return [
            html.unescape(each) for each in re.findall(r'<a href="/message/[^"]*">([^<]*)</a>', self.page(path).text)
        ]


class ListTests(PagesCase):
    """The list."""

    def test_empty(self) -> None:
        """Before the first message the page says how to send one, by a line that reads the key and does not show it."""
        self.backend.hint = Hint("192.0.2.7", 8025, tls=False)
        text = html.unescape(self.page().text)
        self.assertIn("swaks --server 192.0.2.7 --port 8025", text)
        self.assertIn(f'--auth-password "$(cat {self.backend.key_file})"', text)
        self.assertNotIn("--tls", text)
        self.assertNotIn(self.backend.api_key, text)
        self.assertIn('http-equiv="refresh"', text)

    def test_newest_first(self) -> None:
        """Each message has its recipient, subject, tag, route and status, the newest on top, and leads to its page."""
        self.sent(subject="First", tag="one")
        id = self.sent(subject="Second", to="joe@example.org", tag="two")
        text = self.page().text
        self.assertEqual(self.subjects("/"), ["Second", "First"])
        self.assertIn(f'href="/message/{id}"', text)
        for word in ("joe@example.org", "two", "capture", "captured", 'datetime="2026-11-23T13:20:00.000Z"'):
            self.assertIn(word, text)
        self.assertNotIn("refresh", Elements(text)["meta"][-1].values())

    def test_filters(self) -> None:
        """Every filter stands in the URL, and the form shows it."""
        self.sent(subject="One", tag="orders", to="jane@example.org")
        self.sent(subject="Two", tag="welcome", to="joe@example.org")
        for query, subjects in {
            "tag=orders": ["One"],
            "search=JOE": ["Two"],
            "to=jane@example.org": ["One"],
            "status=captured&tag=welcome": ["Two"],
            "tag=nope": [],
            "unknown=x": ["Two", "One"],
        }.items():
            self.assertEqual(self.subjects(f"/?{query}"), subjects, query)
        text = self.page("/?search=jo&tag=welcome&to=joe@example.org").text
        given = {field.get("name"): field.get("value") for field in Elements(text)["input"]}
        self.assertEqual(given, {"search": "jo", "tag": "welcome", "to": "joe@example.org"})
        self.assertIn("No message matches", self.page("/?tag=nope").text)

    def test_pages(self) -> None:
        """Older leads on from the last row, with the filters, and Newest back."""
        for number in range(120):
            self.sent(subject=str(number), tag="t" if number % 2 else "u")
        seen, path = [], "/?tag=t"
        for _ in range(2):
            seen += self.subjects(path)
            text = self.page(path).text
            path = next((link["href"] for link in Elements(text)["a"] if link.get("rel") == "next"), None)
        self.assertEqual(seen, [str(number) for number in range(119, 0, -2)])
        self.assertIsNone(path)
        self.assertIn('<a class="button" href="/?tag=t">← Newest</a>', text)

    def test_strange_cursor(self) -> None:
        """A page that starts from a message that is not there is 404."""
        self.page("/?before=NOPE", 404)


class MessageTests(PagesCase):
    """The page of a message."""

    def setUp(self) -> None:
        super().setUp()
        reply = self.post(
            {**MESSAGE, "body": "<p>Hi {{ name }}</p>", "variables": {"name": "Zoë"}}, X_Request_ID="4C0FFEE"
        )
        self.path = f"/message/{reply.json['id']}"

    def test_fields(self) -> None:
        """All fields are there, and the HTML in a frame that may nothing."""
        text = html.unescape(self.page(self.path).text)
        for word in (
            "Example Shop <shop@example.com>",
            "Jane Doe <jane@example.org>",
            "Help <help@example.com>",
            "bounce@example.com",
            "welcome",
            "capture",
            "4C0FFEE",
            self.path.rpartition("/")[2],
        ):
            self.assertIn(word, text)
        (frame,) = Elements(text)["iframe"]
        self.assertEqual((frame["sandbox"], frame["src"]), (None, f"{self.path}/preview"))

    def test_views(self) -> None:
        """Source is the rendered HTML, JSON what was posted."""
        source = self.page(f"{self.path}?view=source").text
        self.assertIn(html.escape("<p>Hi Zoë</p>"), source)
        self.assertEqual(Elements(source)["iframe"], [])
        posted = html.unescape(self.page(f"{self.path}?view=json").text)
        self.assertIn('"body": "<p>Hi {{ name }}</p>"', posted)
        self.assertEqual(len(Elements(self.page(f"{self.path}?view=nope").text)["iframe"]), 1)

    def test_null_sender(self) -> None:
        """The null sender is shown as such."""
        self.assertIn("&lt;&gt;", self.page(f"/message/{self.sent(returnpath='')}").text)

    def test_preview(self) -> None:
        """The HTML comes from its own path, where no script runs, no request goes out and no stranger frames it."""
        reply = self.page(f"{self.path}/preview")
        self.assertEqual(reply.text, "<p>Hi Zoë</p>")
        self.assertEqual(reply.headers["content-type"], "text/html; charset=utf-8")
        self.assertEqual(reply.headers["x-content-type-options"], "nosniff")
        self.assertEqual(
            reply.headers["content-security-policy"],
            "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'",
        )
        self.assertEqual(reply.headers["referrer-policy"], "no-referrer")

    def test_preview_connects_nowhere(self) -> None:
        """No element is left that makes a browser connect ahead of its policy; the source still shows it."""
        id = self.sent(body='<LINK\nrel=preconnect href="http://x"><link/rel=icon><iframe src=x><frame><linked>')
        preview = '<x-LINK\nrel=preconnect href="http://x"><x-link/rel=icon><x-iframe src=x><x-frame><linked>'
        self.assertEqual(self.page(f"/message/{id}/preview").text, preview)
        self.assertIn("&lt;LINK", self.page(f"/message/{id}?view=source").text)

    def test_download(self) -> None:
        """The JSON can be downloaded as it came."""
        reply = self.page(f"{self.path}/posted.json")
        self.assertEqual(reply.json["body"], "<p>Hi {{ name }}</p>")
        self.assertEqual(reply.headers["content-type"], "application/json")
        self.assertTrue(reply.headers["content-disposition"].startswith("attachment;"))

    def test_not_there(self) -> None:
        """What is not there is a 404 page."""
        for path in (
            "/message",
            "/message/",
            "/message/NOPE",
            f"{self.path}/nope",
            f"{self.path}/preview/x",
            "/nope/x",
        ):
            reply = self.page(path, 404)
            self.assertEqual(reply.headers["content-type"], "text/html; charset=utf-8")

    def test_long_source(self) -> None:
        """Of a very long source the beginning is shown, and that it is not all."""
        self.site = self.backend.site()
        id = self.sent(body="x" * 1_000_001)
        text = self.page(f"/message/{id}?view=source").text
        self.assertIn("Only the first", text)
        self.assertNotIn("x" * 1_000_001, text)

    def test_deep_json(self) -> None:
        """JSON that is deep and would be long when set out is shown as far as that is of use."""
        for depth in (800, 9000):
            nested = b"[" * depth + b"1," * 10_000 + b"1" + b"]" * depth
            headers = {"X-Auth-APIKey": self.backend.api_key}
            body = b'{"to":"a@b","subject":"s","body":"b","extra":%b}' % nested
            reply = ask(self.site, "POST", "/api/transactional/send", headers, body)
            # How deep is too deep depends on the Python.
            self.assertEqual(reply.status, 200 if depth == 800 else reply.status)
            if reply.status == 200:
                text = self.page(f"/message/{reply.json['id']}?view=json").text
                self.assertLess(len(text), 1_200_000)

    def test_method(self) -> None:
        """The pages are read, never written."""
        reply = ask(self.site, "POST", self.path)
        self.assertEqual((reply.status, reply.headers["allow"]), (405, "GET, HEAD"))


class HostileTests(PagesCase):
    """A message that wants to be more than a message."""

    def test_escaped(self) -> None:
        """Script in any field is text on every page; no page of ours has a script at all."""
        fields = ("fromname", "fromemail", "toname", "subject", "replyto", "returnpath", "body")
        reply = self.post(
            {**MESSAGE, **dict.fromkeys(fields, HOSTILE), "to": '"<script>"@example.org'},
            X_Request_ID="<script>alert(1)</script>",
        )
        self.assertEqual(reply.status, 200, reply.body)
        path = f"/message/{reply.json['id']}"
        for page in (
            "/",
            path,
            f"{path}?view=source",
            f"{path}?view=json",
            "/?search=%3Cscript%3E%22%27&tag=%22onx%3D%22",
        ):
            elements = Elements(self.page(page).text)
            self.assertEqual(elements["script"], [], page)
            self.assertEqual(elements["img"], [], page)
            for tag, attributes in elements.found:
                self.assertFalse([name for name in attributes if name.startswith("on")], (page, tag))
        self.assertIn(html.escape(HOSTILE), self.page(path).text.replace("&#34;", "&quot;").replace("&#39;", "&#x27;"))

    def test_attachment_name(self) -> None:
        """So it is in the name of a file."""
        body = (
            b'--b\r\nContent-Disposition: form-data; name="payload"\r\n\r\n{"to":"a@b","subject":"s","body":"b"}\r\n'
            b'--b\r\nContent-Disposition: form-data; name="attachment"; filename="<script>"\r\n\r\nx\r\n--b--\r\n'
        )
        headers = {"X-Auth-APIKey": self.backend.api_key, "Content-Type": "multipart/form-data; boundary=b"}
        reply = ask(self.site, "POST", "/api/transactional/send", headers, body)
        text = self.page(f"/message/{reply.json['id']}").text
        self.assertIn("&lt;script&gt;", text)
        self.assertNotIn("<script>", text)

    def test_error_page(self) -> None:
        """A path with script in it is not repeated."""
        self.assertNotIn("alert", self.page("/%3Cscript%3Ealert(1)", 404).text)

    def test_headers(self) -> None:
        """Every page of ours has the policy, and lets nobody frame it."""
        path = f"/message/{self.sent()}"
        for page, status in (
            ("/", 200),
            (path, 200),
            ("/nope", 404),
            ("/style.css", 200),
            (f"{path}/posted.json", 200),
        ):
            headers = self.page(page, status).headers
            self.assertEqual(headers["content-security-policy"], POLICY, page)
            self.assertEqual(headers["referrer-policy"], "no-referrer")
            self.assertEqual(headers["cross-origin-resource-policy"], "same-origin")
            self.assertEqual(headers["x-content-type-options"], "nosniff")

    def test_nothing_from_elsewhere(self) -> None:
        """A page refers to nothing outside."""
        text = self.page(f"/message/{self.sent(body='x')}").text
        for _, attributes in Elements(text).found:
            for name in ("src", "href"):
                if name in attributes:
                    self.assertRegex(attributes[name], r"\A(/(?!/)|data:image/)")


class AccessTests(PagesCase):
    """Who may look."""

    def basic(self, password: str) -> dict[str, str]:
        return {"Authorization": "Basic " + base64.b64encode(f"anyone:{password}".encode()).decode()}

    def test_local(self) -> None:
        """A browser on this machine sees the pages without a key."""
        self.page("/")

    def test_remote(self) -> None:
        """From elsewhere the key is asked for, on every path but the style sheet."""
        path = f"/message/{self.sent()}"
        for page in (
            "/",
            path,
            f"{path}/preview",
            f"{path}/posted.json",
            f"{path}?view=json",
            "/nope",
            "/message/NOPE",
        ):
            reply = self.page(page, 401, peer="192.0.2.1")
            self.assertTrue(reply.headers["www-authenticate"].startswith("Basic "))
            self.assertNotIn("Hello", reply.text)
        self.page("/style.css", peer="192.0.2.1")

    def test_key(self) -> None:
        """With the key as password they open, under any name; with another they do not."""
        self.sent()
        self.assertIn("Hello", self.page("/", peer="192.0.2.1", headers=self.basic(self.backend.api_key)).text)
        for wrong in ("", "wrong", self.backend.api_key + "x"):
            self.page("/", 401, peer="192.0.2.1", headers=self.basic(wrong))
        for header in ("Basic", "Basic !", "Bearer " + self.backend.api_key, "Basic " + self.backend.api_key):
            self.page("/", 401, peer="192.0.2.1", headers={"Authorization": header})

    def test_rebinding(self) -> None:
        """A name elsewhere that points to this machine opens nothing."""
        self.page("/", 401, headers={"Host": "evil.example:8080"})

    def test_proxy(self) -> None:
        """Behind a proxy on this machine the key is asked for."""
        for name in ("X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"):
            self.page("/", 401, headers={name: "x"})

    def test_other_account(self) -> None:
        """A key opens its own account's messages and no other's."""
        engine = open_sqlite(self.data / "platform.sqlite3")
        self.addCleanup(engine.dispose)

        def second(connection: sa.Connection) -> None:
            accounts.add_key(connection, accounts.add(connection, "Second", 0.0), "k" * 40, 0.0)

        change(engine, second)
        path = f"/message/{self.sent()}"
        headers = self.basic("k" * 40)
        self.assertIn("Waiting for your first message", self.page("/", peer="192.0.2.1", headers=headers).text)
        for page in (path, f"{path}/preview", f"{path}/posted.json", f"/?before={path[9:]}"):
            self.page(page, 404, peer="192.0.2.1", headers=headers)


class LocalTests(SynchronousTestCase):
    """Who is on this machine, and knows it."""

    def test_local(self) -> None:
        """Loopback peers that ask for a loopback name or address are."""
        for peer in ("127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"):
            for host in (
                "localhost",
                "localhost:8080",
                "LOCALHOST:1",
                "mail.localhost",
                "127.0.0.1:8080",
                "[::1]:80",
                "::1",
            ):
                self.assertTrue(is_local(peer, host, False), (peer, host))

    def test_not_local(self) -> None:
        """Others are not, nor is anyone behind a proxy."""
        for host in ("", "example.com", "localhost.example.com", "127.0.0.1.example.com", "192.0.2.1", "evil:80:80"):
            self.assertFalse(is_local("127.0.0.1", host, False), host)
        for peer in ("192.0.2.1", "", "2001:db8::1", "::ffff:192.0.2.1", "localhost"):
            self.assertFalse(is_local(peer, "localhost", False), peer)
        self.assertFalse(is_local("127.0.0.1", "localhost", True))


class HintTests(SynchronousTestCase):
    """The line that sends a first message."""

    def test_quoted(self) -> None:
        """A path with a space is quoted for the shell."""
        line = Hint(tls=True).swaks(Path("/data of mine/api-key"))
        self.assertIn("""--auth-password "$(cat '/data of mine/api-key')\"""", line)
        self.assertIn("--tls", line)
