"""The bodies of the requests that submissions become."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from weakref import WeakValueDictionary

from attrs import frozen

from relay import wire
from relay.client import multipart
from relay.values import Submission

#: Characters from which a text is long.
LONG = 65_536


@frozen(weakref_slot=True)
class Encoded:
    """A long text, and its JSON; while the text is here, no other has its ``id()``."""

    text: str
    json: bytes


class Body(NamedTuple):
    """The body of a request.

    :ivar long: keep the body as long as the request, and the text is not encoded again.
    """

    content_type: str
    pieces: Sequence[bytes]
    long: Encoded | None = None


class Bodies:
    """Makes bodies.  A long text is encoded once for all recipients of its message, and held once while they are
    posted to, however many they are.
    """

    def __init__(self) -> None:
        self._long: WeakValueDictionary[int, Encoded] = WeakValueDictionary()

    def encode(self, submission: Submission) -> Body:
        """The body of the POST of *submission*."""
        pieces: Sequence[bytes]
        long = None
        if len(submission.body) < LONG:
            pieces = (wire.encode_submission(submission),)
        else:
            long = self._encoded(submission.body)
            before, after = wire.encode_around(submission)
            pieces = (before, long.json, after)
        if submission.attachments:
            return Body(*multipart.encode(submission, pieces), long)
        return Body("application/json", pieces, long)

    def _encoded(self, text: str) -> Encoded:
        """Found by identity: a hash of a megabyte takes as long as its JSON."""
        found = self._long.get(id(text))
        if found is None:
            found = self._long[id(text)] = Encoded(text, wire.encode_body(text))
        return found
