"""A relay as a process: started as an operator starts it, watched by its output, stopped with SIGTERM.

    with running(backend=platform.url, require_tls="always") as relay:
        smtplib.SMTP("127.0.0.1", relay.port)

Nothing here sleeps: a thread reads the output, and whoever waits is woken by a line.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

#: Seconds that anything may take; far more than it does, for a machine that is busy.
PATIENCE = 60.0

TWISTD = (str(Path(sys.executable).with_name("twistd")), "-n", "--pidfile=", "smtp-relay")
SMTP_RELAY = str(Path(sys.executable).with_name("smtp-relay"))

#: How many processes take mail in each relay that does not say so itself.
WORKERS = os.environ.get("RELAY_TEST_WORKERS", "1")

#: Ports that the system chooses, on loopback.
ANY = "tcp:0:interface=127.0.0.1"


class Relay:
    """A running relay.

    :ivar data: its data directory.
    :ivar log: the file that its output is copied to.
    """

    def __init__(self, process: subprocess.Popen[bytes], data: Path, log: Path) -> None:
        self.process = process
        self.data = data
        self.log = log
        self._lines: list[str] = []
        self._ended = False
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout, self.log.open("ab", buffering=0) as log:
            for line in self.process.stdout:
                log.write(line)
                with self._changed:
                    self._lines.append(line.decode("utf-8", "replace").rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def output(self) -> str:
        """All that it has said so far."""
        with self._changed:
            return "\n".join(self._lines)

    def wait_for(self, pattern: str, after: int = 0) -> re.Match[str]:
        """The first line, not counting *after* many, that *pattern* is found in, now or later.

        :raises AssertionError: the relay ended, or was silent for too long.
        """
        deadline = time.monotonic() + PATIENCE
        with self._changed:
            seen = after
            while True:
                for line in self._lines[seen:]:
                    seen += 1
                    if found := re.search(pattern, line):
                        return found
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    raise AssertionError(f"no line with {pattern!r} in:\n" + "\n".join(self._lines))
                self._changed.wait(left)

    @property
    def mark(self) -> int:
        """How many lines there are; for :meth:`wait_for` a line that is yet to come."""
        with self._changed:
            return len(self._lines)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def workers(self) -> list[int]:
        """The process ids of its workers."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        named = {int(each): Path(f"/proc/{each}/cmdline").read_bytes() for each in children}
        return [pid for pid, words in named.items() if b"relay.workers" in words]

    @property
    def ports(self) -> list[int]:
        """The ports of all SMTP listeners."""
        return [int(each) for each in re.findall(r"listening smtp \S*:(\d+) ", self.output)]

    @property
    def port(self) -> int:
        """The port of the first SMTP listener."""
        return self.ports[0]

    @property
    def admin(self) -> int:
        """The port of the admin endpoint."""
        return int(self.wait_for(r"listening admin \S*:(\d+) ")[1])

    @property
    def dashboard(self) -> int:
        """The port of the embedded backend."""
        return int(self.wait_for(r"listening dashboard \S*:(\d+) ")[1])

    @property
    def api_key(self) -> str:
        """The embedded backend's key."""
        return (self.data / "api-key").read_text().strip()

    @property
    def certificate(self) -> Path:
        """The certificate that it made."""
        return self.data / "certificate.pem"

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Status and body of a page of the admin endpoint."""
        return _get(f"http://127.0.0.1:{self.admin}{path}", headers)

    def messages(self) -> list[dict[str, Any]]:
        """What the embedded backend has, newest first (GET /api/transactional/log)."""
        url = f"http://127.0.0.1:{self.dashboard}/api/transactional/log"
        status, body = _get(url, {"X-Auth-APIKey": self.api_key})
        assert status == 200, body
        return listed(json.loads(body))

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """The exit code, once it has ended and all its output is read."""
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.wait()


def listed(answer: Any) -> list[dict[str, Any]]:
    """The entries of the log's answer."""
    return list(answer["messages"] if isinstance(answer, dict) else answer)


def _get(url: str, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=dict(headers or {})), timeout=PATIENCE) as got:
            return got.status, got.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def environment(settings: Mapping[str, object]) -> dict[str, str]:
    """This process' environment, without its own SMTP_RELAY_ variables, and with those of *settings*.

    ``RELAY_TEST_WORKERS`` gives all relays so many workers.
    """
    workers = {"workers": WORKERS} if WORKERS != "1" else {}
    settings = {**workers, **settings}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SMTP_RELAY_")}
    given = {f"SMTP_RELAY_{name.upper()}": str(value) for name, value in settings.items()}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **given}


def start(
    folder: Path,
    *arguments: str,
    command: Sequence[str] = TWISTD,
    listen: Sequence[str] = (ANY,),
    admin: str = ANY,
    dashboard: str = ANY,
    backend: str = "",
    inherit: Sequence[int] = (),
    **settings: object,
) -> Relay:
    """Start a relay whose data is ``folder/data``; it may not be ready yet, and may never be.

    :param arguments: more options.
    :param command: what stands before the options.
    :param listen: SMTP endpoints; none leaves the relay its default.
    :param inherit: open files that it inherits.
    :param settings: keys of the configuration, as variables: ``require_tls="always"``, ``limits_idle=1``.
    """
    data = folder / "data"
    options = ["--data", str(data), *(word for each in listen for word in ("--listen", each))]
    for name, value in (("--admin", admin), ("--dashboard", dashboard), ("--backend", backend)):
        options += [name, value] if value else []
    process = subprocess.Popen(
        [*command, *options, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env=environment(settings),
        pass_fds=inherit,
    )
    return Relay(process, data, folder / "log")


@contextmanager
def running(*arguments: str, folder: Path | None = None, **options: Any) -> Iterator[Relay]:
    """A relay that is ready; it is stopped at the end, and must then exit with 0.

    :param folder: an existing folder to work in; without one there is one that goes with the relay.
    :param options: see :func:`start`.
    """
    with tempfile.TemporaryDirectory() as own:
        relay = start(folder or Path(own), *arguments, **options)
        try:
            relay.wait_for(r'#info\] ready$|"message": "ready"')
            yield relay
        finally:
            code = relay.stop()
        assert code == 0, f"exit code {code}:\n{relay.output}"


def fails(*arguments: str, folder: Path | None = None, **options: Any) -> tuple[int, str]:
    """Exit code and output of a relay that does not start."""
    with tempfile.TemporaryDirectory() as own:
        relay = start(folder or Path(own), *arguments, **options)
        try:
            return relay.wait(), relay.output
        finally:
            relay.process.kill()
