"""What a message is found by: the words of its addresses, names and subject, whatever the database.

A word is a run of letters and digits, so an address is several.  In ``messages.words`` each has the account before it,
so that an account's search meets its own messages only, and a sign that says where it stands; no word holds one.  What
is asked for are beginnings of words::

    of(17, to=("jane@example.org", "Jane Doe"), sender=("shop@example.com", ""), subject="Hello")
    "17→doe 17→example 17→jane 17→org 17←com 17←example 17←shop 17§hello 17⇐shop·example·com"
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

TO = "→"
FROM = "←"
SUBJECT = "§"

#: The sender's address as one word: its words alone would be found in too many messages.
SENDER = "⇐"

#: A word that no message has.
NOTHING = "∅"

#: Where a search without a field looks.
EVERYWHERE = (TO, FROM, SUBJECT)

#: Most words of one field that a message is found by, and most characters of one that count.
MOST_WORDS = 60
LONGEST_WORD = 40

#: How each database comes to its index of words, beside an empty table ``messages``.
INDEX = {
    "postgresql": (
        "CREATE INDEX messages_search ON messages USING gin (array_to_tsvector(string_to_array(words, ' ')))",
    ),
    "sqlite": (
        # It keeps no copy of the words, and no positions: only which messages have a word.
        "CREATE VIRTUAL TABLE search USING fts5"
        "(words, content='messages', content_rowid='seq', tokenize='ascii', detail='none', columnsize=0)",
        "CREATE TRIGGER search_added AFTER INSERT ON messages BEGIN "
        "INSERT INTO search (rowid, words) VALUES (new.seq, new.words); END",
        "CREATE TRIGGER search_removed AFTER DELETE ON messages BEGIN "
        "INSERT INTO search (search, rowid, words) VALUES ('delete', old.seq, old.words); END",
    ),
}

_WORD = re.compile(r"[^\W_]+")


def of(account: int, to: Iterable[str], sender: Sequence[str], subject: str) -> str:
    """The words of a message.

    :param to: the recipient's address and name.
    :param sender: the sender's address and name.
    """
    fields = ((TO, to), (FROM, sender), (SUBJECT, (subject,)))
    found = [f"{account}{sign}{word}" for sign, texts in fields for word in sorted(set(split(" ".join(texts))))]
    return " ".join((*found, f"{account}{whole(sender[0])}"))


def whole(address: str) -> str:
    """A sender's address as one word, with its sign."""
    return SENDER + "·".join(split(address))


def split(text: str) -> Sequence[str]:
    """The words of *text*, in one case: the first :data:`MOST_WORDS`."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return [word[:LONGEST_WORD] for word in _WORD.findall(folded)[:MOST_WORDS]]
