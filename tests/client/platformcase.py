"""A backend on a raw platform in memory, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, eventAsText
from twisted.trial.unittest import SynchronousTestCase

from relay.client.agent import treq_client
from relay.client.backend import Backend
from relay.client.pool import Pool, make_client
from relay.client.request import Client, Exchange
from relay.errors import Failure, Reason
from relay.policy import Platform
from relay.values import Submission
from tests.client.rawserver import InMemory, RawPlatform

KEY = "canary-5d41402abc4b2a76"

SUBMISSION = Submission(
    api_key=KEY,
    request_id="ABC123",
    idempotency_key="ABC123-1",
    fromname="Jürgen, Co.",
    fromemail="shop@example.com",
    to="jane@example.org",
    toname="Jane",
    subject="Hello",
    replyto="",
    returnpath="bounce@example.com",
    body="<p>Hello</p>",
    tag="untagged",
    route="",
    template="",
    variables={"name": "Zoë"},
)


class ThroughTreq:
    """Mixed into a :class:`PlatformCase`: between the backend and the pool stands treq."""

    def through(self, pool: Pool, settings: Platform) -> Client | Exchange:
        """treq, on the agent on *pool*."""
        return treq_client(pool, settings)


class PlatformCase(SynchronousTestCase):
    """A backend, in memory, on a clock."""

    def start(self, *script: list[Any], url: str = "http://platform.test", **policy: Any) -> Backend:
        """A backend on a platform with *script*; ``self.platform``, ``clock``, ``client``, ``labels`` beside it."""
        self.clock = Clock()
        self.platform = RawPlatform(*script)
        self.endpoints = InMemory(self.platform)
        self.labels: list[str] = []
        settings = Platform(**policy)
        self.client = make_client(self.clock, settings, self.endpoints)
        self.backend = Backend(
            url,
            self.through(self.client, settings),
            policy=settings,
            clock=self.clock,
            answered=self.labels.append,
            now=lambda: 1e9,
        )
        return self.backend

    def through(self, pool: Pool, settings: Platform) -> Client | Exchange:
        """What the backend is given; *pool* itself."""
        return pool

    def ask(self, coroutine: Coroutine[Any, Any, Any]) -> Deferred[Any]:
        """Run *coroutine* as far as the bytes in memory carry it."""
        asked = Deferred.fromCoroutine(coroutine)
        self.platform.flush()
        return asked

    def send(self, **changes: Any) -> Deferred[Any]:
        """Send the submission, with *changes*."""
        return self.ask(self.backend.send(evolve(SUBMISSION, **changes)))

    def assert_sent(self, sent: Deferred[Any]) -> None:
        self.assertIsNone(self.successResultOf(sent))

    def assert_failed(self, asked: Deferred[Any], kind: type[Failure], reason: Reason) -> Failure:
        """*asked* has failed with *kind* and *reason*; the failure."""
        failure = self.failureResultOf(asked, kind).value
        self.assertIs(failure.reason, reason)
        return failure


def logged(events: Any) -> str:
    """All that *events* would be in a log, tracebacks included."""
    return "\n".join(eventAsText(event) for event in events)


__all__ = ["KEY", "SUBMISSION", "PlatformCase", "ThroughTreq", "capturedLogs", "logged"]
