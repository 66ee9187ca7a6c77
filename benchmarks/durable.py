"""What a durable 250 costs: the whole relay, from the socket to the disk, with its platform down, back, and up.

    python benchmarks/durable.py [--sessions 200] [--messages 20000] [--smtpload PROGRAM] [--profile]

It prints, one after the other:

yardsticks  SQLite's own commits of 4 kB, one a commit and 200 a commit, synchronous=FULL, on the same disk; Postfix'
            smtp-sink with the same clients, where it is installed;
down        durable acceptances a second while the platform is down and its breaker open, time of a whole transaction
            at the client, time of a commit in the relay (from the first statement to the end of the flush), how many
            messages a commit has, CPU of the relay for each message;
drain       deliveries a second when the platform is back, and CPU for each;
up          CPU for each message with the platform up, with a spool and without one, in turn, and what the relay
            writes to the disk meanwhile.

Load, relay and platform are processes of their own (benchmarks/roles.py).  Without --smtpload the load is made in
Python, by two processes.  CPU is that of the relay's process alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pstats
import random
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from attrs import define, field
from faulty import free_port
from roles import KEY, MESSAGE

ROOT = Path(__file__).resolve().parents[1]

PATIENCE = 120.0
#: Processes that make the load.
CLIENTS = 2


@define(eq=False)
class Process:
    """A role in a process of its own."""

    role: str
    options: Sequence[str]
    environment: dict[str, str] = field(factory=dict)
    _process: subprocess.Popen[str] = field(init=False)

    def __attrs_post_init__(self) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SMTP_RELAY_")}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("roles.py")), self.role, *self.options],
            stdout=subprocess.PIPE,
            text=True,
            env={**kept, "PYTHONPATH": str(ROOT), **self.environment},
        )

    def wait_until_ready(self) -> None:
        """Return when it says so.

        :raises RuntimeError: it ended before.
        """
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line == "ready\n":
                return
        raise RuntimeError(f"{self.role} does not start")

    def output(self) -> str:
        """What it says until it ends."""
        return self._process.communicate()[0]

    def stop(self) -> None:
        """SIGTERM, and wait."""
        self._process.terminate()
        self._process.communicate(timeout=PATIENCE)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    @property
    def cpu(self) -> float:
        """CPU seconds so far, of all its threads."""
        return cpu(self._process.pid)

    @property
    def first_cpu(self) -> float:
        """CPU seconds of its first thread, the reactor's."""
        pid = self._process.pid
        return _ticks(Path(f"/proc/{pid}/task/{pid}/stat"))

    @property
    def written(self) -> int:
        """Bytes that it has caused to be written to a disk."""
        lines = Path(f"/proc/{self._process.pid}/io").read_text().splitlines()
        return int(dict(line.split(": ") for line in lines)["write_bytes"])


def cpu(pid: int) -> float:
    """CPU seconds of a process so far."""
    return _ticks(Path(f"/proc/{pid}/stat"))


def _ticks(stat: Path) -> float:
    fields = stat.read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@define
class Driven:
    """What the clients saw.

    :ivar good: messages with a 250.
    :ivar rate: of them, a second.
    :ivar p50: milliseconds of a whole transaction, MAIL to 250.
    """

    good: int
    rate: float
    p50: float
    p99: float
    begun: float
    ended: float

    def __str__(self) -> str:
        return f"{self.rate:.0f} messages/s, transaction p50 {self.p50:.0f} ms, p99 {self.p99:.0f} ms"


@define
class Bench:
    """What all measurements share."""

    arguments: argparse.Namespace
    folder: Path
    chance: random.Random = field(factory=random.Random)
    numbers: dict[str, Any] = field(factory=dict)

    def say(self, words: str, **numbers: Any) -> None:
        """Print a line and keep its numbers."""
        self.numbers.update(numbers)
        print(f"  {words}", flush=True)

    # --- the load

    def drive(self, port: int, messages: int) -> Driven:
        """Let the clients send."""
        begun = time.perf_counter()
        if self.arguments.smtpload:
            return self._smtpload(port, messages, begun)
        options = ["--port", str(port), "--sessions", str(self.arguments.sessions // CLIENTS)]
        options += ["--messages", str(messages // CLIENTS), *(["--pipeline"] if self.arguments.pipeline else [])]
        clients = [Process("load", options) for _ in range(CLIENTS)]
        told = [json.loads(each.output()) for each in clients]
        seconds = sorted(second for each in told for second in each["seconds"])
        begun, ended = min(each["begun"] for each in told), max(each["ended"] for each in told)
        good = sum(each["good"] for each in told)
        if good < messages * 0.9:
            raise RuntimeError(f"only {good} of {messages} messages have a 250")
        return Driven(good, good / (ended - begun), _ms(seconds, 0.5), _ms(seconds, 0.99), begun, ended)

    def _smtpload(self, port: int, messages: int, begun: float) -> Driven:
        file = self.folder / "message.eml"
        file.write_bytes(MESSAGE.replace(b"\r\n", b"\n"))
        options = ["-p", str(port), "-F", str(file), "-s", str(self.arguments.sessions), "-m", str(messages), "-d"]
        options += ["-P"] if self.arguments.pipeline else []
        ran = subprocess.run([self.arguments.smtpload, *options], stdout=subprocess.PIPE, text=True, check=True)
        told = json.loads(ran.stdout)
        return Driven(told["ok"], told["rate"], told["txn_p50"], told["txn_p99"], begun, time.perf_counter())

    # --- yardsticks

    def yardsticks(self) -> None:
        """What the disk and the clients can do by themselves."""
        print("yardsticks")
        for each in (1, 200):
            rate, p50, p99 = sqlite_commits(self.folder / f"yardstick{each}.sqlite3", each)
            words = f"SQLite, {each} of 4 kB a commit: {rate:.0f} messages/s, commit p50 {p50:.1f} ms, p99 {p99:.1f} ms"
            self.say(words, **{f"sqlite {each} messages/s": rate, f"sqlite {each} commit p99 ms": p99})
        sink = shutil.which("smtp-sink", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if sink is None:
            return
        port = free_port(self.chance)
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        process = subprocess.Popen([sink, *user, f"127.0.0.1:{port}", "1024"])
        try:
            wait_for_port(port)
            before = cpu(process.pid)
            driven = self.drive(port, self.arguments.messages)
            each_ms = (cpu(process.pid) - before) / driven.good * 1000
        finally:
            process.terminate()
            process.wait()
        words = f"smtp-sink, which keeps nothing: {driven}, CPU {each_ms:.3f} ms each"
        self.say(words, **{"smtp-sink messages/s": driven.rate, "smtp-sink cpu ms": each_ms})

    # --- the relay

    @contextlib.contextmanager
    def relay(self, backend: int, name: str, **settings: object) -> Iterator[tuple[Process, int, Path]]:
        """A relay before the platform on port *backend*; the process, its port, its folder."""
        port, folder = free_port(self.chance), self.folder / name
        folder.mkdir()
        given = {
            "DATA": folder / "data",
            "LISTEN": f"tcp:{port}:interface=127.0.0.1:backlog=512",
            "ADMIN": "tcp:0:interface=127.0.0.1",
            "BACKEND": f"http://127.0.0.1:{backend}",
            "LIMITS_CONNECTIONS_PER_ADDRESS": 1000,
            **settings,
        }
        process = Process(
            "relay", ["--folder", str(folder)], {f"SMTP_RELAY_{name}": str(value) for name, value in given.items()}
        )
        process.wait_until_ready()
        try:
            yield process, port, folder
        finally:
            process.stop()

    @contextlib.contextmanager
    def platform(self, port: int) -> Iterator[None]:
        """The platform, up."""
        process = Process("platform", ["--port", str(port)])
        process.wait_until_ready()
        try:
            yield
        finally:
            process.stop()

    def outage(self) -> None:
        """The platform is down, then back."""
        backend = free_port(self.chance)
        settings = {"BREAKER_FAILURES": 1, "BREAKER_PROBE": 1, "SPOOL_RETRY_FIRST": 1, "SPOOL_RETRY_MAXIMUM": 1}
        with self.relay(backend, "outage", **settings) as (process, port, folder):
            with self.platform(backend):
                self.drive(port, 400)  # its key is known now
            self.drive(port, 400)  # and its breaker is open
            print("down")
            spool = folder / "data" / "spool.sqlite3"
            before, spent, first = rows(spool), process.cpu, process.first_cpu
            if self.arguments.profile:
                process.signal(signal.SIGUSR1)
            driven = self.drive(port, self.arguments.messages)
            if self.arguments.profile:
                process.signal(signal.SIGUSR2)
            each_ms = (process.cpu - spent) / driven.good * 1000
            first_ms = (process.first_cpu - first) / driven.good * 1000
            self.say(f"durable acceptance: {driven}", **{"down messages/s": driven.rate, "down p99 ms": driven.p99})
            kept = rows(spool) - before
            words = f"CPU {each_ms:.3f} ms each, {first_ms:.3f} of them the reactor's thread; {kept} rows"
            self.say(words, **{"down cpu ms": each_ms, "down reactor cpu ms": first_ms})
            if kept != driven.good:
                raise RuntimeError(f"{driven.good} messages have a 250, and {kept} are kept")
            self.drain(process, backend, spool)
        commits = json.loads((folder / "commits.json").read_text())
        puts = [each for each in commits if driven.begun <= each[0] <= driven.ended and each[2] > 1]
        seconds, sizes = sorted(each[1] for each in puts), sorted(each[2] for each in puts)
        p50, p99, size = _ms(seconds, 0.5), _ms(seconds, 0.99), _share(sizes, 0.5)
        words = f"group commit: {len(puts)}, p50 {p50:.1f} ms, p99 {p99:.1f} ms, {size:.0f} messages each (median)"
        print("commits while the platform was down")
        self.say(words, **{"commit p50 ms": p50, "commit p99 ms": p99, "commit messages": size})
        if self.arguments.profile:
            show_profile(folder / "profile", driven.good)

    def drain(self, process: Process, backend: int, spool: Path) -> None:
        """The platform is back."""
        print("drain")
        with self.platform(backend):
            waiting, spent, back = rows(spool), process.cpu, time.perf_counter()
            while (left := rows(spool)) > waiting - 50:
                time.sleep(0.02)
            begun = time.perf_counter()
            while rows(spool) and time.perf_counter() < begun + PATIENCE:
                time.sleep(0.05)
            rate, each_ms = left / (time.perf_counter() - begun), (process.cpu - spent) / waiting * 1000
        words = f"{rate:.0f} deliveries/s, begun {begun - back:.1f} s after it was back, CPU {each_ms:.3f} ms each"
        self.say(words, **{"drain deliveries/s": rate, "drain cpu ms": each_ms})

    def up(self) -> None:
        """The platform is up: with a spool and without one, in turn."""
        print("up")
        backend = free_port(self.chance)
        spent: dict[str, list[float]] = {"direct-first": [], "direct": []}
        with (
            self.platform(backend),
            self.relay(backend, "direct-first", DELIVERY_MODE="direct-first") as first,
            self.relay(backend, "direct", DELIVERY_MODE="direct") as second,
        ):
            relays = {"direct-first": first, "direct": second}
            for _, port, _ in relays.values():
                self.drive(port, 400)
            written = {mode: process.written for mode, (process, _, _) in relays.items()}
            for _ in range(self.arguments.repeat):
                for mode, (process, port, _) in relays.items():
                    before = process.cpu
                    driven = self.drive(port, self.arguments.messages // 4)
                    spent[mode].append((process.cpu - before) / driven.good * 1000)
            for mode, (process, _, _) in relays.items():
                each_ms, octets = statistics.median(spent[mode]), process.written - written[mode]
                runs = ", ".join(f"{each:.3f}" for each in spent[mode])
                words = f"{mode}: CPU {each_ms:.3f} ms each (median of {runs}), {octets} bytes written to a disk"
                self.say(words, **{f"{mode} cpu ms": each_ms, f"{mode} bytes written": octets})


def sqlite_commits(path: Path, each: int, seconds: float = 3.0) -> tuple[float, float, float]:
    """Messages a second, and milliseconds of a commit (p50, p99), with *each* messages of 4 kB a commit."""
    taken: list[float] = []
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("CREATE TABLE message (id INTEGER PRIMARY KEY, body BLOB)")
        end = time.perf_counter() + seconds
        while (begun := time.perf_counter()) < end:
            database.execute("BEGIN IMMEDIATE")
            database.executemany("INSERT INTO message (body) VALUES (?)", [(MESSAGE,)] * each)
            database.execute("COMMIT")
            taken.append(time.perf_counter() - begun)
    taken.sort()
    return len(taken) * each / sum(taken), _ms(taken, 0.5), _ms(taken, 0.99)


def show_profile(path: Path, messages: int) -> None:
    """Where the reactor's thread was, in microseconds of each message, stretched by the profiler itself."""
    parts: Counter[str] = Counter()
    stats: Any = pstats.Stats(str(path))
    for (file, _, name), (_, _, own, _, _) in stats.stats.items():
        parts[_part(file, name)] += own
    print("profile of the reactor's thread while the platform was down, microseconds each")
    for part, seconds in parts.most_common():
        print(f"  {seconds / messages * 1e6:7.1f}  {part}")
    stats.strip_dirs().sort_stats("tottime").print_stats(40)


def _part(file: str, name: str) -> str:
    """Which part of the program a function belongs to."""
    if "/relay/" in file:
        return "relay/" + file.rpartition("/relay/")[2].partition("/")[0]
    if "/site-packages/" in file:
        return file.rpartition("/site-packages/")[2].partition("/")[0]
    if file == "~":
        return "system calls on sockets" if "_socket" in name or "epoll" in name else "built-in functions"
    return "standard library"


def rows(path: Path) -> int:
    """How many recipients the spool has."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as database:
        return int(database.execute("SELECT count(*) FROM spool_recipient").fetchone()[0])


def wait_for_port(port: int) -> None:
    """Return when somebody listens there."""
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)


def _share(ordered: Sequence[float], part: float) -> float:
    """The value that *part* of them do not exceed."""
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)] if ordered else 0.0


def _ms(ordered: Sequence[float], part: float) -> float:
    return _share(ordered, part) * 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sessions", type=int, default=200)
    parser.add_argument("--messages", type=int, default=20_000, help="messages of a measurement")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each kind with the platform up")
    parser.add_argument("--pipeline", action="store_true", help="MAIL, RCPT and DATA in one write")
    parser.add_argument("--smtpload", help="a program that makes the load, in place of ours")
    parser.add_argument("--profile", action="store_true", help="where the reactor's thread spends its time; slower")
    parser.add_argument("--only", choices=("yardsticks", "outage", "up"), action="append", help="measure only this")
    parser.add_argument("--folder", type=Path, default=None, help="where; it decides on the disk that is measured")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relay-durable-", dir=arguments.folder) as folder:
        bench = Bench(arguments, Path(folder))
        load = " ".join(f"{each:.2f}" for each in os.getloadavg())
        print(f"{os.cpu_count()} cores, load {load}, {arguments.sessions} sessions, {len(MESSAGE)} bytes, key {KEY}")
        for each in arguments.only or ("yardsticks", "outage", "up"):
            getattr(bench, each)()
    if arguments.json:
        arguments.json.write_text(json.dumps(bench.numbers, indent=2) + "\n")


if __name__ == "__main__":
    main()
