"""The log: one line a message, safe, without keys; JSON lines."""

from __future__ import annotations

import io
import json

from twisted.logger import Logger, LogLevel, LogPublisher, formatEvent, globalLogPublisher, textFileLogObserver
from twisted.trial.unittest import SynchronousTestCase

from relay.errors import PermanentFailure, Reason, TemporaryFailure
from relay.operate import log
from relay.values import Outcome, Record


def record(**changes) -> Record:
    values = dict(
        id="01ABC",
        account="Example Inc",
        key="abcd…",
        peer="192.0.2.1",
        sender="a@example.com",
        recipients=("b@example.com",),
        tag="welcome",
        route="1",
        result="accepted",
        verdict="250 Ok: queued as 01ABC",
        reason="",
        milliseconds=12.345,
        size=42,
        seconds={"parse": 0.001},
    )
    return Record(**{**values, **changes})


class LogCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.events: list[dict] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)

    def lines(self) -> list[str]:
        return [formatEvent(event) for event in self.events if event["log_namespace"] == "relay.operate.log"]


class Messages(LogCase):
    def test_accepted(self) -> None:
        """A message has one line with id, account, peer, recipient, tag, route, verdict and milliseconds."""
        log.log_record(record())
        self.assertEqual(
            self.lines(),
            [
                'message 01ABC account="Example Inc" peer=192.0.2.1 recipient=b@example.com tag=welcome route=1 '
                'result=accepted ms=12.3 size=42 verdict="250 Ok: queued as 01ABC"'
            ],
        )
        self.assertEqual((self.events[0]["id"], self.events[0]["ms"]), ("01ABC", 12.3))

    def test_event(self) -> None:
        """Whoever observes the log sees the event that a Logger emits, with the fields of the line."""
        log.log_record(record(reason="refused", images_removed=2))
        (logged,) = self.events
        log.log.info(
            "message {id} {log_line}", log_line=logged["log_line"], id="01ABC", account="Example Inc",
            peer="192.0.2.1", recipient="b@example.com", tag="welcome", route="1", result="accepted", ms=12.3, size=42,
            reason="refused", images_removed=2, verdict="250 Ok: queued as 01ABC",
        )  # fmt: skip
        emitted = self.events[1]
        self.assertLessEqual(0, emitted["log_time"] - logged["log_time"])
        for event in self.events:
            del event["log_time"], event["time"], event["log_legacy"]  # the last two are added for old observers
        self.assertEqual(emitted, logged)

    def test_more(self) -> None:
        """The event of a message that another follows at once says so, to those who write; it is no field of it."""
        log.log_record(record(), more=True)
        log.log_record(record())
        self.assertEqual(["log_more" in event for event in self.events], [True, False])

    def test_quotes(self) -> None:
        """A value with spaces or quotes is in quotes, and its own are escaped."""
        for account, shown in (
            ("a b", '"a b"'),
            ('a"b', '"a\\"b"'),
            ("a b\\", '"a b\\\\"'),
            ("a\\b", "a\\b"),
            ("é ü", '"é ü"'),
        ):
            log.log_record(record(account=account))
            self.assertIn(f" account={shown} peer=", self.lines()[-1])

    def test_unknown_account(self) -> None:
        """Without an account's name the line has the key's first characters; without either a dash."""
        log.log_record(record(account=""))
        log.log_record(record(account="", key="", tag="", route="", peer=""))
        self.assertIn(" account=abcd… ", self.lines()[0])
        self.assertIn(" account=- peer=- ", self.lines()[1])
        self.assertIn(" tag=- route=- ", self.lines()[1])

    def test_more_recipients(self) -> None:
        """Of several recipients the first is shown, and how many more there are."""
        log.log_record(record(recipients=("b@example.com", "c@example.com", "d@example.com")))
        self.assertIn("recipient=b@example.com+2 ", self.lines()[0])

    def test_refused(self) -> None:
        """A refusal has its reason; what was removed from a message is counted where there was something."""
        log.log_record(record(result="refused", reason="bad-message", verdict="554 5.6.0 No From", images_removed=2))
        self.assertIn(' reason=bad-message images_removed=2 verdict="554 5.6.0 No From"', self.lines()[0])

    def test_injection(self) -> None:
        """Line ends, control characters and terminal escapes from a client never reach the log."""
        log.log_record(
            record(recipients=("x\r\n2026 [-] forged@example.com",), tag="\x1b[31mred", account="a\u2028b\u202ec")
        )
        line = self.lines()[0]
        self.assertTrue(line.isprintable())
        self.assertIn('recipient="x??2026 [-] forged@example.com"', line)

    def test_long_values(self) -> None:
        """A value of any length takes at most 200 characters of the line."""
        log.log_record(record(tag="x" * 100_000))
        self.assertLess(len(self.lines()[0]), 500)

    def test_braces(self) -> None:
        """Braces in what a client sent are not taken for a format."""
        log.log_record(record(tag="{id} {0} {}", verdict="250 {x}"))
        self.assertIn('tag="{id} {0} {}"', self.lines()[0])

    def test_partial(self) -> None:
        """Where a message was answered 250 in part, each failed recipient has an error of its own."""
        outcomes = (
            Outcome("b@example.com"),
            Outcome("c@example.com", PermanentFailure(Reason.REFUSED, "no such\r\nuser")),
            Outcome("d@example.com", TemporaryFailure(Reason.BUSY)),
        )
        log.log_record(
            record(result="partial", outcomes=outcomes, recipients=tuple(each.recipient for each in outcomes))
        )
        failed = [event for event in self.events if event["log_level"] is LogLevel.error]
        self.assertEqual([each["recipient"] for each in failed], ["c@example.com", "d@example.com"])
        self.assertEqual([each["reason"] for each in failed], ["refused", "busy"])
        self.assertIn("554 5.6.0 no such user", self.lines()[1])

    def test_all_failed(self) -> None:
        """Where the client was told of the failure, the message's line is enough."""
        outcomes = (Outcome("b@example.com", TemporaryFailure(Reason.BUSY)),)
        log.log_record(record(result="temporary", reason="busy", outcomes=outcomes))
        self.assertEqual(len(self.lines()), 1)


class Text(SynchronousTestCase):
    def setUp(self) -> None:
        self.file, self.expected = io.StringIO(), io.StringIO()
        self.log = Logger(
            "relay.test", observer=LogPublisher(log.TextLines(self.file), textFileLogObserver(self.expected))
        )

    def test_line(self) -> None:
        """A line has the time with its offset, where it comes from, its level and its words."""
        self.log.info("accepted {id}", id="01ABC", ms=1.5)
        self.assertRegex(
            self.file.getvalue(), r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} \[relay\.test#info\] accepted 01ABC\n$"
        )

    def test_together(self) -> None:
        """Lines of messages that follow each other at once are written together, and none waits for the next turn."""
        written: list[str] = []
        self.file.write = written.append
        for more in (True, True, False):
            self.log.info("{more}", more=more, **({"log_more": True} if more else {}))
        self.assertEqual([text.count("\n") for text in written], [3])
        self.log.info("{more}", more=True, log_more=True)
        self.log.info("other")
        self.assertEqual([text.count("\n") for text in written], [3, 2])

    def test_same_as_twisted(self) -> None:
        """Whatever is logged, and however, the log is what twistd would write."""
        self.log.warn("{thing.real} {n:>4} {name!r} {{}}", thing=1, n=2, name="é\n")
        self.log.debug("{call()} {thing.bit_length()}", call=lambda: "called", thing=7)
        self.log.info("several\nlines")
        self.log.info("{missing} {0}")
        self.log.info("")
        self.log.info(None)
        self.log.error("system", log_system="-")
        self.log.info("unprintable {thing}", thing=Unprintable())
        try:
            raise ValueError("broken\nhere")
        except ValueError:
            self.log.failure("it failed")
        for event in ({}, {"log_format": b"octets"}, {"log_format": "no time"}, {"log_text": "old", "log_system": "x"}):
            self.log.observer(event)
        self.assertEqual(self.file.getvalue(), self.expected.getvalue())
        self.assertGreater(len(self.file.getvalue().splitlines()), 15)

    def test_time(self) -> None:
        """The time is that of the event, second for second, also when the clock goes back."""
        for when in (1_700_000_000.0, 1_700_000_000.75, 1_700_000_001.0, 1_700_000_000.5, 0.25, -1.5):
            self.log.observer({"log_format": "tick", "log_time": when})
        self.assertEqual(self.file.getvalue(), self.expected.getvalue())


class Unprintable:
    """An object without words."""

    def __str__(self) -> str:
        raise ZeroDivisionError

    __repr__ = __str__


class JSON(SynchronousTestCase):
    def setUp(self) -> None:
        self.file = io.StringIO()
        self.log = Logger("relay.test", observer=log.JSONLines(self.file))

    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.file.getvalue().splitlines()]

    def test_event(self) -> None:
        """An event is an object with time, level, logger, message, and its own fields."""
        self.log.info("accepted {id}", id="01ABC", ms=1.5, log_hidden="x", thing=object())
        (line,) = self.lines()
        self.assertRegex(line.pop("time"), r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00$")
        self.assertEqual(
            line, {"level": "info", "logger": "relay.test", "message": "accepted 01ABC", "id": "01ABC", "ms": 1.5}
        )

    def test_failure(self) -> None:
        """A failure is one line with its traceback in a field."""
        try:
            raise ValueError("broken\nhere")
        except ValueError:
            self.log.failure("it failed")
        (line,) = self.lines()
        self.assertEqual(
            (line["level"], line["message"], line["failure"]), ("critical", "it failed", "ValueError: broken\nhere")
        )
        self.assertIn("test_log.py", line["traceback"])

    def test_strange_text(self) -> None:
        """Line ends, lone surrogates and an event whose format is broken still make one valid line each."""
        self.log.info("{text}", text="a\nb\u2028\ud800é")
        self.log.info("{missing}")
        self.assertEqual(len(self.file.getvalue().rstrip("\n").split("\n")), 2)
        self.assertEqual(self.lines()[0]["text"], "a\nb\u2028\ud800é")
        self.assertTrue(self.file.getvalue().isascii())

    def test_own_fields_do_not_replace_ours(self) -> None:
        """A field called logger or time does not hide the event's own."""
        self.log.warn("said", logger="x", time="y")
        self.assertEqual(self.lines()[0]["logger"], "relay.test")
        self.assertNotEqual(self.lines()[0]["time"], "y")
