"""Who looks at a log is told what is new, soon and not too often."""

from __future__ import annotations

from attrs import define, field
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relay.embedded.live import HEARTBEAT, PAUSE, POLL, Live, News
from relay.embedded.rules import Refused


@define(eq=False)
class Watcher:
    """One who notes what it is told."""

    account: int = 1
    session: str = "one"
    after: int = 0
    told: list[News] = field(factory=list)
    beats: int = 0
    ended: bool = False

    async def tell(self, news: News) -> None:
        self.told.append(news)

    async def beat(self) -> None:
        self.beats += 1

    def end(self) -> None:
        self.ended = True


class LiveTests(SynchronousTestCase):
    """Over a database of keys and times."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.messages: dict[int, float] = {1: 0.0, 2: 0.0}
        self.looks = 0
        self.live = self.make()

    def make(self, **options: bool | int) -> Live:
        async def look(account: int) -> dict[int, float]:
            self.looks += 1
            return dict(self.messages)

        return Live(look, self.clock, **options)  # type: ignore[arg-type]

    def watch(self, live: Live | None = None, **fields: int | str) -> Watcher:
        watcher = Watcher(**fields)  # type: ignore[arg-type]
        (self.live if live is None else live).add(watcher)
        self.clock.advance(0)
        return watcher

    def test_catches_up(self) -> None:
        """One who comes is told what its page does not know, also while others look already."""
        self.assertEqual(self.watch(after=1).told, [News(frozenset({2}))])
        self.assertEqual(self.watch(after=2, session="two").told, [])
        self.assertEqual(self.watch(after=0, session="three").told, [News(frozenset({1, 2}))])

    def test_news(self) -> None:
        """New and changed messages are told after a commit, many commits together."""
        watcher = self.watch(after=2)
        self.messages.update({2: 5.0, 3: 1.0})
        for _ in range(10):
            self.live.changed()
        looks = self.looks
        self.clock.advance(PAUSE)
        self.assertEqual(watcher.told, [News(frozenset({3}), frozenset({2}))])
        self.assertEqual(self.looks, looks + 1)

    def test_nobody(self) -> None:
        """While nobody looks, nothing is asked, and no call is left."""
        self.live.changed()
        watcher = self.watch()
        self.live.remove(watcher)
        looks = self.looks
        self.live.changed()
        self.clock.advance(100)
        self.assertEqual((self.looks, self.clock.getDelayedCalls()), (looks, []))

    def test_shared(self) -> None:
        """Where others change the database too it is asked once a second, only there."""
        for live, told in ((self.make(shared=True), [News(frozenset({3}))]), (self.live, [])):
            self.messages.pop(3, None)
            watcher = self.watch(live, after=2)
            self.messages[3] = 1.0
            self.clock.advance(POLL)
            self.assertEqual(watcher.told, told)

    def test_late(self) -> None:
        """A message with a smaller key that another backend commits later is told."""
        watcher = self.watch(after=2)
        self.messages[5] = 0.0
        self.live.changed()
        self.clock.advance(PAUSE)
        self.messages[4] = 0.0
        self.live.changed()
        self.clock.advance(PAUSE)
        self.assertEqual(watcher.told, [News(frozenset({5})), News(frozenset({4}))])

    def test_heartbeat(self) -> None:
        """Each has a sign of life now and then."""
        watcher = self.watch()
        self.clock.pump([HEARTBEAT, HEARTBEAT])
        self.assertEqual(watcher.beats, 2)

    def test_bounds(self) -> None:
        """Past the bound in all one is refused; a session past its own loses its oldest."""
        mine = [self.watch() for _ in range(5)]
        self.assertEqual([each.ended for each in mine], [True, False, False, False, False])
        full = self.make(most=1)
        self.watch(full)
        with self.assertRaises(Refused) as caught:
            self.watch(full, session="two")
        self.assertEqual(caught.exception.status, 503)

    def test_session_ends(self) -> None:
        """A session that is over takes its own with it."""
        mine, other = self.watch(), self.watch(session="two")
        self.live.end("one")
        self.assertEqual((mine.ended, other.ended, len(self.live)), (True, False, 1))
