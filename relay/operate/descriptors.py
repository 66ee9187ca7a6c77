"""The limit of open files, which is lower on most systems than a relay's connections need."""

from __future__ import annotations

import resource
from collections.abc import Callable

from twisted.logger import Logger

#: Files that are open without any connection: listeners, databases, the log, pipes.
BASE = 128

log = Logger()


def needed(connections: int) -> int:
    """Open files for so many sessions: each has its own, that of its post, and the embedded backend's end of that."""
    return BASE + 3 * connections


def make_room(
    wanted: int,
    get: Callable[[int], tuple[int, int]] = resource.getrlimit,
    put: Callable[[int, tuple[int, int]], None] = resource.setrlimit,
) -> None:
    """Raise this process' soft limit of open files to *wanted*, as far as the hard limit lets it, and warn if short.

    :param get: reads the soft and the hard limit.
    :param put: sets them.
    """
    soft, hard = get(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    put(resource.RLIMIT_NOFILE, (limit, hard))
    if limit < wanted:
        log.warn(
            "limits.connections may need {wanted} open files, the system allows {limit}: raise ulimit -n, or lower it",
            wanted=wanted,
            limit=limit,
        )
