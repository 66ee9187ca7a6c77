"""What is done again and again while the relay runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

log = Logger()


class Periodic(Service):
    """Does something when it starts, and from then on every so many seconds, until it stops or the work raises.

    It is what :class:`twisted.application.internet.TimerService` is, beside which so much is imported that a relay
    would start a twentieth later.

    :param work: may return a Deferred, and is not begun again before it has fired.
    """

    def __init__(self, clock: IReactorTime, seconds: float, work: Callable[[], object]) -> None:
        self._seconds = seconds
        self._loop = LoopingCall(work)
        self._loop.clock = clock
        self._ended: Deferred[Any] | None = None

    def setServiceParent(self, parent: Any) -> None:
        """See :class:`twisted.application.service.IService`; typed."""
        Service.setServiceParent(self, parent)

    def startService(self) -> None:
        """See :class:`twisted.application.service.IService`."""
        Service.startService(self)
        self._ended = self._loop.start(self._seconds).addErrback(self._failed)

    def stopService(self) -> Deferred[Any] | None:
        """See :class:`twisted.application.service.IService`; waits for what is under way."""
        Service.stopService(self)
        if self._loop.running:
            self._loop.stop()
        return self._ended

    def _failed(self, failure: Failure) -> None:
        log.failure("what is done every {seconds:.0f} s failed, and is not done again", failure, seconds=self._seconds)
