"""The store on a real PostgreSQL: the contract, several relays, and lost connections."""

from __future__ import annotations

import threading
from pathlib import Path

import sqlalchemy as sa

from relay.errors import ConfigError, Reason
from relay.spool.schema import recipients
from relay.spool.values import Delivered, Entry
from tests.contract import test_store_contract as contract
from tests.contract.test_store_contract import message, submission
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


class SeveralTests(contract.SeveralTests, PostgreSQLCase):
    pass


class SeveralRelaysTests(PostgreSQLCase):
    """Two relays on one database."""

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
