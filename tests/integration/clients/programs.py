"""How each client is started for the job of :mod:`.meant`, as its user would."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import SkipTest

from attrs import Factory, field, frozen

from . import meant

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
#: Where ``.ci/run`` puts nodemailer.
NODE_MODULES = Path(os.environ.get("RELAY_NODE_MODULES", ROOT / ".tox" / "node" / "node_modules"))
#: A client that has not finished by then has hung; in seconds (``go build`` is slow on a cold cache).
DEADLINE = 120

Job = Mapping[str, Any]


@frozen
class Command:
    """A program to run; *env* is added to this process's."""

    argv: list[str]
    env: dict[str, str] = Factory(dict)
    stdin: bytes = b""


@frozen
class Client:
    """A mail client.

    :ivar name: as in ``wire/NAME.eml``.
    :ivar needs: a program or file that must exist, and the package that has it.
    :ivar newline: what the platform gets for a line end of the HTML that the client was given as LF.
    :ivar command: from the job and the path of its file to the command that does it.
    """

    name: str
    needs: tuple[str, str]
    command: Callable[[Job, Path], Command] = field(repr=False)
    newline: str = "\r\n"

    @property
    def html(self) -> str:
        """The HTML of :mod:`.meant` as this client leaves it."""
        return meant.HTML.replace("\n", self.newline)

    def send(self, path: Path) -> str:
        """Do the job in the file *path*; what the client printed.

        :raises SkipTest: the client is not installed.
        :raises AssertionError: the client failed; the text has what it printed.
        """
        require(*self.needs)
        command = self.command(json.loads(path.read_text("utf-8")), path)
        done = subprocess.run(
            command.argv,
            input=command.stdin,
            env={**os.environ, **command.env},
            cwd=path.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=DEADLINE,
            check=False,
        )
        said = done.stdout.decode("utf-8", "replace")
        if done.returncode:
            raise AssertionError(f"{self.name} ended with {done.returncode}:\n{said}")
        return said


def require(thing: str, package: str) -> None:
    """Skip the test unless the program, Python module or file *thing* is there; with RELAY_NO_SKIP=1, fail it.

    :raises SkipTest: it is not there.
    :raises AssertionError: it is not there, and nothing may be skipped.
    """
    if shutil.which(thing) or Path(thing).exists():
        return
    complaint = f"{thing} is missing: install {package}"
    if os.environ.get("RELAY_NO_SKIP") == "1":
        raise AssertionError(complaint)
    raise SkipTest(complaint)


def mailbox(name: str, address: str) -> str:
    """``"Name" <address>`` with the name in raw UTF-8."""
    return f'"{name}" <{address}>'


def raw_headers(job: Job) -> dict[str, str]:
    """The headers as a person writes them: raw UTF-8, unfolded."""
    return {
        "From": mailbox(*job["from"]),
        "To": ", ".join(mailbox(*each) for each in job["to"]),
        "Reply-To": f"{job['reply_to'][0]} <{job['reply_to'][1]}>",
        "Subject": job["subject"],
        **job["headers"],
    }


def fold(line: str, width: int = 78) -> str:
    """*line* folded at blanks, as RFC 5322 section 2.2.3 says: a line end before a blank that stays."""
    lines = [""]
    for word in line.replace(" ", "\n ").split("\n"):
        if len(lines[-1] + word) > width and lines[-1].strip():
            lines.append("")
        lines[-1] += word
    return "\n".join(lines)


def handmade(job: Job, *, bcc: bool) -> bytes:
    """The message as a script writes it to a file: LF line ends, folded raw UTF-8 headers, 8-bit bodies.

    :param bcc: whether there is a Bcc header, for a program that takes the recipients from the headers.
    """
    headers = raw_headers(job) | ({"Bcc": job["bcc"]} if bcc else {})
    image = Path(job["image"]).read_bytes()
    parts = [
        *(fold(f"{name}: {value}") for name, value in headers.items()),
        "MIME-Version: 1.0",
        'Content-Type: multipart/related; boundary="outer"',
        "",
        "--outer",
        'Content-Type: multipart/alternative; boundary="inner"',
        "",
        "--inner",
        "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit",
        "",
        job["text"],
        "--inner",
        "Content-Type: text/html; charset=utf-8\nContent-Transfer-Encoding: 8bit",
        "",
        job["html"],
        "--inner--",
        "--outer",
        "Content-Type: image/png\nContent-Transfer-Encoding: base64",
        f"Content-ID: <{job['cid']}>",
        "",
        base64.b64encode(image).decode(),
        "--outer--",
    ]
    return ("\n".join(parts) + "\n").encode()


def smtplib(job: Job, path: Path) -> Command:
    """``EmailMessage`` and ``smtplib`` of the running Python."""
    return Command([sys.executable, str(HERE / "send_smtplib.py"), str(path)])


def django(job: Job, path: Path) -> Command:
    """Django's ``EmailMultiAlternatives`` on its SMTP backend."""
    return Command([sys.executable, str(HERE / "send_django.py"), str(path)], {"SSL_CERT_FILE": job["ca_file"]})


def nodemailer(job: Job, path: Path) -> Command:
    """nodemailer on Node.js."""
    return Command(["node", str(HERE / "send.js"), str(path)], {"NODE_PATH": str(NODE_MODULES)})


def phpmailer(job: Job, path: Path) -> Command:
    """PHPMailer on PHP's command line."""
    return Command(["php", str(HERE / "send.php"), str(path)])


def ruby(job: Job, path: Path) -> Command:
    """Ruby's ``mail``."""
    return Command(["ruby", str(HERE / "send.rb"), str(path)], {"SSL_CERT_FILE": job["ca_file"]})


def go(job: Job, path: Path) -> Command:
    """Go's ``net/smtp``; the build cache is kept beside the node modules, or the second run would take as long."""
    cache = str(ROOT / ".tox" / "go")
    env = {"SSL_CERT_FILE": job["ca_file"], "GOCACHE": cache, "GOPATH": cache, "GO111MODULE": "off"}
    return Command(["go", "run", str(HERE / "send.go"), str(path)], env)


def swaks(job: Job, path: Path) -> Command:
    """swaks, all of the message given by options."""
    html, text = path.with_name("body.html"), path.with_name("body.txt")
    html.write_bytes(job["html"].encode())
    text.write_bytes(job["text"].encode())
    argv = ["swaks", "--server", job["host"], "--port", str(job["port"]), "--tls", "--tls-verify"]
    argv += ["--tls-ca-path", job["ca_file"], "--from", job["from"][1]]
    argv += ["--to", ",".join([*(address for _, address in job["to"]), job["bcc"]])]
    if job["auth"]:
        argv += ["--auth", "PLAIN", "--auth-user", job["user"], "--auth-password", job["key"]]
    for name, value in raw_headers(job).items():
        # swaks makes a line end of every \\n in its arguments: JSON has another way to write one.
        argv += ["--header", f"{name}: {value}".replace("\\n", "\\u000a")]
    argv += ["--attach-type", "text/plain; charset=utf-8", "--attach-body", f"@{text}"]
    argv += ["--attach-type", "text/html; charset=utf-8", "--attach-body", f"@{html}"]
    argv += ["--attach-type", "image/png", "--attach-name", "logo.png", "--attach", f"@{job['image']}"]
    return Command(argv)


def curl_options(job: Job) -> list[str]:
    """What both ways of sending with curl have in common."""
    argv = ["curl", "--silent", "--show-error", "--verbose", "--url", f"smtp://{job['host']}:{job['port']}"]
    argv += ["--ssl-reqd", "--cacert", job["ca_file"], "--mail-from", job["from"][1]]
    for address in (*(address for _, address in job["to"]), job["bcc"]):
        argv += ["--mail-rcpt", address]
    return [*argv, "--user", f"{job['user']}:{job['key']}"] if job["auth"] else argv


def curl(job: Job, path: Path) -> Command:
    """curl, the message put together by its ``--form``."""
    html, text = path.with_name("body.html"), path.with_name("body.txt")
    html.write_bytes(job["html"].encode())
    text.write_bytes(job["text"].encode())
    argv = curl_options(job)
    for name, value in raw_headers(job).items():
        argv += ["--header", f"{name}: {value}"]
    image = f'=@{job["image"]};type=image/png;encoder=base64;headers="Content-ID: <{job["cid"]}>"'
    for part in (
        "=(;type=multipart/related",
        "=(;type=multipart/alternative",
        f"=<{text};type=text/plain; charset=utf-8;encoder=quoted-printable",
        f"=<{html};type=text/html; charset=utf-8;encoder=quoted-printable",
        "=)",
        image,
        "=)",
    ):
        argv += ["--form", part]
    return Command(argv)


def curl_file(job: Job, path: Path) -> Command:
    """curl, a file of LF lines uploaded as it is."""
    message = path.with_name("message.eml")
    message.write_bytes(handmade(job, bcc=False))
    return Command([*curl_options(job), "--upload-file", str(message)])


def msmtp(job: Job, path: Path) -> Command:
    """msmtp in the place of sendmail: recipients from the headers, Bcc among them."""
    lines = ["defaults", "tls on", "tls_starttls on", f"tls_trust_file {job['ca_file']}", "timeout 30"]
    lines += ["account relay", f"host {job['host']}", f"port {job['port']}", f"from {job['from'][1]}"]
    lines += ["auth plain", f"user {job['user']}", f"password {job['key']}"] if job["auth"] else ["auth off"]
    configuration = path.with_name("msmtprc")
    configuration.write_text("\n".join([*lines, "account default : relay", ""]))
    configuration.chmod(0o600)
    return Command(["msmtp", "--file", str(configuration), "--read-recipients"], stdin=handmade(job, bcc=True))


SMTPLIB = Client("smtplib", (sys.executable, "Python"), smtplib)
DJANGO = Client("django", (sys.executable, "Python"), django)
NODEMAILER = Client(
    "nodemailer",
    (str(NODE_MODULES / "nodemailer"), "nodemailer: npm install --prefix .tox/node nodemailer"),
    nodemailer,
)
PHPMAILER = Client(
    "phpmailer",
    ("/usr/share/php/libphp-phpmailer/autoload.php", "Debian libphp-phpmailer and php-cli"),
    phpmailer,
    "\n",
)
# Ruby's mail 2.7 damages its input: in quoted-printable it makes the LF of a body CR LF, encodes the CR as "=0D",
# and ends the line with a CR LF of its own.  A browser shows the same.
RUBY = Client("ruby", ("/usr/share/doc/ruby-mail", "Debian ruby-mail"), ruby, "\r\r\n")
GO = Client("go", ("go", "Debian golang-go"), go)
SWAKS = Client("swaks", ("swaks", "Debian swaks"), swaks, "\n")
CURL = Client("curl", ("curl", "Debian curl"), curl, "\n")
CURL_FILE = Client("curl-file", ("curl", "Debian curl"), curl_file)
MSMTP = Client("msmtp", ("msmtp", "Debian msmtp"), msmtp)

CLIENTS = (SMTPLIB, DJANGO, NODEMAILER, PHPMAILER, RUBY, GO, SWAKS, CURL, CURL_FILE, MSMTP)
