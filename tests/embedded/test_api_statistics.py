"""``/api/transactional/stats``, ``tags``, ``tag/{tag}``, and the log as a table."""

from __future__ import annotations

import csv
import io
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.embedded.api import csv_table
from relay.embedded.api.log import COLUMNS
from relay.embedded.store import STATUSES
from tests.embedded.inmemory import BackendCase

DAY = 86_400


def counts(**some: int) -> dict[str, int]:
    return {**dict.fromkeys(STATUSES, 0), **some}


class StatisticsTests(BackendCase):
    """Messages over 26 hours: it is 13:20 of 23 November when the first comes."""

    def setUp(self) -> None:
        super().setUp()
        self.sent(tag="orders")
        self.clock.advance(3600)
        self.sent(tag="orders")
        self.sent(tag="")
        self.clock.advance(DAY)
        self.sent(tag="orders")

    def stats(self, query: str = "", path: str = "stats", status: int = 200) -> Any:
        reply = self.get(f"/api/transactional/{path}{query}")
        self.assertEqual(reply.status, status, reply.body)
        return reply.json

    def test_last_day(self) -> None:
        """Without a word it is the last 24 hours, hour by hour, those without a message too."""
        found = self.stats()
        self.assertEqual((found["from"], found["to"]), ("2026-11-23T15:00:00.000Z", "2026-11-24T15:00:00.000Z"))
        self.assertEqual((found["interval"], len(found["steps"])), ("hour", 24))
        self.assertEqual(found["steps"][0], {"at": "2026-11-23T15:00:00.000Z", "messages": 0, "statuses": counts()})
        self.assertEqual(found["steps"][-1]["statuses"], counts(captured=1))
        self.assertEqual((found["messages"], found["statuses"]), (1, counts(captured=1)))

    def test_hours(self) -> None:
        """Between two times every hour that has a part of them is counted, by status and by tag."""
        found = self.stats("?from=2026-11-23T13:59:59Z&to=2026-11-23T14:00:01Z")
        self.assertEqual([step["at"][11:13] for step in found["steps"]], ["13", "14"])
        self.assertEqual([step["messages"] for step in found["steps"]], [1, 2])
        tags = {each["tag"]: each["messages"] for each in found["tags"]}
        self.assertEqual(tags, {"orders": 2, "untagged": 1})

    def test_days(self) -> None:
        """Days are those of UTC."""
        found = self.stats("?interval=day&from=2026-11-22")
        self.assertEqual([step["at"][:10] for step in found["steps"]], ["2026-11-22", "2026-11-23", "2026-11-24"])
        self.assertEqual([step["messages"] for step in found["steps"]], [0, 3, 1])
        self.assertEqual(len(self.stats("?interval=day")["steps"]), 30)

    def test_tag(self) -> None:
        """A tag alone, with when it was used first."""
        self.assertEqual(self.stats("?interval=day&tag=ORDERS")["messages"], 3)
        found = self.stats("?interval=day", "tag/Orders")
        self.assertEqual((found["tag"], found["created"]), ("orders", "2026-11-23T13:20:00.000Z"))
        self.assertEqual((found["messages"], found["steps"][-1]["messages"]), (3, 1))
        self.assertEqual(self.stats("?interval=day", "tag/untagged")["messages"], 1)
        self.stats("", "tag/nope", 404)

    def test_tags(self) -> None:
        """Every tag that was ever used is listed, with its messages of all time, or of some."""
        orders, untagged = self.stats("", "tags")["tags"]
        at = "2026-11-23T13:20:00.000Z"
        self.assertEqual(orders, {"tag": "orders", "created": at, "messages": 3, "statuses": counts(captured=3)})
        self.assertEqual((untagged["tag"], untagged["created"], untagged["messages"]), ("untagged", None, 1))
        (orders,) = self.stats("?from=2026-11-24", "tags")["tags"]
        self.assertEqual(orders["messages"], 1)
        self.assertEqual([each["messages"] for each in self.stats("?to=2026-11-23T14:00:00Z", "tags")["tags"]], [1])

    def test_wrong(self) -> None:
        """What cannot be answered is named."""
        for query, word in {
            "?from=x": "from",
            "?to=2026-13-01": "to",
            "?interval=week": "hour, day",
            "?form=2026-11-23": "form",
            "?from=2026-11-24&to=2026-11-23": "before",
            "?from=2030-01-01": "future",
            "?from=2026-01-01": "744",
            "?from=2020-01-01&interval=day": "366",
            "?to=1969-01-01": "before",
        }.items():
            self.assertIn(word, self.stats(query, status=400)["description"], query)
        for time in ("0001-01-01", "9999-12-31T23:59:59-23:00", "0001-01-01T00:00:00%2B23:00"):
            self.stats(f"?from={time}", status=400)
            self.assertIn(self.get(f"/api/transactional/stats?to={time}").status, (200, 400))


class TableTests(BackendCase):
    """The log as CSV."""

    def table(self, query: str = "?format=csv", **headers: str) -> list[dict[str, str]]:
        reply = self.get(f"/api/transactional/log{query}", **headers)
        self.assertEqual((reply.status, reply.headers["content-type"]), (200, "text/csv; charset=utf-8"), reply.body)
        self.link = reply.headers.get("link", "")
        return list(csv.DictReader(io.StringIO(reply.text, newline="")))

    def test_rows(self) -> None:
        """Each message is a row, newest first, with the filters of the log."""
        one = self.sent(subject='Zoë, "quoted"')
        self.sent(tag="other")
        row = self.table("?format=csv&tag=welcome")[0]
        self.assertEqual(tuple(row), COLUMNS)
        expected = {"id": one, "created": "2026-11-23T13:20:00.000Z", "subject": 'Zoë, "quoted"', "status": "captured"}
        self.assertEqual({name: row[name] for name in expected}, expected)
        self.assertEqual([row["tag"] for row in self.table()], ["other", "welcome"])

    def test_accept(self) -> None:
        """A client that accepts CSV gets it; the query wins."""
        self.assertEqual(self.table("", Accept="text/csv"), [])
        self.assertEqual(self.get("/api/transactional/log?format=json", Accept="text/csv").json["messages"], [])
        self.assertIn("format", self.get("/api/transactional/log?format=xml").json["description"])

    def test_formulas(self) -> None:
        """What a spreadsheet would run stands there as text."""
        for value in ("=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", " =1"):
            self.sent(subject=value, fromname=value)
            row = self.table()[0]
            self.assertEqual((row["subject"], row["fromname"]), (f"'{value}", f"'{value}"))

    def test_pages(self) -> None:
        """A long table is cut, with a link to the rest, which keeps the filters."""
        ids = [self.sent(tag="a") for _ in range(3)]
        first = self.table("?format=csv&limit=2&tag=a")
        self.assertEqual([row["id"] for row in first], ids[:0:-1])
        path = self.link.partition("<")[2].partition(">")[0]
        self.assertIn("tag=a", path)
        rest = self.table(path.removeprefix("/api/transactional/log"))
        self.assertEqual(([row["id"] for row in rest], self.link), (ids[:1], ""))
        self.assertEqual(self.get("/api/transactional/log?format=csv&limit=10001").status, 400)


class CellTests(SynchronousTestCase):
    """Cells of a table."""

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.text(alphabet="=+-@\t\r\n \"',;a1", max_size=8), min_size=2, max_size=2))
    def test_any(self, values: list[str]) -> None:
        """Any texts come back as they were, with an apostrophe or without, and none is a formula."""
        text = csv_table.written(("a", "b"), [dict(zip("ab", values, strict=True))])
        _, row = csv.reader(io.StringIO(text, newline=""))
        for value, found in zip(values, row, strict=True):
            self.assertIn(found, (value, f"'{value}"))
            self.assertNotRegex(found, r"\A *[=+\-@\t\r\n]")
