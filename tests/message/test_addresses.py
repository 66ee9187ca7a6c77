"""Address lists as clients write them."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.errors import PermanentFailure, Reason
from relay.message import addresses


class MailboxesTests(SynchronousTestCase):
    """:func:`relay.message.addresses.mailboxes`, each case as (name, address) pairs."""

    def check(self, text: str, *expected: tuple[str, str]) -> None:
        self.assertEqual(list(expected), [tuple(each) for each in addresses.mailboxes(text)], text)

    def test_forms(self) -> None:
        """Every usual form of a mailbox is read."""
        self.check("jane@x.example", ("", "jane@x.example"))
        self.check("<jane@x.example>", ("", "jane@x.example"))
        self.check("Jane Doe <jane@x.example>", ("Jane Doe", "jane@x.example"))
        self.check('"Jane Doe"<jane@x.example>', ("Jane Doe", "jane@x.example"))
        self.check("jane@x.example (Jane Doe)", ("Jane Doe", "jane@x.example"))
        self.check("Jane Doe", ("Jane Doe", ""))
        self.check("Jürgen Müller <j@x.example>", ("Jürgen Müller", "j@x.example"))
        self.check("Jane jane@x.example", ("Jane", "jane@x.example"))
        self.check("Jane <jane@x.example", ("Jane", "jane@x.example"))
        self.check("Jane (the (first) one) <jane@x.example>", ("Jane", "jane@x.example"))
        self.check('"john doe"@x.example', ("", '"john doe"@x.example'))
        self.check("J <j@[IPv6:::1]>", ("J", "j@[IPv6:::1]"))
        self.check("j@[192.0.2.1]", ("", "j@[192.0.2.1]"))
        self.check("<@a.example:j@x.example>", ("", "j@x.example"))
        self.check("J. R. D. <j@x.example>", ("J. R. D.", "j@x.example"))
        self.check(r'"a \"b\" \\ c" <j@x.example>', (r'a "b" \ c', "j@x.example"))

    def test_lists(self) -> None:
        """Commas part mailboxes, but not within quotes, comments or encoded words."""
        self.check('"Doe, Jane" <j@x>, b@x,, C <c@x>', ("Doe, Jane", "j@x"), ("", "b@x"), ("C", "c@x"))
        self.check("a@x (one, two), b@x", ("one, two", "a@x"), ("", "b@x"))
        self.check("=?utf-8?q?Doe=2C_J=C3=B6rg?= <j@x>", ("Doe, Jörg", "j@x"))
        self.check("=?utf-8?q?Doe,_J?= <j@x>", ("Doe, J", "j@x"))
        self.check('"=?utf-8?q?J=C3=B6rg?=" <j@x>', ("Jörg", "j@x"))
        self.check("", *())
        self.check(" , ,", *())

    def test_encoded_comma(self) -> None:
        """What comes out of an encoded word adds no address."""
        self.check("=?utf-8?q?a=40evil=2C_b=40evil?= <j@x>", ("a@evil, b@evil", "j@x"))
        self.check("=?utf-8?q?a=40evil=2C_b=40evil?=", ("a@evil, b@evil", ""))
        self.check("=?utf-8?q?x=22_=3Ca=40evil=3E?= <j@x>", ('x" <a@evil>', "j@x"))

    def test_encoded_whole(self) -> None:
        """A mailbox that was encoded as a whole, as Python's MIMEText does, is one mailbox."""
        self.check("=?utf-8?q?J=C3=B6rg_=3Cj=40x=2Eexample=3E?=", ("Jörg", "j@x.example"))

    def test_groups(self) -> None:
        """A group is its mailboxes; a colon without semicolon is a colon."""
        self.check("Team: a@x, B <b@x>; c@x", ("", "a@x"), ("B", "b@x"), ("", "c@x"))
        self.check("undisclosed-recipients:;", *())
        self.check("Shop: News <news@x>", ("Shop: News", "news@x"))

    def test_broken(self) -> None:
        """Nothing in To is an error."""
        for text in ('"', "(", "(" * 500, "<", ">", "<<>>", '"a" "', "a@", "@", "[", "=?", "\\", ";;::", "a@b@c"):
            list(addresses.mailboxes(text))

    def test_many(self) -> None:
        """4000 addresses are 4000 mailboxes; past the limit they go unused."""
        self.assertEqual(4000, len(addresses.to_names(", ".join(f"N {n} <n{n}@x>" for n in range(4000)))))
        self.assertEqual(addresses.MOST_MAILBOXES, len(addresses.to_names("a@b," * 60_000)))

    def test_deep(self) -> None:
        """Comments of any depth are left out without recursion."""
        self.check("(" * 50_000 + ")" * 50_000 + "<j@x>", ("(" * 49_999 + ")" * 49_999, "j@x"))

    @settings(max_examples=150)
    @given(st.text(alphabet='ab@<>(),:;"\\[]=?q_ \t.ü\x00'))
    def test_never_fails(self, text: str) -> None:
        """Any text is some list of mailboxes, clean of control characters."""
        for name, address in addresses.mailboxes(text):
            self.assertNotIn("\x00", name + address)

    @settings(max_examples=300, deadline=None)
    @example('"Doe, Jane" <j@x>')
    @example("j@x")
    @given(
        st.tuples(
            st.sampled_from(
                ["", "Jane Doe", '"', '"Doe, Jane" ', '" (\0ü', '"', "=?utf-8?q?a?=", "\\", "ü ", "\t", "("]
            ),
            st.sampled_from(["", "a", '"', '" ', '"\n', "=?q", "[", ":"]),
            st.sampled_from(["j@x", "<j@x>", "<j=a@x.y>", "=?utf-8?q?j?=@x", "j@x=", " <j@x> ", "<j@x", "j@@x", "<>"]),
            st.sampled_from(["", "", "", " ", ",", "a", "\0"]),
        ).map("".join)
    )
    def test_at_once(self, text: str) -> None:
        """What is read at once is what it would be in a list: an empty entry before it changes nothing."""
        self.assertEqual(list(addresses.mailboxes(f",{text}")), list(addresses.mailboxes(text)))


class SenderTests(SynchronousTestCase):
    """:func:`relay.message.addresses.sender`."""

    def test_first(self) -> None:
        """The first mailbox with an address counts."""
        self.assertEqual(("A", "a@x"), addresses.sender("A <a@x>, B <b@x>"))

    def test_unquoted_comma(self) -> None:
        """A name whose comma nobody quoted is put together again."""
        self.assertEqual(("Doe, Jane", "j@x"), addresses.sender("Doe, Jane <j@x>"))
        self.assertEqual(("Shop, Inc.", "j@x"), addresses.sender("Shop, Inc. <j@x>"))

    def test_refused(self) -> None:
        """No address, or one without local part or domain, is refused and From is named."""
        for text in ("Jane", "Team:;", "<>", "Jane <>", "<jane>", "<@x>", "<jane@>", "a@b@c", "<a b@c,>", "", "@",
                     "x" * 400 + "@y", "<a@[]>"):  # fmt: skip
            failure = self.assertRaises(PermanentFailure, addresses.sender, text)
            self.assertEqual(Reason.BAD_MESSAGE, failure.reason)
            self.assertIn("From", failure.text)


class ReplyToTests(SynchronousTestCase):
    """:func:`relay.message.addresses.reply_to`."""

    def test_whole(self) -> None:
        """The header stays whole, as it is."""
        for text in ("Support <s@x>", '"Doe, Jane" <j@x>, b@x', ""):
            self.assertEqual(text, addresses.reply_to(text))

    def test_decoded(self) -> None:
        """Names are decoded, and quoted where they would read as something else."""
        self.assertEqual("Jörg <j@x>, b@x", addresses.reply_to("=?utf-8?q?J=C3=B6rg?= <j@x>, b@x"))
        self.assertEqual('"Doe, Jörg" <j@x>', addresses.reply_to("=?utf-8?q?Doe=2C_J=C3=B6rg?= <j@x>"))
        self.assertEqual("Jörg", addresses.reply_to("=?utf-8?q?J=C3=B6rg?="))
