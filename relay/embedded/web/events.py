"""``/events``: what is new in the log, as server-sent events, for the same filters as the page.

``rows``: new rows, newest first.  ``changed``: rows that have another status now.  ``many``: too many new ones to
send, look again.  ``end``: do not come back.  An event's id is that of the newest message it knows; a browser that
comes back gives it as Last-Event-ID.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from twisted.web.server import Request
from zope.interface import implementer

from relay.embedded import listing, sessions
from relay.embedded.api.core import header
from relay.embedded.api.log import wanted_of
from relay.embedded.listing import Filter
from relay.embedded.live import News
from relay.embedded.resource import Answer, argument
from relay.embedded.rules import Refused
from relay.embedded.store import Entry
from relay.embedded.web.frame import HEADERS, SESSION, AccountPage, Frontend, Viewer, fragment, tenant_of

#: Most rows in one event.
MOST_ROWS = 50

#: How long a browser waits before it comes back, in milliseconds.
RETRY = 2000


class Events(AccountPage):
    """``/events?FILTERS&after=ID``."""

    async def of(self, viewer: Viewer, request: Request) -> Answer:
        account = tenant_of(viewer).id
        wanted = wanted_of(request)
        known = header(request, "Last-Event-ID") or argument(request, "after")
        after = await self.frontend.platform.look(lambda connection: listing.key(connection, account, known))
        token = self.frontend.cookies.read(request, SESSION)
        stream = _Stream(self.frontend, viewer, token, account, wanted, after or 0)
        # A proxy in between is to pass each event on at once.
        headers = (*HEADERS, ("X-Accel-Buffering", "no"))
        began = f"retry: {RETRY}\n\n".encode()
        if request.method != b"HEAD":
            self.frontend.live.add(stream)
        return Answer(began, "text/event-stream; charset=utf-8", headers=headers, follow=stream.follow)


@implementer(IPushProducer)
class _Stream:
    """One browser that looks at the log."""

    def __init__(
        self, frontend: Frontend, viewer: Viewer, token: str, account: int, wanted: Filter, after: int
    ) -> None:
        self.account = account
        self.session = viewer.session
        self._token = token
        self.after = after
        self._frontend = frontend
        self._wanted = wanted
        self._request: Any = None
        self._over = False
        self._full = False

    def follow(self, request: Request) -> None:
        """Write to *request* from now on."""
        self._request = request
        request.notifyFinish().addBoth(self._gone)
        if self._over:
            self._finish()
            return
        request.registerProducer(self, True)

    async def tell(self, news: News) -> None:
        """See :class:`relay.embedded.live.Listener`."""
        try:
            added = await self._of(self._wanted, news.added)
            # The page may have each of the rows that changed, whatever its filters say now.
            changed = await self._of(Filter(), news.changed)
        except Refused:
            self._send("many", "")
            return
        if len(added) > MOST_ROWS:
            self._send("many", str(len(added)), added[0].id)
        elif added:
            self._send("rows", _rows(added), added[0].id)
        if changed:
            self._send("changed", _rows(changed))

    async def beat(self) -> None:
        """See :class:`relay.embedded.live.Listener`."""
        if self._request is None or self._over:
            return
        platform, token = self._frontend.platform, self._token
        oldest = platform.now() - self._frontend.policy.session
        found = await platform.look(lambda connection: sessions.find(connection, token, oldest))
        # An open page is no look at it: the session ends in its time.
        if found is None or found.tenant is None or found.tenant.id != self.account:
            self._frontend.live.remove(self)
            self.end()
        else:
            self._write(b": \n\n")

    def end(self) -> None:
        """See :class:`relay.embedded.live.Listener`."""
        if not self._over:
            self._send("end", "")
            self._over = True
            self._finish()

    def pauseProducing(self) -> None:
        """The browser does not read."""
        self._full = True

    def resumeProducing(self) -> None:
        """It reads again."""
        self._full = False

    def stopProducing(self) -> None:
        """It is gone."""

    async def _of(self, wanted: Filter, keys: frozenset[int]) -> list[Entry]:
        account = self.account
        if not keys:
            return []
        return await self._frontend.platform.look(lambda connection: listing.of_keys(connection, account, wanted, keys))

    def _send(self, event: str, data: str, id: str = "") -> None:
        lines = [f"event: {event}", *(f"data: {line}" for line in data.split("\n")), *([f"id: {id}"] if id else [])]
        self._write(("\n".join(lines) + "\n\n").encode("utf-8", "replace"))

    def _write(self, data: bytes) -> None:
        if self._over or self._request is None:
            return
        if self._full:
            # It has had time since the last event; nothing is kept for it.  It may come back.
            self._request.channel.forceAbortClient()
            return
        self._request.write(data)

    def _finish(self) -> None:
        if self._request is not None:
            self._request.unregisterProducer()
            self._request.finish()

    def _gone(self, reason: Failure | None) -> None:
        self._over = True
        self._frontend.live.remove(self)


def _rows(entries: Sequence[Entry]) -> str:
    """The rows as the page has them, without line ends in excess."""
    text = fragment("rows.html", entries=entries)
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())
