"""Postfix as a client: an instance with its own configuration, queue and log, which relays everything to the relay."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import SkipTest

from attrs import frozen

from .programs import require

_MAIN = """\
compatibility_level = 3.6
queue_directory = {root}/spool
data_directory = {root}/data
maillog_file = {root}/log/maillog
maillog_file_prefixes = {root}
mail_owner = postfix
setgid_group = postdrop
myhostname = postfix.example.com
mydestination =
inet_interfaces = loopback-only
inet_protocols = ipv4
alias_maps =
local_transport = error:nothing is local
relayhost = [127.0.0.1]:{port}
smtp_tls_security_level = encrypt
# Try again at once, not in five minutes.
minimal_backoff_time = 1s
maximal_backoff_time = 1s
queue_run_delay = 1s
smtp_destination_concurrency_failed_cohort_limit = 0
"""

_LOGIN = """\
smtp_sasl_auth_enable = yes
smtp_sasl_security_options = noanonymous
smtp_sasl_password_maps = texthash:{root}/etc/password
"""

#: No inet service: mail comes in by sendmail(1), and no port is needed.
_MASTER = """\
pickup    unix       n - n 1 1 pickup
cleanup   unix       n - n - 0 cleanup
qmgr      unix       n - n 1 1 qmgr
tlsmgr    unix       - - n 1000? 1 tlsmgr
rewrite   unix       - - n - - trivial-rewrite
bounce    unix       - - n - 0 bounce
defer     unix       - - n - 0 bounce
trace     unix       - - n - 0 bounce
smtp      unix       - - n - - smtp
error     unix       - - n - - error
retry     unix       - - n - - error
discard   unix       - - n - - discard
anvil     unix       - - n - 1 anvil
scache    unix       - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
"""


@frozen
class Postfix:
    """A running instance."""

    root: Path

    def send(self, sender: str, recipients: list[str], message: bytes) -> None:
        """Hand *message* to sendmail(1), which queues it.

        :param message: lines ending in LF.
        """
        argv = ["sendmail", "-C", str(self.root / "etc"), "-i", "-f", sender, "--", *recipients]
        subprocess.run(argv, input=message, check=True, timeout=30)

    def log(self) -> str:
        """What it has logged so far."""
        path = self.root / "log" / "maillog"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def wait_for(self, words: str, timeout: float = 40.0, *, times: int = 1) -> None:
        """Wait until *words* stand in the log, so many *times*.

        Every two seconds the queue is flushed: where a scan of Postfix' own meets a message that is just being
        delivered, it is left for a long time.

        :raises AssertionError: they do not within *timeout* seconds; the text has the log.
        """
        begun = flushed = time.monotonic()
        while self.log().count(words) < times:
            now = time.monotonic()
            if now > begun + timeout:
                raise AssertionError(f"{words!r} is not in the log:\n{self.log()}")
            if now > flushed + 2:
                flushed = now
                subprocess.run(["postqueue", "-c", str(self.root / "etc"), "-f"], check=False, timeout=30)
            time.sleep(0.05)


def _run(directory: Path, command: str) -> None:
    done = subprocess.run(
        ["postfix", "-c", str(directory), command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"postfix {command}: {done.stdout.decode()}")


@contextmanager
def running(root: Path, port: int, key: str | None, settings: str = "") -> Iterator[Postfix]:
    """A Postfix that relays to *port* until the block ends.

    :param root: an empty folder, removed by the caller.
    :param key: the API key to sign in with, or None.
    :param settings: further lines of main.cf.
    :raises SkipTest: there is no Postfix, or nobody may start it here.
    """
    require("/usr/sbin/postfix", "Debian postfix")
    if os.geteuid() != 0:
        raise SkipTest("only root may start Postfix")
    etc = root / "etc"
    for name in ("etc", "spool", "data", "log"):
        (root / name).mkdir()
    for path in (root, etc, root / "spool"):
        path.chmod(0o755)
    subprocess.run(["chown", "postfix", str(root / "data")], check=True)
    login = "" if key is None else _LOGIN.format(root=root)
    (etc / "main.cf").write_text(_MAIN.format(root=root, port=port) + login + settings)
    (etc / "master.cf").write_text(_MASTER)
    (etc / "password").write_text(f"[127.0.0.1]:{port} any:{key}\n")
    (etc / "password").chmod(0o600)
    _run(etc, "start")
    try:
        yield Postfix(root)
    finally:
        _run(etc, "stop")
