"""The store on a real PostgreSQL: the contract, several relays, and lost connections."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from relay.errors import ConfigError, Reason
from relay.spool.schema import accounts, recipients
from relay.spool.store import Store
from relay.spool.values import Delivered, Entry, Leased, Remembered, Retry
from tests.contract import test_store_contract as contract
from tests.contract.test_store_contract import message, of, submission
from tests.integration import postgresql


class PostgreSQLCase(contract.StoreContract):
    """A database each."""

    def new_url(self) -> str:
        return postgresql.new_database(self)


class PutTests(contract.PutTests, PostgreSQLCase):
    pass


class LeaseTests(contract.LeaseTests, PostgreSQLCase):
    pass


class LimitTests(contract.LimitTests, PostgreSQLCase):
    pass


class LedgerTests(contract.LedgerTests, PostgreSQLCase):
    pass


class NoticeTests(contract.NoticeTests, PostgreSQLCase):
    pass


class OperatorTests(contract.OperatorTests, PostgreSQLCase):
    pass


class DatabaseTests(contract.DatabaseTests, PostgreSQLCase):
    pass


class RestartTests(contract.RestartTests, PostgreSQLCase):
    pass


class KeyTests(contract.KeyTests, PostgreSQLCase):
    pass


class SeveralRelaysTests(PostgreSQLCase):
    """Two relays on one database."""

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

    def test_another_key_file(self) -> None:
        """A relay with another key file, or with none, does not start, messages or not, and says which file."""
        for kept in (False, True):
            if kept:
                self.put()
            for octets in (None, b"x" * 32):
                other = Path(self.mktemp()).absolute()
                if octets is not None:
                    other.write_bytes(octets)
                with self.assertRaises(ConfigError) as caught:
                    self.open(key_file=other)
                self.assertIn(str(other), str(caught.exception))
                self.assertIn("copy it from the relay", str(caught.exception))


class LostConnectionTests(PostgreSQLCase):
    """The server goes away and comes back."""

    def test_session_lost(self) -> None:
        """A session that the server ended is replaced, and nobody notices."""
        self.put()
        postgresql.lose_connections(self.url)
        self.put()
        self.assertEqual(len(self.take()), 2)

    def test_leases_survive(self) -> None:
        """What was leased before is still ours afterwards."""
        (row,) = self.put()
        self.take()
        postgresql.lose_connections(self.url)
        self.got(self.store.renew([row]))
        self.settle(Delivered(row))
        self.assertEqual(set(self.tables().values()), {0})

    def test_server_down(self) -> None:
        """While the server is down messages are refused for now; afterwards all goes on, and nothing is half-taken."""
        self.put(Entry(submission("before@example.org")))
        postgresql.stop()
        try:
            for _ in range(2):
                self.assertEqual(self.refused(self.store.put(message())), Reason.SPOOL_FAILED)
                self.assertEqual(self.refused(self.store.take(10)), Reason.SPOOL_FAILED)
                self.later(2)
        finally:
            postgresql.start()
        self.put(Entry(submission("after@example.org")))
        self.assertEqual([each.submission.to for each in self.take()], ["before@example.org", "after@example.org"])

    def test_commit_unheard(self) -> None:
        """A commit that was made and not heard of is found, and its messages are promised."""
        lost = threading.Event()

        @sa.event.listens_for(sa.Engine, "commit")
        def lose(connection: sa.Connection) -> None:
            if connection.engine.url.database == sa.make_url(self.url).database and not lost.is_set():
                lost.set()
                # As if the answer to the COMMIT was lost on its way.
                connection.connection.commit()
                postgresql.lose_connections(self.url)

        self.addCleanup(sa.event.remove, sa.Engine, "commit", lose)
        self.put()
        self.assertTrue(lost.is_set())
        with self.connect() as connection:
            self.assertEqual(connection.execute(sa.select(sa.func.count()).select_from(recipients)).scalar_one(), 1)

    def test_out_of_reach(self) -> None:
        """A relay does not start without its database, and does not show the password."""
        with self.assertRaises(ConfigError) as caught:
            self.open("postgresql://relay:hidden-password@127.0.0.1:1/relay")
        said = str(caught.exception)
        self.assertIn("127.0.0.1", said)
        self.assertNotIn("hidden-password", said)
