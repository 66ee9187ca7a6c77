"""A text/plain body made into HTML (MESSAGE.md, "Body"): escaped, line breaks kept, links made."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape

#: A link as people write it; with Jinja2 expressions in it where the text is a template.
_LINK = re.compile(r"(?:https?://|mailto:)[^\s<>\"{}]+", re.IGNORECASE)
_TEMPLATE_LINK = re.compile(r"(?:https?://|mailto:)(?:[^\s<>\"{}]|\{\{[^{}\"<>&]*\}\})+", re.IGNORECASE)

#: What ends a sentence, not a link.
_PUNCTUATION = ".,;:!?'*_"

_TAG = re.compile(r"\{[{%#]")
_CLOSING = {"{{": "}}", "{%": "%}", "{#": "#}"}


def to_html(text: str, *, templated: bool = False) -> str:
    """*text* as an HTML document.

    :param templated: keep what Jinja2 would read as a tag as it is; only the data between tags is escaped.
    """
    pieces = []
    for piece, is_tag in _pieces(text) if templated else ((text, False),):
        pieces.append(piece if is_tag else _data(piece))
    return f"<!DOCTYPE html>\r\n<html><body>\r\n{''.join(pieces)}\r\n</body></html>\r\n"


def _data(text: str) -> str:
    """Text between tags: links made, the rest escaped, every line end with a break before it."""
    pieces: list[str] = []
    position = 0
    for match in _LINK.finditer(text):
        link = _trimmed(match[0])
        pieces += escape(text[position : match.start()]), f'<a href="{escape(link)}">{escape(link)}</a>'
        position = match.start() + len(link)
    pieces.append(escape(text[position:]))
    return _spaced("".join(pieces))


def _spaced(html: str) -> str:
    """Line breaks as ``<br>``; of two spaces one does not collapse, so that columns stay columns."""
    return html.replace("  ", "&nbsp; ").replace("\r\n", "\n").replace("\n", "<br>\r\n")


def _trimmed(link: str) -> str:
    """*link* without the punctuation of the sentence around it."""
    link = link.rstrip(_PUNCTUATION)
    if link.endswith(")") and "(" not in link:
        link = link.rstrip(")").rstrip(_PUNCTUATION)
    return link


def _pieces(text: str) -> Iterator[tuple[str, bool]]:
    """*text* cut into data and Jinja2 tags; what is never closed is data.  Each with whether it is a tag."""
    position = 0
    unclosed: set[str] = set()
    start = 0
    while (match := _TAG.search(text, start)) is not None:
        opening = match[0]
        end = -1 if opening in unclosed else text.find(_CLOSING[opening], match.end())
        if end < 0:
            unclosed.add(opening)
            start = match.end()
            continue
        yield text[position : match.start()], False
        start = position = end + 2
        yield text[match.start() : position], True
    yield text[position:], False
