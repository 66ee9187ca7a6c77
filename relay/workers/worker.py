"""A worker: one process that takes mail on ports which its parent has bound."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from io import TextIOWrapper
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import ITransport
from twisted.internet.protocol import Protocol
from twisted.logger import ILogObserver, Logger, globalLogBeginner
from twisted.python.failure import Failure

from relay.config import Config, taken_over
from relay.errors import ConfigError
from relay.intake import CLOSING, GREETED, Intake, Internal, MakeThread
from relay.operate.listening import CannotStart, Listener, Where
from relay.operate.log import JSONLines, TextLines
from relay.spool.pacing import within
from relay.spool.values import Seat
from relay.spool.writer import WriterThread
from relay.workers import logs
from relay.workers.channel import FIRST_SOCKET, Lines, Message, encode
from relay.workers.joined import families
from relay.workers.sharing import Sharing

#: Seconds that the last words to the parent may take.
_LAST_WORDS = 2.0

log = Logger()


def begin_logging(observer: ILogObserver) -> None:
    """Log to *observer* from now on."""
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)


class Worker(Protocol):
    """What the parent talks to.

    :param begin_logging: told of the one observer.
    :param completed: called when all is made that a start makes.
    :ivar code: what the process ends with.
    """

    transport: ITransport

    def __init__(
        self,
        number: int,
        reactor: Any,
        *,
        begin_logging: Callable[[ILogObserver], None] = begin_logging,
        completed: Callable[[], None] = lambda: None,
        make_thread: MakeThread = partial(WriterThread, waits=True),  # noqa: B008 - makes one when it is called
    ) -> None:
        self.code = 0
        self._number = number
        self._reactor = reactor
        self._begin_logging = begin_logging
        self._completed = completed
        self._make_thread = make_thread
        self._lines = Lines()
        self._intake: Intake | None = None
        self._sharing: Sharing | None = None
        self._connected = True
        self._ending = False
        self._left = False

    def tell(self, word: str, *values: Any) -> None:
        """Say something to the parent."""
        self.transport.write(encode(word, *values))

    def dataReceived(self, data: bytes) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        for message in self._lines.feed(data):
            self._hear(message)

    def connectionLost(self, reason: Failure | None = None) -> None:
        """All is said, or the parent is gone: nobody would start us again, or tell us to end."""
        self._connected = False
        if self._left:
            self._stop_reactor()
        else:
            self.stop()

    def stop(self) -> None:
        """End in order; a second time changes nothing."""
        if not self._ending:
            self._ending = True
            Deferred.fromCoroutine(self._end()).addErrback(self._failed)

    def _hear(self, message: Message) -> None:
        word, *values = message
        if word == "hello":
            self._begin(*values)
        elif word == "stop":
            self.stop()
        elif self._intake is None or self._sharing is None:
            return  # it could not begin, and ends
        elif word == "refuse":
            Deferred.fromCoroutine(self._refuse(self._intake)).addErrback(self._failed)
        elif word == "retire":
            Deferred.fromCoroutine(self._retire(self._intake)).addErrback(self._failed)
        elif word == "metrics":
            self.tell("answer", *values, families(self._intake.metrics.registry))
        elif word == "state":
            Deferred.fromCoroutine(self._say_state(self._intake, *values)).addErrback(self._failed)
        elif word == "free":
            Deferred.fromCoroutine(self._intake.free(*values)).addErrback(self._failed)
        elif word == "told":
            self._sharing.told(*values)
        elif word == "gone":
            self._sharing.gone(*values)
        elif word == "again":
            self._sharing.again()

    # --- beginning

    def _begin(self, hello: dict[str, Any]) -> None:
        config = taken_over(hello["config"])
        self._begin_logging(self._observer(config, hello["inherits_output"]))
        seat = Seat(self._number, hello["owner"], hello["epoch"], tuple(hello["free"]))
        internal = Internal(*hello["internal"]) if hello["internal"] else None
        try:
            intake = Intake(config, self._reactor, seat)
            listeners = [
                Listener(self._reactor, Where("smtp", endpoint, "listen"), config.proxy_from, descriptor)
                for descriptor, endpoint in enumerate(hello["listeners"], FIRST_SOCKET)
            ]
            for listener in listeners:
                listener.bind()
            intake.open(listeners, internal, self._make_thread)
        except (CannotStart, ConfigError, OSError) as error:
            log.critical("{problem}", problem=str(error))
            self._leave(1)
            return
        self._intake = intake
        self._sharing = self._share(intake)
        start: Any = intake  # untyped in Twisted
        start.startService()
        self.tell("ready")
        self._reactor.callLater(GREETED, self._complete, intake)

    def _complete(self, intake: Intake) -> None:
        """Make the rest, after who waits is greeted."""
        intake.complete()
        self._completed()

    def _share(self, intake: Intake) -> Sharing:
        """Connect *intake* with those of the other workers."""
        factory, keys, spool = intake.factory, intake.keys, intake.spool
        assert factory is not None and keys is not None and spool is not None
        return Sharing(
            partial(self.tell, "tell"),
            self._reactor,
            connections=factory.connections,
            rate=factory.rate,
            keys=keys,
            ledger=spool.ledger,
            expect_memories=spool.store.expect_memories,
            pause=intake.pause,
        )

    def _observer(self, config: Config, inherits_output: bool) -> ILogObserver:
        if not inherits_output:
            return logs.Named(self._number, logs.ToParent(self.tell))
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        if config.log_format == "json":
            return logs.Named(self._number, JSONLines(sys.stdout))
        return TextLines(sys.stdout, f"worker {self._number} ")

    # --- running

    async def _say_state(self, intake: Intake, question: int) -> None:
        missing = await intake.missing()
        self.tell("answer", question, {"missing": dict(missing), "breakers": dict(intake.breakers())})

    # --- ending

    async def _retire(self, intake: Intake) -> None:
        """Take no new connections; end when the sessions have, or the longest silence that they may keep is over."""
        waiting = intake.retire()
        self.tell("retired")
        await within(self._reactor, intake.config.limits.idle, waiting)
        self.stop()

    async def _refuse(self, intake: Intake) -> None:
        """Take no new connections, because all is to end."""
        await intake.refuse()
        self.tell("retired")

    async def _end(self) -> None:
        if self._intake is not None:
            await self._refuse(self._intake)
            answers = await self._intake.drain()
            if not await within(self._reactor, CLOSING, self._close(self._intake)) or not answers:
                log.error("the spool does not answer, and is left as it is")
            self.tell("counted", families(self._intake.metrics.registry))
        self._leave(self.code)

    async def _close(self, intake: Intake) -> None:
        stop: Any = intake  # untyped in Twisted
        stopped: Any = stop.stopService()
        if isinstance(stopped, Deferred):
            await stopped
        await intake.close()

    def _failed(self, failure: Failure) -> None:
        log.failure("the worker failed", failure)
        self._leave(1)

    def _leave(self, code: int) -> None:
        self.code = code
        self._ending = self._left = True
        if self._connected:
            # What was said last has to arrive; but a parent that does not listen keeps nobody.
            self.transport.loseConnection()
            self._reactor.callLater(_LAST_WORDS, self._stop_reactor)
        else:
            self._stop_reactor()

    def _stop_reactor(self) -> None:
        with suppress(ReactorNotRunning):
            self._reactor.stop()
