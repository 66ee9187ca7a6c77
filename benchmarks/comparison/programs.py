"""The programs that are measured, each a process that is watched from its start to its end."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from attrs import define, field, frozen

from . import needs
from .figures import YARDSTICK
from .processes import Cores, free_port, tree

PATIENCE = 60.0

#: The file beside the log that a profiled relay writes at its end.
STATS = "stats"

RELAY = "relay"
TWISTED = "naive Twisted"
AIOSMTPD = "aiosmtpd + aiohttp"

_PEERS = Path(__file__).parents[1] / "peers"

#: All is on, at its default; what stands here only leaves room for a load that comes from one address.
_ROOM = {
    "LIMITS_CONNECTIONS": 4000,
    "LIMITS_CONNECTIONS_PER_ADDRESS": 4000,
    "LIMITS_MESSAGES_PER_MINUTE": 100_000_000,
}


@define(eq=False)
class Program:
    """One that runs and has greeted.

    :ivar posts: whether it posts what it takes, so that the platform's count tells.
    :ivar seconds: from its start to its first banner.
    """

    name: str
    port: int
    posts: bool
    process: subprocess.Popen[bytes]
    log: Path
    seconds: float = field(default=0.0)

    @property
    def pids(self) -> list[int]:
        """Of itself and its children."""
        return tree(self.process.pid)

    def wait_for_banner(self, begun: float) -> None:
        """Return when it greets.

        :raises RuntimeError: it ended, or did not greet in time.
        """
        while time.monotonic() < begun + PATIENCE:
            if self.process.poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5) as client:
                if client.recv(1):
                    self.seconds = time.monotonic() - begun
                    return
            time.sleep(0.001)
        raise RuntimeError(f"{self.name} does not start:\n{self.log.read_text(errors='replace')[-2000:]}")

    def stop(self) -> None:
        """SIGTERM, and wait."""
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@frozen
class Launcher:
    """Starts them.

    :ivar platform: the URL of the platform that all post to.
    :ivar folder: where their logs and data are.
    """

    platform: str
    folder: Path
    cores: Cores

    @contextlib.contextmanager
    def running(
        self,
        name: str,
        *,
        data: Path | None = None,
        everywhere: bool = False,
        profiled: bool = False,
        **settings: object,
    ) -> Iterator[Program]:
        """The program *name* until the end of the block.

        :param data: the relay's data directory, if it is to be one that exists.
        :param everywhere: on all cores.
        :param profiled: the relay under Twisted's profiler, which leaves its file beside the log.
        :param settings: of the relay, as its variables.
        """
        port = free_port()
        folder = data or self.folder / f"{name.replace(' ', '-')}-{port}"
        folder.mkdir(exist_ok=True)
        command, variables = self._command(name, port, folder, settings)
        if profiled:
            options = ["-n", "--pidfile=", "--profiler=cProfile", f"--profile={folder / STATS}", "--savestats"]
            command = [needs.program("twistd"), *options, "smtp-relay"]
        begun = time.monotonic()
        program = self._start(name, command, variables, folder / "log", port, everywhere)
        try:
            program.wait_for_banner(begun)
            yield program
        finally:
            program.stop()

    def _command(
        self, name: str, port: int, folder: Path, settings: Mapping[str, object]
    ) -> tuple[list[str], dict[str, str]]:
        """Words and environment variables."""
        if name == YARDSTICK:
            user = ["-u", "nobody"] if os.geteuid() == 0 else []
            return [needs.program("smtp-sink"), *user, "-m", "4000", f"127.0.0.1:{port}", "1024"], {}
        if name in (TWISTED, AIOSMTPD):
            file = {TWISTED: "naive_twisted.py", AIOSMTPD: "aiosmtpd_aiohttp.py"}[name]
            return [sys.executable, str(_PEERS / file), str(port), self.platform], {}
        given = {
            "DATA": folder / "data",
            "LISTEN": f"tcp:{port}:interface=127.0.0.1:backlog=1024",
            "ADMIN": "tcp:0:interface=127.0.0.1",
            "BACKEND": self.platform,
            **_ROOM,
            **settings,
        }
        variables = {f"SMTP_RELAY_{key}": str(value) for key, value in given.items() if value is not None}
        return [needs.program("smtp-relay"), "run"], variables

    def _start(
        self, name: str, command: Sequence[str], variables: Mapping[str, str], log: Path, port: int, everywhere: bool
    ) -> Program:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("SMTP_RELAY_")}
        # Python keeps what it has compiled, as pip does when it installs: a start is no compilation.
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
        cores = self.cores.all if everywhere else self.cores.program
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**kept, **variables},
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
            )
        return Program(name, port, name != YARDSTICK, process, log)
