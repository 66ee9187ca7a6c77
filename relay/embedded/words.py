"""What a message is found by: the words of its addresses, names and subject, whatever the database.

A word is a run of letters and digits, so an address is several.  In ``messages.words`` each has a sign before it that
says where it stands; no word holds one.  What is asked for are beginnings of words::

    of(17, to=("jane@example.org", "Jane Doe"), sender=("shop@example.com", ""), subject="Hello")
    "¤17 →doe →example →jane →org ←com ←example ←shop §hello"
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

ACCOUNT = "¤"
TO = "→"
FROM = "←"
SUBJECT = "§"

#: A word that no message has.
NOTHING = "∅"

#: Where a search without a field looks.
EVERYWHERE = (TO, FROM, SUBJECT)

#: Most words of one field that a message is found by, and most characters of one that count.
MOST_WORDS = 60
LONGEST_WORD = 40

_WORD = re.compile(r"[^\W_]+")


def of(account: int, to: Iterable[str], sender: Iterable[str], subject: str) -> str:
    """The words of a message."""
    fields = ((TO, to), (FROM, sender), (SUBJECT, (subject,)))
    found = [f"{sign}{word}" for sign, texts in fields for word in sorted(set(split(" ".join(texts))))]
    return " ".join((f"{ACCOUNT}{account}", *found))


def split(text: str) -> Sequence[str]:
    """The words of *text*, in one case: the first :data:`MOST_WORDS`."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return [word[:LONGEST_WORD] for word in _WORD.findall(folded)[:MOST_WORDS]]
