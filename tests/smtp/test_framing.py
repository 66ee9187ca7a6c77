"""Where a message ends, and what its bytes are."""

from __future__ import annotations

import itertools
import re

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.smtp.framing import DataReader, has_bare_newline, normalize

END = b".\r\n"


def read(stream: bytes, cuts: list[int] | None = None, limit: int = 10_000) -> tuple[DataReader, bytes | None]:
    """Feed *stream*, cut at *cuts*; the reader, and what came behind the end."""
    reader = DataReader(limit)
    edges = [0, *sorted({cut for cut in cuts or [] if 0 < cut < len(stream)}), len(stream)]
    for first, last in itertools.pairwise(edges):
        rest = reader.feed(stream[first:last])
        if rest is not None:
            return reader, rest + stream[last:]
    return reader, None


class DataReaderTests(SynchronousTestCase):
    """:class:`relay.smtp.framing.DataReader`."""

    def test_end_at_every_cut(self) -> None:
        """CR LF . CR LF ends the message wherever the segments are cut."""
        stream = b"first\r\nlast\r\n" + END + b"QUIT\r\n"
        for first in range(len(stream)):
            for second in range(first, len(stream)):
                reader, rest = read(stream, [first, second])
                self.assertEqual((reader.content(), rest), (b"first\r\nlast\r\n", b"QUIT\r\n"))

    def test_empty_message(self) -> None:
        """A dot at once is an empty message."""
        reader, rest = read(END)
        self.assertEqual((reader.content(), rest), (b"", b""))

    def test_dot_stuffing(self) -> None:
        """A leading dot that was doubled is one dot again, on the first line too."""
        reader, _ = read(b"..first\r\n...\r\n..\r\nno.dot\r\n" + END)
        self.assertEqual(reader.content(), b".first\r\n..\r\n.\r\nno.dot\r\n")

    def test_lookalikes(self) -> None:
        """Nothing but CR LF . CR LF ends a message."""
        for lookalike in (
            b"\n.\n",
            b"\n.\r\n",
            b"\r.\r\n",
            b"\r.\r",
            b"\r\n.\n",
            b"\r\n.\r",
            b"\r\n\0.\r\n",
            b"\r\n.\0\r\n",
        ):
            reader, rest = read(b"body" + lookalike + b"more\r\n" + END)
            self.assertEqual(rest, b"")
            self.assertTrue(reader.content().endswith(b"more\r\n"), lookalike)

    def test_past_the_limit(self) -> None:
        """Of a message past the limit nothing is kept, and its end is found all the same."""
        reader = DataReader(1000)
        for _ in range(500):
            self.assertIsNone(reader.feed(b"x" * 98 + b"\r\n"))
        self.assertTrue(reader.discarded)
        self.assertLess(len(reader._kept), 200)
        self.assertEqual(reader.feed(b".\r\nQUIT\r\n"), b"QUIT\r\n")

    def test_limit_is_exact(self) -> None:
        """A message of exactly the limit is kept, one octet more is not."""
        for size, discarded in ((100, False), (101, True)):
            reader, _ = read(b"x" * (size - 2) + b"\r\n" + END, limit=100)
            self.assertEqual(reader.discarded, discarded)

    def test_two_ends_in_one_segment(self) -> None:
        """The first end counts, also where the segment ends like a message."""
        for first in (b"first\r\n", b"..first\r\n..\r\n", b""):
            reader, rest = read(first + END + b"second\r\n" + END)
            self.assertEqual(reader.content(), first.replace(b"..", b"."))
            self.assertEqual(rest, b"second\r\n" + END)

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.sampled_from([b"a", b".", b"\r", b"\n", b"\r\n", b"\0", b"\xff"])), st.lists(st.integers(0, 60)))
    def test_any_content_in_any_segments(self, pieces: list[bytes], cuts: list[int]) -> None:
        """Any content, stuffed by the rules and cut anywhere, comes out as it was, and what follows it is untouched."""
        content = b"".join(pieces)
        if content and not content.endswith(b"\r\n"):
            content += b"\r\n"
        stuffed = content.replace(b"\r\n.", b"\r\n..")
        stuffed = b"." + stuffed if stuffed.startswith(b".") else stuffed
        for limit, behind in ((10_000, b"NOOP\r\n"), (10_000, b""), (3, b"NOOP\r\n"), (3, b"")):
            reader, rest = read(stuffed + END + behind, cuts, limit)
            self.assertEqual(rest, behind)
            self.assertEqual(reader.size, len(stuffed + END))
            self.assertEqual(reader.discarded, len(stuffed) > limit)
            if not reader.discarded:
                self.assertEqual(reader.content(), content)


class NormalizeTests(SynchronousTestCase):
    """:func:`relay.smtp.framing.normalize`."""

    def test_bare_line_ends(self) -> None:
        """A CR or LF alone becomes CR LF; NUL is dropped."""
        self.assertEqual(normalize(b"a\nb\rc\r\nd\r\r\n\n\0e"), b"a\r\nb\r\nc\r\nd\r\n\r\n\r\ne")

    def test_apart(self) -> None:
        """A CR here and a LF there are no line end, wherever else there is one."""
        self.assertTrue(has_bare_newline(b"a\rb\nc\r\n"))
        self.assertFalse(has_bare_newline(b"a\r\nb\r\n"))

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.sampled_from([b"x", b"\r", b"\n", b"\r\n", b"\0"])).map(b"".join))
    def test_nothing_bare_is_left(self, content: bytes) -> None:
        """After it no line end stands alone, and a second time changes nothing."""
        once = normalize(content)
        self.assertEqual(once, re.sub(rb"\r(?!\n)|(?<!\r)\n", b"\r\n", content).replace(b"\0", b""))
        self.assertEqual(has_bare_newline(content), bool(re.search(rb"\r(?!\n)|(?<!\r)\n", content)))
        self.assertFalse(has_bare_newline(once))
        self.assertEqual(normalize(once), once)
