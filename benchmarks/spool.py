"""How fast the spool is: ``python benchmarks/spool.py [--url URL] [--callers N] [--seconds S] [--rate R] [--busy]``.

Puts messages of 4 kB from many callers at the same time, each waiting for its promise, and then takes and settles
them.  ``--busy`` keeps the reactor's thread computing meanwhile, as a relay does that parses messages.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall, deferLater, react

from relay.policy import Spool
from relay.spool.store import Store
from relay.spool.values import Delivered, Entry, Retry, Spooled
from relay.values import Submission

BODY = "<p>" + "Hello, this is a line of HTML. " * 132


def spooled(number: int) -> Spooled:
    """A message of 4 kB for one recipient."""
    key = f"key-of-account-{number % 10}"
    submission = Submission(
        api_key=key,
        request_id=f"{number:016X}",
        idempotency_key=f"{number:016X}-0",
        fromname="Example Shop",
        fromemail="shop@example.com",
        to="jane@example.org",
        toname="Jane Doe",
        subject="Hello",
        replyto="",
        returnpath="bounce@example.com",
        body=BODY,
        tag="welcome",
        route="",
        template="",
        variables=None,
    )
    return Spooled(f"{number:016X}", hashlib.sha256(key.encode()).hexdigest(), "Acme", (Entry(submission),))


async def put(reactor: Any, store: Store, callers: int, seconds: float, rate: float = 0.0) -> None:
    """Put for so long, as fast as it goes or at *rate* messages a second, and print how that went."""
    waits: list[float] = []
    end = time.perf_counter() + seconds
    step = callers / rate if rate else 0.0

    async def caller(position: int) -> None:
        turn = time.perf_counter() + step * position / callers
        while (begun := time.perf_counter()) < end:
            if turn > begun:
                await deferLater(reactor, turn - begun)
                begun = time.perf_counter()
            turn += step
            await store.put(spooled(len(waits)))
            waits.append(time.perf_counter() - begun)

    cpu, begun = time.process_time(), time.perf_counter()
    await gatherResults([Deferred.fromCoroutine(caller(number)) for number in range(callers)])
    took, cpu = time.perf_counter() - begun, time.process_time() - cpu
    waits.sort()
    middle, late = waits[len(waits) // 2], waits[len(waits) * 99 // 100]
    asked = f" ({rate:.0f}/s asked for)" if rate else ""
    print(
        f"put, {callers} callers{asked}: {len(waits) / took:.0f}/s, from call to promise p50 {middle * 1e3:.1f} ms, "
        f"p99 {late * 1e3:.1f} ms, longest {waits[-1] * 1e3:.1f} ms; CPU {cpu / len(waits) * 1e6:.0f} µs a message"
    )


async def drain(store: Store, limit: int, settlement: Any) -> None:
    """Take and settle all that is due, so many at a time."""
    count, begun = 0, time.perf_counter()
    while leased := await store.take(limit):
        await store.settle([settlement(each.row) for each in leased])
        count += len(leased)
    print(f"take {limit} and settle: {count / (time.perf_counter() - begun):.0f} rows/s ({settlement.__name__})")


def later(row: int) -> Retry:
    """An attempt that failed for now."""
    return Retry(row, 3600.0, "451 4.4.1 the platform is unreachable")


def delivered(row: int) -> Delivered:
    """One that did not."""
    return Delivered(row)


def compute() -> None:
    """About a millisecond of Python."""
    sum(number * number for number in range(12_000))


async def measure(reactor: Any, options: argparse.Namespace) -> None:
    """All of it."""
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        url = options.url or f"sqlite:///{folder}/spool.sqlite3"
        store = await Store.open(url, key_file=Path(folder) / "spool.key", policy=Spool(), reactor=reactor)
        work = LoopingCall(compute)
        if options.busy:
            work.start(0)
        await put(reactor, store, options.callers, options.seconds, options.rate)
        await put(reactor, store, options.callers, options.seconds)
        await put(reactor, store, 1, options.seconds / 5)
        await drain(store, 20, delivered)
        await put(reactor, store, options.callers, options.seconds)
        await drain(store, 100, later)
        if options.busy:
            work.stop()
        await store.close()


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="")
    parser.add_argument("--callers", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=5000.0, help="messages a second of the first measurement")
    parser.add_argument("--folder", default=None, help="where the SQLite file is made")
    parser.add_argument("--busy", action="store_true")
    options = parser.parse_args()
    react(lambda reactor: Deferred.fromCoroutine(measure(reactor, options)))


if __name__ == "__main__":
    main()
