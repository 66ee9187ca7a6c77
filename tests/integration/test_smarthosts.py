"""Messages handed to real smarthosts: Postfix' smtp-sink in every mood, and one with TLS and AUTH."""

from __future__ import annotations

import os
import re
import shutil
import signal
import smtplib
import tempfile
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.embedded.inmemory import MESSAGE
from tests.integration import postgresql
from tests.integration.smarthosts import Sink, add_route, ask, smarthost, status, until
from tests.integration.support import Relay, running, start

#: What a route's first attempt comes to, by what smtp-sink is told: its option and its command.
MOODS = {
    "hard-mail": (("-f", "MAIL"), "failed", "500 5.3.0 Error: command failed"),
    "hard-rcpt": (("-f", "RCPT"), "failed", "500 5.3.0 Error: command failed"),
    "hard-data": (("-f", "DATA"), "failed", "500 5.3.0 Error: command failed"),
    "hard-end": (("-f", "."), "failed", "500 5.3.0 Error: command failed"),
    "hard-ehlo": (("-f", "EHLO,HELO"), "deferred", "500 5.3.0 Error: command failed"),
    "soft-mail": (("-r", "MAIL"), "deferred", "450 4.3.0 Error: command failed"),
    "soft-rcpt": (("-r", "RCPT"), "deferred", "450 4.3.0 Error: command failed"),
    "soft-end": (("-r", "."), "deferred", "450 4.3.0 Error: command failed"),
    "cut-ehlo": (("-q", "EHLO"), "deferred", "the connection was lost after EHLO: it was closed"),
    "cut-rcpt": (("-q", "RCPT"), "deferred", "the connection was lost after RCPT TO: it was closed"),
    "cut-end": (("-q", "."), "deferred", "the connection was lost after the message (it may have been delivered): "
                                         "it was closed"),
    "bye-mail": (("-Q", "MAIL"), "deferred", "421 4.0.0 Server closing connection"),
    "bye-end": (("-Q", "."), "deferred", "421 4.0.0 Server closing connection"),
    "slow": (("-w", "2"), "delivered", "250 2.0.0 Ok"),
    "good": ((), "delivered", "250 2.0.0 Ok"),
}  # fmt: skip

#: What smtp-sink makes of a message that it refused or cut off behind its end: it has it all the same.
DOUBTFUL = {"hard-end", "soft-end", "cut-end", "bye-end"}


class SinkTests(SynchronousTestCase):
    """A relay whose routes go to ``smtp-sink``."""

    def relay(self, **settings: Any) -> Relay:
        """A relay of its own."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        entered = running(folder=Path(folder.name), **settings)
        relay = entered.__enter__()
        self.addCleanup(entered.__exit__, None, None, None)
        return relay

    def send(self, relay: Relay, route: str, number: int = 0) -> str:
        """Submit a message by HTTP; its id."""
        to = f"jane{number}@example.org"
        return str(ask(relay, "send", {**MESSAGE, "to": to, "route": route})["id"])

    def test_moods(self) -> None:
        """Whatever a smarthost does, status and timeline are right; when it is well again all arrive, and once."""
        relay = self.relay(embedded_retry_first=5, embedded_retry_maximum=5)
        sinks = {mood: Sink(self, *options) for mood, (options, _, _) in MOODS.items()}
        for mood, sink in sinks.items():
            add_route(relay, mood, smarthost(sink.port))
        ids = {mood: self.send(relay, mood) for mood in MOODS}
        for mood, (_, wanted, answer) in MOODS.items():
            until(lambda id=ids[mood]: ask(relay, f"log/{id}")["attempts"] >= 1, f"{mood} was tried")  # type: ignore[misc]
            timeline = ask(relay, f"log/{ids[mood]}")["timeline"]
            self.assertEqual([each["kind"] for each in timeline][:3], ["accepted", "queued", wanted], mood)
            self.assertEqual(timeline[2]["answer"], answer, mood)
            self.assertIn(f"127.0.0.1:{sinks[mood].port}", timeline[2]["detail"])
        well = {}
        for mood, (_, wanted, _) in MOODS.items():
            if wanted == "deferred":
                sinks[mood].stop()
                well[mood] = Sink(self, port=sinks[mood].port)
        for mood, sink in well.items():
            until(lambda id=ids[mood]: status(relay, id) == "delivered", f"{mood} was delivered")  # type: ignore[misc]
            self.assertEqual(sink.ids(), [ids[mood]], mood)
        for mood, (_, wanted, _) in MOODS.items():
            if wanted == "delivered":
                self.assertEqual(sinks[mood].ids(), [ids[mood]], mood)
            elif mood not in DOUBTFUL:
                self.assertEqual(sinks[mood].ids(), [], mood)

    def test_over_smtp(self) -> None:
        """What a client sends to the relay leaves by the route that it names, with the client's sender."""
        relay, sink = self.relay(), Sink(self)
        add_route(relay, "out", smarthost(sink.port))
        message = EmailMessage()
        for name, value in (("From", "Shöp <shop@example.com>"), ("To", "jane@example.org"), ("Subject", "Grüße"),
                            ("X-Transactional-Route", "out"), ("X-Auth-APIKey", relay.api_key)):  # fmt: skip
            message[name] = value
        message.set_content("<p>Schöne Grüße</p>\n.\n", "html")
        # The key is looked up before the route is there in the relay's memory of the account.
        with smtplib.SMTP("127.0.0.1", relay.port) as client:
            client.send_message(message, from_addr="bounce@example.com")
        until(lambda: len(sink.ids()) == 1, "it came")
        (entry,) = relay.messages()
        until(lambda: status(relay, entry["id"]) == "delivered", "it is delivered")
        self.assertEqual(sink.ids(), [entry["id"]])

    def test_stopped(self) -> None:
        """A relay that is stopped and started again loses nothing and sends nothing twice."""
        with tempfile.TemporaryDirectory() as folder:
            sink = Sink(self, "-w", "1")
            with running(folder=Path(folder)) as relay:
                add_route(relay, "out", smarthost(sink.port))
                ids = [self.send(relay, "out", number) for number in range(20)]
                until(lambda: len(sink.ids()) >= 3, "some came")
            with running(folder=Path(folder)) as relay:
                until(lambda: {status(relay, id) for id in ids} == {"delivered"}, "all are delivered")
            self.assertEqual(sink.ids(), sorted(ids))

    def test_killed(self) -> None:
        """After kill -9 under load every message arrives; only those in hand may arrive twice, as the same message."""
        lanes = 5
        with tempfile.TemporaryDirectory() as folder:
            sink, ids = Sink(self, "-W", ".:1:30"), []
            for _ in range(3):
                relay = start(Path(folder))
                relay.wait_for(r'#info\] ready$|"message": "ready"')
                if not ids:
                    add_route(relay, "out", smarthost(sink.port, concurrency=lanes))
                before = len(sink.ids())
                ids += [self.send(relay, "out", number) for number in range(20)]
                until(lambda before=before: len(sink.ids()) > before + 5, "some came")  # type: ignore[misc]
                os.kill(relay.pid, signal.SIGKILL)
                relay.wait()
            with running(folder=Path(folder)) as last:
                until(lambda: {status(last, id) for id in ids} == {"delivered"}, "all are delivered")
            came = sink.ids()
            self.assertEqual(set(came), set(ids))
            self.assertLessEqual(len(came) - len(ids), 3 * lanes)


class SecureTests(SynchronousTestCase):
    """A smarthost with STARTTLS and AUTH: another relay, with a certificate of its own."""

    def test_verified(self) -> None:
        """With its certificate among the authorities it gets the message over TLS; without, or with a wrong
        password, it gets nothing, and the message waits."""
        with running() as far, running(embedded_retry_first=600) as near:
            pem = far.certificate.read_text()
            key = far.api_key
            secure = {"tls": "starttls", "user": "api"}
            add_route(near, "good", smarthost(far.port, authorities=pem, password=key, **secure))
            add_route(near, "unknown", smarthost(far.port, password=key, **secure))
            add_route(near, "wrong", smarthost(far.port, authorities=pem, password="x" * 40, **secure))
            ids = {
                route: ask(near, "send", {**MESSAGE, "route": route})["id"] for route in ("good", "unknown", "wrong")
            }
            until(lambda: status(near, ids["good"]) == "delivered", "it is delivered")
            until(lambda: "deferred" == status(near, ids["unknown"]) == status(near, ids["wrong"]), "the others wait")
            answers = {route: ask(near, f"log/{id}")["answer"] for route, id in ids.items()}
            self.assertIn("250 Ok: queued as", answers["good"])
            self.assertIn("TLS: certificate verify failed", answers["unknown"])
            self.assertIn("535", answers["wrong"])
            (message,) = far.messages()
            self.assertEqual((message["to"], message["returnpath"]), (MESSAGE["to"], MESSAGE["returnpath"]))
            self.assertNotIn(key, near.output)


class SharedTests(SynchronousTestCase):
    """Two relays with one PostgreSQL."""

    def test_shared(self) -> None:
        """No message is sent twice while both work; those that one had in hand when it was killed are taken over."""
        url, sink = postgresql.new_database(self), Sink(self, "-w", "1")
        options: dict[str, Any] = {"embedded_database": url, "embedded_lease": 3}
        one, other = (tempfile.TemporaryDirectory() for _ in range(2))
        self.addCleanup(one.cleanup)
        self.addCleanup(other.cleanup)
        data = Path(other.name) / "data"
        with running(folder=Path(one.name), **options) as first:
            data.mkdir(mode=0o700)
            shutil.copy(first.data / "platform.key", data)
            second = start(Path(other.name), **options)
            second.wait_for(r'#info\] ready$|"message": "ready"')
            add_route(first, "out", smarthost(sink.port, concurrency=4), url)
            ids = [ask(first, "send", {**MESSAGE, "route": "out"})["id"] for _ in range(60)]
            until(lambda: len(sink.ids()) > 20, "some came")
            delivered = re.compile(r"delivered [0-9A-Z]{16} ")
            self.assertTrue(delivered.search(second.output), "the second relay had no part in it")
            os.kill(second.pid, signal.SIGKILL)
            second.wait()
            until(lambda: {status(first, id) for id in ids} == {"delivered"}, "all are delivered")
        came = sink.ids()
        self.assertEqual(set(came), set(ids))
        self.assertLessEqual(len(came) - len(ids), 4)
