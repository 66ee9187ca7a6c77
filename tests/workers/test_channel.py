"""What parent and worker say to each other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.workers.channel import Lines, encode


class LinesTests(SynchronousTestCase):
    @given(st.lists(st.lists(st.text() | st.integers())), st.integers(1, 50))
    def test_pieces(self, messages: list[list[object]], step: int) -> None:
        """Whatever is said arrives, in whatever pieces."""
        said = b"".join(encode("word", *each) for each in messages)
        lines = Lines()
        heard = [each for start in range(0, len(said), step) for each in lines.feed(said[start : start + step])]
        self.assertEqual(heard, [["word", *each] for each in messages])
