"""Workers that start, end, are replaced and stopped, on a clock and without a process."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from relay.workers.channel import Message
from relay.workers.supervision import LONGEST_DELAY, STEADY, Supervisor, Worker
from tests.workers.processes import Process


class SupervisionCase(SynchronousTestCase):
    """Two places."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.started: list[Process] = []
        self.heard: list[tuple[int, Message]] = []
        self.ended: list[int] = []
        self.broken = False
        self.supervisor = Supervisor(
            2,
            self.clock,
            self.start,
            lambda worker, message: self.heard.append((worker.number, message)),
            lambda worker, data: None,
            lambda worker: self.ended.append(worker.number),
        )
        self.events: list[dict] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)

    def start(self, worker: Worker) -> None:
        if self.broken:
            raise OSError("no more processes")
        self.started.append(Process(worker))

    def running(self) -> list[Process]:
        """Two that take connections."""
        self.supervisor.start()
        for each in self.started:
            each.says("ready")
        return self.started[:]

    @property
    def numbers(self) -> list[int]:
        return [each.number for each in self.supervisor.workers]


class StartTests(SupervisionCase):
    def test_ready(self) -> None:
        """The relay is ready when all take connections, also when one had to be started twice."""
        started = self.supervisor.start()
        first, second = self.started
        first.says("ready")
        self.assertNoResult(started)
        second.ends(11)
        self.clock.advance(0)
        self.assertNoResult(started)
        self.started[2].says("ready")
        self.successResultOf(started)

    def test_restart(self) -> None:
        """One that ends by itself has a successor at once, with its number, and everybody hears of the end."""
        first, _ = self.running()
        first.ends(9)
        self.clock.advance(0)
        self.assertEqual((self.ended, self.numbers, self.supervisor.restarts), ([1], [2, 1], 1))
        (said,) = [each for each in self.events if each.get("log_level") is LogLevel.error]
        self.assertEqual((said["number"], said["how"]), (1, "signal 9"))

    def test_backoff(self) -> None:
        """One that ends again and again is started after growing delays, until it has worked for a minute."""
        self.running()
        delays = []
        for _ in range(8):
            self.started[-1].ends(9)
            waited = 0.0
            count = len(self.started)
            self.clock.advance(0)
            while len(self.started) == count:
                self.clock.advance(0.5)
                waited += 0.5
            delays.append(waited)
        self.assertEqual(delays, [0, 1, 2, 4, 8, 16, LONGEST_DELAY, LONGEST_DELAY])
        self.started[-1].says("ready")
        self.clock.advance(STEADY)
        self.started[-1].ends(9)
        self.clock.advance(0)
        self.assertEqual(len(self.supervisor.workers), 2)

    def test_killed_again_and_again(self) -> None:
        """One that works until somebody kills it is started again after two seconds at most."""
        self.running()
        for _ in range(8):
            self.started[-1].ends(9)
            self.clock.advance(2)
            self.assertEqual(len(self.supervisor.workers), 2)
            self.started[-1].says("ready")

    def test_no_process(self) -> None:
        """When the system gives no process the relay tries again later."""
        self.running()
        self.broken = True
        self.started[0].ends(9)
        self.clock.advance(0)
        self.clock.advance(0)
        self.assertEqual(self.numbers, [2])
        self.broken = False
        self.clock.advance(1)
        self.assertEqual(self.numbers, [2, 1])
        self.assertIn("no more processes", [event.get("why") for event in self.events])

    def test_said(self) -> None:
        """What a worker says is passed on; what is said to all can leave one out."""
        first, second = self.running()
        first.says("tell", "topic", 1)
        self.supervisor.tell("told", but=first.worker)
        self.assertEqual((self.heard, first.words, second.words), ([(1, ["tell", "topic", 1])], [], ["told"]))


class ReplaceTests(SupervisionCase):
    def test_one_by_one(self) -> None:
        """Each gets a successor, and takes connections until that one does; then it is the next one's turn."""
        first, second = self.running()
        replaced = self.supervisor.replace(300)
        self.assertEqual((self.numbers, first.words), ([1, 2, 3], []))
        self.started[2].says("ready")
        self.assertEqual((first.words, second.words, len(self.started)), (["retire"], [], 3))
        first.says("retired")
        self.assertEqual(self.numbers, [1, 2, 3, 4])
        self.started[3].says("ready")
        self.assertNoResult(replaced)
        second.says("retired")
        self.assertTrue(self.successResultOf(replaced))
        self.assertEqual([each.number for each in self.supervisor.takes], [3, 4])
        first.ends()
        second.ends()
        self.clock.advance(1000)
        self.assertEqual((self.numbers, self.supervisor.restarts, first.signals), ([3, 4], 0, []))

    def test_bad_successor(self) -> None:
        """When a successor does not start, those that there are stay."""
        first, _ = self.running()
        replaced = self.supervisor.replace(300)
        self.started[2].ends(11)
        self.assertFalse(self.successResultOf(replaced))
        self.assertEqual(([each.number for each in self.supervisor.takes], first.words), ([1, 2], []))

    def test_killed_meanwhile(self) -> None:
        """One that is killed while its successor starts needs no other."""
        first, _ = self.running()
        self.supervisor.replace(300)
        first.ends(9)
        self.started[2].says("ready")
        self.started[3].says("ready")
        self.clock.advance(100)
        self.assertEqual(self.numbers, [2, 3, 1])  # 2 retires, and 1 is its successor

    def test_again(self) -> None:
        """A second SIGHUP while the first goes on replaces all once more, so that its configuration is taken."""
        self.running()
        replaced = self.supervisor.replace(300)
        self.assertTrue(self.successResultOf(self.supervisor.replace(300)))
        for number in range(2, 6):
            self.assertNoResult(replaced)
            self.started[number].says("ready")
            self.started[number - 2].says("retired")
        self.assertTrue(self.successResultOf(replaced))
        self.assertEqual([each.worker for each in self.started[4:]], self.supervisor.takes)

    def test_never_ends(self) -> None:
        """One that was replaced and does not end is killed in the end."""
        first, _ = self.running()
        self.supervisor.replace(300)
        self.started[2].says("ready")
        self.clock.advance(299)
        self.assertEqual(first.signals, [])
        self.clock.advance(1)
        self.assertEqual(first.signals, ["KILL"])


class StopTests(SupervisionCase):
    def test_stop(self) -> None:
        """First none takes connections, then all are told to end, and none is started again."""
        first, second = self.running()
        refused = self.supervisor.refuse()
        self.assertEqual((first.words, second.words), (["refuse"], ["refuse"]))
        first.says("retired")
        self.assertNoResult(refused)
        second.says("retired")
        self.successResultOf(refused)
        stopped = self.supervisor.stop(60)
        self.assertEqual((first.words[1:], second.words[1:]), (["stop"], ["stop"]))
        first.ends()
        self.assertNoResult(stopped)
        second.ends()
        self.successResultOf(stopped)
        self.assertEqual((self.clock.getDelayedCalls(), len(self.started)), ([], 2))

    def test_deadline(self) -> None:
        """One that does not end in time is killed."""
        first, second = self.running()
        stopped = self.supervisor.stop(60)
        first.ends()
        self.clock.advance(60)
        self.assertEqual((first.signals, second.signals), ([], ["KILL"]))
        second.ends(9)
        self.successResultOf(stopped)

    def test_while_one_waits(self) -> None:
        """A restart that is due later does not come any more."""
        self.running()
        for _ in range(2):
            self.started[-1].ends(9)
            self.clock.advance(0)
        self.started[0].ends()
        self.supervisor.stop(60)
        self.clock.advance(100)
        self.assertEqual(self.supervisor.workers, [])
