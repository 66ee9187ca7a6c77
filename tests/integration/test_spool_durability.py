"""What the store promised is on the disk, and a disk that fails promises nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from relay.errors import Reason, TemporaryFailure
from relay.policy import Spool
from relay.spool.store import Store
from relay.spool.values import Delivered
from relay.spool.writer import Inline
from tests.contract.test_store_contract import at_once
from tests.integration.clients.programs import require
from tests.integration.spool_program import spooled
from tests.integration.support import PATIENCE, ROOT

#: What SQLite calls to get a file on the disk, whichever this build uses.
SYNC = "fsync,fdatasync"


class Program:
    """The store in its own process, perhaps under strace from the start."""

    def __init__(self, folder: Path, *arguments: str, prefix: tuple[str, ...] = ()) -> None:
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "tests.integration.spool_program", str(folder), *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._watchdog = threading.Timer(PATIENCE, self.process.kill)
        self._watchdog.start()
        self.said = self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self, command: str) -> str:
        """The answer to *command*."""
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self._line()

    def end(self) -> None:
        """Let it end by itself."""
        self.process.communicate()
        self._watchdog.cancel()

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.end()


class Faults:
    """Lets system calls of a running process fail, with strace, until :meth:`end`."""

    def __init__(self, process: subprocess.Popen[str], inject: str) -> None:
        arguments = ["-f", "-p", str(process.pid), "-e", f"trace={SYNC}", "-e", f"inject={SYNC}:{inject}"]
        self.strace = subprocess.Popen(["strace", *arguments], stderr=subprocess.PIPE, text=True)
        assert self.strace.stderr is not None
        self.said = self.strace.stderr.readline()
        if "attached" not in self.said:
            self.strace.wait()
            raise SkipTest(f"strace cannot attach to a process here: {self.said.strip()}")

    def end(self) -> str:
        """Take the faults away; what strace saw."""
        self.strace.send_signal(signal.SIGINT)
        _, seen = self.strace.communicate()
        return seen


class DurabilityCase(SynchronousTestCase):
    """A folder, and a program that works in it."""

    def setUp(self) -> None:
        require("strace", "strace")
        self.new_folder()

    def new_folder(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()

    def program(self, *arguments: str, prefix: tuple[str, ...] = ()) -> Program:
        program = Program(self.folder, *arguments, prefix=prefix)
        self.addCleanup(program.kill)
        self.assertEqual(program.said, "open")
        return program


class SyncTests(DurabilityCase):
    """What the operating system is asked to do before a promise."""

    def promises(self, *arguments: str) -> list[bool]:
        """Whether the log was on the disk at each promise."""
        trace = self.folder / "trace"
        calls = f"trace={SYNC},pwrite64,write,pwritev"
        program = self.program(*arguments, prefix=("strace", "-f", "-y", "-o", str(trace), "-e", calls))
        for command in ("put A", "put B C D E F", "put G"):
            self.assertEqual(set(program.tell(command).split()), {"promised"})
        program.end()
        return synced(trace.read_text("utf-8", "replace"))

    def test_synced_before_the_promise(self) -> None:
        """Everything that was written of a message is flushed to the disk before anybody hears that it is kept."""
        self.assertEqual(self.promises(), [True, True, True])

    def test_the_test_sees(self) -> None:
        """With a lower ``synchronous`` this very test finds promises that are not on the disk."""
        for pragma in ("synchronous=NORMAL", "synchronous=OFF"):
            self.new_folder()
            self.assertEqual(self.promises(pragma), [False, False, False], pragma)


def synced(trace: str) -> list[bool]:
    """Whether, at each promise in the output of ``strace -f -y``, all that was written to the log was flushed."""
    found = []
    written = flushed = 0
    for line in trace.splitlines():
        call = re.search(r"(\w+)\(\d+<([^>]*)>", line)
        if call is None:
            # A call of another thread came in between: "<... fdatasync resumed>) = 0".  It is the writer's.
            if re.search(r"<\.\.\. f(data)?sync resumed>.*= 0$", line):
                flushed = written
            continue
        name, path = call.groups()
        if path.endswith("-wal") and name in ("pwrite64", "write", "pwritev"):
            written += 1
        elif path.endswith("-wal") and name in ("fsync", "fdatasync") and line.endswith("= 0"):
            flushed = written
        elif name == "write" and '"promised' in line:
            found.append(flushed == written > 0)
            # Each promise has to have been written for.
            written = flushed = 0
    return found


class FlushErrorTests(DurabilityCase):
    """The disk says EIO when it is to flush."""

    def listed(self, program: Program) -> list[str]:
        return program.tell("list").split()[1:]

    def test_no_promise(self) -> None:
        """While flushes fail nothing is promised; when the disk is back, only what was promised is there."""
        program = self.program()
        self.assertEqual(program.tell("put A"), "promised")
        faults = Faults(program.process, "error=EIO")
        self.assertEqual(program.tell("put B C"), "spool-failed spool-failed")
        self.assertEqual(program.tell("put D"), "spool-failed")
        program.tell("later 2")
        self.assertEqual(program.tell("put E"), "spool-failed")
        self.assertIn("EIO", faults.end())
        program.tell("later 2")
        self.assertEqual(program.tell("put F"), "promised")
        self.assertEqual(self.listed(program), ["A", "F"])
        self.assertEqual(program.tell("files"), "1")
        program.kill()
        self.assertEqual(self.listed(self.program()), ["A", "F"])

    def test_after_some_errors(self) -> None:
        """However many flushes fail, what was refused is not found later, and what comes then is kept."""
        for errors in (1, 2, 3, 5):
            program, faults = self.refused(errors)
            program.tell("later 2")
            second = program.tell("put C")
            faults.end()
            program.tell("later 2")
            self.assertIn(second, ("promised", "spool-failed"))
            expected = ["A", "C"] if second == "promised" else ["A"]
            self.assertEqual(self.listed(program), expected, errors)
            program.kill()
            self.assertEqual(self.listed(self.program()), expected, errors)

    def test_killed_after_the_error(self) -> None:
        """What was refused for a failed flush is not there after kill -9 either, though the log had it whole."""
        for errors in (1, 2, 3, 4):
            program, faults = self.refused(errors)
            program.kill()
            faults.end()
            self.assertEqual(self.listed(self.program()), ["A"], errors)

    def refused(self, errors: int) -> tuple[Program, Faults]:
        """A new spool with the message A, and B, which was refused because the first of so many flushes failed."""
        self.new_folder()
        program = self.program()
        self.assertEqual(program.tell("put A"), "promised")
        faults = Faults(program.process, f"error=EIO:when=1..{errors}")
        self.assertEqual(program.tell("put B"), "spool-failed")
        return program, faults


class FullDiskTests(SynchronousTestCase):
    """A small volume."""

    def setUp(self) -> None:
        self.mount("2m")
        self.store = self.open()

    def mount(self, size: str) -> None:
        if os.geteuid() != 0:
            raise SkipTest("only root can mount a small volume")
        self.volume = Path(self.mktemp()).absolute()
        self.volume.mkdir()
        mounted = self.command("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(self.volume))
        if mounted.returncode != 0:
            raise SkipTest(f"no volume can be mounted here: {mounted.stderr.strip()}")
        self.addCleanup(self.command, "umount", str(self.volume))
        self.clock = Clock()

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, capture_output=True, text=True, check=False)

    def open(self, **policy: int) -> Store:
        store = at_once(
            Store.open(
                f"sqlite:///{self.volume}/spool.sqlite3",
                key_file=self.volume / "spool.key",
                policy=Spool(**{"min_free": 0, **policy}),
                reactor=self.clock,
                monotonic=self.clock.seconds,
                thread=Inline(),
            )
        )
        self.addCleanup(lambda: at_once(store.close()))
        return store

    def fill(self, left: int) -> Path:
        """Take all space of the volume but *left* bytes."""
        found = os.statvfs(self.volume)
        ballast = self.volume / "ballast"
        ballast.write_bytes(b"x" * (found.f_bavail * found.f_frsize - left))
        return ballast

    def put_until_refused(self) -> tuple[list[str], Reason]:
        """The ids that were promised, and why the next was not."""
        promised: list[str] = []
        while len(promised) < 10_000:
            id = f"M{len(promised)}"
            try:
                at_once(self.store.put(spooled(id)))
            except TemporaryFailure as failure:
                return promised, failure.reason
            promised.append(id)
        raise AssertionError("the volume took ten thousand messages")

    def listed(self) -> list[str]:
        return [row.id for row in at_once(self.store.listing())]

    def test_full(self) -> None:
        """On a full disk messages are refused for now, what was promised is whole, and all goes on with space."""
        # For each number of bytes that are left the disk is full at another moment.
        for left in (100_000, 60_000, 30_000, 14_000):
            ballast = self.fill(left)
            before = self.listed()
            promised, reason = self.put_until_refused()
            self.assertEqual(reason, Reason.SPOOL_FULL, left)
            self.assertEqual(self.listed(), before + promised)
            self.assertEqual(self.refusal(), Reason.SPOOL_FULL)
            ballast.unlink()
            self.clock.advance(2)
            at_once(self.store.put(spooled("AFTER")))
            self.assertEqual(self.listed(), [*before, *promised, "AFTER"])
        kept = self.listed()
        at_once(self.store.close())
        self.store = self.open()
        self.assertEqual(self.listed(), kept)

    def refusal(self) -> Reason:
        with self.assertRaises(TemporaryFailure) as caught:
            at_once(self.store.put(spooled("ONE-MORE")))
        return caught.exception.reason

    def test_min_free(self) -> None:
        """So much of the volume is left to others; space that the spool itself freed counts as free."""
        self.mount("32m")
        self.store = self.open(min_free=16_000_000)
        promised, reason = self.put_until_refused()
        self.assertEqual(reason, Reason.SPOOL_FULL)
        free = os.statvfs(self.volume)
        self.assertGreater(free.f_bavail * free.f_frsize, 15_000_000)
        while leased := at_once(self.store.take(100)):
            at_once(self.store.settle([Delivered(each.row) for each in leased]))
        again, _ = self.put_until_refused()
        self.assertGreater(len(again), len(promised) / 2)
