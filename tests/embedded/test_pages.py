"""The pages: what they show, to whom, and that nothing in a message comes alive."""

from __future__ import annotations

import csv
import html
import re
from html.parser import HTMLParser
from pathlib import Path

import sqlalchemy as sa
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from relay.embedded import deliveries, listing, schema, store
from relay.embedded.web.hint import Hint
from tests.embedded.inmemory import MESSAGE, BackendCase, Exchange, Reply, ask

HOSTILE = "\"><script>alert('x')</script>&{{ 7*7 }}<img src=x onerror=alert(1)>"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
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
    """Pages seen by the user of the first account."""

    def setUp(self) -> None:
        super().setUp()
        self.looks = self.browser()

    def page(self, path: str = "/log", status: int = 200) -> Reply:
        reply = self.looks.get(path)
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
        self.backend.hint = Hint("192.0.2.7", 8025, tls=False, key_file=self.backend.key_file)
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
        self.assertEqual(self.subjects("/log"), ["Second", "First"])
        self.assertIn(f'href="/message/{id}"', text)
        for word in ("joe@example.org", "two", "capture", "captured", 'datetime="2026-11-23T13:20:00.000Z"'):
            self.assertIn(word, text)
        self.assertNotIn('http-equiv="refresh"', text)

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
            self.assertEqual(self.subjects(f"/log?{query}"), subjects, query)
        text = self.page("/log?search=jo&tag=welcome&to=joe@example.org").text
        given = {field.get("name"): field.get("value") for field in Elements(text)["input"]}
        del given["csrf"]
        filled = {name: value for name, value in given.items() if value}
        self.assertEqual(filled, {"search": "jo", "tag": "welcome", "to": "joe@example.org"})
        self.assertIn("No message matches", self.page("/log?tag=nope").text)

    def test_pages(self) -> None:
        """Older leads on from the last row, with the filters, and Newest back."""
        for number in range(120):
            self.sent(subject=str(number), tag="t" if number % 2 else "u")
        seen, path = [], "/log?tag=t"
        for _ in range(2):
            seen += self.subjects(path)
            text = self.page(path).text
            path = next((link["href"] for link in Elements(text)["a"] if link.get("rel") == "next"), None)
        self.assertEqual(seen, [str(number) for number in range(119, 0, -2)])
        self.assertIsNone(path)
        self.assertIn('<a class="button" href="/log?tag=t">← Newest</a>', text)

    def test_empty_fields(self) -> None:
        """What the form sends of empty fields is left out of the address."""
        reply = self.page("/log?search=jo&tag=&status=&since=", 303)
        self.assertEqual(reply.headers["location"], "/log?search=jo")

    def test_times(self) -> None:
        """A time is shown in the form as it is meant, and one that is none is told."""
        self.sent()
        self.assertEqual(self.subjects("/log?since=2026-11-23T13:20:00Z"), ["Hello"])
        self.assertEqual(self.subjects("/log?until=2026-11-23T13:20"), [])
        text = self.page("/log?since=2026-11-23T15:20:00%2B02:00").text
        self.assertIn('value="2026-11-23T13:20"', text)
        self.assertIn("2026-11-23T14:42:00Z", html.unescape(self.page("/log?since=yesterday", 400).text))

    def test_export(self) -> None:
        """The same messages as a file, in which no cell is a formula."""
        self.sent(subject="=1+1", tag="orders")
        self.sent(subject="Two", tag="welcome")
        reply = self.page("/log/export.csv?tag=orders")
        self.assertEqual(reply.headers["content-type"], "text/csv; charset=utf-8")
        head, row = csv.reader(reply.text.splitlines())
        found = dict(zip(head, row, strict=True))
        self.assertEqual((found["subject"], found["to"], found["tag"]), ("'=1+1", "jane@example.org", "orders"))
        self.page("/log/nope", 404)

    def test_strange_cursor(self) -> None:
        """A page that starts from a message that is not there is 404."""
        self.page("/log?before=NOPE", 404)


class DashboardTests(PagesCase):
    """The dashboard."""

    def figures(self, path: str) -> dict[str, str]:
        """The numbers on top, by label."""
        return dict(re.findall(r'class="label">([^<]*)</span><span class="value">([^<]*)<', self.page(path).text))

    def test_counts(self) -> None:
        """Messages are counted by status, over time, and by tag with the rate of failures; each leads to them."""
        self.sent(tag="orders")
        failed = self.sent(tag="orders")
        self.sent(tag="")
        key = self.change(lambda each: listing.key(each, 1, failed))
        assert key is not None
        self.change(lambda each: store.change_status(each, key, "failed", at=1.0))
        figures = self.figures("/")
        self.assertEqual((figures["Accepted"], figures["Captured"], figures["Failed"]), ("3", "2", "1"))
        text = html.unescape(self.page("/").text)
        self.assertIn("<title>13:00: 2 captured, 1 failed</title>", text)
        self.assertIn("50 %", text)
        (orders,) = [link["href"] for link in Elements(text)["a"] if "tag=orders" in (link.get("href") or "")]
        self.assertEqual(len(self.subjects(orders)), 2)
        (untagged,) = [link["href"] for link in Elements(text)["a"] if "tag=untagged" in (link.get("href") or "")]
        self.assertEqual(len(self.subjects(untagged)), 1)

    def test_periods(self) -> None:
        """A day, a week and a month are counted."""
        self.sent()
        self.clock.advance(5 * 86_400)
        counts = [self.figures(f"/?period={period}")["Accepted"] for period in ("24h", "7d", "30d", "nope")]
        self.assertEqual(counts, ["0", "1", "1", "0"])

    def test_nothing(self) -> None:
        """Without a message it says so."""
        self.assertIn("No messages in this time", self.page("/").text)

    def test_administrator(self) -> None:
        """An administrator sees all accounts and the queue; nobody else does."""
        self.sent()
        self.page("/admin/overview", 403)
        self.looks = self.browser("admin@localhost")
        text = self.page("/admin/overview").text
        self.assertEqual(self.figures("/admin/overview")["Captured"], "1")
        self.assertIn("Waiting in the queue", text)
        self.assertIn("Local", text)


class EventsTests(PagesCase):
    """The log as it goes on."""

    def follow(self, path: str = "/events", **headers: str) -> Exchange:
        exchange = Exchange(self.site, "127.0.0.1")
        cookies = "; ".join(f"{name}={value}" for name, value in self.looks.cookies.items())
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        exchange.send("GET", path, [("Cookie", cookies), *given.items()], b"")
        self.clock.advance(1)
        return exchange

    def events(self, exchange: Exchange) -> list[tuple[str, list[str], str]]:
        """(kind, subjects or statuses of its rows, id) of each event since the last call."""
        text = exchange.transport.value().decode()
        exchange.transport.clear()
        found = []
        for block in text.replace("\r\n", "\n").split("\n\n"):
            # Chunks of HTTP have their lengths in between.
            lines = [line for line in block.splitlines() if line.startswith(("event:", "data:", "id:"))]
            if lines and lines[0].startswith("event:"):
                data = "".join(line[6:] for line in lines if line.startswith("data:"))
                pattern = r'badge (\w+)"' if lines[0] == "event: changed" else r'/message/[^"]*">([^<]*)</a>'
                id = next((line[4:] for line in lines if line.startswith("id:")), "")
                found.append((lines[0][7:], re.findall(pattern, data), id))
        return found

    def key(self, id: str) -> int:
        found = self.change(lambda connection: listing.key(connection, 1, id))
        assert found is not None
        return found

    def test_new(self) -> None:
        """A message is told to who looks, once, and where its filters fit; a changed status too."""
        everything, orders = self.follow(), self.follow("/events?tag=orders")
        self.assertIn(b"text/event-stream", everything.transport.value())
        one = self.sent(subject="One")
        self.clock.advance(1)
        self.assertEqual(self.events(everything), [("rows", ["One"], one)])
        self.assertEqual(self.events(orders), [])
        two, three = self.sent(subject="Two", tag="orders"), self.sent(subject="Three")
        self.clock.advance(1)
        self.assertEqual(self.events(everything), [("rows", ["Three", "Two"], three)])
        self.assertEqual(self.events(orders), [("rows", ["Two"], two)])
        key = self.key(two)
        # As a change of our own, which is what tells those who look.
        platform = self.backend._platform
        self.successResultOf(
            Deferred.fromCoroutine(
                platform.write(lambda connection: store.change_status(connection, key, "failed", at=2e9))
            )
        )
        self.clock.advance(1)
        self.assertEqual(self.events(orders), [("changed", ["failed"], "")])

    def test_resumed(self) -> None:
        """Who comes back is told what came meanwhile, and what came after the page was made."""
        one, two = self.sent(subject="One"), self.sent(subject="Two")
        self.assertEqual(self.events(self.follow(f"/events?after={one}")), [("rows", ["Two"], two)])
        self.assertEqual(self.events(self.follow("/events?after=", Last_Event_ID=one)), [("rows", ["Two"], two)])
        self.assertEqual(self.events(self.follow(f"/events?after={two}")), [])

    def test_many(self) -> None:
        """Very many new messages are told as such."""
        watching = self.follow()
        for number in range(60):
            self.sent(subject=str(number))
        self.clock.advance(1)
        self.assertEqual(self.events(watching)[0][0], "many")

    def test_other_account(self) -> None:
        """Another account's messages are not told."""
        self.add_account("Other", "o" * 40)
        watching = self.follow()
        self.post(MESSAGE, key="o" * 40)
        self.clock.advance(1)
        self.assertEqual(self.events(watching), [])

    def test_signed_out(self) -> None:
        """Signing out ends it; nobody who is not signed in gets one."""
        watching = self.follow()
        self.looks.post("/sign-out", page="/log")
        self.assertEqual(self.events(watching), [("end", [], "")])
        self.sent()
        self.clock.advance(1)
        self.assertEqual(self.events(watching), [])
        self.assertEqual(self.looks.get("/events").status, 303)

    def test_session_over(self) -> None:
        """A session that is over elsewhere ends it at the next sign of life, of which there are some."""
        watching = self.follow()
        watching.transport.clear()
        self.clock.advance(15)
        self.assertIn(b": \n\n", watching.transport.value())
        self.change(lambda connection: connection.execute(sa.delete(schema.sessions)))
        self.clock.advance(15)
        self.assertEqual(self.events(watching), [("end", [], "")])

    def test_bounded(self) -> None:
        """One session has so many; a further one ends the oldest.  One that is gone is forgotten."""
        streams = [self.follow() for _ in range(5)]
        self.assertEqual([self.events(each) for each in streams], [[("end", [], "")], [], [], [], []])
        self.assertEqual(len(self.backend._live), 4)
        for each in streams:
            each.transport.loseConnection()
        self.assertEqual(len(self.backend._live), 0)

    def test_slow_reader(self) -> None:
        """One that does not read is dropped, and nothing is kept for it."""
        watching = self.follow()
        watching.transport.producer.pauseProducing()
        self.sent()
        self.clock.advance(1)
        self.assertTrue(watching.transport.disconnecting or watching.transport.disconnected)
        self.assertEqual(len(self.backend._live), 0)

    def test_closed(self) -> None:
        """The backend stops although somebody looks."""
        watching = self.follow()
        self.successResultOf(self.backend.close())
        self.assertEqual(self.events(watching), [("end", [], "")])


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
        self.site = self.looks.site = self.backend.site()
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

    def test_resend(self) -> None:
        """A message is sent again as a new one, and each leads to the other; a refused one has no such button."""
        self.assertIn(f'action="{self.path}/resend"', self.page(self.path).text)
        reply = self.looks.post(f"{self.path}/resend", page=self.path)
        new = reply.headers["location"]
        self.assertNotEqual(new, self.path)
        text = self.page(new).text
        self.assertIn(f'href="{self.path}"', text)
        self.assertIn("Sent again", text)
        self.assertIn(f'href="{new}"', self.page(self.path).text)
        self.assertEqual(self.page(f"{new}/preview").text, "<p>Hi Zoë</p>")
        self.post({**MESSAGE, "route": "nope"})
        refused = f"/message/{self.logged('?status=refused')[0]['id']}"
        self.assertNotIn("/resend", self.page(refused).text)
        self.assertEqual(self.looks.post(f"{refused}/resend", page=self.path).status, 409)

    def test_next_attempt(self) -> None:
        """Of a message that its route has yet to take the page says when it is tried next."""
        self.assertNotIn("the next attempt", self.page(self.path).text)
        at = self.clock.seconds() + 600
        self.change(lambda connection: deliveries.enqueue(connection, 1, 1, "capture", at))
        text = self.page(self.path).text
        self.assertIn("the next attempt", text)
        self.assertIn('datetime="2026-11-23T13:30:00.000Z"', text)

    def test_variables(self) -> None:
        """The variables are shown where there are some."""
        self.assertIn("&#34;Zoë&#34;", self.page(f"{self.path}?view=variables").text)
        plain = self.page(f"/message/{self.sent()}?view=variables").text
        self.assertNotIn("Variables", plain)
        self.assertEqual(len(Elements(plain)["iframe"]), 1)

    def test_raw(self) -> None:
        """The message can be downloaded as its route sends it."""
        reply = self.page(f"{self.path}/message.eml")
        self.assertEqual(reply.headers["content-type"], "message/rfc822")
        self.assertIn(b"Subject: Hello", reply.body)
        self.assertIn("attachment", reply.headers["content-disposition"])

    def test_gone(self) -> None:
        """Of a message whose content is no longer kept the page shows the rest, and says so."""
        self.change(lambda connection: connection.execute(sa.delete(schema.contents)))
        text = self.page(self.path).text
        self.assertIn("no longer kept", text)
        self.assertIn("jane@example.org", text)
        self.page(f"{self.path}/preview", 410)
        self.page(f"{self.path}/posted.json", 410)

    def test_method(self) -> None:
        """The pages are read, never written."""
        reply = self.looks.post(self.path)
        self.assertEqual((reply.status, reply.headers["allow"]), (405, "GET, HEAD"))


class HostileTests(PagesCase):
    """A message that wants to be more than a message."""

    def test_escaped(self) -> None:
        """Script in any field is text on every page; no page has a script but ours."""
        fields = ("fromname", "fromemail", "toname", "subject", "replyto", "returnpath", "body")
        reply = self.post(
            {**MESSAGE, **dict.fromkeys(fields, HOSTILE), "to": '"<script>"@example.org'},
            X_Request_ID="<script>alert(1)</script>",
        )
        self.assertEqual(reply.status, 200, reply.body)
        path = f"/message/{reply.json['id']}"
        for page in (
            "/log",
            path,
            f"{path}?view=source",
            f"{path}?view=json",
            "/log?search=%3Cscript%3E%22%27&tag=%22onx%3D%22",
        ):
            elements = Elements(self.page(page).text)
            self.assertEqual([script["src"].partition("?")[0] for script in elements["script"]], ["/static/relay.js"])
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
            ("/log", 200),
            (path, 200),
            ("/nope", 404),
            ("/static/style.css", 200),
            (f"{path}/posted.json", 200),
        ):
            headers = self.page(page, status).headers
            self.assertEqual(headers["content-security-policy"], POLICY, page)
            self.assertEqual(headers["referrer-policy"], "same-origin")
            self.assertEqual(headers["cross-origin-resource-policy"], "same-origin")
            self.assertEqual(headers["x-content-type-options"], "nosniff")

    def test_nothing_from_elsewhere(self) -> None:
        """A page refers to nothing outside."""
        text = self.page(f"/message/{self.sent(body='x')}").text
        for _, attributes in Elements(text).found:
            for name in ("src", "href"):
                if name in attributes:
                    self.assertRegex(attributes[name], r"\A(/(?!/)|#main\Z|data:image/)")


class HintTests(SynchronousTestCase):
    """The line that sends a first message."""

    def test_quoted(self) -> None:
        """A path with a space is quoted for the shell."""
        line = Hint(tls=True, key_file=Path("/data of mine/api-key")).swaks()
        self.assertIn("""--auth-password "$(cat '/data of mine/api-key')\"""", line)
        self.assertIn("--tls", line)
