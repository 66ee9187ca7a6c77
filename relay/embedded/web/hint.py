"""How a first message is sent, for the pages that say so."""

from __future__ import annotations

import shlex
from pathlib import Path

from attrs import frozen


@frozen
class Hint:
    """Where messages are taken.

    :ivar host: the name or address for clients.
    :ivar port: the best of the ports for a first message, 0 where none is listened on.
    :ivar tls: whether the SMTP side offers STARTTLS.
    :ivar key_file: where the API key of the first account stands.
    :ivar ports: all ports that are listened on.
    :ivar certificate: the certificate that the relay made itself, None where it has one that clients trust.
    """

    host: str = "127.0.0.1"
    port: int = 2525
    tls: bool = True
    key_file: Path = Path("api-key")
    ports: tuple[int, ...] = (2525,)
    certificate: Path | None = None

    def swaks(self) -> str:
        """A command line that sends a message; it reads the key, so that no page holds it."""
        server = ["swaks", "--server", self.host, "--port", str(self.port), *(["--tls"] if self.tls else [])]
        lines = (
            shlex.join(server),
            "--auth PLAIN --auth-user api",
            f'--auth-password "$(cat {shlex.quote(str(self.key_file))})"',
            "--from you@example.com --to someone@example.org",
            "--header 'Subject: Hello' --header 'X-Transactional-Tag: first'",
            "--header 'Content-Type: text/html' --body '<h1>It works</h1>'",
        )
        return " \\\n  ".join(lines)
