"""What waits for a route; tests/integration/test_platform_postgresql.py has the same on PostgreSQL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import sqlalchemy as sa
from twisted.trial.unittest import SynchronousTestCase

from relay.embedded import accounts, deliveries, schema, store
from relay.embedded.database import change, open_sqlite
from relay.embedded.deliveries import Answer
from relay.embedded.routes import table
from relay.embedded.routes.values import Maildir, PostalRoute, Smarthost
from relay.embedded.rules import Refused
from relay.embedded.store import Status
from relay.spool.crypto import Cipher
from relay.spool.values import Delivered, Failed, Leased, Retry
from relay.values import Attachment
from tests.contract.test_messages_contract import FIELDS

OK = Answer(70.0, "250 ok", "mx:25")
LATER = Answer(71.0, "451 later", "mx:25")
NEVER = Answer(72.0, "550 never", "mx:25")


class DeliveriesContract:
    """Whatever the database; two accounts that may use the route ``out``, one of them ``box`` too."""

    engine: sa.Engine

    def prepare(self) -> None:
        """Tables, accounts and routes."""
        cipher = Cipher(Path(self.mktemp()), "embedded.key_file")  # type: ignore[attr-defined]
        cipher.make()
        self.run_(schema.prepare)
        self.account, self.other = (self.run_(accounts.add, name, 0.0) for name in "AB")
        self.run_(table.add, cipher, PostalRoute("out", "Out", Smarthost("mx")), 0.0)
        self.run_(table.add, cipher, PostalRoute("box", "Box", Maildir("box")), 0.0)
        self.run_(table.give, "out", [self.account, self.other])
        self.run_(table.give, "box", [self.account])
        self.number = 0

    def run_(self, query: Any, *rest: Any, **named: Any) -> Any:
        """What *query* returns, in a transaction of its own."""
        return change(self.engine, lambda connection: query(connection, *rest, **named))

    def accept(self, route: str = "out", at: float = 10.0, account: int | None = None, **changed: Any) -> int:
        """Accept a message; its key."""
        self.number += 1
        fields = attrs.evolve(FIELDS, route=route)
        new = store.New(
            account or self.account, f"ID{self.number}", at, fields, b'{"body": "<p>Hi</p>"}', None, 2, "", ""
        )
        added = self.run_(deliveries.accept, attrs.evolve(new, **changed))
        assert added.seq is not None
        return int(added.seq)

    def take(self, owner: str = "me", at: float = 20.0, limit: int = 10, route: str = "out") -> list[Leased]:
        """Take what is due."""
        found: list[Leased] = self.run_(deliveries.take, route, owner, limit, at, 60.0)
        return found

    def settle(self, *settlements: Any, owner: str = "me", at: float = 80.0) -> None:
        """Note what became of messages."""
        self.run_(deliveries.settle, owner, settlements, at)

    def told(self, seq: int) -> list[tuple[str, str, str]]:
        """The timeline, without times."""
        query = sa.select(schema.events.c.kind, schema.events.c.answer, schema.events.c.detail)
        rows = self.run_(
            lambda c: c.execute(query.where(schema.events.c.message == seq).order_by(schema.events.c.seq)).all()
        )
        return [tuple(row) for row in rows]

    def state(self, seq: int) -> tuple[Any, ...]:
        """Status, attempts and last answer of a message, and whether it waits."""
        columns = schema.messages.c
        query = sa.select(columns.status, columns.attempts, columns.answer).where(columns.seq == seq)
        row = self.run_(lambda connection: connection.execute(query).one())
        waits = self.run_(lambda c: c.execute(sa.select(schema.deliveries).where(
            schema.deliveries.c.message == seq)).first())  # fmt: skip
        return (*row, waits is not None)

    def tallied(self) -> dict[str, int]:
        """How many messages have each status, as the dashboard counts them."""
        query = sa.select(schema.tallies.c.status, sa.func.sum(schema.tallies.c.messages)).group_by(
            schema.tallies.c.status
        )
        return {status: int(count) for status, count in self.run_(lambda c: c.execute(query).all()) if count}

    def test_accepted(self) -> None:
        """A message waits for a route that sends, and not for one that stores."""
        captured, queued = self.accept("capture"), self.accept("out")
        self.assertEqual(self.state(captured), (Status.CAPTURED, 0, "", False))
        self.assertEqual(self.state(queued), (Status.QUEUED, 0, "", True))
        self.assertEqual(self.told(queued), [("queued", "", "for the route out")])
        self.assertEqual(self.tallied(), {"captured": 1, "queued": 1})

    def test_accepted_once(self) -> None:
        """A repetition with the same Idempotency-Key waits for nothing."""
        same = {"idempotency_key": "key", "fingerprint": "same"}
        self.accept(**same)
        fields = attrs.evolve(FIELDS, route="out")
        new = store.New(self.account, "ID9", 11.0, fields, b"{}", None, 2, "key", "same")
        self.assertEqual(self.run_(deliveries.accept, new), store.Added("ID1", None))
        self.assertEqual(len(self.take()), 1)

    def test_taken(self) -> None:
        """What is due is taken once, the longest due first, with what the log needs and no content."""
        later, first = self.accept(at=12.0), self.accept(at=11.0)
        self.accept(at=30.0)
        self.accept("box")
        rows = self.take()
        self.assertEqual([row.row for row in rows], [first, later])
        self.assertEqual((rows[0].submission.request_id, rows[0].submission.to), ("ID2", FIELDS.recipient))
        self.assertEqual((rows[0].account_name, rows[0].attempts, rows[0].age), ("A", 0, 9.0))
        self.assertEqual(self.take("other"), [])

    def test_limit(self) -> None:
        """No more are taken than there is room for."""
        for _ in range(3):
            self.accept()
        self.assertEqual([len(self.take(limit=2)) for _ in range(3)], [2, 1, 0])

    def test_in_turn(self) -> None:
        """An account with many messages keeps no other waiting, and what is left over is for those with more."""
        many = [self.accept(at=10.0 + n / 10) for n in range(6)]
        few = [self.accept(at=15.0 + n / 10, account=self.other) for n in range(2)]
        self.assertEqual({row.row for row in self.take(limit=2)}, {many[0], few[0]})
        after = self.run_(deliveries.take, "out", "me", 1, 20.0, 60.0, self.account)
        self.assertEqual([row.row for row in after], [few[1]])
        after = self.run_(deliveries.take, "out", "me", 1, 20.0, 60.0, self.other)
        self.assertEqual([row.row for row in after], [many[1]])
        self.assertEqual([row.row for row in self.take(limit=9)], many[2:])

    def test_lease(self) -> None:
        """A row whose backend is gone is taken by another when the lease is over, unless it was renewed."""
        seq = self.accept()
        self.take("gone", at=20.0)
        self.assertEqual(self.take("me", at=79.0), [])
        self.run_(deliveries.renew, "gone", [seq], 90.0)
        self.assertEqual(self.take("me", at=89.0), [])
        self.assertEqual([row.row for row in self.take("me", at=90.0)], [seq])
        self.run_(deliveries.renew, "gone", [seq], 500.0)
        self.assertEqual(self.run_(deliveries.next_due, "out"), 150.0)

    def test_released(self) -> None:
        """The only backend of a database need not wait for the leases of its last life."""
        seq = self.accept()
        self.take("gone", at=20.0)
        self.assertTrue(self.run_(deliveries.are_in_hand))
        self.run_(deliveries.release, 21.0)
        self.assertFalse(self.run_(deliveries.are_in_hand))
        self.assertEqual([row.row for row in self.take("me", at=21.0)], [seq])

    def test_next_due(self) -> None:
        """The next look at a route is when something of it is due."""
        self.assertIsNone(self.run_(deliveries.next_due, "out"))
        self.accept(at=12.0)
        self.accept("box", at=11.0)
        self.assertEqual(self.run_(deliveries.next_due, "out"), 12.0)

    def test_delivered(self) -> None:
        """What was delivered waits no more, and the timeline has the answer and who gave it."""
        seq = self.accept()
        self.take()
        self.settle((Delivered(seq), OK))
        self.assertEqual(self.state(seq), (Status.DELIVERED, 1, "250 ok", False))
        self.assertEqual(self.told(seq)[1:], [("delivered", "250 ok", "mx:25")])
        self.assertEqual(self.tallied(), {"delivered": 1})

    def test_deferred(self) -> None:
        """What was deferred is due again after its delay, and says so."""
        seq = self.accept()
        self.take()
        self.settle((Retry(seq, 15.0, "ignored"), LATER), at=80.0)
        self.assertEqual(self.state(seq), (Status.DEFERRED, 1, "451 later", True))
        self.assertEqual(self.told(seq)[1:], [("deferred", "451 later", "mx:25; next attempt in 15 s")])
        self.assertEqual(self.take(at=94.0), [])
        self.assertEqual([row.attempts for row in self.take(at=95.0)], [1])
        self.settle((Delivered(seq), OK), at=96.0)
        self.assertEqual(self.state(seq), (Status.DELIVERED, 2, "250 ok", False))

    def test_failed(self) -> None:
        """What was refused for good is failed, with the words."""
        seq = self.accept()
        self.take()
        self.settle((Failed(seq, "refused", "ignored"), NEVER))
        self.assertEqual(self.state(seq), (Status.FAILED, 1, "550 never", False))
        self.assertEqual(self.told(seq)[1:], [("failed", "550 never", "mx:25")])

    def test_expired(self) -> None:
        """What was tried for too long is failed with the last answer, though the route was down at last."""
        seq = self.accept()
        self.take()
        self.settle((Retry(seq, 0.0, ""), LATER))
        self.take(at=81.0)
        self.settle((Failed(seq, "expired", ""), None))
        self.assertEqual(self.state(seq), (Status.FAILED, 1, "451 later", False))
        self.assertEqual(self.told(seq)[-1], ("failed", "451 later", "given up after 1 attempts"))

    def test_not_tried(self) -> None:
        """A message that was taken while its route went down is no step further, and due as it was."""
        seq = self.accept()
        self.take()
        self.settle((Retry(seq, 5.0, ""), None))
        self.assertEqual((self.state(seq), len(self.told(seq))), ((Status.QUEUED, 0, "", True), 1))
        self.assertEqual([row.row for row in self.take(at=80.0)], [seq])

    def test_lost_lease(self) -> None:
        """A backend that was away for too long leaves a message to who took it over, but a delivery counts."""
        seq = self.accept()
        self.take("slow", at=20.0)
        self.take("me", at=90.0)
        self.settle((Retry(seq, 0.0, ""), LATER), owner="slow")
        self.settle((Failed(seq, "refused", ""), NEVER), owner="slow")
        self.assertEqual(self.state(seq), (Status.QUEUED, 0, "", True))
        self.settle((Delivered(seq), OK), owner="slow")
        self.assertEqual(self.state(seq), (Status.DELIVERED, 1, "250 ok", False))
        self.settle((Retry(seq, 0.0, ""), LATER), owner="me")
        self.assertEqual(self.state(seq), (Status.DELIVERED, 1, "250 ok", False))

    def test_route_taken_away(self) -> None:
        """What waits for a route that its account has lost fails and says why; that of others does not."""
        lost, kept = self.accept(), self.accept(account=self.other)
        self.assertFalse(self.run_(deliveries.are_stranded))
        self.run_(table.give, "out", [self.other])
        self.assertEqual([row.row for row in self.take()], [kept])
        self.assertTrue(self.run_(deliveries.are_stranded))
        self.assertEqual(self.run_(deliveries.fail_stranded, 30.0), 1)
        text = "550 5.7.1 The route out is not available to this account any more"
        self.assertEqual(self.state(lost), (Status.FAILED, 0, text, False))
        self.assertEqual(self.told(lost)[-1], ("failed", text, "this platform"))

    def test_route_deleted(self) -> None:
        """What is in hand when its route is deleted is left to its attempt, and fails when that is not the last."""
        seq = self.accept()
        self.take(at=20.0)
        self.run_(table.remove, "out")
        self.assertEqual(self.run_(deliveries.fail_stranded, 30.0), 0)
        self.settle((Retry(seq, 15.0, ""), LATER), at=40.0)
        self.assertEqual(self.run_(deliveries.fail_stranded, 41.0), 1)
        self.assertEqual(self.state(seq)[0], Status.FAILED)

    def test_content(self) -> None:
        """What is sent is the rendered body where there is one, else the posted one, with the files."""
        file = Attachment("a.txt", "text/plain", b"x")
        posted, rendered = self.accept(attachments=(file,)), self.accept(rendered="<b>r</b>")
        found = self.run_(deliveries.content, posted)
        self.assertEqual((found.id, found.body, found.attachments), ("ID1", "<p>Hi</p>", (file,)))
        self.assertEqual(self.run_(deliveries.content, rendered).body, "<b>r</b>")
        self.run_(lambda connection: connection.execute(sa.delete(schema.contents)))
        self.assertIsNone(self.run_(deliveries.content, posted))

    def test_waiting(self) -> None:
        """An administrator sees what waits, the next one due first, without content."""
        first, second = self.accept(at=11.0), self.accept("box", at=12.0, account=self.account)
        self.take(at=11.5)
        self.settle((Retry(first, 15.0, ""), LATER), at=20.0)
        rows = self.run_(deliveries.waiting)
        self.assertEqual([row.seq for row in rows], [second, first])
        self.assertEqual(
            (rows[1].account, rows[1].ready, rows[1].attempts, rows[1].answer), ("A", 35.0, 1, "451 later")
        )
        self.assertEqual([row.seq for row in self.run_(deliveries.waiting, "box")], [second])
        self.assertEqual(self.run_(table.waiting), {"out": 1, "box": 1})

    def test_retry(self) -> None:
        """What waits can be tried at once, all, that of a route, or one message."""
        seqs = [self.accept(), self.accept()]
        self.take()
        self.settle(*((Retry(seq, 900.0, ""), LATER) for seq in seqs))
        self.assertEqual(self.run_(deliveries.retry, 100.0, id="ID1"), {"out"})
        self.assertEqual([row.row for row in self.take(at=100.0)], seqs[:1])
        self.assertEqual(self.run_(deliveries.retry, 101.0, route="out"), {"out"})
        self.assertEqual([row.row for row in self.take(at=101.0)], seqs[1:])
        self.assertEqual(self.run_(deliveries.retry, 102.0, route="box"), set())

    def test_give_up(self) -> None:
        """What waits can be given up; what is in hand cannot."""
        in_hand, waits = self.accept(at=5.0), self.accept()
        self.take(limit=1)
        self.assertEqual(self.run_(deliveries.give_up, 30.0, "admin@localhost", route="out"), 1)
        self.assertEqual(self.state(waits)[0], Status.FAILED)
        self.assertEqual(self.told(waits)[-1], ("failed", "", "given up by admin@localhost"))
        self.assertEqual(self.state(in_hand)[0], Status.QUEUED)

    def test_resent(self) -> None:
        """A message is sent again as a new one with the same content, and both say so."""
        file = Attachment("a.txt", "text/plain", b"x")
        old = self.accept(attachments=(file,), rendered="<b>r</b>")
        self.take()
        self.settle((Failed(old, "refused", ""), NEVER))
        tenant = self.run_(accounts.by_id, self.account)
        self.assertEqual(self.run_(deliveries.resend, tenant, "ID1", "NEW", 100.0), ("NEW", "out"))
        entry, content = self.run_(store.one, self.account, "NEW")
        self.assertEqual((entry.resent, entry.status, content.rendered), ("ID1", Status.QUEUED, "<b>r</b>"))
        self.assertEqual(self.told(old)[-1], ("resent", "", "NEW"))
        self.assertEqual(self.run_(deliveries.content, entry.seq).attachments, (file,))

    def test_not_resent(self) -> None:
        """What is another account's, was never accepted or is no longer kept cannot be sent again."""
        self.accept()
        tenant, other = (self.run_(accounts.by_id, each) for each in (self.account, self.other))
        for who, id, status in ((other, "ID1", 404), (tenant, "NONE", 404)):
            with self.assertRaises(Refused) as caught:
                self.run_(deliveries.resend, who, id, "NEW", 100.0)
            self.assertEqual(caught.exception.status, status)
        self.run_(lambda connection: connection.execute(sa.delete(schema.contents)))
        with self.assertRaises(Refused) as caught:
            self.run_(deliveries.resend, tenant, "ID1", "NEW", 100.0)
        self.assertEqual(caught.exception.status, 409)

    def test_resent_by_another_route(self) -> None:
        """A message whose route is gone is sent again by the account's only or default one."""
        self.accept(account=self.other)
        self.run_(table.remove, "out")
        tenant = self.run_(accounts.by_id, self.other)
        self.assertEqual(self.run_(deliveries.resend, tenant, "ID1", "NEW", 100.0), ("NEW", "capture"))


class SQLiteTests(DeliveriesContract, SynchronousTestCase):
    """On SQLite."""

    def setUp(self) -> None:
        self.engine = open_sqlite(Path(self.mktemp()))
        self.addCleanup(self.engine.dispose)
        self.prepare()
