"""The relay as a process: what an operator starts, sees, reloads and stops."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import shutil
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from pathlib import Path
from unittest import skipUnless

from twisted.trial.unittest import SynchronousTestCase

from relay.operate import tls

from . import platform, support
from .support import ANY, PATIENCE, SMTP_RELAY, TWISTD, Relay, fails, running

ROOT = os.geteuid() == 0
NOBODY = 65534

#: A process of a user without any rights.
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all", "--")


def client(relay: Relay, port: int = 0, *, login: bool = True) -> smtplib.SMTP:
    """A session over STARTTLS that trusts the relay's certificate, signed in."""
    session = smtplib.SMTP("127.0.0.1", port or relay.port, timeout=PATIENCE)
    session.starttls(context=ssl.create_default_context(cafile=str(relay.certificate)))
    session.ehlo()
    if login:
        session.login("anyone", relay.api_key)
    return session


def message(subject: str = "Hello") -> EmailMessage:
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = "Ann <ann@example.com>", "bob@example.com", subject
    made.set_content("<p>Hello</p>", subtype="html")
    return made


def one_line(case: SynchronousTestCase, output: str) -> str:
    """The one line that says what is wrong; nothing else is an error, and there is no traceback."""
    case.assertNotIn("Traceback", output)
    (line,) = [line for line in output.splitlines() if "#critical]" in line]
    return line.partition("] ")[2]


class FolderCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)


class FirstMessage(FolderCase):
    def test_message(self) -> None:
        """A message over STARTTLS and AUTH is answered 250 with its id, and the backend has it; no log has the key."""
        with running() as relay:
            with client(relay) as session:
                session.mail("ann@example.com")
                session.rcpt("bob@example.com")
                code, text = session.data(message().as_bytes())
            self.assertEqual(code, 250)
            self.assertRegex(text, rb"^Ok: queued as [A-Z0-9]+$")
            (stored,) = relay.messages()
            self.assertEqual((stored["to"], stored["subject"]), ("bob@example.com", "Hello"))
            self.assertEqual(stored["request_id"], text.split()[-1].decode())
            line = relay.wait_for(rf"message {stored['request_id']} (.*)")[1]
            for part in (
                "account=Local",
                "peer=127.0.0.1",
                "recipient=bob@example.com",
                "tag=untagged",
                "route=capture",
            ):
                self.assertIn(part, line)
            self.assertRegex(line, r' ms=[\d.]+ .*verdict="250 Ok: queued as')
            self.assertRaises(smtplib.SMTPAuthenticationError, self.sign_in, relay, "canary-9876543210")
            key = relay.api_key
            self.assertEqual(os.stat(relay.data / "api-key").st_mode & 0o777, 0o600)
        self.assertNotIn(key, relay.output)
        self.assertNotIn("canary-9876543210", relay.output)
        self.assertNotIn("Traceback", relay.output)

    def sign_in(self, relay: Relay, key: str) -> None:
        with client(relay, login=False) as session:
            session.login("anyone", key)

    def test_swaks_line(self) -> None:
        """The swaks line of the log, pasted into a shell, is answered 250 with an id."""
        with running() as relay:
            line = relay.wait_for("send a first message: (.*)")[1]
            ran = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=PATIENCE)
            self.assertRegex(ran.stdout, r"<~  250 Ok: queued as [A-Z0-9]+\n", ran.stdout + ran.stderr)
            self.assertEqual(ran.returncode, 0)
            self.assertEqual(relay.messages()[0]["subject"], "Hello")

    def test_admin(self) -> None:
        """/healthz and /readyz are 200, and /metrics counts the message with its id as exemplar."""
        with running() as relay:
            with client(relay) as session:
                session.send_message(message())
                self.assertEqual(relay.get("/healthz")[0], 200)
                self.assertEqual(relay.get("/readyz")[0], 200)
                plain = relay.get("/metrics")[1]
                self.assertIn('smtp_relay_messages_total{reason="",result="accepted"} 1.0', plain)
                self.assertIn("smtp_relay_sessions_open 1.0", plain)
                self.assertIn('smtp_relay_backend_answers_total{status="200"}', plain)
                rich = relay.get("/metrics", {"Accept": "application/openmetrics-text"})[1]
            self.assertIn(f'message_id="{relay.messages()[0]["request_id"]}"', rich)

    def test_platform_that_is_away(self) -> None:
        """With a platform that does not answer the relay starts, /readyz says so, and AUTH is answered 454."""
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
            with running(backend=f"http://127.0.0.1:{port}", dashboard="") as relay:
                self.assertEqual(relay.get("/readyz")[0], 503)
                self.assertIn("platform", relay.get("/readyz")[1])
                with client(relay, login=False) as session:
                    error = self.assertRaises(smtplib.SMTPAuthenticationError, session.login, "a", "key-0123456789")
                self.assertEqual(error.smtp_code, 454)

    def test_kept(self) -> None:
        """A restart keeps the API key, the certificate and the messages."""
        with running(folder=self.folder) as relay:
            with client(relay) as session:
                session.send_message(message())
            before = relay.api_key, relay.certificate.read_bytes(), relay.messages()
            self.assertEqual(os.stat(relay.data).st_mode & 0o777, 0o700)
        with running(folder=self.folder) as relay:
            self.assertEqual((relay.api_key, relay.certificate.read_bytes(), relay.messages()), before)


class KeyLeaks(FolderCase):
    KEY = "canary-0123456789abcdef"

    def answer(self, post: platform.Post) -> tuple[int, object]:
        """What the recipient's name asks for."""
        kind = post.fields["to"].partition("@")[0]
        if kind == "slow":
            self.slow.wait(PATIENCE)
        error = {"title": "Error", "description": f"your key {self.KEY} is broken"}
        return {"bob": (200, {"result": "ok"}), "slow": (200, {}), "refused": (400, error)}.get(kind, (500, error))

    def test_canary(self) -> None:
        """A key leaves no trace in logs, state or metrics: not by success, refusal, bad base64, 5xx nor a timeout."""
        self.slow = threading.Event()
        self.addCleanup(self.slow.set)
        with platform.running(self.KEY) as there:
            there.answer = self.answer
            with running(backend=there.url, dashboard="", folder=self.folder, platform_timeout="0.5") as relay:
                codes = [self.send(relay, recipient) for recipient in ("bob", "refused", "broken", "slow")]
                self.assertEqual(codes, [250, 554, 250, 250])
                with client(relay, login=False) as session:
                    for word in (f"AUTH PLAIN ={self.KEY}", f"AUTH {self.KEY}", f"{self.KEY} x", f"MAIL {self.KEY}"):
                        self.assertGreaterEqual(session.docmd(word)[0], 500)
                with client(relay, login=False) as session:
                    error = self.assertRaises(smtplib.SMTPAuthenticationError, session.login, "x", f"{self.KEY}-wrong")
                    self.assertEqual(error.smtp_code, 535)
                pages = relay.get("/metrics")[1] + relay.get("/readyz")[1]
        self.assertEqual(len(there.posts), 4)
        state = [each.read_bytes() for each in self.folder.rglob("*") if each.is_file()]
        for text in (relay.output, pages, *(each.decode("latin-1") for each in state)):
            self.assertNotIn(self.KEY, text)

    def send(self, relay: Relay, name: str) -> int:
        """The code of the reply to a message that brings the key in its header."""
        sent = message()
        sent["X-Auth-APIKey"] = self.KEY
        with client(relay, login=False) as session:
            session.mail("ann@example.com")
            session.rcpt(f"{name}@example.com")
            code, text = session.data(sent.as_bytes())
        self.assertNotIn(self.KEY, text.decode())
        return code


class Endpoints(FolderCase):
    def test_several(self) -> None:
        """--listen may be given more than once, with UNIX sockets too."""
        path = self.folder / "relay.sock"
        with running(listen=(ANY, ANY, f"unix:{path}")) as relay:
            self.assertEqual(len(set(relay.ports)), 2)
            for port in relay.ports:
                client(relay, port).quit()
            with socket.socket(socket.AF_UNIX) as local:
                local.connect(str(path))
                self.assertTrue(local.recv(1024).startswith(b"220 "))

    def test_proxy(self) -> None:
        """Behind haproxy: the client's address is the PROXY header's, for the TLS policy too; without one it closes."""
        with running(listen=(f"haproxy:{ANY}",)) as relay:
            session = smtplib.SMTP(timeout=PATIENCE)
            session._host = "127.0.0.1"
            session.sock = socket.create_connection(("127.0.0.1", relay.port), PATIENCE)
            session.sock.sendall(b"PROXY TCP4 192.0.2.77 198.51.100.1 40000 587\r\n")
            session.getreply()
            self.assertEqual(session.mail("ann@example.com")[0], 503)
            session.ehlo()
            self.assertFalse(session.has_extn("auth"))
            self.assertEqual(session.mail("ann@example.com")[0], 530)
            session.starttls(context=ssl.create_default_context(cafile=str(relay.certificate)))
            session.login("anyone", relay.api_key)
            session.send_message(message())
            session.quit()
            self.assertIn("peer=192.0.2.77", relay.wait_for("message .*")[0])
            with socket.create_connection(("127.0.0.1", relay.port), PATIENCE) as bare:
                bare.sendall(b"EHLO x\r\n")
                self.assertEqual(read_to_end(bare), b"")

    def test_proxy_from(self) -> None:
        """A peer that is not in proxy_from is closed, header or not."""
        with running(listen=(f"haproxy:{ANY}",), proxy_from="192.0.2.0/24") as relay:
            with socket.create_connection(("127.0.0.1", relay.port), PATIENCE) as bare:
                self.assertEqual(read_to_end(bare, b"PROXY TCP4 192.0.2.77 198.51.100.1 40000 587\r\n"), b"")
            relay.wait_for("connection from 127.0.0.1 closed: it is not in proxy_from")

    def test_systemd(self) -> None:
        """A socket that systemd handed over is listened on."""
        with socket.create_server(("127.0.0.1", 0)) as given:
            port = given.getsockname()[1]
            script = f'exec 3<&{given.fileno()}; LISTEN_FDS=1 LISTEN_FDNAMES=smtp LISTEN_PID=$$ exec "$@"'
            command = ("sh", "-c", script, "sh", *TWISTD)
            given.set_inheritable(True)
            with running(listen=("systemd:domain=INET:index=0",), command=command, inherit=(given.fileno(),)) as relay:
                self.assertEqual(relay.port, port)
                client(relay).quit()


def read_to_end(connection: socket.socket, first: bytes = b"") -> bytes:
    """What comes until the peer closes, a reset counting as that."""
    got = b""
    try:
        if first:
            connection.sendall(first)
        while chunk := connection.recv(4096):
            got += chunk
    except ConnectionError:
        pass
    return got


class Fatal(FolderCase):
    def test_busy_port(self) -> None:
        """A busy port ends the start: exit code 1, one line with endpoint, option and reason, and no pidfile left."""
        pidfile = self.folder / "pid"
        command = (TWISTD[0], "-n", f"--pidfile={pidfile}", "smtp-relay")
        with socket.create_server(("127.0.0.1", 0)) as taken:
            endpoint = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
            for option in ("--listen", "--admin", "--dashboard"):
                options = {"listen": (endpoint,)} if option == "--listen" else {option.strip("-"): endpoint}
                code, output = fails(command=command, **options)
                self.assertEqual(code, 1)
                expected = f"cannot listen on {endpoint} ({option}): Address already in use"
                self.assertEqual(one_line(self, output), expected)
                self.assertFalse(pidfile.exists())

    def test_configuration(self) -> None:
        """A wrong configuration is told in full, on twistd and on the console script; exit code 1."""
        (self.folder / "relay.toml").write_text('bakend = "x"\n[limits]\nidle = "x"\n')
        options = {"limits_recipients": "none", "nope": "1"}
        for command in (TWISTD, (SMTP_RELAY, "run"), (SMTP_RELAY, "check-config")):
            with self.subTest(command[0]):
                code, output = fails(f"--config={self.folder}/relay.toml", command=command, admin="tcp:x", **options)
                self.assertEqual(code, 1)
                self.assertNotIn("Traceback", output)
                problems = output.partition("the configuration is wrong:\n")[2].splitlines()
                self.assertEqual(len(problems), 5, output)

    def test_certificate(self) -> None:
        """A certificate without its key, or with another's, ends the start with a line for it."""
        paths = []
        for name in ("a", "b"):
            (self.folder / name).mkdir()
            paths.append(tls.make(str(self.folder / name), "localhost"))
        code, output = fails("--certificate", paths[0][0], "--private-key", paths[1][1])
        self.assertEqual((code, "is not the key of" in output, "Traceback" in output), (1, True, False), output)

    def test_data_directory(self) -> None:
        """A data directory that cannot be made ends the start with one line."""
        (self.folder / "file").write_text("")
        code, output = fails("--data", str(self.folder / "file" / "data"))
        self.assertEqual(code, 1)
        self.assertIn("Not a directory", one_line(self, output))

    def test_daemon(self) -> None:
        """Without -n the parent exits with 1 and leaves no pidfile when the daemon cannot start; else 0."""
        options = (f"--pidfile={self.folder}/pid", f"--logfile={self.folder}/daemon.log", "smtp-relay")
        command = (TWISTD[0], *options, f"--data={self.folder}/data", f"--admin={ANY}", f"--dashboard={ANY}")
        with socket.create_server(("127.0.0.1", 0)) as taken:
            failing = (*command, f"--listen=tcp:{taken.getsockname()[1]}:interface=127.0.0.1")
            ran = subprocess.run(failing, capture_output=True, text=True, cwd=self.folder, timeout=PATIENCE)
        self.assertEqual((ran.returncode, "Traceback" in ran.stderr), (1, False), ran.stderr)
        self.assertIn("cannot listen on", ran.stderr)
        self.assertFalse((self.folder / "pid").exists())
        ran = subprocess.run((*command, f"--listen={ANY}"), capture_output=True, text=True, timeout=PATIENCE)
        self.assertEqual(ran.returncode, 0, ran.stderr)
        wait_until(lambda: "#info] ready" in (self.folder / "daemon.log").read_text(), "it is ready")
        os.kill(int((self.folder / "pid").read_text()), signal.SIGTERM)
        with gone(self.folder / "pid"):
            log = (self.folder / "daemon.log").read_text()
        self.assertIn("the API key is in", log)


@contextmanager
def gone(path: Path) -> Iterator[None]:
    """Wait until a file is no more."""
    wait_until(lambda: not path.exists(), f"{path} is gone")
    yield


def wait_until(condition: Callable[[], bool], words: str) -> None:
    """Wait until *condition* holds.

    :param words: what holds then, for an error.
    """
    waiting = threading.Event()
    for _ in range(int(PATIENCE * 100)):
        if condition():
            return
        waiting.wait(0.01)
    raise AssertionError(f"it does not happen that {words}")


class Stopping(FolderCase):
    def test_drain(self) -> None:
        """SIGTERM: idle sessions get 421, a message in DATA is finished with 250, nobody new is taken; exit code 0."""
        with running() as relay:
            idle, busy = client(relay), client(relay)
            busy.mail("ann@example.com")
            busy.rcpt("bob@example.com")
            self.assertEqual(busy.docmd("DATA")[0], 354)
            busy.send(b"From: ann@example.com\r\nSubject: in flight\r\n\r\nhalf")
            relay.signal(signal.SIGTERM)
            self.assertEqual(idle.getreply()[0], 421)
            self.assertRaises(OSError, socket.create_connection, ("127.0.0.1", relay.port), PATIENCE)
            self.assertEqual(relay.get("/readyz")[0], 503)
            self.assertEqual(relay.get("/healthz")[0], 200)
            busy.send(b" of it\r\n.\r\n")
            code, text = busy.getreply()
            self.assertEqual((code, text[:14]), (250, b"Ok: queued as "))
            idle.close()
            busy.close()
            self.assertEqual(relay.wait(), 0)
        self.assertIn(text.split()[-1].decode(), relay.output)
        self.assertNotIn("Traceback", relay.output)

    def test_deadline(self) -> None:
        """A client that never ends its message does not keep the relay from ending."""
        with running(limits_drain="0.2") as relay:
            busy = client(relay)
            busy.mail("ann@example.com")
            busy.rcpt("bob@example.com")
            busy.docmd("DATA")
            self.assertEqual(relay.stop(), 0)
            busy.close()

    def test_signals(self) -> None:
        """SIGINT stops in the same way; a second SIGTERM changes nothing."""
        with running() as relay:
            relay.signal(signal.SIGINT)
            self.assertEqual(relay.wait(), 0)
        with running() as relay:
            busy = client(relay)
            busy.mail("ann@example.com")
            busy.rcpt("bob@example.com")
            busy.docmd("DATA")
            relay.signal(signal.SIGTERM)
            relay.wait_for("stopping")
            relay.signal(signal.SIGTERM)
            busy.send(message().as_bytes().replace(b"\n", b"\r\n") + b"\r\n.\r\n")
            self.assertEqual(busy.getreply()[0], 250)
            busy.close()
            self.assertEqual(relay.wait(), 0)
        self.assertNotIn("Traceback", relay.output)


class Reloading(FolderCase):
    def test_certificate(self) -> None:
        """After SIGHUP new sessions get the new certificate and old ones go on; a bad pair changes nothing."""
        paths = self.pair("old.example.com")
        with running("--certificate", paths[0], "--private-key", paths[1]) as relay:
            old = self.session(relay, paths[0], "old.example.com")
            new = self.pair("new.example.com")
            for one, other in zip(new, paths, strict=True):
                os.replace(one, other)
            relay.signal(signal.SIGHUP)
            relay.wait_for("certificate loaded")
            self.session(relay, paths[0], "new.example.com").quit()
            self.assertEqual(old.noop()[0], 250)
            old.quit()
            mark = relay.mark
            Path(paths[1]).write_text("nonsense")
            relay.signal(signal.SIGHUP)
            relay.wait_for("certificate not loaded, the old one stays: private_key .* holds no private key", mark)
            self.session(relay, paths[0], "new.example.com").quit()

    def pair(self, name: str) -> tuple[str, str]:
        (self.folder / name).mkdir()
        return tls.make(str(self.folder / name), name)

    def session(self, relay: Relay, certificate: str, name: str) -> smtplib.SMTP:
        session = smtplib.SMTP(timeout=PATIENCE)
        session.connect("127.0.0.1", relay.port)
        session._host = name  # what smtplib checks the certificate against
        session.starttls(context=ssl.create_default_context(cafile=certificate))
        return session


class Logs(FolderCase):
    def test_json(self) -> None:
        """With log_format = "json" every line is an object, with the message's fields in it."""
        with running_json() as relay:
            with client(relay) as session:
                session.send_message(message())
            relay.wait_for('"message": "message ')
        events = [json.loads(line) for line in relay.output.splitlines()]
        (sent,) = [event for event in events if event["logger"] == "relay.operate.log"]
        self.assertEqual((sent["recipient"], sent["result"], sent["route"]), ("bob@example.com", "accepted", "capture"))
        self.assertEqual(sent["verdict"], f"250 Ok: queued as {sent['id']}")

    def test_logfile(self) -> None:
        """twistd's --logfile works with both formats."""
        for form in ("text", "json"):
            path = self.folder / f"{form}.log"
            command = (TWISTD[0], "-n", "--pidfile=", f"--logfile={path}", "smtp-relay")
            relay = support.start(self.folder, command=command, log_format=form)
            try:
                with appears(path, "ready"):
                    pass
            finally:
                self.assertEqual(relay.stop(), 0)
            self.assertEqual(relay.output, "")
            lines = path.read_text().splitlines()
            self.assertEqual(all(line.startswith("{") for line in lines), form == "json")

    def test_encoding(self) -> None:
        """Where the locale is not UTF-8 no line of the log is lost."""
        with running(command=("env", "PYTHONIOENCODING=ascii", *TWISTD)) as relay:
            session = client(relay, login=False)
            self.assertRaises(smtplib.SMTPAuthenticationError, session.login, "a", "wrong-key-0123456789")
            relay.wait_for(r"API key wron\\u2026 from 127.0.0.1 refused")
            session.close()

    def test_terminal(self) -> None:
        """At a terminal the banner is shown, with the API key and a swaks line that works as it stands."""
        master, slave = pty.openpty()
        options = ("--data", str(self.folder / "data"), "--listen", ANY, "--admin", ANY, "--dashboard", ANY)
        environment = support.environment({})
        process = subprocess.Popen([*TWISTD, *options], stdin=slave, stdout=slave, stderr=slave, env=environment)
        os.close(slave)
        try:
            text = read_until(master, "#info] ready")
        finally:
            process.terminate()
            drain = threading.Thread(target=read_until, args=(master, "Server Shut Down"))
            drain.start()
            process.wait(PATIENCE)
            drain.join(PATIENCE)
            os.close(master)
        key = (self.folder / "data" / "api-key").read_text().strip()
        banner = text.replace("\r\n", "\n").partition("The relay is ready.")[2]
        self.assertRegex(banner, rf"API key +{key}\n")
        line = re.search(r"^  (swaks .*)$", banner, re.MULTILINE)[1]
        self.assertIn(key, shlex.split(line))
        self.assertEqual(text.count(key), 2)


def running_json():
    """A relay that logs JSON; it is ready when it says so in that form."""
    return running(log_format="json")


@contextmanager
def appears(path: Path, text: str) -> Iterator[None]:
    """Wait until a file has *text*."""
    waiting = threading.Event()
    for _ in range(int(PATIENCE * 100)):
        if path.exists() and text in path.read_text():
            break
        waiting.wait(0.01)
    else:
        raise AssertionError(f"no {text!r} in {path}")
    yield


def read_until(terminal: int, text: str) -> str:
    """What a terminal shows until *text* is there, or the program has ended."""
    shown = ""
    while text not in shown:
        try:
            shown += os.read(terminal, 4096).decode()
        except OSError:  # the program has ended
            break
    return shown


class OpenFiles(FolderCase):
    def test_limit(self) -> None:
        """A soft limit of open files that is too low for the connections is raised."""
        command = ("sh", "-c", 'ulimit -Sn 256 && exec "$@"', "sh", *TWISTD)
        with running(command=command, limits_connections="200") as relay:
            limits = Path(f"/proc/{relay.pid}/limits").read_text()
        self.assertEqual(re.search(r"Max open files +(\d+)", limits)[1], "728")


@skipUnless(ROOT, "only root can become another user")
class Users(FolderCase):
    def setUp(self) -> None:
        super().setUp()
        os.chown(self.folder, NOBODY, NOBODY)

    def test_ordinary_user(self) -> None:
        """An ordinary user's relay starts and takes a message."""
        with running(folder=self.folder, command=(*AS_NOBODY, *TWISTD)) as relay:
            with client(relay) as session:
                session.send_message(message())
            self.assertEqual(len(relay.messages()), 1)
            self.assertEqual(os.stat(relay.data / "api-key").st_uid, NOBODY)

    def test_pidfile(self) -> None:
        """In a folder that the user cannot write to, twistd's pidfile is told of in one line."""
        command = (*AS_NOBODY, TWISTD[0], "-n", "smtp-relay", "--data", str(self.folder / "data"))
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o755)
            ran = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=PATIENCE)
        self.assertEqual((ran.returncode, ran.stdout), (1, ""), ran.stdout)
        said = (
            f"smtp-relay: twistd cannot write {folder}/twistd.pid: give it another place with twistd --pidfile=PATH\n"
        )
        self.assertEqual(ran.stderr, said)

    def test_default_ports(self) -> None:
        """With the default ports 587 is left out with a warning where it needs root; the others work."""
        for first in ("1024", "0"):
            with self.subTest(first), running_alone(self.folder, first, AS_NOBODY) as relay:
                self.assertEqual(relay.ports, [2525, 8025] if first == "1024" else [587, 2525, 8025])
                self.assertEqual("tcp:587 is left out: this port needs root" in relay.output, first == "1024")
                line = relay.wait_for("send a first message: (.*)")[1]
                self.assertIn(f"127.0.0.1:{relay.ports[0]} ", line)
                inside = ("nsenter", f"--net=/proc/{relay.pid}/ns/net", "sh", "-c", line)
                ran = subprocess.run(inside, capture_output=True, text=True, timeout=PATIENCE)
                self.assertIn("250 Ok: queued as", ran.stdout, ran.stderr)

    def test_root(self) -> None:
        """Root's relay listens on all three default ports, and on the default admin and dashboard ports."""
        with running_alone(self.folder, "1024", ()) as relay:
            self.assertEqual(relay.ports, [587, 2525, 8025])
            self.assertEqual((relay.admin, relay.dashboard), (9587, 8080))

    def test_asked_for(self) -> None:
        """A port that needs root and was asked for is fatal."""
        code, output = fails(listen=("tcp:587",), command=(*alone("1024", AS_NOBODY), *TWISTD), folder=self.folder)
        self.assertEqual(code, 1)
        self.assertEqual(one_line(self, output), "cannot listen on tcp:587 (--listen): Permission denied")

    def test_uid(self) -> None:
        """twistd --uid binds as root, and makes the files as the user."""
        there = {"backend": "http://127.0.0.1:1", "dashboard": ""}
        if subprocess.run([*AS_NOBODY, "test", "-r", os.__file__]).returncode:
            there["workers"] = "1"  # which alone do not have to read Python as that user
        command = (TWISTD[0], "-n", "--pidfile=", f"--uid={NOBODY}", f"--gid={NOBODY}", "smtp-relay")
        with running(folder=self.folder, command=(*alone("1024", ()), *command), listen=("tcp:587",), **there) as relay:
            self.assertEqual(relay.ports, [587])
            self.assertEqual({os.stat(each).st_uid for each in (relay.data, *relay.data.iterdir())}, {NOBODY})


def alone(first_port: str, command: tuple[str, ...]) -> tuple[str, ...]:
    """A command in a network of its own, where every port is free and those below *first_port* need root."""
    setting = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
    script = f'ip link set lo up && echo {first_port} >{setting} && exec "$@"'
    return ("unshare", "-n", "sh", "-c", script, "sh", *command)


def running_alone(folder: Path, first_port: str, user: tuple[str, ...]):
    """A relay with its default endpoints."""
    command = (*alone(first_port, user), *TWISTD)
    return running(folder=folder, command=command, listen=(), admin="", dashboard="")


class ConsoleScript(FolderCase):
    def script(self, *words: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [SMTP_RELAY, *words], capture_output=True, text=True, env=support.environment({}), timeout=PATIENCE
        )

    def test_run(self) -> None:
        """smtp-relay run is the same as twistd -n smtp-relay."""
        with running(command=(SMTP_RELAY, "run")) as relay:
            client(relay).quit()
            self.assertEqual(list(relay.log.parent.glob("*.pid")), [])

    def test_send_test(self) -> None:
        """send-test finds the key under --data and shows the reply; what it cannot do it explains."""
        with running() as relay:
            server = ("--server", f"127.0.0.1:{relay.port}")
            to = ("--to", "bob@example.com")
            data = ("--data", str(relay.data))
            ran = self.script("send-test", *server, *to, *data)
            self.assertRegex(ran.stdout, r"^250 Ok: queued as [A-Z0-9]+\n$", ran.stderr)
            self.assertEqual((ran.returncode, relay.messages()[0]["tag"]), (0, "send-test"))
            cafile = ("--cafile", str(relay.certificate))
            self.assertEqual(self.script("send-test", *server, *to, *data, *cafile).returncode, 0)
            ran = self.script("send-test", *server, "--to", "b\u00f6b@example.com", *data)
            self.assertEqual((ran.returncode, relay.messages()[0]["to"]), (0, "b\u00f6b@example.com"), ran.stderr)
            wrong = self.folder / "key"
            wrong.write_text("wrong-key-0123456789")
            for words, said in (
                (("--key-file", str(wrong)), "535 5.7.8 API key not accepted: the API key is not the platform's"),
                (("--to", "bob", *data), "501 5.1.3"),
                (("--to", "bob@example.com\nDATA", *data), "must be one address"),
                (("--key", "schl\u00fcssel"), "must be printable ASCII"),
                (("--key-file", "/nonexistent"), "give the API key with --key-file or --key"),
                (("--server", "127.0.0.1", *data), "HOST:PORT"),
                (("--server", "a..b:25", *data), "is no host name"),
                (("--cafile", "/nonexistent", *data), "--cafile"),
            ):
                ran = self.script("send-test", *server, *to, *words)
                self.assertEqual(ran.returncode, 1)
                self.assertIn(said, ran.stderr)
                self.assertNotIn("Traceback", ran.stderr)
        ran = self.script("send-test", *server, *to, "--key", "x")
        self.assertIn("Connection refused; does the relay run", ran.stderr)

    def test_help(self) -> None:
        """twistd lists the relay, and neither its list nor the options import the service or a reactor."""
        ran = subprocess.run([TWISTD[0], "--help"], capture_output=True, text=True, timeout=PATIENCE)
        self.assertIn("smtp-relay", ran.stdout)
        check = (
            "import sys, relay.tap; relay.tap.Options(); "
            "print({'relay.service', 'sqlalchemy', 'treq', 'OpenSSL', 'twisted.internet.reactor'} & set(sys.modules))"
        )
        ran = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=PATIENCE)
        self.assertEqual(ran.stdout, "set()\n", ran.stderr)
