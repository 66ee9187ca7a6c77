"""Other projects' messages: each is read or refused, and what is read is what their parsers read.

``RELAY_CORPUS`` names the folder (its README says what is in it); without it these tests are skipped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import attrs
from twisted.trial.unittest import SynchronousTestCase

from relay.errors import PermanentFailure
from relay.message import general, headers, mime, parse, template, usual
from relay.policy import Content, Limits
from relay.values import Message

CORPUS = Path(os.environ.get("RELAY_CORPUS", ""))
STALWART = CORPUS / "stalwart-mail-parser/resources/eml"
MIME4J = CORPUS / "james-mime4j"
LIMITS = Limits()

#: Oracles, fuzzing seeds and dialogues are no messages.
NO_MESSAGES = {".json", ".xml", ".out", ".cmy", ".md", ".dns", ".result", ".readme"}

REFUSED = "the relay refuses malformed MIME, so that the sender learns of it"
HEADER = "the relay refuses a header line without colon (THREATS.md), where others take it as the body's beginning"
LATIN_1 = "not the UTF-8 that it claims to be: the relay reads Latin-1 (MESSAGE.md), Stalwart replaces"
UTF_7 = "the relay never decodes UTF-7 (MESSAGE.md)"
NUL = "the relay drops NUL (SMTP.md)"
EXACT = "the relay takes as a boundary only a line with nothing else on it, so that one may begin with another"

#: Where the relay reads something else than Stalwart, by the message's name without ending.
STALWART_DEVIATIONS = {
    "legacy/001": UTF_7,
    "legacy/005": UTF_7,
    "legacy/033": LATIN_1,
    "legacy/034": UTF_7,
    "legacy/052": LATIN_1,
    "malformed/001": REFUSED,
    "malformed/002": REFUSED,
    "malformed/003": REFUSED,
    "malformed/004": REFUSED,
    "malformed/005": REFUSED,
    "malformed/006": "an inner boundary that begins with the outer one is another one: the text behind it is found",
    "malformed/008": "an inner multipart without end is ended by the outer boundary: the HTML behind it is found",
    "malformed/013": REFUSED,
    "malformed/019": "a part's first line that is no field is its text; Stalwart reads it as header",
    "malformed/020": "the first of two Content-Type fields counts: the multipart is read, not shown as text",
    "malformed/021": "the first of two Content-Type fields counts: the multipart is read, not shown as text",
    "thirdparty/000": NUL,
    "thirdparty/005": "half a UTF-16 character at the end is replaced, Stalwart drops it",
}

#: The same for mime4j.
MIME4J_DEVIATIONS = {
    "badbound": REFUSED,
    "basic-plain-with-bad-header-separator": HEADER,
    "ending-boundaries": EXACT,
    "hdr-fakeout": HEADER,
    "malformedHeader-nocrlfcrlf": HEADER,
    "malformedHeader-noheader": HEADER,
    "malformedHeaderStartsBody-nocrlfcrlf": HEADER,
    "malformedHeaderStartsBody-noheader": HEADER,
    "missing-boundary": REFUSED,
    "missing-inner-boundary": REFUSED,
    "multi-frag": "base64 runs into text behind it, because its boundary is broken: the relay decodes two bytes more",
    "very-long-boundary": "a boundary's trailing spaces are ignored, as RFC 2046 says they are no part of it",
    "very-very-long-boundary": "a boundary's trailing spaces are ignored, as RFC 2046 says they are no part of it",
    "weird-boundary": "a boundary's trailing spaces are ignored, as RFC 2046 says they are no part of it",
}


def crlf(content: bytes) -> bytes:
    """*content* as the session hands it over."""
    return content.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def lf(content: bytes) -> bytes:
    """*content* without CR, as Stalwart's tests read it."""
    return content.replace(b"\r", b"")


def find_body(content: bytes) -> mime.Body:
    """The body of a message, which may lack From and Subject.

    :raises PermanentFailure: it is malformed.
    """
    fields, start = headers.read(content, LIMITS.header_block)
    return mime.find_body(content, fields, start, LIMITS)


def messages() -> Iterator[tuple[str, bytes]]:
    """Every message of the corpus, by its path."""
    for path in sorted(CORPUS.rglob("*")):
        if path.is_file() and path.suffix not in NO_MESSAGES:
            yield str(path.relative_to(CORPUS)), path.read_bytes()


class CorpusTests(SynchronousTestCase):
    """What all tests of the corpus need: the corpus."""

    if not CORPUS.name:
        skip = "RELAY_CORPUS is not set"


class DefiniteTests(CorpusTests):
    """:func:`relay.message.parse` of every message."""

    def check(self, policy: Content) -> int:
        read = 0
        for name, content in messages():
            for form in (content, crlf(content)):
                try:
                    message = parse(form, policy=policy)
                    template.check(message)
                except PermanentFailure as failure:
                    self.assertTrue(failure.text, name)
                else:
                    self.assertIsInstance(message, Message)
                    self.assertTrue(message.body, name)
                    read += 1
        return read

    def test_default(self) -> None:
        """Each is read or refused with a text that says why."""
        self.assertGreater(self.check(Content()), 250)

    def test_lenient(self) -> None:
        """The same where attachments are no obstacle, and then more are read."""
        self.assertGreater(self.check(Content(attachments="strip")), self.check(Content()) + 100)
        self.assertGreater(self.check(Content(attachments="forward")), self.check(Content()) + 100)


class UsualTests(CorpusTests):
    """:func:`relay.message.usual.read` against the general parser."""

    def test_equal(self) -> None:
        """Where it has an answer for a message, or for that with its text as HTML, it is the general parser's."""
        answers = 0
        for name, content in messages():
            for form in (crlf(content), crlf(content).replace(b"text/plain", b"text/html")):
                message = usual.read(form, LIMITS)
                if message is not None:
                    answers += 1
                    self.assertEqual(attrs.asdict(general(form)), attrs.asdict(message), name)
        self.assertGreater(answers, 20)


class StalwartTests(CorpusTests):
    """:func:`relay.message.mime.find_body` against what Stalwart's mail-parser found."""

    def deviates(self, content: bytes, oracle: dict[str, Any]) -> bool:
        try:
            body = find_body(content)
        except PermanentFailure:
            return True
        html = body.html and body.html.text(content)
        text = body.text and body.text.text(content)
        return (html, _unless_blank(text)) != (_first(oracle, "html_body", "Html"), _first(oracle, "text_body", "Text"))

    def test_bodies(self) -> None:
        """The first HTML and the first text are Stalwart's, but for the deviations, each of which is one."""
        deviations = set()
        compared = 0
        for path in sorted(STALWART.rglob("*.eml")):
            name = str(path.relative_to(STALWART).with_suffix(""))
            for suffix, line_ends in ((".json", lf), (".crlf.json", crlf)):
                oracle = path.with_suffix(suffix)
                if oracle.exists():
                    compared += 1
                    if self.deviates(line_ends(path.read_bytes()), json.loads(oracle.read_text("utf-8"))):
                        deviations.add(name)
        self.assertGreater(compared, 200)
        self.assertEqual(set(STALWART_DEVIATIONS), deviations)


class MIME4JTests(CorpusTests):
    """The parts of each message against what mime4j decoded."""

    def deviates(self, content: bytes, oracle: Path) -> bool:
        try:
            fields, start = headers.read(content, LIMITS.header_block)
            parts = [part for part in mime.leaves(content, fields, start, LIMITS) if part.type != "message/rfc822"]
        except PermanentFailure:
            return True
        names = _leaves(ElementTree.fromstring(oracle.read_bytes()))
        expected = [lf(oracle.with_name(name).read_bytes()) for name in names]
        return [lf(part.content(content)) for part in parts] != expected

    def test_parts(self) -> None:
        """Every leaf decodes to the octets that mime4j has, but for the deviations, each of which is one."""
        oracles = sorted(MIME4J.rglob("*_decoded.xml"))
        self.assertEqual(80, len(oracles))
        deviations = set()
        for oracle in oracles:
            name = oracle.name.removesuffix("_decoded.xml")
            if self.deviates(crlf(oracle.with_name(f"{name}.msg").read_bytes()), oracle):
                deviations.add(name)
        self.assertEqual(set(MIME4J_DEVIATIONS), deviations)


def _first(oracle: dict[str, Any], bodies: str, kind: str) -> str | None:
    """The first body of a kind; Stalwart lists a text under ``html_body`` too where there is no HTML."""
    found = (oracle["parts"][number]["body"] for number in oracle[bodies])
    text = next((body[kind] for body in found if isinstance(body, dict) and kind in body), None)
    return _unless_blank(text)


def _unless_blank(text: str | None) -> str | None:
    """*text*, or None: nothing but white space is no body to the relay."""
    return text if text and not text.isspace() else None


def _leaves(element: ElementTree.Element) -> Iterator[str]:
    """The files with the leaves of a message, in order; a nested message is not walked into."""
    for child in element:
        if child.tag in ("text-body", "binary-body"):
            yield child.get("name", "")
        elif child.tag == "multipart":
            for part in child.findall("body-part"):
                yield from _leaves(part)
