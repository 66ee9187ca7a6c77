"""The console script ``smtp-relay``."""

from __future__ import annotations

import io
import os
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from relay import __version__, commands
from relay.send_test import CannotSend, read_key, split_server
from tests.test_tap import TapCase


class MainTests(TapCase):
    def main(self, *words: str) -> str:
        out = io.StringIO()
        with redirect_stdout(out):
            commands.main(words)
        return out.getvalue()

    def refused(self, *words: str) -> str:
        return str(self.assertRaises(SystemExit, self.main, *words))

    def test_check_config(self) -> None:
        """A good configuration is shown in full, with the source of each value."""
        path = self.write("[limits]\nrecipients = 7\n")
        said = self.main("check-config", "--config", path, "--hostname", "h.example")
        self.assertTrue(said.startswith("ok\n"))
        self.assertIn('hostname = "h.example"  # --hostname\n', said)
        self.assertIn(f"\n[limits]\nmessage_size = 31457280  # default\nrecipients = 7  # {path}\n", said)

    def test_check_config_round_trip(self) -> None:
        """What check-config shows is a configuration file of the same meaning."""
        said = self.main("check-config", "--listen", "tcp:2525").removeprefix("ok\n")
        again = self.main("check-config", "--config", self.write(said)).removeprefix("ok\n")
        values = [[line.split("  #")[0] for line in text.splitlines()] for text in (said, again)]
        self.assertEqual(values[0], values[1])

    def test_check_config_problems(self) -> None:
        """A wrong one is told problem by problem; the exit code is 1, as for any text."""
        said = self.refused("check-config", "--backend", "x", "--admin", "25")
        self.assertTrue(said.startswith("smtp-relay: the configuration is wrong:\n"), said)
        self.assertEqual(len(said.splitlines()), 3)
        self.assertIn("Unknown endpoint type", self.refused("check-config", "--admin", "a:25"))

    def test_usage(self) -> None:
        """No command, an unknown one and an unknown option are refused with a hint."""
        self.assertIn("run, check-config, send-test, queue, account, user", self.refused())
        self.assertIn("smtp-relay:", self.refused("stop"))
        self.assertIn("option --nope not recognized", self.refused("check-config", "--nope"))
        self.assertIn("--to ADDRESS", self.refused("send-test"))

    def test_run_problems(self) -> None:
        """run tells what is wrong before twistd is asked."""
        self.assertIn("must be a Twisted endpoint", self.refused("run", "--listen", "25"))

    def test_version(self) -> None:
        """--version is the relay's."""
        out = io.StringIO()
        with redirect_stdout(out):
            self.assertRaises(SystemExit, commands.main, ["--version"])
        self.assertEqual(out.getvalue(), f"smtp-relay {__version__}\n")


class QueueTests(TapCase):
    """The words and options of ``smtp-relay queue``; what it does is tests.operate.test_queue."""

    def queue(self, *words: str) -> tuple[int | str | None, str]:
        """Exit code, or its line, and standard error."""
        err = io.StringIO()
        with redirect_stderr(err):
            error = self.assertRaises(SystemExit, commands.main, ["queue", *words])
        return error.code, err.getvalue()

    def test_usage(self) -> None:
        """Words and options that do not fit leave with 2 and a line that says what does."""
        for words, said in {
            "shw": "none of list, show, retry and drop",
            "--nope": "--nope",
            "list A1": "queue show ID",
            "show": "needs the ID",
            "drop": "needs the ID",
            "retry": "--all",
            "retry A1 --all": "--all",
            "retry --all --failed": "--all",
            "drop A1 --failed": "--failed does not go with it",
            "show A1 --limit 5": "--limit does not go with it",
            "--yes": "--yes does not go with it",
            "--limit x": "must be a number",
            "--limit=-1": "must be a number",
            "--spool mysql://x/y": "postgresql://",
        }.items():
            code, err = self.queue(*words.split())
            self.assertEqual(code, 2, words)
            self.assertRegex(err, "^smtp-relay: ", words)
            self.assertIn(said, err)

    def test_configuration(self) -> None:
        """The spool is the relay's: of the file, the variables and the options, wherever these stand."""
        data, path = self.mktemp(), self.write('data = "/from/file"\n')
        for words in (
            ("--data", data, "show", "A1"),
            ("show", "A1", "--data", data),
            ("show", f"--data={data}", "A1"),
            ("show", "A1", "--config", path, "--data", data),
        ):
            code, _ = self.queue(*words)
            self.assertEqual(
                code,
                f"smtp-relay: spool: there is none at {os.path.abspath(data)}/spool.sqlite3; is --data the relay's?",
            )
        self.assertIn("/from/file/spool.sqlite3", str(self.queue("-c", path)[0]))
        os.environ["SMTP_RELAY_DATA"] = "/from/variable"
        self.assertIn("/from/variable/spool.sqlite3", str(self.queue("-c", path)[0]))

    def test_unreachable(self) -> None:
        """A database that is out of reach is told in one line, without its password."""
        code, _ = self.queue("--spool", "postgresql://relay:canary@127.0.0.1:1/mail")
        self.assertRegex(str(code), "^smtp-relay: spool: cannot use postgresql://relay:.*127.0.0.1:1/mail: [^\n]+$")
        self.assertNotIn("canary", str(code))

    def test_help(self) -> None:
        """The help shows every form, and of the relay's options those that name the spool."""
        out = io.StringIO()
        with redirect_stdout(out):
            self.assertRaises(SystemExit, commands.main, ["queue", "--help"])
        for part in ("queue show ID", "queue retry ID", "queue drop ID", "--failed", "--spool=", "--config="):
            self.assertIn(part, out.getvalue())
        self.assertNotIn("--listen", out.getvalue())


class SendTests(TapCase):
    def test_server(self) -> None:
        """Servers are HOST:PORT, IPv6 addresses in brackets; others are refused with the form."""
        self.assertEqual(split_server("relay:25"), ("relay", 25))
        self.assertEqual(split_server("[::1]:2525"), ("::1", 2525))
        for bad in ("relay", ":25", "relay:", "relay:x", "relay:99999"):
            self.assertIn("HOST:PORT", str(self.assertRaises(CannotSend, split_server, bad)))

    def test_key(self) -> None:
        """The key is read from its file; a missing one says where else to give it."""
        self.assertEqual(read_key(self.write("abc\n")), "abc")
        self.assertIn("--key-file", str(self.assertRaises(CannotSend, read_key, "/nonexistent")))
        path = self.write("")
        Path(path).write_bytes(b"\xff")
        self.assertIn("no API key", str(self.assertRaises(CannotSend, read_key, path)))
