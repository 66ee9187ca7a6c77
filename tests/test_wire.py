"""relay.wire: the JSON of HTTP_CONTRACT.md, there and back."""

from __future__ import annotations

import json
import math

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay import wire
from relay.values import Account, Route, Submission

#: The fields of HTTP_CONTRACT.md's table, in its order.
CONTRACT = [
    "fromname", "fromemail", "to", "toname", "subject", "replyto", "returnpath",
    "body", "tag", "route", "template", "variables",
]  # fmt: skip

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
variables = st.none() | st.dictionaries(st.text(), json_values, max_size=4)


#: With what JSON cannot hold, lone surrogates, and integers of any size.
any_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(codec=None, exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def submissions(draw: st.DrawFn) -> Submission:
    """Any submission without attachments."""
    text = {name: draw(st.text(max_size=20)) for name in wire.TEXT_FIELDS}
    return Submission(api_key="key", request_id="ID", idempotency_key="ID-0", variables=draw(variables), **text)


class SubmissionTests(SynchronousTestCase):
    """The body of ``POST /api/transactional/send``."""

    @given(submissions())
    @settings(max_examples=200)
    def test_round_trip(self, submission: Submission) -> None:
        """What the relay encodes the backend decodes to the same submission."""
        body = wire.encode_submission(submission)
        decoded = wire.decode_submission(body, api_key="key", request_id="ID", idempotency_key="ID-0")
        self.assertEqual(decoded, submission)

    @given(submissions())
    def test_fields(self, submission: Submission) -> None:
        """The object has the fields of the contract, in its order, and no other: no key above all."""
        self.assertEqual(list(json.loads(wire.encode_submission(submission))), CONTRACT)

    @given(any_json)
    @settings(max_examples=300)
    def test_as_the_standard_library(self, value: object) -> None:
        """What is written is what ``json`` would have written: the same values, and NaN is refused by both."""
        try:
            expected = json.dumps(value, allow_nan=False)
        except ValueError:
            self.assertRaises(ValueError, wire.dump, value)
        else:
            found = json.loads(wire.dump(value))
            self.assertEqual(found, json.loads(expected))
            self.assertEqual(repr(found), repr(json.loads(expected)))  # 1, 1.0 and True are equal

    def test_large_integer(self) -> None:
        """An integer of more than 64 bits goes out to the last digit."""
        self.assertEqual(wire.dump({"n": 2**64}), b'{"n":18446744073709551616}')

    def test_deep(self) -> None:
        """Variables nested as deep as may be allowed go out."""
        value: object = 1
        for _ in range(300):
            value = [value]
        self.assertEqual(json.loads(wire.dump(value)), value)

    def test_utf8(self) -> None:
        """Text is UTF-8 and not escaped, so that a long body does not grow sixfold."""
        self.assertEqual(wire.dump({"name": "Jürgen"}), '{"name":"Jürgen"}'.encode())

    def test_lone_surrogate(self) -> None:
        """A lone surrogate, which JSON variables may hold escaped, still makes valid JSON."""
        self.assertEqual(json.loads(wire.dump({"v": "\ud800"})), {"v": "\ud800"})

    def test_left_out(self) -> None:
        """Text fields that are absent or null count as empty."""
        decoded = wire.decode_submission(b'{"to":"a@b","template":null}')
        self.assertEqual((decoded.to, decoded.template, decoded.body, decoded.variables), ("a@b", "", "", None))

    def test_wrong_shapes(self) -> None:
        """Each body that is not what the contract says is refused in words that name what is wrong."""
        for body, complaint in [
            (b"", "not JSON"),
            (b"[]", "not a JSON object"),
            (b'{"to":5}', "to: must be a string"),
            (b'{"variables":[1]}', "variables: must be an object or null"),
            (b'{"variables":' + b"[" * 200_000, "nested too deeply|not JSON"),
        ]:
            error = self.assertRaises(wire.WireError, wire.decode_submission, body)
            self.assertRegex(str(error), complaint)

    @given(st.binary(max_size=60))
    def test_any_bytes(self, body: bytes) -> None:
        """Any bytes are decoded or refused with one kind of error."""
        try:
            wire.decode_submission(body)
        except wire.WireError as error:
            self.assertTrue(str(error))


class AnswerTests(SynchronousTestCase):
    """What comes back."""

    def test_accepted(self) -> None:
        """The answer to a submission has the contract's fields and is read as acceptance."""
        body = wire.encode_accepted(tag="welcome", to="jane@example.org", id="7")
        self.assertEqual(json.loads(body), {"tag": "welcome", "to": "jane@example.org", "result": "ok", "id": "7"})
        self.assertTrue(wire.is_accepted(body))

    @given(st.binary(max_size=20) | json_values.map(lambda value: json.dumps(value).encode("utf-16")))
    def test_accepted_as_the_standard_library(self, body: bytes) -> None:
        """What ``json`` reads is an acceptance, also in another encoding, and nothing else is."""
        try:
            json.loads(body)
        except ValueError:
            self.assertFalse(wire.is_accepted(body))
        else:
            self.assertTrue(wire.is_accepted(body))

    def test_cut_answer(self) -> None:
        """No proper prefix of an answer is read as acceptance."""
        body = wire.encode_accepted(tag="welcome", to="jane@example.org", id="7")
        for end in range(len(body)):
            self.assertFalse(wire.is_accepted(body[:end]), body[:end])

    def test_not_json(self) -> None:
        """A page, nothing, and JSON too deep to read are no acceptance."""
        for body in (b"<html>ok</html>", b"", b"\xff\xfe", b"[" * 200_000):
            self.assertFalse(wire.is_accepted(body))

    def test_error(self) -> None:
        """Of an error the description is what counts, else the title, else nothing."""
        self.assertEqual(wire.decode_error(wire.encode_error("Bad", "invalid tag")), "invalid tag")
        self.assertEqual(wire.decode_error(b'{"title":"Bad","description":""}'), "Bad")
        self.assertEqual(wire.decode_error(b'{"title":{"a":1}}'), "")

    @given(st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()))
    def test_any_error(self, body: bytes) -> None:
        """Whatever the body of an error is, a text comes out."""
        self.assertIsInstance(wire.decode_error(body), str)


names = st.text(min_size=1, max_size=10)
accounts = st.builds(
    Account,
    key=st.just("key"),
    name=st.text(max_size=10),
    routes=st.lists(st.builds(Route, id=names, name=st.text(max_size=10)), max_size=4).map(tuple),
    default_route=st.text(max_size=10),
)


class PingTests(SynchronousTestCase):
    """The answer to ``GET /api/ping``."""

    @given(accounts)
    def test_round_trip(self, account: Account) -> None:
        """What the embedded backend says of an account is what the relay knows of it."""
        self.assertEqual(wire.decode_ping("key", wire.encode_ping(account)), account)

    @given(accounts)
    def test_no_key(self, account: Account) -> None:
        """The answer has a name, routes and a default route, and not the key."""
        (fields,) = json.loads(wire.encode_ping(account))
        self.assertEqual(set(fields), {"name", "routes", "default_route"})

    def test_name_only(self) -> None:
        """A platform that tells only a name leaves the routes unknown."""
        self.assertEqual(wire.decode_ping("key", b'[{"name":"Example Ltd"}]'), Account("key", "Example Ltd"))

    def test_object_alone(self) -> None:
        """An object without the list around it is understood."""
        self.assertEqual(wire.decode_ping("key", b'{"name":"Example Ltd"}').name, "Example Ltd")

    def test_numbers(self) -> None:
        """Ids may be numbers."""
        body = b'[{"routes":[{"id":17,"name":"Main"},{"id":true},{"name":"nameless"},5],"default_route":17}]'
        self.assertEqual(wire.decode_ping("key", body), Account("key", "", (Route("17", "Main"),), "17"))

    @given(st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()))
    def test_any_answer(self, body: bytes) -> None:
        """Whatever the body of a 200 is, the key is good."""
        self.assertEqual(wire.decode_ping("key", body).key, "key")


class NumberTests(SynchronousTestCase):
    """Numbers that JSON has no form for."""

    def test_infinite(self) -> None:
        """Python's own names for what is not a number never reach a platform."""
        for number in (math.inf, -math.inf, math.nan):
            self.assertRaises(ValueError, wire.dump, {"variables": {"x": number}})

    def test_refused(self) -> None:
        """The backend refuses them, and a number too large for a float, by name."""
        for number in ("NaN", "Infinity", "-Infinity", "1e999"):
            body = f'{{"variables":{{"x":{number}}}}}'
            error = self.assertRaises(wire.WireError, wire.decode_submission, body)
            self.assertIn(f"{number} is not a number", str(error))
