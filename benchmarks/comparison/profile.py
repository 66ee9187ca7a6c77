"""Where the relay's time goes under a workload: Twisted's own profiler, and shares of its own time by module."""

from __future__ import annotations

import pstats
from collections import Counter
from collections.abc import Mapping
from typing import Any

from attrs import evolve, frozen

from .bench import Bench
from .messages import WORKLOADS
from .parts import KINDS
from .programs import RELAY, STATS

#: Lines of each list.
_LINES = 30
#: What waits for the next event is no work.
_WAITING = "method 'poll' of 'select.epoll'"
#: The file of what has none.
_BUILT_IN = "~"

#: File, line and name of a function, and what pstats tells of it.
_Function = tuple[str, int, str]


@frozen
class Share:
    """A part of the time, and how often it was called for each message."""

    name: str
    share: float
    calls: float


@frozen
class Profile:
    """The largest items first; the profiler stretches what calls much, so that shares are no seconds."""

    modules: tuple[Share, ...]
    functions: tuple[Share, ...]

    def text(self) -> str:
        """Two lists."""
        parts = []
        for title, shares in (("module", self.modules), ("function", self.functions)):
            parts.append(f" share  calls  {title}")
            parts += [f"{each.share:6.1%} {each.calls:6.1f}  {each.name}" for each in shares[:_LINES]]
        return "\n".join(parts)


def profile(bench: Bench, name: str) -> Profile:
    """The relay under the workload *name*, which may have ``+AUTH`` or ``+STARTTLS`` behind it."""
    word, _, kind = name.partition("+")
    workload, load = WORKLOADS[word], evolve(bench.load, options=KINDS[kind])
    file = bench.file(workload, signed=not kind)
    before, _ = bench.sink.counts()
    with bench.launcher.running(RELAY, profiled=True) as program:
        count = bench.warm(program, workload, load, file)
        bench.note(bench.run(program, workload, load, file, count, round=0, label=f"{name}, profiled"))
    after, _ = bench.sink.counts()
    stats: Any = pstats.Stats(str(program.log.with_name(STATS)))
    return shares(stats.stats, messages=after - before)


def shares(stats: Mapping[_Function, tuple[Any, ...]], messages: int) -> Profile:
    """What pstats counted, by module and by function.

    :param messages: how many there were.
    """
    modules: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for (file, _, name), (_, number, own, *_) in stats.items():
        if _WAITING in name:
            continue
        module = _module(file, name)
        function = name if file == _BUILT_IN else f"{module} {name}"
        modules[module] += own
        functions[function] += own
        for each in {module, function}:
            calls[each] += number
    whole = sum(modules.values()) or 1.0
    return Profile(
        *(
            tuple(Share(each, own / whole, calls[each] / messages) for each, own in counted.most_common())
            for counted in (modules, functions)
        )
    )


def _module(file: str, name: str) -> str:
    """Where a function is, as short as it is clear."""
    if file == _BUILT_IN:
        return "system calls on sockets" if "_socket." in name or "epoll" in name else "built-in functions"
    for mark in ("/site-packages/", "/relay/"):
        if mark in file:
            found = file.rpartition(mark)[2]
            return f"relay/{found}" if mark == "/relay/" else found
    return file.rpartition("/")[2]
