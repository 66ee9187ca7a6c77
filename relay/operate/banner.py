"""What the operator sees when the relay is ready, and a first message to paste."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from attrs import field, frozen


@frozen
class Ready:
    """Where everything is.

    :ivar smtp: the addresses that SMTP is spoken at, as they are shown.
    :ivar target: host and port for a first message, or None where there is no such listener.
    :ivar dashboard: address of the embedded backend, ``""`` without one.
    :ivar api_key: the embedded backend's key, ``""`` without one; shown to a terminal alone.
    :ivar key_file: where it stands.
    :ivar people: e-mail address and password of who may sign in since the first start; shown to a terminal alone.
    :ivar passwords_file: where these stand, ``""`` once they have served.
    """

    smtp: tuple[str, ...]
    target: tuple[str, int] | None
    admin: str
    dashboard: str = ""
    backend: str = ""
    api_key: str = field(default="", repr=False)
    key_file: str = ""
    people: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    passwords_file: str = ""


def swaks(ready: Ready, password: str) -> str:
    """A first message for a shell, ``""`` where no listener has a port.

    :param password: what stands for the API key, quoted for the shell.
    """
    if ready.target is None:
        return ""
    host, port = ready.target
    server = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return (
        f"swaks --server {server} --tls --auth PLAIN --auth-user relay --auth-password {password}"
        " --from sender@example.com --to recipient@example.com --header 'Subject: Hello'"
        " --header 'Content-Type: text/html; charset=utf-8' --body '<h1>Hello</h1><p>It works.</p>'"
    )


def for_terminal(ready: Ready) -> str:
    """The banner, with the API key and the first passwords in it."""
    rows = [("SMTP", ", ".join(ready.smtp))]
    if ready.dashboard:
        rows += [("Dashboard", f"http://{ready.dashboard}/"), ("API key", ready.api_key)]
        rows += [("Sign in", f"{email}  {password}") for email, password in ready.people]
    else:
        rows.append(("Platform", ready.backend))
    rows.append(("Admin", f"http://{ready.admin}/readyz, /healthz, /metrics"))
    line = swaks(ready, shlex.quote(ready.api_key) if ready.api_key else "YOUR-API-KEY")
    body = "\n".join(f"  {name:<11}{value}" for name, value in rows)
    once = f"\n\nThe first passwords are in {ready.passwords_file}." if ready.passwords_file else ""
    once = "\n\nThe passwords are shown this once; smtp-relay user passwd sets others." if ready.people else once
    first = f"\n\nSend a first message:\n\n  {line}" if line else ""
    return f"\nThe relay is ready.\n\n{body}{once}{first}\n\n"


def for_log(ready: Ready) -> Iterator[str]:
    """The same as lines of the log; the API key stays in its file."""
    if ready.key_file:
        yield f"the API key is in {ready.key_file}"
    if ready.passwords_file:
        yield f"the first passwords are in {ready.passwords_file}"
    password = f'"$(cat {shlex.quote(ready.key_file)})"' if ready.key_file else "YOUR-API-KEY"
    line = swaks(ready, password)
    if line:
        yield f"send a first message: {line}"
