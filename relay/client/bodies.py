"""The bodies of the requests that submissions become."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakValueDictionary

from relay import wire
from relay.client import multipart
from relay.client.request import Piece
from relay.values import Submission

#: Characters from which a text is long.
LONG = 65_536


class Bodies:
    """Makes bodies.  A long text is encoded once for all recipients of its message, and held once while they are
    posted to, however many they are.
    """

    def __init__(self) -> None:
        self._long: WeakValueDictionary[str, memoryview] = WeakValueDictionary()

    def encode(self, submission: Submission) -> tuple[str, Sequence[Piece]]:
        """The Content-Type and the body of a submission, in pieces."""
        if submission.attachments:
            return multipart.encode(submission, self._json(submission))
        return "application/json", self._json(submission)

    def _json(self, submission: Submission) -> Sequence[Piece]:
        if len(submission.body) < LONG:
            return (wire.encode_submission(submission),)
        before, after = wire.encode_around(submission)
        text = self._long.get(submission.body)
        if text is None:
            text = self._long[submission.body] = memoryview(wire.encode_body(submission.body))
        return (before, text, after)
