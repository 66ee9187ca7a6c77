"""``python -m relay.workers NUMBER``: what the parent starts; nobody else does."""

from __future__ import annotations

import gc
import signal
import sys
import time
from typing import Any

# A terminal sends these to all of its processes; the parent is who decides.  Before the imports, which take a while.
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_IGN)


def main() -> int:
    """Be a worker; the exit code."""
    gc.disable()  # until the worker is complete, as in relay.tap
    from twisted.internet import reactor, stdio

    from relay.operate.garbage import look_seldom
    from relay.workers.channel import FROM_PARENT, TO_PARENT
    from relay.workers.worker import Worker

    untyped: Any = reactor
    untyped.seconds = time.monotonic  # see relay.tap
    worker = Worker(int(sys.argv[1]), reactor, completed=look_seldom)
    standard_io: Any = stdio.StandardIO  # whose stub knows no arguments
    standard_io(worker, FROM_PARENT, TO_PARENT, reactor)
    untyped.callWhenRunning(signal.signal, signal.SIGTERM, lambda number, frame: untyped.callFromThread(worker.stop))
    untyped.run()
    return worker.code


if __name__ == "__main__":
    sys.exit(main())
