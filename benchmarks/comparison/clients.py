"""The clients that drive a program, and the platform that counts."""

from __future__ import annotations

import base64
import json
import smtplib
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

from attrs import define, frozen

from . import needs
from .messages import KEY, RECIPIENT, SENDER, Letter, Workload
from .processes import free_port

_HERE = Path(__file__).parent
_PATIENCE = 120

#: The initial response of AUTH PLAIN.
TOKEN = base64.b64encode(f"\0any\0{KEY}".encode()).decode()


def build(name: str, folder: Path, *flags: str) -> Path:
    """Compile a program of this folder.

    :raises RuntimeError: the compiler does not like it.
    """
    made = subprocess.run(
        ["cc", "-O2", "-o", str(folder / name), str(_HERE / f"{name}.c"), *flags], capture_output=True, text=True
    )
    if made.returncode:
        raise RuntimeError(f"{name}.c cannot be compiled:\n{made.stderr}")
    return folder / name


@frozen
class Driven:
    """What a client did; times in milliseconds where it notes them."""

    taken: int
    seconds: float
    p50: float | None = None
    p99: float | None = None
    codes: dict[str, int] | None = None


@frozen
class Source:
    """Postfix' smtp-source: it ends at the first reply that it does not like, and says nothing of times."""

    def drive(self, port: int, file: Path, workload: Workload, count: int) -> Driven:
        """Send *count* messages; the seconds are left to the caller."""
        options = ["-s", str(workload.sessions), "-m", str(count), "-F", str(file), "-f", SENDER, "-t", RECIPIENT]
        options += ["-d"] if workload.keep else []
        command = [needs.program("smtp-source"), *options, f"127.0.0.1:{port}"]
        try:
            ran = subprocess.run(command, capture_output=True, timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            return Driven(0, 0.0)
        return Driven(count if ran.returncode == 0 else 0, 0.0)


@frozen
class Load:
    """Ours, load.c: it signs in, starts TLS, keeps to a timetable, and notes how long each message took."""

    path: Path
    options: tuple[str, ...] = ()

    def drive(self, port: int, file: Path, workload: Workload, count: int) -> Driven:
        """Send *count* messages."""
        options = ["-p", str(port), "-F", str(file), "-s", str(workload.sessions), "-m", str(count)]
        options += ["-f", SENDER, "-t", RECIPIENT, "-T", str(_PATIENCE), *(["-d"] if workload.keep else [])]
        ran = subprocess.run([str(self.path), *options, *self.options], stdout=subprocess.PIPE, check=False)
        told = json.loads(ran.stdout)
        return Driven(told["ok"], told["seconds"], told["p50"], told["p99"], told["codes"])


@define(eq=False)
class Sink:
    """The platform, sink.c, in a process of its own."""

    process: subprocess.Popen[bytes]
    port: int

    @classmethod
    def start(cls, path: Path) -> Sink:
        """Start it and wait until it answers."""
        port = free_port()
        sink = cls(subprocess.Popen([str(path), str(port), KEY]), port)
        while sink.process.poll() is None:
            try:
                sink.counts()
                return sink
            except OSError:
                continue
        raise RuntimeError("the platform does not start")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> Any:
        """The JSON at *path*."""
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.load(answer)

    def counts(self) -> tuple[int, int]:
        """Messages taken and refused so far."""
        told = self.get("/count")
        return told["ok"], told["unauthorized"] + told["bad"]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def check(port: int, sink: Sink, letter: Letter) -> str:
    """Send one message and compare what the platform got of it; empty if all is well."""
    sink.get("/keep")
    try:
        with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
            client.sendmail(SENDER, [RECIPIENT], letter.content.replace(b"\n", b"\r\n"))
    except (smtplib.SMTPException, OSError) as error:
        return f"refused: {error}"
    return letter.differences(sink.get("/last"))
