"""Where a message ends, and what its bytes are (RFC 5321 section 4.5.2; SMTP.md, "Framing").  Pure."""

from __future__ import annotations

from io import IncrementalNewlineDecoder

_END = b"\r\n.\r\n"
#: Begins a line that is dot-stuffed, or the end.
_DOT = b"\r\n."


class DataReader:
    """Counts the bytes of DATA up to CR LF . CR LF, which alone ends it, however it is cut into segments.

    :param limit: most octets that are kept; of a longer message nothing is, and it is read to its end all the same.
    """

    __slots__ = ("_kept", "_limit", "_seen", "_whole", "discarded", "size")

    def __init__(self, limit: int) -> None:
        # The line end before the first line counts: a message may be "." CR LF alone.
        self._kept = bytearray(b"\r\n")
        self._seen = 0
        self._limit = limit
        self._whole: bytes | None = None
        #: octets received so far
        self.size = 0
        #: whether the message is no longer kept
        self.discarded = False

    def feed(self, data: bytes) -> bytes | None:
        """Take the next octets.

        :return: None while the message goes on, else what came behind its end.
        """
        if not self._seen and data.endswith(_END) and self._take_whole(data):
            return b""
        kept = self._kept
        kept += data
        end = kept.find(_END, max(0, self._seen - len(_END) + 1))
        if end >= 0:
            rest = bytes(memoryview(kept)[end + len(_END) :])
            self.size += len(data) - len(rest)
            del kept[end + 2 :]
            self._check_size()
            return rest
        self.size += len(data)
        self._check_size()
        if self.discarded:
            del kept[: 1 - len(_END)]
        self._seen = len(kept)
        return None

    def _take_whole(self, data: bytes) -> bool:
        """Take a message that is one segment, as nearly every one is; *data* ends as a message does."""
        if len(data) > self._limit or data.startswith(b"."):
            return False
        pieces = data.split(_DOT)
        if any([piece.startswith(b"\r\n") for piece in pieces[1:-1]]):
            return False  # it has an end before this one
        pieces[-1] = b""
        self._whole = b"\r\n".join(pieces)
        self.size = len(data)
        return True

    def _check_size(self) -> None:
        # The end itself, 3 octets, is not of the message.
        if self.size > self._limit + 3:
            self.discarded = True

    def discard(self) -> None:
        """Keep nothing of the message from now on; its end is looked for all the same."""
        self.discarded = True
        self._whole = None
        del self._kept[: 1 - len(_END)]
        self._seen = min(self._seen, len(self._kept))

    def content(self) -> bytes:
        """The message with dot-stuffing undone; once, after :meth:`feed` has found the end."""
        if self._whole is not None:
            return self._whole
        kept, self._kept = self._kept, bytearray()  # or a message in delivery would be held twice
        content = bytes(memoryview(kept)[3 if kept.startswith(_DOT) else 2 :])
        # One search: bytes.replace counts first, a millisecond for a megabyte.
        pieces = content.split(_DOT)
        return content if len(pieces) == 1 else b"\r\n".join(pieces)


def has_bare_newline(content: bytes) -> bool:
    """Whether a CR or LF stands alone somewhere in *content*."""
    # The decoder of text files notes which line ends it meets, and looks once; three bytes.count take thrice as long.
    seen = IncrementalNewlineDecoder(None, translate=False)
    seen.decode(content.decode("latin-1"), final=True)
    return seen.newlines is not None and seen.newlines != "\r\n"


def normalize(content: bytes) -> bytes:
    """*content* with every line ending in CR LF, and without NUL."""
    if has_bare_newline(content):
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    return content.replace(b"\0", b"") if 0 in content else content
