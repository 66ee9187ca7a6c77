"""What the spool promises, wherever it is kept: one suite for SQLite, PostgreSQL and the spool in memory.

Another database is a subclass of :class:`StoreContract` that defines :meth:`~StoreContract.new_url`; PostgreSQL's
stands in ``tests/integration/test_store_postgresql.py``.  Another store also says how it is opened and looked into;
see :class:`MemoryCase`, and beside it which groups are left out for it and why.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from relay.errors import ConfigError, Reason, TemporaryFailure
from relay.policy import Spool
from relay.spool import leases
from relay.spool.database import database, insert
from relay.spool.memory import MemoryStore
from relay.spool.migrations import REVISIONS
from relay.spool.operators import EVERYTHING, Queue, Selection, Shown, open_queue
from relay.spool.schema import accounts, contents, messages, metadata, recipients
from relay.spool.store import Store
from relay.spool.values import Counts, Delivered, Entry, Failed, Leased, Remembered, Retry, Row, Seat, Spooled
from relay.spool.writer import Inline
from relay.values import Attachment, Submission
from tests.contract.tables import described

T = TypeVar("T")

#: Appears nowhere but where it has to.
CANARY = "canary-4a1d9f-key-of-acme-corporation"

EPOCH = 1_795_440_000.0


def submission(to: str = "jane@example.org", **changed: Any) -> Submission:
    """A submission that nothing is wrong with."""
    fields: dict[str, Any] = {
        "api_key": CANARY,
        "request_id": "4QX7TC2M",
        "idempotency_key": f"4QX7TC2M-{to}",
        "fromname": "Example Shop",
        "fromemail": "shop@example.com",
        "to": to,
        "toname": "Jane Doe",
        "subject": "Hello",
        "replyto": "Help <help@example.com>",
        "returnpath": "bounce@example.com",
        "body": "<p>Hello</p>",
        "tag": "welcome",
        "route": "",
        "template": "",
        "variables": None,
    }
    return Submission(**{**fields, **changed})


def message(*entries: Entry, id: str = "4QX7TC2M", key: str = CANARY, name: str = "Acme") -> Spooled:
    """A message for the spool; the default is one for Jane."""
    return Spooled(id, hashlib.sha256(key.encode()).hexdigest(), name, entries or (Entry(submission()),))


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """What *coroutine*, which does not wait for anything, returns or raises."""
    results: list[Any] = []
    Deferred.fromCoroutine(coroutine).addBoth(results.append)
    (result,) = results
    if isinstance(result, Failure):
        result.raiseException()
    return result


def of(account: str, *recipients: str) -> Spooled:
    """A message of the account that has this name, and its key from it."""
    entries = (Entry(submission(to, api_key=f"key of {account}")) for to in recipients)
    return message(*entries, key=f"key of {account}", name=account)


class StoreContract(SynchronousTestCase):
    """A store on a clock that only :meth:`later` moves, in the calling thread."""

    def new_url(self) -> str:
        """Of a new, empty database."""
        raise NotImplementedError

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.key_file = self.folder / "spool.key"
        self.url = self.new_url()
        self.clock = Clock()
        self.store = self.open()

    def open(self, url: str = "", key_file: Path | None = None, keep: float = 86_400.0, **policy: Any) -> Store:
        """Open another store."""
        opening = Store.open(
            url or self.url,
            key_file=key_file or self.key_file,
            policy=Spool(**{"min_free": 0, **policy}),
            reactor=self.clock,
            now=lambda: EPOCH + self.clock.seconds(),
            monotonic=self.clock.seconds,
            thread=Inline(),
            keep=keep,
            notices=True,
        )
        store = self.got(opening)
        self.addCleanup(lambda: self.got(store.close()))
        return store

    def reopen(self, **options: Any) -> None:
        """Stop and start the relay."""
        self.got(self.store.close())
        self.store = self.open(**options)

    def got(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What *coroutine* returns or raises."""
        return at_once(coroutine)

    def refused(self, coroutine: Coroutine[Any, Any, Any]) -> Reason:
        """Why *coroutine* failed, for now."""
        failed = self.failureResultOf(Deferred.fromCoroutine(coroutine), TemporaryFailure)
        return failed.value.reason

    def later(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.advance(seconds)

    def put(self, *entries: Entry, **options: Any) -> tuple[int, ...]:
        return self.got(self.store.put(message(*entries, **options)))

    def take(self, limit: int = 100, store: Store | None = None) -> list[Leased]:
        return self.got((store or self.store).take(limit))

    def settle(self, *settlements: Any) -> None:
        self.got(self.store.settle(settlements))

    def queue(self) -> Queue:
        """The spool for the command line."""
        opening = open_queue(self.url, now=lambda: EPOCH + self.clock.seconds())
        queue = opening.__enter__()
        self.addCleanup(opening.__exit__, None, None, None)
        return queue

    def connect(self) -> sa.Connection:
        """Past the store."""
        connection = database(self.url).connect()
        self.addCleanup(connection.close)
        return connection

    def tables(self) -> dict[str, int]:
        """How many rows each table has that holds a part of a message."""
        with self.connect() as connection:
            return {
                table.name: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
                for table in metadata.sorted_tables
                if table.name in ("spool_message", "spool_content", "spool_attachment", "spool_recipient")
            }

    def multiply(self, name: str, count: int) -> None:
        """Make *count* rows more of the account *name*, past the store."""
        with self.connect() as connection, connection.begin():
            account = connection.execute(sa.select(accounts.c.id).where(accounts.c.name == name)).scalar_one()
            kept = connection.execute(sa.select(contents.c.fields).limit(1)).scalar_one()
            rows: list[Any] = []
            seqs = range(1_000_000, 1_000_000 + count // 100)
            insert(connection, messages, [(seq, "X", "X", "", EPOCH, 1) for seq in seqs])
            insert(connection, contents, [(seq, bytes(kept)) for seq in seqs])
            rest = (EPOCH, 0, EPOCH - 100.0, None, "", None, "", "")
            for number in range(count):
                key = f"key-{number}"
                rows.append((2_000_000 + number, seqs[number // 100], account, "x@big.example", b"", key, *rest))
            insert(connection, recipients, rows)


class PutTests:
    """Into the spool and out of it."""

    def test_whole(self) -> None:
        """A submission comes back as it went in: every field, variables, attachments, and text of any kind."""
        given = submission(
            toname="Jané \ud800 Doe",
            subject="Grüße 🎉",
            body='<p>"€"\\</p>\u2028\udfff',
            variables={"n": 1.5, "nested": {"list": [None, True, "\x00"]}},
            route="7",
            template="t-1",
            attachments=(Attachment("a.pdf", "application/pdf", b"\x00\xff"), Attachment("ü.txt", "text/plain", b"")),
        )
        (row,) = self.put(Entry(given, attempts=2, last_answer="451 later", platform="https://b.example"))
        (leased,) = self.take()
        self.assertEqual(leased.submission, given)
        expected = Leased(
            row, given, hashlib.sha256(CANARY.encode()).hexdigest(), "Acme", 2, EPOCH, 0.0, "https://b.example"
        )
        self.assertEqual(evolve(leased, created=EPOCH), expected)
        self.assertAlmostEqual(leased.created, self.store.now(), places=3)

    def test_recipients(self) -> None:
        """Each recipient is a row of its own, in order, and what they share is kept once."""
        entries = [
            Entry(submission(f"{number}@example.org", toname=str(number), attachments=[Attachment("a", "b/c", b"d")]))
            for number in range(3)
        ]
        rows = self.put(*entries)
        leased = self.take()
        self.assertEqual([each.row for each in leased], list(rows))
        self.assertEqual([each.submission.to for each in leased], [each.submission.to for each in entries])
        self.assertEqual([each.submission.toname for each in leased], ["0", "1", "2"])
        self.assertEqual(
            [each.submission.idempotency_key for each in leased], [f"4QX7TC2M-{n}@example.org" for n in range(3)]
        )
        self.assertEqual(
            self.tables(), {"spool_message": 1, "spool_content": 1, "spool_attachment": 1, "spool_recipient": 3}
        )

    def test_delay(self) -> None:
        """A row that is to wait is not given out before its time."""
        self.put(Entry(submission(), delay=15.0))
        self.assertEqual(self.take(), [])
        self.assertAlmostEqual(self.got(self.store.next_due()), 15.0, places=3)
        self.later(14.9)
        self.assertEqual(self.take(), [])
        self.later(0.2)
        self.assertEqual(len(self.take()), 1)

    def test_in_flight(self) -> None:
        """A row whose posting is under way is nobody's until that may have ended, and its settlement counts."""
        first, second = self.put(
            Entry(submission("a@example.org"), in_flight=30.0), Entry(submission("b@example.org"), in_flight=30.0)
        )
        self.assertEqual(self.take(), [])
        self.settle(Delivered(first))
        self.later(30.1)
        self.assertEqual([each.row for each in self.take()], [second])

    def test_failed_from_the_start(self) -> None:
        """What the platform refused already is a failure at once."""
        self.put(Entry(submission(), attempts=1, last_answer="550 no", failed=True, reason="refused"))
        self.assertEqual(self.take(), [])
        (row,) = self.got(self.store.listing())
        self.assertEqual(
            (row.state, row.reason, row.last_answer, row.next_attempt), ("failed", "refused", "550 no", None)
        )
        (notice,) = self.got(self.store.take_notices(10))
        self.assertEqual(json.loads(notice.body)["reason"], "refused")

    def test_many_at_once(self) -> None:
        """More rows than one statement takes are kept, in order."""
        rows = self.put(*(Entry(submission(f"{number}@example.org")) for number in range(1000)))
        self.assertEqual(len(set(rows)), 1000)
        leased = self.take(2000)
        self.assertEqual([each.submission.to for each in leased], [f"{number}@example.org" for number in range(1000)])

    def test_account_renamed(self) -> None:
        """The account's newest name is the one that is shown."""
        self.put()
        self.put(name="Acme Inc")
        self.assertEqual({row.account_name for row in self.got(self.store.listing())}, {"Acme Inc"})

    def test_names_no_database_can_keep(self) -> None:
        """A NUL or a lone surrogate in text for people is replaced; the message is kept."""
        self.put(Entry(submission(tag="a\0b"), last_answer="x\0\ud800"), name="\0\ud800")
        (row,) = self.got(self.store.listing())
        self.assertEqual((row.tag, row.last_answer, row.account_name), ("ab", "x?", "?"))

    def test_secret(self) -> None:
        """A key stands in no repr."""
        self.put()
        leased, rows, shown = self.take(), self.got(self.store.listing()), self.got(self.store.show("4QX7TC2M"))
        self.assertEqual((len(leased), len(rows), len(shown)), (1, 1, 1))
        for each in (self.store, leased, message(), rows, shown):
            self.assertNotIn(CANARY, repr(each))

    def test_closed(self) -> None:
        """A closed store says that it cannot, and may be closed again."""
        self.got(self.store.close())
        self.assertEqual(self.refused(self.store.put(message())), Reason.SPOOL_FAILED)
        self.got(self.store.close())


class LeaseTests:
    """Who may post a row, and until when."""

    def test_lease(self) -> None:
        """A row is given out once, and again when its lease has run out."""
        self.put()
        (first,) = self.take()
        self.assertEqual(self.take(), [])
        self.assertAlmostEqual(self.got(self.store.next_due()), 60.0, places=3)
        self.later(60.1)
        self.assertEqual([each.row for each in self.take()], [first.row])

    def test_renew(self) -> None:
        """A lease that is renewed begins anew."""
        rows = self.put()
        self.take()
        self.later(40)
        self.got(self.store.renew(rows))
        self.later(40)
        self.assertEqual(self.take(), [])
        self.later(20.1)
        self.assertEqual(len(self.take()), 1)

    def test_renew_not_ours(self) -> None:
        """A row that was settled is not taken back by a renewal that comes late."""
        (row,) = self.put()
        self.take()
        self.settle(Retry(row, 1.0, "451"))
        self.got(self.store.renew([row]))
        self.later(1.1)
        self.assertEqual(len(self.take()), 1)

    def test_delivered(self) -> None:
        """A delivered row is gone, and the content goes with the message's last row."""
        attached = [Attachment("a", "b/c", b"d")]
        rows = self.put(*(Entry(submission(to, attachments=attached)) for to in ("a@example.org", "b@example.org")))
        self.take()
        self.settle(Delivered(rows[0]))
        self.assertEqual(
            self.tables(), {"spool_message": 1, "spool_content": 1, "spool_attachment": 1, "spool_recipient": 1}
        )
        self.settle(Delivered(rows[1]))
        self.assertEqual(set(self.tables().values()), {0})
        self.assertIsNone(self.got(self.store.next_due()))

    def test_retry(self) -> None:
        """A row to be tried again comes back after its delay with one more attempt, for the same platform."""
        (row,) = self.put()
        self.take()
        self.later(10)
        self.settle(Retry(row, 30.0, "451 4.4.1 later", "https://b.example"))
        self.later(29.9)
        self.assertEqual(self.take(), [])
        self.later(0.2)
        (leased,) = self.take()
        self.assertEqual((leased.attempts, leased.platform), (1, "https://b.example"))
        self.assertAlmostEqual(leased.age, 40.1, places=3)
        self.assertEqual(leased.submission, submission())

    def test_failed(self) -> None:
        """A row that is given up is kept as a failure, with its reason and last answer, and is not posted again."""
        (row,) = self.put()
        self.take()
        self.settle(Failed(row, "refused", "550 5.7.1 no"))
        self.later(1e6)
        self.assertEqual(self.take(), [])
        (shown,) = self.got(self.store.listing())
        self.assertEqual(
            (shown.state, shown.reason, shown.last_answer, shown.attempts), ("failed", "refused", "550 5.7.1 no", 1)
        )
        self.assertIsNone(self.got(self.store.next_due()))

    def test_given_up_unposted(self) -> None:
        """A row that is given up without another attempt keeps its count and its last answer."""
        (row,) = self.put(Entry(submission(), attempts=3, last_answer="451 later"))
        self.take()
        self.settle(Failed(row, "expired", ""))
        (shown,) = self.got(self.store.listing())
        self.assertEqual((shown.attempts, shown.last_answer), (3, "451 later"))

    def test_settled_twice(self) -> None:
        """A settlement may be repeated, and one of a row that is gone is passed over."""
        first, second = self.put(Entry(submission("a@example.org")), Entry(submission("b@example.org")))
        self.take()
        for _ in range(2):
            self.settle(Delivered(first), Retry(second, 5.0, "451"), Delivered(999_999), Retry(999_999, 1.0, ""))
        self.later(5.1)
        (leased,) = self.take()
        self.assertEqual((leased.row, leased.attempts), (second, 1))

    def test_oldest_first(self) -> None:
        """Within an account the rows that are due longest come first."""
        self.put(Entry(submission("later@example.org"), delay=20.0))
        self.put(Entry(submission("soon@example.org"), delay=10.0))
        self.put(Entry(submission("now@example.org")))
        self.later(30)
        self.assertEqual(
            [self.take(1)[0].submission.to for _ in range(3)],
            ["now@example.org", "soon@example.org", "later@example.org"],
        )

    def test_exclude(self) -> None:
        """Rows of excluded accounts stay."""
        self.got(self.store.put(of("a", "1@example.org")))
        self.got(self.store.put(of("b", "2@example.org")))
        excluded = [hashlib.sha256(b"key of a").hexdigest()]
        leased = self.got(self.store.take(10, exclude_accounts=excluded))
        self.assertEqual([each.submission.to for each in leased], ["2@example.org"])

    def test_round_robin(self) -> None:
        """Each account has its share, and what one leaves goes to those with more."""
        for account, count in (("a", 20), ("b", 2), ("c", 20)):
            self.got(self.store.put(of(account, *(f"{number}@{account}.example" for number in range(count)))))
        leased = self.take(12)
        shares = [sum(each.account_name == name for each in leased) for name in "abc"]
        self.assertEqual(len({each.row for each in leased}), 12)
        self.assertEqual(shares, [5, 2, 5])

    def test_turns(self) -> None:
        """One row at a time goes round all accounts."""
        for account in "abc":
            self.got(self.store.put(of(account, f"1@{account}.example", f"2@{account}.example")))
        names = [self.take(1)[0].account_name for _ in range(6)]
        self.assertEqual(sorted(names[:3]), ["a", "b", "c"])
        self.assertEqual(names[:3], names[3:])

    def test_fairness(self) -> None:
        """An account with 100,000 rows does not delay another's ten."""
        self.got(self.store.put(of("big", "0@big.example")))
        self.multiply("big", 100_000)
        self.later(1)
        self.got(self.store.put(of("small", *(f"{number}@small.example" for number in range(10)))))
        leased = self.take(20)
        self.assertEqual(sum(each.account_name == "small" for each in leased), 10)
        self.assertEqual(sum(each.account_name == "big" for each in leased), 10)


class LimitTests:
    """How much is kept."""

    def test_rows(self) -> None:
        """Past the most rows a message is refused whole, for now; there is room again when rows are gone."""
        self.reopen(max_rows=3)
        two = [Entry(submission("a@example.org")), Entry(submission("b@example.org"))]
        rows = self.put(*two)
        self.assertEqual(self.refused(self.store.put(message(*two))), Reason.SPOOL_FULL)
        self.assertEqual(self.tables()["spool_recipient"], 2)
        self.take()
        self.settle(Delivered(rows[0]))
        self.put(*two)
        self.assertEqual(self.refused(self.store.put(message())), Reason.SPOOL_FULL)

    def test_octets(self) -> None:
        """Past the most content a big message is refused; a small one still fits."""
        self.reopen(max_bytes=10_000)
        self.put(Entry(submission(body="x" * 5000)))
        big = message(Entry(submission(body="x" * 5000)))
        self.assertEqual(self.refused(self.store.put(big)), Reason.SPOOL_FULL)
        self.put()
        (first, _) = self.take()
        self.settle(Delivered(first.row))
        self.got(self.store.put(big))

    def test_attachments_count(self) -> None:
        """Attachments count as content."""
        self.reopen(max_bytes=10_000)
        attached = Entry(submission(attachments=[Attachment("a", "b/c", b"x" * 10_000)]))
        self.assertEqual(self.refused(self.store.put(message(attached))), Reason.SPOOL_FULL)

    def test_counts(self) -> None:
        """The counts tell what waits, is in flight and has failed, how much content, and the oldest age."""
        self.put(*(Entry(submission(f"{number}@example.org")) for number in range(4)))
        first, second = self.take(2)
        self.settle(Failed(first.row, "refused", "550"))
        self.later(7)
        counts = self.got(self.store.counts())
        self.assertEqual((counts.waiting, counts.in_flight, counts.failed), (2, 1, 1))
        self.assertGreater(counts.octets, 100)
        self.assertAlmostEqual(counts.oldest, 7.0, places=3)
        for row in (second, *self.take()):
            self.settle(Delivered(row.row))
        counts = self.got(self.store.counts())
        self.assertEqual((counts.waiting, counts.in_flight, counts.failed, counts.oldest), (0, 0, 1, 0.0))


class LedgerTests:
    """What is remembered of messages whose verdict is unknown."""

    def test_remember(self) -> None:
        """An entry is remembered, replaced and forgotten."""
        self.assertIsNone(self.got(self.store.recall(b"\x00f")))
        first, second = Remembered(b"\x00f", "ID1", ("a@example.org",)), Remembered(b"\x00f", "ID1", ())
        for entry in (first, second):
            self.got(self.store.remember(entry))
            self.assertEqual(self.got(self.store.recall(b"\x00f")), entry)
        self.assertIsNone(self.got(self.store.recall(b"other")))
        self.got(self.store.forget(b"\x00f"))
        self.assertIsNone(self.got(self.store.recall(b"\x00f")))

    def test_expires(self) -> None:
        """An entry is remembered for as long as the ledger keeps it."""
        self.reopen(keep=100.0)
        self.got(self.store.remember(Remembered(b"f", "ID1")))
        self.later(99.9)
        self.assertIsNotNone(self.got(self.store.recall(b"f")))
        self.later(0.2)
        self.assertIsNone(self.got(self.store.recall(b"f")))

    def test_has_memories(self) -> None:
        """Whether there is anything to recall is known."""
        self.assertFalse(self.got(self.store.has_memories()))
        self.got(self.store.remember(Remembered(b"f", "ID1")))
        self.assertTrue(self.got(self.store.has_memories()))
        self.got(self.store.forget(b"f"))
        self.assertFalse(self.got(self.store.has_memories()))

    def test_purged(self) -> None:
        """Entries that are too old leave the database."""
        self.got(self.store.remember(Remembered(b"f", "ID1")))
        self.later(86_401)
        self.got(self.store.purge())
        self.assertFalse(self.got(self.store.has_memories()))

    def test_claimed_once(self) -> None:
        """Of several that claim the same only the first is kept, and all learn of it."""
        self.assertEqual(self.got(self.store.claim(Remembered(b"f", "ID1"))), Remembered(b"f", "ID1"))
        self.assertEqual(self.got(self.store.claim(Remembered(b"f", "ID2"))), Remembered(b"f", "ID1"))
        self.assertTrue(self.got(self.store.has_memories()))
        self.got(self.store.forget(b"f"))
        self.assertEqual(self.got(self.store.claim(Remembered(b"f", "ID3"))).id, "ID3")


class NoticeTests:
    """What the webhook is to be told."""

    def fail(self, **options: Any) -> None:
        (row,) = self.put(**options)
        self.take()
        self.settle(Failed(row, "refused", "550 no"))

    def test_notice(self) -> None:
        """A failure makes a notice with what the webhook is told, once."""
        self.fail()
        (notice,) = self.got(self.store.take_notices(10))
        told = json.loads(notice.body)
        self.assertEqual(
            [told[name] for name in ("id", "account", "recipient", "tag", "reason", "answer", "attempts")],
            ["4QX7TC2M", "Acme", "jane@example.org", "welcome", "refused", "550 no", 1],
        )
        self.assertEqual(self.got(self.store.take_notices(10)), [])
        self.got(self.store.settle_notices([Delivered(notice.row)]))
        self.later(1e6)
        self.assertEqual(self.got(self.store.take_notices(10)), [])
        self.assertEqual(len(self.got(self.store.listing(Selection(failed=True)))), 1)

    def test_account_without_name(self) -> None:
        """Where the platform does not tell a name, the key's first characters stand for it."""
        self.fail(name="")
        (notice,) = self.got(self.store.take_notices(10))
        self.assertEqual(json.loads(notice.body)["account"], "cana…")

    def test_retry(self) -> None:
        """A notice that could not be told comes back later, with one more attempt; its age goes on."""
        self.fail()
        (notice,) = self.got(self.store.take_notices(10))
        self.assertEqual((notice.attempts, notice.age), (0, 0.0))
        self.got(self.store.settle_notices([Retry(notice.row, 30.0, "no")]))
        self.assertEqual(self.got(self.store.take_notices(10)), [])
        self.assertAlmostEqual(self.got(self.store.next_notice()), 30.0, places=3)
        self.later(30.1)
        (notice,) = self.got(self.store.take_notices(10))
        self.assertEqual(notice.attempts, 1)
        self.assertAlmostEqual(notice.age, 30.1, places=3)
        self.got(self.store.settle_notices([Failed(notice.row, "expired", "no")]))
        self.assertIsNone(self.got(self.store.next_notice()))

    def test_lease(self) -> None:
        """A notice that was taken and not settled comes back after the lease."""
        self.fail()
        self.got(self.store.take_notices(10))
        self.later(60.1)
        self.assertEqual(len(self.got(self.store.take_notices(10))), 1)


class OperatorTests:
    """The queue from the command line; with the relay running it shares the database."""

    def spool(self) -> None:
        """Rows of two accounts: one due, one waiting, one in flight, one failed."""
        self.put(Entry(submission("flying@example.org"), in_flight=30.0), id="FLYING")
        self.put(Entry(submission("failed@example.org"), failed=True, reason="refused", last_answer="550"), id="FAILED")
        self.put(Entry(submission("waiting@example.org"), delay=100.0, attempts=1, last_answer="451"), id="WAITING")
        self.got(self.store.put(evolve(of("Other", "due@example.org"), id="DUE")))

    def states(self) -> dict[str, str]:
        return {row.id: row.state for row in self.queue().listing()}

    def test_listing(self) -> None:
        """Every row is listed with its state, by the relay and by the command line alike."""
        self.spool()
        expected = {"FLYING": "in flight", "FAILED": "failed", "WAITING": "waiting", "DUE": "due"}
        self.assertEqual(self.states(), expected)
        rows = self.got(self.store.listing())
        self.assertEqual({row.id: row.state for row in rows}, expected)
        waiting = rows[2]
        self.assertEqual((waiting.recipient, waiting.tag, waiting.attempts), ("waiting@example.org", "welcome", 1))
        self.assertAlmostEqual((waiting.next_attempt or 0) - waiting.created, 100.0, places=3)

    def test_selections(self) -> None:
        """Rows are selected by id, by account in any form, and by failure."""
        self.spool()
        digest = hashlib.sha256(b"key of Other").hexdigest()
        for selection, expected in (
            (Selection(id="DUE"), ["DUE"]),
            (Selection(account="Other"), ["DUE"]),
            (Selection(account=digest), ["DUE"]),
            (Selection(account=digest[:8]), ["DUE"]),
            (Selection(account=digest[:7]), []),
            (Selection(account="%%%%%%%%"), []),
            (Selection(failed=True), ["FAILED"]),
            (Selection(failed=False, account="Acme"), ["FLYING", "WAITING"]),
        ):
            self.assertEqual([row.id for row in self.queue().listing(selection)], expected, selection)

    def test_pages(self) -> None:
        """A long listing comes in pages."""
        self.put(*(Entry(submission(f"{number}@example.org")) for number in range(5)))
        first = self.queue().listing(limit=3)
        second = self.queue().listing(limit=3, after=first[-1].row)
        self.assertEqual([row.recipient for row in first + second], [f"{number}@example.org" for number in range(5)])

    def test_show(self) -> None:
        """A message is shown with its fields and rows, without key, body and variables."""
        given = submission(
            variables={"secret": "reset-link"}, attachments=[Attachment("ü.pdf", "application/pdf", b"123")]
        )
        self.put(Entry(given))
        for (shown,) in (self.queue().show("4QX7TC2M"), self.got(self.store.show("4QX7TC2M"))):
            self.assertEqual(shown.fields["subject"], "Hello")
            self.assertEqual(shown.attachments, (("ü.pdf", "application/pdf", 3),))
            self.assertEqual([row.recipient for row in shown.rows], ["jane@example.org"])
            for secret in (CANARY, "reset-link", "<p>Hello</p>"):
                self.assertNotIn(secret, repr(shown))
        self.assertEqual(self.queue().show("NOSUCH"), [])

    def test_retry(self) -> None:
        """A retry makes rows due now; a failure begins anew, and one in flight is left alone."""
        self.spool()
        self.later(5)
        self.assertEqual(self.queue().retry(Selection()), 3)
        self.assertEqual(self.states(), {"FLYING": "in flight", "FAILED": "due", "WAITING": "due", "DUE": "due"})
        leased = {each.submission.to: each for each in self.take()}
        self.assertEqual(len(leased), 3)
        self.assertEqual(leased["failed@example.org"].attempts, 0)
        self.assertEqual(leased["waiting@example.org"].attempts, 1)
        self.assertEqual(self.got(self.store.take_notices(10)), [])

    def test_retry_by_the_relay(self) -> None:
        """The relay itself can do it, for one account; the age of a failure begins anew."""
        self.spool()
        self.later(1000)
        self.assertEqual(self.got(self.store.retry(Selection(account="Acme", failed=True))), 1)
        (leased,) = (each for each in self.take() if each.submission.to == "failed@example.org")
        self.assertLess(leased.age, 1.0)

    def test_drop(self) -> None:
        """A drop removes rows unsent, but not one in flight; there is room for others then."""
        self.reopen(max_rows=4)
        self.spool()
        self.assertEqual(self.refused(self.store.put(message())), Reason.SPOOL_FULL)
        self.assertEqual(self.queue().drop(Selection(id="FAILED")), 1)
        self.later(2)
        self.put()
        self.assertEqual(self.got(self.store.drop(Selection())), 3)
        self.assertEqual(self.states(), {"FLYING": "in flight"})
        self.put()

    def test_many(self) -> None:
        """More rows than one transaction takes are dropped all the same."""
        self.put(*(Entry(submission(f"{number}@example.org")) for number in range(1001)))
        self.assertEqual(self.queue().drop(Selection()), 1001)
        self.assertEqual(set(self.tables().values()), {0})

    def test_counts(self) -> None:
        """The command line counts too."""
        self.spool()
        counts = self.queue().counts()
        self.assertEqual((counts.waiting, counts.in_flight, counts.failed), (2, 1, 1))

    def test_purge(self) -> None:
        """Failures are kept for their time; then they are gone, and the others are not."""
        self.put(*(Entry(submission(f"{n}@example.org"), failed=True, reason="refused") for n in range(700)))
        self.got(self.store.put(of("Other", "due@example.org")))
        self.later(604_700)
        self.assertEqual(self.got(self.store.purge()), 0)
        self.later(200)
        self.assertEqual(self.got(self.store.purge()), 700)
        self.assertEqual(self.tables()["spool_recipient"], 1)
        self.assertEqual(self.got(self.store.take_notices(10)), [])
        self.put()
        self.assertEqual(len(self.take()), 2)


class DatabaseTests:
    """What only a database has: rows to be read back, keys in a table, a command line that opens it."""

    def test_big_contents(self) -> None:
        """A take reads only so much content into memory; the rest stays for the next."""
        self.patch(leases, "BUDGET", 10_000)
        for number in range(5):
            self.put(Entry(submission(f"{number}@example.org", body="x" * 4000)))
        self.assertEqual([len(self.take()) for _ in range(4)], [2, 2, 1, 0])

    def test_unreadable(self) -> None:
        """A row that cannot be read back becomes a failure; the others are given out."""
        rows = self.put(Entry(submission("a@example.org")))
        self.put(Entry(submission("b@example.org")))
        with self.connect() as connection, connection.begin():
            seq = sa.select(recipients.c.message).where(recipients.c.row == rows[0]).scalar_subquery()
            connection.execute(sa.update(contents).where(contents.c.message == seq).values(fields=b"\xff"))
        self.assertEqual([each.submission.to for each in self.take()], ["b@example.org"])
        (failed,) = self.got(self.store.listing(Selection(failed=True)))
        self.assertEqual((failed.recipient, failed.reason), ("a@example.org", "internal"))

    def test_keys_purged(self) -> None:
        """Keys that nothing needs are gone with the last of what needed them, and may come again."""
        self.put(Entry(submission(), failed=True, reason="refused"))
        self.got(self.store.put(of("Other", "due@example.org")))
        self.later(604_900)
        self.got(self.store.purge())
        with self.connect() as connection:
            self.assertEqual(connection.execute(sa.select(accounts.c.name)).scalars().all(), ["Other"])
        self.put()
        self.assertEqual(len(self.take()), 2)

    def test_nothing_there(self) -> None:
        """A spool that no relay has made is said to be none."""
        with self.assertRaises(ConfigError), open_queue(self.new_url()):
            pass


class RestartTests:
    """What a stop, a crash and a new version leave."""

    def test_kept(self) -> None:
        """What was put is there after a restart, and goes out with the same Idempotency-Key."""
        self.put(Entry(submission(), attempts=1, last_answer="451"))
        self.reopen()
        (leased,) = self.take()
        self.assertEqual((leased.submission, leased.attempts), (submission(), 1))

    def test_limits(self) -> None:
        """What was kept before the start counts."""
        self.put(Entry(submission("a@example.org")), Entry(submission("b@example.org")))
        self.reopen(max_rows=2)
        self.assertEqual(self.refused(self.store.put(message())), Reason.SPOOL_FULL)

    def test_memories(self) -> None:
        """What was remembered is so after a restart, and for no longer than without it."""
        self.reopen(keep=100.0)
        self.got(self.store.remember(Remembered(b"f", "ID1")))
        self.later(60)
        self.reopen(keep=100.0)
        self.assertTrue(self.got(self.store.has_memories()))
        if not database(self.url).shared:  # a server's time goes on by itself
            self.assertIsNotNone(self.got(self.store.recall(b"f")))
        self.later(100.1)
        self.assertIsNone(self.got(self.store.recall(b"f")))

    def test_newer(self) -> None:
        """A database of a newer version is refused, with what to do."""
        self.got(self.store.close())
        with self.connect() as connection, connection.begin():
            connection.exec_driver_sql("UPDATE spool_version SET version_num = '9999'")
        for opening in (self.open, lambda: open_queue(self.url).__enter__()):
            with self.assertRaises(ConfigError) as caught:
                opening()
            self.assertIn("9999", str(caught.exception))
            self.assertIn("newer smtp-relay", str(caught.exception))

    def migrated(self) -> sa.Connection:
        """Another database, which has seen all revisions."""
        connection = database(self.new_url()).connect()
        self.addCleanup(connection.close)
        with connection.begin():
            REVISIONS.migrate(connection)
        return connection

    def test_made(self) -> None:
        """An empty database gets at once what it would get from all revisions, one after another."""
        self.assertEqual(described(self.connect()), described(self.migrated()))

    def test_schema(self) -> None:
        """The migrations make the very tables that the code works with."""
        with self.migrated() as connection:
            context = MigrationContext.configure(connection, opts={"version_table": "spool_version"})
            self.assertEqual(compare_metadata(context, metadata), [])

    def test_clock_was_ahead(self) -> None:
        """Times that only a wrong clock can have set are brought back at the start."""
        self.put(Entry(submission()))
        self.got(self.store.close())
        with self.connect() as connection, connection.begin():
            ahead = {"ready": EPOCH + 1e9, "since": EPOCH + 1e9}
            connection.execute(sa.update(recipients).values(ahead))
            connection.execute(sa.update(messages).values(created=EPOCH + 1e9))
        self.store = self.open()
        self.later(1800.1)
        (leased,) = self.take()
        self.assertAlmostEqual(leased.age, 1800.1, places=3)
        self.assertLess(leased.created, EPOCH + 1e9)


class KeyTests:
    """API keys in the spool."""

    def test_encrypted(self) -> None:
        """A key stands in no table in clear text."""
        self.put()
        with self.connect() as connection:
            for table in metadata.sorted_tables:
                for row in connection.execute(sa.select(table)):
                    for value in row:
                        shown = value if isinstance(value, bytes) else str(value).encode()
                        self.assertNotIn(CANARY.encode(), bytes(shown))

    def test_made(self) -> None:
        """The key file is made at the first start, 32 bytes for its owner alone."""
        self.assertEqual(len(self.key_file.read_bytes()), 32)
        self.assertEqual(self.key_file.stat().st_mode & 0o777, 0o600)
        self.assertEqual([path.name for path in self.folder.glob("spool.key*")], ["spool.key"])

    def problem(self) -> str:
        """What a start complains of."""
        with self.assertRaises(ConfigError) as caught:
            self.open()
        return str(caught.exception)

    def test_wrong(self) -> None:
        """With another key file than the spool was written with the relay does not start, and names it."""
        self.put()
        self.got(self.store.close())
        self.key_file.write_bytes(b"x" * 32)
        self.assertIn(str(self.key_file), self.problem())

    def test_missing(self) -> None:
        """Without its key file the relay does not start while the spool holds messages, and makes no other."""
        self.put()
        self.got(self.store.close())
        key = self.key_file.read_bytes()
        self.key_file.unlink()
        self.assertIn(str(self.key_file), self.problem())
        self.assertFalse(self.key_file.exists())
        self.key_file.write_bytes(key)
        self.store = self.open()
        self.assertEqual(self.take()[0].submission.api_key, CANARY)

    def test_short(self) -> None:
        """A file that is no key is named."""
        self.got(self.store.close())
        self.key_file.write_bytes(b"short")
        self.assertIn("5 bytes", self.problem())


class SeveralTests:
    """Two processes on one database."""

    def setUp(self) -> None:
        super().setUp()
        self.other = self.open()

    def together(self, *works: Callable[[], None]) -> None:
        """Run *works* at the same time, and raise what one of them raised."""
        raised: list[BaseException] = []
        barrier = threading.Barrier(len(works))

        def run(work: Callable[[], None]) -> None:
            barrier.wait(60)
            try:
                work()
            except BaseException as error:
                raised.append(error)

        threads = [threading.Thread(target=run, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        for error in raised:
            raise error

    def test_never_the_same_row(self) -> None:
        """Two relays that take at the same time never get the same row, and get all of them."""
        for account in "abc":
            self.got(self.store.put(of(account, *(f"{number}@{account}.example" for number in range(100)))))
        taken: list[list[int]] = [[], []]

        def drain(store: Store, rows: list[int]) -> None:
            while leased := self.take(7, store):
                rows.extend(each.row for each in leased)

        self.together(lambda: drain(self.store, taken[0]), lambda: drain(self.other, taken[1]))
        self.assertEqual(len(set(taken[0]) | set(taken[1])), 300)
        self.assertEqual(len(taken[0]) + len(taken[1]), 300)

    def test_last_rows_of_a_message(self) -> None:
        """When two relays end the last two rows of a message at the same time its content is gone."""
        for _ in range(50):
            self.put(Entry(submission("a@example.org")), Entry(submission("b@example.org")))
        leased: dict[str, list[Leased]] = {"a@example.org": [], "b@example.org": []}
        for each in self.take(100):
            leased[each.submission.to].append(each)

        def end(store: Store, rows: list[Leased]) -> None:
            for each in rows:
                self.got(store.settle([Delivered(each.row)]))

        self.together(
            lambda: end(self.store, leased["a@example.org"]), lambda: end(self.other, leased["b@example.org"])
        )
        self.assertEqual(set(self.tables().values()), {0})

    def test_dead_relay(self) -> None:
        """What a dead relay held is taken over when its lease ends, and not before."""
        self.put(Entry(submission("taken@example.org")), Entry(submission("flying@example.org"), in_flight=30.0))
        self.assertEqual(len(self.take()), 1)
        self.later(29)
        self.assertEqual(self.take(store=self.other), [])
        self.later(2)
        self.assertEqual([each.submission.to for each in self.take(store=self.other)], ["flying@example.org"])
        self.later(30)
        self.assertEqual([each.submission.to for each in self.take(store=self.other)], ["taken@example.org"])

    def test_restart_of_another(self) -> None:
        """A relay that starts leaves alone what a living one holds."""
        self.put()
        self.take()
        self.assertEqual(self.take(store=self.open()), [])

    def test_taken_over(self) -> None:
        """Only a delivery counts from the relay that a row was taken over from."""
        rows = self.put(Entry(submission("a@example.org")), Entry(submission("b@example.org")))
        self.take()
        self.later(61)
        self.assertEqual(len(self.take(store=self.other)), 2)
        self.settle(Retry(rows[0], 0.0, "451 from the slow one"), Delivered(rows[1]))
        (row,) = self.got(self.store.listing())
        self.assertEqual((row.recipient, row.state, row.last_answer), ("a@example.org", "in flight", ""))

    def test_limits_are_common(self) -> None:
        """What another relay put counts against the limits, within a second."""
        store = self.open(max_rows=2)
        self.got(store.put(message()))
        self.put()
        self.later(5)
        self.assertEqual(self.refused(store.put(message())), Reason.SPOOL_FULL)

    def test_memories_are_common(self) -> None:
        """What one relay remembers the other knows within a second."""
        self.assertFalse(self.got(self.other.has_memories()))
        self.got(self.store.remember(Remembered(b"f", "ID1")))
        self.later(1)
        self.assertTrue(self.got(self.other.has_memories()))
        self.assertEqual(self.got(self.other.recall(b"f")), Remembered(b"f", "ID1"))

    def test_account_removed_by_another(self) -> None:
        """A key that another relay swept, because nothing needed it, is kept anew with the next message."""
        (row,) = self.put()
        self.take()
        self.settle(Delivered(row))
        self.got(self.other.purge())
        with self.connect() as connection:
            self.assertEqual(connection.execute(sa.select(accounts)).all(), [])
        self.put()
        self.assertEqual(len(self.take()), 1)


class SQLiteCase(StoreContract):
    """A file each."""

    def new_url(self) -> str:
        return f"sqlite:///{self.mktemp()}.sqlite3".replace("sqlite:///", f"sqlite:///{Path.cwd()}/")


class SQLitePutTests(PutTests, SQLiteCase):
    pass


class SQLiteLeaseTests(LeaseTests, SQLiteCase):
    pass


class SQLiteLimitTests(LimitTests, SQLiteCase):
    pass


class SQLiteLedgerTests(LedgerTests, SQLiteCase):
    pass


class SQLiteNoticeTests(NoticeTests, SQLiteCase):
    pass


class SQLiteOperatorTests(OperatorTests, SQLiteCase):
    pass


class SQLiteDatabaseTests(DatabaseTests, SQLiteCase):
    pass


class SQLiteRestartTests(RestartTests, SQLiteCase):
    pass


class SQLiteKeyTests(KeyTests, SQLiteCase):
    def test_lost_with_an_empty_spool(self) -> None:
        """While nothing is kept the key file may be lost: a new one is made."""
        (row,) = self.put()
        self.take()
        self.settle(Delivered(row))
        self.got(self.store.close())
        self.key_file.unlink()
        self.store = self.open()
        self.put()
        self.assertEqual(self.take()[0].submission.api_key, CANARY)


class SharedSQLiteCase(SQLiteCase):
    """The workers of one relay, whose parent has opened and closed the file."""

    def setUp(self) -> None:
        self.workers: list[Store] = []
        super().setUp()

    def open(self, url: str = "", key_file: Path | None = None, keep: float = 86_400.0, **policy: Any) -> Store:
        if all(each._database._lock is None for each in self.workers):
            # None works: the relay starts.
            parent = super().open(url, key_file, keep, **policy)
            self.got(parent.close())
        number = len(self.workers) + 1
        seat = Seat(number, f"owner {number}", EPOCH)
        opening = Store.open(
            url or self.url,
            key_file=key_file or self.key_file,
            policy=Spool(**{"min_free": 0, **policy}),
            reactor=self.clock,
            monotonic=self.clock.seconds,
            thread=Inline(),
            keep=keep,
            notices=True,
            seat=seat,
        )
        store = self.got(opening)
        self.workers.append(store)
        self.addCleanup(lambda: self.got(store.close()))
        return store


class SharedPutTests(PutTests, SharedSQLiteCase):
    pass


class SharedLeaseTests(LeaseTests, SharedSQLiteCase):
    pass


class SharedLimitTests(LimitTests, SharedSQLiteCase):
    pass


class SharedLedgerTests(LedgerTests, SharedSQLiteCase):
    pass


class SharedNoticeTests(NoticeTests, SharedSQLiteCase):
    pass


class SharedOperatorTests(OperatorTests, SharedSQLiteCase):
    pass


class SharedDatabaseTests(DatabaseTests, SharedSQLiteCase):
    pass


class SharedRestartTests(RestartTests, SharedSQLiteCase):
    pass


class SharedSeveralTests(SeveralTests, SharedSQLiteCase):
    """Beyond what several relays on a server promise: they know of each other."""

    def test_freed(self) -> None:
        """What a worker that is gone had under way is due at once for the others, and what they have is left alone."""
        self.put(Entry(submission("a@example.org")))
        self.take()
        self.got(self.other.put(message(Entry(submission("b@example.org"), in_flight=30.0))))
        self.assertEqual(self.take(store=self.other), [])
        self.got(self.other.free(self.store.owner))
        self.assertEqual([each.submission.to for each in self.take(store=self.other)], ["a@example.org"])

    def test_numbers_never_again(self) -> None:
        """A row never has the number of one that another worker may still speak of."""
        seen: set[int] = set()
        for store in (self.store, self.other, self.store, self.other):
            rows = self.got(store.put(message(Entry(submission("a@example.org")), Entry(submission("b@example.org")))))
            self.assertEqual(seen & set(rows), set())
            seen.update(rows)
            self.take(store=store)
            self.got(store.settle([Delivered(row) for row in rows]))

    def test_relay_beside_them(self) -> None:
        """Another relay is kept away as long as a worker works on the file."""
        with self.assertRaises(ConfigError):
            SQLiteCase.open(self)
        self.got(self.store.close())
        with self.assertRaises(ConfigError):
            SQLiteCase.open(self)
        self.got(self.other.close())
        SQLiteCase.open(self)

    def test_limits_at_once(self) -> None:
        """What another worker put counts at once, however slow the machine was with the count before."""

        def slow(*_: object) -> None:
            self.later(0.03)

        sa.event.listen(sa.Engine, "before_cursor_execute", slow)
        self.addCleanup(sa.event.remove, sa.Engine, "before_cursor_execute", slow)
        store = self.open(max_rows=2)
        self.put(Entry(submission("a@example.org")), Entry(submission("b@example.org")))
        self.assertEqual(self.refused(store.put(message())), Reason.SPOOL_FULL)

    def test_limits_of_many(self) -> None:
        """With ten thousand rows what another worker put counts after the fifth of a second that a recount pays for."""
        self.put()
        self.multiply("Acme", 10_000)
        store = self.open(max_rows=10_003)
        self.put(Entry(submission("a@example.org")), Entry(submission("b@example.org")))
        self.got(store.put(message()))
        self.later(0.25)
        self.assertEqual(self.refused(store.put(message())), Reason.SPOOL_FULL)

    def test_told_of_memories(self) -> None:
        """A worker that was told that there is something to remember looks at once."""
        self.assertFalse(self.got(self.other.has_memories()))
        self.got(self.store.remember(Remembered(b"f", "ID1")))
        self.other.expect_memories()
        self.assertTrue(self.got(self.other.has_memories()))


class MemoryQueue:
    """The operators' part of a spool in memory, which no command line can open: asked of the store itself."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def listing(self, selection: Selection = EVERYTHING, limit: int = 1000, after: int = 0) -> list[Row]:
        return at_once(self._store.listing(selection, limit, after))

    def show(self, id: str) -> list[Shown]:
        return at_once(self._store.show(id))

    def counts(self) -> Counts:
        return at_once(self._store.counts())

    def retry(self, selection: Selection) -> int:
        return at_once(self._store.retry(selection))

    def drop(self, selection: Selection) -> int:
        return at_once(self._store.drop(selection))


class MemoryCase(StoreContract):
    """The spool of :mod:`relay.testing`.

    Left out: :class:`DatabaseTests`, because nothing is read back, and nobody else can open it;
    :class:`RestartTests`, because nothing outlives it; :class:`KeyTests`, because no key is written anywhere.
    """

    def new_url(self) -> str:
        return ""

    def open(self, keep: float = 86_400.0, **policy: Any) -> MemoryStore:
        return MemoryStore(self.clock, Spool(**policy), notices=True, keep=keep)

    def reopen(self, **options: Any) -> None:
        """With other settings: only before anything is kept."""
        self.assertEqual(set(self.tables().values()), {0})
        super().reopen(**options)

    def queue(self) -> MemoryQueue:
        return MemoryQueue(self.store)

    def tables(self) -> dict[str, int]:
        """What an operator is shown of it, counted."""
        ids = {row.id for row in self.got(self.store.listing(limit=10_000))}
        shown = [each for id in ids for each in self.got(self.store.show(id))]
        return {
            "spool_message": len(shown),
            "spool_content": len(shown),
            "spool_attachment": sum(len(each.attachments) for each in shown),
            "spool_recipient": sum(len(each.rows) for each in shown),
        }

    def multiply(self, name: str, count: int) -> None:
        self.got(self.store.put(of(name, *(f"{number}@{name}.example" for number in range(count)))))


class MemoryPutTests(PutTests, MemoryCase):
    pass


class MemoryLeaseTests(LeaseTests, MemoryCase):
    pass


class MemoryLimitTests(LimitTests, MemoryCase):
    pass


class MemoryLedgerTests(LedgerTests, MemoryCase):
    pass


class MemoryNoticeTests(NoticeTests, MemoryCase):
    pass


class MemoryOperatorTests(OperatorTests, MemoryCase):
    pass
