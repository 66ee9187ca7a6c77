"""The documents say what the code does: their examples run, their tables are complete."""

from __future__ import annotations

import re
import runpy
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import TestResult, defaultTestLoader

from twisted.application.service import IServiceCollection
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relay import config, replies, wire
from relay.embedded.api.operations import OPERATIONS
from relay.errors import Failure, Reason
from relay.testing import Dialogue, FakePlatform, make_message
from relay.values import Submission

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
EXAMPLES = DOCS / "examples"
README = (ROOT / "README.md").read_text("utf-8")

#: MESSAGE.md, "Headers that count".
HEADERS = [
    "From",
    "Subject",
    "To",
    "Reply-To",
    "X-Transactional-Tag",
    "X-Transactional-Route",
    "X-Transactional-Template",
    "X-Transactional-Variables",
    "X-Transactional-Idempotency-Key",
    "X-Auth-APIKey",
]


def section(title: str) -> str:
    """A section of the README."""
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


class ReadmeTests(SynchronousTestCase):
    """README.md"""

    def test_headers(self) -> None:
        """The table of headers names every header that counts."""
        found = re.findall(r"`([A-Z][A-Za-z-]+)`", "".join(re.findall(r"^\|(.*?)\|", section("Headers"), re.M)))
        self.assertEqual(sorted(found), sorted(HEADERS))

    def test_replies(self) -> None:
        """Each reply in the table is one that the relay gives."""
        known = {f"{reply.code} {reply.enhanced}" for reply in map(reply_of, Reason)}
        rows = re.findall(r"^\| (`[2-5].*?) \|", section("Replies"), re.M)
        self.assertGreater(len(rows), 10)
        for row in rows[1:]:
            codes = re.findall(r"`(?:(\d{3}) )?([45]\.\d+\.\d+)`", row)
            code = ""
            for first, enhanced in codes:
                code = first or code
                self.assertIn(f"{code} {enhanced}", known)

    def test_what_a_message_can_get(self) -> None:
        """Every reply that a well-behaved client can meet stands in the table."""
        syntax = {500, 501, 502, 503, 504, 555}
        wanted = {str(reply_of(reason).code) for reason in Reason if reply_of(reason).code not in syntax}
        self.assertEqual(wanted - set(re.findall(r"`(\d{3}) ", section("Replies"))), set())

    def test_python_example(self) -> None:
        """The Python program of the README is one."""
        (program,) = re.findall(r"```python\n(.*?)```", README, re.S)
        compile(program, "README.md", "exec")
        self.assertIn("relay.send_message(message)", program)

    def test_links(self) -> None:
        """Every file that the README links to is there."""
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
            self.assertTrue((ROOT / target).exists(), target)


class ReferenceTests(SynchronousTestCase):
    """The pages of docs/."""

    def test_keys(self) -> None:
        """Each key that a page refers to exists."""
        known = {row.key for row in config.describe()}
        used = {
            key for page in DOCS.glob("*.rst") for key in re.findall(r":confval:`([^`]+)`", page.read_text("utf-8"))
        }
        self.assertGreater(len(used), 10)
        self.assertEqual(used - known, set())

    def test_variables(self) -> None:
        """Each variable that a page or the unit uses exists."""
        known = {row.env for row in config.describe()} | {"SMTP_RELAY_CONFIG"}
        pages = [*DOCS.glob("*.rst"), DOCS / "smtp-relay.service", ROOT / "README.md"]
        used = {name for page in pages for name in re.findall(r"SMTP_RELAY_[A-Z_]+", page.read_text("utf-8"))}
        self.assertEqual(used - known, set())

    def test_configurations(self) -> None:
        """Each TOML file in the pages is accepted, but for files that are not on this machine."""
        blocks = [
            (page.name, block)
            for page in sorted(DOCS.glob("*.rst"))
            for block in re.findall(r"\.\. code-block:: toml\n\n((?:   .*\n|\n)+)", page.read_text("utf-8"))
        ]
        self.assertGreater(len(blocks), 2)
        for name, block in blocks:
            with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
                text = re.sub(r"^   ", "", block, flags=re.M)
                file.write(re.sub(r"^(certificate|private_key) = .*$", f'\\1 = "{__file__}"', text, flags=re.M))
                file.flush()
                self.assertNotEqual(config.load(path=file.name), config.Config(), name)

    def test_contract(self) -> None:
        """The contract's table has the fields of the wire, in their order."""
        text = (DOCS / "contract.rst").read_text("utf-8")
        fields = re.findall(r"^``(\w+)`` +(?:string|object or null) ", text, re.M)
        self.assertEqual(fields, [*wire.TEXT_FIELDS, "variables"])

    def test_operations(self) -> None:
        """The table of the platform's API has every operation, and no other."""
        text = (DOCS / "platform_api.rst").read_text("utf-8")
        listed = re.findall(r"^   \* - ``([A-Z]+ /api/\S+)``$", text, re.M)
        self.assertEqual(listed, [f"{each.method.upper()} /api/{each.path}" for each in OPERATIONS])


class ExampleTests(SynchronousTestCase):
    """docs/examples, as "Embedding" shows them."""

    def load(self, name: str) -> dict[str, Any]:
        """What the example *name* defines."""
        return runpy.run_path(str(EXAMPLES / name))

    def test_whole_relay(self) -> None:
        """The application has the relay as its service."""
        application = self.load("whole_relay.py")["application"]
        (service,) = IServiceCollection(application)
        self.assertEqual(service.config.backend, ("https://platform.example.com",))

    def test_own_stage(self) -> None:
        """The test in the pages passes."""
        sys.path.insert(0, str(EXAMPLES))
        self.addCleanup(sys.path.remove, str(EXAMPLES))
        self.addCleanup(sys.modules.pop, "own_stage", None)
        case = self.load("test_own_stage.py")["OwnStageTests"]
        result = TestResult()
        defaultTestLoader.loadTestsFromTestCase(case).run(result)
        self.assertEqual((result.testsRun, result.errors, result.failures), (2, [], []))

    def test_own_deliver(self) -> None:
        """What the program keeps is answered 250, what it cannot keep 451; the platform gets nothing."""
        kept: list[str] = []
        full: list[OSError] = []

        async def keep(submissions: Sequence[Submission]) -> None:
            if full:
                raise full[0]
            kept.extend(each.to for each in submissions)

        platform = FakePlatform()
        client = Dialogue(self.load("own_deliver.py")["factory"](config.Config(), platform, keep, Clock()))
        client.envelope("jane@example.org", "joe@example.org")
        self.assertRegex(client.message(make_message())[0], "^250 Ok: queued as ")
        self.assertEqual((kept, platform.submissions), (["jane@example.org", "joe@example.org"], []))
        full.append(OSError())
        client.envelope("jane@example.org")
        self.assertRegex(client.message(make_message())[0], "^451 4.3.0 ")

    def test_own_delivery(self) -> None:
        """Mail for example.com is kept, other mail is refused at RCPT."""
        mailbox: list[bytes] = []
        client = Dialogue(self.load("own_delivery.py")["factory"](mailbox, Clock()))
        client.hello()
        client.command("MAIL FROM:<jane@example.org>")
        self.assertEqual(
            client.command("RCPT TO:<joe@example.net>"), ["501 5.1.3 This server takes mail for example.com only"]
        )
        self.assertRegex(client.command("RCPT TO:<joe@example.com>")[0], "^250 ")
        client.command("DATA")
        self.assertEqual(client.message("Subject: Hello\r\n\r\n..dots\r\n"), ["250 Ok: kept"])
        self.assertEqual(mailbox, [b"Subject: Hello\n\n..dots"])


def reply_of(reason: Reason) -> replies.Reply:
    """The standard reply of *reason*."""
    return replies.reply(Failure(reason))
