"""A store in a process of its own, for faults that a test must not meet itself: told what to do line by line.

    python -m tests.integration.spool_program FOLDER [PRAGMA]

Each line of standard input is a command; each gets one line of answer.  Time stands still but for ``later``.
"""

from __future__ import annotations

import queue
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from relay.errors import TemporaryFailure
from relay.policy import Spool
from relay.spool.store import Store
from relay.spool.values import Entry, Spooled
from relay.values import Submission


class Reactor:
    """The part of a reactor that a writer thread needs; the main thread waits."""

    def __init__(self) -> None:
        self.calls: queue.Queue[Callable[[], None]] = queue.Queue()

    def callFromThread(self, call: Callable[[], None]) -> None:
        self.calls.put(call)

    def wait(self, *coroutines: Coroutine[Any, Any, Any]) -> list[Any]:
        """The results, or failures, of *coroutines*."""
        results: list[Any] = []
        for each in coroutines:
            Deferred.fromCoroutine(each).addBoth(results.append)
        while len(results) < len(coroutines):
            self.calls.get(timeout=60)()
        return results


def spooled(id: str) -> Spooled:
    """A message of 4 kB."""
    submission = Submission(
        api_key="key",
        request_id=id,
        idempotency_key=id,
        fromname="",
        fromemail="shop@example.com",
        to="jane@example.org",
        toname="",
        subject=id,
        replyto="",
        returnpath="",
        body="x" * 4000,
        tag="",
        route="",
        template="",
        variables=None,
    )
    return Spooled(id, "0" * 64, "Acme", (Entry(submission),))


def answer(results: list[Any]) -> str:
    """What the commands came to, in a word each."""
    return " ".join(_word(each) for each in results)


def _word(result: Any) -> str:
    if not isinstance(result, Failure):
        return "promised"
    return result.value.reason.value if result.check(TemporaryFailure) else repr(result.value)


def main(folder: Path, pragma: str = "") -> None:
    """Obey ``put ID…`` (at the same time), ``list``, ``later SECONDS``, ``files``."""
    if pragma:
        sa.event.listen(
            sa.Engine, "engine_connect", lambda each: each.connection.driver_connection.execute(f"PRAGMA {pragma}")
        )
    reactor, clock = Reactor(), Clock()
    (store,) = reactor.wait(
        Store.open(
            f"sqlite:///{folder}/spool.sqlite3",
            key_file=folder / "spool.key",
            policy=Spool(min_free=0),
            reactor=reactor,  # type: ignore[arg-type]  # all that is asked for
            monotonic=clock.seconds,
        )
    )
    print("open" if isinstance(store, Store) else store, flush=True)
    for line in sys.stdin:
        command, *words = line.split()
        if command == "put":
            print(answer(reactor.wait(*(store.put(spooled(word)) for word in words))), flush=True)
        elif command == "list":
            (rows,) = reactor.wait(store.listing())
            print(" ".join(["listed", *(row.id for row in rows)]), flush=True)
        elif command == "later":
            clock.advance(float(words[0]))
            print("later", flush=True)
        elif command == "files":
            links = (each.readlink() for each in Path("/proc/self/fd").iterdir() if each.is_symlink())
            print(sum(str(link) == f"{folder}/spool.sqlite3" for link in links), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
