"""Columns, and text that a terminal may show."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.operate.table import Column, Table, cell_width, clip, duration, printable

COLUMNS = (Column("ID"), Column("AGE", right=True), Column("TO", 8), Column("ANSWER"))
CELLS = st.text(st.characters(min_codepoint=32, max_codepoint=0x1F000, blacklist_categories=("C",)), max_size=60)


def row(id: str, age: str, to: str, answer: str) -> dict[str, str]:
    return {"ID": id, "AGE": age, "TO": to, "ANSWER": answer}


class TableTests(SynchronousTestCase):
    def shown(self, width: int, *rows: dict[str, str]) -> list[str]:
        table = Table([COLUMNS], width, rows)
        return [*table.heads(), *(line for each in rows for line in table.lines(each))]

    def test_aligned(self) -> None:
        """Columns are as wide as their widest cell, numbers end on one line, no line ends in spaces."""
        self.assertEqual(
            self.shown(80, row("A1", "5s", "bo", "later"), row("A234", "12m", "jane", "")),
            ["ID    AGE  TO    ANSWER", "A1     5s  bo    later", "A234  12m  jane"],
        )

    def test_bounds(self) -> None:
        """A column takes no more than it may, the last one what is left; what is cut ends in an ellipsis."""
        lines = self.shown(30, row("A1", "5s", "jane@example.org", "451 4.4.1 not reachable"))
        self.assertEqual(lines[1], "A1   5s  jane@ex…  451 4.4.1 …")
        self.assertEqual(cell_width(lines[1]), 30)

    def test_two_lines(self) -> None:
        """A row may take two lines, the second indented and aligned in itself."""
        table = Table([COLUMNS[:2], COLUMNS[2:]], 40, [row("A1", "5s", "bo", "x")])
        self.assertEqual(list(table.heads()), ["ID  AGE", "  TO  ANSWER"])
        self.assertEqual(list(table.lines(row("A1", "5s", "bo", "x"))), ["A1  5s", "  bo  x"])

    def test_wide_characters(self) -> None:
        """Characters that take two columns, and marks that take none, do not move what follows."""
        lines = self.shown(80, row("名前", "1s", "x", "y"), row("e\u0301", "1s", "x", "y"))
        self.assertEqual([cell_width(line) for line in lines[1:]], [16, 16])

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=4), st.integers(40, 200))
    def test_fits(self, given: list[tuple[str, str]], width: int) -> None:
        """Whatever the cells hold, a line fits the terminal."""
        for line in self.shown(width, *(row("A1", "5s", to, answer) for to, answer in given)):
            self.assertLessEqual(cell_width(line), width)


class TextTests(SynchronousTestCase):
    def test_printable(self) -> None:
        """Control characters, line ends, and what turns text around become question marks; letters stay."""
        self.assertEqual(printable("a\x1b[31m\r\n\x9b\u202e\u2028\u200bé 名"), "a?[31m??????é 名")

    def test_clip(self) -> None:
        """A text that fits is left alone; another loses its end."""
        self.assertEqual((clip("abc", 3), clip("abcd", 3), clip("名前", 3)), ("abc", "ab…", "名…"))

    def test_duration(self) -> None:
        """Times are told in their largest unit, cut off."""
        times = (-5, 0, 59.9, 60, 3599, 3600, 86_399, 86_400, 864_000)
        self.assertEqual([duration(each) for each in times], ["0s", "0s", "59s", "1m", "59m", "1h", "23h", "1d", "10d"])
