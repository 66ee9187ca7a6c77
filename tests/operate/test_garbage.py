"""When Python looks for garbage."""

from __future__ import annotations

import gc

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from relay.message import parse
from relay.operate.garbage import look_seldom
from relay.pipeline import Pipeline
from relay.testing import FakePlatform, make_message
from relay.values import Account, Envelope


class GarbageTests(SynchronousTestCase):
    def test_look_seldom(self) -> None:
        """Python looks for cycles at every 20,000th object, and not at what the process began with."""
        self.addCleanup(gc.set_threshold, *gc.get_threshold())
        self.addCleanup(gc.unfreeze)
        look_seldom()
        self.assertEqual(gc.get_threshold()[0], 20_000)
        self.assertGreater(gc.get_freeze_count(), 20_000)

    def test_message_leaves_no_cycle(self) -> None:
        """What a message took is free when it has its verdict, without a search."""
        platform = FakePlatform()

        async def lookup(key: str, peer: str) -> Account:
            return await platform.ping(key)

        pipeline = Pipeline(account=lookup, post=platform.send, parse=parse)
        envelope = Envelope("ID7", "bounce@shop.example", ("a@x.example", "b@x.example"), "192.0.2.1")
        content = make_message(X_Transactional_Variables='{"name": "Jane"}').encode()
        enabled = gc.isenabled()
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                self.successResultOf(Deferred.fromCoroutine(pipeline.accept(envelope, content)))
            self.assertLess(gc.collect(), 20)
        finally:
            if enabled:
                gc.enable()
