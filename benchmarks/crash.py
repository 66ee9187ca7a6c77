"""Does every message that got a 250 arrive exactly once, when the relay is killed again and again?

    python benchmarks/crash.py --kills 1000

A relay runs with a spool in a folder of its own, before a platform that is down, slow and wrong in between
(benchmarks/faulty.py), while several clients send without a pause.  kill -9 at a random moment, also while it
starts; then it is started again, N times.  At the end the platform is well, the clients repeat what they have no
verdict for, the spool drains, and what the clients were told is compared with what the platform has:

lost        a recipient of a message with a 250 that is not at the platform: a violation;
twice       a recipient that is there more often than its client caused: a violation.  Whoever repeats a message
            whose verdict went down with the relay may have sent a second message: nobody can have noted the first.
            That is counted, and no violation.  Where the relay lived (the client left before its verdict, or had a
            4xx), and always with X-Transactional-Idempotency-Key, there is one message.  Only who leaves in the
            very instant in which the 250 is on its way to it, a millisecond, is told for all that the relay can see;
            that is counted too, and a violation if there are many;
invented    something at the platform that no client sent, or sent so: a violation.

Exits with 1 on any violation, also on a traceback in the relay's log.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import smtplib
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from attrs import define, field, frozen
from faulty import MOODS, FaultyPlatform, free_port, reset

ROOT = Path(__file__).resolve().parents[1]

KEYS = ("crash-key-one", "crash-key-two", "crash-key-three")

#: Seconds that a start, or an answer, may take before it counts as a defect.
PATIENCE = 60.0

#: Of the clients that leave, most that may go in the very instant in which the verdict is on its way to them (about
#: a millisecond, from the platform's answer to the 250): the relay cannot see that they will not read it.
INSTANTS = 0.1
#: How many that may be in a run that is too short for a share.
FEW_INSTANTS = 5

#: Short times, so that a message is through within seconds once the platform is well.
SETTINGS = {
    "DELIVERY_WAIT": "0.4",
    "PLATFORM_TIMEOUT": "2",
    "SPOOL_RETRY_FIRST": "0.2",
    "SPOOL_RETRY_MAXIMUM": "1",
    "SPOOL_CONCURRENCY": "20",
    "BREAKER_FAILURES": "5",
    "BREAKER_PROBE": "0.2",
    "PLATFORM_RETRY_AFTER_MAXIMUM": "1",
    "AUTH_DELAY": "0",
}

_DEFECT = re.compile(r"Traceback|Unhandled|#critical|Error in Deferred")


# --- what the clients know


@frozen
class Attempt:
    """One try to hand a message over.

    :ivar end: ``"told"``: the 250 was read; ``"refused"``: a 4xx was; ``"left"``: the client closed or reset the
        connection when there was no verdict to be read; ``"lost"``: the relay went.
    :ivar life: the relay's number, if it was the same one at the beginning and the end, else None.
    """

    end: str
    life: int | None


@define
class Sent:
    """A message and what its client knows of it.

    :ivar key: X-Transactional-Idempotency-Key, or ``""``.
    """

    token: str
    recipients: tuple[str, ...]
    api_key: str
    key: str
    body: str
    attempts: list[Attempt] = field(factory=list)

    @property
    def told(self) -> int:
        """How often it got a 250."""
        return sum(each.end == "told" for each in self.attempts)

    @property
    def excused(self) -> int:
        """How many second messages the client may have made itself, because the relay cannot have known."""
        return 0 if self.key else sum(map(_excused, self.attempts, self.attempts[1:]))

    @property
    def left(self) -> int:
        """How often the client left and came back to the same relay."""
        return 0 if self.key else sum(map(_left, self.attempts, self.attempts[1:]))

    def content(self) -> bytes:
        """The message, the same octets each time."""
        headers = ["From: Shop <shop@example.com>", "To: someone@example.org", f"Subject: {self.token}"]
        headers += ["MIME-Version: 1.0", "Content-Type: text/html; charset=utf-8"]
        headers += [f"X-Transactional-Idempotency-Key: {self.key}"] if self.key else []
        return "\r\n".join([*headers, "", self.body, ""]).encode()


def _excused(attempt: Attempt, following: Attempt) -> bool:
    """Whether the message *following* may be another one than *attempt*'s."""
    if attempt.end in ("told", "lost"):
        return True
    # The relay notes that a client has left when it has the platform's answer: unless it was killed before.
    return attempt.end == "left" and not _left(attempt, following)


def _left(attempt: Attempt, following: Attempt) -> bool:
    """Whether the client of *attempt* left a relay that lived on, and *following* met the same one."""
    return attempt.end == "left" and attempt.life is not None and following.life == attempt.life


@define(eq=False)
class Client(threading.Thread):
    """Sends without a pause, and repeats what it has no verdict for.

    :ivar sent: every message that it has tried to send.
    """

    number: int
    relay: Relay
    chance: random.Random
    size: int
    ending: threading.Event = field(factory=threading.Event)
    sent: list[Sent] = field(factory=list)
    open: list[Sent] = field(factory=list)  # without a 250
    problems: list[str] = field(factory=list)

    def __attrs_pre_init__(self) -> None:
        super().__init__(daemon=True)

    def run(self) -> None:
        """Send until :attr:`ending`, then until every message has a 250."""
        while self.open or not self.ending.is_set():
            try:
                self._session()
            except (OSError, smtplib.SMTPException):
                time.sleep(0.02)

    def _session(self) -> None:
        api_key = KEYS[self.number % len(KEYS)]
        with contextlib.closing(smtplib.SMTP(timeout=PATIENCE)) as session:
            session.connect("127.0.0.1", self.relay.port)
            session.ehlo("client")
            session.login("client", api_key)
            for _ in range(self.chance.randint(1, 12)):
                message = self._next(api_key)
                if message is None or not self._hand_over(session, message):
                    return
                time.sleep(self.chance.expovariate(1 / 0.008))
            session.quit()

    def _next(self, api_key: str) -> Sent | None:
        """A message to send: an open one, one that was sent with a key, or a new one; None: there is none left."""
        if self.open and (self.ending.is_set() or self.chance.random() < 0.5):
            return self.chance.choice(self.open)
        if self.ending.is_set():
            return None
        if self.chance.random() < 0.05 and self.sent and self.sent[-1].key:
            return self.sent[-1]
        token = f"{self.number}-{len(self.sent)}"
        recipients = tuple(f"r{each}.{token}@example.org" for each in range(self.chance.choice((1, 1, 1, 2, 5))))
        key = f"order-{token}" if self.chance.random() < 0.2 else ""
        message = Sent(token, recipients, api_key, key, body(token, self.size))
        self.sent.append(message)
        self.open.append(message)
        return message

    def _hand_over(self, session: smtplib.SMTP, message: Sent) -> bool:
        """One attempt; whether the session can go on."""
        life, begun = self.relay.life, False
        end = "lost"
        try:
            if session.mail("shop@example.com")[0] != 250:
                return False
            for recipient in message.recipients:
                if session.rcpt(recipient)[0] != 250:
                    return False
            if session.docmd("DATA")[0] != 354:
                return False
            begun = True
            end = self._data(session, message)
        except (OSError, smtplib.SMTPException):
            end = "lost"
        finally:
            # Before the dot nobody has taken anything.
            if begun:
                message.attempts.append(Attempt(end, life if life == self.relay.life else None))
        if end == "told" and message in self.open:
            self.open.remove(message)
        return end in ("told", "refused") and session.sock is not None

    def _data(self, session: smtplib.SMTP, message: Sent) -> str:
        """Send the content; how the attempt ends."""
        assert session.sock is not None
        session.sock.sendall(message.content() + b".\r\n")
        if not self.ending.is_set() and self.chance.random() < 0.15:
            # At once, or when a message that is taken at once has its verdict: see INSTANTS.
            time.sleep(self.chance.choice((0, self.chance.uniform(0.01, 0.1), self.chance.uniform(0.01, 0.6))))
            return self._leave(session, session.sock)
        code, text = session.getreply()
        if code == 250:
            return "told"
        if not 400 <= code <= 499 or code == 421:
            self.problems.append(f"{message.token}: {code} {text!r}")
        return "refused"

    def _leave(self, session: smtplib.SMTP, connection: socket.socket) -> str:
        """Go without reading, as a client does that has waited long enough."""
        kind = self.chance.choice(("close", "close", "reset", "half"))
        if kind == "half":
            connection.shutdown(socket.SHUT_WR)
            return self._read_to_the_end(connection)
        connection.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            if said := connection.recv(1000):
                return _end_of(said)
        if kind == "reset":
            reset(connection)
        session.close()
        return "left"

    def _read_to_the_end(self, connection: socket.socket) -> str:
        said = b""
        while octets := connection.recv(1000):
            said += octets
        return _end_of(said)


def _end_of(said: bytes) -> str:
    """What the relay said as the end of an attempt."""
    if said.startswith(b"250"):
        return "told"
    return "refused" if said.startswith(b"4") else "lost"


def body(token: str, size: int) -> str:
    """The HTML of a message: another one for each token."""
    line = hashlib.sha256(token.encode()).hexdigest()
    return "<p>" + "\r\n".join([line] * max(size // len(line), 1)) + "</p>"


# --- the relay


@define(eq=False)
class Relay:
    """The relay, as a process that is killed and started again.

    :ivar workers: how many processes take mail; of several one is killed at a time, which the relay replaces.
    :ivar life: how often it, or one of them, was killed.
    """

    folder: Path
    port: int
    admin: int
    backend: str
    workers: int = 1
    chance: random.Random = field(factory=random.Random)
    life: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """What all its lives said."""
        return self.folder / "log"

    def start(self) -> None:
        """Start it; it is not ready yet."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SMTP_RELAY_")}
        given = {f"SMTP_RELAY_{name}": value for name, value in SETTINGS.items()}
        options = ["--data", str(self.folder / "data"), "--backend", self.backend]
        options += ["--listen", f"tcp:{self.port}:interface=127.0.0.1"]
        options += ["--admin", f"tcp:{self.admin}:interface=127.0.0.1", "--workers", str(self.workers)]
        twistd = str(Path(sys.executable).with_name("twistd"))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [twistd, "-n", "--pidfile=", "smtp-relay", *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **given},
            )

    def wait_until_ready(self) -> None:
        """Return as soon as it can be connected to.

        :raises RuntimeError: it ended, or takes too long.
        """
        assert self.process is not None
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5) as connection:
                if connection.recv(1):
                    return
            time.sleep(0.02)
        raise RuntimeError(f"the relay does not start, see {self.log}")

    def kill(self) -> None:
        """kill -9, and where there are no workers a new start."""
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"the relay ended by itself, see {self.log}")
        if self.workers > 1:
            self._kill_worker(self.process.pid)
            return
        self.life += 1
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.start()

    def _kill_worker(self, pid: int) -> None:
        """kill -9 for one of the workers, also for one that is only starting."""
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if children:
            # Before: whoever notices it sees the next life.
            self.life += 1
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(self.chance.choice(children)), signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(PATIENCE)

    def rows(self) -> Counter[str]:
        """How many recipients the spool has, by state."""
        path = self.folder / "data" / "spool.sqlite3"
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as database:
            rows = database.execute("SELECT failed IS NULL, count(*) FROM spool_recipient GROUP BY 1").fetchall()
        return Counter({"waiting" if waits else "failed": number for waits, number in rows})

    def defects(self) -> list[str]:
        """Lines of the log that must not be."""
        with self.log.open(encoding="utf-8", errors="replace") as log:
            return [line.rstrip() for line in log if _DEFECT.search(line)]


# --- the comparison


@define
class Report:
    """The numbers of a run."""

    numbers: dict[str, Any] = field(factory=dict)
    violations: list[str] = field(factory=list)
    instants: set[str] = field(factory=set)

    def compare(self, sent: list[Sent], platform: FaultyPlatform) -> None:
        """What the clients were told, and what the platform has."""
        by_token = {message.token: message for message in sent}
        there: defaultdict[tuple[str, str], int] = defaultdict(int)
        for key, taken in list(platform.taken.items()):
            message = by_token.get(taken.subject)
            if message is None or taken.to not in message.recipients or not _same(message, taken.body):
                self.violations.append(f"invented: {key} {taken.subject!r} for {taken.to}")
            there[taken.subject, taken.to] += 1
        for key in platform.contradictions:
            self.violations.append(f"invented: {key} came with two different messages")
        seconds = instants = 0
        for message in sent:
            for recipient in message.recipients:
                number = there[message.token, recipient]
                if message.told and not number:
                    self.violations.append(f"lost: {_history(message)} for {recipient}")
                if 1 + message.excused < number <= 1 + message.excused + message.left:
                    instants += number - 1 - message.excused
                    self.instants.add(f"{number} times {_history(message)}")
                elif number > 1 + message.excused:
                    self.violations.append(f"twice: {number} times {_history(message)} for {recipient}")
                seconds += max(min(number - 1, message.excused), 0)
        ends = Counter(each.end for message in sent for each in message.attempts)
        self.numbers |= {
            "messages": len(sent),
            "recipients": sum(len(message.recipients) for message in sent),
            "messages with a 250": sum(bool(message.told) for message in sent),
            "attempts by end": dict(ends),
            "repeated attempts": sum(max(len(message.attempts) - 1, 0) for message in sent),
            "messages with an idempotency key": sum(bool(message.key) for message in sent),
            "at the platform": len(platform.taken),
            "recipients that got a second message because the verdict was lost with the relay": seconds,
            "left and came back to the same relay": (left := sum(message.left for message in sent)),
            "recipients that got a second message because the client left in the instant of its verdict": instants,
            "submissions that the Idempotency-Key absorbed": platform.absorbed,
            "answers of the platform": dict(platform.answers),
        }
        if instants > max(left * INSTANTS, FEW_INSTANTS):
            self.violations.append(f"twice: {instants} recipients whose client left and came back {left} times")


def _same(message: Sent, html: str) -> bool:
    return html.split() == message.body.split()


def _history(message: Sent) -> str:
    kind = "with key" if message.key else "without key"
    return f"{message.token} ({kind}: {', '.join(f'{each.end}@{each.life}' for each in message.attempts)})"


# --- the run


def run(arguments: argparse.Namespace, folder: Path) -> Report:
    """Kill and compare."""
    chance = random.Random(arguments.seed)
    report = Report()
    platform = FaultyPlatform(frozenset(KEYS), random.Random(chance.random()))
    platform.start()
    relay = Relay(
        folder,
        free_port(chance),
        free_port(chance),
        platform.url,
        arguments.workers,
        random.Random(chance.random()),
    )
    clients = [
        Client(number, relay, random.Random(chance.random()), arguments.size) for number in range(arguments.clients)
    ]
    kills_over = threading.Event()
    moods = threading.Thread(target=platform.live, args=(kills_over, list(MOODS), 0.1, 1.0), daemon=True)
    begun = time.monotonic()
    relay.start()
    relay.wait_until_ready()
    for each in (moods, *clients):
        each.start()
    for number in range(arguments.kills):
        time.sleep(chance.uniform(*arguments.after))
        relay.kill()
        if chance.random() < 0.1:
            continue  # the next kill meets it while it starts
        relay.wait_until_ready()
        if number % 10 == 9:
            _progress(number + 1, clients, platform, relay, begun)
    relay.wait_until_ready()
    kills_over.set()
    moods.join()
    report.numbers |= {"kills": arguments.kills, "seconds of kills": round(time.monotonic() - begun, 1)}
    _end(report, relay, clients)
    report.compare([message for client in clients for message in client.sent], platform)
    platform.stop()
    report.violations += [problem for client in clients for problem in client.problems]
    report.violations += [f"log: {line}" for line in relay.defects()[:20]]
    return report


def _end(report: Report, relay: Relay, clients: list[Client]) -> None:
    """Wait until every message has its verdict and the spool is empty, and stop the relay."""
    begun = time.monotonic()
    for client in clients:
        client.ending.set()
    for client in clients:
        client.join(max(begun + PATIENCE - time.monotonic(), 1.0))
        if client.is_alive():
            report.violations.append(
                f"client {client.number} has no verdict for {[each.token for each in client.open]}"
            )
    report.numbers["rows when the kills were over"] = relay.rows()["waiting"]
    while relay.rows()["waiting"] and time.monotonic() < begun + 5 * PATIENCE:
        time.sleep(0.2)
    code = relay.stop()
    if code:
        report.violations.append(f"SIGTERM: exit code {code}")
    report.violations += [f"{number} rows are {state} at the end" for state, number in relay.rows().items()]
    report.numbers["seconds of draining"] = round(time.monotonic() - begun, 1)


def _progress(number: int, clients: list[Client], platform: FaultyPlatform, relay: Relay, begun: float) -> None:
    sent = sum(len(client.sent) for client in clients)
    seconds = time.monotonic() - begun
    print(
        f"{number} kills, {sent} messages, {len(platform.taken)} recipients at the platform, "
        f"{relay.rows()['waiting']} rows, {seconds:.0f} s",
        flush=True,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=1, help="of several one is killed at a time")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--size", type=int, default=1000, help="characters of each body")
    parser.add_argument("--after", type=float, nargs=2, default=(0.2, 1.3), help="seconds from the start to the kill")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--folder", type=Path, help="an empty folder that is kept; default: a temporary one")
    return parser.parse_args()


def main() -> int:
    """Run, print, and say with the exit code whether all is well."""
    arguments = _arguments()
    folder = (arguments.folder or Path(tempfile.mkdtemp(prefix="relay-crash-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    print(f"seed {arguments.seed}, folder {folder}", flush=True)
    report = run(arguments, folder)
    if not report.violations and not arguments.folder:
        shutil.rmtree(folder)  # there is nothing to be seen in it
    numbers = {"seed": arguments.seed, **report.numbers, "violations": len(report.violations)}
    for each in sorted(report.instants)[:20]:
        print(f"in the instant of its verdict: {each}")
    if arguments.json:
        arguments.json.write_text(json.dumps({**numbers, "list": report.violations}, indent=2) + "\n")
    for name, value in numbers.items():
        print(f"{name}: {value}")
    for each in report.violations[:50]:
        print(f"VIOLATION {each}")
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
