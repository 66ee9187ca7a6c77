"""``twistd smtp-relay``: its options, and the service that they make; :mod:`relay.commands` is ``smtp-relay``.

Everything heavy is imported late, so that ``twistd --help`` stays fast.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any

from twisted.logger import ILogObserver
from twisted.python import usage
from twisted.python.logfile import LogFile

from relay import __version__
from relay.config import KEYS, Config, load
from relay.errors import ConfigError

if TYPE_CHECKING:
    from relay.service import RelayService


class Options(usage.Options):
    """The options of ``twistd smtp-relay``; each is a key of the file too, and a variable SMTP_RELAY_….

    :ivar configuration: the whole configuration, once the options are parsed.
    """

    optParameters = [
        ["config", "c", None, "TOML file with these and all other keys. (SMTP_RELAY_CONFIG)"],
        *(
            [key.flag.removeprefix("--"), None, None, f"{key.metadata['doc']} ({key.env})"]
            for key in KEYS
            if key.flag and not key.is_list
        ),
    ]
    longdesc = "Takes mail by SMTP and posts it to an email platform's HTTP API; without --backend, to its own."

    configuration: Config

    def opt_listen(self, endpoint: str) -> None:
        """SMTP listener, a Twisted endpoint such as tcp:2525; may be given more than once. (SMTP_RELAY_LISTEN)"""
        self.setdefault("listen", []).append(endpoint)

    def opt_backend(self, url: str) -> None:
        """The platform's URL; of several the next is tried when one is unreachable. (SMTP_RELAY_BACKEND)"""
        self.setdefault("backend", []).append(url)

    def opt_version(self) -> None:
        """Show the relay's version and leave."""
        print(f"smtp-relay {__version__}")
        raise SystemExit(0)

    def flags(self) -> Mapping[str, Any]:
        """What the command line gave, by key."""
        return {name.replace("-", "_"): value for name, value in self.items()}

    def postOptions(self) -> None:
        """Read all sources.

        :raises usage.UsageError: everything that is wrong.
        """
        self.configuration = loaded(self.flags(), self["config"])


def loaded(flags: Mapping[str, Any], path: str | None) -> Config:
    """The configuration from all sources.

    :raises usage.UsageError: everything that is wrong.
    """
    try:
        return load(flags, os.environ, path)
    except ConfigError as error:
        raise usage.UsageError(listed(error)) from None


def makeService(options: Options) -> RelayService:
    """The service that twistd runs.

    :raises SystemExit: with everything that is wrong.
    """
    # Nothing of what is made now is garbage, and looking for it takes a twentieth of the start: see look_seldom.
    gc.disable()
    from relay import service
    from relay.operate.garbage import look_seldom
    from relay.operate.log import JSONLines, TextLines

    twistd: Mapping[str, Any] = options.parent or {}
    _check_files(twistd)
    write_anything()
    _count_steadily()
    try:
        made = service.makeService(options.configuration)
    except ConfigError as error:
        # twistd would show a traceback for anything else.
        raise SystemExit(f"smtp-relay: {listed(error)}") from None
    made.sheds_privileges = any(twistd.get(name) is not None for name in ("uid", "gid"))
    made.completed = look_seldom
    made.reread = partial(_read_again, options)
    made.logs_to_output = _logfile(twistd) == "-"
    if options.configuration.log_format == "json":
        made.log_observer = _observer(twistd, JSONLines)
    else:
        made.text_log = partial(_observer, twistd, TextLines)
    return made


def _read_again(options: Options) -> Config:
    """The configuration from the same sources as at the start.

    :raises ConfigError: everything that is wrong.
    """
    return load(options.flags(), os.environ, options["config"])


def _count_steadily() -> None:
    """Let the reactor count by the monotonic clock.

    Twisted's counts by the wall clock: set back by an hour it would stop every timer and retry for that long.
    """
    from twisted.internet import reactor

    untyped: Any = reactor
    if not untyped.getDelayedCalls():
        untyped.seconds = time.monotonic


def write_anything() -> None:
    """Let standard output, which may be the log, take what its encoding lacks: Twisted would lose the line."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _check_files(twistd: Mapping[str, Any]) -> None:
    """Say in a line what twistd would show a traceback for.

    :raises SystemExit: its pidfile or its log cannot be written.
    """
    if twistd.get("chroot"):
        return  # the paths will be others
    files = [("pidfile", twistd.get("pidfile")), ("logfile", _logfile(twistd))]
    for name, path in files:
        if not path or path == "-":
            continue
        path = os.path.abspath(path)
        where = path if os.path.exists(path) else os.path.dirname(path)
        if os.path.isdir(path) or not os.access(where, os.W_OK):
            raise SystemExit(f"smtp-relay: twistd cannot write {path}: give it another place with twistd --{name}=PATH")


def _logfile(twistd: Mapping[str, Any]) -> str:
    """Where twistd logs, ``-`` for standard output and ``""`` where its log is no file."""
    if twistd.get("logger") or twistd.get("syslog"):
        return ""
    return str(twistd.get("logfile") or ("-" if twistd.get("nodaemon") else "twistd.log"))


def _observer(twistd: Mapping[str, Any], lines: Callable[[Any], ILogObserver]) -> ILogObserver | None:
    """*lines* to where twistd would log, None where it was told another kind of log."""
    path = _logfile(twistd)
    if not path:
        return None
    return lines(sys.stdout if path == "-" else _rotated(path))


def _rotated(path: str) -> LogFile:
    """The log file, which begins anew when it is large and on SIGUSR1, as twistd's own does."""
    from twisted.internet import reactor

    file: LogFile = LogFile.fromFullPath(path)
    untyped: Any = reactor
    if not signal.getsignal(signal.SIGUSR1):
        signal.signal(signal.SIGUSR1, lambda number, frame: untyped.callFromThread(file.rotate))
    return file


def listed(error: ConfigError) -> str:
    return "the configuration is wrong:\n" + "\n".join(f"  {problem}" for problem in error.problems)
