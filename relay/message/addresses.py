"""Address lists (RFC 5322 section 3.4) as clients write them, in linear time.

The header is cut into tokens and the tokens into mailboxes, without recursion.  Encoded words are tokens, and are
decoded only afterwards, so that what is in them adds no address (RFC 2047 section 5).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from relay.errors import PermanentFailure, Reason
from relay.message import words

#: Mailboxes of To that are looked at; names behind them go unused.
MOST_MAILBOXES = 5000

_TOKEN = re.compile(
    rf"""
      (?P<word> {words.PATTERN} )
    | (?P<quoted> "[^"\\]*(?:\\.[^"\\]*)*"? )
    | (?P<angle> <[^<>,;]*>? )
    | (?P<literal> \[[^][\s,;<>]*\] )
    | (?P<space> \s+ )
    | (?P<special> [(),:;] )
    | (?P<atom> [^\s"<>(),:;=[]+ | . )
    """,
    re.VERBOSE | re.DOTALL,
)
_UNSAFE = re.compile(r'[,;:<>()@"\\\[\]]')
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ADDRESS = re.compile(r"""[^\s@<>(),;:"]+ @ [^\s@<>(),;:"\[\]]+ | "[^"\x00-\x1f\x7f]+" @ [^\s@<>(),;:"\[\]]+
                       | [^\s@<>(),;:"]+ @ \[[^\s@<>(),;"\[\]]+\]""", re.VERBOSE)  # fmt: skip

#: RFC 5321 section 4.5.3.1: 64 octets, an at sign, 255 octets.
_LONGEST_ADDRESS = 320


#: What most headers are, read at once: ``Jane Doe <jane@example.com>``, ``"Doe, Jane" <jane@example.com>`` or
#: ``jane@example.com``.  An equals sign may begin an encoded word, except within angle brackets.  ASCII is named
#: beside ``\w``, which has it: it is found in a table, and the others by asking what they are.
_PLAIN = re.compile(
    r"""(?: (?P<name> [A-Za-z0-9\w .'!#$%&*+/?^`{|}~-]* ) | "(?P<quoted> [^"\\=]* )"[ ]* )
        < (?P<address> [A-Za-z0-9\w.!#$%&'*+/=?^`{|}~-]+ @ [A-Za-z0-9\w.-]+ ) >
      | (?P<bare> [A-Za-z0-9\w.!#$%&'*+/?^`{|}~-]+ @ [A-Za-z0-9\w.-]+ )""",
    re.VERBOSE,
)


class Mailbox(NamedTuple):
    """One entry of an address list; either may be ``""``.  The name is decoded and clean."""

    name: str
    address: str


class Token(NamedTuple):
    """A piece of an address list; a comment is one token, of the kind ``"comment"``, without its parentheses."""

    kind: str
    text: str


def mailboxes(text: str) -> Iterator[Mailbox]:
    """The mailboxes in an address list, groups flattened, empty entries left out.  Never fails.

    :param text: the unfolded value, encoded words not decoded.
    """
    plain = _plain(text)
    if plain is not None:
        address, name = plain
        yield Mailbox(name, address)
        return
    for entry in _entries(text):
        mailbox = _mailbox(entry)
        if mailbox != ("", ""):
            yield mailbox if mailbox.address or "@" not in mailbox.name else _decoded_whole(mailbox)


def to_names(text: str) -> tuple[tuple[str, str], ...]:
    """(address, name) of the first :data:`MOST_MAILBOXES` mailboxes of a To header."""
    plain = _plain(text)
    if plain is not None:
        return (plain,)
    return tuple((address, name) for name, address in itertools.islice(mailboxes(text), MOST_MAILBOXES))


def reply_to(text: str) -> str:
    """A Reply-To header, whole and decoded; a name that encoding made safe is quoted instead."""
    if "=?" not in text:
        return words.clean(text)
    found = list(itertools.islice(mailboxes(text), MOST_MAILBOXES))
    if all(mailbox.address for mailbox in found):
        return ", ".join(map(_written, found))
    return _text(text)


def sender(text: str) -> Mailbox:
    """The mailbox of a From header: the first that has an address.

    A name with a comma that nobody quoted is put together again: ``Doe, Jane <jane@example.com>`` is one mailbox.

    :raises PermanentFailure: there is none, or its address has no local part or no domain.
    """
    plain = _plain(text)
    if plain is not None and len(plain[0]) <= _LONGEST_ADDRESS:
        return Mailbox(plain[1], plain[0])
    before: list[str] = []
    for name, address in itertools.islice(mailboxes(text), MOST_MAILBOXES):
        if address:
            if len(address) > _LONGEST_ADDRESS or not _ADDRESS.fullmatch(address):
                break
            return Mailbox(", ".join([*before, name] if name else before), address)
        before.append(name)
    raise PermanentFailure(Reason.BAD_MESSAGE, "From has no valid address, write it as Name <local@domain>")


def _plain(text: str) -> tuple[str, str] | None:
    """(address, name) of the only mailbox of an address list that is one in plain words, or None."""
    match = _PLAIN.fullmatch(text)
    if match is None:
        return None
    name, quoted, address, bare = match.groups()
    return (bare, "") if bare else (address, words.clean(name or quoted or ""))


def _decoded_whole(mailbox: Mailbox) -> Mailbox:
    """A mailbox of which the client encoded name, brackets and address as one, as Python's MIMEText does.

    It stays one: what decodes to several is a name.
    """
    inner = [_mailbox(entry) for entry in _entries(mailbox.name)]
    return inner[0] if len(inner) == 1 and inner[0].address else mailbox


def _written(mailbox: Mailbox) -> str:
    name, address = mailbox
    if not name:
        return address
    if _UNSAFE.search(name):
        name = '"{}"'.format(name.replace("\\", "\\\\").replace('"', '\\"'))
    return f"{name} <{address}>"


def _entries(text: str) -> Iterator[list[Token]]:
    """The tokens of each mailbox.

    A colon ends the name of a group only where a semicolon ends the group: ``Shop: News <news@shop.example>`` is
    one mailbox.
    """
    last_semicolon = text.rfind(";")
    entry: list[Token] = []
    for position, token in _tokens(text):
        if token == ("special", ":") and position < last_semicolon:
            entry = []
        elif token == ("special", ",") or token == ("special", ";"):
            yield entry
            entry = []
        else:
            entry.append(token)
    yield entry


def _tokens(text: str) -> Iterator[tuple[int, Token]]:
    """The tokens of *text* with their offsets; comments may nest."""
    comment: list[str] = []
    depth = 0
    for match in _TOKEN.finditer(text):
        kind, piece = match.lastgroup or "", match[0]
        if piece == "(":
            depth += 1
            if depth == 1:
                continue
        elif piece == ")" and depth:
            depth -= 1
            if not depth:
                yield match.start(), Token("comment", "".join(comment))
                comment = []
                continue
        if depth:
            comment.append(piece)
        else:
            yield match.start(), Token(kind, piece)


def _mailbox(tokens: list[Token]) -> Mailbox:
    """One mailbox: name <address>, a bare address, an address with the name in a comment behind it, or a name."""
    angle = next((place for place, token in enumerate(tokens) if token.kind == "angle"), None)
    if angle is not None:
        address = tokens[angle].text.strip("<> ")
        phrase: Iterable[Token] = tokens[:angle] + tokens[angle + 1 :]
        # RFC 5322 section 4.4: a route before the address is ignored.
        address = address.rpartition(":")[2] if address.startswith("@") else address
    else:
        address, phrase = _bare_address(tokens)
    name = _phrase(phrase)
    if not name:
        name = _text(" ".join(token.text for token in tokens if token.kind == "comment"))
    return Mailbox(name, words.clean(address))


def _bare_address(tokens: list[Token]) -> tuple[str, list[Token]]:
    """The address that stands among *tokens* without angle brackets, and the others: the run around an at sign."""
    at = next((place for place, token in enumerate(tokens) if token.kind == "atom" and "@" in token.text), None)
    if at is None:
        return "", tokens
    begin = end = at
    while begin and tokens[begin - 1].kind in ("atom", "quoted", "literal"):
        begin -= 1
    while end + 1 < len(tokens) and tokens[end + 1].kind in ("atom", "quoted", "literal"):
        end += 1
    return "".join(token.text for token in tokens[begin : end + 1]), tokens[:begin] + tokens[end + 1 :]


def _phrase(tokens: Iterable[Token]) -> str:
    """The text of a display name, quotes taken off."""
    pieces = []
    for kind, text in tokens:
        if kind == "quoted":
            pieces.append(_ESCAPE.sub(r"\1", text[1:].removesuffix('"')))
        elif kind == "space":
            pieces.append(" ")
        elif kind not in ("comment", "angle"):
            pieces.append(text)
    return _text("".join(pieces))


def _text(raw: str) -> str:
    return words.clean(words.decode(raw))
