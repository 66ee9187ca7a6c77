"""relay.client.reader: bytes in, answers out."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.client.answers import Answer, End, NoAnswer
from relay.client.reader import Reader

JSON = b'{"result":"ok"}'
HEAD = b"HTTP/1.1 200 OK\r\nX: y\r\n"

#: Wire forms of an answer, and what is left of each when the connection ends behind it.
ANSWERS = [
    (HEAD + b"Content-Length: 15\r\n\r\n" + JSON, 200, JSON, End.COMPLETE, True),
    (HEAD + b"Content-Length: 15\r\nConnection: close\r\n\r\n" + JSON, 200, JSON, End.COMPLETE, False),
    (HEAD.replace(b"\r", b"") + b"Content-Length: 15\n\n" + JSON, 200, JSON, End.COMPLETE, True),
    (
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nf;x=y\r\n%b\r\n0\r\nX: z\r\n\r\n" % JSON,
        200,
        JSON,
        End.COMPLETE,
        True,
    ),
    (b"HTTP/1.1 103 Early Hints\r\nX: z\r\n\r\n" + HEAD + b"Content-Length: 0\r\n\r\n", 200, b"", End.COMPLETE, True),
    (b"HTTP/1.1 204\r\nX: y\r\n\r\n", 204, b"", End.COMPLETE, True),
    (b"HTTP/1.0 200 OK\r\nX: y\r\nContent-Length: 15\r\n\r\n" + JSON, 200, JSON, End.COMPLETE, False),
    (b"HTTP/1.0 200 OK\r\nX: y\r\n\r\n" + JSON, 200, JSON, End.OPEN, False),
    (HEAD + b"\r\n" + JSON, 200, JSON, End.OPEN, False),
    (HEAD + b"Content-Length: 16\r\n\r\n" + JSON, 200, JSON, End.CUT, False),
    (HEAD + b"Transfer-Encoding: chunked\r\n\r\nf\r\n%b\r\n" % JSON, 200, JSON, End.CUT, False),
    (HEAD + b"Transfer-Encoding: chunked\r\n\r\nf\r\n%b\r\nzz\r\n" % JSON, 200, JSON, End.CUT, False),
    (HEAD + b"Content-Length: 999\r\n\r\n" + b"x" * 101, 200, b"", End.TOO_LONG, False),
    (b"HTTP/1.1 101 Other\r\nX: y\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n", 101, b"", End.COMPLETE, False),
]

#: What is no answer at all.
NONE = [
    b"",
    b"HTTP/1.1 2",
    HEAD,
    b"HTTP/1.1 103 Early Hints\r\n\r\n",
    b"220 mail.example ESMTP\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\nContent-Length: 16\r\n\r\n" + JSON,
    b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\nTransfer-Encoding: chunked\r\n\r\n" + JSON,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 15\r\n\r\n" + JSON,
    b"HTTP/1.1 200 OK\r\nContent-Length: +15\r\n\r\n" + JSON,
    b"HTTP/1.1 200 OK\r\n Folded: first\r\nContent-Length: 0\r\n\r\n",
]


def read(reader: Reader, pieces: list[bytes], limit: int = 100) -> Answer:
    """The answer that comes in *pieces*, and then the end of the connection."""
    reader.expect(limit)
    for piece in pieces:
        answer = reader.feed(piece)
        if answer is not None:
            return answer
    return reader.end()


class ReaderTests(SynchronousTestCase):
    """Every form of answer, however the network cuts it."""

    def assert_read(self, form: tuple[bytes, int, bytes, End, bool], pieces: list[bytes]) -> None:
        _, status, body, end, reusable = form
        reader = Reader()
        answer = read(reader, pieces)
        self.assertEqual((answer.status, answer.end, reader.reusable), (status, end, reusable), form[0])
        self.assertEqual(answer.header(b"x"), "y")  # neither the interim answer's nor the trailer's
        if end is not End.TOO_LONG:
            self.assertEqual(answer.body, body, form[0])

    def test_at_once(self) -> None:
        """Each form is understood."""
        for form in ANSWERS:
            self.assert_read(form, [form[0]])

    @given(st.sampled_from(ANSWERS), st.lists(st.integers(0, 200), max_size=6).map(sorted))
    def test_in_pieces(self, form: tuple[bytes, int, bytes, End, bool], cuts: list[int]) -> None:
        """So it is in pieces, cut anywhere."""
        edges = [0, *cuts, len(form[0])]
        pieces = [form[0][a:b] for a, b in pairwise(edges)]
        self.assert_read(form, [each for each in pieces if each])

    def test_octet_by_octet(self) -> None:
        """And octet by octet."""
        for form in ANSWERS:
            self.assert_read(form, [form[0][at : at + 1] for at in range(len(form[0]))])

    def test_no_answer(self) -> None:
        """What is not HTTP, or not whole, or has two lengths, is no answer."""
        for wire in NONE:
            for pieces in ([wire] if wire else [], [wire[at : at + 1] for at in range(len(wire))]):
                self.assertEqual(self.assertRaises(NoAnswer, read, Reader(), pieces).label, "truncated")

    def test_one_after_the_other(self) -> None:
        """Answers on one connection do not leave anything to the next."""
        reader = Reader()
        for form in [each for each in ANSWERS if each[4]] * 2:
            answer = read(reader, [form[0]])
            self.assertEqual((answer.status, answer.body, reader.reusable), (form[1], form[2], True))

    def test_behind_the_end(self) -> None:
        """What comes behind an answer does not change it, and the connection is not used again."""
        for more in (ANSWERS[0][0], b"nonsense", b"HTTP/1.1 500 Oh\r\n", b"\x00"):
            for form in (ANSWERS[0], ANSWERS[3], ANSWERS[5]):
                reader = Reader()
                answer = read(reader, [form[0] + more])
                self.assertEqual((answer.status, answer.body, answer.end), (form[1], form[2], End.COMPLETE))
                self.assertFalse(reader.reusable, more)

    @given(st.lists(st.binary(max_size=40), max_size=8))
    def test_any_bytes(self, pieces: list[bytes]) -> None:
        """Any bytes are an answer or none, and nothing else is raised."""
        for start in (b"", HEAD, HEAD + b"Transfer-Encoding: chunked\r\n\r\n"):
            try:
                answer = read(Reader(), [start, *pieces])
            except NoAnswer:
                continue
            self.assertLessEqual(len(answer.body), 100)
