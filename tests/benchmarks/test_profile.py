"""The shares of ``compare.py --profile``."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from benchmarks.comparison.profile import shares

#: As pstats has it: file, line, name; calls without recursion, calls, own seconds, seconds with all called.
STATS: dict[tuple[str, int, str], tuple[Any, ...]] = {
    ("/work/relay/smtp/session.py", 1, "_run"): (20, 20, 2.0, 9.0, {}),
    ("/work/relay/smtp/session.py", 50, "_do_data"): (10, 10, 1.0, 3.0, {}),
    ("/venv/lib/python3.11/site-packages/twisted/internet/tcp.py", 1, "doRead"): (40, 40, 4.0, 9.0, {}),
    ("/usr/lib/python3.11/email/parser.py", 1, "parse"): (10, 10, 2.0, 2.0, {}),
    ("~", 0, "<method 'send' of '_socket.socket' objects>"): (10, 10, 0.8, 0.8, {}),
    ("~", 0, "<built-in method builtins.len>"): (20, 20, 0.2, 0.2, {}),
    ("~", 0, "<method 'poll' of 'select.epoll' objects>"): (10, 10, 90.0, 90.0, {}),
}


class ShareTests(SynchronousTestCase):
    """Own time, without that of waiting for the next event."""

    def test_modules(self) -> None:
        """Modules stand in the order of their share, with the calls for each message."""
        found = [(each.name, round(each.share, 2), each.calls) for each in shares(STATS, 10).modules]
        self.assertEqual(
            found,
            [
                ("twisted/internet/tcp.py", 0.4, 4.0),
                ("relay/smtp/session.py", 0.3, 3.0),
                ("parser.py", 0.2, 1.0),
                ("system calls on sockets", 0.08, 1.0),
                ("built-in functions", 0.02, 2.0),
            ],
        )

    def test_functions(self) -> None:
        """So do functions; what is built in stands for itself."""
        found = {each.name: round(each.share, 2) for each in shares(STATS, 10).functions}
        self.assertEqual(found["relay/smtp/session.py _run"], 0.2)
        self.assertEqual(found["<method 'send' of '_socket.socket' objects>"], 0.08)
        self.assertEqual(len(found), 6)

    def test_text(self) -> None:
        """Both lists are printed."""
        lines = shares(STATS, 10).text().splitlines()
        self.assertEqual(lines[1].split(), ["40.0%", "4.0", "twisted/internet/tcp.py"])
        self.assertIn(" 20.0%    2.0  relay/smtp/session.py _run", lines)
