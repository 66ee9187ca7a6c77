"""A postal route as a value, and its settings as JSON and as a form: pure.

A name never chooses a file, a host or a port (THREATS.md, "Web"): the folder of a maildir is one component that
starts with a letter or a digit, authorities are PEM text and no path, and only an administrator makes routes.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from typing import Any

import attrs
from attrs import field, frozen
from cryptography import x509

#: The kinds of routes, and what a person reads.
KINDS = {"capture": "Capture", "smtp": "SMTP smarthost", "maildir": "Maildir"}

#: How the way to a smarthost is secured, and what a person reads.
TLS = {"starttls": "STARTTLS", "tls": "TLS from the start", "none": "None, clear text"}

LONGEST_NAME = 100
MOST_LANES = 100
MOST_A_MINUTE = 1_000_000
LONGEST_PEM = 262_144

_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_PRINTABLE = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]*")


class WrongRoute(Exception):
    """The settings of a route are not usable.

    :ivar problems: by the name of the field, what to change.
    """

    def __init__(self, problems: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {problem}" for name, problem in problems.items()))
        self.problems = dict(problems)


@frozen
class Capture:
    """Stores, and sends nothing."""


@frozen
class Smarthost:
    """A mail server that takes messages for everybody.

    :ivar tls: one of :data:`TLS`; with another than ``none`` nothing is ever said in clear text.
    :ivar authorities: PEM text of who may sign its certificate, ``""``: the system's.
    :ivar helo: what we call ourselves, ``""``: the name of this machine.
    :ivar concurrency: most connections of one backend.
    :ivar rate: most messages a minute of one backend, 0: no limit.
    """

    host: str
    port: int = 587
    tls: str = "starttls"
    authorities: str = field(default="", repr=False)
    user: str = ""
    password: str = field(default="", repr=False)
    helo: str = ""
    concurrency: int = 5
    rate: int = 0


@frozen
class Maildir:
    """A folder for each message to become a file in.

    :ivar folder: its name below the folder of all maildirs.
    """

    folder: str


Settings = Capture | Smarthost | Maildir

_CLASSES: dict[str, type[Settings]] = {"capture": Capture, "smtp": Smarthost, "maildir": Maildir}


@frozen
class PostalRoute:
    """A route as the administrator sees it.

    :ivar id: goes on the wire, and in the log; it stays.
    """

    id: str
    name: str
    settings: Settings
    created: float = 0.0

    @property
    def kind(self) -> str:
        """One of :data:`KINDS`."""
        return next(kind for kind, made in _CLASSES.items() if isinstance(self.settings, made))


def password_of(settings: Settings) -> str:
    """The secret of a route, ``""`` without one."""
    return settings.password if isinstance(settings, Smarthost) else ""


def dump(settings: Settings) -> str:
    """The settings as JSON, the password left out."""
    return json.dumps(attrs.asdict(settings, filter=attrs.filters.exclude("password")), sort_keys=True)


def load(kind: str, text: str, password: str = "") -> Settings:
    """What :func:`dump` wrote; what a newer version added is left out.

    :raises WrongRoute: nothing usable.
    """
    made = _CLASSES.get(kind)
    try:
        given = json.loads(text)
        if made is None or not isinstance(given, dict):
            raise TypeError
        known = {each.name for each in attrs.fields(made)}
        fields: dict[str, Any] = {**given, "password": password}
        return made(**{name: value for name, value in fields.items() if name in known})
    except (ValueError, TypeError):
        raise WrongRoute({"settings": "cannot be read back"}) from None


def parse_id(given: str) -> str:
    """The id of a new route.

    :raises WrongRoute: it is none.
    """
    id = given.strip().lower()
    if not _ID.fullmatch(id):
        raise WrongRoute({"id": "must be 1 to 64 of a-z 0-9 . _ - and start with a letter or a digit"})
    return id


def parse(id: str, kind: str, form: Mapping[str, str], *, password: str = "") -> PostalRoute:
    """The route that a person asks for.

    :param id: a good one.
    :param form: the fields by name, all of them text.
    :param password: what it was, for an empty field.
    :raises WrongRoute: with every problem.
    """
    problems: dict[str, str] = {}
    name = form.get("name", "").strip() or id
    if len(name) > LONGEST_NAME or not _PRINTABLE.fullmatch(name):
        problems["name"] = f"must be one line of at most {LONGEST_NAME} characters"
    settings: Settings = Capture()
    if kind == "smtp":
        settings = _smarthost(form, password, problems)
    elif kind == "maildir":
        settings = _maildir(id, form, problems)
    elif kind != "capture":
        problems["kind"] = f"must be one of {', '.join(KINDS)}"
    if problems:
        raise WrongRoute(problems)
    return PostalRoute(id, name, settings)


def _maildir(id: str, form: Mapping[str, str], problems: dict[str, str]) -> Maildir:
    folder = form.get("folder", "").strip() or id
    if not _ID.fullmatch(folder):
        problems["folder"] = "must be one name of a-z 0-9 . _ - that starts with a letter or a digit, not a path"
    return Maildir(folder)


def _smarthost(form: Mapping[str, str], password: str, problems: dict[str, str]) -> Smarthost:
    text = {name: form.get(name, "").strip() for name in ("host", "tls", "user", "helo")}
    if not _is_host(text["host"]):
        problems["host"] = "must be a host name or an IP address, without a port"
    if text["helo"] and not _is_host(text["helo"]):
        problems["helo"] = "must be a host name"
    text["tls"] = text["tls"] or "starttls"
    if text["tls"] not in TLS:
        problems["tls"] = f"must be one of {', '.join(TLS)}"
    for name, value in (("user", text["user"]), ("password", form.get("password", ""))):
        if len(value) > 255 or not _PRINTABLE.fullmatch(value):
            problems[name] = "must be one line of at most 255 characters"
    default_port = 465 if text["tls"] == "tls" else 587
    return Smarthost(
        host=text["host"],
        tls=text["tls"],
        user=text["user"],
        helo=text["helo"],
        port=_number("port", form, problems, 1, 65_535, default_port),
        authorities=_authorities(form, problems),
        password=(form.get("password", "") or password) if text["user"] else "",
        concurrency=_number("concurrency", form, problems, 1, MOST_LANES, 5),
        rate=_number("rate", form, problems, 0, MOST_A_MINUTE, 0),
    )


def _is_host(given: str) -> bool:
    """Whether *given* is a name or an address, and nothing that a URL or a command could be made of."""
    try:
        ipaddress.ip_address(given)
    except ValueError:
        return len(given) <= 253 and bool(_HOST.fullmatch(given))
    return True


def _authorities(form: Mapping[str, str], problems: dict[str, str]) -> str:
    pem = form.get("authorities", "").strip().replace("\r\n", "\n")
    if not pem:
        return ""
    try:
        if len(pem) > LONGEST_PEM:
            raise ValueError
        x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        problems["authorities"] = "must be certificates in PEM form, or empty"
    return f"{pem}\n"


def _number(
    name: str, form: Mapping[str, str], problems: dict[str, str], least: int, most: int, default: int
) -> int:  # fmt: skip
    given = form.get(name, "").strip()
    if not given:
        return default
    if given.isascii() and given.isdecimal() and len(given) < 10 and least <= int(given) <= most:
        return int(given)
    problems[name] = f"must be a number from {least} to {most}"
    return default


def public(route: PostalRoute) -> dict[str, Any]:
    """The settings as an administrator may see them, the password left out."""
    fields: dict[str, Any] = json.loads(dump(route.settings))
    return {"id": route.id, "name": route.name, "kind": route.kind, **fields}
