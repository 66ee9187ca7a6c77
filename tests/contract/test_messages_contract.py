"""What is kept of messages and how it is found; tests/integration/test_platform_postgresql.py has it on PostgreSQL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import sqlalchemy as sa
from twisted.trial.unittest import SynchronousTestCase

from relay.embedded import accounts, listing, schema, store, tallies
from relay.embedded.database import change, open_sqlite
from relay.embedded.listing import Filter, Listing, Steps
from relay.embedded.store import Event, Status
from relay.embedded.tallies import Counts

#: Small enough that a few messages go past them.
STEPS = Steps(examined=6, recent=3)

FIELDS = store.Fields(
    request_id="4C0FFEE",
    fromname="Example Shop",
    fromemail="Shop@example.com",
    recipient="jane@example.org",
    toname="Jane Doe",
    subject="Your order 1234",
    replyto="",
    returnpath="",
    tag="orders",
    route="capture",
    template="",
)


class MessagesContract:
    """Whatever the database; two accounts."""

    engine: sa.Engine

    def prepare(self) -> None:
        """Make the tables and the accounts."""
        change(self.engine, schema.prepare)
        self.account, self.other = (
            change(self.engine, lambda connection, name=name: accounts.add(connection, name, 0.0)) for name in "AB"
        )
        self.number = 0

    def add(
        self, account: int | None = None, *, at: float | None = None, status: str = "captured", **fields: Any
    ) -> int:
        """Store a message; its key."""
        self.number += 1
        new = store.New(
            account=account or self.account,
            id=f"ID{self.number}",
            created=7200.0 + self.number if at is None else at,
            fields=attrs.evolve(FIELDS, **fields),
            posted=b"{}",
            rendered=None,
            size=2,
            idempotency_key="",
            fingerprint="",
            status=status,
        )
        seq = change(self.engine, lambda connection: store.add(connection, new)).seq
        assert seq is not None
        return seq

    def listed(self, limit: int = 50, steps: Steps | None = None, account: int | None = None, **wanted: Any) -> Listing:
        """What is found."""
        with self.engine.connect() as connection:
            found = listing.listed(connection, account or self.account, Filter(**wanted), limit, steps)
        assert found is not None
        return found

    def keys(self, limit: int = 50, steps: Steps | None = None, **wanted: Any) -> list[int]:
        return [each.seq for each in self.listed(limit, steps, **wanted).entries]

    def walked(self, limit: int, steps: Steps, **wanted: Any) -> tuple[list[int], int]:
        """All that is found by going on to the end, and the number of steps that took."""
        found: list[int] = []
        before, number = "", 0
        while True:
            each = self.listed(limit, steps, **wanted, before=before)
            found += [entry.seq for entry in each.entries]
            before, number = each.before, number + 1
            if not before:
                return found, number

    def tallies(self) -> dict[tuple[int, str, str], int]:
        with self.engine.connect() as connection:
            rows = connection.execute(sa.select(schema.tallies).where(schema.tallies.c.account == self.account))
            return {(row.hour, row.tag, row.status): row.messages for row in rows if row.messages}

    def test_tallies(self) -> None:
        """Each message counts once, under the hour in which it came, its tag and the status it has now."""
        self.add()
        seq = self.add(status=Status.QUEUED)
        self.add(at=10_800.0, tag="untagged", status=Status.QUEUED)
        self.add(self.other)
        for status, at in ((Status.DEFERRED, 9000.0), (Status.DEFERRED, 9500.0), (Status.DELIVERED, 99_000.0)):
            change(self.engine, lambda connection, to=status, at=at: store.change_status(connection, seq, to, at=at))
        self.assertEqual(
            self.tallies(),
            {(2, "orders", "captured"): 1, (2, "orders", "delivered"): 1, (3, "untagged", "queued"): 1},
        )

    def test_dashboard(self) -> None:
        """What came within a period is counted by time, by tag and by account, and nobody else's."""
        day = 86_400.0
        now = 40 * day + 3700
        for at, tag, status in (
            (now, "a", "delivered"),
            (now - 90, "a", "failed"),
            (now - 3 * 3600, "b", "refused"),
            (now - 3 * day, "a", "queued"),
            (now - 35 * day, "a", "failed"),
        ):
            self.add(at=at, tag=tag, status=status)
        self.add(self.other, at=now)
        with self.engine.connect() as connection:
            steps = [tallies.over_time(connection, self.account, period, now) for period in tallies.PERIODS]
            tags = [tallies.by_tag(connection, self.account, period, now) for period in tallies.PERIODS]
            both = [tallies.by_time_and_tag(connection, self.account, period, now) for period in tallies.PERIODS]
            owners = tallies.by_account(connection, tallies.PERIODS[0], now)
            everybody = tallies.over_time(connection, None, tallies.PERIODS[0], now)
        self.assertEqual([len(each) for each in steps], [24, 28, 30])
        self.assertEqual(both, list(zip(steps, tags, strict=True)))
        self.assertEqual([each[0] for each in steps[1][:2]], [33 * day + 6 * 3600, 33 * day + 12 * 3600])
        self.assertEqual(steps[0][-2:], [(40 * day, Counts()), (40 * day + 3600, Counts(delivered=1, failed=1))])
        self.assertEqual(
            [sum(each[1].all for each in step) for step in steps],
            [3, 4, 4],
        )
        self.assertEqual(tags[0], [("a", Counts(delivered=1, failed=1)), ("b", Counts(refused=1))])
        self.assertEqual((tags[0][0][1].failure_rate, tags[0][1][1].accepted), (0.5, 0))
        self.assertEqual(
            owners,
            [(self.account, "A", Counts(delivered=1, failed=1, refused=1)), (self.other, "B", Counts(captured=1))],
        )
        self.assertEqual(everybody[-1][1], Counts(delivered=1, failed=1, captured=1))

    def test_timeline(self) -> None:
        """A message has its status, the last answer, and every step on the way there in order."""
        seq = self.add(status=Status.QUEUED)

        def happen(connection: sa.Connection) -> None:
            store.note(connection, seq, 7300.0, "attempt", "451 4.7.1 Greylisted", "mx.example.org")
            store.change_status(connection, seq, Status.DEFERRED, at=7300.0, answer="451 4.7.1 Greylisted", attempts=1)
            store.note(connection, seq, 7900.0, "delivered", "250 Ok", "mx.example.org")
            store.change_status(connection, seq, Status.DELIVERED, at=7900.0, answer="250 Ok", attempts=2)

        change(self.engine, happen)
        (entry,) = self.listed().entries
        self.assertEqual(
            (entry.status, entry.answer, entry.attempts, entry.updated), ("delivered", "250 Ok", 2, 7900.0)
        )
        with self.engine.connect() as connection:
            self.assertEqual(
                store.timeline(connection, entry),
                [
                    Event(7201.0, "accepted"),
                    Event(7300.0, "attempt", "451 4.7.1 Greylisted", "mx.example.org"),
                    Event(7900.0, "delivered", "250 Ok", "mx.example.org"),
                ],
            )

    def test_status_of_nothing(self) -> None:
        """A message that is gone takes no status, and nothing is counted."""
        change(self.engine, lambda connection: store.change_status(connection, 4711, Status.FAILED, at=1.0))
        self.assertEqual(self.tallies(), {})

    def test_filters(self) -> None:
        """Each filter leaves what matches it, alone and with others."""
        one = self.add()
        two = self.add(recipient="Joe.Smith@Example.net", toname="", tag="welcome", subject="Grüße, 50% off_now")
        three = self.add(status=Status.FAILED, fromemail="billing@other.example", request_id="R3", route="smtp")
        self.add(self.other)
        for wanted, found in (
            ({}, [three, two, one]),
            ({"to": "JANE@example.org"}, [three, one]),
            ({"to": "jane@example"}, []),
            ({"to": "smi"}, [two]),
            ({"to": "mith"}, []),
            ({"to": "example net"}, [two]),
            ({"to": "shop"}, []),
            ({"sender": "shop@EXAMPLE.com"}, [two, one]),
            ({"sender": "bill"}, [three]),
            ({"subject": "order"}, [three, one]),
            ({"subject": "GRÜSSE off"}, [two]),
            ({"subject": "jane"}, []),
            ({"search": "joe.smith@example.net"}, [two]),
            ({"search": "doe order"}, [three, one]),
            ({"search": "%"}, []),
            ({"id": "ID2"}, [two]),
            ({"id": "ID4"}, []),
            ({"request_id": "R3"}, [three]),
            ({"tag": "Welcome"}, [two]),
            ({"route": "smtp"}, [three]),
            ({"status": "failed"}, [three]),
            ({"status": "captured", "tag": "orders"}, [one]),
            ({"since": 7202.0}, [three, two]),
            ({"until": 7202.0}, [one]),
            ({"since": 7202.0, "until": 7203.0}, [two]),
            ({"since": 9e9}, []),
            ({"until": 1.0}, []),
        ):
            for steps in (None, Steps(examined=50, recent=1)):
                self.assertEqual(self.keys(steps=steps, **wanted), found, (wanted, steps))

    def test_pages(self) -> None:
        """Pages follow each other without gap or repetition, to the end, whatever is asked for."""
        keys = [self.add(tag="ab"[number % 2], subject=("Rare" if number == 1 else "Often")) for number in range(20)]
        self.add(self.other)
        keys.reverse()
        self.assertEqual(self.walked(6, STEPS)[0], keys)
        self.assertEqual(self.walked(3, STEPS, tag="b")[0], keys[::2])
        self.assertEqual(self.walked(3, STEPS, search="often")[0], [key for key in keys if key != keys[-2]])
        self.assertEqual(self.walked(3, STEPS, subject="rare", tag="b")[0], [keys[-2]])

    def test_bounded(self) -> None:
        """A filter that no index fits looks at so many messages, says how far it came, and goes on from there."""
        rare = self.add(route="smtp")
        for _ in range(13):
            self.add()
        first = self.listed(steps=STEPS, route="smtp")
        self.assertEqual((first.entries, first.looked), ((), 7209.0))
        self.assertEqual(self.walked(50, STEPS, route="smtp"), ([rare], 3))

    def test_index_of_words(self) -> None:
        """What only an old message has is found at once; a message that is gone is not."""
        rare = self.add(subject="Invoice")
        for _ in range(13):
            self.add()
        found = self.listed(steps=STEPS, search="inv")
        self.assertEqual(([each.seq for each in found.entries], found.before), ([rare], ""))
        change(self.engine, lambda connection: connection.execute(sa.delete(schema.accounts)))
        change(self.engine, schema.prepare)
        self.account = change(self.engine, lambda connection: accounts.add(connection, "C", 0.0))
        for _ in range(13):
            self.add()
        self.assertEqual(self.keys(steps=STEPS, search="inv"), [])


class SQLiteTests(MessagesContract, SynchronousTestCase):
    """On SQLite."""

    def setUp(self) -> None:
        self.engine = open_sqlite(Path(self.mktemp()))
        self.addCleanup(self.engine.dispose)
        self.prepare()

    def test_search_of_the_deleted(self) -> None:
        """The index of words is whole after messages went."""
        self.add()
        change(self.engine, lambda connection: connection.execute(sa.delete(schema.accounts)))
        with self.engine.connect() as connection:
            connection.exec_driver_sql("INSERT INTO search (search, rank) VALUES ('integrity-check', 1)")
            hits = connection.exec_driver_sql("SELECT count(*) FROM search WHERE search MATCH '\"1→jane\"'").scalar()
        self.assertEqual(hits, 0)
