"""One transaction: its envelope, its content, and the verdict (twisted.mail's IMessageDelivery)."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.mail.interfaces import IMessageDelivery, IMessageDeliveryFactory, IMessageSMTP
from twisted.mail.smtp import Address, User
from zope.interface import implementer

from relay import replies
from relay.presence import Presence
from relay.values import Account, Envelope, Receipt

#: Takes a message to the platform; see :meth:`relay.pipeline.Pipeline.accept`.
Accept = Callable[[Envelope, bytes, Presence], Awaitable[Receipt]]

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
#: The letters of ten bits, and the letter of five bits of an octet.
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_LETTER = bytes([ord(_ALPHABET[octet & 31]) for octet in range(256)])


#: Letters of chance for the next ids: to ask the system for them takes as long as all the rest.
_chance: list[str] = []
os.register_at_fork(after_in_child=_chance.clear)  # two processes must not give the same ids


def new_id() -> str:
    """A queue id: 26 upper-case letters and digits, of the time in milliseconds and 80 bits of chance."""
    if not _chance:
        letters = secrets.token_bytes(4096).translate(_LETTER).decode("ascii")
        _chance.extend([letters[place : place + 16] for place in range(0, 4096, 16)])
    now = time.time_ns() // 1_000_000
    pairs = _PAIRS
    return (
        f"{pairs[now >> 40]}{pairs[now >> 30 & 1023]}{pairs[now >> 20 & 1023]}{pairs[now >> 10 & 1023]}"
        f"{pairs[now & 1023]}{_chance.pop()}"
    )


class IContent(IMessageSMTP):
    """A message that takes its content at once; the session prefers that to lines and :meth:`eomReceived`."""

    def contentReceived(content: bytes) -> Coroutine[Any, Any, replies.Reply]:  # noqa: N805 - an interface has no self
        """The whole message: dot-stuffing undone, lines ending in CR LF.  Gives what the client is told."""

    def clientLeft() -> None:
        """The connection was lost after the end of the message: nobody will read the verdict."""


@implementer(IContent)
class Transaction:
    """A message on its way through the pipeline; all recipients share it.

    The end is a :class:`~relay.replies.Reply` or a :class:`~relay.errors.Failure`.
    """

    def __init__(self, accept: Accept, envelope: Envelope) -> None:
        self._accept = accept
        self._envelope = envelope
        self._content = b""
        self._presence = Presence()

    async def contentReceived(self, content: bytes) -> replies.Reply:
        """See :class:`IContent`."""
        receipt = await self._accept(self._envelope, content, self._presence)
        failure = replies.verdict(receipt)
        if failure is not None:
            raise failure
        return replies.accepted(receipt.id)

    def lineReceived(self, line: bytes) -> None:
        """One line, for a caller that knows lines only."""
        self._content += line + b"\r\n"

    def eomReceived(self) -> Deferred[replies.Reply]:
        """The message is whole: what the client is told."""
        content, self._content = self._content, b""
        return Deferred.fromCoroutine(self.contentReceived(content))

    def connectionLost(self) -> None:
        """The client left before the end of the message: nothing is delivered."""
        self._content = b""

    def clientLeft(self) -> None:
        """See :class:`IContent`."""
        self._presence.leave()


@implementer(IMessageDelivery)
class Delivery:
    """Collects one envelope.  Senders and recipients are refused for their syntax only, by the session."""

    def __init__(self, accept: Accept, account: Account | None, new_id: Callable[[], str]) -> None:
        self._accept = accept
        self._account = account
        self._new_id = new_id
        self._sender = ""
        self._recipients: dict[str, None] = {}
        self._peer = ""
        self._transaction: Transaction | None = None

    def receivedHeader(self, helo: tuple[bytes, bytes], origin: Address, recipients: Sequence[User]) -> bytes:
        """No trace header: every header but a few is discarded."""
        return b""

    def validateFrom(self, helo: tuple[bytes, bytes], origin: Address) -> Address:
        """MAIL FROM."""
        self._sender = origin.addrstr.decode()
        self._peer = helo[1].decode()
        return origin

    def validateTo(self, user: User) -> Callable[[], Transaction]:
        """RCPT TO; a recipient that is given twice counts once."""
        self._recipients[user.dest.addrstr.decode()] = None
        return self._message

    def _message(self) -> Transaction:
        """The one message of the transaction, whichever recipient asks for it."""
        if self._transaction is None:
            envelope = Envelope(self._new_id(), self._sender, tuple(self._recipients), self._peer, self._account)
            self._transaction = Transaction(self._accept, envelope)
        return self._transaction


@implementer(IMessageDeliveryFactory)
class Deliveries:
    """The avatar of a signed-in account, or of nobody: a fresh :class:`Delivery` for every transaction."""

    def __init__(self, accept: Accept, account: Account | None, new_id: Callable[[], str] = new_id) -> None:
        self.account = account
        self._accept = accept
        self._new_id = new_id

    def getMessageDelivery(self) -> Delivery:
        """See :class:`twisted.mail.interfaces.IMessageDeliveryFactory`."""
        return Delivery(self._accept, self.account, self._new_id)
