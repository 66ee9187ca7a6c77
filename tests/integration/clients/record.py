"""Record what each client puts on the wire: ``python -m tests.integration.clients.record [NAME ...]``.

Writes ``wire/NAME.eml`` (signed in with AUTH, variables raw UTF-8) and ``wire/NAME-header.eml`` (X-Auth-APIKey,
variables ASCII): the bytes between DATA and the final dot, dot-stuffing undone.  Run it when a new version of a
client is out, and read the difference.
"""

from __future__ import annotations

import datetime
import ipaddress
import socketserver
import ssl
import sys
import tempfile
import threading
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from . import meant
from .programs import CLIENTS, HERE

KEY = "recorded-key-0000"


def certificate(directory: Path) -> Path:
    """A PEM file with a new key and its certificate for localhost."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = directory / "localhost.pem"
    pkcs8 = serialization.PrivateFormat.PKCS8
    pem = serialization.Encoding.PEM
    path.write_bytes(
        key.private_bytes(pem, pkcs8, serialization.NoEncryption()) + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


class Session(socketserver.StreamRequestHandler):
    """The least of an SMTP server: every command but DATA, STARTTLS and AUTH is answered 250."""

    context: ssl.SSLContext
    recorded: list[bytes]

    def say(self, line: str) -> None:
        """Send one reply line."""
        self.wfile.write(f"{line}\r\n".encode())

    def handle(self) -> None:
        """One session, until QUIT or the end of the stream."""
        self.say("220 localhost ESMTP")
        while line := self.rfile.readline():
            verb = line.split()[0].upper() if line.strip() else b""
            if verb == b"QUIT":
                return self.say("221 Bye")
            if verb == b"EHLO":
                self.say("250-localhost\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-AUTH PLAIN LOGIN\r\n250 STARTTLS")
            elif verb == b"STARTTLS":
                self.say("220 Go ahead")
                self.request = self.context.wrap_socket(self.request, server_side=True)
                self.setup()
            elif verb == b"AUTH":
                self.authenticate(line.split())
            elif verb == b"DATA":
                self.say("354 Go ahead")
                self.recorded.append(self.data())
                self.say("250 Ok: queued as RECORDED")
            else:
                self.say("250 Ok")

    def authenticate(self, words: list[bytes]) -> None:
        """AUTH PLAIN or LOGIN with whatever is said."""
        if words[1].upper() == b"LOGIN":
            for prompt in ("VXNlcm5hbWU6", "UGFzc3dvcmQ6")[len(words) - 2 :]:
                self.say(f"334 {prompt}")
                self.rfile.readline()
        elif len(words) == 2:
            self.say("334 ")
            self.rfile.readline()
        self.say("235 Ok")

    def data(self) -> bytes:
        """The content up to CR LF . CR LF, dot-stuffing undone."""
        content = b"\r\n"
        while not content.endswith(b"\r\n.\r\n"):
            if not (line := self.rfile.readline()):
                raise EOFError("the client left within DATA")
            content += line
        return content[2:-3].replace(b"\r\n..", b"\r\n.")


def main(names: list[str]) -> None:
    """Record the clients *names*, or all."""
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        pem = certificate(directory)
        Session.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        Session.context.load_cert_chain(pem)
        for client in CLIENTS:
            if names and client.name not in names:
                continue
            for suffix in ("", "-header"):
                Session.recorded = []
                with socketserver.ThreadingTCPServer(("localhost", 0), Session) as server:
                    threading.Thread(target=server.serve_forever, daemon=True).start()
                    job = meant.job(
                        directory,
                        host="localhost",
                        port=server.server_address[1],
                        key=KEY,
                        ca_file=str(pem),
                        header_key=bool(suffix),
                    )
                    print(client.name + suffix, client.send(job)[-200:])
                    server.shutdown()
                (content,) = Session.recorded
                (HERE / "wire" / f"{client.name}{suffix}.eml").write_bytes(content)


if __name__ == "__main__":
    main(sys.argv[1:])
