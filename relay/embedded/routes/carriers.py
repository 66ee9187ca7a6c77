"""All routes at work: a carrier for each that sends, as the table of routes has them now."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import sqlalchemy as sa
from attrs import define, field
from sqlalchemy.exc import SQLAlchemyError
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger

from relay.embedded import deliveries
from relay.embedded.database import is_postgresql
from relay.embedded.routes import table
from relay.embedded.routes.carrier import Carrier, Desk
from relay.embedded.routes.values import PostalRoute
from relay.embedded.routes.ways import NotTaken, Way
from relay.spool.crypto import Cipher
from relay.spool.pacing import Pause

#: Seconds between two looks at the routes: another backend's administrator changes them too.
LOOK = 2.0
#: Seconds that a route which was changed or deleted has for what is under way: longer than its last answer may take.
GRACE = 660.0

log = Logger()


@define(eq=False)
class Carriers:
    """Starts and stops carriers.

    :param way: how messages leave by a route; None: they do not.
    """

    desk: Desk
    _cipher: Cipher
    _way: Callable[[PostalRoute], Way | None]
    _working: dict[str, tuple[PostalRoute, Carrier]] = field(factory=dict, init=False)
    _leaving: set[Deferred[None]] = field(factory=set, init=False)
    _watching: Deferred[None] | None = field(default=None, init=False)
    _stopping: bool = field(default=False, init=False)
    _looks: Pause = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._looks = Pause(self.desk.clock)

    def start(self) -> None:
        """Begin."""
        self._watching = Deferred.fromCoroutine(self._watch())

    def wake(self, route: str) -> None:
        """Something new waits for *route*."""
        found = self._working.get(route)
        if found is not None:
            found[1].wake()

    def look(self) -> None:
        """The routes, or who may use them, have changed."""
        self._looks.end()

    def down(self) -> set[str]:
        """The routes that count as down: only a probe is made now and then."""
        return {id for id, (_, carrier) in self._working.items() if carrier.breaker.open}

    async def probe(self, route: PostalRoute) -> tuple[list[tuple[str, str]], str]:
        """What is said when *route* is tried, ``">"`` by us and ``"<"`` by who takes messages there, and what is
        wrong, ``""``: nothing.
        """
        said: list[tuple[str, str]] = []
        way = self._way(route)
        try:
            if way is not None:
                await way.probe(lambda who, line: said.append((who, line)))
        except NotTaken as refused:
            return said, refused.text
        return said, ""

    async def stop(self, seconds: float) -> None:
        """Take nothing new, and let what is under way finish within *seconds*."""
        self._stopping = True
        self._looks.end()
        if self._watching is not None:
            await self._watching
        for _, carrier in self._working.values():
            self._leave(carrier, seconds)
        self._working.clear()
        if self._leaving:
            # Those that were changed lately have no more time either.
            await gatherResults(list(self._leaving))

    async def _watch(self) -> None:
        begun = False
        while not self._stopping:
            try:
                if not begun and await self.desk.database.read(_are_left):
                    await self.desk.database.write(partial(deliveries.release, now=self.desk.now()))
                begun = True
                await self._look()
            except SQLAlchemyError as error:
                said = str(getattr(error, "orig", None) or type(error).__name__)
                log.error("embedded: the routes cannot be read: {problem}", problem=said)
            except Exception:
                log.failure("embedded: the routes cannot be brought to work")
            if not self._stopping:
                await self._looks.wait(LOOK)

    async def _look(self) -> None:
        routes, stranded = await self.desk.database.read(
            lambda connection: (table.listed(connection, self._cipher), deliveries.are_stranded(connection))
        )
        if self._stopping:
            return
        wanted = {route.id: route for route in routes}
        for id, (route, carrier) in list(self._working.items()):
            if wanted.get(id) != route:
                del self._working[id]
                self._leave(carrier, GRACE)
        for id, route in wanted.items():
            way = self._way(route) if id not in self._working else None
            if way is not None:
                carrier = Carrier(self.desk, id, way)
                self._working[id] = route, carrier
                carrier.start()
        if stranded:
            await self.desk.database.write(partial(deliveries.fail_stranded, now=self.desk.now()))

    def _leave(self, carrier: Carrier, seconds: float) -> None:
        leaving = Deferred.fromCoroutine(carrier.stop(seconds))
        leaving.addErrback(lambda failure: log.failure("embedded: a route did not stop", failure))
        self._leaving.add(leaving)
        leaving.addBoth(lambda _: self._leaving.discard(leaving))


def _are_left(connection: sa.Connection) -> bool:
    """Whether the last life of this backend left something in hand, where no other backend can have it."""
    return not is_postgresql(connection) and deliveries.are_in_hand(connection)
