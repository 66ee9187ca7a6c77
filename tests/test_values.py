"""relay.values: frozen, and silent about keys."""

from __future__ import annotations

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay import values
from relay.values import Account, Attachment, Envelope, Message, Outcome, Receipt, Route, Submission, key_prefix

KEY = "canary-key-never-to-be-shown"

ACCOUNT = Account(KEY, "Example Ltd", (Route("r1", "Main"),), "r1")
ENVELOPE = Envelope("0A1B", "sender@example.com", ("jane@example.org",), "192.0.2.1", ACCOUNT)
MESSAGE = Message("Shop", "shop@example.com", "Hello", "<p>Hi</p>", api_key=KEY)
SUBMISSION = Submission(
    api_key=KEY,
    request_id="0A1B",
    idempotency_key="0A1B-0",
    fromname="Shop",
    fromemail="shop@example.com",
    to="jane@example.org",
    toname="Jane",
    subject="Hello",
    replyto="",
    returnpath="",
    body="<p>Hi</p>",
    tag="untagged",
    route="",
    template="",
    variables=None,
    attachments=(Attachment("a.pdf", "application/pdf", b"%PDF"),),
)


class SecretTests(SynchronousTestCase):
    """A key is in no repr: reprs end in logs and tracebacks."""

    def test_reprs(self) -> None:
        """No value that carries a key, directly or within another, shows it."""
        for value in (ACCOUNT, ENVELOPE, MESSAGE, SUBMISSION):
            self.assertNotIn(KEY, repr(value))
            self.assertNotIn(KEY[:12], str(value))

    def test_every_field_of_that_name(self) -> None:
        """Every field that is named for a key is left out of its class's repr, also those added later."""
        found = 0
        for each in vars(values).values():
            if isinstance(each, type) and attrs.has(each):
                for field in attrs.fields(each):
                    if field.name in ("key", "api_key") and each is not values.Record:
                        found += 1
                        self.assertFalse(field.repr, f"{each.__name__}.{field.name}")
        self.assertGreaterEqual(found, 3)

    def test_content(self) -> None:
        """A submission's repr holds no body and no file, so that a log line stays a line."""
        self.assertNotIn("<p>", repr(SUBMISSION))
        self.assertNotIn("%PDF", repr(SUBMISSION))

    def test_prefix(self) -> None:
        """Of a key four characters and an ellipsis may be shown; of none, nothing."""
        self.assertEqual(key_prefix(KEY), "cana…")
        self.assertEqual(key_prefix(""), "")

    @given(st.text(min_size=1))
    def test_prefix_is_bounded(self, key: str) -> None:
        """However long a key is, at most four characters of it are shown."""
        self.assertLessEqual(len(key_prefix(key)), 5)


class FrozenTests(SynchronousTestCase):
    """A value that was passed on does not change any more."""

    def test_frozen(self) -> None:
        """Assigning to a field is refused for every value of the module."""
        for value in (ACCOUNT, ENVELOPE, MESSAGE, SUBMISSION, Outcome("a@b"), Receipt("1", ())):
            name = attrs.fields(type(value))[0].name
            with self.assertRaises(attrs.exceptions.FrozenInstanceError):
                setattr(value, name, "changed")

    def test_all_are_frozen(self) -> None:
        """Every class of the module is frozen, also those added later."""
        for each in vars(values).values():
            if isinstance(each, type) and each.__module__ == values.__name__:
                self.assertIn("FrozenInstanceError", str(each.__setattr__.__code__.co_names), each.__name__)

    def test_evolve(self) -> None:
        """A stage that changes something makes a new value, and the old one stays."""
        changed = attrs.evolve(MESSAGE, tag="welcome")
        self.assertEqual((MESSAGE.tag, changed.tag), ("", "welcome"))
