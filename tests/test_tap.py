"""``twistd smtp-relay``: options and problems."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from unittest import mock

from twisted.application.service import IServiceMaker
from twisted.logger import LogLevel
from twisted.plugin import getPlugins
from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from relay import tap


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
