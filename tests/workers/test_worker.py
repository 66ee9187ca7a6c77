"""A worker, in memory: what the parent tells it, and what it says."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from relay.config import Config, handed_over
from relay.intake import GREETED, open_store
from relay.policy import Limits
from relay.spool.writer import Inline
from relay.workers.channel import Lines, Message, encode
from relay.workers.worker import Worker
from tests.contract.test_store_contract import at_once


class Reactor(MemoryReactorClock):
    """Knows whether it was stopped."""

    stopped = False

    def stop(self) -> None:
        self.stopped = True


class WorkerCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = Reactor()
        self.transport = StringTransport()
        self.observers: list[Any] = []
        self.completed: list[bool] = []
        self.worker = Worker(
            3,
            self.reactor,
            begin_logging=self.observers.append,
            completed=partial(self.completed.append, True),
            make_thread=lambda reactor: Inline(),
        )
        self.worker.makeConnection(self.transport)
        self.data = os.path.abspath(self.mktemp())
        os.makedirs(self.data)

    def tell(self, word: str, *values: Any) -> None:
        """The parent says something."""
        self.worker.dataReceived(encode(word, *values))

    def said(self) -> list[Message]:
        """What the worker has said since."""
        said = list(Lines().feed(self.transport.value()))
        self.transport.clear()
        return said

    def hello(self, **values: Any) -> None:
        """The parent's hello, with a configuration."""
        config = Config(data=self.data, backend=("http://127.0.0.1:1",), hostname="relay.example", **values)
        # As the parent leaves it.
        store = at_once(open_store(config, self.reactor, Inline()))
        at_once(store.close())
        self.tell(
            "hello",
            {
                "config": handed_over(config),
                "listeners": [],
                "internal": None,
                "epoch": 1.0e9,
                "owner": "owner 3",
                "free": [],
                "inherits_output": False,
            },
        )

    def session(self) -> tuple[Any, StringTransport]:
        """A client of this worker."""
        assert self.worker._intake is not None and self.worker._intake.factory is not None
        address = IPv4Address("TCP", "127.0.0.1", 40000)
        protocol = self.worker._intake.factory.buildProtocol(address)
        transport = StringTransport(peerAddress=address)
        protocol.makeConnection(transport)
        return protocol, transport


class BeginTests(WorkerCase):
    def test_ready(self) -> None:
        """After its hello it takes mail, and says so; what it logs goes to the parent with its number."""
        self.hello()
        self.assertEqual(self.said()[-1], ["ready"])
        _, transport = self.session()
        self.assertTrue(transport.value().startswith(b"220 relay.example"))
        self.observers[0]({"log_format": "hello {name}", "name": "Ann", "log_namespace": "relay.x", "log_time": 1.0})
        ((word, when, level, namespace, text, fields),) = self.said()
        self.assertEqual((word, when, level, namespace, text), ("log", 1.0, "info", "relay.x", "hello Ann"))
        self.assertEqual(fields, {"name": "Ann", "worker": 3})

    def test_complete(self) -> None:
        """What a first message needs is made after the first greeting."""
        self.hello()
        self.session()
        self.assertEqual(self.completed, [])
        self.reactor.advance(GREETED)
        self.assertEqual(self.completed, [True])

    def test_cannot_begin(self) -> None:
        """One that cannot begin says why, and ends with 1."""
        path = os.path.join(self.data, "nothing")
        with open(path, "w", encoding="ascii"):
            self.hello(certificate=path, private_key=path)
        self.assertNotIn(["ready"], self.said())
        self.assertEqual((self.worker.code, self.transport.disconnecting), (1, True))
        self.worker.connectionLost(Failure(ConnectionDone()))
        self.assertTrue(self.reactor.stopped)
        self.tell("stop")


class WorkTests(WorkerCase):
    def setUp(self) -> None:
        super().setUp()
        self.hello(limits=Limits(idle=60.0, drain=5.0))
        self.said()

    def test_questions(self) -> None:
        """It says what it has counted, and how it stands."""
        self.session()
        self.said()
        self.tell("metrics", 7)
        ((word, question, counted),) = self.said()
        self.assertEqual((word, question), ("answer", 7))
        samples = {sample[0]: sample[2] for family in counted for sample in family[3]}
        self.assertEqual(samples["smtp_relay_sessions_open"], 1)
        self.tell("state", 8)
        self.reactor.advance(0)
        self.assertEqual(self.worker._intake.breakers(), {"http://127.0.0.1:1": "closed"})

    def test_retire(self) -> None:
        """One that is replaced says that it takes no connections; its sessions go on, and when they end it ends."""
        protocol, transport = self.session()
        transport.clear()
        self.said()
        self.tell("retire")
        self.assertEqual(self.said(), [["retired"]])
        self.assertEqual((transport.value(), self.transport.disconnecting), (b"", False))
        protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual([word for word, *_ in self.said()][-1], "counted")
        self.assertTrue(self.transport.disconnecting)

    def test_retire_with_silent_session(self) -> None:
        """A session that stays for longer than any silence may last is ended as at a stop."""
        _, transport = self.session()
        self.tell("retire")
        self.reactor.advance(60)
        self.assertIn(b"421 ", transport.value())

    def test_stop(self) -> None:
        """First it takes no connections, then the sessions are told, then it says what it counted, and ends with 0."""
        protocol, transport = self.session()
        self.said()
        self.tell("refuse")
        self.assertEqual(self.said(), [["retired"]])
        self.assertNotIn(b"421", transport.value())
        self.tell("stop")
        self.assertIn(b"421 4.3.2", transport.value())
        protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual([word for word, *_ in self.said()][-1], "counted")
        self.worker.connectionLost(Failure(ConnectionDone()))
        self.assertEqual((self.worker.code, self.reactor.stopped), (0, True))

    def test_parent_that_does_not_listen(self) -> None:
        """A parent that takes no last words keeps no worker."""
        self.tell("stop")
        self.assertFalse(self.reactor.stopped)
        self.reactor.advance(2)
        self.assertTrue(self.reactor.stopped)

    def test_parent_gone(self) -> None:
        """Without its parent it ends in order."""
        _, transport = self.session()
        self.worker.connectionLost(Failure(ConnectionDone()))
        self.assertIn(b"421 4.3.2", transport.value())
