"""Starts workers, watches them, replaces them one by one, and stops them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IDelayedCall, IProcessTransport, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from relay.errors import ConfigError
from relay.workers.channel import FROM_PARENT, TO_PARENT, Lines, Message, encode

#: Seconds after which a worker counts as one that works: its end is then no reason to wait with the next.
STEADY = 60.0
#: Seconds before the second start in a row; doubles with each.
FIRST_DELAY = 1.0
#: Longest such delay, and longest after a worker that took connections.
LONGEST_DELAY, LONGEST_AFTER_READY = 30.0, 2.0

log = Logger()


class Worker(ProcessProtocol):
    """One worker, as the parent sees it.

    :ivar number: which one it is, from 1; no two that live have the same.
    :ivar takes: whether it takes connections.
    :ivar was_ready: whether it ever did.
    :ivar ready: fires with whether it takes connections, or has ended before it did.
    :ivar retired: fires when it takes none any more.
    :ivar gone: fires when it has ended.
    """

    transport: IProcessTransport | None = None

    def __init__(self, number: int, heard: Callable[[Worker, Message], None], said: Callable[[Worker, bytes], None]):
        self.number = number
        self.takes = self.was_ready = False
        self.ready: Deferred[bool] = Deferred()
        self.retired: Deferred[None] = Deferred()
        self.gone: Deferred[str] = Deferred()
        self._heard = heard
        self._said = said
        self._lines = Lines()

    def tell(self, word: str, *values: Any) -> None:
        """Say something to it, unless it is gone."""
        if self.transport is not None and not self.gone.called:
            self.transport.writeToChild(FROM_PARENT, encode(word, *values))

    def kill(self) -> None:
        """kill -9."""
        with suppress(ProcessExitedAlready):
            assert self.transport is not None
            self.transport.signalProcess("KILL")

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """See :class:`twisted.internet.interfaces.IProcessProtocol`."""
        if childFD != TO_PARENT:
            self._said(self, data)
            return
        for message in self._lines.feed(data):
            if message[0] == "ready":
                self.takes = self.was_ready = True
                self.ready.callback(True)
            elif message[0] == "retired":
                self._retire()
            else:
                self._heard(self, message)

    def processEnded(self, reason: Failure) -> None:
        """See :class:`twisted.internet.interfaces.IProcessProtocol`."""
        if not self.ready.called:
            self.ready.callback(False)
        self._retire()
        self.gone.callback(_how(reason))

    def _retire(self) -> None:
        self.takes = False
        if not self.retired.called:
            self.retired.callback(None)


@define
class _Place:
    """One of the places that are always taken.

    :ivar failures: how often in a row who had it ended too soon.
    :ivar since: when who has it was started.
    """

    worker: Worker | None = None
    failures: int = 0
    since: float = 0.0
    restart: IDelayedCall | None = None


@define(eq=False)
class Supervisor:
    """Keeps as many workers as there are places.

    :param start: starts the process of a worker and says hello to it.
    :param heard: told what a worker says.
    :param said: told what a worker writes to its standard output or error, where that is not ours.
    :param ended: told of each worker that is gone.
    :ivar workers: all that live, also those that are to end.
    :ivar restarts: how many ended that should not have.
    """

    places: int
    _clock: IReactorTime
    _start: Callable[[Worker], None]
    _heard: Callable[[Worker, Message], None]
    _said: Callable[[Worker, bytes], None]
    _ended: Callable[[Worker], None]
    workers: list[Worker] = field(factory=list, init=False)
    restarts: int = field(default=0, init=False)
    _places: list[_Place] = field(factory=list, init=False)
    _started: Deferred[None] = field(factory=Deferred, init=False)
    _stopping: bool = field(default=False, init=False)
    _replacing: bool = field(default=False, init=False)
    _again: bool = field(default=False, init=False)

    def start(self) -> Deferred[None]:
        """Start all; fires when for the first time as many take connections as there are places."""
        self._places = [_Place() for _ in range(self.places)]
        for place in self._places:
            self._take(place)
        return self._started

    @property
    def takes(self) -> list[Worker]:
        """The workers that take connections."""
        return [each for each in self.workers if each.takes]

    def tell(self, word: str, *values: Any, but: Worker | None = None) -> None:
        """Say something to all workers, or to all *but* one."""
        for worker in self.workers:
            if worker is not but:
                worker.tell(word, *values)

    def replace(self, leave: float) -> Deferred[bool]:
        """Start a successor for each worker, one after the other; the one before then takes no more connections.

        :param leave: seconds after which one that was replaced is killed.
        :return: fires with whether all were replaced; a successor that does not come leaves the others as they are.
        """
        return Deferred.fromCoroutine(self._replace(leave))

    def stop(self, seconds: float) -> Deferred[None]:
        """Let all end in order, and kill what has not ended within *seconds*."""
        self._stopping = True
        for place in self._places:
            if place.restart is not None and place.restart.active():
                place.restart.cancel()
        self.tell("stop")
        for worker in self.workers:
            self._kill_after(worker, seconds)
        gone: Deferred[list[str]] = gatherResults([_copy(each.gone) for each in self.workers])
        return gone.addCallback(lambda _: None)

    def refuse(self) -> Deferred[None]:
        """Let none take connections; fires when none does.  :meth:`stop` follows."""
        self._stopping = True
        self.tell("refuse")
        retired: Deferred[list[None]] = gatherResults([_copy(each.retired) for each in self.workers])
        return retired.addCallback(lambda _: None)

    # --- one worker

    def _take(self, place: _Place) -> None:
        """Start a worker for *place*."""
        place.restart = None
        place.worker = self._new()
        place.since = self._clock.seconds()

    def _new(self) -> Worker:
        """Start a worker with a number that is free."""
        used = {each.number for each in self.workers}
        number = next(number for number in range(1, len(used) + 2) if number not in used)
        worker = Worker(number, self._heard, self._said)
        self.workers.append(worker)
        _copy(worker.ready).addCallback(self._check_started)
        _copy(worker.gone).addCallback(self._end, worker)
        try:
            self._start(worker)
        except (ConfigError, OSError) as error:
            log.error("worker {number} cannot be started: {why}", number=number, why=str(error))
            self._clock.callLater(0, worker.processEnded, Failure())
        return worker

    def _check_started(self, _: bool) -> None:
        if len(self.takes) >= self.places and not self._started.called:
            self._started.callback(None)

    def _end(self, how: str, worker: Worker) -> None:
        self.workers.remove(worker)
        self._ended(worker)
        place = next((each for each in self._places if each.worker is worker), None)
        if place is None or self._stopping:
            return
        self.restarts += 1
        place.worker = None
        if self._clock.seconds() - place.since >= STEADY:
            place.failures = 0
        longest = LONGEST_AFTER_READY if worker.was_ready else LONGEST_DELAY
        delay = min(FIRST_DELAY * 2.0 ** (place.failures - 1), longest) if place.failures else 0.0
        place.failures = min(place.failures + 1, 32)
        log.error(
            "worker {number} has ended by itself ({how}), another one is started in {delay:.0f} s",
            number=worker.number,
            how=how,
            delay=delay,
        )
        place.restart = self._clock.callLater(delay, self._take, place)

    async def _replace(self, leave: float) -> bool:
        if self._replacing:
            self._again = True
            return True
        self._replacing = True
        try:
            while True:
                self._again = False
                for place in self._places:
                    if self._stopping or not await self._succeed(place, leave):
                        return False
                if not self._again:
                    return True
        finally:
            self._replacing = False

    async def _succeed(self, place: _Place, leave: float) -> bool:
        """Put a new worker into *place*; whether it takes connections."""
        successor = self._new()
        if not await _copy(successor.ready):
            return False
        before, place.worker = place.worker, successor
        place.since, place.failures = self._clock.seconds(), 0
        if place.restart is not None and place.restart.active():
            place.restart.cancel()
        if before is not None:
            before.tell("retire")
            self._kill_after(before, leave)
            await _copy(before.retired)
        return True

    def _kill_after(self, worker: Worker, seconds: float) -> None:
        def late() -> None:
            log.error("worker {number} has not ended within {seconds:.0f} s, it is killed",
                      number=worker.number, seconds=seconds)  # fmt: skip
            worker.kill()

        timer = self._clock.callLater(seconds, late)
        _copy(worker.gone).addCallback(lambda _: timer.cancel() if timer.active() else None)


def _copy(source: Deferred[Any]) -> Deferred[Any]:
    """A Deferred for one who waits, of one that several wait for."""
    waiter: Deferred[Any] = Deferred()

    def fire(result: Any) -> Any:
        waiter.callback(result)
        return result

    source.addCallback(fire)
    return waiter


def _how(reason: Failure) -> str:
    """How a process ended, for people."""
    value = reason.value
    if isinstance(value, ProcessTerminated) and value.signal:
        return f"signal {value.signal}"
    return f"exit code {getattr(value, 'exitCode', None)}"
