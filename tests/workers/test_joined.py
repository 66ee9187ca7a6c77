"""The metrics of several workers as one relay's."""

from __future__ import annotations

import json

from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from relay.operate.metrics import Metrics, exposition
from relay.spool.values import Counts
from relay.workers.joined import Joined, families
from tests.operate.test_log import record


class Watched:
    """What the parent sees of its workers."""

    takes = ("one", "two")
    restarts = 3


class JoinedTests(SynchronousTestCase):
    """Two workers."""

    def setUp(self) -> None:
        self.workers = {number: Metrics() for number in (1, 2)}
        self.joined = Joined(Watched())
        self.registry = CollectorRegistry()
        self.registry.register(self.joined)

    def look(self, *numbers: int) -> None:
        """What workers have counted comes to the parent, as JSON."""
        for number in numbers or self.workers:
            self.joined.latest[number] = json.loads(json.dumps(families(self.workers[number].registry)))

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"smtp_relay_{name}", labels)

    def test_added_up(self) -> None:
        """Messages, times and open sessions are those of all workers."""
        for number, metrics in self.workers.items():
            for _ in range(number):
                metrics.record(record(seconds={"post": 0.002}))
                metrics.session_opened()
        self.look()
        self.assertEqual(self.value("messages_total", result="accepted", reason=""), 3)
        self.assertEqual(self.value("stage_seconds_bucket", stage="post", le="0.0025"), 3)
        self.assertEqual(self.value("stage_seconds_count", stage="post"), 3)
        self.assertEqual(self.value("sessions_open"), 3)

    def test_the_same_thing(self) -> None:
        """What all see, the spool and the certificate, is not added; a platform is open if one worker says so."""
        for number, metrics in self.workers.items():
            metrics.spool_counted(Counts(waiting=7, in_flight=0, failed=0, octets=10 * number, oldest=1.0))
            metrics.watch_certificate(lambda: 100.0)
        self.workers[1].breaker_changed("p", "open")
        self.workers[2].breaker_changed("p", "closed")
        self.look()
        self.assertEqual(self.value("spool_recipients", state="waiting"), 7)
        self.assertEqual(self.value("spool_bytes"), 20)
        self.assertEqual(self.value("certificate_expiry_timestamp_seconds"), 100)
        self.assertEqual(self.value("breaker", platform="p", state="open"), 1)

    def test_gone(self) -> None:
        """What a worker has counted stays when it is gone, so that no counter goes back; its sessions are gone."""
        for metrics in self.workers.values():
            metrics.record(record())
            metrics.session_opened()
        self.look()
        for number in (1, 2):
            self.joined.end(number)
        self.assertEqual(self.value("messages_total", result="accepted", reason=""), 2)
        self.assertIsNone(self.value("sessions_open"))
        self.workers[1] = Metrics()
        self.workers[1].record(record())
        self.look(1)
        self.assertEqual(self.value("messages_total", result="accepted", reason=""), 3)
        self.assertEqual(self.value("sessions_open"), 0)

    def test_exposition(self) -> None:
        """It is shown as a relay of one process shows it, with exemplars, and how many workers there are."""
        self.workers[1].record(record(seconds={"post": 0.002}))
        self.look()
        kind, body = exposition(self.registry, "application/openmetrics-text")
        found = {each.name: each for each in text_string_to_metric_families(body.decode())}
        alone = {
            each.name for each in text_string_to_metric_families(self.workers[1].exposition(kind.decode())[1].decode())
        }
        self.assertEqual(found.keys() - alone, {"smtp_relay_workers", "smtp_relay_worker_restarts"})
        self.assertEqual(alone - found.keys(), set())
        self.assertIn(b"message_id=", body)
        self.assertIn(b"smtp_relay_workers 2.0", body)
        self.assertIn(b"smtp_relay_messages_total", exposition(self.registry, "")[1])
