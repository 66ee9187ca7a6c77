"""The processes that render: who gets which body, and what happens when one dies."""

from __future__ import annotations

import json
import signal
import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from relay.embedded.render import Limits, Renderer
from relay.embedded.rules import Refused
from relay.embedded.template import Rendered, TemplateError


class Child:
    """A process that does what the test says."""

    def __init__(self, protocol: ProcessProtocol, arguments: list[str]) -> None:
        self.protocol = protocol
        self.arguments = arguments
        self.written: list[dict[str, Any]] = []
        self.killed = False
        self.gone = False

    def write(self, line: bytes) -> None:
        self.written.append(json.loads(line))

    def signalProcess(self, name: str) -> None:
        if self.gone:
            raise ProcessExitedAlready
        self.killed = True

    def say(self, **said: Any) -> None:
        """Answer, in two pieces."""
        line = json.dumps(said).encode() + b"\n"
        self.protocol.outReceived(line[:3])
        self.protocol.outReceived(line[3:])

    def end(self, status: int | None = None, signal: int | None = None) -> None:
        """End as the operating system would tell it."""
        self.gone = True
        reason = ProcessTerminated(status, signal) if status or signal else ProcessDone(0)
        self.protocol.processEnded(Failure(reason))


class Spawner(Clock):
    """A clock that also starts children."""

    def __init__(self) -> None:
        super().__init__()
        self.children: list[Child] = []

    def spawnProcess(self, protocol: ProcessProtocol, executable: str, arguments: list[str], env: object) -> None:
        assert (executable, env) == (sys.executable, {})
        child = Child(protocol, arguments)
        protocol.transport = child
        self.children.append(child)


class RendererTests(SynchronousTestCase):
    """A renderer of two processes."""

    def setUp(self) -> None:
        self.reactor = Spawner()
        self.renderer = Renderer(self.reactor, Limits(processes=2, waiting=3, memory=7, cpu=8, wall=9.0))
        self.children = self.reactor.children

    def render(self, source: str = "a") -> Deferred[Rendered]:
        return self.renderer.render(source, {"name": "Zoë"})

    def refused(self, done: Deferred[Rendered], words: str) -> None:
        self.assertIn(words, str(self.failureResultOf(done, TemplateError).value))

    def test_lazy(self) -> None:
        """No process runs before the first body; one process serves one body after the other."""
        self.assertEqual(self.children, [])
        for number in range(3):
            done = self.render(str(number))
            self.assertNoResult(done)
            (child,) = self.children
            self.assertEqual(child.written[-1], {"source": str(number), "variables": {"name": "Zoë"}})
            child.say(body=f"<{number}>")
            self.assertEqual(self.successResultOf(done), Rendered(f"<{number}>"))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_limits(self) -> None:
        """The child is told its limits, starts isolated, and finds our modules."""
        self.render()
        isolated, _, _, memory, cpu, *path = self.children[0].arguments[1:]
        self.assertEqual((isolated, memory, cpu), ("-I", "7", "8"))
        self.assertTrue(path)
        self.assertNotIn("", path)

    def test_side_by_side(self) -> None:
        """Two bodies are rendered side by side; more wait for the first that is free, in order."""
        done = [self.render(str(number)) for number in range(4)]
        self.assertEqual(len(self.children), 2)
        self.children[1].say(body="one")
        self.assertEqual(self.children[1].written[-1]["source"], "2")
        self.children[1].say(body="two")
        self.children[1].say(body="three")
        self.children[0].say(body="zero")
        self.assertEqual([self.successResultOf(each).text for each in done], ["zero", "one", "two", "three"])

    def test_bounded(self) -> None:
        """When too many wait, the next is asked to come again."""
        for _ in range(5):
            self.render()
        refused = self.failureResultOf(self.render(), Refused).value
        self.assertEqual(refused.status, 503)

    def test_mistake(self) -> None:
        """A mistake in the template is told, and the process goes on."""
        done = self.render()
        self.children[0].say(error="no", line=3)
        self.refused(done, "line 3: no")
        self.render()
        self.assertEqual(len(self.children), 1)

    def test_undefined(self) -> None:
        """What a body missed comes with it."""
        done = self.render()
        self.children[0].say(body="x", undefined=["name"])
        self.assertEqual(self.successResultOf(done), Rendered("x", ("name",)))

    def test_source_alone(self) -> None:
        """Without variables the process is asked to look at the source only."""
        self.renderer.render("a", None)
        self.assertIsNone(self.children[0].written[-1]["variables"])

    def test_wall_clock(self) -> None:
        """A body that takes too long is refused, its process killed, and the next gets a new one."""
        done = self.render()
        self.reactor.advance(8.9)
        self.assertFalse(self.children[0].killed)
        self.reactor.advance(0.2)
        self.assertTrue(self.children[0].killed)
        self.assertNoResult(done)
        self.children[0].end(signal=signal.SIGKILL)
        self.refused(done, "too much time")
        again = self.render()
        self.children[1].say(body="x")
        self.assertEqual(self.successResultOf(again).text, "x")

    def test_cpu_time(self) -> None:
        """A process that its CPU limit ended is a template that takes too much time."""
        done = self.render()
        self.children[0].end(signal=signal.SIGXCPU)
        self.refused(done, "too much time")

    def test_crash(self) -> None:
        """A process that dies refuses its own body only; the reason is logged."""
        done = [self.render() for _ in range(3)]
        self.children[0].protocol.errReceived(b"Segmentation fault")
        self.children[0].end(signal=signal.SIGSEGV)
        self.refused(done[0], "ended the process")
        self.assertEqual(len(self.children), 3)
        self.children[1].say(body="one")
        self.children[2].say(body="two")
        self.assertEqual([self.successResultOf(each).text for each in done[1:]], ["one", "two"])

    def test_memory(self) -> None:
        """A process that ran out of memory says so and is given nothing more."""
        done = self.render()
        self.children[0].say(error="too much memory", ends=True)
        self.refused(done, "too much memory")
        self.render()
        self.assertEqual(len(self.children[0].written), 1)
        self.assertEqual(len(self.children), 2)

    def test_dies_idle(self) -> None:
        """A process that ends while idle is replaced by the next body."""
        self.render()
        self.children[0].say(body="x")
        self.children[0].end()
        self.render()
        self.assertEqual(len(self.children), 2)

    def test_stop(self) -> None:
        """Stopping kills the processes, waits for them, and asks the clients to come again."""
        done = [self.render() for _ in range(3)]
        self.children[1].say(body="x")
        self.successResultOf(done[1])
        stopped = self.renderer.stop()
        self.assertTrue(all(child.killed for child in self.children))
        self.assertNoResult(stopped)
        for child in self.children:
            child.end(signal=signal.SIGKILL)
        self.successResultOf(stopped)
        self.assertEqual(self.failureResultOf(done[0], Refused).value.status, 503)
        self.assertEqual(self.failureResultOf(done[2], Refused).value.status, 503)
        self.assertEqual(self.failureResultOf(self.render(), Refused).value.status, 503)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
