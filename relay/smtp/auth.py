"""API keys: asked for at the platform, remembered, and guarded against guessing (SMTP.md, "Authentication")."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from attrs import field, frozen
from twisted.cred.checkers import ANONYMOUS, AllowAnonymousAccess, ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.mail.interfaces import IMessageDeliveryFactory
from zope.interface import Interface, implementer

from relay.errors import PermanentFailure, Reason, TemporaryFailure
from relay.policy import Auth
from relay.smtp.delivery import Accept, Deliveries, new_id
from relay.values import Account, key_digest, key_prefix

#: Asks the platform who is behind a key: BAD_KEY, or a temporary failure, where it cannot say.
Ask = Callable[[str], Awaitable[Account]]

_Avatar = tuple[type[Interface], object, Callable[[], None]]

#: How long failures of an address or a key are remembered, in seconds.
FAILURES_REMEMBERED = 600.0

log = Logger()


class _Recent(OrderedDict[Any, Any]):
    """A dictionary of at most *most* entries: the one that was set first goes first."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def put(self, key: Any, value: Any) -> None:
        self[key] = value
        self.move_to_end(key)
        if len(self) > self._most:
            self.popitem(last=False)


def _nobody(*_: object) -> None:
    """Told of something that concerns no other process."""


class Penalties:
    """Counts failures of an address and of a key; each one slows the next attempt of either, wherever it comes from.

    :ivar added: told of the sources of each failure.
    """

    def __init__(self, policy: Auth, clock: IReactorTime) -> None:
        self._policy = policy
        self._clock = clock
        self._failures = _Recent(policy.cache_size)
        self.added: Callable[..., None] = _nobody

    def delay(self, *sources: object) -> float:
        """Seconds that the next attempt of any of *sources* has to wait."""
        worst = max(map(self._count, sources), default=0)
        if not worst:
            return 0.0
        return min(self._policy.delay * 2.0 ** min(worst - 1, 32), self._policy.delay_maximum)

    def add(self, *sources: object) -> None:
        """An attempt of *sources* failed."""
        self.count(*sources)
        self.added(*sources)

    def count(self, *sources: object) -> None:
        """An attempt of *sources* failed, here or in another process."""
        for source in sources:
            self._failures.put(source, (self._count(source) + 1, self._clock.seconds()))

    def _count(self, source: object) -> int:
        count, last = self._failures.get(source, (0, 0.0))
        return count if self._clock.seconds() - last < FAILURES_REMEMBERED else 0


class Keys:
    """Who is behind an API key.  Keys are remembered by their SHA-256 only.

    :param ask: the platform's ping.
    :ivar forgotten: told of the digest of a key that the platform has refused.
    """

    def __init__(self, ask: Ask, policy: Auth, clock: IReactorTime) -> None:
        self._ask = ask
        self._policy = policy
        self._clock = clock
        self.penalties = Penalties(policy, clock)
        self.forgotten: Callable[[bytes], None] = _nobody
        self._accepted = _Recent(policy.cache_size)  # digest -> (account, when)
        self._refused = _Recent(policy.cache_size)  # digest -> when
        self._asking: dict[bytes, list[Deferred[Account]]] = {}
        self._unreachable_until = 0.0

    async def account(self, key: str, peer: str = "") -> Account:
        """The account behind *key*.

        :param peer: the client's address, whose failures count.
        :raises PermanentFailure: BAD_KEY.
        :raises TemporaryFailure: the platform cannot say, and has not said so for too long.
        """
        digest = key_digest(key)
        known: Account | None
        known, when = self._accepted.get(digest, (None, 0.0))
        if known is not None and self._fresh(when, self._policy.cache):
            return known
        if known is None:
            await self._slow_down(peer, digest)
        elif self._fresh(when, self._policy.stale) and self._clock.seconds() < self._unreachable_until:
            return known
        if not key or self._fresh(self._refused.get(digest), self._policy.refused_cache):
            raise self._refuse(peer, digest, key)
        try:
            account = await self._ask_once(digest, key)
        except PermanentFailure as failure:
            if failure.reason is not Reason.BAD_KEY:
                raise
            self._accepted.pop(digest, None)
            self._refused.put(digest, self._clock.seconds())
            raise self._refuse(peer, digest, key) from None
        except TemporaryFailure:
            if known is None or not self._fresh(when, self._policy.stale):
                raise
            # Whoever comes next need not wait for the same silence.
            self._unreachable_until = self._clock.seconds() + self._policy.refused_cache
            return known
        self._accepted.put(digest, (account, self._clock.seconds()))
        return account

    def forget(self, key: str) -> None:
        """The platform has refused *key*: ask again when it comes next."""
        digest = key_digest(key)
        self.forget_digest(digest)
        self.forgotten(digest)

    def forget_digest(self, digest: bytes) -> None:
        """Forget the key that :func:`~relay.values.key_digest` gives *digest* for."""
        self._accepted.pop(digest, None)

    def _fresh(self, when: float | None, seconds: float) -> bool:
        return when is not None and self._clock.seconds() - when < seconds

    async def _slow_down(self, peer: str, digest: bytes) -> None:
        delay = self.penalties.delay(peer, digest)
        if delay:
            await deferLater(self._clock, delay)

    def _refuse(self, peer: str, digest: bytes, key: str) -> PermanentFailure:
        self.penalties.add(peer, digest)
        log.warn("API key {key} from {peer} refused", key=key_prefix(key), peer=peer)
        return PermanentFailure(Reason.BAD_KEY)

    async def _ask_once(self, digest: bytes, key: str) -> Account:
        """Ask the platform; whoever asks for the same key meanwhile shares the answer."""
        if digest in self._asking:
            waiter: Deferred[Account] = Deferred()
            self._asking[digest].append(waiter)
            return await waiter
        self._asking[digest] = []
        try:
            account = await self._ask(key)
        except Exception as failure:
            for waiter in self._asking.pop(digest):
                waiter.errback(failure)
            raise
        for waiter in self._asking.pop(digest):
            waiter.callback(account)
        return account


@implementer(IUsernamePassword)
@frozen
class APIKey:
    """What AUTH brings: any user name, the key as password, and the address that it came from."""

    username: bytes
    password: bytes = field(repr=False)
    peer: str

    def checkPassword(self, password: bytes) -> bool:
        """See :class:`twisted.cred.credentials.IUsernamePassword`; the platform compares, not we."""
        return False


@implementer(ICredentialsChecker)
class KeyChecker:
    """Checks :class:`APIKey` credentials; the avatar id is the key itself."""

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def requestAvatarId(self, credentials: Any) -> Deferred[bytes | tuple[()]]:
        """See :class:`twisted.cred.checkers.ICredentialsChecker`.

        :return: fails with UnauthorizedLogin, or with a TemporaryFailure where the platform cannot say.
        """
        return Deferred.fromCoroutine(self._check(credentials))

    async def _check(self, credentials: Any) -> bytes | tuple[()]:
        password: bytes = credentials.password
        try:
            await self._keys.account(password.decode(), getattr(credentials, "peer", ""))
        except (PermanentFailure, UnicodeDecodeError):
            raise UnauthorizedLogin("API key not accepted") from None
        return password


@implementer(IRealm)
class Realm:
    """Makes the avatar of a key, or of nobody: :class:`~relay.smtp.delivery.Deliveries`."""

    def __init__(self, keys: Keys, accept: Accept, new_id: Callable[[], str] = new_id) -> None:
        self._keys = keys
        self._accept = accept
        self._new_id = new_id

    def requestAvatar(self, avatarId: Any, mind: object, *interfaces: type[Interface]) -> Deferred[_Avatar]:
        """See :class:`twisted.cred.portal.IRealm`; only IMessageDeliveryFactory is known."""
        if IMessageDeliveryFactory not in interfaces:
            raise NotImplementedError("the relay's realm knows IMessageDeliveryFactory only")
        return Deferred.fromCoroutine(self._avatar(avatarId))

    async def _avatar(self, avatarId: Any) -> _Avatar:
        # The checker has just asked for this key, so this is answered from memory.
        account = None if avatarId is ANONYMOUS else await self._keys.account(avatarId.decode())
        return IMessageDeliveryFactory, Deliveries(self._accept, account, self._new_id), lambda: None


class KeyPortal(Portal):
    """The portal of the relay.

    Clients that do not sign in come with each connection, and all get the same.  So they need not log in for it, as
    they can: the session takes it from here.

    :ivar nobody: the avatar of who has not signed in; None: one has to.
    """

    nobody: Deliveries | None = None


def make_portal(keys: Keys, accept: Accept, *, header_auth: bool = True) -> Portal:
    """The portal of the relay.

    :param header_auth: whether a session may send without AUTH, because each message may bring its key.
    """
    portal = KeyPortal(Realm(keys, accept), [KeyChecker(keys)])
    if header_auth:
        portal.registerChecker(AllowAnonymousAccess())
        portal.nobody = Deliveries(accept, None)
    return portal
