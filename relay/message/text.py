"""A text/plain body made into HTML (MESSAGE.md, "Body"): escaped, line breaks kept, links made."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from html import escape

#: A link as people write it; in a template also one with expressions in it.
_LINK = re.compile(r"(?:https?://|mailto:)[^\s<>\"{}]+", re.IGNORECASE)
_TEMPLATE_LINK = re.compile(r"(?:https?://|mailto:)(?:[^\s<>\"{}]|\{\{[^{}<>\"]+\}\})+", re.IGNORECASE)
_EXPRESSION = re.compile(r"(\{\{[^{}]+\}\})")

#: Where data ends in a template: a link, or what opens a tag.
_LINK_OR_TAG = re.compile(rf"{_TEMPLATE_LINK.pattern}|\{{[{{%#]", re.IGNORECASE)
_CLOSING = {"{{": "}}", "{%": "%}", "{#": "#}"}

#: What ends a sentence, not a link.
_PUNCTUATION = ".,;:!?'*_"

#: Links and tags that are looked for; past them all is data.  Bounds the time and the growth of the text.
MOST_PIECES = 20_000


def to_html(text: str, *, templated: bool = False) -> str:
    """*text* as an HTML document.

    :param templated: what Jinja2 reads as a tag stays as it is; only the data between tags is escaped.
    """
    pieces = _template_pieces(text) if templated else _pieces(text)
    # All that is put before stands on the first line: a mistake in a template is reported with its line.
    return f"<!DOCTYPE html><html><body>{''.join(pieces)}\r\n</body></html>\r\n"


def _pieces(text: str) -> Iterator[str]:
    """The HTML of plain text, piece by piece."""
    position = 0
    for match in itertools.islice(_LINK.finditer(text), MOST_PIECES):
        link = _trimmed(match[0])
        yield _data(text[position : match.start()])
        yield _anchor(link)
        position = match.start() + len(link)
    yield _data(text[position:])


def _template_pieces(text: str) -> Iterator[str]:
    """The same of a template.  A tag that is never closed is data; its closing is looked for once, not from each."""
    position = start = 0
    unclosed: set[str] = set()
    for _ in range(MOST_PIECES):
        match = _LINK_OR_TAG.search(text, start)
        if match is None:
            break
        found, start = match[0], match.end()
        closing = _CLOSING.get(found)
        if closing is None:
            found = _trimmed(found)
            end, html = match.start() + len(found), _anchor(found)
        else:
            end = -1 if found in unclosed else text.find(closing, start)
            if end < 0:
                unclosed.add(found)
                continue
            end += len(closing)
            html = text[match.start() : end]
        yield _data(text[position : match.start()])
        yield html
        position = start = end
    yield _data(text[position:])


def _data(text: str) -> str:
    """Text that is no link: every line end has a break before it, and columns made of spaces do not collapse."""
    html = escape(text).replace("\r\n", "\n").replace("\n", "<br>\r\n")
    if "  " in html:
        html = html.replace("  ", "&nbsp; ").replace("  ", "&nbsp; ")
    return html


def _anchor(link: str) -> str:
    target = "".join(
        piece if place % 2 else escape(piece) for place, piece in enumerate(_EXPRESSION.split(link))
    )  # fmt: skip
    return f'<a href="{target}">{target}</a>'


def _trimmed(link: str) -> str:
    """*link* without the punctuation of the sentence around it."""
    link = link.rstrip(_PUNCTUATION)
    if link.endswith(")") and "(" not in link:
        link = link.rstrip(")").rstrip(_PUNCTUATION)
    return link
