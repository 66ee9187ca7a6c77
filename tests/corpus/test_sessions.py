"""Other projects' messages and dialogues through a whole session: each has a definite reply."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import partial

from twisted.internet.task import Clock

from relay.message import parse
from relay.policy import Auth, Content, Limits
from relay.testing import KEY, Dialogue, FakePlatform, make_factory
from tests.corpus.test_messages import CORPUS, CorpusTests, crlf, messages
from tests.smtp.test_auth import encoded, plain

_GO_LITERAL = re.compile(r'(?:\[\]byte|string)\("((?:[^"\\]|\\.)*)"\)')


def seeds(folder: str) -> Iterator[bytes]:
    """The octets of Go's fuzzing seeds, which are source text."""
    for path in sorted((CORPUS / "chasquid").rglob(f"{folder}/*")):
        for literal in _GO_LITERAL.findall(path.read_text("utf-8")):
            escaped = "".join(c if c.isascii() else "".join(f"\\x{octet:02x}" for octet in c.encode()) for c in literal)
            yield ast.literal_eval(f'b"{escaped}"')


class MessageTests(CorpusTests):
    """Every message through DATA."""

    def test_every_message(self) -> None:
        """Each has one reply, which accepts it or says why not, and leaves the session usable."""
        platform = FakePlatform()
        lenient = partial(parse, policy=Content(attachments="strip"))
        dialogue = Dialogue(make_factory(platform, Clock(), pipeline={"parse": lenient}))
        dialogue.hello()
        dialogue.command(plain(KEY))
        accepted = refused = 0
        for name, content in messages():
            answers = dialogue.send("MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n")
            self.assertEqual([each[:3] for each in answers], ["250", "250", "354"], name)
            answers = dialogue.message(crlf(content))
            self.assertEqual(len(answers), 1, name)
            self.assertRegex(answers[0], r"^(250 Ok: queued as \w+|55[04] 5\.\d\.\d .+)$", name)
            accepted += answers[0].startswith("250")
            refused += answers[0].startswith("5")
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertEqual(len(platform.submissions), accepted)
        self.assertGreater(accepted, 200)
        self.assertGreater(refused, 20)


class SeedTests(CorpusTests):
    """What crashed, or might have crashed, another SMTP server."""

    def dialogue(self) -> Dialogue:
        """A patient session."""
        limits = Limits(errors=10_000, auth_failures=10_000)
        return Dialogue(make_factory(FakePlatform(), Clock(), auth=Auth(delay=0), limits=limits))

    def test_connections(self) -> None:
        """A dialogue, as lines and as raw octets, has replies only, and the relay serves the next client."""
        tried = 0
        for seed in seeds("FuzzConnection"):
            tried += 1
            for stream in (seed, crlf(seed)):
                dialogue = self.dialogue()
                for line in dialogue.send(stream):
                    self.assertRegex(line, r"^[2-5]\d\d[ -]")
                if dialogue.session._data is not None:
                    dialogue.send(b"\r\n.\r\n")
                if not dialogue.closed:
                    dialogue.send(b"\r\n")
                    self.assertRegex(dialogue.command("NOOP")[-1], r"^250 ")
        self.assertGreater(tried, 10)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_auth_responses(self) -> None:
        """Any answer to AUTH PLAIN is refused or taken as a key, in base64 and raw."""
        tried = 0
        for seed in seeds("FuzzDecodeResponse"):
            tried += 1
            dialogue = self.dialogue()
            dialogue.hello()
            for answer in (
                encoded(seed.decode("latin-1")),
                seed.replace(b"\r", b"").replace(b"\n", b"").decode("latin-1"),
            ):
                self.assertTrue(dialogue.command("AUTH PLAIN")[0].startswith("334"))
                self.assertRegex(dialogue.command(answer)[0], r"^(501|535) ")
        self.assertGreater(tried, 2)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_addresses(self) -> None:
        """Any words as an address are taken or refused for their syntax."""
        for folder in ("FuzzAddr", "FuzzUser", "FuzzDomain"):
            for seed in seeds(folder):
                dialogue = self.dialogue()
                dialogue.hello()
                if not {b"\r", b"\n"} & set(re.findall(rb"[\r\n]", seed)):
                    self.assertRegex(dialogue.command(b"MAIL FROM:<" + seed + b"> SMTPUTF8")[0], r"^(250|50[01]) ")
        self.assertEqual(self.flushLoggedErrors(), [])
