"""One measurement: a program, a client, a platform, and what the run took of each."""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

from attrs import define, field

from .clients import Driven, Load, Sink, Source, build, check
from .figures import Figure, Run
from .messages import Workload, letters
from .processes import Cores, cpu, machine
from .programs import Launcher, Program
from .table import digits

#: Messages before the first run that counts.
_WARM = 300
_WARM_LARGE = 20
#: Messages of a connection at least, where it has many: with few it is the connections that are measured.
_EACH = 20


@define(eq=False)
class Bench:
    """What all parts share, and what they found."""

    options: argparse.Namespace
    folder: Path
    cores: Cores
    sink: Sink
    launcher: Launcher
    load: Load
    runs: list[Run] = field(factory=list)
    figures: list[Figure] = field(factory=list)

    @classmethod
    @contextlib.contextmanager
    def ready(cls, options: argparse.Namespace, folder: Path, tls: bool) -> Iterator[Bench]:
        """Messages written, programs compiled, the platform up.

        :param tls: whether the load client is to have it.
        """
        cores = Cores.here()
        os.sched_setaffinity(0, cores.others)  # for the clients and the platform, which inherit it
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        for name, letter in letters().items():
            (folder / name).write_bytes(letter.content)
            (folder / f"{name}-unsigned").write_bytes(letter.unsigned)
        load = Load(build("load", folder, *(["-DWITH_TLS", "-lssl", "-lcrypto"] if tls else [])))
        sink = Sink.start(build("sink", folder))
        try:
            yield cls(options, folder, cores, sink, Launcher(sink.url, folder, cores), load)
        finally:
            sink.stop()

    def note(self, *made: Run | Figure) -> None:
        """Keep what was measured, and show that there is progress."""
        for each in made:
            if isinstance(each, Run):
                self.runs.append(each)
                words = f"{each.workload}, {each.program}: {each.cpu_ms:.3f} ms, {each.taken / each.seconds:.0f}/s"
            else:
                self.figures.append(each)
                words = f"{each.name}: {digits(each.median)} {each.unit} {each.remark}".rstrip()
            print(f"  {words}{'' if each.good else '  BAD'}", flush=True)

    # --- driving

    def client(self) -> Source | Load:
        """The one that was asked for."""
        return Source() if self.options.client == "smtp-source" else self.load

    def file(self, workload: Workload, signed: bool = True) -> Path:
        """The message of *workload*; not *signed* for a client that signs in."""
        return self.folder / (workload.letter if signed else f"{workload.letter}-unsigned")

    def warm(self, program: Program, workload: Workload, client: Source | Load, file: Path) -> int:
        """Warm up, and say how many messages a run shall have to take as long as was asked for."""
        few = _WARM_LARGE if workload.letter == "html1m" else _WARM
        few = min(few, self.options.messages or few)
        self.once(program, workload, client, file, few)
        driven, seconds, _ = self.once(program, workload, client, file, few)
        if self.options.messages:
            return int(self.options.messages)
        rate = driven.taken / seconds or 100
        each = _EACH if workload.keep and workload.letter != "html1m" else 2
        return max(int(rate * self.options.seconds), each * workload.sessions)

    def once(
        self, program: Program, workload: Workload, client: Source | Load, file: Path, count: int
    ) -> tuple[Driven, float, float]:
        """What the client says, seconds of the wall clock, and CPU seconds of the program."""
        pids, before, begun = program.pids, cpu(program.pids), time.monotonic()
        driven = client.drive(program.port, file, workload, count)
        return driven, time.monotonic() - begun, cpu(pids) - before

    def run(
        self,
        program: Program,
        workload: Workload,
        client: Source | Load,
        file: Path,
        count: int,
        *,
        round: int,
        label: str = "",
        changed: str = "",
    ) -> Run:
        """Drive it, and count at the platform."""
        ok, refused = self.sink.counts()
        ours, busy = self._own_cpu(), machine()
        driven, seconds, spent = self.once(program, workload, client, file, count)
        others = machine() - busy - spent - (self._own_cpu() - ours)
        ok_now, refused_now = self.sink.counts()
        return Run(
            program=program.name,
            workload=label or workload.name,
            round=round,
            asked=count,
            taken=driven.taken,
            counted=ok_now - ok if program.posts else None,
            refused=refused_now - refused,
            cpu=spent,
            seconds=driven.seconds or seconds,
            p50=driven.p50,
            p99=driven.p99,
            others=max(others / seconds, 0.0),
            changed=changed,
        )

    def _own_cpu(self) -> float:
        """CPU seconds of this process, the clients that ended, and the platform."""
        times = os.times()
        return times.user + times.system + times.children_user + times.children_system + cpu([self.sink.process.pid])

    def check(self, program: Program, workload: Workload) -> str:
        """What the program changes in the workload's message on its way to the platform; empty if nothing."""
        return check(program.port, self.sink, letters()[workload.letter]) if program.posts else ""
