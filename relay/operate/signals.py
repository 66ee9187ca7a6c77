"""What the relay does on signals, where it owns the process: SIGTERM and SIGINT stop it, SIGHUP reloads."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


def owns_process(reactor: object) -> bool:
    """Whether *reactor* is the process' own, and this the thread that signals come to."""
    return (
        reactor is sys.modules.get("twisted.internet.reactor") and threading.current_thread() is threading.main_thread()
    )


def install(reactor: Any, stop: Callable[[], None], reload: Callable[[], None]) -> None:
    """Install the handlers; call it when the reactor runs, because it installs its own when it starts.

    twistd ends itself with the signal that stopped the reactor; a supervisor should see exit code 0 after an
    orderly stop, so SIGTERM and SIGINT go around that.  A second SIGINT ends the process at once.

    :param stop: stops the reactor, unless it is stopping already.
    """

    def terminate(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        reactor.callFromThread(stop)

    def hang_up(number: int, frame: FrameType | None) -> None:
        reactor.callFromThread(reload)

    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGINT, terminate)
    signal.signal(signal.SIGHUP, hang_up)
