"""What is old goes, in the background, and nothing that is needed."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import sqlalchemy as sa

from relay.embedded import deliveries, schema
from relay.embedded.retention import BATCH, EVERY, FIRST, PAUSE
from tests.embedded.inmemory import MESSAGE, BackendCase

DAY = 86_400.0


class RetentionCase(BackendCase):
    """A backend that keeps content for 2 days and the log for 5."""

    kept: ClassVar[dict[str, float]] = {"keep_content": 2 * DAY, "keep_log": 5 * DAY, "session": DAY}

    def start(self, **options: Any) -> None:
        self.policy = attrs.evolve(self.policy, **self.kept)
        super().start(**options)

    def rows(self, table: sa.Table) -> int:
        query = sa.select(sa.func.count()).select_from(table)
        return self.change(lambda connection: connection.execute(query).scalar_one())

    def fill(self) -> None:
        """Store more messages than go in two batches."""
        self.sent()
        one = self.change(lambda connection: connection.execute(sa.select(schema.messages)).mappings().one())
        copies = [{**one, "seq": number, "id": f"C{number}"} for number in range(2, 2 * BATCH + 11)]
        self.change(lambda connection: connection.execute(sa.insert(schema.messages), copies))

    def pass_days(self, days: float) -> None:
        """Time goes by; a round of cleaning follows."""
        self.clock.advance(days * DAY)
        self.clock.advance(FIRST + EVERY)


class RetentionTests(RetentionCase):
    """Time goes by."""

    def test_content_then_log(self) -> None:
        """First the content goes, then the message with all that belongs to it; newer ones stay."""
        id = self.sent()
        self.pass_days(2)
        self.assertEqual((self.rows(schema.contents), self.rows(schema.messages)), (0, 1))
        looks = self.browser()
        self.assertIn("that of others is for 2 days", looks.get(f"/message/{id}").text)
        self.assertIn("stands in the log for 5 days; its content is kept for 2 days", looks.get("/log").text)
        newer = self.sent()
        self.pass_days(1.5)
        self.pass_days(1.5)
        self.assertEqual([row["id"] for row in self.logged()], [newer])
        self.assertEqual(self.logged("?search=jane")[0]["id"], newer)

    def test_rest(self) -> None:
        """Idempotency-Keys, transactions, sessions and counts go when nothing asks for them any more."""
        self.post(MESSAGE, Idempotency_Key="K")
        self.browser()
        self.change(
            lambda connection: connection.execute(
                sa.insert(schema.transactions).values(
                    account=1, request_id="R", created=self.clock.seconds(), peer="", reply="", milliseconds=1.0,
                    images=0, attachments=0, cids=0, headers="[]",
                )
            )
        )  # fmt: skip
        tables = (schema.idempotency, schema.sessions, schema.transactions, schema.tallies)
        self.assertEqual([self.rows(each) for each in tables], [1, 1, 1, 1])
        self.pass_days(1)
        self.assertEqual([self.rows(each) for each in tables], [0, 0, 1, 1])
        self.pass_days(5)
        self.assertEqual([self.rows(each) for each in tables], [0, 0, 0, 1])
        self.pass_days(30)
        self.assertEqual([self.rows(each) for each in tables], [0, 0, 0, 0])

    def test_waiting(self) -> None:
        """What a route has yet to take stays, with its content."""
        self.sent()
        self.change(lambda connection: deliveries.enqueue(connection, 1, 1, "capture", self.clock.seconds()))
        self.pass_days(10)
        self.assertEqual((self.rows(schema.contents), self.rows(schema.messages)), (1, 1))
        self.change(lambda connection: connection.execute(sa.delete(schema.deliveries)))
        self.pass_days(0)
        self.assertEqual((self.rows(schema.contents), self.rows(schema.messages)), (0, 0))

    def test_batches(self) -> None:
        """Much goes in batches with a pause between them."""
        self.fill()
        self.clock.advance(FIRST)
        self.clock.advance(6 * DAY)
        self.assertEqual(self.rows(schema.messages), BATCH + 10)
        self.clock.advance(PAUSE)
        self.assertEqual(self.rows(schema.messages), 10)
        self.clock.advance(PAUSE)
        self.assertEqual(self.rows(schema.messages), 0)

    def test_closed(self) -> None:
        """A backend that is closed between two batches is closed, and cleans no more."""
        self.fill()
        self.clock.advance(FIRST)
        self.clock.advance(6 * DAY)
        left = self.rows(schema.messages)
        self.assertGreater(left, 0)
        self.successResultOf(self.backend.close())
        self.clock.advance(10 * EVERY)
        self.assertEqual(self.rows(schema.messages), left)


class ForEverTests(RetentionCase):
    """A backend that keeps all."""

    kept: ClassVar[dict[str, float]] = {"keep_content": 0.0, "keep_log": 0.0}

    def test_for_ever(self) -> None:
        """With 0 all is kept."""
        self.sent()
        self.pass_days(1000)
        self.assertEqual((self.rows(schema.contents), self.rows(schema.messages)), (1, 1))
