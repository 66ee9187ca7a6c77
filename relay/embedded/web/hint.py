"""How a first message is sent, for the pages that say so."""

from __future__ import annotations

import shlex
from pathlib import Path

from attrs import frozen


@frozen
class Hint:
    """How a first message is sent, for the page that has none yet.

    :ivar key_file: where the API key of the first account stands.
    :ivar tls: whether the SMTP side offers STARTTLS.
    """

    host: str = "127.0.0.1"
    port: int = 2525
    tls: bool = True
    key_file: Path = Path("api-key")

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
