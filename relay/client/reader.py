"""Reads the answers that come over one connection, one after the other: bytes in, values out.

The syntax is llhttp's, and it is strict: an answer with two lengths, or with a length and chunks, is none (RFC 9112
section 6.3; who guesses there can be made to take a part of one answer for the next).
"""

from __future__ import annotations

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from relay.client.answers import Answer, End, NoAnswer

#: Bytes of status line and headers that an answer may have.
HEADER_SIZE = 65_536
#: Bytes on the wire for each byte of a body, at worst: a chunk of one byte is "1 CR LF x CR LF".
CHUNKED = 6

_FRAMING = (b"content-length", b"transfer-encoding")
_SWITCHING_PROTOCOLS = 101


class Reader:
    """The answers of one connection; :meth:`expect` comes before each.

    :ivar begun: whether a byte of this answer has come.
    :ivar reusable: after an answer, whether another request may be sent.
    """

    def __init__(self) -> None:
        self._parser = HttpResponseParser(self)
        # As other clients do; RFC 9112 section 2.2 lets a recipient take a LF for the end of a line.
        self._parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True)
        self.expect(0)
        self.on_message_begin()

    def expect(self, limit: int) -> None:
        """The next answer is about to come, with a body of at most *limit* bytes."""
        self.begun = False
        self.reusable = False
        self._room = limit
        self._left = HEADER_SIZE + CHUNKED * limit
        self._answer: Answer | None = None
        self._status = 0

    def feed(self, data: bytes) -> Answer | None:
        """The answer, when *data* ends it, or makes it too long.

        :raises NoAnswer: it is not HTTP, or its header has no end.
        """
        self.begun = True
        self._left -= len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            pass  # a 101, to a request that asked for nothing of the kind; it is an answer like another
        except HttpParserError:
            self.reusable = False
            return self._answer or self.end()  # within the body it is cut; behind it nobody cares
        if self._answer is not None:
            return self._answer
        if self._room < 0:
            return self._cut(End.TOO_LONG)
        return self.end() if self._left < 0 else None

    def end(self) -> Answer:
        """The answer that the end of the connection leaves.

        :raises NoAnswer: its header had not come to its end.
        """
        if not self._status:
            raise NoAnswer("truncated", sent=True)
        framed = any(name.lower() in _FRAMING for name, _ in self._headers)
        return self._cut(End.CUT if framed or self._left < 0 else End.OPEN)

    def _cut(self, end: End) -> Answer:
        return Answer(self._status, b"".join(self._body), end, self._headers)

    # --- what the parser calls

    def on_message_begin(self) -> None:
        """Another message begins."""
        self._status = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        # Behind an answer that is complete it is one that nobody asked for.
        self.reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of its header; those of a trailer are not merged into it (RFC 9110 section 6.5.1)."""
        if not self._status:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The header is there."""
        self._status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        """A part of its body."""
        self._room -= len(data)
        if self._room >= 0:
            self._body.append(data)

    def on_message_complete(self) -> None:
        """It is complete; if it was an interim one (RFC 9110 section 15.2), the true one follows."""
        if self._status < 200 and self._status != _SWITCHING_PROTOCOLS:
            self.on_message_begin()
        elif self._answer is None and self._room >= 0:
            self._answer = self._cut(End.COMPLETE)
            self.reusable = self._status >= 200 and self._parser.should_keep_alive()
