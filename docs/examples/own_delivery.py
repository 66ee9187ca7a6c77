"""Only the SMTP session, before a delivery of one's own: no API keys, no platform."""

from typing import Any

from twisted.cred.checkers import AllowAnonymousAccess, InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred, succeed
from twisted.mail.interfaces import IMessageDelivery, IMessageSMTP
from zope.interface import implementer

from relay.errors import PermanentFailure, Reason
from relay.smtp.factory import SubmissionFactory


@implementer(IMessageSMTP)
class Kept:
    """A message on its way into a list."""

    def __init__(self, mailbox: list[bytes]) -> None:
        self._mailbox = mailbox
        self._lines: list[bytes] = []

    def lineReceived(self, line: bytes) -> None:
        """One line, dot-stuffing undone."""
        self._lines.append(line)

    def eomReceived(self) -> Deferred[bytes]:
        """The message is whole.  What the Deferred fires with is the text of the 250."""
        self._mailbox.append(b"\n".join(self._lines))
        return succeed(b"Ok: kept")

    def connectionLost(self) -> None:
        """The client left before the end."""


@implementer(IMessageDelivery)
class Mailboxes:
    """Takes mail for example.com, and refuses all other with a reply of the relay's table."""

    def __init__(self, mailbox: list[bytes]) -> None:
        self._mailbox = mailbox

    def receivedHeader(self, helo: Any, origin: Any, recipients: Any) -> bytes:
        """A trace header, or none."""
        return b""

    def validateFrom(self, helo: Any, origin: Any) -> Any:
        """MAIL FROM: any sender."""
        return origin

    def validateTo(self, user: Any) -> Any:
        """RCPT TO."""
        if user.dest.domain != b"example.com":
            raise PermanentFailure(Reason.RECIPIENT_SYNTAX, "This server takes mail for example.com only")
        return lambda: Kept(self._mailbox)


@implementer(IRealm)
class Realm:
    """Everybody, signed in or not, has the same mailbox."""

    def __init__(self, mailbox: list[bytes]) -> None:
        self._mailbox = mailbox

    def requestAvatar(self, avatarId: Any, mind: Any, *interfaces: Any) -> Any:
        """See :class:`twisted.cred.portal.IRealm`."""
        return IMessageDelivery, Mailboxes(self._mailbox), lambda: None


def factory(mailbox: list[bytes], reactor: Any) -> SubmissionFactory:
    """What to listen with."""
    users = InMemoryUsernamePasswordDatabaseDontUse(jane=b"secret")
    portal = Portal(Realm(mailbox), [users, AllowAnonymousAccess()])
    return SubmissionFactory(portal, clock=reactor, hostname="mail.example.com")
