"""The pages of templates: the list, the editor with its preview, the history."""

from __future__ import annotations

import html
import json
import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.embedded.filling import Mistake
from relay.embedded.web.editor import variables_of
from relay.embedded.web.preview import HEADERS
from tests.embedded.inmemory import BackendCase, Reply
from tests.embedded.test_template import JSON

TEMPLATES = "/templates"
EDITOR = "/templates/welcome-mail"


class PagesCase(BackendCase):
    """One who is signed in and has made the template ``welcome-mail``."""

    def setUp(self) -> None:
        super().setUp()
        self.me = self.browser()
        made = self.me.post(TEMPLATES, {"name": "Welcome mail"})
        self.assertEqual((made.status, made.headers["location"]), (303, EDITOR))

    def form(self, **changed: str) -> dict[str, str]:
        """What the editor's form holds, changed."""
        text = self.me.get(EDITOR).text
        fields = {
            name: html.unescape(value)
            for name, value in re.findall(r'<input[^>]* name="(\w+)"[^>]* value="([^"]*)"', text)
        }
        fields |= {
            name: html.unescape(value)
            for name, value in re.findall(r'<textarea[^>]* name="(\w+)"[^>]*>\n?([^<]*)<', text)
        }
        return {**{name: value for name, value in fields.items() if name not in ("notes", "width")}, **changed}

    def send(self, below: str = "", **changed: str) -> Reply:
        """Send the editor's form, changed."""
        return self.me.post(f"{EDITOR}{below}", self.form(**changed), page=EDITOR)

    def saved(self, id: str = "welcome-mail") -> dict[str, Any]:
        """The template as the API has it."""
        found: dict[str, Any] = self.get(f"/api/transactional/templates/{id}").json
        return found

    def problem(self, reply: Reply, status: int = 400) -> str:
        """What the page says is wrong."""
        self.assertEqual(reply.status, status, reply.text)
        found = re.search(r'<p class="problem"[^>]*>([^<]*)', reply.text)
        return html.unescape(found[1]) if found else ""


class ListTests(PagesCase):
    """``/templates``."""

    def test_empty(self) -> None:
        """An account without templates is told what they are for, and how to make one."""
        self.me.post(f"{EDITOR}/delete", page=EDITOR)
        text = self.me.get(TEMPLATES).text
        self.assertIn("X-Transactional-Template", text)
        self.assertIn("Create template", text)

    def test_listed(self) -> None:
        """The list has names, ids and tags, and can be searched in the URL."""
        self.send(tag="hello")
        self.me.post(TEMPLATES, {"name": "<b>Order</b>"})
        text = self.me.get(TEMPLATES).text
        self.assertIn("&lt;b&gt;Order&lt;/b&gt;", text)
        self.assertIn("<code>welcome-mail</code>", text)
        text = self.me.get(f"{TEMPLATES}?search=ord&tag=hello").text
        self.assertIn("No template is like that", text)
        text = self.me.get(f"{TEMPLATES}?tag=hello").text
        self.assertIn(EDITOR, text)
        self.assertNotIn("&lt;b&gt;Order", text)

    def test_wrong_name(self) -> None:
        """A name that is none is refused, and stands in the form again."""
        reply = self.me.post(TEMPLATES, {"name": "x" * 201})
        self.assertIn("name: is longer", self.problem(reply))
        self.assertIn("x" * 201, reply.text)

    def test_starter(self) -> None:
        """A new template shows what there is, with variables that fill it."""
        text = self.me.get(EDITOR).text
        self.assertNotIn("Undefined:", text)
        self.assertNotIn('class="problem"', text)
        self.assertIn("Hello Jane", self.me.get(f"{EDITOR}/preview").text)


class EditorTests(PagesCase):
    """``/templates/ID``."""

    def test_saved(self) -> None:
        """Every field of the form is saved as it was typed, as a version of who is signed in."""
        fields = {
            "name": "Welcome",
            "subject": "Hi {{name}}",
            "fromname": "Zoë & Co",
            "fromemail": "shop@example.com",
            "replyto": "help@example.com",
            "returnpath": "b@example.com",
            "tag": "hello",
            "body": "\n<p>{{ name }}</p>\n</textarea>",
        }
        reply = self.send(**fields, variables='{"name": 1}')
        self.assertEqual((reply.status, reply.headers["location"]), (303, EDITOR))
        self.assertIn("Saved as version 2", self.me.follow(reply).text)
        saved = self.saved()
        self.assertEqual({name: saved[name] for name in fields}, fields)
        (version, _) = self.get("/api/transactional/templates/welcome-mail/versions").json["versions"]
        self.assertEqual(version["author"], "user@localhost")

    def test_round_trip(self) -> None:
        """The form as the page shows it is what was saved, and saving it again changes nothing."""
        self.send(body='\n\n a <b> & "c" {{ d }}', variables='\n{"d": "</textarea>"}')
        before = self.saved()
        self.assertEqual(self.form()["body"], '\n\n a <b> & "c" {{ d }}')
        self.assertEqual(self.form()["variables"], '\n{"d": "</textarea>"}')
        self.send()
        self.assertEqual(self.saved(), before)

    def test_mistake(self) -> None:
        """A mistake is told with its line, nothing is saved, and what was typed stands in the form."""
        reply = self.send(body="a\n{{ b c }}", subject="kept")
        self.assertIn("body: line 2: expected token", self.problem(reply))
        self.assertIn("{{ b c }}", reply.text)
        self.assertIn('value="kept"', reply.text)
        self.assertEqual(self.saved()["version"], 1)
        self.assertIn("fromemail", self.problem(self.send(fromemail="nobody")))

    def test_undefined(self) -> None:
        """Variables that are missing are named beside the editor."""
        self.send(body="{{ a }}{{ order }}", subject="{{who}}", variables='{"a": 1}')
        text = self.me.get(EDITOR).text
        self.assertIn("Undefined:", text)
        for name in ("order", "who"):
            self.assertIn(f"<code>{name}</code>", text)
        self.assertNotIn("<code>a</code>", text)

    def test_variables_wrong(self) -> None:
        """Variables that are no JSON are told with their line; the template is saved all the same."""
        self.assertEqual(self.send(body="x", variables='{\n"a": }').status, 303)
        self.assertIn("variables: line 2: ", self.me.get(EDITOR).text)
        self.send(variables="[1]")
        self.assertIn("variables: they are not a JSON object", self.me.get(EDITOR).text)

    def test_saved_meanwhile(self) -> None:
        """Who saves over somebody else's version is told first, and may then do so."""
        form = self.form(body="mine")
        self.send(body="theirs")
        reply = self.me.post(EDITOR, form, page=EDITOR)
        self.assertIn("Version 2 was saved after version 1", self.problem(reply, 409))
        self.assertEqual(self.saved()["body"], "theirs")
        self.assertIn('name="version" value="2"', reply.text)
        self.assertEqual(self.me.post(EDITOR, {**form, "version": "2"}, page=EDITOR).status, 303)
        self.assertEqual(self.saved()["body"], "mine")
        for version in ("", "x", "-1", "9" * 20):
            self.assertEqual(self.send(version=version, body=version).status, 409)

    def test_test(self) -> None:
        """A test is saved and sent with the variables of the form."""
        reply = self.send("/test", to="jane@example.org", subject="Hi {{name}}", variables='{"name": "Zoë"}')
        self.assertIn("A test is on its way to jane@example.org", self.me.follow(reply).text)
        (row,) = self.logged()
        self.assertEqual((row["to"], row["subject"], row["template"]), ("jane@example.org", "Hi Zoë", "welcome-mail"))
        self.assertEqual(self.saved()["version"], 2)

    def test_test_refused(self) -> None:
        """A test that cannot be sent says why."""
        self.assertIn("to: is not an address", self.problem(self.send("/test", to="jane")))
        self.assertIn("variables: line 1", self.problem(self.send("/test", to="jane@example.org", variables="{")))
        reply = self.send("/test", to="jane@example.org", body="{{ a.b }}")
        self.assertIn("body: line 1: 'a' is undefined", self.problem(reply))
        self.assertEqual(self.logged(), [])

    def test_duplicate(self) -> None:
        """A copy opens in its own editor."""
        reply = self.me.post(f"{EDITOR}/duplicate", page=EDITOR)
        self.assertEqual(reply.headers["location"], "/templates/copy-of-welcome-mail")
        self.assertIn("Copy of Welcome mail", self.me.follow(reply).text)

    def test_delete(self) -> None:
        """A deleted template is gone, and the list says so."""
        reply = self.me.post(f"{EDITOR}/delete", page=EDITOR)
        self.assertIn("Welcome mail was deleted", self.me.follow(reply).text)
        self.assertEqual(self.me.get(EDITOR).status, 404)

    def test_not_there(self) -> None:
        """What is not there is 404, by GET and by POST."""
        for path in (
            "/nope",
            "/nope/preview",
            "/welcome-mail/nope",
            "/welcome-mail/history/9",
            "/welcome-mail/preview/x",
        ):
            self.assertEqual(self.me.get(TEMPLATES + path).status, 404, path)
            self.assertEqual(self.me.post(TEMPLATES + path, page=EDITOR).status, 404, path)
        for below in ("duplicate", "delete", "test", "check", "preview", "history/1/restore"):
            self.assertEqual(self.me.post(f"{TEMPLATES}/nope/{below}", self.form(), page=EDITOR).status, 404, below)
            self.assertEqual(self.me.get(f"{EDITOR}/{below}").status, 200 if below == "preview" else 404, below)

    def test_forms_are_checked(self) -> None:
        """No form is taken without its token, or from elsewhere."""
        for below in ("", "/test", "/preview", "/check", "/duplicate", "/delete", "/history/1/restore"):
            for wrong in ({"fields": {**self.form(), "csrf": "x"}}, {"headers": {"Origin": "http://evil.example"}}):
                reply = self.me.post(
                    f"{EDITOR}{below}", wrong.get("fields", self.form()), page=EDITOR, headers=wrong.get("headers")
                )
                self.assertEqual(reply.status, 403, below)
        self.assertEqual(self.saved()["version"], 1)

    def test_signed_out(self) -> None:
        """Nobody sees or changes a template without signing in."""
        nobody = self.browser("")
        for path in (TEMPLATES, EDITOR, f"{EDITOR}/preview", f"{EDITOR}/history"):
            self.assertEqual(nobody.get(path).status, 303)
            self.assertEqual(nobody.post(path, {"csrf": "x"}).status, 303)

    def test_other_account(self) -> None:
        """Another account has none of it."""
        self.add_user("other@example.com", self.add_account("Other"))
        other = self.browser("other@example.com")
        self.assertNotIn("welcome-mail", other.get(TEMPLATES).text)
        for below in ("", "/preview", "/history", "/history/1", "/history/1/preview"):
            self.assertEqual(other.get(f"{EDITOR}{below}").status, 404)
        for below in ("", "/test", "/preview", "/check", "/duplicate", "/delete", "/history/1/restore"):
            self.assertEqual(other.post(f"{EDITOR}{below}", self.form(csrf=other.csrf("/password"))).status, 404)
        self.assertEqual(self.saved()["version"], 1)


class PreviewTests(PagesCase):
    """What the frame beside the editor shows."""

    def check(self, **changed: str) -> dict[str, Any]:
        """What the script is told of the form."""
        reply = self.send("/check", **changed)
        self.assertEqual((reply.status, reply.headers["content-type"]), (200, "application/json"))
        found: dict[str, Any] = reply.json
        return found

    def test_form(self) -> None:
        """The preview is of what stands in the form; nothing is saved."""
        reply = self.send("/preview", body="<p>{{ a }}</p>", variables='{"a": "<Zoë>"}')
        self.assertEqual(reply.text, "<p>&lt;Zoë&gt;</p>")
        self.assertEqual(self.saved()["version"], 1)

    def test_harmless(self) -> None:
        """By GET and by POST it is served so that no script runs and nothing is loaded."""
        self.send(body="<script>alert(1)</script><link rel=preconnect href=//evil.example>")
        for reply in (
            self.me.get(f"{EDITOR}/preview"),
            self.send("/preview"),
            self.me.get(f"{EDITOR}/history/2/preview"),
        ):
            for name, value in HEADERS:
                self.assertEqual(reply.headers[name.lower()], value)
            self.assertIn("sandbox; default-src 'none'", reply.headers["content-security-policy"])
            self.assertNotIn("<link", reply.text)
        self.assertRegex(self.me.get(EDITOR).text, r'<iframe name="preview" sandbox title')

    def test_without_script(self) -> None:
        """The button of who has no script shows the subject and what is missing above the message, or the mistake."""
        shown = self.send(
            "/preview", notes="1", subject="<{{a}}>", body="<p>{{ b }}</p>", variables='{"a": "<1>"}'
        ).text
        self.assertIn("Subject: &lt;&lt;1&gt;&gt;<br>Undefined: b", shown)
        self.assertTrue(shown.endswith("<p></p>"))
        shown = self.send("/preview", notes="1", body="<p>\n{{ b }", variables="").text
        self.assertIn("body: line 2: unexpected", shown)
        self.assertNotIn("<p>\n", shown)

    def test_check(self) -> None:
        """The script is told the subject, the sender, what is missing, and the mistake with its field and line."""
        found = self.check(subject="Hi {{n}} {{m}}", fromname="{{n}}", body="{{ o }}", variables='{"n": 1}')
        self.assertEqual((found["subject"], found["fromname"]), ("Hi 1 {{m}}", "1"))
        self.assertEqual((found["undefined"], found["mistake"]), (["o", "m"], None))
        mistake = self.check(body="a\n\n{{ b.c }}", variables="{}")["mistake"]
        self.assertEqual(mistake, {"field": "body", "line": 3, "words": "body: line 3: 'b' is undefined"})
        self.assertEqual(self.check(variables="{\n\n1}")["mistake"]["line"], 3)
        self.assertEqual(self.check(variables="[" * 20_000)["mistake"]["field"], "variables")
        deep = '{"a":' * 101 + "1" + "}" * 101
        self.assertIn("deep", self.check(variables=deep)["mistake"]["words"])


class VariablesTests(SynchronousTestCase):
    """What is typed as variables."""

    @settings(max_examples=300, deadline=None)
    @given(
        st.text(alphabet='{}[]":,\\ \nabN0.e-', max_size=40)
        | JSON.map(lambda value: json.dumps({"a": value}, indent=1))
    )
    def test_any(self, text: str) -> None:
        """Whatever is typed is an object, or a mistake with a line that the text has, or none."""
        try:
            self.assertIsInstance(variables_of(text), dict)
        except Mistake as mistake:
            self.assertEqual(mistake.name, "variables")
            self.assertIn(mistake.line, (None, *range(1, text.count("\n") + 2)))


class HistoryTests(PagesCase):
    """``/templates/ID/history``."""

    def test_history(self) -> None:
        """Each version is listed with who saved it, can be looked at, and comes back."""
        self.send(body="<p>two</p>")
        text = self.me.get(f"{EDITOR}/history").text
        self.assertIn("Version 2", text)
        self.assertEqual(text.count("Bring it back"), 1)
        self.assertIn("user@localhost", text)
        shown = self.me.get(f"{EDITOR}/history/2").text
        self.assertIn("&lt;p&gt;two&lt;/p&gt;", shown)
        self.assertEqual(self.me.get(f"{EDITOR}/history/2/preview").text, "<p>two</p>")
        reply = self.me.post(f"{EDITOR}/history/1/restore", page=EDITOR)
        self.assertIn("Version 1 is back, as version 3", self.me.follow(reply).text)
        self.assertIn("Hello {{ name }}", self.saved()["body"])

    def test_administrator(self) -> None:
        """What an administrator saves who looks at the account has the administrator's name."""
        admin = self.browser("admin@localhost")
        admin.post("/admin/accounts/1/look", page="/admin/accounts")
        form = self.form(body="by the administrator")
        self.assertEqual(admin.post(EDITOR, {**form, "csrf": admin.csrf(EDITOR)}).status, 303)
        (version, _) = self.get("/api/transactional/templates/welcome-mail/versions").json["versions"]
        self.assertEqual(version["author"], "admin@localhost")
