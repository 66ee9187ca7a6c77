"""What a POST to the platform costs in CPU, layer by layer, in one process against a sink in another.

    python benchmarks/client.py [--https] [--posts 2000] [--rounds 5] [--side-by-side 50] [--profile LAYER]

Layers, each on top of the one before:

bare        a request made beforehand, on Twisted's TCP (or TLS) connections: what no client can go below
pool        relay.client.pool: head, answer, deadline, the keeping of connections
backend     relay.client.backend: the JSON of a submission, and what the answer means
platforms   relay.client.platforms: the breaker
handover    relay.spool.handover: as the pipeline delivers a message of one recipient
treq-ours   treq on relay.client.agent, and so on the pool
treq-agent  treq on Twisted's Agent, as a relay would have it that does not care

A message has 4 kB.  The layers run in turn, some times; printed are the medians and the least, in milliseconds of
this process' CPU for each POST; what the system takes of it, most of it in send(), swings with the machine.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import random
import resource
import statistics
import tempfile
from collections.abc import Awaitable, Callable
from typing import Any, cast

from durable import Process
from faulty import free_port
from roles import KEY
from treq.client import HTTPClient
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import react
from twisted.web.client import Agent, HTTPConnectionPool

from relay import policy
from relay.client.agent import treq_client
from relay.client.backend import Backend
from relay.client.endpoints import Endpoints, trust
from relay.client.exchange import ThroughTreq
from relay.client.platforms import Platforms
from relay.client.pool import make_client
from relay.client.request import Exchange, Origin, Request, target
from relay.operate import tls
from relay.posting import Posting
from relay.spool.breaker import Breaker
from relay.spool.handover import Handover
from relay.values import Account, Submission
from relay.wire import encode_submission

HOST = "localhost"
BODY = '<tr><td>00001</td><td><a href="https://shop.example/item/00001">Item number 00001</a></td></tr>\r\n' * 42
SUBMISSION = Submission(
    api_key=KEY, request_id="6MZAAAAAAAAAA", idempotency_key="6MZAAAAAAAAAA-0123456789abcdef",
    fromname="Example Shop", fromemail="orders@shop.example", to="jane.doe@customer.example", toname="Jane Doe",
    subject="Your order 10023 has shipped", replyto="", returnpath="bounce@shop.example", body=BODY, tag="welcome",
    route="", template="", variables=None,
)  # fmt: skip

#: One POST.
Post = Callable[[], Awaitable[Any]]


class Bare(Protocol):
    """Writes a request that was made beforehand, and waits for an answer that comes in one piece."""

    def connectionMade(self) -> None:
        cast("Any", self.transport).setTcpNoDelay(True)

    def ask(self, request: bytes) -> Deferred[bytes]:
        """Write it."""
        self.answered: Deferred[bytes] = Deferred()
        cast("Any", self.transport).write(request)
        return self.answered

    def dataReceived(self, data: bytes) -> None:
        self.answered.callback(data)


class Layers:
    """Each layer, ready to post.

    :param ca_file: the sink's certificate, "" without TLS.
    """

    def __init__(self, reactor: Any, url: str, ca_file: str) -> None:
        self._reactor = reactor
        self._url = url
        self._settings = policy.Platform(ca_file=ca_file)
        self._endpoints = Endpoints(reactor, trust(ca_file), 30.0)
        self.pool = make_client(reactor, self._settings)
        self.twisteds = HTTPConnectionPool(reactor)
        self.twisteds.maxPersistentPerHost = 1000
        self._idle: list[Bare] = []

    def each(self) -> dict[str, Post]:
        """By name."""
        # Agent wants an IAgentEndpointFactory; ours is asked with an Origin.
        endpoints: Any = _EndpointFactory(self._endpoints)
        agent = cast("Any", Agent).usingEndpointFactory(self._reactor, endpoints, self.twisteds)
        backend = Backend(self._url, self.pool, policy=self._settings, clock=self._reactor)
        breaker = Breaker(policy.Breaker(), self._reactor)
        platforms = Platforms([backend], [breaker])
        return {
            "bare": self._bare,
            "pool": self._through(self.pool),
            "backend": lambda: backend.send(SUBMISSION),
            "platforms": lambda: platforms.send(SUBMISSION),
            "handover": self._handover(platforms),
            "treq-ours": self._through(ThroughTreq(treq_client(self.pool, self._settings), self._reactor)),
            "treq-agent": self._through(ThroughTreq(HTTPClient(agent), self._reactor)),
        }

    def _request(self) -> Request:
        common = (
            ("User-Agent", "smtp-relay/1"), ("Accept", "application/json"), ("Accept-Encoding", "identity"),
            ("X-Auth-APIKey", KEY), ("Content-Type", "application/json"),
        )  # fmt: skip
        fields = (("X-Request-ID", SUBMISSION.request_id), ("Idempotency-Key", SUBMISSION.idempotency_key))
        to = target("POST", f"{self._url}/api/transactional/send", common)
        return Request(to, fields, (encode_submission(SUBMISSION),))

    async def _bare(self) -> None:
        connection = self._idle.pop() if self._idle else await self._connect()
        await connection.ask(self._prepared)
        self._idle.append(connection)

    async def _connect(self) -> Bare:
        request = self._request()
        self._prepared = request.head + b"".join(request.body or ())
        return cast("Bare", await self._endpoints(request.target.origin).connect(Factory.forProtocol(Bare)))

    def _through(self, exchange: Exchange) -> Post:
        made = self._request()
        return lambda: exchange.exchange(Request(made.target, made.fields, made.body), seconds=30.0, limit=65_536)

    def _handover(self, platforms: Platforms) -> Post:
        handover = Handover(
            posting=Posting(platforms.send), spool=cast("Any", None), policy=policy.Delivery(), clock=self._reactor,
            memory=2**29, deadline=30.0, backoff=lambda *_: 1.0, is_down=lambda: platforms.open,
            wake=lambda: None, given_up=lambda *_: None,
        )  # fmt: skip
        account = Account(KEY)

        async def post() -> None:
            (outcome,) = await handover.deliver(account, [SUBMISSION])
            assert outcome.failure is None and not outcome.spooled

        return post


class _EndpointFactory:
    """For Twisted's Agent."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints

    def endpointForURI(self, uri: Any) -> Any:
        """What an :class:`Endpoints` has."""
        return self._endpoints(Origin(uri.scheme.decode(), uri.host.decode(), uri.port))


async def cpu(post: Post, posts: int, side_by_side: int) -> tuple[float, float]:
    """Milliseconds of CPU for each of *posts*: in the process, and in the system for it."""
    left = iter(range(posts))

    async def lane() -> None:
        for _ in left:
            await post()

    begun = resource.getrusage(resource.RUSAGE_SELF)
    await gatherResults([Deferred.fromCoroutine(lane()) for _ in range(side_by_side)])
    ended = resource.getrusage(resource.RUSAGE_SELF)
    user, system = ended.ru_utime - begun.ru_utime, ended.ru_stime - begun.ru_stime
    return user * 1000 / posts, system * 1000 / posts


async def measure(reactor: Any, arguments: argparse.Namespace, url: str, ca_file: str) -> None:
    """Print, for each layer."""
    layers = Layers(reactor, url, ca_file)
    each = layers.each()
    if arguments.profile:
        profile = cProfile.Profile()
        await cpu(each[arguments.profile], arguments.side_by_side * 2, arguments.side_by_side)
        profile.enable()
        await cpu(each[arguments.profile], arguments.posts, arguments.side_by_side)
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    else:
        for post in each.values():
            await cpu(post, arguments.side_by_side * 2, arguments.side_by_side)
        rounds = [
            {name: await cpu(post, arguments.posts, arguments.side_by_side) for name, post in each.items()}
            for _ in range(arguments.rounds)
        ]
        found = {}
        for name in each:
            user = statistics.median(one[name][0] for one in rounds)
            total = found[name] = statistics.median(sum(one[name]) for one in rounds)
            least = min(sum(one[name]) for one in rounds)
            times = total / found["bare"]
            print(f"{name:11s} {total:.4f} ms ({user:.4f} user), least {least:.4f}; {times:.1f} times bare")
        print(json.dumps({name: round(milliseconds, 5) for name, milliseconds in found.items()}))
    layers.pool.close()
    await cast("Any", layers.twisteds).closeCachedConnections()


def main() -> None:
    """Start the sink, and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--https", action="store_true")
    parser.add_argument("--posts", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side-by-side", type=int, default=50)
    parser.add_argument("--profile", default="")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        port, options, ca_file = free_port(random.Random()), list[str](), ""
        if arguments.https:
            certificate, key = tls.make(folder, HOST)
            ca_file = str(certificate)
            options = ["--certificate", str(certificate), "--private-key", str(key)]
        sink = Process("platform", ["--port", str(port), *options])
        sink.wait_until_ready()
        url = f"http{'s' if arguments.https else ''}://{HOST if arguments.https else '127.0.0.1'}:{port}"
        try:
            react(lambda reactor: Deferred.fromCoroutine(measure(reactor, arguments, url, ca_file)))
        finally:
            sink.stop()


if __name__ == "__main__":
    main()
