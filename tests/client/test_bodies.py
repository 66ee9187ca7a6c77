"""relay.client.bodies: what is posted, and how often it is held."""

from __future__ import annotations

import gc

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from relay import wire
from relay.client.bodies import LONG, Bodies
from relay.values import Attachment
from tests.client.platformcase import SUBMISSION

TEXT = "<p>Jürgen</p>" * LONG


class SharedTests(SynchronousTestCase):
    """A long text to many recipients."""

    def setUp(self) -> None:
        self.bodies = Bodies()

    def test_the_same(self) -> None:
        """In pieces it is the same JSON as at once, long or short, with a file or without."""
        for submission in (SUBMISSION, evolve(SUBMISSION, body=TEXT), evolve(SUBMISSION, body=TEXT, variables=None)):
            pieces = self.bodies.encode(submission).pieces
            self.assertEqual(wire.decode_submission(b"".join(pieces)).body, submission.body)
            self.assertEqual(b"".join(pieces), wire.encode_submission(submission))
            form = self.bodies.encode(evolve(submission, attachments=[Attachment("a", "b/c", b"content")]))
            self.assertIn(b"".join(pieces), b"".join(form.pieces))

    def test_held_once(self) -> None:
        """The JSON of the text is one object for all recipients, and goes when the last of them has it."""
        messages = [evolve(SUBMISSION, to=f"{number}@example.org", body=TEXT) for number in range(3)]
        posted = [self.bodies.encode(each) for each in messages]
        self.assertEqual(len({id(body.pieces[1]) for body in posted}), 1)
        self.assertEqual(len({body.pieces[0] for body in posted}), 3)
        del posted
        gc.collect()
        self.assertEqual(dict(self.bodies._long), {})

    def test_files_are_not_copied(self) -> None:
        """The content of a file is posted as it is."""
        file = Attachment("a.pdf", "application/pdf", b"x" * LONG)
        pieces = self.bodies.encode(evolve(SUBMISSION, attachments=[file])).pieces
        self.assertTrue(any(piece is file.content for piece in pieces))
