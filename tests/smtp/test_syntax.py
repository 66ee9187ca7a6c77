"""The grammar of MAIL and RCPT."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.errors import Failure, PermanentFailure, Reason
from relay.smtp.syntax import parse_mail, parse_rcpt


class MailTests(SynchronousTestCase):
    """:func:`relay.smtp.syntax.parse_mail`."""

    def reason(self, argument: str) -> Reason:
        """Why *argument* is refused."""
        return self.assertRaises(PermanentFailure, parse_mail, argument.encode()).reason

    def test_paths(self) -> None:
        """Addresses as mail programs write them are taken as they are."""
        for written, meant in [
            ("FROM:<>", ""),
            ("from:<a@b.example>", "a@b.example"),
            ("FROM: <a@b.example>", "a@b.example"),
            ("FROM:<@relay.example,@other.example:a@b.example>", "a@b.example"),
            ('FROM:<"quoted, local \\" part"@b.example>', '"quoted, local \\" part"@b.example'),
            ("FROM:<a@[192.0.2.1]>", "a@[192.0.2.1]"),
            ("FROM:<a@[IPv6:2001:db8::1]>", "a@[IPv6:2001:db8::1]"),
            ("FROM:<bounce+a=b.example@shop.example>", "bounce+a=b.example@shop.example"),
            ("FROM:<a..b.@docomo.example>", "a..b.@docomo.example"),
            ("FROM:<root@localhost>", "root@localhost"),
        ]:
            self.assertEqual(str(parse_mail(written.encode()).mailbox), meant)

    def test_bad_paths(self) -> None:
        """What is not a path is refused as the sender's syntax."""
        for written in ["", "FROM", "FROM:", "TO:<a@b>", "FROM:a@b", "FROM:<a@b", "FROM:<a>", "FROM:<a@>", "FROM:<@b>",
                        "FROM:<a b@c>", "FROM:<a@b@c>", "FROM:<a@-b>", "FROM:<a@b..c>", "FROM:<a@b>SIZE=1",
                        "FROM:<<a@b>>", f"FROM:<{'a' * 320}@b>"]:  # fmt: skip
            self.assertEqual(self.reason(written), Reason.SENDER_SYNTAX, written)

    def test_parameters(self) -> None:
        """SIZE, BODY, SMTPUTF8 and AUTH are known, in any case."""
        sender = parse_mail(b"FROM:<a@b> size=1000 BODY=8BITMIME SMTPUTF8 AUTH=<>")
        self.assertEqual((sender.size, sender.smtputf8), (1000, True))
        self.assertEqual(parse_mail(b"FROM:<a@b> BODY=7bit").size, 0)

    def test_bad_parameters(self) -> None:
        """A value that a parameter cannot have is refused, as is one given twice; an unknown one by its name."""
        for parameter in ["SIZE", "SIZE=", "SIZE=-1", "SIZE=1x", "SIZE=" + "1" * 21, "BODY=BINARYMIME", "BODY", "AUTH",
                          "SMTPUTF8=1", "SIZE=1 SIZE=1", "=", "a=b=c"]:  # fmt: skip
            self.assertEqual(self.reason(f"FROM:<a@b> {parameter}"), Reason.ARGUMENTS, parameter)
        for parameter in ["RET=FULL", "ENVID=x", "FOO", "HOLDFOR=1"]:
            self.assertEqual(self.reason(f"FROM:<a@b> {parameter}"), Reason.UNKNOWN_PARAMETER, parameter)

    def test_utf8(self) -> None:
        """A non-ASCII address is taken with SMTPUTF8 and refused without it."""
        self.assertEqual(
            str(parse_mail("FROM:<jürgen@müller.example> SMTPUTF8".encode()).mailbox), "jürgen@müller.example"
        )
        self.assertEqual(self.reason("FROM:<jürgen@müller.example>"), Reason.NON_ASCII_ADDRESS)

    @settings(max_examples=200, deadline=None)
    @given(st.text(alphabet='<>@:."\\ a=[]-é\t', max_size=60))
    def test_never_raises_anything_else(self, text: str) -> None:
        """Any words behind MAIL FROM: and RCPT TO: give an address or a refusal."""
        for attempt in (lambda: parse_mail(b"FROM:" + text.encode()), lambda: parse_rcpt(b"TO:" + text.encode(), True)):
            try:
                attempt()
            except Failure:
                continue


class RcptTests(SynchronousTestCase):
    """:func:`relay.smtp.syntax.parse_rcpt`."""

    def test_refusals(self) -> None:
        """The null path, bad syntax and any parameter are refused."""
        for argument, reason in [
            (b"TO:<>", Reason.RECIPIENT_SYNTAX),
            (b"TO:<nobody>", Reason.RECIPIENT_SYNTAX),
            (b"FROM:<a@b>", Reason.RECIPIENT_SYNTAX),
            (b"TO:<a@b> NOTIFY=NEVER", Reason.UNKNOWN_PARAMETER),
            ("TO:<ü@b>".encode(), Reason.NON_ASCII_ADDRESS),
        ]:
            self.assertEqual(self.assertRaises(PermanentFailure, parse_rcpt, argument, False).reason, reason)
