"""Renders bodies in processes of their own, which may burn and be replaced (THREATS.md, "Jinja2")."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections import deque
from pathlib import Path
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred, DeferredList, fail
from twisted.internet.error import ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IDelayedCall, IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

import relay
from relay.embedded.rules import Refused
from relay.embedded.template import Rendered, TemplateError
from relay.values import JSONObject

#: ``-I`` keeps the environment and the working folder out of the child; its path is the parent's, given as arguments.
_BOOT = (
    "import sys; memory, cpu, *path = sys.argv[1:]; sys.path[:] = path; "
    "from relay.embedded.render_worker import main; main(int(memory), int(cpu))"
)

TIME = "the template takes too much time"
DIED = "the template cannot be rendered: it ended the process that tried"

_log = Logger()


@frozen
class Limits:
    """Bounds of rendering.

    :ivar processes: most processes.
    :ivar waiting: most bodies that wait for one.
    :ivar memory: of a process, address space in bytes.
    :ivar cpu: of one body, in seconds.
    :ivar wall: of one body, in seconds; then the process is killed.
    """

    processes: int = 2
    waiting: int = 200
    memory: int = 402_653_184
    cpu: int = 2
    wall: float = 10.0


@frozen
class _Job:
    line: bytes
    done: Deferred[Rendered]


class Renderer:
    """A few processes and a queue before them.

    :param reactor: spawns processes and has a clock.
    """

    def __init__(self, reactor: Any, limits: Limits | None = None) -> None:
        self._reactor = reactor
        self._limits = limits or Limits()
        self._idle: list[_Process] = []
        self._processes: set[_Process] = set()
        self._waiting: deque[_Job] = deque()
        self._stopping = False

    def render(self, source: str, variables: JSONObject | None) -> Deferred[Rendered]:
        """*source* with *variables*; without any it is looked at for mistakes and comes back as it is.

        :raises TemplateError: a mistake in it, or a limit it went past.
        :raises Refused: 503, too many bodies wait already, or the service stops.
        """
        if self._stopping or len(self._waiting) >= self._limits.waiting:
            return fail(Refused(503, "Busy", "Too many templates wait to be rendered, try again later"))
        given = None if variables is None else dict(variables)
        job = _Job(json.dumps({"source": source, "variables": given}).encode() + b"\n", Deferred())
        self._waiting.append(job)
        self._assign()
        return job.done

    def stop(self) -> Deferred[None]:
        """End the processes; what waits gets a 503.  Fires when they are gone."""
        self._stopping = True
        waiting, self._waiting = self._waiting, deque()
        for job in waiting:
            job.done.errback(_stopping())
        gone = DeferredList([process.end() for process in list(self._processes)])
        return gone.addCallback(lambda results: None)

    def _assign(self) -> None:
        """Give what waits to processes that are free, starting them as needed."""
        while self._waiting:
            if not self._idle:
                if len(self._processes) >= self._limits.processes:
                    return
                self._start()
            self._idle.pop().run(self._waiting.popleft())

    def _start(self) -> None:
        process = _Process(self._reactor, self._limits, self._free, self._ended)
        self._processes.add(process)
        self._idle.append(process)
        limits = [str(self._limits.memory), str(self._limits.cpu)]
        self._reactor.spawnProcess(process, sys.executable, [sys.executable, "-I", "-c", _BOOT, *limits, *_path()], {})

    def _free(self, process: _Process) -> None:
        self._idle.append(process)
        self._assign()

    def _ended(self, process: _Process) -> None:
        self._processes.discard(process)
        if process in self._idle:
            self._idle.remove(process)
        self._assign()


class _Process(ProcessProtocol):
    """One child, with at most one body at a time."""

    transport: IProcessTransport

    def __init__(self, reactor: Any, limits: Limits, free: Any, ended: Any) -> None:
        self._reactor = reactor
        self._limits = limits
        self._free = free
        self._ended = ended
        self._job: _Job | None = None
        self._deadline: IDelayedCall | None = None
        self._late = False
        self._stopping = False
        self._received: list[bytes] = []
        self._complaint = b""
        self._gone: Deferred[None] = Deferred()

    def run(self, job: _Job) -> None:
        self._job = job
        self._received = []
        self._deadline = self._reactor.callLater(self._limits.wall, self._kill)
        self.transport.write(job.line)

    def end(self) -> Deferred[None]:
        """Kill the child; fires when it is gone."""
        self._stopping = True
        self._signal()
        return self._gone

    def outReceived(self, data: bytes) -> None:
        self._received.append(data)
        if data.endswith(b"\n"):
            self._answered(b"".join(self._received))

    def errReceived(self, data: bytes) -> None:
        self._complaint = (self._complaint + data)[-2000:]

    def processEnded(self, reason: Failure) -> None:
        job = self._finish()
        if job is not None:
            job.done.errback(self._failure(reason))
        self._ended(self)
        self._gone.callback(None)

    def _failure(self, reason: Failure) -> Exception:
        """What the one learns whose body the child did not finish."""
        if self._stopping:
            return _stopping()
        if self._late or getattr(reason.value, "signal", None) == signal.SIGXCPU:
            return TemplateError(TIME)
        complaint = self._complaint.decode("utf-8", "replace")
        _log.error(
            "embedded: a rendering process ended: {reason} {complaint}", reason=_how(reason), complaint=complaint
        )
        return TemplateError(DIED)

    def _answered(self, line: bytes) -> None:
        job = self._finish()
        if job is None:
            return
        said = json.loads(line)
        if not said.get("ends"):
            # Free first: what the answer sets off may want to render.
            self._free(self)
        if "body" in said:
            job.done.callback(Rendered(said["body"], tuple(said.get("undefined", ()))))
        else:
            job.done.errback(TemplateError(said["error"], said.get("line")))

    def _finish(self) -> _Job | None:
        job, self._job = self._job, None
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        return job

    def _kill(self) -> None:
        self._late = True
        self._signal()

    def _signal(self) -> None:
        with contextlib.suppress(ProcessExitedAlready):
            self.transport.signalProcess("KILL")


def _stopping() -> Refused:
    return Refused(503, "Stopping", "The service stops, try again later")


def _path() -> list[str]:
    """Where the child finds what the parent found."""
    return [str(Path(relay.__file__).resolve().parents[1]), *(each for each in sys.path if Path(each).is_absolute())]


def _how(reason: Failure) -> str:
    value = reason.value
    if isinstance(value, ProcessTerminated) and value.signal:
        return f"signal {value.signal}"
    return str(getattr(value, "exitCode", value))
