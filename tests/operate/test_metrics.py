"""The metrics: what is counted, and how it is shown."""

from __future__ import annotations

from prometheus_client.openmetrics.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from relay import __version__
from relay.errors import PermanentFailure, Reason
from relay.operate.metrics import Metrics
from relay.values import Outcome

from .test_log import record


class MetricsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.metrics = Metrics()

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"smtp_relay_{name}", labels)

    def test_messages(self) -> None:
        """Messages are counted by result and reason, those that the session refused too."""
        self.metrics.record(record())
        self.metrics.record(record(result="refused", reason="bad-message"))
        self.metrics.message_refused(Reason.TOO_BIG, "192.0.2.1")
        self.assertEqual(self.value("messages_total", result="accepted", reason=""), 1)
        self.assertEqual(self.value("messages_total", result="refused", reason="bad-message"), 1)
        self.assertEqual(self.value("messages_total", result="refused", reason="too-big"), 1)

    def test_recipients(self) -> None:
        """Recipients are counted by what became of each."""
        refused = Outcome("c@example.com", PermanentFailure(Reason.REFUSED))
        self.metrics.record(record(outcomes=(Outcome("b@example.com"), refused)))
        self.assertEqual(self.value("recipients_total", outcome="accepted", reason=""), 1)
        self.assertEqual(self.value("recipients_total", outcome="failed", reason="refused"), 1)

    def test_stages(self) -> None:
        """Each stage's time goes into a histogram."""
        self.metrics.record(record(seconds={"parse": 0.002, "post": 0.2}))
        self.assertEqual(self.value("stage_seconds_count", stage="post"), 1)
        self.assertEqual(self.value("stage_seconds_sum", stage="post"), 0.2)
        self.assertEqual(self.value("stage_seconds_bucket", stage="parse", le="0.0025"), 1)

    def test_stage_limits(self) -> None:
        """A bucket's bound belongs to it, what is longer than the last is in +Inf, and each counts those below."""
        for seconds in (0.0025, 0.0026, 61.0):
            self.metrics.record(record(seconds={"post": seconds}))
        for bound, count in (("0.001", 0), ("0.0025", 1), ("0.005", 2), ("60.0", 2), ("+Inf", 3)):
            self.assertEqual(self.value("stage_seconds_bucket", stage="post", le=bound), count)

    def test_sessions(self) -> None:
        """Open sessions go up and down; refused connections and failed keys are counted."""
        self.metrics.session_opened()
        self.metrics.session_opened()
        self.metrics.session_closed()
        self.metrics.session_refused(Reason.ABUSE)
        self.metrics.auth_failed()
        self.assertEqual((self.value("sessions_open"), self.value("sessions_total")), (1, 2))
        self.assertEqual(self.value("sessions_refused_total", reason="abuse"), 1)
        self.assertEqual(self.value("auth_failures_total"), 1)

    def test_backend_and_build(self) -> None:
        """Answers of the platform are counted by status; version and certificate's end are shown."""
        self.metrics.backend_answered("200")
        self.metrics.backend_answered("timeout")
        self.metrics.watch_certificate(lambda: 123.0)
        self.assertEqual(self.value("backend_answers_total", status="200"), 1)
        self.assertEqual(self.value("backend_answers_total", status="timeout"), 1)
        self.assertEqual(self.value("certificate_expiry_timestamp_seconds"), 123)
        self.assertEqual(self.value("build_info", version=__version__), 1)

    def test_two_relays(self) -> None:
        """Two relays in one process count apart."""
        self.metrics.auth_failed()
        self.assertEqual(Metrics().registry.get_sample_value("smtp_relay_auth_failures_total"), 0)

    def test_begun(self) -> None:
        """Each counter tells when it was counted first, and one without labels is there from the start."""
        times = iter((1.0, 2.0, 3.0, 4.0))
        self.metrics = Metrics(lambda: next(times))
        self.metrics.backend_answered("200")
        self.metrics.backend_answered("500")
        self.metrics.backend_answered("200")
        self.assertEqual((self.value("sessions_total"), self.value("sessions_created")), (0, 1))
        self.assertEqual(self.value("backend_answers_created", status="200"), 2)
        self.assertEqual(self.value("backend_answers_created", status="500"), 3)
        self.assertEqual(self.value("backend_answers_total", status="200"), 2)

    def test_formats(self) -> None:
        """OpenMetrics where it is asked for, with message ids as exemplars; else the plain text."""
        self.metrics.record(record(id="01JQZ8T5K3V9X2W4Y6R7N8M0PA"))
        content_type, body = self.metrics.exposition("application/openmetrics-text; version=1.0.0, text/plain;q=0.5")
        self.assertTrue(content_type.startswith(b"application/openmetrics-text"))
        samples = [each for family in text_string_to_metric_families(body.decode()) for each in family.samples]
        exemplars = [each.exemplar.labels for each in samples if each.exemplar]
        self.assertEqual(exemplars, [{"message_id": "01JQZ8T5K3V9X2W4Y6R7N8M0PA"}])
        content_type, body = self.metrics.exposition()
        self.assertTrue(content_type.startswith(b"text/plain"))
        self.assertIn(b'smtp_relay_messages_total{reason="",result="accepted"} 1.0', body)
