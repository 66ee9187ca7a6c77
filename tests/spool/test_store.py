"""What the store does beyond its contract: on SQLite, one relay a file, on a clock that somebody sets."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from relay.errors import ConfigError, Reason
from relay.policy import Spool
from relay.spool.schema import recipients
from relay.spool.store import Store
from relay.spool.values import Delivered, Entry, Remembered, Retry
from relay.spool.writer import Inline
from tests.contract.test_store_contract import CANARY, EPOCH, SQLiteCase, at_once, message, submission


class FileTests(SQLiteCase):
    """The files under the data folder."""

    @property
    def path(self) -> Path:
        return Path(self.url.removeprefix("sqlite:///"))

    def test_no_key_in_any_file(self) -> None:
        """An API key stands in clear text in no file of the spool, whatever became of its messages."""
        (row, *_) = self.put(*(Entry(submission(f"{number}@example.org")) for number in range(3)))
        self.take()
        self.settle(Delivered(row))
        files = list(self.path.parent.glob(f"{self.path.name}*")) + list(self.folder.iterdir())
        self.assertIn(f"{self.path.name}-wal", [each.name for each in files])
        for each in files:
            self.assertNotIn(CANARY.encode(), each.read_bytes(), each)
        self.got(self.store.close())
        self.assertNotIn(CANARY.encode(), self.path.read_bytes())

    def test_for_the_owner_alone(self) -> None:
        """Nobody but the owner may read the files."""
        self.put()
        for each in self.path.parent.glob(f"{self.path.name}*"):
            self.assertEqual(each.stat().st_mode & 0o077, 0, each)

    def test_one_relay(self) -> None:
        """A second relay on the same file is refused, with what to do; after the first has ended it may."""
        with self.assertRaises(ConfigError) as caught:
            self.open()
        self.assertIn("another smtp-relay uses", str(caught.exception))
        self.reopen()

    def test_free_at_start(self) -> None:
        """What the process before held is free at once: it is gone."""
        self.put(Entry(submission("taken@example.org")), Entry(submission("flying@example.org"), in_flight=30.0))
        self.put(Entry(submission("waiting@example.org"), delay=15.0))
        self.assertEqual(len(self.take()), 1)
        self.reopen()
        self.assertEqual({each.submission.to for each in self.take()}, {"taken@example.org", "flying@example.org"})

    def test_numbers_go_on(self) -> None:
        """A row never gets the number of one that is there."""
        first = self.put()
        self.reopen()
        self.assertGreater(self.put(), first)

    def test_space_given_back(self) -> None:
        """After an outage the file is small again at the next start."""
        for number in range(20):
            self.put(Entry(submission(f"{number}@example.org", body="x" * 1_000_000)))
        while leased := self.take():
            self.settle(*(Delivered(each.row) for each in leased))
        self.reopen()
        self.got(self.store.close())
        self.assertLess(self.path.stat().st_size, 1_000_000)

    def test_file_moved_or_removed(self) -> None:
        """What would be written to a file that has no name any more is refused for now, not promised."""
        self.put()
        moved = self.path.with_name("moved")
        self.path.rename(moved)
        self.assertEqual(self.refused(self.store.put(message())), Reason.SPOOL_FAILED)
        self.path.touch()
        self.assertEqual(self.refused(self.store.put(message())), Reason.SPOOL_FAILED)
        moved.replace(self.path)
        self.put()

    def test_min_free(self) -> None:
        """Where the volume has less space than is to be left free, messages are refused for now."""
        self.reopen(min_free=2**62)
        self.assertEqual(self.refused(self.store.put(message())), Reason.SPOOL_FULL)


class OpeningTests(SQLiteCase):
    """A spool that cannot be opened."""

    def problem(self, url: str, key_file: Path | None = None) -> str:
        with self.assertRaises(ConfigError) as caught:
            self.open(url, key_file)
        return str(caught.exception)

    def test_urls(self) -> None:
        """A URL that is none, or of a database that is not supported, is said to be, without a password."""
        for url in ("", "nonsense", "mysql://user:hidden@host/x", "sqlite://"):
            said = self.problem(url or "x")
            self.assertIn("postgresql://", said)
            self.assertNotIn("hidden", said)

    def test_no_folder(self) -> None:
        """A folder that does not exist is named."""
        self.assertIn("/nowhere-at-all", self.problem("sqlite:////nowhere-at-all/spool.sqlite3"))

    def test_not_a_database(self) -> None:
        """A file that is no database is named, and left as it is."""
        path = self.folder / "notes.txt"
        path.write_text("something else\n" * 100)
        self.assertIn(str(path), self.problem(f"sqlite:///{path}"))
        self.assertEqual(path.read_text(), "something else\n" * 100)

    def test_no_place_for_the_key(self) -> None:
        """A key file that cannot be made is named."""
        self.assertIn("/nowhere-at-all/key", self.problem(self.new_url(), Path("/nowhere-at-all/key")))

    def test_open_again(self) -> None:
        """A start that failed leaves nothing behind that keeps the next from working."""
        url = self.new_url()
        self.problem(url, Path("/nowhere-at-all/key"))
        self.open(url)


class ClockTests(SQLiteCase):
    """The machine's clock is set while the relay runs."""

    def setUp(self) -> None:
        self.jump = 0.0
        super().setUp()

    def open(self, *given: object, **policy: object) -> Store:
        store = at_once(
            Store.open(
                self.url,
                key_file=self.key_file,
                policy=Spool(min_free=0),
                reactor=self.clock,
                now=lambda: EPOCH + self.clock.seconds() + self.jump,
                monotonic=self.clock.seconds,
                thread=Inline(),
            )
        )
        self.addCleanup(lambda: self.got(store.close()))
        return store

    def test_ahead(self) -> None:
        """A clock that jumps a year ahead makes no retry due, and nothing old."""
        (row,) = self.put()
        self.take()
        self.settle(Retry(row, 30.0, "451"))
        self.jump = 3e7
        self.assertEqual(self.take(), [])
        self.later(30.1)
        (leased,) = self.take()
        self.assertLess(leased.age, 31)

    def test_ahead_after_a_start(self) -> None:
        """The same holds for what was there when the relay started, though nothing new came."""
        self.put(Entry(submission(), delay=30.0))
        self.got(self.store.close())
        self.store = self.open()
        self.jump = 3e7
        self.assertEqual(self.take(), [])

    def test_back(self) -> None:
        """A clock that jumps a year back does not stop the retries."""
        (row,) = self.put()
        self.take()
        self.settle(Retry(row, 30.0, "451"))
        self.jump = -3e7
        self.later(30.1)
        self.assertEqual(len(self.take()), 1)

    def test_back_before_a_start(self) -> None:
        """When the clock was a year ahead at the last start, retries go on within their longest delay."""
        self.got(self.store.close())
        self.jump = 3e7
        self.store = self.open()
        self.put(Entry(submission(), delay=30.0))
        self.got(self.store.close())
        self.jump = 0.0
        self.store = self.open()
        self.later(1800.1)
        (leased,) = self.take()
        self.assertGreaterEqual(leased.age, 0.0)
        self.assertAlmostEqual(leased.created, EPOCH, delta=2000)

    def test_right_when_empty(self) -> None:
        """A machine that starts in 1970 gets right times once its clock is set, before the first message."""
        self.got(self.store.close())
        self.jump = -EPOCH
        self.store = self.open()
        self.jump = 0.0
        self.put()
        self.assertAlmostEqual(self.take()[0].created, EPOCH, delta=1)

    def test_ledger_keeps_the_clock(self) -> None:
        """While something is remembered the clock stays: a jump must not make it forgotten."""
        self.got(self.store.remember(Remembered(b"f", "ID1")))
        self.jump = 3e7
        self.assertIsNotNone(self.got(self.store.recall(b"f")))


class SweepTests(SQLiteCase):
    """Numbers of accounts are used again."""

    def test_key_after_sweep(self) -> None:
        """An account that takes the number of one that was swept has its own key."""
        (row,) = self.put()
        self.take()
        self.settle(Delivered(row))
        self.got(self.store.purge())
        self.put(Entry(submission(api_key="another key")), key="another key", name="Other")
        self.put()
        self.assertEqual({each.submission.api_key for each in self.take()}, {"another key", CANARY})

    def test_dropped_behind_our_back(self) -> None:
        """What the command line removed makes room within a second."""
        self.reopen(max_rows=1)
        self.put()
        with self.connect() as connection, connection.begin():
            connection.execute(sa.delete(recipients))
        self.later(1)
        self.put()
