"""Processes as Linux shows them: CPU time, memory, children; and which cores they may use."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path

from attrs import field, frozen

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """The process and all its descendants."""
    found, waiting = [], [pid]
    while waiting:
        found.append(each := waiting.pop())
        for task in _PROC.glob(f"{each}/task/*/children"):
            with contextlib.suppress(OSError):
                waiting += map(int, task.read_text().split())
    return found


def cpu(pids: list[int]) -> float:
    """CPU seconds so far, user and system, of all threads of these processes.

    It is the clock of clock_getcpuclockid(3), in nanoseconds; /proc/PID/stat has hundredths of a second.
    """
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


def resident(pids: list[int]) -> float:
    """Bytes of memory in use."""
    return sum(_status(pid, "VmRSS") for pid in pids)


def forget_peak(pids: list[int]) -> None:
    """Let :func:`peak` begin now."""
    for pid in pids:
        (_PROC / str(pid) / "clear_refs").write_text("5")


def peak(pids: list[int]) -> float:
    """Bytes of memory in use when it was most; of several processes the sum of each one's most."""
    return sum(_status(pid, "VmHWM") for pid in pids)


def _status(pid: int, name: str) -> float:
    for line in (_PROC / str(pid) / "status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0.0


def machine() -> float:
    """CPU seconds that all cores have been busy with anything."""
    busy = [int(each) for each in (_PROC / "stat").read_text().splitlines()[0].split()[1:]]
    user, nice, system, _idle, _iowait, interrupts, soft, stolen = busy[:8]
    return (user + nice + system + interrupts + soft + stolen) / _TICKS


@frozen
class Cores:
    """Where things run: the program that is measured on one core, client and platform beside it.

    With a single core they share it.
    """

    program: frozenset[int] = field()
    others: frozenset[int] = field()

    @classmethod
    def here(cls) -> Cores:
        """Of the cores that this process may use."""
        first, *rest = sorted(os.sched_getaffinity(0))
        return cls(frozenset({first}), frozenset(rest or {first}))

    @property
    def all(self) -> frozenset[int]:
        return self.program | self.others


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
