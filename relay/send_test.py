"""``smtp-relay send-test``: one message to a running relay, as a client would send it."""

from __future__ import annotations

import smtplib
import ssl
from email.message import EmailMessage
from email.policy import SMTPUTF8
from email.utils import formatdate
from functools import partial
from pathlib import Path

#: Seconds that the relay may take for each answer.
TIMEOUT = 60.0

#: Hosts that are this machine: there the relay's own certificate needs no proof.
_LOOPBACK = ("127.0.0.1", "::1", "localhost")

_HTML = "<!doctype html>\n<title>Test</title>\n<h1>It works</h1>\n<p>The relay took this message and posted it.</p>\n"


class CannotSend(Exception):
    """Why the message was not sent, and what to do about it."""


def read_key(path: str) -> str:
    """The API key in a file.

    :raises CannotSend: there is none.
    """
    try:
        key = Path(path).read_text(encoding="ascii").strip()
    except OSError as error:
        raise CannotSend(f"{path}: {error.strerror}; give the API key with --key-file or --key") from None
    except UnicodeDecodeError:
        raise CannotSend(f"{path}: holds no API key") from None
    return key


def tls_context(host: str, *, cafile: str = "", insecure: bool = False) -> ssl.SSLContext:
    """How the relay's certificate is checked: not at all on this machine or when *insecure*.

    :raises CannotSend: *cafile* cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=cafile or None)
    except (OSError, ssl.SSLError) as error:
        raise CannotSend(f"{cafile}: cannot be used as --cafile: {error.strerror or error}") from None
    if insecure or (host in _LOOPBACK and not cafile):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def split_server(server: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT`` or ``[::1]:PORT``.

    :raises CannotSend: it is neither.
    """
    host, colon, port = server.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise CannotSend(f"--server {server}: must be HOST:PORT, such as 127.0.0.1:2525")
    return host.removeprefix("[").removesuffix("]"), int(port)


def send(server: str, key: str, sender: str, recipient: str, *, cafile: str = "", insecure: bool = False) -> str:
    """Send the message, over STARTTLS where the relay offers it.

    :param server: ``HOST:PORT``.
    :return: the relay's reply.
    :raises CannotSend: it was not accepted.
    """
    host, port = split_server(server)
    _check(key, sender, recipient)
    context = tls_context(host, cafile=cafile, insecure=insecure)
    try:
        with smtplib.SMTP(host, port, timeout=TIMEOUT) as client:
            client.ehlo()
            if client.has_extn("starttls"):
                client.starttls(context=context)
                client.ehlo()
            elif host not in _LOOPBACK and not insecure:
                raise CannotSend(f"{server} offers no STARTTLS: the API key would cross the network in clear text")
            client.login("send-test", key)
            return _transmit(client, sender, recipient)
    except smtplib.SMTPResponseException as error:
        raise CannotSend(_explained(server, error)) from None
    except ssl.SSLCertVerificationError as error:
        why = error.verify_message
        raise CannotSend(f"{server}: its certificate is not trusted: {why}; give --cafile, or --insecure") from None
    except (OSError, smtplib.SMTPException) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise CannotSend(f"{server}: {why}; does the relay run, and listen there?") from None
    except UnicodeError:
        raise CannotSend(f"--server {server!r}: is no host name") from None


def _check(key: str, sender: str, recipient: str) -> None:
    """Refuse what :mod:`smtplib` would send as two lines, or fail on."""
    if not key or not key.isascii() or not key.isprintable():
        raise CannotSend("the API key must be printable ASCII; give another with --key-file or --key")
    for option, address in (("--from", sender), ("--to", recipient)):
        if not address.isprintable():
            raise CannotSend(f"{option} {address!r}: must be one address, on one line")


def _transmit(client: smtplib.SMTP, sender: str, recipient: str) -> str:
    options = [] if (sender + recipient).isascii() else ["SMTPUTF8"]
    if options and not client.has_extn("smtputf8"):
        raise CannotSend("the relay offers no SMTPUTF8: the addresses must be ASCII")
    steps = (
        partial(client.mail, sender, options),
        partial(client.rcpt, recipient),
        partial(client.data, _message(sender, recipient)),
    )
    for step in steps:
        code, text = step()
        if code >= 300:
            raise smtplib.SMTPResponseException(code, text)
    return f"{code} {_text(text)}"


def _message(sender: str, recipient: str) -> bytes:
    message = EmailMessage(SMTPUTF8)
    message["From"] = sender
    message["To"] = recipient
    message["Subject"] = "Test message of smtp-relay"
    message["Date"] = formatdate()
    message["X-Transactional-Tag"] = "send-test"
    message.set_content(_HTML, subtype="html")
    return message.as_bytes()


def _explained(server: str, error: smtplib.SMTPResponseException) -> str:
    said = f"{server} answered {error.smtp_code} {_text(error.smtp_error)}"
    if isinstance(error, smtplib.SMTPAuthenticationError) and error.smtp_code == 535:
        return f"{said}: the API key is not the platform's; give another with --key-file or --key"
    return said


def _text(said: bytes | str) -> str:
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else said
