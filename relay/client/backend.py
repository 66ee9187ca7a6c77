"""The platform's HTTP API as the relay uses it: check a key, hand over a submission (HTTP_CONTRACT.md)."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import lru_cache

from hyperlink import EncodedURL, URLParseError
from twisted.internet.abstract import isIPv6Address
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from relay import __version__, wire
from relay.client import answers
from relay.client.answers import Answer, End, NoAnswer
from relay.client.bodies import Bodies
from relay.client.request import Client, Exchange, Request, Target, exchange_of, target
from relay.errors import ConfigError, Failure, PermanentFailure, Reason, TemporaryFailure
from relay.policy import Platform
from relay.values import Account, Submission

#: Seconds in which the same complaint about the configuration is logged once.
COMPLAIN_EVERY = 60.0

#: What an HTTP header carries unharmed (RFC 9110 section 5.5): no control character, no space at either end.
_KEY = re.compile(r"[!-~](?:[ -~]{0,4094}[!-~])?")

#: The header fields of every request.
_COMMON = (
    ("User-Agent", f"smtp-relay/{__version__}"),
    ("Accept", "application/json"),
    ("Accept-Encoding", "identity"),
)

log = Logger()


def _ignore(_: str) -> None:
    """Nobody counts."""


class Backend:
    """An email platform.

    :param url: where its API is, ``https://api.example/prefix``; the paths of *policy* are put behind it.
    :param client: :func:`relay.client.pool.make_client`; or treq, whose redirects and decoding are its own.
    :param clock: for the deadlines.
    :param answered: told a label for every answer: its status, or one of :class:`~relay.client.answers.NoAnswer`.
    :param now: seconds since the epoch.
    :ivar url: *url* in its final form, which names the platform in the log and the spool; it holds no secret.
    :raises ConfigError: *url* is not an absolute http or https URL.
    """

    def __init__(
        self,
        url: str,
        client: Client | Exchange,
        *,
        policy: Platform | None = None,
        clock: IReactorTime,
        answered: Callable[[str], None] = _ignore,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._policy = policy or Platform()
        base = base_url(url)
        self.url = base.to_text()
        self._send_url = join(base, self._policy.send_path)
        self._ping_url = join(base, self._policy.ping_path)
        self._http = exchange_of(client, clock)
        self._bodies = Bodies()
        self._clock = clock
        self._answered = answered
        self._now = now
        # By key and Content-Type, as most messages have in common with others.
        self._send_target = lru_cache(maxsize=256)(self._make_send_target)
        self._complained: dict[str, float] = {}

    async def ping(self, key: str) -> Account:
        """The account behind *key*.

        403 is taken for the platform's own word on the key only when it says so in the contract's JSON; the page
        of a firewall is no reason to tell every client that its key is wrong.

        :raises PermanentFailure: ``BAD_KEY``.
        :raises TemporaryFailure: ``AUTH_UNAVAILABLE``; the platform did not say whether the key is good.
        """
        if not _KEY.fullmatch(key):
            raise PermanentFailure(Reason.BAD_KEY)
        try:
            answer = await self._ask(key)
        except NoAnswer as error:
            raise TemporaryFailure(Reason.AUTH_UNAVAILABLE) from error
        if answer.status == 401 or (answer.status == 403 and answers.description(answer, key)):
            raise PermanentFailure(Reason.BAD_KEY)
        failure = self._failure(answer, key)
        if failure is None:
            return wire.decode_ping(key, answer.body)
        if failure.reason in (Reason.MISCONFIGURED, Reason.FORBIDDEN):
            self._complain(self._ping_url, answer, key)
        raise TemporaryFailure(Reason.AUTH_UNAVAILABLE, retry_after=getattr(failure, "retry_after", None))

    async def send(self, submission: Submission) -> None:
        """Hand over *submission*; returning means that the platform has it.

        :raises PermanentFailure: ``REFUSED``, ``KEY_REFUSED``, ``FORBIDDEN`` or ``PLATFORM_TOO_BIG``.
        :raises TemporaryFailure: ``MISCONFIGURED``, ``BUSY``, ``UNREACHABLE`` or ``UNKNOWN_OUTCOME``; try again with
            the same ``idempotency_key``.
        """
        body = self._bodies.encode(submission)
        request = Request(
            self._send_target(submission.api_key, body.content_type),
            (("X-Request-ID", submission.request_id), ("Idempotency-Key", submission.idempotency_key)),
            body.pieces,
        )
        try:
            answer = await self._exchange(request, self._policy.timeout)
        except NoAnswer as error:
            raise error.failure() from error
        failure = self._failure(answer, submission.api_key)
        if failure is None:
            return
        if failure.reason is Reason.MISCONFIGURED:
            self._complain(self._send_url, answer, submission.api_key)
        raise failure

    async def reachable(self) -> bool:
        """Whether the platform answers: any complete answer to a ping without a key, but 404 and 5xx."""
        try:
            answer = await self._ask("")
        except NoAnswer:
            return False
        return answer.end in (End.COMPLETE, End.OPEN) and answer.status != 404 and 200 <= answer.status <= 499

    async def _ask(self, key: str) -> Answer:
        common = (*_COMMON, ("X-Auth-APIKey", key)) if key else _COMMON
        return await self._exchange(Request(target("GET", self._ping_url, common)), self._policy.ping_timeout)

    async def _exchange(self, request: Request, seconds: float) -> Answer:
        try:
            answer = await self._http.exchange(request, seconds=seconds, limit=self._policy.answer_size)
        except NoAnswer as error:
            self._answered(error.label)
            raise
        self._answered(answer.label)
        return answer

    def _make_send_target(self, key: str, content_type: str) -> Target:
        if not _KEY.fullmatch(key):
            raise PermanentFailure(Reason.KEY_REFUSED)
        return target("POST", self._send_url, (*_COMMON, ("X-Auth-APIKey", key), ("Content-Type", content_type)))

    def _failure(self, answer: Answer, key: str) -> Failure | None:
        maximum = self._policy.retry_after_maximum
        return answers.failure(answer, key=key, retry_after_maximum=maximum, now=self._now())

    def _complain(self, url: str, answer: Answer, key: str) -> None:
        """Log that the configuration does not fit the platform: once a minute for each URL."""
        seconds = self._clock.seconds()
        if seconds < self._complained.get(url, float("-inf")) + COMPLAIN_EVERY:
            return
        self._complained[url] = seconds
        log.error(
            "platform misconfigured: {url} answered {status} {what}: check the backend URL and [platform]",
            url=url,
            status=answer.status,
            what=answers.oddity(answer, key),
        )


def base_url(url: str) -> EncodedURL:
    """*url* as the API's base: absolute, http or https, without user, query or fragment.

    :raises ConfigError: it is something else.
    """
    try:
        parsed = EncodedURL.from_text(url.strip())
        if not isIPv6Address(parsed.host):  # hyperlink would encode it as a name, and fail
            parsed = parsed.to_uri()
    except (URLParseError, ValueError) as error:
        raise ConfigError([f"backend: {url!r} is not a URL: {error}"]) from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError([f"backend: {url!r} must be like https://api.example or http://127.0.0.1:8080"])
    if parsed.userinfo or parsed.query or parsed.fragment:
        raise ConfigError(["backend: the URL must have no user, password, query or fragment"])
    return parsed


def join(base: EncodedURL, path: str) -> str:
    """*path* below *base*, whose own path may be a prefix, with or without a slash at its end."""
    return base.to_text().rstrip("/") + "/" + path.lstrip("/")
