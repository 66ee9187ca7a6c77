"""What parent and worker say to each other: a JSON array a line, the first element a word, over two pipes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

#: Descriptors of a worker: what the parent says, what it says itself, and the first of the listening sockets.
FROM_PARENT, TO_PARENT, FIRST_SOCKET = 0, 3, 4

#: A message: its word, and what belongs to it.
Message = list[Any]


def encode(word: str, *values: Any) -> bytes:
    """A message as it is written."""
    return json.dumps([word, *values]).encode() + b"\n"


class Lines:
    """Makes messages of the octets that come."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that *data* completes."""
        *complete, rest = data.split(b"\n")
        for line in complete:
            whole = b"".join([*self._pieces, line])
            self._pieces.clear()
            yield json.loads(whole)
        if rest:
            self._pieces.append(rest)
