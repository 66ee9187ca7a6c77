"""The text of an HTML body, for mail programs that show no HTML: in linear time, whatever the HTML is.

``html.parser`` is not used: it takes 20 seconds for 200 kB of ``<a b='`` (THREATS.md, "MIME").
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from typing import NamedTuple

from attrs import define, field

#: Content that is no text: what is in them is left out.
_SILENT = frozenset(["head", "script", "style", "title", "template", "noscript", "object", "svg"])
#: Elements that begin and end a line, and those that stand apart.
_LINES = frozenset(["address", "article", "aside", "dd", "div", "dt", "footer", "form", "header", "li", "main", "nav",
                    "section", "table", "tr", "center", "body", "html", "caption"])  # fmt: skip
_APART = frozenset(
    ["blockquote", "dl", "fieldset", "figure", "h1", "h2", "h3", "h4", "h5", "h6", "ol", "p", "pre", "ul"]
)

_END = {name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE) for name in _SILENT}
_NAME = re.compile(r"</?([a-zA-Z][a-zA-Z0-9:-]*)")
_TAG_STOP = re.compile("[\"'>]")
_SPACE = re.compile(r"[ \t\r\n\f]+")
_ATTRIBUTE = r"""(?:^|[\s"'/]){name}\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))"""
_HREF = re.compile(_ATTRIBUTE.format(name="href"), re.IGNORECASE)
_ALT = re.compile(_ATTRIBUTE.format(name="alt"), re.IGNORECASE)
_LINK = re.compile(r"(?:https?://|mailto:|tel:)", re.IGNORECASE)

#: Longest part of a tag that attributes are looked for in.
_LONGEST_TAG = 10_000
#: More digits than a character has; int() refuses more than 4300 of them.
_HUGE = re.compile(r"&#(?:[0-9]{8,}|[xX][0-9a-fA-F]{8,});?")


class _Tag(NamedTuple):
    """``<name attributes>`` or ``</name>``."""

    name: str
    closing: bool
    attributes: str


def of_html(html: str) -> str:
    """The text of *html*: blocks as lines, links with their targets behind them, lists with dashes; it ends in a
    line end unless it is empty.
    """
    text = _Text()
    for each in _pieces(html):
        if isinstance(each, _Tag):
            text.tag(each)
        else:
            text.data(unescape(_HUGE.sub("\ufffd", each)))
    return text.whole()


def _pieces(html: str) -> Iterator[str | _Tag]:
    """Data and tags in order; comments, declarations and what is silent left out."""
    last = {quote: html.rfind(quote) for quote in "\"'"}
    position = 0
    while (start := html.find("<", position)) >= 0:
        if start > position:
            yield html[position:start]
        if html.startswith("<!--", start):
            end = html.find("-->", start + 4) + 3
            if end < 3:
                return
            position = end
            continue
        named = _NAME.match(html, start)
        if named is None and html[start + 1 : start + 2] not in ("!", "?", "/"):
            yield "<"
            position = start + 1
            continue
        position = _end_of_tag(html, start + 1, last)
        if position < 0:
            return  # as a browser does: a tag that never ends is none
        if named is not None:
            name, closing = named[1].lower(), html[start + 1] == "/"
            yield _Tag(name, closing, html[named.end() : min(position - 1, named.end() + _LONGEST_TAG)])
            if name in _SILENT and not closing:
                ended = _END[name].search(html, position)
                if ended is None:
                    return
                position = ended.start()
    yield html[position:]


def _end_of_tag(html: str, position: int, last: dict[str, int]) -> int:
    """Behind the ``>`` that ends a tag and stands in no quotes; -1 without one."""
    while (stop := _TAG_STOP.search(html, position)) is not None:
        if stop[0] == ">":
            return stop.end()
        closes = stop.start() < last[stop[0]]
        position = html.index(stop[0], stop.end()) + 1 if closes else stop.end()
    return -1


@define
class _Text:
    """Text as it grows: spaces collapse, and no more than one line stays empty."""

    _out: list[str] = field(factory=list)
    _breaks: int = 2  # line ends that the text has now at its end
    _wanted: int = 0  # and those that it shall have before the next word
    _space: bool = False
    _links: list[str] = field(factory=list)
    _label: list[str] = field(factory=list)
    _verbatim: int = 0

    def tag(self, tag: _Tag) -> None:
        name, closing = tag.name, tag.closing
        if name == "br":
            self._wanted = min(2, self._wanted + 1)
        elif name in _LINES:
            self._wanted = max(self._wanted, 1)
        elif name in _APART or name == "hr":
            self._wanted = max(self._wanted, 2)
        elif name in ("td", "th"):
            self._space = True
        if name == "pre":
            self._verbatim = max(0, self._verbatim + (-1 if closing else 1))
        elif name == "a":
            self._end_link()
            if not closing:
                self._links, self._label = [_attribute(_HREF, tag)], []
        elif name == "li" and not closing:
            self._write("- ")
        elif name == "hr":
            self._write("---")
            self._wanted = 2
        elif name == "img" and not closing:
            self.data(_attribute(_ALT, tag))

    def data(self, text: str) -> None:
        if self._verbatim:
            lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
            for place, line in enumerate(lines):
                if place:
                    self._wanted = min(2, max(self._wanted, self._breaks) + 1)
                if line.strip():
                    self._write(line.rstrip())
            return
        words = _SPACE.sub(" ", text)
        if words.startswith(" "):
            self._space = True
        if words.strip(" "):
            self._write(words.strip(" "))
            self._space = words.endswith(" ")

    def whole(self) -> str:
        self._end_link()
        text = "".join(self._out).rstrip()
        return f"{text}\n" if text else ""

    def _write(self, text: str) -> None:
        missing = min(self._wanted, 2) - self._breaks
        if missing > 0:
            self._out.append("\n" * missing)
        elif self._space and not self._breaks:
            self._out.append(" ")
        self._out.append(text)
        self._label.append(text)
        self._breaks, self._wanted, self._space = 0, 0, False
        if text == "- ":
            self._breaks = 2  # neither space nor line ends behind a dash

    def _end_link(self) -> None:
        """Write where the link leads, unless its label says so."""
        for target in self._links:
            label = " ".join(self._label).strip()
            shown = target.removeprefix("mailto:").removeprefix("tel:")
            if _LINK.match(target) and shown not in label:
                self._space = True
                self._write(f"({shown})")
        self._links = []


def _attribute(pattern: re.Pattern[str], tag: _Tag) -> str:
    found = pattern.search(tag.attributes)
    if found is None:
        return ""
    return unescape(_HUGE.sub("", next(each for each in found.groups() if each is not None))).strip()
