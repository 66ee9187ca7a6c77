"""The command line: ``twistd smtp-relay``, and the console script ``smtp-relay``.

Everything heavy is imported late, so that ``twistd --help`` stays fast.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any

from twisted.python import usage

from relay import __version__
from relay.config import KEYS, Config, effective, load
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
        try:
            self.configuration = load(self.flags(), os.environ, self["config"])
        except ConfigError as error:
            raise usage.UsageError(_listed(error)) from None


def makeService(options: Options) -> RelayService:
    """The service that twistd runs.

    :raises SystemExit: with everything that is wrong.
    """
    from relay import service

    twistd: Mapping[str, Any] = options.parent or {}
    _check_files(twistd)
    _write_anything()
    try:
        made = service.makeService(options.configuration)
    except ConfigError as error:
        # twistd would show a traceback for anything else.
        raise SystemExit(f"smtp-relay: {_listed(error)}") from None
    if options.configuration.log_format == "json":
        made.log_observer = _json_observer(twistd)
    return made


def _write_anything() -> None:
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


def _json_observer(twistd: Mapping[str, Any]) -> Any:
    """JSON lines to where twistd would log, None where it was told another kind of log."""
    from twisted.python.logfile import LogFile

    from relay.operate.log import JSONLines

    path = _logfile(twistd)
    if not path:
        return None
    return JSONLines(sys.stdout if path == "-" else LogFile.fromFullPath(path))


def _untyped(options: Any) -> Any:
    """The class, without the annotations that usage.Options lacks."""
    return options


def _listed(error: ConfigError) -> str:
    return "the configuration is wrong:\n" + "\n".join(f"  {problem}" for problem in error.problems)


class _Run(Options):
    """Options of ``smtp-relay run``."""

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Leave them all to twistd, which parses them again."""
        self.words = list(options or ())


class _SendTest(Options):
    """Options of ``smtp-relay send-test``."""

    optParameters = [
        ["server", "s", "127.0.0.1:2525", "HOST:PORT of the running relay."],
        ["to", "t", None, "Recipient of the test message."],
        ["from", "f", "sender@example.com", "Its sender."],
        ["key", "k", None, "API key; visible to other users of this machine, --key-file is better."],
        ["key-file", None, None, "File that holds the API key; default: api-key under --data."],
        ["cafile", None, None, "PEM file that the relay's certificate is verified with."],
    ]
    optFlags = [["insecure", None, "Do not verify the relay's certificate."]]
    longdesc = "Sends a test message to a running relay and shows its reply."


class _Commands(usage.Options):
    """Options of ``smtp-relay``."""

    subCommands = [
        ["run", None, _Run, "Run the relay in the foreground; the same as twistd -n smtp-relay."],
        ["check-config", None, Options, "Say everything that is wrong with the configuration, or show it."],
        ["send-test", None, _SendTest, "Send a test message to a running relay."],
    ]
    synopsis = "Usage: smtp-relay COMMAND [options]"

    opt_version = Options.opt_version

    def postOptions(self) -> None:
        """A command is needed."""
        if not self.subCommand:
            raise usage.UsageError("say what to do: run, check-config or send-test; --help tells more")


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script; leaves with exit code 1 and every problem on standard error."""
    _write_anything()
    commands: Any = _untyped(_Commands)()
    try:
        commands.parseOptions(sys.argv[1:] if arguments is None else arguments)
        if commands.subCommand == "run":
            _run(commands.subOptions.words)
        elif commands.subCommand == "check-config":
            _check_config(commands.subOptions)
        else:
            _send_test(commands.subOptions)
    except usage.UsageError as error:
        raise SystemExit(f"smtp-relay: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _run(words: Sequence[str]) -> None:
    from twisted.scripts import twistd

    if not {"--help", "--version"} & set(words):
        _untyped(Options)().parseOptions(list(words))  # twistd would show all its own options before what is wrong
    sys.argv = ["twistd", "--nodaemon", "--pidfile=", "smtp-relay", *words]
    twistd.run()


def _check_config(options: Options) -> None:
    from relay import service

    try:
        service.makeService(options.configuration)
    except ConfigError as error:
        raise SystemExit(f"smtp-relay: {_listed(error)}") from None
    print("ok")
    print(effective(options.configuration), end="")


def _send_test(options: _SendTest) -> None:
    from relay.send_test import CannotSend, read_key, send

    if not options["to"]:
        raise usage.UsageError("send-test needs --to ADDRESS")
    key_file = options["key-file"] or os.path.join(options.configuration.data, "api-key")
    try:
        reply = send(
            options["server"],
            options["key"] or read_key(key_file),
            options["from"],
            options["to"],
            cafile=options["cafile"] or "",
            insecure=bool(options["insecure"]),
        )
    except CannotSend as error:
        raise SystemExit(f"smtp-relay: {error}") from None
    print(reply)


if __name__ == "__main__":
    main()
