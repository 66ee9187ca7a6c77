"""The stages of a message, and the record that each leaves."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from relay import replies
from relay.errors import PermanentFailure, Reason, TemporaryFailure
from relay.message import parse
from relay.pipeline import Pipeline
from relay.testing import KEY, FakePlatform, make_message
from relay.values import Account, Envelope, Message, Receipt, Record, Route, key_digest


class PipelineTests(SynchronousTestCase):
    """:class:`relay.pipeline.Pipeline`."""

    def setUp(self) -> None:
        """A pipeline before a platform in memory, which keeps its records."""
        self.platform = FakePlatform()
        self.records: list[Record] = []
        self.forgotten: list[str] = []

    def accept(self, content: str = "", *recipients: str, account: Account | None = None, **stages: Any) -> Receipt:
        """Take one message through the pipeline."""
        ticks = iter(range(100))

        async def lookup(key: str, peer: str) -> Account:
            return await self.platform.ping(key)

        pipeline = Pipeline(
            **{
                "account": lookup,
                "post": self.platform.send,
                "forget": self.forgotten.append,
                "record": self.records.append,
                "clock": lambda: next(ticks),
                **stages,
            }
        )
        envelope = Envelope("ID7", "bounce@shop.example", recipients or ("a@x.example",), "192.0.2.1", account)
        return self.successResultOf(
            Deferred.fromCoroutine(pipeline.accept(envelope, (content or make_message()).encode()))
        )

    def reason(self, *arguments: Any, **stages: Any) -> Reason:
        """The reason in the record of a message that is refused."""
        self.assertRaises(self.failureException, self.accept, *arguments, **stages)
        self.assertEqual(self.platform.submissions, [])
        return Reason(self.records[-1].reason)

    def test_fields(self) -> None:
        """Every field of the contract comes from where it says, one submission a recipient."""
        content = make_message(
            To="Jane Doe <a@x.example>, joe@y.example",
            Reply_To="Support <support@shop.example>",
            X_Transactional_Tag=" Welcome ",
            X_Transactional_Route="main",
            X_Transactional_Template="42",
            X_Transactional_Variables='{"name": "Jürgen"}',
        )
        receipt = self.accept(content, "a@x.example", "joe@y.example", "blind@z.example")
        self.assertEqual(receipt.id, "ID7")
        first, second, blind = self.platform.submissions
        self.assertEqual(
            (first.fromname, first.fromemail, first.to, first.toname, first.subject, first.replyto, first.returnpath),
            ("Shop", "shop@shop.example", "a@x.example", "Jane Doe", "Hello", "Support <support@shop.example>",
             "bounce@shop.example"),
        )  # fmt: skip
        self.assertEqual(
            (first.body, first.tag, first.route, first.template, first.variables, first.api_key),
            ("<p>Hello</p>\r\n", "welcome", "main", "42", {"name": "Jürgen"}, KEY),
        )
        self.assertEqual((second.toname, blind.to, blind.toname), ("", "blind@z.example", ""))
        self.assertEqual({each.request_id for each in self.platform.submissions}, {"ID7"})
        self.assertEqual(len({each.idempotency_key for each in self.platform.submissions}), 3)

    def test_idempotency_key(self) -> None:
        """The Idempotency-Key follows from the message's id and the recipient, whoever else is in the envelope."""
        self.accept("", "a@x", "b@x")
        self.accept("", "c@x", "b@x")
        first, second = (each.idempotency_key for each in self.platform.submissions if each.to == "b@x")
        self.assertEqual(first, second)

    def test_route(self) -> None:
        """Without a header the route is the account's only one, or its default; several need a choice."""
        main, other = Route("1", "Main"), Route("2", "Other")
        for routes, default, sent in [(None, "", ""), ((), "", ""), ((main,), "", "1"), ((main, other), "2", "2")]:
            self.platform.accounts[KEY] = Account(KEY, "X", routes, default)
            self.accept()
            self.assertEqual(self.platform.submissions.pop().route, sent)
        self.platform.accounts[KEY] = Account(KEY, "X", (main, other))
        self.assertEqual(self.reason(), Reason.ROUTE)
        self.assertIn("Main, Other", self.records[-1].verdict)

    def test_unknown_route_is_the_platforms(self) -> None:
        """A route that the relay does not know is left to the platform."""
        self.platform.accounts[KEY] = Account(KEY, "X", (Route("1", "Main"),))
        self.accept(make_message(X_Transactional_Route="elsewhere"))
        self.assertEqual(self.platform.submissions[0].route, "elsewhere")

    def test_account_of_auth(self) -> None:
        """A message without a key is sent by whoever signed in; by nobody it is refused."""
        self.accept(make_message(key=None), account=Account("auth-key", "Signed In"))
        self.assertEqual(self.platform.submissions.pop().api_key, "auth-key")
        self.assertEqual(self.reason(make_message(key=None)), Reason.AUTH_REQUIRED)

    def test_bad_key(self) -> None:
        """A wrong key in a message is the reply for messages, not that of AUTH."""
        self.assertEqual(self.reason(make_message(key="wrong-key")), Reason.KEY_REFUSED)
        self.assertTrue(self.records[-1].verdict.startswith("554 5.7.8"))

    def test_key_that_cannot_be_checked(self) -> None:
        """A key in a message that nobody can check now is 451, not the 454 of AUTH."""
        self.platform.down = TemporaryFailure(Reason.AUTH_UNAVAILABLE)
        self.assertEqual(self.reason(), Reason.UNREACHABLE)

    def test_key_refused_at_the_post(self) -> None:
        """A key that the platform refuses is forgotten."""
        self.platform.verdicts = {"a@x.example": PermanentFailure(Reason.KEY_REFUSED)}
        self.accept()
        self.assertEqual(self.forgotten, [KEY])

    def test_check(self) -> None:
        """The last look at a message can refuse it, and nothing is posted."""

        def check(message: Message) -> None:
            raise PermanentFailure(Reason.BAD_TEMPLATE, "line 3: unexpected '}'")

        self.assertEqual(self.reason(check=check), Reason.BAD_TEMPLATE)

    def test_replaced_stage(self) -> None:
        """An embedder's stage stands for ours."""

        def shout(content: bytes) -> Message:
            message = parse(content)
            return Message(**{name: getattr(message, name) for name in ("from_name", "from_email", "api_key", "body")},
                           subject=message.subject.upper())  # fmt: skip

        self.accept(parse=shout)
        self.assertEqual(self.platform.submissions[0].subject, "HELLO")

    def test_outcomes_in_order(self) -> None:
        """Outcomes are in the envelope's order, whichever answer came first."""
        self.platform.verdicts = {"b@x": TemporaryFailure(Reason.BUSY), "c@x": PermanentFailure(Reason.REFUSED)}
        receipt = self.accept("", "a@x", "b@x", "c@x", "d@x", concurrency=2)
        self.assertEqual([each.recipient for each in receipt.outcomes], ["a@x", "b@x", "c@x", "d@x"])
        self.assertEqual([each.failure is None for each in receipt.outcomes], [True, False, False, True])
        self.assertIsNone(replies.verdict(receipt))
        self.assertEqual(self.records[0].result, "partial")

    def test_defect_of_a_post(self) -> None:
        """A defect while posting to one recipient is that recipient's temporary failure, and is logged."""

        async def post(submission: Any) -> None:
            if submission.to == "b@x":
                raise ZeroDivisionError

        receipt = self.accept("", "a@x", "b@x", post=post)
        failure = receipt.outcomes[1].failure
        self.assertIsInstance(failure, TemporaryFailure)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_record(self) -> None:
        """The record of a message has what the log line needs, and of the key its first four characters."""
        self.accept(make_message(X_Transactional_Tag="Welcome"), "a@x.example", "b@x.example")
        (record,) = self.records
        self.assertEqual(
            (record.id, record.account, record.key, record.peer, record.sender, record.recipients, record.tag),
            (
                "ID7",
                "Test Company",
                "test…",
                "192.0.2.1",
                "bounce@shop.example",
                ("a@x.example", "b@x.example"),
                "welcome",
            ),
        )
        self.assertEqual((record.result, record.verdict, record.reason), ("accepted", "250 Ok: queued as ID7", ""))
        self.assertEqual(list(record.seconds), ["parse", "account", "check", "post"])
        self.assertGreater(record.milliseconds, 0)
        self.assertNotIn(KEY, repr(record))

    def test_record_of_a_refusal(self) -> None:
        """A refused message is recorded with the reply that the client gets."""
        self.reason("no colon here\r\n\r\n")
        self.assertEqual((self.records[0].result, self.records[0].verdict[:9]), ("refused", "554 5.6.0"))
        self.platform.down = TemporaryFailure(Reason.UNREACHABLE)
        self.reason()
        self.assertEqual((self.records[1].result, self.records[1].verdict[:9]), ("temporary", "451 4.4.1"))

    def test_record_of_the_content(self) -> None:
        """A record names the sender, the subject, the removed headers and the account, as far as the message got."""
        self.accept(make_message(X_Mailer="x"))
        self.platform.submissions.clear()
        self.reason("no colon here\r\n\r\n")
        self.reason("no colon here\r\n\r\n", account=Account("auth-key"))
        self.assertEqual(
            [(each.from_email, each.subject, each.headers_removed, each.digest) for each in self.records],
            [
                ("shop@shop.example", "Hello", ("X-Mailer",), key_digest(KEY)),
                ("", "", (), b""),
                ("", "", (), key_digest("auth-key")),
            ],
        )
        self.assertNotIn(repr(key_digest(KEY)), repr(self.records[0]))

    def test_record_of_a_malformed_message(self) -> None:
        """The record of a message that is refused for its form still says whose it is and what it is about."""
        self.reason(
            "From: Shop <shop@x.example>\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nX-Auth-APIKey: canary\r\n"
            "Content-Type: application/pdf\r\n\r\n"
        )
        (record,) = self.records
        self.assertEqual((record.from_email, record.subject), ("shop@x.example", "Grüße"))
        self.assertEqual(record.reason, "unsupported-content")
