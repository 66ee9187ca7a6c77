"""Which name in To belongs to which recipient."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relay.message.names import recipient_name, recipient_names

TWO = (("jane@x.example", "Jane"), ("Bob@X.Example", "Bob"))


class RecipientNameTests(SynchronousTestCase):
    """:func:`relay.message.names.recipient_name`."""

    def test_beside_the_address(self) -> None:
        """A name goes to the recipient whose address it stands beside."""
        self.assertEqual("Jane", recipient_name(TWO, "jane@x.example", sole=False))
        self.assertEqual("Bob", recipient_name(TWO, "Bob@x.example", sole=False))

    def test_case(self) -> None:
        """Domains are compared without case, local parts too where none has the same case."""
        self.assertEqual("Bob", recipient_name(TWO, "bob@x.EXAMPLE", sole=False))
        both = (("bob@x", "lower"), ("BOB@x", "upper"))
        self.assertEqual("upper", recipient_name(both, "BOB@X", sole=False))
        self.assertEqual("lower", recipient_name(both, "Bob@X", sole=False))

    def test_blind_copy(self) -> None:
        """A recipient who is not in To has no name there."""
        self.assertEqual("", recipient_name(TWO, "blind@x.example", sole=True))
        self.assertEqual("", recipient_name(TWO[:1], "blind@x.example", sole=False))

    def test_one_name_one_recipient(self) -> None:
        """The only mailbox names the only recipient, whatever its address, or without one."""
        self.assertEqual("Jane", recipient_name(TWO[:1], "alias@y.example", sole=True))
        self.assertEqual("Jane", recipient_name((("", "Jane"),), "alias@y.example", sole=True))

    def test_nameless(self) -> None:
        """Without a name there is none; of two entries for an address the one with a name counts."""
        self.assertEqual("", recipient_name((("a@x", ""),), "a@x", sole=True))
        self.assertEqual("", recipient_name((), "a@x", sole=True))
        self.assertEqual("A", recipient_name((("a@x", ""), ("a@x", "A")), "a@x", sole=False))

    def test_all_at_once(self) -> None:
        """All recipients of a message are named as each one would be."""
        self.assertEqual(["Bob", "", "Jane"], recipient_names(TWO, ["bob@x.example", "c@x", "jane@x.example"]))
        self.assertEqual(["Jane"], recipient_names(TWO[:1], ["alias@y.example"]))
