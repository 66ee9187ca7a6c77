"""``smtp-relay account`` and ``smtp-relay user`` as an operator runs them, and what a first start says."""

from __future__ import annotations

import os
import pty
import re
import shutil
import smtplib
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from unittest import skipUnless

from twisted.trial.unittest import SynchronousTestCase

from .postgresql import new_database
from .support import ANY, PATIENCE, SMTP_RELAY, TWISTD, Relay, environment, running

NOBODY = 65534

#: A process of a user without any rights.
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all", "--")


def signs_in(relay: Relay, key: str) -> bool:
    """Whether the relay takes *key*."""
    with smtplib.SMTP("127.0.0.1", relay.port, timeout=PATIENCE) as client:
        client.starttls()
        try:
            client.login("anyone", key)
        except smtplib.SMTPAuthenticationError:
            return False
        return True


class PeopleCase(SynchronousTestCase):
    """A data directory, and a shell."""

    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="relay-people-")
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)
        self.settings = self.database()

    def database(self) -> dict[str, str]:
        """Settings that name one; none is SQLite."""
        return {}

    def start(self, *words: str, stdin: int = subprocess.DEVNULL, before: Sequence[str] = ()) -> subprocess.Popen[str]:
        """``smtp-relay`` with these words."""
        return subprocess.Popen(
            [*before, SMTP_RELAY, *words, "--data", str(self.folder / "data")],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment(self.settings),
            text=True,
            start_new_session=True,
        )

    def run_(self, *words: str, before: Sequence[str] = ()) -> tuple[int, str]:
        """Exit code and output of ``smtp-relay``."""
        process = self.start(*words, before=before)
        said, _ = process.communicate(timeout=PATIENCE)
        return process.returncode, said

    def does(self, *words: str) -> str:
        """Output of a command that succeeds."""
        code, said = self.run_(*words)
        self.assertEqual(code, 0, said)
        return said


class RunningTests(PeopleCase):
    """Beside a running relay, and when it is stopped."""

    def test_accounts(self) -> None:
        """A new key passes at once; after a reset, or when the account is disabled, the old one stops within a second,
        although the relay had remembered it."""
        with running(folder=self.folder, **self.settings) as relay:
            key = self.does("account", "add", "Example Ltd").partition("API key: ")[2].strip()
            self.assertTrue(signs_in(relay, key))
            new = self.does("account", "reset-key", "Example Ltd").rpartition(": ")[2].strip()
            self.stops(relay, key)
            self.assertTrue(signs_in(relay, new))
            self.does("account", "disable", "Example Ltd")
            self.stops(relay, new)
            self.assertRegex(self.does("account", "list"), rf"(?m)^2 +Example Ltd +{new[:4]}… +0 .* disabled$")
        self.does("account", "enable", "2")
        old = relay.api_key
        self.does("account", "reset-key", "Local")
        self.assertNotEqual(relay.api_key, old)
        with running(folder=self.folder, **self.settings) as relay:
            self.assertTrue(signs_in(relay, new))
            self.assertTrue(signs_in(relay, relay.api_key))
            self.assertFalse(signs_in(relay, old))

    def stops(self, relay: Relay, key: str) -> None:
        """The key is refused, soon."""
        deadline = time.monotonic() + 10
        while signs_in(relay, key):
            self.assertLess(time.monotonic(), deadline, "the key passes still")

    def test_users(self) -> None:
        """Users are added with a password from a file, or a random one that is shown."""
        with running(folder=self.folder, **self.settings):
            file = self.folder / "password"
            file.write_text("a good password\nand more\n")
            said = self.does("user", "add", "Jane@Example.com", "--account", "Local", "--password-file", str(file))
            self.assertEqual(said, "jane@example.com may sign in\n")
            said = self.does("user", "add", "root@example.com", "--administrator")
            self.assertRegex(said, r"\Aroot@example.com may sign in as an administrator\npassword: [a-z2-9-]{23}\n\Z")
        self.does("user", "passwd", "jane@example.com")
        self.does("user", "disable", "jane@example.com")
        said = self.does("user")
        self.assertRegex(said, r"(?m)^jane@example.com +Local +never +disabled$")
        self.assertRegex(said, r"(?m)^admin@localhost +\(administrator\) +never +active$")


class PostgreSQLTests(RunningTests):
    """The same with a PostgreSQL."""

    def database(self) -> dict[str, str]:
        return {"embedded_database": new_database(self)}


class ShellTests(PeopleCase):
    """What is wrong, and what is typed."""

    def test_typed(self) -> None:
        """At a terminal the password is typed twice, and shown neither then nor later."""
        with running(folder=self.folder):
            master, slave = pty.openpty()
            self.addCleanup(os.close, master)
            process = self.start("user", "add", "jane@example.com", "--account", "Local", stdin=slave)
            os.close(slave)
            assert process.stdout is not None
            said = ""
            for prompt in ("a random one): ", "Once more: "):
                while not said.endswith(prompt):
                    said += process.stdout.read(1)
                os.write(master, b"a good password\n")
            said += process.communicate(timeout=PATIENCE)[0]
            self.assertEqual(process.returncode, 0, said)
            self.assertNotIn("a good password", said)
            self.assertIn("jane@example.com may sign in\n", said)

    def test_wrong(self) -> None:
        """What cannot be done is said in a line, without a traceback, with exit code 1 or 2."""
        code, said = self.run_("account", "list")
        self.assertEqual(code, 1)
        self.assertRegex(said, r"\Asmtp-relay: data: .*platform.sqlite3: there is no such file; start the relay once")
        with running(folder=self.folder):
            for words, expected, text in (
                (("account", "reset-key", "Nope"), 1, "there is no account Nope"),
                (("account", "add", "Local"), 1, "There is an account Local already"),
                (("user", "disable", "admin@localhost"), 1, "only administrator"),
                (("user", "add", "x@example.com"), 2, "needs --account or --administrator"),
                (("user", "add"), 2, "needs one EMAIL"),
                (("account", "remove", "Local"), 2, "none of list, add"),
                (("user", "passwd", "user@localhost", "--password-file", "/nowhere"), 1, "/nowhere: No such file"),
            ):
                code, said = self.run_(*words)
                self.assertEqual(code, expected, said)
                self.assertIn(text, said)
                self.assertNotIn("Traceback", said)


class FirstStartTests(PeopleCase):
    """The very first start."""

    def test_without_terminal(self) -> None:
        """The log names the file with the passwords and holds none; the second start names it again."""
        for _ in range(2):
            with running(folder=self.folder) as relay:
                relay.wait_for(rf"the first passwords are in {relay.data}/first-passwords$")
                for line in (relay.data / "first-passwords").read_text().splitlines():
                    self.assertNotIn(line.split()[-1], relay.output)
                self.assertNotIn(relay.api_key, relay.output)

    def test_terminal(self) -> None:
        """A terminal is shown the passwords, this once, and there is no file."""
        first = self.started_at_a_terminal()
        self.assertRegex(first, r"Sign in +admin@localhost  [a-z2-9-]{23}")
        self.assertRegex(first, r"Sign in +user@localhost  [a-z2-9-]{23}")
        self.assertFalse((self.folder / "data" / "first-passwords").exists())
        self.assertNotIn("Sign in", self.started_at_a_terminal())

    def started_at_a_terminal(self) -> str:
        """What ``twistd -n smtp-relay`` shows at a terminal until it is ready."""
        master, slave = pty.openpty()
        listen = ("--listen", ANY, "--admin", ANY, "--dashboard", ANY)
        process = subprocess.Popen(
            [*TWISTD, "--data", str(self.folder / "data"), *listen],
            stdin=subprocess.DEVNULL,
            stdout=slave,
            stderr=slave,
            env=environment({}),
            cwd=self.folder,
        )
        os.close(slave)
        said = b""
        try:
            while not re.search(rb"#info\] ready", said):
                said += os.read(master, 65_536)
        finally:
            process.terminate()
            try:
                while os.read(master, 65_536):
                    pass
            except OSError:
                pass  # The other end is closed: the process has ended.
            process.wait(PATIENCE)
            os.close(master)
        return said.decode("utf-8", "replace")


@skipUnless(os.geteuid() == 0 and shutil.which("setpriv"), "only root may become another user")
class OtherUserTests(PeopleCase):
    """A relay that runs as a user without rights."""

    def test_root_beside(self) -> None:
        """What root changes beside it stays the relay's: it starts again, with the new key."""
        self.folder.chmod(0o755)
        shutil.chown(self.folder, NOBODY, NOBODY)
        with running(folder=self.folder, command=[*AS_NOBODY, *TWISTD]) as relay:
            old = relay.api_key
        self.does("account", "reset-key", "Local")
        self.does("user", "list")
        with running(folder=self.folder, command=[*AS_NOBODY, *TWISTD]) as relay:
            self.assertNotEqual(relay.api_key, old)
            self.assertTrue(signs_in(relay, relay.api_key))
        for file in relay.data.iterdir():
            self.assertEqual(file.stat().st_uid, NOBODY, file)

    def test_stranger(self) -> None:
        """Another user is told whose command it is."""
        with running(folder=self.folder):
            self.folder.chmod(0o755)
            code, said = self.run_("account", "list", before=AS_NOBODY)
            self.assertEqual(code, 1)
            self.assertIn("Permission denied; run this as the user that the relay runs as", said)
            self.assertNotIn("Traceback", said)
