"""Text for people at a terminal: aligned columns, short times, and nothing that could move the cursor."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from attrs import frozen

#: What stands between two columns.
GAP: Final = "  "


@frozen
class Column:
    """One column.

    :ivar most: characters that it takes at most, while others need room; 0: as many as its widest cell.
    :ivar right: whether its cells end on one line.
    """

    head: str
    most: int = 0
    right: bool = False


class Table:
    """Rows of one or more lines each; the last column of a line gets all that the terminal has left.

    :param lines: the columns of each line; the second and later ones are indented.
    :param width: of the terminal.
    :param sample: rows that tell how wide the columns have to be.
    """

    def __init__(self, lines: Sequence[Sequence[Column]], width: int, sample: Iterable[Mapping[str, str]]) -> None:
        self._lines = lines
        self._width = width
        sample = list(sample)
        self._widths = {
            column.head: min(
                max((cell_width(row[column.head]) for row in sample), default=0),
                column.most or width,
            )
            for line in lines
            for column in line
        }
        for head, found in self._widths.items():
            self._widths[head] = max(found, len(head))

    def heads(self) -> Iterator[str]:
        """The lines above the first row."""
        return self.lines({column.head: column.head for line in self._lines for column in line})

    def lines(self, row: Mapping[str, str]) -> Iterator[str]:
        """The lines of *row*, which has a cell for each head."""
        for number, columns in enumerate(self._lines):
            yield self._line(GAP if number else "", columns, row)

    def _line(self, line: str, columns: Sequence[Column], row: Mapping[str, str]) -> str:
        for column in columns[:-1]:
            width = self._widths[column.head]
            cell = clip(row[column.head], width)
            space = " " * (width - cell_width(cell))
            line += (space + cell if column.right else cell + space) + GAP
        # A terminal too narrow gets longer lines, not empty cells.
        last = columns[-1].head
        return (line + clip(row[last], max(self._width - cell_width(line), len(last), 8))).rstrip()


def printable(text: str) -> str:
    """*text* on one line, with ``?`` for control characters, and for what hides or reorders characters."""
    return "".join(each if each.isprintable() else "?" for each in text)


def cell_width(text: str) -> int:
    """How many columns of a terminal *text* takes."""
    return len(text) if text.isascii() else sum(map(_character_width, text))


def _character_width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def clip(text: str, width: int) -> str:
    """*text*, or as much of its beginning as fits into *width* columns with an ellipsis."""
    if cell_width(text) <= width:
        return text
    while text and cell_width(text) > width - 1:
        text = text[:-1]
    return f"{text}…"


def duration(seconds: float) -> str:
    """*seconds* in the largest unit that it has one of, cut off: ``45s``, ``3m``, ``2h``, ``5d``."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size:.0f}{unit}"
    return f"{max(seconds, 0) // 1:.0f}s"
