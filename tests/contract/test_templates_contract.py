"""The templates in the database; tests/integration/test_platform_postgresql.py has the same on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay import wire
from relay.embedded import accounts, schema, templates
from relay.embedded.database import change, open_sqlite
from relay.embedded.rules import Refused
from relay.embedded.template import LONGEST_SOURCE
from relay.embedded.templates import Fields, Template

FIELDS = Fields(
    "Welcome mail", "Hi {{name}}", "Shop", "shop@example.com", "help@example.com", "", "welcome", "<p>{{ name }}</p>"
)


class TemplatesContract:
    """Whatever the database: two accounts, the first with a template ``welcome-mail``."""

    engine: sa.Engine

    def prepare(self) -> None:
        """Make the tables and the accounts."""
        change(self.engine, schema.prepare)
        self.mine = change(self.engine, lambda connection: accounts.add(connection, "Mine", 0.0))
        self.theirs = change(self.engine, lambda connection: accounts.add(connection, "Theirs", 0.0))
        self.template = self.create()

    def do(self, function: Callable[..., Any], *args: Any, account: int | None = None, **options: Any) -> Any:
        """Call a function of :mod:`relay.embedded.templates` for an account."""
        account = account or self.mine
        return change(self.engine, lambda connection: function(connection, account, *args, **options))

    def create(self, id: str = "", fields: Fields = FIELDS, now: float = 1.0, account: int | None = None) -> Template:
        return self.do(templates.create, id, fields, "jane@example.com", now, account=account)

    def save(self, now: float = 2.0, known: int | None = None, **changed: str) -> Template:
        fields = attrs.evolve(FIELDS, **changed)
        return self.do(templates.save, "welcome-mail", fields, "joe@example.com", now, known=known)

    def refused(self, status: int, function: Callable[..., Any], *args: Any, **options: Any) -> str:
        with self.assertRaises(Refused) as caught:
            self.do(function, *args, **options)
        self.assertEqual(caught.exception.status, status)
        return caught.exception.description

    def test_found(self) -> None:
        """A template is found by its id, in any case, with every field."""
        self.assertEqual(self.template, Template("welcome-mail", 1, 1.0, 1.0, FIELDS))
        self.assertEqual(self.do(templates.one, " Welcome-Mail "), self.template)
        for id in ("", "welcome", "nope", "../etc", "a\x00b", "\ud800", "x" * 100):
            self.assertIsNone(self.do(templates.one, id), id)

    def test_ids(self) -> None:
        """An id is given, or made of the name; one that is taken or none is refused."""
        self.assertEqual(self.create("Order-1.de_DE").id, "order-1.de_de")
        self.assertEqual([self.create().id for _ in range(2)], ["welcome-mail-2", "welcome-mail-3"])
        self.assertEqual(self.create("", attrs.evolve(FIELDS, name="Grüße, Jané!")).id, "grusse-jane")
        self.assertEqual(self.create("", attrs.evolve(FIELDS, name="日本")).id, "template")
        self.assertEqual({len(self.create("", attrs.evolve(FIELDS, name="x" * 99)).id) for _ in range(2)}, {32, 29})
        self.assertIn("welcome-mail", self.refused(409, templates.create, "welcome-MAIL", FIELDS, "", 0.0))
        for id in ("-a", "a b", "a/b", "x" * 33, "é"):
            self.assertIn("id", self.refused(400, templates.create, id, FIELDS, "", 0.0))

    def test_listed(self) -> None:
        """The list goes by name, has no bodies, and can be searched."""
        self.create("z", attrs.evolve(FIELDS, name="an order", subject="50%", tag="orders"))
        listed = self.do(templates.listed)
        self.assertEqual([each.id for each in listed], ["z", "welcome-mail"])
        self.assertEqual(listed[1], attrs.evolve(self.template, fields=attrs.evolve(FIELDS, body="")))
        for search, ids in {
            "WELCOME": ["welcome-mail"],
            "order": ["z"],
            "0%": ["z"],
            "%%": [],
            "hi": ["welcome-mail"],
        }.items():
            self.assertEqual([each.id for each in self.do(templates.listed, search)], ids, search)
        self.assertEqual([each.id for each in self.do(templates.listed, tag="Orders")], ["z"])

    def test_versions(self) -> None:
        """Each save is a version with its author; the newest is the template."""
        saved = self.save(subject="Two")
        self.assertEqual((saved.version, saved.created, saved.updated), (2, 1.0, 2.0))
        self.assertEqual(self.do(templates.one, "welcome-mail"), saved)
        two, one = self.do(templates.versions, "welcome-mail")
        self.assertEqual((two.version, two.saved, two.author), (2, 2.0, "joe@example.com"))
        self.assertEqual((one.author, one.fields), ("jane@example.com", FIELDS))
        self.assertEqual(self.do(templates.version, "welcome-mail", 1), one)
        self.refused(404, templates.version, "welcome-mail", 3)

    def test_nothing_new(self) -> None:
        """A save that changes nothing is no version."""
        self.assertEqual(self.save(), self.template)
        self.assertEqual(len(self.do(templates.versions, "welcome-mail")), 1)

    def test_saved_meanwhile(self) -> None:
        """Who changes an older version is told, and changes nothing."""
        self.assertEqual(self.save(known=1, subject="Two").version, 2)
        self.assertIn("2", self.refused(409, templates.save, "welcome-mail", FIELDS, "", 3.0, known=1))
        self.assertEqual(self.do(templates.one, "welcome-mail").fields.subject, "Two")

    def test_restored(self) -> None:
        """An old version comes back as the newest one."""
        self.save(subject="Two")
        restored = self.do(templates.restore, "welcome-mail", 1, "joe@example.com", 3.0)
        self.assertEqual((restored.version, restored.fields), (3, FIELDS))
        self.assertEqual([each.version for each in self.do(templates.versions, "welcome-mail")], [3, 2, 1])

    def test_versions_bounded(self) -> None:
        """Of many versions the newest are kept."""
        for number in range(templates.MOST_VERSIONS + 5):
            self.save(subject=str(number))
        kept = self.do(templates.versions, "welcome-mail")
        self.assertEqual(len(kept), templates.MOST_VERSIONS)
        self.assertEqual(kept[0].version, templates.MOST_VERSIONS + 6)

    def test_duplicate(self) -> None:
        """A copy has its own id and name and begins its own history."""
        self.do(templates.keep_sample, "welcome-mail", "{}")
        copy = self.do(templates.duplicate, "Welcome-mail", "joe@example.com", 5.0)
        self.assertEqual(self.do(templates.sample, copy.id), "{}")
        self.assertEqual((copy.id, copy.version, copy.created), ("copy-of-welcome-mail", 1, 5.0))
        self.assertEqual(copy.fields, attrs.evolve(FIELDS, name="Copy of Welcome mail"))
        self.assertEqual(len(self.do(templates.versions, copy.id)), 1)

    def test_sample(self) -> None:
        """The variables to try a template with are kept without a new version, each account's own, up to a bound."""
        self.assertEqual(self.do(templates.sample, "welcome-mail"), "")
        self.do(templates.keep_sample, "welcome-mail", "x" * (templates.LONGEST_SAMPLE + 1))
        self.assertEqual(len(self.do(templates.sample, "welcome-mail")), templates.LONGEST_SAMPLE)
        self.assertEqual(self.do(templates.one, "welcome-mail"), self.template)
        self.create("welcome-mail", account=self.theirs)
        self.assertEqual(self.do(templates.sample, "welcome-mail", account=self.theirs), "")

    def test_removed(self) -> None:
        """A template that is deleted takes its versions along: another one of its id has a new history."""
        self.save(subject="Two")
        self.do(templates.remove, "Welcome-mail")
        self.assertIsNone(self.do(templates.one, "welcome-mail"))
        self.refused(404, templates.remove, "welcome-mail")
        self.create("welcome-mail")
        self.assertEqual([each.version for each in self.do(templates.versions, "welcome-mail")], [1])

    def test_bounded(self) -> None:
        """An account has so many templates and no more; a copy counts."""
        for number in range(templates.MOST_TEMPLATES - 1):
            self.create(f"t{number}", Fields("t"))
        self.assertIn("1000", self.refused(400, templates.create, "more", FIELDS, "", 0.0))
        self.refused(400, templates.duplicate, "t0", "", 0.0)
        self.create("more", account=self.theirs)

    def test_two_accounts(self) -> None:
        """No function shows or changes another account's template, and ids are each account's own."""
        self.save(subject="Two")
        for function, args in (
            (templates.existing, ()),
            (templates.save, (FIELDS, "", 0.0)),
            (templates.remove, ()),
            (templates.duplicate, ("", 0.0)),
            (templates.versions, ()),
            (templates.version, (1,)),
            (templates.restore, (1, "", 0.0)),
        ):
            self.refused(404, function, "welcome-mail", *args, account=self.theirs)
        self.assertEqual(self.do(templates.listed, account=self.theirs), [])
        self.create("welcome-mail", account=self.theirs)
        self.assertEqual(self.do(templates.one, "welcome-mail").fields.subject, "Two")
        self.do(templates.remove, "welcome-mail", account=self.theirs)
        self.assertEqual(len(self.do(templates.versions, "welcome-mail")), 2)


class SQLiteTests(TemplatesContract, SynchronousTestCase):
    """On SQLite."""

    def setUp(self) -> None:
        self.engine = open_sqlite(Path(self.mktemp()))
        self.addCleanup(self.engine.dispose)
        self.prepare()


class FieldsTests(SynchronousTestCase):
    """What a template may say, and what it does to a message."""

    def test_checked(self) -> None:
        """A tag is lower-cased, a blank one stays blank; what a database refuses is replaced in the body."""
        self.assertEqual(templates.checked(FIELDS), FIELDS)
        fields = templates.checked(attrs.evolve(FIELDS, name=" A ", tag=" Welcome ", body="a\x00\ud800"))
        self.assertEqual((fields.name, fields.tag, fields.body), ("A", "welcome", "a\ufffd\ufffd"))
        self.assertEqual(templates.checked(attrs.evolve(FIELDS, tag=" ")).tag, "")
        templates.checked(attrs.evolve(FIELDS, fromemail="{{box}}@example.com", replyto="Help <help@example.com>"))

    def test_wrong(self) -> None:
        """A field that no message could have is refused by name."""
        for name, value in (
            ("name", " "),
            ("name", "x" * 201),
            ("name", "a\nb"),
            ("subject", "a\r\nBcc: b"),
            ("subject", "x" * 10_001),
            ("fromname", "\x00"),
            ("fromemail", "shop"),
            ("fromemail", "Shop <shop@example.com>"),
            ("returnpath", "a b@example.com"),
            ("replyto", "\x7f"),
            ("tag", "Grüße"),
            ("tag", "x" * 19),
            ("body", "x" * (LONGEST_SOURCE + 1)),
        ):
            with self.assertRaises(Refused) as caught:
                templates.checked(attrs.evolve(FIELDS, **{name: value}))
            self.assertEqual(caught.exception.status, 400)
            self.assertTrue(caught.exception.description.startswith(f"{name}: "), caught.exception.description)

    def test_applied(self) -> None:
        """Each field that the template has wins; what it leaves blank is the message's."""
        template = Template("welcome", 1, 0.0, 0.0, FIELDS)
        message = wire.decode_submission(
            '{"to": "jane@example.org", "toname": "Jane", "template": "Welcome", "returnpath": "b@example.com",'
            ' "subject": "S", "body": "B", "tag": "t", "fromname": "F"}'
        )
        applied = templates.applied(template, message)
        self.assertEqual(
            (applied.subject, applied.body, applied.tag, applied.fromname, applied.fromemail, applied.replyto),
            (FIELDS.subject, FIELDS.body, FIELDS.tag, FIELDS.fromname, FIELDS.fromemail, FIELDS.replyto),
        )
        self.assertEqual(
            (applied.returnpath, applied.to, applied.template), ("b@example.com", "jane@example.org", "welcome")
        )
        blank = Template("blank", 1, 0.0, 0.0, Fields("Blank", subject=" ", body="\n"))
        self.assertEqual(templates.applied(blank, message), attrs.evolve(message, template="blank"))

    @settings(max_examples=200, deadline=None)
    @given(st.text(max_size=250))
    def test_slug(self, name: str) -> None:
        """Any name makes an id that is one, and that makes itself."""
        id = templates.slug(name)
        self.assertRegex(id, r"\A[a-z0-9][a-z0-9-]{0,31}\Z")
        self.assertEqual(templates.slug(id), id)
