"""The parts of the measurement; each can be asked for by its name."""

from __future__ import annotations

import contextlib
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from attrs import evolve

from . import programs
from .bench import Bench
from .clients import TOKEN, Load
from .figures import YARDSTICK, Figure, Run
from .messages import WORKLOADS, Workload, signed_in
from .processes import forget_peak, peak, resident
from .programs import RELAY, Program

#: How often what needs a new process each time is measured at most.
_FEW = 3

#: How our own client signs in, as its options.
KINDS: dict[str, tuple[str, ...]] = {"": (), "AUTH": ("-a", TOKEN), "STARTTLS": ("-S", "-a", TOKEN)}

#: The limits of the issue.
LATENCY_MS = 5.0
IDLE_KB = 4.0
START_SECONDS = 0.6
START_EMBEDDED_SECONDS = 1.2
#: Two workers carry 1.8 times the messages of one if a message takes no more than 2 / 1.8 of what it took.
WORKERS_RATIO = 1.11
#: Messages a second that each worker gets: client and platform leave two of them the room on two cores.
_EACH_WORKER = 1500


def table(bench: Bench, workloads: Sequence[Workload]) -> None:
    """Each program under each workload, those that are compared close to each other: the machine's speed changes."""
    with contextlib.ExitStack() as stack:
        names = [YARDSTICK, *bench.options.programs]
        running = [stack.enter_context(bench.launcher.running(name)) for name in names]
        client = bench.client()
        jobs: list[tuple[Program, Workload, int, str]] = []
        for program, workload in in_turn(running, workloads):
            count = bench.warm(program, workload, client, bench.file(workload))
            jobs.append((program, workload, count, bench.check(program, workload)))
        for round in range(bench.options.repeat):
            for program, workload, count, changed in jobs:
                made = bench.run(program, workload, client, bench.file(workload), count, round=round, changed=changed)
                bench.note(made)


def in_turn(running: Sequence[Program], workloads: Sequence[Workload]) -> list[tuple[Program, Workload]]:
    """The runs of a round: the yardstick under each workload that others are related to, and these behind it."""
    turns = []
    for name in dict.fromkeys(each.yardstick for each in workloads):
        related = [each for each in workloads if each.yardstick == name]
        for program in running:
            turns += [(program, each) for each in ([WORKLOADS[name]] if program.name == YARDSTICK else related)]
    return turns


def sign_in(bench: Bench, workloads: Sequence[Workload]) -> None:
    """The relay by our own client: as it is, with AUTH PLAIN, and with STARTTLS, a handshake for each connection."""
    with bench.launcher.running(YARDSTICK) as sink, bench.launcher.running(RELAY) as relay:
        jobs: list[tuple[Program, Workload, Load, Path, int, str]] = []
        for program, workload in in_turn((sink, relay), workloads):
            for kind, options in KINDS.items() if program is relay else [("", ())]:
                load = evolve(bench.load, options=options)
                file = bench.file(workload, signed=not kind)
                count = bench.warm(program, workload, load, file)
                jobs.append((program, workload, load, file, count, signed_in(workload.name, kind)))
        for round in range(bench.options.repeat):
            for program, workload, load, file, count, label in jobs:
                bench.note(bench.run(program, workload, load, file, count, round=round, label=label))


def latency(bench: Bench) -> None:
    """A whole transaction while messages come on a timetable; smtp-sink's is what client and machine make of it."""
    workload, rate = WORKLOADS["W1"], bench.options.rate
    count = bench.options.messages or int(rate * max(bench.options.seconds, 1))
    load = evolve(bench.load, options=("-R", str(rate)))
    found: dict[str, list[Run]] = {}
    with bench.launcher.running(YARDSTICK) as sink, bench.launcher.running(RELAY) as relay:
        for program in (sink, relay):
            bench.warm(program, workload, bench.load, bench.file(workload))
        for round in range(bench.options.repeat):
            for program in (sink, relay):
                file, label = bench.file(workload), f"W1 at {rate:g}/s"
                found.setdefault(program.name, []).append(
                    run := bench.run(program, workload, load, file, count, round=round, label=label)
                )
                bench.note(run)
    for name, runs in found.items():
        for part, target in (("p50", None), ("p99", LATENCY_MS if name == RELAY else None)):
            values = [getattr(run, part) for run in runs]
            words = f"{name}, W1 at {rate:g} messages/s, {part}"
            bench.note(Figure("latency", words, "ms", values, target, all(run.good for run in runs)))


def idle(bench: Bench) -> None:
    """What a session holds that has said EHLO and nothing more."""
    number = bench.options.idle_sessions
    for name in bench.options.programs:
        sizes, opened = [], []
        for _ in range(min(bench.options.repeat, _FEW)):
            with bench.launcher.running(name) as program:
                # What is made behind the first banner is no session's.
                bench.check(program, WORKLOADS["W1"])
                time.sleep(0.5)
                before = resident(program.pids)
                with contextlib.ExitStack() as stack:
                    sessions = takewhile(bool, (_greet(stack, program.port) for _ in range(number)))
                    opened.append(sum(sessions))
                    time.sleep(0.5)  # until all is quiet
                    sizes.append((resident(program.pids) - before) / number / 1024)
        target = IDLE_KB if name == RELAY else None
        words = f"{name}, an idle session of {number}"
        bench.note(Figure("idle", words, "kB", sizes, target, all(each == number for each in opened)))


def _greet(stack: contextlib.ExitStack, port: int) -> bool:
    """Open a session for as long as the stack lasts; whether EHLO was answered."""
    try:
        client = stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
        lines = stack.enter_context(client.makefile("rb"))
        greeting = lines.readline()
        client.sendall(b"EHLO idle.example\r\n")
        while (line := lines.readline())[3:4] == b"-":
            pass
    except OSError:
        return False
    return greeting.startswith(b"220") and line.startswith(b"250")


def start(bench: Bench) -> None:
    """From the start of the process to its first banner; at its first the relay makes its certificate and databases."""
    repeat = bench.options.repeat
    for name in bench.options.programs:
        if name != RELAY:
            bench.note(Figure("start", f"{name}, start", "s", [_seconds(bench, name) for _ in range(repeat)]))
            continue
        kinds: list[tuple[str, float, dict[str, Any]]] = [
            ("", START_SECONDS, {}),
            (" with the embedded backend", START_EMBEDDED_SECONDS, _EMBEDDED),
        ]
        for words, target, settings in kinds:
            first, again = [], []
            for number in range(repeat):
                data = bench.folder / f"start-{number}"
                first.append(_seconds(bench, name, data=data, **settings))
                again.append(_seconds(bench, name, data=data, **settings))
                shutil.rmtree(data)
            bench.note(Figure("start", f"{name}{words}, first start", "s", first, target))
            bench.note(Figure("start", f"{name}{words}, later start", "s", again, target))


_EMBEDDED = {"BACKEND": None, "DASHBOARD": "tcp:0:interface=127.0.0.1"}


def _seconds(bench: Bench, name: str, **settings: Any) -> float:
    with bench.launcher.running(name, **settings) as program:
        return program.seconds


def memory(bench: Bench) -> None:
    """The relay's peak while many clients send a large message at once."""
    clients, size = bench.options.large_clients, bench.options.large_size
    file = bench.folder / "large"
    letter = (bench.folder / "html1m").read_bytes()
    head, _, body = letter.partition(b"\n\n")
    file.write_bytes(head + b"\n\n" + body * (size // len(body)))
    workload = evolve(WORKLOADS["W3"], sessions=clients, keep=False)
    peaks, good, remark = [], True, ""
    for _ in range(min(bench.options.repeat, _FEW)):
        with bench.launcher.running(RELAY) as program:
            ok, _ = bench.sink.counts()
            forget_peak(program.pids)
            driven = bench.load.drive(program.port, file, workload, clients)
            peaks.append(peak(program.pids) / 2**20)
            counted = _counted(bench, ok, driven.taken)
        told = ", ".join(f"{count} × {code}" for code, count in (driven.codes or {}).items())
        remark = f"{driven.taken} × 250{', ' if told else ''}{told}; {counted} at the platform"
        good = good and counted >= driven.taken
    words = f"relay, peak memory while {clients} clients send {size / 1e6:g} MB each at once"
    bench.note(Figure("memory", words, "MB", peaks, None, good, remark))
    file.unlink()


def _counted(bench: Bench, before: int, wanted: int) -> int:
    """What the platform has counted since; what went to the spool comes later."""
    deadline = time.monotonic() + programs.PATIENCE
    while (counted := bench.sink.counts()[0] - before) < wanted and time.monotonic() < deadline:
        time.sleep(0.1)
    return counted


def workers(bench: Bench) -> None:
    """CPU of a message with two workers and with one, on all cores, by turns.

    Each worker has as many sessions, and as many messages a second: how many come together in a turn of its reactor
    says what each costs.  As many as can be would be what client and platform leave two workers of these cores.
    """
    file, seconds = bench.file(WORKLOADS["W2"]), max(bench.options.seconds, 1)
    found: dict[int, list[Run]] = {}
    with (
        bench.launcher.running(RELAY, everywhere=True, WORKERS=1) as one,
        bench.launcher.running(RELAY, everywhere=True, WORKERS=2) as two,
    ):
        for program in (one, two):
            bench.warm(program, WORKLOADS["W2"], bench.client(), file)
        for round in range(bench.options.repeat):
            for number, program in {1: one, 2: two}.items():
                rate = number * _EACH_WORKER
                workload = evolve(WORKLOADS["W2"], sessions=number * 25)
                client = evolve(bench.load, options=("-R", str(rate)))
                label = f"W2 at {rate}/s, workers = {number}"
                count = bench.options.messages or int(rate * seconds)
                run = bench.run(program, workload, client, file, count, round=round, label=label)
                found.setdefault(number, []).append(run)
                bench.note(run)
    ratios = [second.cpu_ms / first.cpu_ms for first, second in zip(found[1], found[2], strict=True)]
    good = all(run.good for runs in found.values() for run in runs)
    words = "relay, CPU of a message with two workers, to one with half as many"
    bench.note(Figure("workers", words, "times", ratios, WORKERS_RATIO, good))


#: Beside the workloads, which are parts too.
PARTS: dict[str, Callable[[Bench], None]] = {
    "latency": latency,
    "idle": idle,
    "start": start,
    "memory": memory,
    "workers": workers,
}

#: Those that are of the relay alone.
OF_THE_RELAY = ("sign-in", "latency", "memory", "workers")

#: What a program needs beside Postfix and a compiler.
NEEDS = {programs.AIOSMTPD: ("aiosmtpd", "aiohttp"), programs.TWISTED: ("treq",), RELAY: ("smtp-relay",)}
