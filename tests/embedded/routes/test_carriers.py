"""From the API to the smarthost: what becomes of a message, and what its timeline says."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred

from relay.embedded import accounts, deliveries, store
from relay.embedded.backend import DRAIN
from relay.embedded.routes import table, values
from relay.embedded.routes.carriers import LOOK
from relay.embedded.routes.smtp import Post
from relay.embedded.routes.values import Maildir, PostalRoute
from relay.policy import Embedded
from tests.embedded.inmemory import MESSAGE, BackendCase
from tests.embedded.routes.smarthost import CUT, SCRIPT, SILENT, Smarthost

SMARTHOST = values.Smarthost("mx.example.com", tls="none", helo="relay.example.net", concurrency=2)


class RoutesCase(BackendCase):
    """A backend with a smarthost in memory."""

    def setUp(self) -> None:
        self.smarthost = Smarthost()
        super().setUp()

    def start(self, **options: Any) -> None:
        if hasattr(self, "backend"):
            self.successResultOf(self.backend.close())
        reach = lambda settings: Post(settings, self.smarthost, None, self.clock)  # noqa: E731  # one line says it
        super().start(**{"reach": reach, **options})
        self.addCleanup(self.abandon)

    def abandon(self) -> None:
        """Close, and let the time pass that what is under way has."""
        self.backend.close()
        self.turn(DRAIN + 1)

    def route(self, settings: values.Settings = SMARTHOST, id: str = "out", *, only: bool = True) -> None:
        """Make a route, and give it to the first account, alone or with the others that it has."""
        cipher = self.backend._platform.cipher

        def make(connection: Any) -> None:
            table.add(connection, cipher, PostalRoute(id, id.title(), settings), 0.0)
            account = accounts.first(connection).id
            if only:
                for route in accounts.first(connection).routes:
                    table.give(connection, route.id, [])
            table.give(connection, id, [account])

        self.change(make)
        self.turn(LOOK)

    def turn(self, seconds: float = 0.0) -> None:
        """Let time pass, and all that is said arrive."""
        for _ in range(5):
            self.clock.advance(seconds / 5)
            self.smarthost.flush()

    def status(self, id: str) -> tuple[str, int, str]:
        """Status, attempts and last answer of a message."""
        entry = self.found(id)
        return entry.status, entry.attempts, entry.answer

    def found(self, id: str) -> store.Entry:
        """A message of the first account."""
        found = self.change(lambda connection: store.one(connection, accounts.first(connection).id, id))
        assert found is not None
        return found[0]

    def told(self, id: str) -> list[str]:
        """The timeline in words."""
        entry = self.found(id)
        events = self.change(lambda connection: store.timeline(connection, entry))
        return [": ".join(part for part in (each.kind, each.answer, each.detail) if part) for each in events]


class SmarthostTests(RoutesCase):
    """A route of the kind ``smtp``."""

    def test_delivered(self) -> None:
        """A message goes out at once; status and timeline have the smarthost's words."""
        self.route()
        id = self.sent()
        self.turn()
        self.assertEqual(self.status(id), ("delivered", 1, SCRIPT["."]))
        self.assertEqual(
            self.told(id), ["accepted", "queued: for the route out", f"delivered: {SCRIPT['.']}: mx.example.com:587"]
        )
        (message,) = self.smarthost.messages
        self.assertIn(f"Message-ID: <{id}@example.com>\r\n".encode(), message)
        self.assertIn("MAIL FROM:<bounce@example.com>", self.smarthost.said[1])

    def test_deferred_then_delivered(self) -> None:
        """A message that is deferred is tried again, with the same Message-ID, and nothing arrives twice."""
        self.route()
        answers = iter(["451 4.7.1 Greylisted", SCRIPT["RCPT"]])
        self.smarthost.says({"RCPT": lambda: next(answers)})
        id = self.sent()
        self.turn()
        self.assertEqual(self.status(id), ("deferred", 1, "451 4.7.1 Greylisted"))
        self.turn(20)
        self.assertEqual(self.status(id), ("delivered", 2, SCRIPT["."]))
        self.assertEqual([each.partition(":")[0] for each in self.told(id)],
                         ["accepted", "queued", "deferred", "delivered"])  # fmt: skip
        self.assertEqual(len(self.smarthost.messages), 1)

    def test_failed(self) -> None:
        """A message that is refused for good is not tried again."""
        self.route()
        self.smarthost.says({"RCPT": "550-5.1.1 No such user\r\n550 5.1.1 here"})
        id = self.sent()
        self.turn()
        self.turn(3600)
        self.assertEqual(self.status(id), ("failed", 1, "550-5.1.1 No such user\n550 5.1.1 here"))
        self.assertEqual(sum("RCPT" in line for line in self.smarthost.said), 1)

    def test_never_taken(self) -> None:
        """A message that nobody takes is given up, with the last answer."""
        self.policy = attrs.evolve(self.policy, give_up=100.0, retry_maximum=40.0)
        self.start()
        self.route()
        self.smarthost.says({"RCPT": "450 4.2.1 Full"})
        id = self.sent()
        self.turn()
        for _ in range(10):
            self.turn(20)
        status, attempts, answer = self.status(id)
        self.assertEqual((status, answer), ("failed", "450 4.2.1 Full"))
        self.assertIn(f"given up after {attempts} attempts", self.told(id)[-1])
        self.assertGreater(attempts, 3)

    def test_doubt(self) -> None:
        """A message whose answer was lost is sent again: SMTP has no other way not to lose it."""
        self.route()
        answers = iter([CUT, SCRIPT["."]])
        self.smarthost.says({".": lambda: next(answers)})
        id = self.sent()
        self.turn()
        self.assertIn("it may have been delivered", self.status(id)[2])
        self.turn(20)
        self.assertEqual(self.status(id)[:2], ("delivered", 2))
        first, second = self.smarthost.messages
        self.assertEqual(first, second)

    def test_concurrency(self) -> None:
        """No more messages are on their way at a time than the route allows."""
        self.route()
        self.smarthost.says({".": SILENT})
        for _ in range(5):
            self.sent()
            self.turn()
        self.assertEqual(self.smarthost.open, 2)

    def test_rate(self) -> None:
        """No more messages a minute than the route allows."""
        self.route(attrs.evolve(SMARTHOST, rate=30))
        for _ in range(50):
            self.sent()
        counts = []
        for _ in range(3):
            for _ in range(60):
                self.turn(1)
            counts.append(len(self.smarthost.messages))
        self.assertLessEqual(counts[0], 31)
        self.assertGreater(counts[0], 25)
        self.assertEqual(counts[-1], 50)

    def test_down(self) -> None:
        """A smarthost that is down is probed now and then; the messages wait, and go when it is back."""
        self.route()
        self.smarthost.refuses = True
        ids = [self.sent() for _ in range(8)]
        for _ in range(30):
            self.turn(1)
        carriers = self.backend._platform.carriers
        self.assertEqual(carriers.down(), {"out"})
        tried = sum(self.status(id)[1] for id in ids)
        self.assertLess(tried, 16)
        self.smarthost.refuses = False
        for _ in range(60):
            self.turn(1)
        self.assertEqual({self.status(id)[0] for id in ids}, {"delivered"})
        self.assertEqual((carriers.down(), len(self.smarthost.messages)), (set(), 8))

    def test_no_address(self) -> None:
        """A message that cannot be built fails with the reason, and is nobody's fault but its own."""
        self.route()
        id = self.sent(fromemail="nobody")
        self.turn()
        self.assertEqual(self.status(id)[:2], ("failed", 1))
        self.assertIn("fromemail: is not an address", self.status(id)[2])
        self.assertEqual(self.backend._platform.carriers.down(), set())

    def test_content_gone(self) -> None:
        """A message whose content is no longer kept fails and says so."""
        self.route()
        self.smarthost.refuses = True
        id = self.sent()
        self.turn()
        self.change(lambda connection: connection.execute(deliveries.sa.delete(deliveries.contents)))
        self.smarthost.refuses = False
        self.turn(20)
        self.assertEqual(self.status(id)[0], "failed")
        self.assertIn("no longer kept", self.status(id)[2])

    def test_route_taken_away(self) -> None:
        """What waits for a route fails when the administrator takes the route away."""
        self.route()
        self.smarthost.refuses = True
        id = self.sent()
        self.turn()
        self.change(lambda connection: table.remove(connection, "out"))
        self.turn(LOOK + 1)
        self.assertEqual(self.status(id)[0], "failed")
        self.assertIn("route out is not available", self.status(id)[2])

    def test_changed(self) -> None:
        """A route that is changed works by its new settings at once, and what is under way is finished."""
        self.route()
        self.smarthost.says({".": SILENT})
        id = self.sent()
        self.turn()
        self.smarthost.says(SCRIPT)
        cipher = self.backend._platform.cipher
        other = PostalRoute("out", "Out", attrs.evolve(SMARTHOST, helo="other.example.net"))
        self.change(lambda connection: table.change(connection, cipher, other))
        self.backend._platform.carriers.look()
        self.turn()
        second = self.sent()
        self.turn()
        self.assertIn("EHLO other.example.net", self.smarthost.said)
        self.assertEqual(self.status(second)[0], "delivered")
        self.turn(601)
        self.turn(30)
        self.assertEqual(self.status(id)[0], "delivered")

    def test_stopping(self) -> None:
        """Stopping waits for what is under way, and begins nothing new."""
        self.route()
        self.smarthost.says({".": SILENT})
        id = self.sent()
        self.turn()
        closing = self.backend.close()
        self.assertNoResult(closing)
        (connection,) = [each for each in self.smarthost.servers if each.lines is None]
        connection.sendLine(b"250 late")
        self.smarthost.flush()
        self.turn()
        self.successResultOf(closing)
        self.assertEqual(self.status(id), ("delivered", 1, "250 late"))

    def test_restart(self) -> None:
        """What waits when the backend stops goes out when it is started again."""
        self.route()
        self.smarthost.refuses = True
        id = self.sent()
        self.turn()
        self.start()
        self.smarthost.refuses = False
        self.turn(20)
        self.assertEqual(self.status(id)[:2], ("delivered", 2))

    def test_one_route_does_not_stop_another(self) -> None:
        """A smarthost that answers nothing keeps no other route waiting."""
        self.route()
        self.smarthost.says({"": SILENT})
        for _ in range(5):
            self.sent()
        self.turn()
        self.route(Maildir("box"), "box")
        id = self.sent(route="box")
        self.turn()
        self.assertEqual(self.status(id)[0], "delivered")


class MaildirTests(RoutesCase):
    """A route of the kind ``maildir``."""

    def box(self) -> Path:
        """The maildir."""
        return self.data / "maildir" / "box"

    def test_delivered(self) -> None:
        """A message is a file in new, for its owner alone, with who sent it to whom on top."""
        self.route(Maildir("box"))
        id = self.sent()
        self.turn()
        name = f"{id}.smtp-relay"
        self.assertEqual(self.status(id), ("delivered", 1, f"stored as new/{name}"))
        text = (self.box() / "new" / name).read_bytes()
        self.assertTrue(text.startswith(b"Return-Path: <bounce@example.com>\nDelivered-To: jane@example.org\n"))
        self.assertNotIn(b"\r", text)
        self.assertEqual((self.box() / "new" / name).stat().st_mode & 0o777, 0o600)
        self.assertEqual(list((self.box() / "tmp").iterdir()), [])

    def test_cannot_write(self) -> None:
        """A folder that cannot be written is a reason to try again."""
        self.route(Maildir("box"))
        (self.data / "maildir").write_text("in the way")
        id = self.sent()
        self.turn()
        self.assertEqual(self.status(id)[:2], ("deferred", 1))
        (self.data / "maildir").unlink()
        self.turn(20)
        self.assertEqual(self.status(id)[0], "delivered")

    def test_configured_folder(self) -> None:
        """The folder of all maildirs may be elsewhere."""
        elsewhere = Path(self.mktemp()).absolute()
        self.addCleanup(shutil.rmtree, elsewhere)
        self.policy = attrs.evolve(self.policy, maildir=str(elsewhere))
        self.start()
        self.route(Maildir("box"))
        self.sent()
        self.turn()
        self.assertEqual(len(list((elsewhere / "box" / "new").iterdir())), 1)


class RulesTests(RoutesCase):
    """Which route a message goes by."""

    def test_several(self) -> None:
        """An account with several routes and no default has to name one, and is told which it has."""
        self.route(only=False)
        reply = self.post(MESSAGE)
        self.assertEqual(reply.status, 400)
        self.assertIn("name one of capture, out", reply.json["description"])
        id = self.sent(route="Out")
        self.turn()
        self.assertEqual(self.status(id)[0], "delivered")

    def test_default(self) -> None:
        """The default is for messages that name none."""
        self.route(only=False)
        self.change(lambda connection: table.choose_default(connection, accounts.first(connection).id, "out"))
        self.assertEqual(self.found(self.sent()).fields.route, "out")
        self.assertEqual(self.found(self.sent(route="capture")).fields.route, "capture")

    def test_not_the_accounts(self) -> None:
        """A route of another account is none, and so is a path or a URL."""
        self.route(only=False)
        self.change(lambda connection: table.give(connection, "out", []))
        for name in ("out", "../etc/passwd", "smtp://mx.example.com:25", "mx.example.com"):
            reply = self.post({**MESSAGE, "route": name})
            self.assertEqual(reply.status, 403)
            self.assertIn("capture", reply.json["description"])


class IdleTests(RoutesCase):
    """A backend with nothing to do."""

    def test_defaults(self) -> None:
        """Messages are tried again after 15 seconds, and given up after a day."""
        self.assertEqual((Embedded().retry_first, Embedded().retry_maximum, Embedded().give_up), (15, 1800, 86_400))

    def test_closes_at_once(self) -> None:
        """Nothing keeps it from stopping."""
        self.route()
        closing: Deferred[None] = self.backend.close()
        self.successResultOf(closing)
