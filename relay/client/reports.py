"""Tells the embedded backend what the relay's clients were told, for its log: also of what never came to it.

It delays no message and fails none: what cannot be told is tried again for a while, and then forgotten.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from relay import wire
from relay.client.answers import NoAnswer
from relay.client.request import Exchange, Request, target
from relay.errors import Failure
from relay.values import Record

#: Most records in one POST, and how long the first of them waits for others, in seconds.
BATCH = 200
WAIT = 0.1

#: Most records that are kept while the backend does not answer, and the pause before it is asked again.
MOST_WAITING = 10_000
PAUSE = 1.0

#: Deadline of one POST in seconds, and bytes of its answer that are read.
SECONDS = 10.0
ANSWER_SIZE = 65_536

log = Logger()


class Reports:
    """What is to be told.

    :param url: of the backend's own listener for the relay.
    :param token: says that it is the relay.
    :param reply: what a client is told of a failure.
    """

    def __init__(
        self, url: str, token: str, client: Exchange, clock: IReactorTime, reply: Callable[[Failure], object]
    ) -> None:
        fields = (("Content-Type", "application/json"), ("X-Relay-Token", token))
        self._target = target("POST", f"{url}/api/relay/reports", fields)
        self._client = client
        self._clock = clock
        self._reply = reply
        self._waiting: deque[Record] = deque(maxlen=MOST_WAITING)
        self._call: IDelayedCall | None = None
        self._posting = False
        self._ends: list[Deferred[None]] = []
        self._stopping = False

    def record(self, record: Record) -> None:
        """Tell of *record* soon."""
        if not record.digest:
            return  # Whose it was is not known.
        self._waiting.append(record)
        if len(self._waiting) >= BATCH:
            self._post()
        elif self._call is None and not self._posting:
            self._call = self._clock.callLater(WAIT, self._post)

    async def stop(self) -> None:
        """Tell what is left, once."""
        self._stopping = True
        while self._waiting or self._posting:
            self._post()
            ended: Deferred[None] = Deferred()
            self._ends.append(ended)
            await ended

    def _post(self) -> None:
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None
        if self._posting or not self._waiting:
            return
        self._posting = True
        batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
        posted = Deferred.fromCoroutine(self._posted(batch))
        posted.addErrback(lambda failure: log.failure("reports: not told", failure))
        posted.addCallback(self._ended)

    def _ended(self, pause: float | None) -> None:
        self._posting = False
        if self._waiting and not self._stopping:
            self._call = self._clock.callLater(WAIT if pause is None else pause, self._post)
        ends, self._ends = self._ends, []
        for ended in ends:
            ended.callback(None)

    async def _posted(self, batch: list[Record]) -> float | None:
        """POST *batch*; None, or how long to wait before the next one."""
        body = wire.dump({"reports": [self._report(record) for record in batch]})
        try:
            answer = await self._client.exchange(Request(self._target, (), (body,)), seconds=SECONDS, limit=ANSWER_SIZE)
        except NoAnswer:
            status = 0
        else:
            status = answer.status
        if status == 200:
            return None
        if status and status < 500:
            log.error("reports: the backend answered {status}", status=status)
            return None
        if not self._stopping:
            room = MOST_WAITING - len(self._waiting)
            self._waiting.extendleft(reversed(batch[-room:] if room else []))
        return PAUSE

    def _report(self, record: Record) -> dict[str, Any]:
        """*record* as JSON; *refused* holds who did not get the message, and why, as the client was told."""
        accepted = record.result in ("accepted", "spooled", "partial")
        told = {each.recipient: str(self._reply(each.failure)) for each in record.outcomes if each.failure is not None}
        refused = told if accepted else dict.fromkeys(record.recipients, record.verdict)
        return {
            "id": record.id,
            "account": record.digest.hex(),
            "peer": record.peer,
            "reply": record.verdict,
            "reason": record.reason,
            "milliseconds": round(record.milliseconds, 1),
            "refused": refused,
            "sender": record.sender,
            "from": record.from_email,
            "subject": record.subject,
            "tag": record.tag,
            "route": record.route,
            "size": record.size,
            "images": record.images_removed,
            "attachments": record.attachments_removed,
            "cids": record.cid_references,
            "headers": list(record.headers_removed),
        }
