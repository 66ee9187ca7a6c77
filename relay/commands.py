"""The console script ``smtp-relay``: run, check-config, send-test, queue, account and user.

Everything heavy is imported late: a command's help and its wrong words are answered at once.
"""

from __future__ import annotations

import errno
import gc
import getopt
import getpass
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.python import usage

from relay.config import KEYS, SPOOL, Config, effective
from relay.errors import ConfigError
from relay.tap import Options, listed, loaded, write_anything


def _untyped(options: Any) -> Any:
    """The class, without the annotations that usage.Options lacks."""
    return options


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


class _Queue(usage.Options):
    """Options of ``smtp-relay queue``.

    :ivar configuration: the relay's.
    :ivar words: what is no option: ``show ID``.
    """

    optParameters = [
        ["config", "c", None, "The relay's TOML file. (SMTP_RELAY_CONFIG)"],
        *(
            [key.flag.removeprefix("--"), None, None, f"{key.metadata['doc']} ({key.env})"]
            for key in KEYS
            if key.path in ("data", "spool.url")
        ),
        ["account", None, None, "Recipients of this account only: its name, or the beginning of its digest."],
        ["limit", None, None, "List so many recipients at most, 0 for all; default: 100, with --json all."],
    ]
    optFlags = [
        ["failed", None, "Failures only: recipients that are given up."],
        ["all", None, "Retry everything, failures too."],
        ["json", None, "A JSON object a line, for programs."],
        ["yes", None, "Drop without a question."],
    ]
    synopsis = """Usage: smtp-relay queue [list] [--failed] [--account A] [--limit N] [--json]
       smtp-relay queue show ID… [--json]
       smtp-relay queue retry ID… | --all | [--account A] [--failed]
       smtp-relay queue drop ID… [--yes]"""
    longdesc = (
        "Lists the recipients that wait in the spool, shows a message, tries recipients again now, or drops them. "
        "ID is the one of the 250 reply. The relay may be running or stopped."
    )

    configuration: Config
    words: tuple[str, ...]

    opt_version = Options.opt_version

    def getSynopsis(self) -> str:
        """Without that of ``smtp-relay`` before it."""
        return self.synopsis

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Options may stand before and after the other words."""
        try:
            given, words = getopt.gnu_getopt(list(options or ()), self.shortOpt, self.longOpt)
        except getopt.error as error:
            raise usage.UsageError(str(error)) from None
        valued = {f"--{each[:-1]}" for each in self.longOpt if each.endswith("=")}
        before = [f"{name}={value}" if name in valued else f"{name}{value}" for name, value in given]
        usage.Options.parseOptions(self, [*before, "--", *words])

    def parseArgs(self, *words: str) -> None:
        """Keep them."""
        self.words = words

    def postOptions(self) -> None:
        """Read the configuration."""
        self.configuration = loaded({name: self[name] for name in ("data", "spool")}, self["config"])


class _People(usage.Options):
    """Options of ``smtp-relay account`` and ``smtp-relay user``.

    :cvar what: which of the two.
    :ivar configuration: the relay's.
    :ivar words: what is no option: ``add NAME``.
    """

    what = ""
    synopsis = ""
    optParameters = [
        ["config", "c", None, "The relay's TOML file. (SMTP_RELAY_CONFIG)"],
        *(
            [key.flag.removeprefix("--"), None, None, f"{key.metadata['doc']} ({key.env})"]
            for key in KEYS
            if key.path == "data"
        ),
    ]

    configuration: Config
    words: tuple[str, ...]

    opt_version = Options.opt_version

    def getSynopsis(self) -> str:
        """Without that of ``smtp-relay`` before it."""
        return self.synopsis

    parseOptions = _Queue.parseOptions
    parseArgs = _Queue.parseArgs

    def postOptions(self) -> None:
        """Read the configuration."""
        self.configuration = loaded({"data": self["data"]}, self["config"])


class _Account(_People):
    """Options of ``smtp-relay account``."""

    what = "account"
    synopsis = """Usage: smtp-relay account [list]
       smtp-relay account add NAME
       smtp-relay account disable | enable | reset-key NAME"""
    longdesc = (
        "Shows and changes the accounts of the embedded backend; NAME may be the account's id. "
        "The relay may be running or stopped."
    )


class _User(_People):
    """Options of ``smtp-relay user``."""

    what = "user"
    optParameters = [
        ["account", None, None, "The account of a new user: its name or id."],
        ["password-file", None, None, "File that holds the password; without it it is asked for, or made and shown."],
    ]
    optFlags = [["administrator", None, "The new user is an administrator, of no account."]]
    synopsis = """Usage: smtp-relay user [list]
       smtp-relay user add EMAIL --account NAME | --administrator [--password-file FILE]
       smtp-relay user passwd EMAIL [--password-file FILE]
       smtp-relay user disable | enable EMAIL"""
    longdesc = (
        "Shows and changes who may sign in at the pages of the embedded backend. The relay may be running or stopped."
    )


class _Commands(usage.Options):
    """Options of ``smtp-relay``."""

    subCommands = [
        ["run", None, _Run, "Run the relay in the foreground; the same as twistd -n smtp-relay."],
        ["check-config", None, Options, "Say everything that is wrong with the configuration, or show it."],
        ["send-test", None, _SendTest, "Send a test message to a running relay."],
        ["queue", None, _Queue, "Show what waits in the spool, try it again, or drop it."],
        ["account", None, _Account, "Show and change the accounts of the embedded backend."],
        ["user", None, _User, "Show and change who may sign in at its pages."],
    ]
    synopsis = "Usage: smtp-relay COMMAND [options]"

    opt_version = Options.opt_version

    def postOptions(self) -> None:
        """A command is needed."""
        if not self.subCommand:
            raise usage.UsageError(
                "say what to do: run, check-config, send-test, queue, account, user; --help tells more"
            )


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script; leaves with exit code 1 and every problem on standard error.

    Wrong usage of queue, account and user is exit code 2.
    """
    write_anything()
    commands: Any = _untyped(_Commands)()
    try:
        commands.parseOptions(sys.argv[1:] if arguments is None else arguments)
        if commands.subCommand == "run":
            _run(commands.subOptions.words)
        elif commands.subCommand == "check-config":
            _check_config(commands.subOptions)
        elif commands.subCommand == "queue":
            _queue(commands.subOptions)
        elif commands.subCommand in ("account", "user"):
            _people(commands.subOptions)
        else:
            _send_test(commands.subOptions)
    except usage.UsageError as error:
        if commands.subCommand in ("queue", "account", "user"):
            print(f"smtp-relay: {error}", file=sys.stderr)
            raise SystemExit(2) from None
        raise SystemExit(f"smtp-relay: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        # Whoever reads has seen enough, such as head.
        _write_no_more()


def _write_no_more() -> None:
    """Let Python not complain when it leaves and cannot write what is left of the output."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _run(words: Sequence[str]) -> None:
    gc.disable()  # see makeService
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
        raise SystemExit(f"smtp-relay: {listed(error)}") from None
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


#: The options of each command of ``smtp-relay queue``.
_QUEUE = {
    "list": ("account", "failed", "limit", "json"),
    "show": ("json",),
    "retry": ("all", "account", "failed"),
    "drop": ("yes",),
}


def _queue(options: _Queue) -> None:
    # First what is wrong with the words: the rest takes half a second to import.
    name, *ids = options.words or ("list",)
    _check_queue(options, name, ids)
    from relay.operate import queue
    from relay.operate.rows import WIDE
    from relay.spool.operators import Selection, open_queue

    selection = Selection(account=options["account"] or "", failed=True if options["failed"] else None)
    limit = int(options["limit"]) if options["limit"] else None
    command = queue.Command(name, tuple(ids), selection, limit, bool(options["json"]))
    ask = _ask if sys.stdin is not None and sys.stdin.isatty() and not options["yes"] else None
    terminal = queue.Terminal(print, ask, shutil.get_terminal_size((WIDE, 24)).columns)
    try:
        if not options.configuration.spool.url:
            # SQLite would say it less clearly; it needs to write to look, too.
            _check_access(os.path.join(options.configuration.data, SPOOL))
        with open_queue(options.configuration.spool_url) as spool:
            queue.run(spool, command, terminal)
        sys.stdout.flush()
    except ConfigError as error:
        raise SystemExit("\n".join(f"smtp-relay: {problem}" for problem in error.problems)) from None
    except queue.CannotDo as error:
        raise SystemExit("\n".join(f"smtp-relay: {problem}" for problem in str(error).splitlines())) from None
    except BrokenPipeError:
        raise
    except OSError as error:
        _write_no_more()
        hint = "; run this as the user that the relay runs as" if isinstance(error, PermissionError) else ""
        raise SystemExit(f"smtp-relay: {error.filename or 'the output'}: {error.strerror}{hint}") from None


def _check_access(path: str) -> None:
    """Whether the file may be read and written, if there is one.

    :raises PermissionError: it may not.
    """
    if os.path.exists(path) and not os.access(path, os.R_OK | os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)


def _check_queue(options: _Queue, name: str, ids: Sequence[str]) -> None:
    """Whether the words and options of ``smtp-relay queue`` fit together.

    :raises usage.UsageError: they do not.
    """
    if name not in _QUEUE:
        raise usage.UsageError(f"queue: {name!r} is none of list, show, retry and drop; --help tells more")
    for option in ("account", "failed", "limit", "json", "all", "yes"):
        if options[option] and option not in _QUEUE[name]:
            raise usage.UsageError(f"queue {name}: --{option} does not go with it; --help tells more")
    if options["limit"] and not (options["limit"].isascii() and options["limit"].isdecimal()):
        raise usage.UsageError(f"--limit {options['limit']}: must be a number, 0 for all")
    if name == "list" and ids:
        raise usage.UsageError("queue list: takes no ID; queue show ID does")
    if name in ("show", "drop") and not ids:
        raise usage.UsageError(f"queue {name}: needs the ID of a message")
    if name == "retry" and bool(ids) + bool(options["all"]) + bool(options["account"] or options["failed"]) != 1:
        raise usage.UsageError("queue retry: needs the ID of a message, or --all, or --account, or --failed")


def _people(options: Any) -> None:
    name, *words = options.words or ("list",)
    _check_people(options, name, words)
    from relay.embedded import command

    password_file = options.get("password-file")
    asked = sys.stdin is not None and sys.stdin.isatty() and not password_file
    terminal = command.Terminal(print, getpass.getpass if asked else None, time.time)
    try:
        wanted = command.Command(
            options.what,
            name,
            words[0] if words else "",
            options.get("account") or "",
            _first_line(password_file) if password_file else "",
        )
        command.run(Path(options.configuration.data), options.configuration.embedded, wanted, terminal)
        sys.stdout.flush()
    except ConfigError as error:
        raise SystemExit("\n".join(f"smtp-relay: {problem}" for problem in error.problems)) from None
    except command.CannotDo as error:
        raise SystemExit(f"smtp-relay: {error}") from None
    except EOFError:
        raise SystemExit("smtp-relay: no password was given") from None
    except BrokenPipeError:
        raise
    except OSError as error:
        raise SystemExit(f"smtp-relay: {error.filename or 'the output'}: {error.strerror}") from None


def _check_people(options: Any, name: str, words: Sequence[str]) -> None:
    """Whether the words and options of ``smtp-relay account`` and ``user`` fit together.

    :raises usage.UsageError: they do not.
    """
    names = _PEOPLE[options.what]
    if name not in names:
        raise usage.UsageError(f"{options.what}: {name!r} is none of {', '.join(names)}; --help tells more")
    if len(words) != (name != "list"):
        needs = "takes nothing more" if name == "list" else f"needs one {names[name]}"
        raise usage.UsageError(f"{options.what} {name}: {needs}")
    if options.what == "user" and (name == "add") != bool(options["account"] or options["administrator"]):
        wrong = "needs --account or --administrator" if name == "add" else "takes no --account or --administrator"
        raise usage.UsageError(f"user {name}: {wrong}")
    if options.get("account") and options.get("administrator"):
        raise usage.UsageError("user add: an administrator is of no account")
    if options.get("password-file") and name not in ("add", "passwd"):
        raise usage.UsageError(f"user {name}: takes no --password-file")


#: What there is to do, and what each needs.
_PEOPLE: dict[str, dict[str, str]] = {
    "account": {"list": "", "add": "NAME", "disable": "NAME", "enable": "NAME", "reset-key": "NAME"},
    "user": {"list": "", "add": "EMAIL", "passwd": "EMAIL", "disable": "EMAIL", "enable": "EMAIL"},
}


def _first_line(path: str) -> str:
    """The password in a file.

    :raises OSError: it cannot be read.
    """
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.readline().rstrip("\r\n")


def _ask(question: str) -> bool:
    """Whether the operator says yes."""
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False


if __name__ == "__main__":
    main()
