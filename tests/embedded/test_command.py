"""smtp-relay account and user: what they say and do, while the backend runs."""

from __future__ import annotations

from pathlib import Path

from relay.embedded import command
from relay.embedded.command import CannotDo, Command, Terminal
from relay.errors import ConfigError
from relay.policy import Embedded
from tests.embedded.inmemory import BackendCase


class CommandCase(BackendCase):
    """A running backend, and a shell beside it."""

    answers: list[str] | None = None

    def run_(self, what: str, name: str, word: str = "", **options: str) -> list[str]:
        """The lines that the command says."""
        said: list[str] = []
        answers = self.answers
        ask = None if answers is None else lambda question: answers.pop(0)
        terminal = Terminal(said.append, ask, self.clock.seconds)
        command.run(self.data, self.policy, Command(what, name, word, **options), terminal)
        return said

    def cannot(self, *words: str, **options: str) -> str:
        return str(self.assertRaises(CannotDo, self.run_, *words, **options))


class AccountTests(CommandCase):
    """smtp-relay account."""

    def test_add(self) -> None:
        """A new account has a key that works, which is shown."""
        said = self.run_("account", "add", "Example Ltd")
        self.assertEqual(said[0], "account 2: Example Ltd")
        key = said[1].removeprefix("API key: ")
        self.assertEqual(self.get("/api/ping", key=key).json[0]["name"], "Example Ltd")
        self.assertEqual(self.cannot("account", "add", "Example Ltd"), "There is an account Example Ltd already")

    def test_list(self) -> None:
        """The list has each with the beginning of its key, its users and its state."""
        self.run_("account", "add", "Second")
        self.run_("account", "disable", "2")
        heads, first, second = self.run_("account", "list")
        self.assertRegex(heads, r"^ID +NAME +KEY +USERS +SINCE +STATE$")
        self.assertRegex(first, rf"^1 +Local +{self.backend.api_key[:4]}… +1 .* active$")
        self.assertRegex(second, r"^2 +Second .* 0 .* disabled$")

    def test_disable(self) -> None:
        """A disabled account's key is refused, and works again when it is enabled."""
        self.assertEqual(
            self.run_("account", "disable", "Local"), ["Local is disabled: its API key and its users are refused"]
        )
        self.assertEqual(self.get("/api/ping").status, 401)
        self.assertEqual(self.run_("account", "enable", "Local"), ["Local is enabled"])
        self.assertEqual(self.get("/api/ping").status, 200)

    def test_reset_key(self) -> None:
        """A reset shows the new key and writes it to api-key."""
        (line,) = self.run_("account", "reset-key", "Local")
        key = line.removeprefix("API key of Local: ")
        self.assertEqual((self.data / "api-key").read_text(), f"{key}\n")
        self.assertEqual((self.get("/api/ping", key=key).status, self.get("/api/ping").status), (200, 401))

    def test_unknown(self) -> None:
        """What is not there is named."""
        self.assertIn("there is no account Nope", self.cannot("account", "reset-key", "Nope"))


class UserTests(CommandCase):
    """smtp-relay user."""

    def test_add(self) -> None:
        """Without anyone to ask a password is made and shown; it signs in."""
        said = self.run_("user", "add", "Jane@Example.com", account="Local")
        self.assertEqual(said[0], "jane@example.com may sign in")
        self.passwords["jane@example.com"] = said[1].removeprefix("password: ")
        self.assertEqual(self.browser("jane@example.com").get("/log").status, 200)
        self.assertIn("already", self.cannot("user", "add", "jane@example.com", account="Local"))

    def test_administrator(self) -> None:
        """Without an account it is an administrator; a password that is given is not shown."""
        said = self.run_("user", "add", "root@example.com", password="a good password")
        self.assertEqual(said, ["root@example.com may sign in as an administrator"])
        self.passwords["root@example.com"] = "a good password"
        self.assertEqual(self.browser("root@example.com").get("/admin/accounts").status, 200)

    def test_asked(self) -> None:
        """At a terminal it is asked for twice; empty is a random one."""
        self.answers = ["a good password", "a good password"]
        self.assertEqual(len(self.run_("user", "add", "a@example.com", account="1")), 1)
        self.answers = ["a good password", "another one"]
        self.assertEqual(self.cannot("user", "add", "b@example.com", account="1"), "the two passwords differ")
        self.answers = [""]
        self.assertEqual(len(self.run_("user", "add", "b@example.com", account="1")), 2)

    def test_passwd(self) -> None:
        """Another password signs the user out everywhere."""
        browser = self.browser()
        self.run_("user", "passwd", "user@localhost", password="a good password")
        self.assertEqual(browser.get("/log").status, 303)
        self.passwords["user@localhost"] = "a good password"
        self.browser()
        self.assertIn("10 to 200", self.cannot("user", "passwd", "user@localhost", password="short"))

    def test_disable(self) -> None:
        """A disabled user is signed out; the last administrator cannot be disabled."""
        browser = self.browser()
        self.run_("user", "disable", "user@localhost")
        self.assertEqual(browser.get("/log").status, 303)
        self.run_("user", "enable", "user@localhost")
        self.browser()
        self.assertIn("only administrator", self.cannot("user", "disable", "admin@localhost"))

    def test_list(self) -> None:
        """The list has administrators first, and when each signed in last."""
        self.browser()
        _, admin, user = self.run_("user", "list")
        self.assertRegex(admin, r"^admin@localhost +\(administrator\) +never +active$")
        self.assertRegex(user, r"^user@localhost +Local +2026-\d\d-\d\d \d\d:\d\d +active$")

    def test_wrong(self) -> None:
        """What is no address, and who is not there, is said."""
        self.assertIn("must look like", self.cannot("user", "add", "nobody", account="Local"))
        self.assertIn("there is no user", self.cannot("user", "passwd", "nobody@localhost"))
        self.assertIn("there is no account", self.cannot("user", "add", "x@localhost", account="Nope"))


class NothingTests(CommandCase):
    """Where no backend has been."""

    def test_no_database(self) -> None:
        """The data folder is named, and nothing is made in it."""
        self.data = Path(self.mktemp())
        self.data.mkdir()
        self.policy = Embedded()
        error = self.assertRaises(ConfigError, self.run_, "account", "list")
        self.assertIn("start the relay once", str(error))
        self.assertEqual(list(self.data.iterdir()), [])
