"""Rows as CSV (RFC 4180) that a spreadsheet can open without harm."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping

#: What makes a spreadsheet take a cell for a formula, which may send data away or run a program.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def written(columns: Iterable[str], rows: Iterable[Mapping[str, object]]) -> str:
    """A line with the names of the *columns*, and one for each row."""
    names = list(columns)
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(names)
    table.writerows([cell(row[name]) for name in names] for row in rows)
    return text.getvalue()


def cell(value: object) -> object:
    """*value* as a cell; a text that would be a formula has an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value.lstrip(" ").startswith(_FORMULA) else value
