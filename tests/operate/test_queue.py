"""What ``smtp-relay queue`` shows and does, on a spool in SQLite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relay.operate.queue import CannotDo, Command, Terminal, run
from relay.operate.rows import cells, row_object
from relay.policy import Spool
from relay.spool.operators import Selection, open_queue
from relay.spool.store import Store
from relay.spool.values import Entry, Row, Spooled
from relay.spool.writer import Inline
from relay.values import Attachment, Submission

#: Must be shown nowhere.
KEY = "canary-key-51c3"
BODY = "<p>canary body</p>"

EPOCH = 1_795_440_000.0

ROW = Row(
    row=1,
    id="01M84K5TBJT19QH7RF59KX03HC",
    account="0b026dcaf52dd2d7",
    account_name="Acme",
    recipient="jane@example.org",
    tag="welcome",
    state="waiting",
    created=EPOCH,
    attempts=2,
    next_attempt=EPOCH + 240,
    last_answer="451 4.4.1 The platform is not reachable, try again later",
    size=4096,
)


def submission(to: str, **changed: Any) -> Submission:
    fields: dict[str, Any] = {
        "api_key": KEY,
        "request_id": "A1",
        "idempotency_key": f"A1-{to}",
        "fromname": "Shop",
        "fromemail": "shop@example.com",
        "to": to,
        "toname": "",
        "subject": "Hello",
        "replyto": "",
        "returnpath": "bounce@example.com",
        "body": BODY,
        "tag": "welcome",
        "route": "",
        "template": "",
        "variables": {"secret": "canary variable"},
    }
    return Submission(**{**fields, **changed})


class QueueCase(SynchronousTestCase):
    """A relay's store, and the command line beside it; time stands at EPOCH until :meth:`later`."""

    def setUp(self) -> None:
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        self.url = f"sqlite:///{folder}/spool.sqlite3"
        self.clock = Clock()
        self.answers: list[bool] = []
        self.questions: list[str] = []
        opening = Store.open(
            self.url,
            key_file=folder / "spool.key",
            policy=Spool(min_free=0),
            reactor=self.clock,
            now=self.now,
            monotonic=self.clock.seconds,
            thread=Inline(),
        )
        self.store = self.successResultOf(Deferred.fromCoroutine(opening))
        self.addCleanup(lambda: self.successResultOf(Deferred.fromCoroutine(self.store.close())))

    def now(self) -> float:
        return EPOCH + self.clock.seconds()

    def put(self, id: str, *entries: Entry | str, account: str = "Acme") -> None:
        """Spool a message; a text stands for a recipient that waits a minute."""
        made = [Entry(submission(each), delay=60.0) if isinstance(each, str) else each for each in entries]
        message = Spooled(id, f"{account}-digest-0123456789", account, tuple(made))
        self.successResultOf(Deferred.fromCoroutine(self.store.put(message)))

    def take(self, limit: int = 100) -> list[str]:
        """What the relay would post now."""
        taken = self.successResultOf(Deferred.fromCoroutine(self.store.take(limit)))
        return [each.submission.to for each in taken]

    def run_(self, name: str = "list", *ids: str, width: int = 120, **options: Any) -> list[str]:
        """The lines that a command shows."""
        lines: list[str] = []
        terminal = Terminal(lines.append, self.confirm if self.answers else None, width, self.now)
        with open_queue(self.url, now=self.now) as queue:
            run(queue, Command(name, ids, **options), terminal)
        return lines

    def confirm(self, question: str) -> bool:
        self.questions.append(question)
        return self.answers.pop(0)

    def refused(self, *words: str) -> str:
        return str(self.assertRaises(CannotDo, self.run_, *words))


def failure(to: str) -> Entry:
    return Entry(submission(to), attempts=1, last_answer="554 5.6.0 tag: no", failed=True, reason="refused")


class ListTests(QueueCase):
    def test_empty(self) -> None:
        """An empty spool is said to be so; a program gets no line."""
        self.assertEqual(self.run_(), ["The spool is empty"])
        self.assertEqual(self.run_(json=True), [])

    def test_wide(self) -> None:
        """With 120 columns a recipient is a line: age, attempts, next attempt, account, tag, answer; then the sum."""
        self.put("A1", Entry(submission("jane@example.org"), attempts=1, last_answer="451 later", delay=300.0))
        self.put("A2", failure("bo@example.org"))
        self.clock.advance(120)
        self.assertEqual(
            self.run_(),
            [
                "ID  AGE  TRIES    NEXT  RECIPIENT         ACCOUNT  TAG      LAST ANSWER",
                "A1   2m      1      3m  jane@example.org  Acme     welcome  451 later",
                "A2   2m      1  failed  bo@example.org    Acme     welcome  refused: 554 5.6.0 tag: no",
                "",
                "In the spool: 1 waiting, 1 failed",
            ],
        )

    def test_narrow(self) -> None:
        """With less it is two lines."""
        self.put("A1", Entry(submission("jane@example.org"), in_flight=30.0))
        self.assertEqual(
            self.run_(width=80),
            [
                "ID  AGE  TRIES     NEXT  RECIPIENT",
                "  ACCOUNT  TAG      LAST ANSWER",
                "A1   0s      0  posting  jane@example.org",
                "  Acme     welcome  -",
                "",
                "In the spool: 1 being posted",
            ],
        )

    def test_fits(self) -> None:
        """A queue id as the relay makes them, a long address and a long answer fit 80 and 120 columns."""
        id = ROW.id
        long = "a" * 60 + "@" + "b" * 60 + ".example.org"
        self.put(id, Entry(submission(long, tag="t" * 50), last_answer="451 " + "x" * 200), account="N" * 50)
        for width in (80, 100, 120):
            lines = self.run_(width=width)
            self.assertTrue(all(len(line) <= width for line in lines), lines)
            self.assertTrue(any(line.startswith(f"{id} ") for line in lines), lines)

    def test_hostile(self) -> None:
        """Control characters in addresses, tags, names and answers never reach the terminal."""
        bad = "\x1b[2J\x07\u202e"
        self.put("A1", Entry(submission(f"x{bad}@example.org", tag=bad), last_answer=bad), account=f"{bad}abc")
        shown = [*self.run_(), *self.run_("show", "A1"), *self.run_("retry", "A1")]
        self.assertEqual([line for line in shown if not line.isprintable()], [])
        (line,) = self.run_(json=True)
        self.assertTrue(line.isascii() and line.isprintable())
        self.assertEqual(json.loads(line)["recipient"], f"x{bad}@example.org")

    def test_failed(self) -> None:
        """--failed lists failures alone."""
        self.put("A1", "jane@example.org", failure("bo@example.org"))
        lines = self.run_(selection=Selection(failed=True))
        self.assertEqual([line.split()[4] for line in lines[1:-2]], ["bo@example.org"])
        self.assertEqual(lines[-1], "1 recipient")

    def test_account(self) -> None:
        """--account lists one account, by its name or the beginning of its digest; none is said to be none."""
        self.put("A1", "jane@example.org")
        self.put("A2", "bo@example.org", account="Other")
        for account in ("Other", "Other-digest"):
            self.assertEqual(self.run_(selection=Selection(account=account))[1].split()[4], "bo@example.org")
        self.assertEqual(
            self.run_(selection=Selection(account="Nobody")), ["No recipient of account Nobody in the spool"]
        )
        nothing = self.run_(selection=Selection(account="Acme", failed=True))
        self.assertEqual(nothing, ["No failure of account Acme in the spool"])

    def test_limit(self) -> None:
        """A hundred recipients are listed unless --limit says how many; the last line tells that there are more."""
        self.put("A1", *(f"{number}@example.org" for number in range(1234)))
        lines = self.run_()
        self.assertEqual(len(lines), 1 + 100 + 2)
        self.assertEqual(lines[-1], "The first 100 recipients; --limit 0 lists all. In the spool: 1,234 waiting")
        self.assertEqual(len(self.run_(limit=1100)), 1 + 1100 + 2)
        self.assertEqual(len(self.run_(limit=0)), 1 + 1234 + 2)
        self.assertEqual(self.run_(limit=1234)[-1], "In the spool: 1,234 waiting")
        some = self.run_(limit=3, selection=Selection(account="Acme"))
        self.assertEqual(some[-1], "The first 3 recipients; --limit 0 lists all")

    def test_json(self) -> None:
        """A program gets a JSON object for each recipient: all of them, or as many as it asks for."""
        self.put("A1", *(f"{number}@example.org" for number in range(1234)))
        found = [json.loads(line) for line in self.run_(json=True)]
        self.assertEqual([each["recipient"] for each in found], [f"{number}@example.org" for number in range(1234)])
        self.assertEqual(len(self.run_(json=True, limit=7)), 7)


class RowTests(SynchronousTestCase):
    def test_object(self) -> None:
        """The keys and types for programs do not change."""
        self.assertEqual(
            row_object(ROW, EPOCH + 61.5),
            {
                "id": "01M84K5TBJT19QH7RF59KX03HC",
                "account": "Acme",
                "account_digest": "0b026dcaf52dd2d7",
                "recipient": "jane@example.org",
                "tag": "welcome",
                "accepted_at": "2026-11-23T13:20:00Z",
                "age": 61.5,
                "size": 4096,
                "state": "waiting",
                "attempts": 2,
                "next_attempt_at": "2026-11-23T13:24:00Z",
                "last_answer": "451 4.4.1 The platform is not reachable, try again later",
                "reason": "",
            },
        )

    def test_next(self) -> None:
        """The next attempt is a time, or what the row does instead."""
        rows = [
            (ROW, "4m"),
            (evolve(ROW, next_attempt=EPOCH), "1s"),
            (evolve(ROW, state="due"), "now"),
            (evolve(ROW, state="in flight"), "posting"),
            (evolve(ROW, state="failed", next_attempt=None), "failed"),
        ]
        self.assertEqual([cells(row, EPOCH)["NEXT"] for row, _ in rows], [said for _, said in rows])

    def test_clock_behind(self) -> None:
        """A machine whose clock is behind that of the database shows no negative age."""
        self.assertEqual(cells(ROW, EPOCH - 90)["AGE"], "0s")
        self.assertEqual(row_object(ROW, EPOCH - 90)["age"], 0)

    def test_nameless_account(self) -> None:
        """An account without a name is shown by the beginning of its digest."""
        self.assertEqual(cells(evolve(ROW, account_name=""), EPOCH)["ACCOUNT"], "0b026dca")


class ShowTests(QueueCase):
    def setUp(self) -> None:
        super().setUp()
        attached = (Attachment("bill.pdf", "application/pdf", b"x" * 2000),)
        first = Entry(submission("jane@example.org", attachments=attached), delay=60.0, attempts=1, last_answer="451 x")
        second = evolve(failure("bo@example.org"), submission=submission("bo@example.org", attachments=attached))
        self.put("A1", first, second)

    def test_show(self) -> None:
        """A message is shown with its headers, its attachments' names, and how each recipient stands."""
        self.clock.advance(30)
        size = next(json.loads(line)["size"] for line in self.run_(json=True))
        self.assertEqual(
            self.run_("show", "A1"),
            [
                "Message     A1",
                "Account     Acme (digest Acme-dig)",
                "Accepted    2026-11-23T13:20:00Z, 30s ago",
                f"Size        {size:,} bytes",
                "From        Shop <shop@example.com>",
                "Subject     Hello",
                "Return-Path bounce@example.com",
                "Tag         welcome",
                "Attachment  bill.pdf (application/pdf, 2,000 bytes)",
                "",
                "jane@example.org",
                "  waiting, next attempt in 30s; 1 attempt",
                "  451 x",
                "",
                "bo@example.org",
                "  failed: refused; 1 attempt",
                "  554 5.6.0 tag: no",
            ],
        )

    def test_json(self) -> None:
        """A program gets the same as one JSON object."""
        (line,) = self.run_("show", "A1", json=True)
        found = json.loads(line)
        self.assertEqual((found["id"], found["fields"]["subject"]), ("A1", "Hello"))
        self.assertEqual(
            [(each["recipient"], each["state"]) for each in found["recipients"]],
            [("jane@example.org", "waiting"), ("bo@example.org", "failed")],
        )
        self.assertEqual(
            found["attachments"], [{"filename": "bill.pdf", "content_type": "application/pdf", "size": 2000}]
        )

    def test_secrets(self) -> None:
        """Neither the API key, nor the body, nor the variables are shown."""
        shown = [line for json in (False, True) for name in ("list", "show")
                 for line in self.run_(name, *(["A1"] if name == "show" else []), json=json)]  # fmt: skip
        self.assertNotIn("canary", "\n".join(shown))

    def test_several(self) -> None:
        """Several are shown with a line between them; one that is not there does not hide the others."""
        self.put("A2", "jane@example.org")
        lines = self.run_("show", "A1", "A2")
        self.assertEqual(lines[lines.index("Message     A2") - 1], "")
        shown: list[str] = []
        with open_queue(self.url) as queue:
            error = self.assertRaises(
                CannotDo, run, queue, Command("show", ("B1", "A2", "B\x1b2")), Terminal(shown.append)
            )
        self.assertIn("Message     A2", shown)
        self.assertEqual([line.partition(":")[0] for line in str(error).splitlines()], ["B1", "B?2"])


class RetryTests(QueueCase):
    def test_id(self) -> None:
        """A message's recipients are due at once, failures too; another's are not."""
        self.put("A1", "jane@example.org", failure("bo@example.org"))
        self.put("A2", "joe@example.org")
        self.assertEqual(self.take(), [])
        self.assertEqual(self.run_("retry", "A1"), ["A1: 2 recipients due now"])
        self.assertEqual(sorted(self.take()), ["bo@example.org", "jane@example.org"])

    def test_all(self) -> None:
        """Everything is due at once."""
        self.put("A1", "jane@example.org", failure("bo@example.org"))
        self.put("A2", "joe@example.org", account="Other")
        self.assertEqual(self.run_("retry"), ["3 recipients due now"])
        self.assertEqual(len(self.take()), 3)

    def test_selected(self) -> None:
        """The failures of an account alone are tried again."""
        self.put("A1", "jane@example.org", failure("bo@example.org"))
        self.put("A2", failure("joe@example.org"), account="Other")
        self.assertEqual(self.run_("retry", selection=Selection(account="Acme", failed=True)), ["1 recipient due now"])
        self.assertEqual(self.take(), ["bo@example.org"])

    def test_in_flight(self) -> None:
        """What is being posted is left alone, and that is said."""
        self.put("A1", "jane@example.org", Entry(submission("bo@example.org"), in_flight=30.0))
        self.assertEqual(self.run_("retry", "A1"), ["A1: 1 recipient due now; 1 being posted and left alone"])
        self.take()
        self.assertIn("A1: being posted now", self.refused("retry", "A1"))

    def test_unknown(self) -> None:
        """An id that is not there is refused; that the message may be delivered is said."""
        self.assertRegex(self.refused("retry", "B1"), "^B1: no such message in the spool; it was delivered")


class DropTests(QueueCase):
    def test_drop(self) -> None:
        """A dropped message is gone."""
        self.put("A1", "jane@example.org", failure("bo@example.org"))
        self.put("A2", "joe@example.org")
        self.assertEqual(self.run_("drop", "A1"), ["A1: 2 recipients dropped"])
        self.assertEqual([json.loads(line)["id"] for line in self.run_(json=True)], ["A2"])
        self.assertIn("no such message", self.refused("drop", "A1"))

    def test_asks(self) -> None:
        """At a terminal it asks first, names who will get nothing, and takes no for an answer."""
        self.put("A1", *(f"{number}@example.org" for number in range(5)))
        self.answers = [False, True]
        self.assertEqual(self.refused("drop", "A1"), "A1: not dropped")
        self.assertEqual(len(self.run_(json=True)), 5)
        self.assertEqual(self.run_("drop", "A1"), ["A1: 5 recipients dropped"])
        self.assertEqual(
            self.questions[0],
            "Drop A1 to 0@example.org, 1@example.org, 2@example.org and 2 more? They will not get it. [y/N] ",
        )

    def test_in_flight(self) -> None:
        """What is being posted cannot be dropped: the platform may have it."""
        self.put("A1", Entry(submission("bo@example.org"), in_flight=30.0))
        self.assertIn("being posted now", self.refused("drop", "A1"))
        self.assertEqual(len(self.run_(json=True)), 1)
