"""The envelope and the id of a message."""

from __future__ import annotations

import time

from twisted.mail.smtp import Address, User
from twisted.trial.unittest import SynchronousTestCase

from relay.smtp.delivery import Deliveries, new_id
from relay.values import Envelope, Outcome, Receipt

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class IdTests(SynchronousTestCase):
    """:func:`relay.smtp.delivery.new_id`."""

    def test_form(self) -> None:
        """An id is 26 upper-case letters and digits, and none is given twice."""
        ids = {new_id() for _ in range(1000)}
        self.assertEqual(len(ids), 1000)
        for each in ids:
            self.assertRegex(each, rf"\A[{ALPHABET}]{{26}}\Z")

    def test_time(self) -> None:
        """It begins with the time in milliseconds, so that ids sort by it."""
        before = time.time_ns() // 1_000_000
        number = 0
        for letter in new_id()[:10]:
            number = number * 32 + ALPHABET.index(letter)
        self.assertTrue(before <= number <= time.time_ns() // 1_000_000)

    def test_chance(self) -> None:
        """Each of its other letters may be any."""
        ids = [new_id() for _ in range(2000)]
        for place in range(10, 26):
            self.assertEqual({each[place] for each in ids}, set(ALPHABET))


class DeliveryTests(SynchronousTestCase):
    """:class:`relay.smtp.delivery.Delivery`."""

    def test_other_server(self) -> None:
        """It collects the envelope from Twisted's own values too, whatever server it is behind."""
        taken: list[Envelope] = []

        async def accept(envelope: Envelope, content: bytes, presence: object) -> Receipt:
            taken.append(envelope)
            return Receipt(envelope.id, (Outcome("b@y.example"),))

        delivery = Deliveries(accept, None, lambda: "ID").getMessageDelivery()
        helo = (b"client.example", b"192.0.2.1")
        sender = Address(b"a@x.example")
        delivery.validateFrom(helo, sender)
        make = delivery.validateTo(User(b"b@y.example", helo, None, sender))
        message = make()
        self.assertIs(make(), message)
        message.lineReceived(b"x")
        message.eomReceived()
        self.assertEqual(taken, [Envelope("ID", "a@x.example", ("b@y.example",), "192.0.2.1")])
