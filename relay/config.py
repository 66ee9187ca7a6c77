"""TOML + environment + flags -> one frozen :class:`Config`.

A flag wins over an environment variable, that over the file, that over the default.  Everything that is given
is checked, also where it is overridden, and all problems are raised at once in one
:class:`~relay.errors.ConfigError`, each a line that names the source, the key and what is allowed.

``python -m relay.config`` prints the table of keys that docs/configuration holds.
"""

# Over 500 lines: the keys, the check of each and what the documents say of them stand side by side.

from __future__ import annotations

import difflib
import ipaddress
import json
import math
import os
import re
import socket
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
from attrs import field, frozen

from relay.errors import ConfigError
from relay.policy import Auth, Breaker, Content, Delivery, Embedded, Failures, Ledger, Limits, Platform, Session, Spool

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: Every environment variable of ours begins with this.
PREFIX = "SMTP_RELAY_"

#: The listeners of a relay that is told nothing; one that needs root is then left out (SMTP.md).
DEFAULT_LISTEN = ("tcp:587", "tcp:2525", "tcp:8025")

#: The spool's file in the data directory, for SQLite.
SPOOL = "spool.sqlite3"

#: Most processes that take mail.
MOST_WORKERS = 64

# Kubernetes sets these beside a service that is called smtp-relay; they are none of ours.
_KUBERNETES = re.compile(rf"{PREFIX}(SERVICE_(HOST|PORT)|PORT)(_\w+)?")

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOSTNAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*\.?", re.IGNORECASE)
_ENDPOINT_KIND = re.compile(r"[a-z][a-z0-9_-]*\Z")
_ENDPOINT_KINDS = ("tcp", "tcp6", "unix", "systemd", "haproxy", "ssl")

_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")


# --- what a value may be: each check returns the value, made uniform, or raises ValueError with what is allowed


def _endpoint(text: str) -> str:
    """A Twisted server endpoint, as far as its syntax tells; Twisted says the rest when it is made."""
    if text.isdecimal():
        raise ValueError(f"must be a Twisted endpoint, for a port: tcp:{text}")
    kind, *arguments = re.split(r"(?<!\\):", text)
    if kind == "haproxy":
        _endpoint(text.partition(":")[2])
    elif not _ENDPOINT_KIND.match(kind) or not arguments:
        raise ValueError("must be a Twisted endpoint, such as tcp:2525 or tcp:2525:interface=127.0.0.1")
    elif kind in ("tcp", "tcp6"):
        _tcp_arguments(kind, arguments)
    elif kind not in _ENDPOINT_KINDS:
        meant = _did_you_mean(kind, _ENDPOINT_KINDS)
        if meant:
            raise ValueError(f"{kind!r} is no kind of endpoint{meant}")
    return text


def _tcp_arguments(kind: str, arguments: Sequence[str]) -> None:
    named = dict(each.split("=", 1) for each in arguments if "=" in each)
    positional = [each for each in arguments if "=" not in each]
    if len(positional) + ("port" in named) != 1:
        hint = r"; the colons of an IPv6 address are escaped: interface=\:\:1" if len(positional) > 1 else ""
        raise ValueError(f"must hold one port: {kind}:PORT or {kind}:PORT:interface=ADDRESS{hint}")
    port = named.pop("port", "") or positional[0]
    if not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"must hold a port of 0 to 65535: {kind}:PORT or {kind}:PORT:interface=ADDRESS")
    for name in named.keys() - {"interface", "backlog"}:
        raise ValueError(f"{name!r} is no argument of {kind}: interface and backlog are")


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if host is None or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
        raise ValueError("must be a URL that begins with http:// or https:// and has no query")
    if "@" in parts.netloc:
        raise ValueError("must not hold a user name or password: the API key of each message is what signs in")
    return text.rstrip("/")


def _database(text: str) -> str:
    if not re.match(r"postgres(?:ql)?://[^/\s]*/[^\s]+\Z", text):
        raise ValueError("must be postgresql://user:password@host/database, or be left out for SQLite under data")
    return text


def _webhook(text: str) -> str:
    if urlsplit(text).scheme not in ("http", "https") or not urlsplit(text).hostname:
        raise ValueError("must be a URL that begins with http:// or https://")
    return text


def _hostname(text: str) -> str:
    if not _HOSTNAME.fullmatch(text):
        raise ValueError("must be a host name of letters, digits, hyphens and dots, such as relay.example.com")
    return text.rstrip(".").lower()


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        raise ValueError("must be an address or a network, such as 10.0.0.0/8 or ::1") from None


def _file(text: str) -> str:
    try:
        with open(text, "rb"):
            return text
    except OSError as error:
        raise ValueError(f"must be a file that can be read: {error.strerror}") from None


def _file_to_be(text: str) -> str:
    if os.path.exists(text):
        return _file(text)
    if not os.path.isdir(os.path.dirname(os.path.abspath(text))):
        raise ValueError("must be a file, or be in a directory where one can be made")
    return text


def _directory(text: str) -> str:
    if os.path.exists(text) and not os.path.isdir(text):
        raise ValueError("must be a directory; it is made if it is missing")
    return text


def _path_of_url(text: str) -> str:
    if not re.fullmatch(r"/[!-~]*", text):
        raise ValueError("must begin with / and hold printable ASCII without spaces")
    return text


def _workers(text: str) -> str:
    if text != "auto" and not (text.isascii() and text.isdecimal() and 1 <= int(text) <= MOST_WORKERS):
        raise ValueError(f"must be auto or a number of 1 to {MOST_WORKERS}")
    return text


# --- the keys


def _host() -> str:
    """This host's name; one that is no host name, or is of a network without names, is ``localhost``."""
    name = socket.gethostname()
    if "." not in name:
        name = socket.getfqdn(name)
    return name.lower() if _HOSTNAME.fullmatch(name) and not name.endswith(".arpa") else "localhost"


def _data() -> str:
    """Where state is kept: ``/var/lib`` for root, else the user's state directory (XDG)."""
    if os.geteuid() == 0:
        return "/var/lib/smtp-relay"
    base = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.expanduser("~/.local/state")
    # A user that no system knows, as in a container, has no home.
    return os.path.join(base, "smtp-relay") if os.path.isabs(base) else "/var/lib/smtp-relay"


def _top(
    default: Any,
    doc: str,
    check: Callable[[str], str] | None = None,
    *,
    flag: bool = True,
    shown: str = "",
    choices: tuple[str, ...] = (),
    number: bool = False,
) -> Any:
    """A key at the top of the file.

    :param shown: what the documents say of a default that is found out.
    :param number: whether the file may have a number for the text.
    """
    metadata = {"doc": doc, "check": check, "flag": flag, "shown": shown, "choices": choices, "number": number}
    return field(factory=default, metadata=metadata) if callable(default) else field(default=default, metadata=metadata)


@frozen
class Config:
    """The whole configuration.  Paths are absolute.

    :ivar backend: base URLs of the platforms; none is the embedded backend.
    :ivar certificate: PEM file, leaf first; ``""``: the relay makes one under *data*.
    :ivar sources: where each key that is not a default came from: ``--listen``, ``SMTP_RELAY_LISTEN``,
        ``/etc/smtp-relay.toml``.
    """

    listen: tuple[str, ...] = _top(
        DEFAULT_LISTEN,
        "SMTP listeners, Twisted endpoints. A default port that needs root is left out with a warning.",
        _endpoint,
    )
    backend: tuple[str, ...] = _top(
        (), "URL of the platform, http or https; several stand in for each other.", _url, shown="the embedded backend"
    )
    backend_order: str = _top(
        "in-order",
        "Which of several platforms is tried first: the first that works, or another one each time.",
        flag=False,
        choices=("in-order", "round-robin"),
    )
    hostname: str = _top(_host, "The name in the greeting and the certificate.", _hostname, shown="this host's name")
    certificate: str = _top("", "PEM file of the certificate and its chain.", _file, shown="made on first start")
    private_key: str = _top("", "PEM file of the certificate's key.", _file, shown="made on first start")
    data: str = _top(
        _data,
        "Directory of the state: certificate, API key, databases. Made with mode 0700.",
        _directory,
        shown="/var/lib/smtp-relay for root, else ~/.local/state/smtp-relay",
    )
    admin: str = _top("tcp:9587:interface=127.0.0.1", "Endpoint of /healthz, /readyz and /metrics.", _endpoint)
    dashboard: str = _top(
        "tcp:8080:interface=127.0.0.1", "Endpoint of the embedded backend: its pages and its API.", _endpoint
    )
    proxy_from: tuple[str, ...] = _top(
        ("127.0.0.0/8", "::1/128"),
        "Networks from which a haproxy: listener takes connections and believes their PROXY header.",
        _network,
        flag=False,
    )
    workers: str = _top(
        "1",
        "Processes that take mail on the same ports: auto, one a core, or a number of 1 to 64.",
        _workers,
        number=True,
    )
    log_format: str = _top("text", "The log: twistd's text lines, or a JSON object a line.", choices=("text", "json"))
    session: Session = field(factory=Session)
    content: Content = field(factory=Content)
    limits: Limits = field(factory=Limits)
    auth: Auth = field(factory=Auth)
    platform: Platform = field(factory=Platform)
    delivery: Delivery = field(factory=Delivery)
    spool: Spool = field(factory=Spool)
    breaker: Breaker = field(factory=Breaker)
    ledger: Ledger = field(factory=Ledger)
    failures: Failures = field(factory=Failures)
    embedded: Embedded = field(factory=Embedded)
    sources: Mapping[str, str] = field(factory=dict, eq=False, repr=False)

    @property
    def spool_url(self) -> str:
        """The database of the spool: ``spool.url``, else a file of SQLite under *data*."""
        return self.spool.url or f"sqlite:///{os.path.join(os.path.abspath(self.data), SPOOL)}"

    @property
    def processes(self) -> int:
        """How many processes take mail."""
        if self.workers != "auto":
            return int(self.workers)
        # Not every system says which cores a process may use.
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(cores, MOST_WORKERS)

    def source(self, key: str) -> str:
        """Where *key* came from, for a message: ``"--listen"``, or ``"the default of listen"``."""
        return self.sources.get(key, f"the default of {key}")


#: Field of :class:`Config` -> (table of the file, class); ``""`` is the top.
_GROUPS: dict[str, tuple[str, type[Any]]] = {
    "session": ("", Session),
    "content": ("", Content),
    "limits": ("limits", Limits),
    "auth": ("auth", Auth),
    "platform": ("platform", Platform),
    "delivery": ("delivery", Delivery),
    "spool": ("spool", Spool),
    "breaker": ("breaker", Breaker),
    "ledger": ("ledger", Ledger),
    "failures": ("failures", Failures),
    "embedded": ("embedded", Embedded),
}

#: Keys of the tables that have a flag.
_FLAGS = {"spool.url": "--spool", "spool.key_file": "--spool-key-file"}

_CHECKS: dict[str, Callable[[str], str]] = {
    "platform.ca_file": _file,
    "platform.send_path": _path_of_url,
    "platform.ping_path": _path_of_url,
    "spool.url": _database,
    "spool.key_file": _file_to_be,
    "failures.webhook": _webhook,
    "embedded.database": _database,
    "embedded.key_file": _file_to_be,
    "embedded.maildir": _directory,
    "embedded.public_url": _url,
}

#: Keys whose value may hold a secret: a password, or a URL that is one.
_SECRETS = frozenset({"spool.url", "failures.webhook", "embedded.database"})

#: Keys that hold a path; a relative one is taken from the file's directory, or from the current one.
_PATHS = frozenset(
    {
        "certificate",
        "private_key",
        "data",
        "platform.ca_file",
        "spool.key_file",
        "embedded.key_file",
        "embedded.maildir",
    }
)


@frozen
class Key:
    """One key of the configuration, and the values it allows.

    :ivar group: the field of :class:`Config` that holds it, ``""`` for Config itself.
    :ivar path: its name in the file with the table: ``limits.message_size``.
    """

    group: str
    path: str
    type: Any
    default: Any
    metadata: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]

    @property
    def env(self) -> str:
        return PREFIX + self.path.upper().replace(".", "_")

    @property
    def flag(self) -> str:
        return f"--{self.path.replace('_', '-')}" if self.metadata.get("flag") else _FLAGS.get(self.path, "")

    @property
    def is_list(self) -> bool:
        return typing.get_origin(self.type) is tuple

    @property
    def kind(self) -> str:
        """The type, for people."""
        if self.is_list:
            return "list of strings"
        return {int: "integer", float: "number", bool: "true or false", str: "string"}[self.type]

    @property
    def allowed(self) -> str:
        """The values allowed, for people; ``""`` where the type says it all."""
        if self.metadata["choices"]:
            return " or ".join(self.metadata["choices"])
        low, high = self.metadata.get("minimum"), self.metadata.get("maximum")
        if low is not None and high is not None:
            return f"{low} to {high}"
        return f"at least {low}" if low is not None else f"at most {high}" if high is not None else ""

    def parse(self, raw: Any, *, text: bool, base: str = "") -> Any:
        """*raw* as a value of this key.

        :param text: whether *raw* is text of a flag or variable and not a typed value of the file.
        :param base: directory that a relative path is taken from.
        :raises ValueError: with what is allowed, one argument for each problem.
        """
        if self.is_list:
            items = (raw.split() if text else [raw]) if isinstance(raw, str) else raw
            if not isinstance(items, list | tuple) or not all(isinstance(each, str) for each in items):
                raise ValueError("must be a list of strings")
            if not items and self.default:
                raise ValueError("must be a list of strings with at least one")
            return self._all_checked(items)
        value = self._from_text(raw) if text else self._from_file(raw)
        if isinstance(value, str):
            if not value and self.default != "":
                raise ValueError("must not be empty")
            if self.path in _PATHS and value:
                value = os.path.abspath(os.path.join(base, os.path.expanduser(value)))
            return self._checked(value)
        low, high = self.metadata.get("minimum"), self.metadata.get("maximum")
        if (low is not None and value < low) or (high is not None and value > high):
            raise ValueError(f"must be {self.allowed}")
        return value

    def _checked(self, value: str) -> str:
        choices = self.metadata["choices"]
        if choices and value not in choices:
            raise ValueError(f"must be {self.allowed}{_did_you_mean(value, choices)}")
        check = self.metadata.get("check") or _CHECKS.get(self.path)
        return check(value) if check and value else value

    def _all_checked(self, items: Sequence[str]) -> tuple[str, ...]:
        values, problems = [], []
        for each in items:
            try:
                values.append(self._checked(each))
            except ValueError as error:
                problems.append(f"{_shown(each)} {error}")
        if problems:
            raise ValueError(*problems)
        return tuple(values)

    def _wrong_type(self) -> ValueError:
        article = "an" if self.kind[0] in "aeiou" else "a"
        kind = self.kind if self.type is bool else f"{article} {self.kind}"
        return ValueError(f"must be {kind}{', ' + self.allowed if self.allowed else ''}")

    def _from_file(self, raw: Any) -> Any:
        if self.type is float and type(raw) is int:
            return float(raw)
        if self.metadata.get("number") and type(raw) is int:
            return str(raw)
        if type(raw) is not self.type or (isinstance(raw, float) and not math.isfinite(raw)):
            raise self._wrong_type()
        return raw

    def _from_text(self, raw: str) -> Any:
        if self.type is bool:
            if raw.lower() not in _TRUE + _FALSE:
                raise self._wrong_type()
            return raw.lower() in _TRUE
        try:
            return self._from_file(self.type(raw))
        except ValueError:
            raise self._wrong_type() from None


def _keys() -> Iterator[Key]:
    for group, table, cls in [("", "", Config), *((group, *entry) for group, entry in _GROUPS.items())]:
        types = typing.get_type_hints(cls)
        for each in attrs.fields(cls):
            if "doc" in each.metadata:
                path = f"{table}.{each.name}" if table else each.name
                yield Key(group, path, types[each.name], each.default, each.metadata)


#: Every key, in the order of the documents.
KEYS = tuple(_keys())
_BY_PATH = {key.path: key for key in KEYS}
_BY_ENV = {key.env: key for key in KEYS}
_BY_FLAG = {key.flag.removeprefix("--").replace("-", "_"): key for key in KEYS if key.flag}


# --- where values come from


@frozen
class _Given:
    """A value as a source gave it; *said* is how a problem names it."""

    key: Key
    source: str
    said: str
    raw: Any
    text: bool = True
    base: str = ""


def load(
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    path: str | None = None,
) -> Config:
    """The configuration from all sources.

    :param flags: values of the command line by key (``private_key``), those not given absent or None.
    :param environ: the environment.
    :param path: the TOML file; without one, ``SMTP_RELAY_CONFIG`` names it, and without that there is none.
    :raises ConfigError: everything that is wrong, not only the first.
    """
    environ = environ or {}
    problems: list[str] = []
    path = path or environ.get(f"{PREFIX}CONFIG") or None
    given = [
        *(_from_file(path, problems) if path else ()),
        *_from_environment(environ, problems),
        *_from_flags(flags or {}),
    ]
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for each in given:
        try:
            values[each.key.path] = each.key.parse(each.raw, text=each.text, base=each.base)
            sources[each.key.path] = each.source
        except ValueError as error:
            problems.extend(f"{each.said}: {problem}" for problem in error.args)
    for one, other in (("certificate", "private_key"), ("private_key", "certificate")):
        if values.get(one) and other not in values and not any(each.key.path == other for each in given):
            problems.append(f"{sources[one]}: {one} is given without {other}: give both, or neither")
    if problems:
        raise ConfigError(problems)
    return _make(values, sources)


def _make(values: Mapping[str, Any], sources: Mapping[str, str]) -> Config:
    fields: dict[str, dict[str, Any]] = {group: {} for group in ("", *_GROUPS)}
    for path, value in values.items():
        key = _BY_PATH[path]
        fields[key.group][key.name] = value
    groups = {group: cls(**fields[group]) for group, (_, cls) in _GROUPS.items()}
    return Config(**fields[""], **groups, sources=sources)


def _from_file(path: str, problems: list[str]) -> Iterator[_Given]:
    try:
        tree = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        problems.append(f"{path}: the configuration file cannot be read: {error.strerror}")
        return
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(f"{path}: not a TOML file: {error}")
        return
    base = os.path.dirname(os.path.abspath(path))
    tables = {table for table, _ in _GROUPS.values()} - {""}
    for name, value in tree.items():
        if name in tables and not isinstance(value, dict):
            problems.append(f"{path}: {name}: must be a table: [{name}]")
            continue
        inner = {f"{name}.{each}": value[each] for each in value} if isinstance(value, dict) else {name: value}
        for dotted, raw in inner.items():
            if dotted in _BY_PATH:
                said = "…" if dotted in _SECRETS else _shown(raw)
                yield _Given(_BY_PATH[dotted], path, f"{path}: {dotted} = {said}", raw, False, base)
            else:
                problems.append(f"{path}: {dotted}: unknown key{_did_you_mean(dotted, _BY_PATH)}")


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> Iterator[_Given]:
    for name, value in sorted(environ.items()):
        if not name.startswith(PREFIX) or name == f"{PREFIX}CONFIG" or _KUBERNETES.fullmatch(name):
            continue
        if name not in _BY_ENV:
            problems.append(f"{name}: unknown variable{_did_you_mean(name, _BY_ENV)}")
        elif value.strip():
            said = "…" if _BY_ENV[name].path in _SECRETS else _shown(value, quote=False)
            yield _Given(_BY_ENV[name], name, f"{name}={said}", value.strip())


def _from_flags(flags: Mapping[str, Any]) -> Iterator[_Given]:
    for name, value in flags.items():
        if name in _BY_FLAG and value:
            key = _BY_FLAG[name]
            said = " ".join(value) if isinstance(value, list | tuple) else str(value)
            shown = "…" if key.path in _SECRETS else _shown(said, quote=False)
            yield _Given(key, key.flag, f"{key.flag} {shown}", value)


def _did_you_mean(word: str, words: typing.Iterable[str]) -> str:
    """``"; did you mean X?"``, also for a key that stands in another table."""
    known = list(words)
    close = difflib.get_close_matches(word, known, 1, 0.6)
    close = close or [each for each in known if each.rpartition(".")[2] == word.rpartition(".")[2]][:1]
    return f"; did you mean {close[0]}?" if close else ""


def _shown(raw: Any, *, quote: bool = True) -> str:
    """A value within a problem: short, one line, and without what stands before an ``@`` in a URL."""
    text = re.sub(r"//[^/@]*@", "//…@", str(raw))
    text = repr(text) if quote and isinstance(raw, str) else "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= 80 else f"{text[:79]}…"


# --- for another process


def handed_over(config: Config) -> dict[str, Any]:
    """*config* as JSON holds it, secrets and all, for :func:`taken_over`."""
    return {"values": {key.path: _value(config, key) for key in KEYS}, "sources": dict(config.sources)}


def taken_over(given: Mapping[str, Any]) -> Config:
    """The configuration that :func:`handed_over` gave; nothing is checked again."""
    values = {path: tuple(value) if isinstance(value, list) else value for path, value in given["values"].items()}
    return _make(values, given["sources"])


def with_values_of(one: Config, keys: Sequence[str], other: Config) -> Config:
    """*other*, with the values that *one* has for *keys*."""
    given, kept = handed_over(other), handed_over(one)["values"]
    return taken_over({**given, "values": {**given["values"], **{key: kept[key] for key in keys}}})


def differing(one: Config, other: Config) -> list[str]:
    """The keys that have other values in *other* than in *one*."""
    return [key.path for key in KEYS if _value(one, key) != _value(other, key)]


def _value(config: Config, key: Key) -> Any:
    return getattr(getattr(config, key.group) if key.group else config, key.name)


# --- for people


def effective(config: Config) -> str:
    """Every key with its value and where it came from, as TOML."""
    lines = []
    table = ""
    for key in KEYS:
        if key.path != key.name and key.path.partition(".")[0] != table:
            table = key.path.partition(".")[0]
            lines.append(f"\n[{table}]")
        value = _value(config, key)
        source = config.sources.get(key.path, "default")
        shown = "…" if value and key.path in _SECRETS else value
        lines.append(f"{key.name} = {_toml(shown)}  # {source}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)


@frozen
class Row:
    """One row of docs/configuration."""

    key: str
    env: str
    flag: str
    type: str
    default: str
    allowed: str
    doc: str


def describe() -> Iterator[Row]:
    """Every key, for the documents and ``--help``."""
    for key in KEYS:
        yield Row(key.path, key.env, key.flag, key.kind, _default(key), key.allowed, key.metadata["doc"])


def _default(key: Key) -> str:
    shown: str = key.metadata.get("shown", "")
    if shown:
        return shown
    if isinstance(key.default, bool):
        return str(key.default).lower()
    if isinstance(key.default, tuple):
        return " ".join(key.default)
    return f"{key.default:g}" if isinstance(key.default, float) else str(key.default)


def table() -> str:
    """:func:`describe` as a reStructuredText list-table."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    heads = ("Key", "Variable and flag", "Type", "Default", "Meaning")
    lines += [f"   {'*' if head == heads[0] else ' '} - {head}" for head in heads]
    for row in describe():
        given = f"``{row.env}``" + (f", ``{row.flag}``" if row.flag else "")
        kind = f"{row.type}, {row.allowed}" if row.allowed else row.type
        cells = (f"``{row.key}``", given, kind, row.default or "(empty)", row.doc)
        lines += [f"   {'*' if index == 0 else ' '} - {cell}" for index, cell in enumerate(cells)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
