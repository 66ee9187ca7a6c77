"""POSTs JSON to ``failures.webhook``."""

from __future__ import annotations

from hyperlink import EncodedURL, URLParseError
from twisted.internet.abstract import isIPv6Address
from twisted.internet.interfaces import IReactorTime

from relay import __version__
from relay.client.answers import NoAnswer
from relay.client.request import Client, Exchange, Request, exchange_of, target
from relay.errors import ConfigError

#: Deadline of one POST in seconds: well under the lease of a notice.
SECONDS = 10.0
#: Bytes of an answer that are read; they say nothing to us.
ANSWER_SIZE = 65_536

_COMMON = (("User-Agent", f"smtp-relay/{__version__}"), ("Content-Type", "application/json"))


class Webhook:
    """Where failures are POSTed to.

    :param url: may hold a secret in its path or query, and so appears in no log.
    :param client: :func:`relay.client.pool.make_client`, or treq.
    :raises ConfigError: *url* is not an absolute http or https URL.
    """

    def __init__(self, url: str, client: Client | Exchange, clock: IReactorTime) -> None:
        self._url = webhook_url(url)
        self._http = exchange_of(client, clock)

    async def post(self, body: bytes, idempotency_key: str) -> int:
        """POST *body*, which is JSON; the status of the answer.

        :raises TemporaryFailure: ``UNREACHABLE`` or ``UNKNOWN_OUTCOME``, there was no answer.
        """
        try:
            answer = await self._http.exchange(
                Request(target("POST", self._url, _COMMON), (("Idempotency-Key", idempotency_key),), (body,)),
                seconds=SECONDS,
                limit=ANSWER_SIZE,
            )
        except NoAnswer as error:
            raise error.failure() from error
        return answer.status


def webhook_url(url: str) -> str:
    """*url* in its final form.

    :raises ConfigError: it is something else; the text does not repeat it.
    """
    try:
        parsed = EncodedURL.from_text(url.strip())
        if not isIPv6Address(parsed.host):  # hyperlink would encode it as a name, and fail
            parsed = parsed.to_uri()
    except (URLParseError, ValueError):
        raise ConfigError(["failures.webhook: not a URL"]) from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(["failures.webhook: must be like https://hooks.example/path"])
    if parsed.userinfo or parsed.fragment:
        raise ConfigError(["failures.webhook: the URL must have no user, password or fragment"])
    return parsed.to_text()
