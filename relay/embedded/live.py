"""What is new in the logs, for those who look at one: they are told after a commit, not asked again and again.

Where several backends share a PostgreSQL nobody tells of the others' commits: the database is asked once a second, and
only while somebody looks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import sqlalchemy as sa
from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from relay.embedded.rules import Refused
from relay.embedded.schema import messages

#: Most listeners of all, and of one session: a browser has 6 connections to a server.
MOST = 200
MOST_OF_SESSION = 4

#: Least seconds between two looks at the database: messages that come side by side are told together.
PAUSE = 0.3

#: Seconds between two looks where other backends change the database too.
POLL = 1.0

#: Seconds between two signs of life, at which it is also seen whether the session is over.
HEARTBEAT = 15.0

#: Newest messages of an account whose changes are told.
WATCHED = 200

log = Logger()


@frozen
class News:
    """What is new in an account's log: keys of messages."""

    added: frozenset[int] = frozenset()
    changed: frozenset[int] = frozenset()


class Listener(Protocol):
    """One who looks at a log.

    :ivar after: the key of the newest message it knows.
    """

    account: int
    session: str
    after: int

    async def tell(self, news: News) -> None:
        """There are news."""

    async def beat(self) -> None:
        """It is time for a sign of life."""

    def end(self) -> None:
        """It is over; :meth:`Live.remove` has been called."""


@define
class _Account:
    """The listeners of one account, and what they know: when each of its newest messages changed.

    :ivar fresh: those that have not been told anything yet.
    """

    known: dict[int, float] = field(factory=dict)
    listeners: list[Listener] = field(factory=list)
    fresh: list[Listener] = field(factory=list)


#: (key, when it changed) of an account's newest messages.
Look = Callable[[int], Awaitable[dict[int, float]]]


def newest(connection: sa.Connection, account: int) -> dict[int, float]:
    """When each of the newest messages of an account changed, by key."""
    query = sa.select(messages.c.seq, messages.c.updated).where(messages.c.account == account)
    return dict(connection.execute(query.order_by(messages.c.seq.desc()).limit(WATCHED)).tuples().all())


def _news(known: dict[int, float], found: dict[int, float]) -> News:
    """What of the newest messages *found* is new, where *known* were the newest ones before."""
    oldest = min(known, default=0)
    added = frozenset(seq for seq in found if seq not in known and seq > oldest)
    return News(added, frozenset(seq for seq, at in found.items() if known.get(seq, at) != at))


class Live:
    """Everybody who looks at a log.

    :param look: see :data:`Look`.
    :param shared: whether other backends change the database too.
    :param most: most listeners of all.
    """

    def __init__(self, look: Look, clock: IReactorTime, *, shared: bool = False, most: int = MOST) -> None:
        self._most = most
        self._look = look
        self._clock = clock
        self._shared = shared
        self._accounts: dict[int, _Account] = {}
        self._call: IDelayedCall | None = None
        self._beat: IDelayedCall | None = None
        self._looking = False
        self._again = False
        self._stopped = False

    def __len__(self) -> int:
        return sum(len(each.listeners) for each in self._accounts.values())

    def add(self, listener: Listener) -> None:
        """From now on *listener* is told; the oldest of a session with too many is ended.

        :raises Refused: 503, there are too many.
        """
        same = [each for one in self._accounts.values() for each in one.listeners if each.session == listener.session]
        if len(same) >= MOST_OF_SESSION:
            self.remove(same[0])
            same[0].end()
        if len(self) >= self._most or self._stopped:
            raise Refused(503, "Busy", "Too many look at logs now, try again later", [("Retry-After", "30")])
        account = self._accounts.setdefault(listener.account, _Account())
        account.listeners.append(listener)
        account.fresh.append(listener)
        if self._beat is None:
            self._beat = self._clock.callLater(HEARTBEAT, self._beats)
        self._schedule(0)

    def remove(self, listener: Listener) -> None:
        """*listener* is gone."""
        account = self._accounts.get(listener.account)
        if account is None or listener not in account.listeners:
            return
        account.listeners.remove(listener)
        if listener in account.fresh:
            account.fresh.remove(listener)
        if not account.listeners:
            del self._accounts[listener.account]
        if not self._accounts:
            self._cancel()

    def changed(self) -> None:
        """There was a commit."""
        if self._accounts:
            self._schedule(PAUSE)

    def end(self, session: str) -> None:
        """The session is over, or looks at another account."""
        for listener in [each for one in self._accounts.values() for each in one.listeners if each.session == session]:
            self.remove(listener)
            listener.end()

    def stop(self) -> None:
        """End all."""
        self._stopped = True
        for listener in [each for one in self._accounts.values() for each in one.listeners]:
            self.remove(listener)
            listener.end()
        self._cancel()

    def _schedule(self, delay: float) -> None:
        if self._looking:
            self._again = True
        elif self._call is None:
            self._call = self._clock.callLater(delay, self._tick)

    def _cancel(self) -> None:
        for call in (self._call, self._beat):
            if call is not None and call.active():
                call.cancel()
        self._call = self._beat = None

    def _tick(self) -> None:
        self._call = None
        self._looking, self._again = True, False
        done = Deferred.fromCoroutine(self._all())
        done.addErrback(lambda failure: log.failure("embedded: the logs cannot be followed", failure))
        done.addBoth(self._ticked)

    def _ticked(self, result: object) -> None:
        self._looking = False
        if self._accounts and not self._stopped:
            if self._again:
                self._schedule(PAUSE)
            elif self._shared:
                self._schedule(POLL)

    async def _all(self) -> None:
        for id, account in list(self._accounts.items()):
            found = await self._look(id)
            fresh, account.fresh = account.fresh, []
            news = _news(account.known, found)
            account.known = found
            for listener in list(account.listeners):
                # Who is fresh has not seen what came between its page and now.
                told = News(frozenset(seq for seq in found if seq > listener.after)) if listener in fresh else news
                if told.added or told.changed:
                    await listener.tell(told)

    def _beats(self) -> None:
        self._beat = self._clock.callLater(HEARTBEAT, self._beats)
        done = Deferred.fromCoroutine(self._beat_all())
        done.addErrback(lambda failure: log.failure("embedded: the logs cannot be followed", failure))

    async def _beat_all(self) -> None:
        for listener in [each for one in self._accounts.values() for each in one.listeners]:
            await listener.beat()
