"""relay.leaving: who waits for work can leave, and the work goes on."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from relay.leaving import Course, Leavable


class CourseTests(SynchronousTestCase):
    """Work that waits for two things, one after the other, of either kind, and somebody who waits for it."""

    def setUp(self) -> None:
        self.noted: list[object] = []
        self.things: list[Deferred[str]] = []

    async def work(self) -> str:
        """Note each thing, or its failure."""
        for thing in self.things:
            try:
                self.noted.append(await thing)
            except (ZeroDivisionError, CancelledError) as error:
                self.noted.append(type(error))
        return "done"

    async def wait(self) -> bool:
        """Wait for the work; whether it has ended."""
        self.course: Course[Any] = Course(self.work())
        self.course.begin()
        return await self.until_left()

    async def until_left(self) -> bool:
        """Wait for the work that has begun; whether it has ended."""
        await self.course
        return self.course.ended

    def begin(self) -> Deferred[bool]:
        """Somebody waits."""
        self.noted.clear()
        return Deferred.fromCoroutine(self.wait())

    def test_ended(self) -> None:
        """Whoever waits sees the end, whatever comes of the things, and whether they are there before or come later."""
        for first, second in ((Deferred, Leavable), (Leavable, Deferred)):
            self.things = [first(), second()]
            waiting = self.begin()
            self.things[1].errback(ZeroDivisionError())
            self.assertNoResult(waiting)
            self.things[0].callback("first")
            self.assertTrue(self.successResultOf(waiting))
            self.assertEqual((self.course.result, self.noted), ("done", ["first", ZeroDivisionError]))

    def test_at_once(self) -> None:
        """Work that has to wait for nothing is done when it has begun."""
        self.assertTrue(self.successResultOf(self.begin()))

    def test_left(self) -> None:
        """Whoever leaves goes on at once, and so does the work, with what it waits for; somebody else sees its end."""
        for kind in (Deferred, Leavable):
            self.things = [kind(), kind(), kind()]
            waiting = self.begin()
            self.things[0].callback("first")
            self.course.leave()
            self.assertFalse(self.successResultOf(waiting))
            ended = Deferred.fromCoroutine(self.course.until_ended())
            self.things[1].errback(ZeroDivisionError())
            self.assertNoResult(ended)
            self.things[2].callback("last")
            self.successResultOf(ended)
            self.assertEqual((self.course.result, self.noted), ("done", ["first", ZeroDivisionError, "last"]))
            self.successResultOf(Deferred.fromCoroutine(self.course.until_ended()))

    def test_left_at_the_end(self) -> None:
        """It does no harm to leave what has ended."""
        self.successResultOf(self.begin())
        self.course.leave()
        self.assertEqual(self.course.result, "done")

    def test_left_by_the_work(self) -> None:
        """Work that makes those leave who wait for it is waited for no longer, and ends."""
        things: list[Leavable[None]] = [Leavable(), Leavable()]

        async def work() -> None:
            await things[0]
            self.course.leave()
            await things[1]

        self.course = Course(work())
        self.course.begin()
        waiting = Deferred.fromCoroutine(self.until_left())
        things[0].addCallback(lambda _: self.course.leave())
        things[0].callback(None)
        self.assertFalse(self.successResultOf(waiting))
        things[1].callback(None)
        self.assertTrue(self.course.ended)

    def test_cancelled(self) -> None:
        """Who waits for the work can cancel what it waits for."""
        for kind in (Deferred, Leavable):
            self.things = [kind()]
            waiting = self.begin()
            waiting.cancel()
            self.assertTrue(self.successResultOf(waiting))
            self.assertEqual(self.noted, [CancelledError])

    def test_context(self) -> None:
        """The work keeps the context in which it began, also when it is left in another."""
        span: ContextVar[str] = ContextVar("span")
        seen: list[str] = []

        async def work() -> None:
            await thing
            seen.append(span.get("none"))

        async def wait() -> None:
            span.set("mine")
            self.course = Course(work())
            self.course.begin()
            await self.course

        for leave in (False, True):
            thing: Leavable[None] = Leavable()
            waiting = Deferred.fromCoroutine(wait())
            if leave:
                self.course.leave()
            thing.callback(None)
            self.successResultOf(waiting)
        self.assertEqual(seen, ["mine", "mine"])
