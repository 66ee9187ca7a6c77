"""The table of routes; tests/integration/test_platform_postgresql.py has the same on PostgreSQL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from twisted.trial.unittest import SynchronousTestCase

from relay.embedded import accounts, schema
from relay.embedded.database import change, open_sqlite
from relay.embedded.routes import table
from relay.embedded.routes.values import Maildir, PostalRoute, Smarthost, WrongRoute
from relay.spool.crypto import Cipher

SMARTHOST = PostalRoute("out", "Out", Smarthost("mx.example.com", user="me", password="canary-secret"), 5.0)


class RoutesContract:
    """Whatever the database."""

    engine: sa.Engine

    def prepare(self) -> None:
        """Tables, a key, and the accounts Local and Other."""
        self.cipher = Cipher(Path(self.mktemp()), "embedded.key_file")  # type: ignore[attr-defined]
        self.cipher.make()
        self.run_(schema.prepare)
        self.local = self.run_(lambda connection: accounts.made(connection, 1.0))
        self.other = self.run_(lambda connection: accounts.add(connection, "Other", 1.0))

    def run_(self, query: Any, *rest: Any) -> Any:
        """What *query* returns, in a transaction of its own."""
        return change(self.engine, lambda connection: query(connection, *rest))

    def test_added(self) -> None:
        """A route comes back as it was made, its password decrypted."""
        self.run_(table.add, self.cipher, SMARTHOST, 5.0)
        self.assertEqual(self.run_(table.one, self.cipher, "out"), SMARTHOST)
        self.assertEqual([each.id for each in self.run_(table.listed, self.cipher)], ["capture", "out"])
        self.assertIsNone(self.run_(table.one, self.cipher, "nowhere"))

    def test_sealed(self) -> None:
        """The password stands in no row as it is, and opens no other route."""
        self.run_(table.add, self.cipher, SMARTHOST, 5.0)
        rows = self.run_(lambda connection: [tuple(each) for each in connection.execute(sa.select(schema.routes))])
        self.assertNotIn("canary", repr(rows))
        self.run_(lambda connection: connection.execute(sa.update(schema.routes).values(id="x").where(
            schema.routes.c.id == "out")))  # fmt: skip
        self.assertEqual(self.run_(table.one, self.cipher, "x").settings.password, "")

    def test_twice(self) -> None:
        """An id is a route's own, and so is the folder of a maildir."""
        self.run_(table.add, self.cipher, PostalRoute("box", "Box", Maildir("box")), 5.0)
        with self.assertRaises(WrongRoute) as caught:
            self.run_(table.add, self.cipher, PostalRoute("box", "Box", Maildir("box2")), 5.0)
        self.assertIn("id", caught.exception.problems)
        with self.assertRaises(WrongRoute) as caught:
            self.run_(table.add, self.cipher, PostalRoute("box2", "Box", Maildir("box")), 5.0)
        self.assertIn("folder", caught.exception.problems)

    def test_changed(self) -> None:
        """Settings change, the kind does not."""
        self.run_(table.add, self.cipher, SMARTHOST, 5.0)
        other = PostalRoute("out", "Elsewhere", Smarthost("mx2.example.com"), 5.0)
        self.run_(table.change, self.cipher, other)
        self.assertEqual(self.run_(table.one, self.cipher, "out"), other)
        with self.assertRaises(WrongRoute):
            self.run_(table.change, self.cipher, PostalRoute("out", "Out", Maildir("out")))

    def test_given(self) -> None:
        """A route is an account's while the administrator gives it, and no default when he took it away."""
        self.run_(table.add, self.cipher, SMARTHOST, 5.0)
        self.run_(table.give, "out", [self.local, self.other, 999])
        self.assertEqual(self.run_(table.holders, "out"), {self.local, self.other})
        self.run_(lambda connection: connection.execute(sa.update(schema.accounts).values(default_route="out")))
        self.run_(table.give, "out", [self.other])
        self.assertEqual(self.run_(table.holders, "out"), {self.other})
        defaults = self.run_(lambda connection: dict(connection.execute(
            sa.select(schema.accounts.c.id, schema.accounts.c.default_route)).all()))  # fmt: skip
        self.assertEqual(defaults, {self.local: "", self.other: "out"})

    def test_removed(self) -> None:
        """A route that is deleted is nobody's, and no default."""
        self.run_(table.add, self.cipher, SMARTHOST, 5.0)
        self.run_(table.give, "out", [self.local])
        self.run_(lambda connection: connection.execute(sa.update(schema.accounts).values(default_route="out")))
        self.run_(table.remove, "out")
        self.assertIsNone(self.run_(table.one, self.cipher, "out"))
        tenant = self.run_(accounts.first)
        self.assertEqual(([each.id for each in tenant.routes], tenant.default_route), (["capture"], "capture"))


class SQLiteTests(RoutesContract, SynchronousTestCase):
    """On SQLite."""

    def setUp(self) -> None:
        self.engine = open_sqlite(Path(self.mktemp()))
        self.addCleanup(self.engine.dispose)
        self.prepare()
