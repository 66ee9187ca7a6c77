"""Real mail clients, a real relay process, and a platform that records: what was meant is what arrives.

Each client sends over STARTTLS, once signed in with AUTH and variables in raw UTF-8, once with X-Auth-APIKey and
variables in ASCII.  The programs are in ``clients/``; what each damages is said in ``clients/programs.py``.
"""

from __future__ import annotations

import re
import tempfile
from contextlib import ExitStack
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from . import platform, support
from .clients import meant, programs

KEY = "integration-key-7f3a"


class ClientTests(SynchronousTestCase):
    """Every field of every POST, for each client."""

    def setUp(self) -> None:
        """A platform, and a relay in front of it that insists on TLS."""
        stack = ExitStack()
        self.addCleanup(stack.close)
        self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-clients-")))
        self.platform = stack.enter_context(platform.running(KEY))
        self.relay = stack.enter_context(support.running(backend=self.platform.url, require_tls="always"))

    def check(self, client: programs.Client) -> None:
        """Send with *client*, both ways, and compare what the platform got."""
        for header_key in (False, True):
            self.platform.posts.clear()
            job = meant.job(
                self.directory,
                host="localhost",
                port=self.relay.port,
                key=KEY,
                ca_file=str(self.relay.certificate),
                header_key=header_key,
            )
            said = client.send(job)
            self.compare(client, said)

    def compare(self, client: programs.Client, said: str) -> None:
        """One POST for each recipient, and nothing in it but what was meant."""
        posts = self.platform.wait(lambda posts: len(posts) >= len(meant.RECIPIENTS))
        self.assertEqual(sorted(post.fields["to"] for post in posts), sorted(meant.RECIPIENTS))
        for post in posts:
            wanted = meant.expected(post.fields["to"], client.html)
            self.assertEqual(post.fields.keys(), wanted.keys())
            # The body apart: a difference of 40,000 characters is not worth printing.
            self.assertTrue(post.fields["body"] == wanted.pop("body"), f"body: {post.fields['body'][:200]!r}")
            self.assertEqual({name: post.fields[name] for name in wanted}, wanted)
            self.assertEqual(post.path, "/api/transactional/send")
            self.assertEqual(post.headers["x-auth-apikey"], KEY)
            self.assertEqual(post.headers["content-type"], "application/json")
        ids = {post.headers["x-request-id"] for post in posts}
        self.assertEqual(len(ids), 1)
        self.assertEqual(len({post.headers["idempotency-key"] for post in posts}), len(posts))
        # Where the client shows the reply, it ends in the id that the platform got.
        for shown in re.findall(r"queued as (\S+)", said):
            self.assertEqual({shown}, ids)

    def test_smtplib(self) -> None:
        """Python's EmailMessage and smtplib."""
        self.check(programs.SMTPLIB)

    def test_django(self) -> None:
        """Django's EmailMultiAlternatives."""
        self.check(programs.DJANGO)

    def test_nodemailer(self) -> None:
        """nodemailer, which reports the id of the reply."""
        self.check(programs.NODEMAILER)

    def test_phpmailer(self) -> None:
        """PHPMailer."""
        self.check(programs.PHPMAILER)

    def test_phpmailer_reads_the_id(self) -> None:
        """PHPMailer finds the id in the reply."""
        job = meant.job(
            self.directory,
            host="localhost",
            port=self.relay.port,
            key=KEY,
            ca_file=str(self.relay.certificate),
            header_key=False,
        )
        said = programs.PHPMAILER.send(job)
        self.assertEqual(said.strip(), self.platform.posts[0].headers["x-request-id"])

    def test_ruby(self) -> None:
        """Ruby's mail."""
        self.check(programs.RUBY)

    def test_go(self) -> None:
        """Go's net/smtp."""
        self.check(programs.GO)

    def test_swaks(self) -> None:
        """swaks, with the message given by options."""
        self.check(programs.SWAKS)

    def test_curl_form(self) -> None:
        """curl, with the message put together by --form."""
        self.check(programs.CURL)

    def test_curl_file(self) -> None:
        """curl with a file of LF lines, which it sends as they are."""
        self.check(programs.CURL_FILE)

    def test_msmtp(self) -> None:
        """msmtp in the place of sendmail, with a Bcc header that it takes out."""
        self.check(programs.MSMTP)
