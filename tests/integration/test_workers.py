"""A relay of several processes: one port, one spool, one admin endpoint, and no client that notices when one goes."""

from __future__ import annotations

import json
import os
import re
import signal
import smtplib
import socket
import ssl
import threading
import urllib.request
from pathlib import Path

from relay.operate import tls

from . import support
from .support import ANY, PATIENCE, Relay, running
from .test_crash import KillTests
from .test_daemon import FolderCase, client, message, one_line
from .test_spool_relay import until


def counted(relay: Relay, name: str) -> float:
    """The value of a metric without labels, or with the given ones."""
    found = re.search(rf"^smtp_relay_{re.escape(name)} (\S+)$", relay.get("/metrics")[1], re.MULTILINE)
    return float(found[1]) if found else 0.0


def ready(relay: Relay, number: int = 2) -> bool:
    """Whether so many workers take connections."""
    return counted(relay, "workers") == number


class Greeted(threading.Thread):
    """Connects again and again, and notes what is not greeted.

    :ivar connections: how many there were.
    :ivar problems: what went wrong.
    """

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.connections = 0
        self.problems: list[str] = []
        self._port = port
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.is_set():
            try:
                with socket.create_connection(("127.0.0.1", self._port), PATIENCE) as connection:
                    said = connection.recv(100)
                    connection.sendall(b"QUIT\r\n")
                    said += connection.recv(100)
            except OSError as error:
                self.problems.append(str(error))
            else:
                self.connections += 1
                if not said.startswith(b"220 "):
                    self.problems.append(repr(said))

    def stop(self) -> None:
        self._over.set()
        self.join(PATIENCE)


class Workers(FolderCase):
    """Two workers."""

    def test_mail(self) -> None:
        """Messages on many connections all arrive at the one embedded platform, and the metrics count each once."""
        with running(workers=2) as relay:
            self.assertEqual(len(relay.workers), 2)
            for number in range(20):
                with client(relay) as session:
                    session.send_message(message(f"{number}"))
            self.assertEqual({each["subject"] for each in relay.messages()}, {f"{number}" for number in range(20)})
            self.assertEqual(counted(relay, 'messages_total{reason="",result="accepted"}'), 20)
            self.assertEqual(counted(relay, "sessions_total"), 20)
            self.assertEqual(counted(relay, "workers"), 2)
            self.assertEqual(relay.get("/readyz")[0], 200)
            line = relay.wait_for(r"\[worker [12] relay\.operate\.log#info\] message ")[0]
            self.assertIn("verdict=", line + relay.output)
            for pid in (relay.pid, *relay.workers):
                words = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
                self.assertNotIn(relay.api_key.encode(), words)
        self.assertNotIn("Traceback", relay.output)

    def test_key_reset(self) -> None:
        """A key that is reset at the embedded platform passes at no worker any more, although each knew it."""
        with running(workers=2, auth_delay=0) as relay:
            key = relay.api_key
            for _ in range(10):
                client(relay).quit()
            url = f"http://127.0.0.1:{relay.dashboard}/api/reset/apikey"
            headers = {"X-Auth-APIKey": key, "Content-Type": "application/json"}
            request = urllib.request.Request(url, b"{}", headers, method="POST")
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                self.assertEqual(answer.status, 200)
            codes = [self.sign_in(relay, key) for _ in range(10)]
            self.assertEqual(codes, [535] * 10)

    def sign_in(self, relay: Relay, key: str) -> int:
        """The code of the answer to AUTH."""
        with client(relay, login=False) as session:
            try:
                return session.login("anyone", key)[0]
            except smtplib.SMTPAuthenticationError as error:
                return error.smtp_code

    def test_json_file(self) -> None:
        """In a log file of JSON lines the workers' lines are the relay's, and name their worker."""
        path = self.folder / "relay.log"
        command = (support.TWISTD[0], "-n", "--pidfile=", f"--logfile={path}", "smtp-relay")
        port = free_port()
        relay = support.start(
            self.folder, command=command, listen=(f"tcp:{port}:interface=127.0.0.1",), log_format="json", workers=2
        )
        try:
            until(lambda: path.exists() and '"ready"' in path.read_text())
            key = relay.api_key
            session = smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE)
            session.login("x", key)
            session.send_message(message())
            session.quit()
            until(lambda: '"message": "message ' in path.read_text())
        finally:
            self.assertEqual(relay.stop(), 0)
        self.assertEqual(relay.output, "")
        events = [json.loads(line) for line in path.read_text().splitlines()]
        (sent,) = [event for event in events if event["logger"] == "relay.operate.log"]
        self.assertEqual((sent["result"], sent["recipient"]), ("accepted", "bob@example.com"))
        self.assertIn(sent["worker"], (1, 2))

    def test_killed(self) -> None:
        """One that is killed is replaced, the other serves meanwhile, and no counter goes back."""
        with running(workers=2) as relay:
            with client(relay) as session:
                session.send_message(message())
            before = counted(relay, 'messages_total{reason="",result="accepted"}')
            for victim in relay.workers:
                os.kill(victim, signal.SIGKILL)
                with client(relay) as session:
                    session.send_message(message())
                until(lambda: ready(relay))
                self.assertNotIn(victim, relay.workers)
            relay.wait_for(r"worker \d has ended by itself \(signal 9\)")
            self.assertEqual(counted(relay, 'messages_total{reason="",result="accepted"}'), before + 2)
            self.assertEqual(counted(relay, "worker_restarts_total"), 2)

    def test_terminated(self) -> None:
        """A worker that gets SIGTERM ends in order and is replaced."""
        with running(workers=2) as relay:
            os.kill(relay.workers[0], signal.SIGTERM)
            relay.wait_for(r"worker \d has ended by itself \(exit code 0\)")
            until(lambda: ready(relay))

    def test_parent_killed(self) -> None:
        """Without the parent the workers end by themselves, and let go of port and spool."""
        relay = support.start(self.folder, workers=2)
        relay.wait_for(r"#info\] ready$")
        workers = relay.workers
        relay.process.kill()
        relay.wait()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
        with running(folder=self.folder, workers=2, listen=(f"tcp:{relay.port}:interface=127.0.0.1",)) as again:
            client(again).quit()

    def test_busy_port(self) -> None:
        """A busy port ends the start with one line and exit code 1, and no worker was started."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            endpoint = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
            code, output = support.fails(listen=(endpoint,), workers=2)
        self.assertEqual(code, 1)
        self.assertEqual(one_line(self, output), f"cannot listen on {endpoint} (--listen): Address already in use")

    def test_unix_socket(self) -> None:
        """A UNIX socket outlives a worker."""
        path = self.folder / "relay.sock"
        with running(listen=(ANY, f"unix:{path}"), workers=2) as relay:
            mark = relay.mark
            relay.signal(signal.SIGHUP)
            relay.wait_for("all workers have been replaced", mark)
            with socket.socket(socket.AF_UNIX) as local:
                local.connect(str(path))
                self.assertTrue(local.recv(1024).startswith(b"220 "))
        self.assertFalse(path.exists())


class Hup(FolderCase):
    """SIGHUP."""

    def test_under_load(self) -> None:
        """No connection is refused while the workers are replaced; then certificate and configuration are new."""
        certificate, private_key = self.pair("old.example.com")
        file = self.folder / "relay.toml"
        file.write_text("workers = 2\n[limits]\nmessage_size = 100000\n")
        options = ("--config", str(file), "--certificate", certificate, "--private-key", private_key)
        with running(*options) as relay:
            self.assertEqual(self.session(relay, certificate, "old.example.com").esmtp_features["size"], "100000")
            staying = self.session(relay, certificate, "old.example.com")
            for one, other in zip(self.pair("new.example.com"), (certificate, private_key), strict=True):
                os.replace(one, other)
            file.write_text('workers = 3\nadmin = "tcp:1"\n[limits]\nmessage_size = 200000\n')
            before = relay.workers
            load = [Greeted(relay.port) for _ in range(3)]
            for each in load:
                each.start()
            relay.signal(signal.SIGHUP)
            relay.wait_for("all workers have been replaced")
            for each in load:
                each.stop()
            self.assertEqual([problem for each in load for problem in each.problems], [])
            self.assertGreater(min(each.connections for each in load), 0)
            for _ in range(4):
                session = self.session(relay, certificate, "new.example.com")
                self.assertEqual(session.esmtp_features["size"], "200000")
                session.quit()
            self.assertIn("workers is other than it was, and is taken over by a new start only", relay.output)
            # A session that was there goes on, and its worker ends with it.
            self.assertEqual(staying.noop()[0], 250)
            staying.quit()
            until(lambda: len(relay.workers) == 2)
            self.assertEqual(set(relay.workers) & set(before), set())
        self.assertNotIn("Traceback", relay.output)

    def test_wrong(self) -> None:
        """A configuration that is wrong, told in full, leaves all as they are."""
        file = self.folder / "relay.toml"
        file.write_text("workers = 2\n")
        with running("--config", str(file)) as relay:
            before = relay.workers
            file.write_text('bakend = "x"\n[limits]\nidle = "x"\n')
            relay.signal(signal.SIGHUP)
            relay.wait_for("configuration not loaded, the old one stays: .*bakend: unknown key")
            relay.wait_for("configuration not loaded, the old one stays: .*limits.idle")
            client(relay).quit()
            self.assertEqual(relay.workers, before)

    def pair(self, name: str) -> tuple[str, str]:
        (self.folder / name).mkdir()
        return tls.make(str(self.folder / name), name)

    def session(self, relay: Relay, certificate: str, name: str) -> smtplib.SMTP:
        session = smtplib.SMTP(timeout=PATIENCE)
        session.connect("127.0.0.1", relay.port)
        session._host = name  # what smtplib checks the certificate against
        session.starttls(context=ssl.create_default_context(cafile=certificate))
        session.ehlo()
        return session


class Kills(KillTests):
    """kill -9 of workers under load, with the accounting of benchmarks/crash.py."""

    def test_kills(self) -> None:
        """After 25 kills of one worker each every message with a 250 is at the platform exactly once."""
        self.kill("--workers", "2")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


del KillTests  # or it would run here once more
