"""The composition: what is listened on, what is fatal, and how it all ends.  In memory, with a platform elsewhere."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import attrs
from twisted.application.service import Application, IService
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError, ConnectionDone
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import ILogObserver, LogLevel, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from relay import intake, service
from relay.config import Config
from relay.errors import ConfigError
from relay.intake import GREETED
from relay.operate import tls
from relay.operate.listening import CannotStart
from relay.operate.log import JSONLines
from relay.smtp.auth import Keys
from relay.spool.writer import Inline
from relay.testing import FakePlatform
from relay.values import Envelope

from .operate.test_log import record


class Reactor(MemoryReactorClock):
    """Ports that cannot be listened on: ``{port: errno}``."""

    def __init__(self, refused=None) -> None:
        super().__init__()
        self.refused = refused or {}

    def listenTCP(self, port, factory, backlog=50, interface=""):
        if port in self.refused:
            raise CannotListenError(interface, port, OSError(self.refused[port], "no"))
        return super().listenTCP(port, factory, backlog, interface)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Hanging(Inline):
    """A thread that from some time on does not come back."""

    hangs = False

    def run(self, work) -> None:
        if not self.hangs:
            work()


class ServiceCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.events: list[dict] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)

    def config(self, **values) -> Config:
        defaults = {
            "data": os.path.abspath(self.mktemp()),
            "backend": ("http://127.0.0.1:1",),
            "hostname": "relay.example",
        }
        return Config(**{**defaults, **values})

    def make(self, reactor=None, **values) -> service.RelayService:
        self.reactor = reactor or Reactor()
        made = service.makeService(self.config(**values), self.reactor)
        made.terminal = None
        made.spool_thread = lambda reactor: Inline()
        return made

    def start(self, *args, **values) -> service.RelayService:
        made = self.make(*args, **values)
        made.privilegedStartService()
        made.startService()
        self.reactor.run()
        self.reactor.advance(GREETED)
        return made

    def ports(self) -> list[int]:
        return [each[0] for each in self.reactor.tcpServers]

    def said(self, level: LogLevel) -> list[str]:
        return [str(event) for event in self.events if event.get("log_level") is level]


class Starting(ServiceCase):
    def test_listeners(self) -> None:
        """Ports are bound before privileges are shed; without an embedded backend there is no dashboard."""
        made = self.make()
        verifyObject(IService, made)
        self.assertEqual(self.ports(), [])
        made.privilegedStartService()
        self.assertEqual(self.ports(), [587, 2525, 8025, 9587])
        self.assertFalse(os.path.exists(made.config.data))
        made.startService()
        self.assertEqual(self.ports(), [587, 2525, 8025, 9587])

    def test_start_alone(self) -> None:
        """An embedder who calls startService alone gets the ports too."""
        made = self.make()
        made.startService()
        self.assertEqual(len(self.ports()), 4)

    def test_data(self) -> None:
        """The data directory is made with mode 0700, and holds the certificate and its key."""
        made = self.start()
        self.assertEqual(os.stat(made.config.data).st_mode & 0o777, 0o700)
        self.assertLessEqual(
            {"certificate.pem", "lock", "private-key.pem", "spool.key", "spool.sqlite3"},
            set(os.listdir(made.config.data)),
        )

    def test_data_of_another(self) -> None:
        """A second relay on one data directory is refused, listens no more, and may have it after the first."""
        first = self.start()
        second = self.make(data=first.config.data)
        error = self.assertRaises(CannotStart, second.startService)
        self.assertIn("is in use by another relay", str(error))
        self.assertEqual([str(each.address) for each in second._smtp], ["None"] * 3)
        self.successResultOf(first.stopService())
        second = self.start(data=first.config.data)
        self.successResultOf(second.stopService())

    def test_session(self) -> None:
        """What connects to an SMTP port is greeted with the host name."""

        self.start()
        address = IPv4Address("TCP", "127.0.0.1", 40000)
        protocol = self.reactor.tcpServers[0][1].buildProtocol(address)
        transport = StringTransport(peerAddress=address)
        protocol.makeConnection(transport)
        self.assertTrue(transport.value().startswith(b"220 relay.example ESMTP"), transport.value())

    def test_greeted_first(self) -> None:
        """Who connects is greeted before the pages are there; theirs wait, and are answered when the relay is ready."""
        made = self.make()
        made.startService()
        self.reactor.run()
        address = IPv4Address("TCP", "127.0.0.1", 40000)
        smtp, *_, admin = [each[1] for each in self.reactor.tcpServers]
        self.assertIsNotNone(smtp.buildProtocol(address))
        self.assertIsNone(admin.buildProtocol(address))
        completed: list[str] = []
        made.completed = lambda: completed.append("all")
        self.reactor.advance(GREETED)
        self.assertIsNotNone(admin.buildProtocol(address))
        self.assertEqual(completed, ["all"])
        self.assertEqual(self.events[-1]["log_format"], "ready")

    def test_stopped_before_complete(self) -> None:
        """A relay that is told to stop at once makes no pages any more, and does not call itself ready."""
        made = self.make()
        made.startService()
        self.reactor.run()
        self.successResultOf(made.stopService())
        self.reactor.advance(GREETED)
        self.assertEqual(self.events[-1]["log_format"], "stopped")

    def test_banner(self) -> None:
        """A terminal gets the banner, and the log the addresses and that the relay is ready."""
        made = self.make(listen=("tcp:2525",))
        terminal = made.terminal = Terminal()
        made.startService()
        self.reactor.run()
        self.assertEqual(terminal.getvalue(), "")
        self.reactor.advance(GREETED)
        self.assertIn("swaks --server 127.0.0.1:2525 ", terminal.getvalue())
        said = [event.get("said") for event in self.events if event.get("said")]
        self.assertEqual(said, ["smtp 0.0.0.0:2525 (tcp:2525)", "admin 0.0.0.0:9587 (tcp:9587:interface=127.0.0.1)"])
        self.assertEqual(self.events[-1]["log_format"], "ready")

    def test_no_terminal(self) -> None:
        """Where the output is no terminal the swaks line goes to the log."""
        self.start()
        self.assertTrue(any("swaks --server" in event.get("line", "") for event in self.events))

    def test_certificate_end_in_metrics(self) -> None:
        """The end of the certificate in use is a metric, and it is looked at daily."""
        made = self.start()
        value = made._intake.metrics.registry.get_sample_value("smtp_relay_certificate_expiry_timestamp_seconds")
        self.assertGreater(value, 1e9)
        self.assertEqual(len([each for each in self.reactor.getDelayedCalls() if each.getTime() == 86_400]), 1)

    def test_json(self) -> None:
        """An application that the service joins logs with the service's observer."""
        application = Application("x")
        made = self.make()
        made.log_observer = JSONLines(io.StringIO())
        made.setServiceParent(application)
        self.assertIs(application.getComponent(ILogObserver), made.log_observer)
        other = Application("y")
        self.make().setServiceParent(other)
        self.assertIsNone(other.getComponent(ILogObserver))


class Fatal(ServiceCase):
    def test_busy(self) -> None:
        """A busy port is fatal, named with its option, logged once; what was bound already is let go."""
        made = self.make(
            Reactor({2525: errno.EADDRINUSE}), listen=("tcp:25", "tcp:2525"), sources={"listen": "SMTP_RELAY_LISTEN"}
        )
        error = self.assertRaises(CannotStart, made.privilegedStartService)
        self.assertEqual(str(error), "cannot listen on tcp:2525 (SMTP_RELAY_LISTEN): Address already in use")
        self.assertEqual(error.code, 1)
        self.assertEqual(len(self.said(LogLevel.critical)), 1)

    def test_busy_default(self) -> None:
        """A default port that is busy is fatal too; so is the admin endpoint."""
        made = self.make(Reactor({8025: errno.EADDRINUSE}))
        error = self.assertRaises(CannotStart, made.privilegedStartService)
        self.assertIn("tcp:8025 (the default of listen)", str(error))
        made = self.make(Reactor({9587: errno.EADDRINUSE}))
        self.assertIn("the default of admin", str(self.assertRaises(CannotStart, made.privilegedStartService)))

    def test_default_port_that_needs_root(self) -> None:
        """A default port that needs root is left out with a warning; one that was asked for is fatal."""
        self.start(Reactor({587: errno.EACCES}))
        self.assertEqual(self.ports(), [2525, 8025, 9587])
        self.assertEqual(len(self.said(LogLevel.warn)), 1)
        made = self.make(Reactor({587: errno.EACCES}), listen=("tcp:587",))
        self.assertIn("Permission denied", str(self.assertRaises(CannotStart, made.privilegedStartService)))

    def test_data_directory(self) -> None:
        """A data directory that cannot be made is one line, without a traceback."""
        path = self.mktemp()
        Path(path).write_text("")
        made = self.make(data=os.path.join(path, "data"))
        made.privilegedStartService()
        error = self.assertRaises(CannotStart, made.startService)
        self.assertEqual(str(error), f"data: {path}/data: Not a directory; --data names another directory")

    def test_all_problems(self) -> None:
        """Endpoints that Twisted does not know, a certificate and authorities that are none, are reported together."""
        path = self.mktemp()
        Path(path).write_text("")
        config = self.config(listen=("a:1", "b:2"), certificate=path, private_key=path)
        config = attrs.evolve(config, platform=attrs.evolve(config.platform, ca_file=path))
        problems = self.assertRaises(ConfigError, service.makeService, config, Reactor()).problems
        self.assertEqual(len(problems), 4, problems)

    def test_mismatched_certificate(self) -> None:
        """A certificate and the key of another are refused when the service is made."""
        folders = [self.mktemp(), self.mktemp()]
        for each in folders:
            os.makedirs(each)
        (certificate, _), (_, key) = (tls.make(each, "x.example") for each in folders)
        config = self.config(certificate=certificate, private_key=key)
        error = self.assertRaises(ConfigError, service.makeService, config, Reactor())
        self.assertIn("is not the key of", str(error))


class Stopping(ServiceCase):
    def test_stop(self) -> None:
        """Stopping closes the listeners at once and ends when nothing is under way."""
        made = self.start()
        self.successResultOf(made.stopService())
        self.assertEqual([event["log_format"] for event in self.events][-1], "stopped")

    def test_no_second_start(self) -> None:
        """A relay that was stopped says that it does not start again, and is not left running without a port."""
        made = self.start()
        self.successResultOf(made.stopService())
        self.assertRaises(RuntimeError, made.startService)
        self.assertFalse(made.running)

    def test_stop_before_start(self) -> None:
        """A service that never started stops without complaint."""
        self.successResultOf(self.make().stopService())

    def test_spool_that_hangs(self) -> None:
        """A spool that does not answer, such as a server that hangs, does not keep the relay from stopping."""
        made, thread = self.make(), Hanging()
        made.spool_thread = lambda reactor: thread
        made.privilegedStartService()
        made.startService()
        thread.hangs = True
        stopping = made.stopService()
        self.assertNoResult(stopping)
        self.reactor.advance(10)
        self.successResultOf(stopping)
        said = [event["log_format"] for event in self.events]
        self.assertIn("the spool does not answer, and is left as it is", said)
        self.assertEqual(said[-1], "stopped")

    def test_drain(self) -> None:
        """A session that is idle is told 421 and stopping waits for its end; /readyz says so meanwhile."""

        made = self.start()
        address = IPv4Address("TCP", "127.0.0.1", 40000)
        protocol = self.reactor.tcpServers[0][1].buildProtocol(address)
        transport = StringTransport(peerAddress=address)
        protocol.makeConnection(transport)
        stopping = made.stopService()
        self.assertNoResult(stopping)
        self.assertIn(b"421 4.3.2", transport.value())
        missing = self.successResultOf(Deferred.fromCoroutine(made._intake.missing()))
        self.assertEqual(missing, {"relay": "stopping"})
        protocol.connectionLost(Failure(ConnectionDone()))
        self.successResultOf(stopping)


class Pieces(ServiceCase):
    def test_pieces(self) -> None:
        """An embedder makes a pipeline with a platform of its own, replaces a stage, and listens with it."""
        config = self.config()
        platform, reactor, records = FakePlatform(), Reactor(), []
        keys = Keys(platform.ping, config.auth, reactor)
        pipeline = attrs.evolve(
            service.make_pipeline(config, platform, keys, records.append), route=lambda message, account: "mine"
        )
        factory = service.make_factory(config, pipeline, keys, clock=reactor)
        self.assertEqual(factory.hostname, b"relay.example")

        content = b"From: a@example.com\r\nSubject: x\r\nX-Auth-APIKey: test-key-0123456789\r\n\r\nhello\r\n"
        envelope = Envelope("ID1", "a@example.com", ("b@example.com",))
        self.successResultOf(Deferred.fromCoroutine(pipeline.accept(envelope, content)))
        self.assertEqual(platform.submissions[0].route, "mine")
        self.assertEqual(len(records), 1)

    def test_messages_are_told_together(self) -> None:
        """The messages that a turn of the reactor brings are counted and logged at its end, each once."""
        calls, events = [], []
        observer = intake._Observer(calls.append)
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)

        def told() -> tuple[list[str], float | None]:
            labels = {"result": "accepted", "reason": ""}
            count = observer.registry.get_sample_value("smtp_relay_messages_total", labels)
            return [event["id"] for event in events], count

        for message_id in ("01", "02"):
            observer.message_recorded(record(id=message_id))
        self.assertEqual((told(), len(calls)), (([], None), 1))
        calls.pop()()
        self.assertEqual(told(), (["01", "02"], 2))
        observer.message_recorded(record(id="03"))
        calls.pop()()
        self.assertEqual(told(), (["01", "02", "03"], 3))
