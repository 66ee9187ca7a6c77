"""benchmarks/compare.py with few messages: whether its rows come and its counts are right; no time is looked at."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from benchmarks.comparison.clients import Load, Sink, build
from benchmarks.comparison.messages import KEY, WORKLOADS, letters

from .support import ROOT

COMPARE = ROOT / "benchmarks" / "compare.py"

#: The extra ``bench``; without it the third program is left out.
PEERS = ["aiosmtpd"] if importlib.util.find_spec("aiosmtpd") and importlib.util.find_spec("aiohttp") else []

MESSAGES = 12

SUBMISSION = "/api/transactional/send"


class CompareTests(SynchronousTestCase):
    """The whole tool."""

    def compare(self, *options: str) -> tuple[dict[str, Any], str]:
        """What it wrote as JSON, and what it printed."""
        folder = Path(tempfile.mkdtemp(prefix="relay-compare-"))
        self.addCleanup(shutil.rmtree, folder)
        ran = subprocess.run(
            [sys.executable, str(COMPARE), "--quick", "--messages", str(MESSAGES), "--json", folder / "json", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        self.assertEqual(ran.returncode, 0, ran.stdout)
        return json.loads((folder / "json").read_text()), ran.stdout

    def test_table(self) -> None:
        """Each program has a row under each workload, and the platform has counted every message of it."""
        programs = ["relay", "twisted", *PEERS]
        said, printed = self.compare(
            *(word for each in ("W1", "W2", "W3", "W4", "W5") for word in ("--only", each)),
            *(word for each in programs for word in ("--program", each)),
        )
        rows = {(row["workload"], row["program"]): row for row in said["rows"]}
        self.assertEqual(len(rows), 5 * len(programs) + 3)  # W4 and W5 have the yardstick of W2
        for (workload, program), row in rows.items():
            self.assertTrue(row["good"], row)
            self.assertEqual(row["counted"], None if program == "smtp-sink" else MESSAGES, row)
            self.assertGreater(row["ratio"], 0)
            self.assertRegex(printed, rf"(?m)^{workload} +{program.replace('+', '.')} ")

    def test_the_rest(self) -> None:
        """Signing in, latency, idle sessions, start, memory and workers have their rows and figures."""
        parts = ("sign-in", "latency", "idle", "start", "memory", "workers")
        said, _ = self.compare(
            *(word for each in parts for word in ("--only", each)),
            *("--program", "relay", "--idle-sessions", "20", "--large-clients", "3", "--large-size", "2000000"),
        )
        workloads = {row["workload"] for row in said["rows"]}
        self.assertTrue({f"{name} {kind}" for name in ("W1", "W4") for kind in ("AUTH", "STARTTLS")} < workloads)
        self.assertEqual([row for row in said["rows"] if row["counted"] not in (None, MESSAGES)], [])
        self.assertEqual({each["part"] for each in said["figures"]}, {*parts} - {"sign-in"})
        self.assertTrue(all(each["good"] for each in said["figures"]), said["figures"])

    def test_profile(self) -> None:
        """It tells which modules of the relay a message goes through."""
        _, printed = self.compare("--profile", "W1+AUTH")
        self.assertRegex(printed, r"(?m)^ *\d+\.\d% +\d+\.\d  relay/smtp/session\.py$")

    def test_missing(self) -> None:
        """Without a compiler it says which packages to install, and measures nothing."""
        ran = subprocess.run(
            [sys.executable, str(COMPARE), "--quick", "--program", "relay"],
            env={"PATH": "/nowhere"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual(ran.returncode, 2)
        self.assertRegex(ran.stderr, "apt-get install --no-install-recommends gcc libc6-dev")
        self.assertNotIn("Traceback", ran.stderr)


class ToolTests(SynchronousTestCase):
    """The two programs in C that the figures rest on."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="relay-compare-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.sink = Sink.start(build("sink", self.folder))
        self.addCleanup(self.sink.stop)

    def statuses(self, octets: bytes) -> list[str]:
        """The statuses of all answers to what is sent at once, octet by octet after the first hundred."""
        with socket.create_connection(("127.0.0.1", self.sink.port), 30) as client:
            client.sendall(octets[:100])
            for octet in octets[100:]:
                client.sendall(bytes([octet]))
            client.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        return re.findall(r"HTTP/1.1 (\d+)", answer.decode())

    def post(self, *headers: str, body: str = "{}") -> bytes:
        """A POST with these headers."""
        return "\r\n".join((f"POST {SUBMISSION} HTTP/1.1", "Host: sink", *headers, "", body)).encode()

    def test_counts(self) -> None:
        """The platform counts each POST that has a body and the key, however it is cut, and no other."""
        key, length = f"x-auth-apikey: {KEY}", "Content-Length: 2"
        good = self.post(key, length)
        self.assertEqual(self.statuses(good * 3), ["200"] * 3)
        self.assertEqual(self.sink.counts(), (3, 0))
        refused = [
            self.post(length),
            self.post(key + "x", length),
            self.post(key[:-1], length),
            self.post(key, body=""),
        ]
        self.assertEqual(self.statuses(b"".join(refused) + good), ["401", "401", "401", "400", "200"])
        self.assertEqual(self.sink.counts(), (4, 4))

    def test_client_is_refused(self) -> None:
        """The client counts only what has a 250, and says which replies it got instead."""
        file = self.folder / "message"
        file.write_bytes(letters()["html4k"].content)
        load = Load(build("load", self.folder))
        with socket.create_server(("127.0.0.1", 0)) as server:
            thread = threading.Thread(target=_refuse, args=(server,))
            thread.start()
            driven = load.drive(server.getsockname()[1], file, evolve(WORKLOADS["W2"], sessions=1), 2)
            thread.join()
        self.assertEqual((driven.taken, driven.codes), (1, {"451": 1}))


def _refuse(server: socket.socket) -> None:
    """Take the first message and refuse the second."""
    client, _ = server.accept()
    with client, client.makefile("rwb", buffering=0) as lines:
        lines.write(b"220 here\r\n")
        for verdict in (b"250 Ok\r\n", b"451 No\r\n"):
            for line in lines:
                if line.startswith(b"DATA"):
                    break
                lines.write(b"250-first\r\n250 last\r\n")
            lines.write(b"354 go on\r\n")
            while lines.readline() != b".\r\n":
                pass
            lines.write(verdict)
