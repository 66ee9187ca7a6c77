"""What parent and worker say to each other."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.workers.channel import Lines, encode


class LinesTests(SynchronousTestCase):
    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(st.lists(st.text(max_size=20) | st.integers(), max_size=5), max_size=10), st.integers(1, 50))
    def test_pieces(self, messages: list[list[object]], step: int) -> None:
        """Whatever is said arrives, in whatever pieces."""
        said = b"".join(encode("word", *each) for each in messages)
        lines = Lines()
        heard = [each for start in range(0, len(said), step) for each in lines.feed(said[start : start + step])]
        self.assertEqual(heard, [["word", *each] for each in messages])
