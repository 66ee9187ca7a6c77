"""The session over real sockets and real TLS: what only the kernel, OpenSSL and the process can show."""

from __future__ import annotations

import contextlib
import os
import resource
import smtplib
import socket
import ssl
import threading
import unittest
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.support import PATIENCE, Relay, running


@contextlib.contextmanager
def connected(relay: Relay) -> Iterator[socket.socket]:
    """A connection that has read its greeting."""
    with socket.create_connection(("127.0.0.1", relay.port), PATIENCE) as client:
        assert reply(client).startswith("220 ")
        yield client


def reply(client: socket.socket) -> str:
    """The last line of one reply, read octet by octet so that nothing behind it is lost."""
    lines = b""
    while True:
        octet = client.recv(1)
        if not octet:
            return lines.decode()
        lines += octet
        last = lines.rstrip(b"\r\n").rpartition(b"\n")[2]
        if octet == b"\n" and last[3:4] == b" ":
            return last.decode()


def command(client: socket.socket, line: str) -> str:
    """Send one line; its reply."""
    client.sendall(line.encode() + b"\r\n")
    return reply(client)


def in_tls(client: socket.socket) -> ssl.SSLSocket:
    """The client's end of the handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(client, server_hostname="localhost")


def rest(client: socket.socket) -> bytes:
    """Everything that comes until the other end closes."""
    octets = b""
    with contextlib.suppress(ConnectionResetError):
        while more := client.recv(65_536):
            octets += more
    return octets


def memory(relay: Relay) -> int:
    """Resident memory of the relay, in kB."""
    (line,) = [each for each in Path(f"/proc/{relay.pid}/status").read_text().splitlines() if each.startswith("VmRSS")]
    return int(line.split()[1])


class StartTLSTests(SynchronousTestCase):
    """STARTTLS (THREATS.md, "TLS and AUTH")."""

    def test_injection(self) -> None:
        """Commands sent behind STARTTLS in one segment have no answer in TLS, whole lines or half ones."""
        with running() as relay:
            for behind in (b"RSET\r\nMAIL FROM:<i@x>\r\n", b"MAIL FROM:<i@x", b"RSET\r\n"):
                with connected(relay) as client:
                    command(client, "EHLO client.example")
                    client.sendall(b"STARTTLS\r\n" + behind)
                    self.assertTrue(reply(client).startswith("220 "))
                    with in_tls(client) as tls:
                        # Had anything run, its answer would come before this one.
                        self.assertTrue(command(tls, "RCPT TO:<a@b>").startswith("503 "))
                        self.assertTrue(command(tls, "EHLO client.example").startswith("250 "))

    def test_state(self) -> None:
        """After the handshake STARTTLS is no longer offered, and AUTH and MAIL of before are forgotten."""
        with running() as relay, smtplib.SMTP("127.0.0.1", relay.port, timeout=PATIENCE) as client:
            client.login("any", relay.api_key)
            client.mail("a@b.example")
            client.starttls()
            client.ehlo()
            self.assertFalse(client.has_extn("starttls"))
            self.assertTrue(client.has_extn("auth"))
            self.assertEqual(client.rcpt("a@b.example")[0], 503)
            client.login("any", relay.api_key)

    def test_stalled_handshake(self) -> None:
        """A client that says STARTTLS and then nothing is cut off at the deadline."""
        with running(limits_greeting=1) as relay, connected(relay) as client:
            command(client, "EHLO client.example")
            self.assertTrue(command(client, "STARTTLS").startswith("220 "))
            self.assertEqual(rest(client), b"")

    def test_client_hello_with_starttls(self) -> None:
        """A ClientHello in the segment of STARTTLS is dropped with everything else, and the deadline ends it."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context()
        hello = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
        self.assertRaises(ssl.SSLWantReadError, hello.do_handshake)
        with running(limits_greeting=1) as relay:
            with connected(relay) as client:
                command(client, "EHLO client.example")
                client.sendall(b"STARTTLS\r\n" + outgoing.read())
                self.assertTrue(reply(client).startswith("220 "))
                self.assertEqual(rest(client), b"")
            with connected(relay) as client:
                self.assertTrue(command(client, "NOOP").startswith("250 "))

    def test_quit_in_tls(self) -> None:
        """Commands behind QUIT do not run in TLS."""
        with running() as relay, connected(relay) as client:
            command(client, "EHLO client.example")
            command(client, "STARTTLS")
            with in_tls(client) as tls:
                tls.sendall(b"QUIT\r\nEHLO again\r\nNOOP\r\n")
                self.assertEqual(rest(tls), b"221 Bye\r\n")

    def test_protocols(self) -> None:
        """TLS 1.1 is refused; 1.2 and 1.3 with AEAD are spoken."""
        with running() as relay:
            for version, works in [
                (ssl.TLSVersion.TLSv1_1, False),
                (ssl.TLSVersion.TLSv1_2, True),
                (ssl.TLSVersion.TLSv1_3, True),
            ]:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
                context.set_ciphers("ALL:@SECLEVEL=0")
                context.minimum_version = context.maximum_version = version
                with connected(relay) as client:
                    command(client, "EHLO client.example")
                    command(client, "STARTTLS")
                    if not works:
                        self.assertRaises((ssl.SSLError, OSError), context.wrap_socket, client)
                        continue
                    with context.wrap_socket(client) as tls:
                        cipher = tls.cipher()
                        assert cipher is not None
                        self.assertRegex(cipher[0], "GCM|POLY1305|CCM")
                        self.assertTrue(command(tls, "NOOP").startswith("250 "))


class LastWordTests(SynchronousTestCase):
    """A client that is turned away while it is still sending can read why."""

    def test_endless_line(self) -> None:
        """An endless command is answered by one 500, then the end, although the client goes on sending."""
        with running() as relay, connected(relay) as client:
            with contextlib.suppress(ConnectionError):
                for _ in range(64):
                    client.sendall(b"A" * 8192)
            client.shutdown(socket.SHUT_WR)
            self.assertEqual([line[:9] for line in rest(client).split(b"\r\n") if line], [b"500 5.5.2"])

    def test_http(self) -> None:
        """A browser reads 421 and nothing else."""
        with running() as relay, connected(relay) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nEHLO x\r\nNOOP\r\n")
            client.shutdown(socket.SHUT_WR)
            self.assertEqual([line[:9] for line in rest(client).split(b"\r\n") if line], [b"421 4.7.0"])

    def test_implicit_tls(self) -> None:
        """A client that begins with TLS is told at once, not at a deadline."""
        with running() as relay, socket.create_connection(("127.0.0.1", relay.port), PATIENCE) as client:
            self.assertRaises((ssl.SSLError, OSError), in_tls, client)


class HalfClosedTests(SynchronousTestCase):
    """A client that closes its end and reads on, such as ``nc -N`` with a file."""

    def test_whole_session_in_one_write(self) -> None:
        """It gets every answer, also that of a message whose delivery takes its time."""
        with running() as relay, connected(relay) as client:
            message = f"X-Auth-APIKey: {relay.api_key}\r\nFrom: a@b.example\r\nSubject: x\r\n\r\nhello\r\n.\r\n"
            client.sendall(b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n")
            client.sendall(message.encode() + b"NOOP\r\nQUIT\r\n")
            client.shutdown(socket.SHUT_WR)
            answers = [line for line in rest(client).decode().splitlines() if line[3] == " "]
            self.assertEqual([line[:3] for line in answers], ["250", "250", "250", "354", "250", "250", "221"])
            self.assertIn("queued as", answers[4])

    def test_idle(self) -> None:
        """When there is nothing left to answer the relay closes too."""
        with running() as relay, connected(relay) as client:
            client.shutdown(socket.SHUT_WR)
            self.assertEqual(rest(client), b"")


class FloodTests(SynchronousTestCase):
    """THREATS.md, "Floods", as far as it takes real sockets."""

    def test_never_reads(self) -> None:
        """A peer that never reads costs no memory, and is cut off; others are served meanwhile."""
        with running(limits_idle=2) as relay:
            with connected(relay) as client:
                command(client, "EHLO client.example")
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.settimeout(0.2)
                before = memory(relay)
                with contextlib.suppress(TimeoutError):
                    for _ in range(4000):
                        client.sendall(b"HELP\r\n" * 1000)
                self.assertLess(memory(relay) - before, 8192)
                with connected(relay) as other:
                    self.assertTrue(command(other, "NOOP").startswith("250 "))
                relay.wait_for("timed out")
            with connected(relay) as other:
                self.assertTrue(command(other, "NOOP").startswith("250 "))

    def test_connections_from_one_address(self) -> None:
        """Past its share an address is told 421; another address is served; when the flood is over so is the first."""
        with running(limits_connections_per_address=20) as relay, contextlib.ExitStack() as flood:
            for _ in range(20):
                flood.enter_context(connected(relay))
            for _ in range(int(PATIENCE * 100)):  # until workers have told each other
                with socket.create_connection(("127.0.0.1", relay.port), PATIENCE) as client:
                    if reply(client).startswith("421 4.7.0"):
                        break
            for _ in range(200):
                with socket.create_connection(("127.0.0.1", relay.port), PATIENCE) as client:
                    self.assertTrue(reply(client).startswith("421 4.7.0"))
            with socket.create_connection(("127.0.0.1", relay.port), PATIENCE, ("127.0.0.2", 0)) as client:
                self.assertTrue(reply(client).startswith("220 "))

    def test_out_of_descriptors(self) -> None:
        """When descriptors run out the relay neither dies nor spins, and serves again when there are some."""
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        if most != resource.RLIM_INFINITY and most < 512:
            raise unittest.SkipTest(f"this process may open {most} files only")
        with running(limits_connections=5000, limits_connections_per_address=5000) as relay:
            opened = _open_files(relay)
            resource.prlimit(relay.pid, resource.RLIMIT_NOFILE, (opened + 50, opened + 50))
            with contextlib.ExitStack() as flood:
                for _ in range(150):
                    flood.enter_context(socket.create_connection(("127.0.0.1", relay.port), PATIENCE))
                one = flood.enter_context(socket.create_connection(("127.0.0.1", relay.port), PATIENCE))
                one.settimeout(1)
                before = _cpu_seconds(relay)
                with contextlib.suppress(TimeoutError, ConnectionError):
                    one.recv(1)  # waits a second where the relay leaves it in the queue
                self.assertLess(_cpu_seconds(relay) - before, 0.5)
                self.assertIsNone(relay.process.poll())
            waiting = threading.Event()
            for _ in range(int(PATIENCE * 100)):  # until it has seen that the flood is over
                if _open_files(relay) <= opened:
                    break
                waiting.wait(0.01)
            with connected(relay) as client:
                self.assertTrue(command(client, "NOOP").startswith("250 "))

    def test_many_big_messages(self) -> None:
        """Messages past the memory budget are 452 4.3.1, and are taken when there is room again."""
        body = "From: a@b.example\r\nSubject: x\r\nContent-Type: text/html\r\n\r\n" + "<p>x</p>\r\n" * 30_000
        with running(limits_memory=1_000_000) as relay, contextlib.ExitStack() as stack:
            clients = [stack.enter_context(connected(relay)) for _ in range(8)]
            for client in clients:
                for line in ("EHLO x", "MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>", "DATA"):
                    command(client, line)
                client.sendall(f"X-Auth-APIKey: {relay.api_key}\r\n{body}".encode())
            answers = [command(client, ".")[:9] for client in clients]
            self.assertIn("452 4.3.1", answers)
            self.assertIn("250 Ok: q", answers)
            client = clients[answers.index("452 4.3.1")]
            for line in ("MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>", "DATA"):
                command(client, line)
            client.sendall(f"X-Auth-APIKey: {relay.api_key}\r\n{body}".encode())
            self.assertEqual(command(client, ".")[:6], "250 Ok")


def _open_files(relay: Relay) -> int:
    """Descriptors that the relay has open."""
    return len(list(Path(f"/proc/{relay.pid}/fd").iterdir()))


def _cpu_seconds(relay: Relay) -> float:
    """CPU time that the relay has used."""
    fields = Path(f"/proc/{relay.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
