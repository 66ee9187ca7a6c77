"""Messages that name a template (HTTP_CONTRACT.md)."""

from __future__ import annotations

import attrs

from relay.embedded import accounts, listing, store, templates
from relay.embedded.database import change
from relay.embedded.templates import Fields
from tests.embedded.inmemory import MESSAGE, BackendCase, Reply

FIELDS = Fields(
    "Welcome",
    "Hi {{name}}",
    "{{shop}}",
    "shop@example.net",
    "{{shop}} <help@example.net>",
    "b@example.net",
    "hello",
    "<p>{{ name }}</p>",
)


class SendTests(BackendCase):
    """A message for a template ``welcome``."""

    def setUp(self) -> None:
        super().setUp()
        self.database = self.engine()
        self.template("welcome", FIELDS)

    def template(self, id: str, fields: Fields) -> None:
        """Make a template of the account."""
        change(self.database, lambda db: templates.create(db, accounts.first(db).id, id, fields, "", 0.0))

    def send(self, **changed: object) -> Reply:
        return self.post({**MESSAGE, "template": "welcome", **changed})

    def message(self, **changed: object) -> dict[str, object]:
        """The message as it would be sent."""
        reply = self.send(**changed)
        self.assertEqual(reply.status, 200, reply.body)
        whole: dict[str, object] = self.get(f"/api/transactional/log/{reply.json['id']}").json
        return whole

    def test_wins(self) -> None:
        """What the template says wins over the message, with the variables put in; the rest is the message's."""
        whole = self.message(variables={"name": "<Zoë>", "shop": "Shop"}, body="<p>mine</p>")
        expected = {
            "fromname": "Shop",
            "fromemail": "shop@example.net",
            "returnpath": "b@example.net",
            "subject": "Hi <Zoë>",
            "replyto": "Shop <help@example.net>",
            "tag": "hello",
            "body": "<p>&lt;Zoë&gt;</p>",
            "to": MESSAGE["to"],
            "toname": MESSAGE["toname"],
            "template": "welcome",
        }
        self.assertEqual({name: whole[name] for name in expected}, expected)

    def test_blank(self) -> None:
        """What the template leaves blank is the message's, its body too."""
        self.template("blank", Fields("Blank"))
        whole = self.message(template=" Blank ", variables={"name": "Zoë"}, body="<p>{{ name }}</p>")
        same = ("fromname", "fromemail", "returnpath", "subject", "replyto", "tag")
        self.assertEqual({name: whole[name] for name in same}, {name: MESSAGE[name] for name in same})
        self.assertEqual((whole["body"], whole["template"]), ("<p>Zoë</p>", "blank"))

    def test_without_variables(self) -> None:
        """Without variables the template goes out as it stands."""
        whole = self.message(variables=None)
        self.assertEqual((whole["body"], whole["subject"]), ("<p>{{ name }}</p>", "Hi {{name}}"))
        self.assertEqual(whole["size"], len("<p>{{ name }}</p>"))

    def test_may_be_empty(self) -> None:
        """With a template the body and the subject may be missing, and the wrong tag that it replaces is no matter."""
        self.assertEqual(self.message(body="", subject="", tag="Nö", variables={})["subject"], "Hi {{name}}")

    def test_answer(self) -> None:
        """The answer has the template's tag."""
        self.assertEqual(self.send().json["tag"], "hello")

    def test_subject_of_none(self) -> None:
        """A subject that neither has is still missing."""
        self.template("blank", Fields("Blank"))
        reply = self.send(template="blank", subject="")
        self.assertEqual((reply.status, reply.json["description"]), (400, "subject: is missing"))

    def test_unknown(self) -> None:
        """A template that the account does not have is a 403 that names it."""
        for name in ("nope", "wel\r\ncome", "x" * 5000, "../welcome", "\x00"):
            reply = self.send(template=name)
            self.assertEqual(reply.status, 403, name)
            self.assertIn("no such template", reply.json["description"])
        self.assertIn(": nope", self.send(template="nope").json["description"])

    def test_mistake(self) -> None:
        """A template that fails with these variables is a 400 with the line and the words."""
        self.template("wrong", attrs.evolve(FIELDS, body="a\n{{ order.total }}"))
        reply = self.send(template="wrong", variables={})
        self.assertEqual((reply.status, reply.json["description"]), (400, "body: line 2: 'order' is undefined"))

    def test_undefined(self) -> None:
        """A variable that is missing is nothing in the body, and its name stands in the message's timeline."""
        self.send(variables={"shop": "Shop"})
        self.send(variables={"shop": "Shop", "name": "Zoë"})
        with self.database.connect() as connection:
            found = listing.listed(connection, accounts.first(connection).id, listing.Filter(), 2)
            assert found is not None
            complete, missing = (store.timeline(connection, each) for each in found.entries)
        self.assertEqual([event.kind for event in complete], ["accepted"])
        self.assertEqual([(event.kind, event.detail) for event in missing[1:]], [("undefined", "name")])

    def test_repeated(self) -> None:
        """A repetition is answered as before, though the template was saved or deleted meanwhile."""
        message = {**MESSAGE, "template": "welcome", "variables": {}}
        first = self.post(message, Idempotency_Key="K")
        self.assertEqual(first.status, 200)
        changed = attrs.evolve(FIELDS, subject="Other", tag="other")
        change(self.database, lambda db: templates.save(db, accounts.first(db).id, "welcome", changed, "", 0.0))
        self.assertEqual(self.post(message, Idempotency_Key="K").json["id"], first.json["id"])
        change(self.database, lambda db: templates.remove(db, accounts.first(db).id, "welcome"))
        self.assertEqual(self.post(message, Idempotency_Key="K").json["id"], first.json["id"])
        self.assertEqual(len(self.logged()), 1)
        self.assertEqual(self.post({**message, "subject": "x"}, Idempotency_Key="K").status, 422)
