"""The command line: options, problems, and the console script."""

from __future__ import annotations

import io
import os
import signal
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

from twisted.application.service import IServiceMaker
from twisted.logger import LogLevel
from twisted.plugin import getPlugins
from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from relay import __version__, tap
from relay.send_test import CannotSend, read_key, split_server


class TapCase(SynchronousTestCase):
    def setUp(self) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SMTP_RELAY_")}
        patch = mock.patch.dict(os.environ, clean, clear=True)
        patch.start()
        self.addCleanup(patch.stop)

    def write(self, text: str) -> str:
        path = os.path.abspath(self.mktemp())
        Path(path).write_text(text)
        return path


class OptionsTests(TapCase):
    def parse(self, *words: str) -> tap.Options:
        options = tap.Options()
        options.parseOptions(list(words))
        return options

    def test_options(self) -> None:
        """Each option sets its key; --listen may be repeated."""
        config = self.parse(
            "--listen", "tcp:2525", "--listen=tcp:8025", "--backend", "http://x", "--hostname=h", "--data", "/d",
            "--admin", "tcp:1", "--dashboard", "tcp:2", "--log-format", "json",
        ).configuration  # fmt: skip
        self.assertEqual(config.listen, ("tcp:2525", "tcp:8025"))
        self.assertEqual((config.backend, config.hostname, config.data), (("http://x",), "h", "/d"))
        self.assertEqual((config.admin, config.dashboard, config.log_format), ("tcp:1", "tcp:2", "json"))
        self.assertEqual(config.source("listen"), "--listen")

    def test_file_and_environment(self) -> None:
        """--config names a file; variables win over it, and options over both."""
        path = self.write('hostname = "file"\nadmin = "tcp:1"\ndashboard = "tcp:1"\n')
        os.environ.update(SMTP_RELAY_ADMIN="tcp:2", SMTP_RELAY_DASHBOARD="tcp:2")
        config = self.parse("--config", path, "--dashboard", "tcp:3").configuration
        self.assertEqual((config.hostname, config.admin, config.dashboard), ("file", "tcp:2", "tcp:3"))

    def test_problems(self) -> None:
        """All problems come in one UsageError, each on a line with its source."""
        os.environ["SMTP_RELAY_BAKEND"] = "x"
        error = self.assertRaises(usage.UsageError, self.parse, "--listen", "99999", "--backend", "x")
        lines = str(error).splitlines()
        self.assertEqual(len(lines), 4, lines)
        self.assertTrue(any("SMTP_RELAY_BACKEND?" in line for line in lines))
        self.assertTrue(any("--backend x:" in line for line in lines))
        self.assertTrue(any("--listen" in line for line in lines))

    def test_help(self) -> None:
        """The help has every option, and the variable of each."""
        text = str(tap.Options())
        for word in ("--listen=", "--private-key=", "SMTP_RELAY_PRIVATE_KEY", "--config="):
            self.assertIn(word, text)

    def test_plugin(self) -> None:
        """twistd knows the relay, and asks for its options without an import of the service."""
        (plugin,) = [each for each in getPlugins(IServiceMaker) if each.tapname == "smtp-relay"]
        self.assertIs(plugin.options, tap.Options)
        self.assertIs(plugin.makeService, tap.makeService)

    def test_make_service(self) -> None:
        """makeService gives a service for good options, and leaves with every problem for bad ones."""
        made = tap.makeService(self.parse("--listen", "tcp:0", "--data", self.mktemp()))
        self.assertEqual(made.config.listen, ("tcp:0",))
        self.assertIsNone(made.log_observer)
        error = self.assertRaises(SystemExit, tap.makeService, self.parse("--listen", "a:0", "--admin", "b:0"))
        self.assertEqual(len(str(error).splitlines()), 3)

    def test_files_of_twistd(self) -> None:
        """A pidfile or log that twistd cannot write is told in one line, and no traceback of twistd's."""
        options = self.parse("--data", self.mktemp())
        for name in ("pidfile", "logfile"):
            for path in (".", "/nowhere/at/all"):
                options.parent = {"nodaemon": 1, name: path}
                said = str(self.assertRaises(SystemExit, tap.makeService, options))
                self.assertRegex(said, rf"^smtp-relay: twistd cannot write /.*--{name}=PATH$")
        options.parent = {"nodaemon": 1, "pidfile": "", "logfile": "-"}
        self.assertIsNone(tap.makeService(options).log_observer)

    def test_text_log(self) -> None:
        """Text goes where twistd would log it; a log that twistd was told of wins."""
        self.addCleanup(signal.signal, signal.SIGUSR1, signal.getsignal(signal.SIGUSR1))
        path = self.mktemp()
        options = self.parse("--data", self.mktemp())
        options.parent = {"logfile": path}
        tap.makeService(options).text_log()({"log_format": "hello", "log_namespace": "x", "log_level": LogLevel.info})
        self.assertEqual(Path(path).read_text(), "- [x#info] hello\n")
        for told in ({"syslog": 1}, {"logger": "mine"}):
            options.parent = {"logfile": path, **told}
            self.assertIsNone(tap.makeService(options).text_log())

    def test_json_log(self) -> None:
        """JSON goes where twistd would log; a log that twistd was told of wins."""
        path = self.mktemp()
        options = self.parse("--log-format", "json", "--data", self.mktemp())
        options.parent = {"logfile": path}
        tap.makeService(options).log_observer({"log_format": "hello", "log_time": 0.0})
        self.assertIn('"message": "hello"', Path(path).read_text())
        options.parent = {"logfile": path, "syslog": 1}
        self.assertIsNone(tap.makeService(options).log_observer)


class MainTests(TapCase):
    def main(self, *words: str) -> str:
        out = io.StringIO()
        with redirect_stdout(out):
            tap.main(words)
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
            self.assertRaises(SystemExit, tap.main, ["--version"])
        self.assertEqual(out.getvalue(), f"smtp-relay {__version__}\n")


class QueueTests(TapCase):
    """The words and options of ``smtp-relay queue``; what it does is tests.operate.test_queue."""

    def queue(self, *words: str) -> tuple[int | str | None, str]:
        """Exit code, or its line, and standard error."""
        err = io.StringIO()
        with redirect_stderr(err):
            error = self.assertRaises(SystemExit, tap.main, ["queue", *words])
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
            self.assertRaises(SystemExit, tap.main, ["queue", "--help"])
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
