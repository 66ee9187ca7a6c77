"""The multipart form that carries attachments (MESSAGE.md, "Other attachments")."""

from __future__ import annotations

import json
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import cast

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay import wire
from relay.client import multipart
from relay.client.bodies import Bodies
from relay.values import Attachment, Submission
from tests.client.platformcase import SUBMISSION

PDF = Attachment("invoice.pdf", "application/pdf", b"%PDF-1.4\r\n\x00\xff--\r\n")
TEXT = Attachment("a.txt", "text/plain", b"")


def encode(submission: Submission) -> tuple[str, bytes]:
    """The Content-Type and the body."""
    body = Bodies().encode(submission)
    return body.content_type, b"".join(body.pieces)


def fields(*attachments: Attachment) -> list[EmailMessage]:
    """The fields of the form, as the standard library reads it."""
    content_type, body = encode(evolve(SUBMISSION, attachments=attachments))
    form = message_from_bytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body, policy=policy.HTTP)
    return [cast("EmailMessage", part) for part in form.iter_parts()]


def name(part: EmailMessage) -> str:
    return str(part["Content-Disposition"].params["name"])


class EncodeTests(SynchronousTestCase):
    """What the platform reads."""

    def test_order(self) -> None:
        """The payload is first, and each file stands behind its own metadata."""
        found = [name(part) for part in fields(PDF, TEXT)]
        self.assertEqual(found, ["payload", "attachment_metadata", "attachment", "attachment_metadata", "attachment"])

    def test_content(self) -> None:
        """The payload is the JSON of a plain submission; metadata and bytes of a file arrive as they were."""
        payload, metadata, file = fields(PDF)
        self.assertEqual(payload.get_payload(decode=True), wire.encode_submission(SUBMISSION))
        self.assertEqual(
            json.loads(metadata.get_content()),
            {"filename": "invoice.pdf", "contentType": "application/pdf", "size": len(PDF.content)},
        )
        self.assertEqual(file.get_payload(decode=True), PDF.content)
        self.assertEqual(file.get_filename(), "invoice.pdf")
        self.assertEqual(file.get_content_type(), "application/pdf")

    def test_hostile_names(self) -> None:
        """A file name or type with quotes and line ends adds no header and no field."""
        hostile = Attachment('x"\r\nX-Evil: 1\r\n\r\n.pdf', "text/plain\r\nX-Evil: 1", b"data")
        _, metadata, file = fields(hostile)
        self.assertEqual(file.keys(), ["Content-Disposition", "Content-Type"])
        self.assertEqual(file.get_content_type(), "application/octet-stream")
        self.assertEqual(json.loads(metadata.get_content())["filename"], hostile.filename)

    def test_name_beyond_ascii(self) -> None:
        """A name with an umlaut goes as UTF-8, as browsers send it; one with a lone surrogate does not raise."""
        _, body = encode(evolve(SUBMISSION, attachments=[evolve(PDF, filename="Rechnüng.pdf")]))
        self.assertIn('filename="Rechnüng.pdf"'.encode(), body)
        _, body = encode(evolve(SUBMISSION, attachments=[evolve(PDF, filename="\ud800.pdf")]))
        self.assertIn(b'filename="?.pdf"', body)

    def test_repeatable(self) -> None:
        """A repeated attempt sends the same bytes, as an Idempotency-Key promises."""
        submission = evolve(SUBMISSION, attachments=[PDF])
        self.assertEqual(encode(submission), encode(submission))

    def test_boundary_within_a_file(self) -> None:
        """A file that holds the boundary it could expect gets another one."""
        expected = multipart.boundary(SUBMISSION.idempotency_key, [])
        content_type, _ = encode(evolve(SUBMISSION, attachments=[evolve(PDF, content=expected)]))
        self.assertNotIn(expected.decode(), content_type)

    @settings(max_examples=50)
    @given(st.lists(st.builds(Attachment, st.text(), st.text(), st.binary()), min_size=1, max_size=3))
    def test_any_attachments(self, attachments: list[Attachment]) -> None:
        """Whatever the attachments are called, their number is right and their metadata is whole."""
        parts = fields(*attachments)
        self.assertEqual(len(parts), 1 + 2 * len(attachments))
        for attachment, metadata in zip(attachments, parts[1::2], strict=True):
            self.assertEqual(json.loads(metadata.get_payload(decode=True))["size"], len(attachment.content))
