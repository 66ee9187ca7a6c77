"""What the embedded backend is told of each message."""

from __future__ import annotations

import json
from typing import Any

import attrs
from twisted.internet.defer import Deferred

from relay import replies
from relay.client.reports import BATCH, MOST_WAITING, PAUSE, WAIT, Reports
from relay.errors import PermanentFailure, Reason
from relay.values import Outcome, Record
from tests.client.platformcase import PlatformCase
from tests.client.rawserver import CLOSE, http_answer

RECORD = Record(
    id="4C0FFEE",
    account="Shop",
    key="abcd…",
    peer="192.0.2.7",
    sender="bounce@example.com",
    recipients=("a@example.org", "b@example.org"),
    tag="orders",
    route="",
    result="accepted",
    verdict="250 Ok: queued as 4C0FFEE",
    reason="",
    milliseconds=12.34,
    size=5,
    seconds={},
    images_removed=1,
    headers_removed=("X-Mailer",),
    subject="Hello",
    digest=b"\x01" * 32,
)
OK = http_answer(200, b'{"result":"ok"}')


class ReportsTests(PlatformCase):
    """One relay."""

    def make(self, *steps: object) -> Reports:
        """Reports to a backend that answers with *steps*."""
        self.start(*([step] for step in steps))
        self.reports = Reports("http://127.0.0.1:9", "secret-token", self.client, self.clock, replies.reply)
        return self.reports

    def told(self) -> list[dict[str, Any]]:
        """All reports that arrived."""
        return [each for request in self.platform.requests for each in json.loads(request.body)["reports"]]

    def run_for(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.advance(seconds)
        self.platform.flush()

    def test_batch(self) -> None:
        """Messages that come side by side are told in one POST, with the token, soon."""
        reports = self.make(OK)
        for _ in range(3):
            reports.record(RECORD)
        self.assertEqual(self.told(), [])
        self.run_for(WAIT)
        (request,) = self.platform.requests
        self.assertEqual(
            (request.line, request.headers["x-relay-token"]), ("POST /api/relay/reports HTTP/1.1", "secret-token")
        )
        told = self.told()
        self.assertEqual(len(told), 3)
        self.assertEqual(
            {
                name: told[0][name]
                for name in ("id", "account", "reply", "images", "headers", "refused", "milliseconds")
            },
            {
                "id": "4C0FFEE",
                "account": "01" * 32,
                "reply": "250 Ok: queued as 4C0FFEE",
                "images": 1,
                "headers": ["X-Mailer"],
                "refused": {},
                "milliseconds": 12.3,
            },
        )

    def test_full_batch(self) -> None:
        """A full batch waits for nothing."""
        reports = self.make(OK, OK)
        for _ in range(BATCH):
            reports.record(RECORD)
        self.platform.flush()
        self.assertEqual(len(self.told()), BATCH)

    def test_refused(self) -> None:
        """Of a refused message every recipient is told, with the reply; of one taken in part, those that failed."""
        reports = self.make(OK)
        reports.record(attrs.evolve(RECORD, result="refused", verdict="550 5.7.1 No"))
        failed = Outcome("b@example.org", PermanentFailure(Reason.REFUSED, "no such route"))
        reports.record(attrs.evolve(RECORD, result="partial", outcomes=(Outcome("a@example.org"), failed)))
        self.run_for(WAIT)
        whole, part = (each["refused"] for each in self.told())
        self.assertEqual(whole, {"a@example.org": "550 5.7.1 No", "b@example.org": "550 5.7.1 No"})
        self.assertEqual(list(part), ["b@example.org"])
        self.assertIn("no such route", part["b@example.org"])

    def test_nobody(self) -> None:
        """A message without an account is told to nobody."""
        self.make(OK).record(attrs.evolve(RECORD, digest=b""))
        self.run_for(WAIT)
        self.assertEqual(self.told(), [])

    def test_again(self) -> None:
        """What did not arrive is told again, in order; what the backend refuses is not."""
        reports = self.make(CLOSE, OK, http_answer(400), OK)
        reports.record(RECORD)
        self.run_for(WAIT)
        reports.record(attrs.evolve(RECORD, id="LATER"))
        self.run_for(PAUSE)
        self.assertEqual([each["id"] for each in self.told()], ["4C0FFEE", "4C0FFEE", "LATER"])
        reports.record(attrs.evolve(RECORD, id="WRONG"))
        self.run_for(WAIT)
        self.run_for(10 * PAUSE)
        self.assertEqual([each["id"] for each in self.told()][3:], ["WRONG"])

    def test_bounded(self) -> None:
        """A backend that does not answer costs so much memory and no more."""
        reports = self.make()
        for number in range(MOST_WAITING + 3 * BATCH):
            reports.record(attrs.evolve(RECORD, id=str(number)))
        self.assertEqual(len(reports._waiting), MOST_WAITING)

    def test_stop(self) -> None:
        """What is left when the relay stops is told."""
        reports = self.make(OK, OK)
        for _ in range(BATCH + 1):
            reports.record(RECORD)
        stopped = Deferred.fromCoroutine(reports.stop())
        for _ in range(4):
            self.platform.flush()
        self.successResultOf(stopped)
        self.assertEqual(len(self.told()), BATCH + 1)
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(self.make().stop())), None)
