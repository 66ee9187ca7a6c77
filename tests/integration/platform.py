"""An email platform that only records: HTTP_CONTRACT.md on a free port of loopback, in a thread.

The embedded backend is part of what is tested; this is not, and shares no code with it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from attrs import define, field, frozen


@frozen
class Post:
    """One POST as it came; *fields* is its JSON, *headers* has lower-case names."""

    path: str
    headers: dict[str, str]
    body: bytes
    fields: dict[str, Any]


#: Answers a POST: status, JSON.
Answer = Callable[[Post], tuple[int, object]]


def accept(post: Post) -> tuple[int, object]:
    """What the platform says when all is well."""
    return 200, {"tag": post.fields["tag"], "to": post.fields["to"], "result": "ok"}


@define
class Platform:
    """The platform's end.

    :ivar url: its base URL.
    :ivar key: the one good API key.
    :ivar routes: what ping tells, or None for a platform that does not.
    :ivar posts: every submission with a good key, in the order of their arrival.
    :ivar pings: how many there were.
    :ivar answer: what to answer; tests replace it.
    """

    url: str
    key: str
    routes: list[dict[str, str]] | None = None
    posts: list[Post] = field(factory=list)
    pings: int = 0
    answer: Answer = accept
    _changed: threading.Condition = field(factory=threading.Condition, repr=False)

    def record(self, post: Post) -> tuple[int, object]:
        """Keep *post* and answer it."""
        with self._changed:
            self.posts.append(post)
            self._changed.notify_all()
        return self.answer(post)

    def ping(self) -> object:
        """The answer to a ping with the good key."""
        self.pings += 1
        return [{"name": "Example Ltd"} | ({} if self.routes is None else {"routes": self.routes})]

    def wait(self, enough: Callable[[list[Post]], bool], timeout: float = 60.0) -> list[Post]:
        """The posts, once *enough* of them says so.

        :raises AssertionError: not within *timeout* seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: enough(self.posts), timeout):
                raise AssertionError(f"the platform got {[post.fields.get('to') for post in self.posts]}")
            return list(self.posts)


def _requests(platform: Callable[[], Platform]) -> type[BaseHTTPRequestHandler]:
    class Requests(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if not self.path.startswith("/api/ping"):
                return self.reply(404, {"title": "Not found", "description": self.path})
            return self.reply(200, platform().ping()) if self.signed_in() else None

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if not self.signed_in():
                return
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.reply(*platform().record(Post(self.path, headers, body, json.loads(body))))

        def signed_in(self) -> bool:
            good = self.headers.get_all("X-Auth-APIKey") == [platform().key]
            if not good:
                self.reply(401, {"title": "Unauthorized", "description": "Invalid API key"})
            return good

        def reply(self, status: int, value: object) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    return Requests


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a relay that stops cuts off its idle connections."""


@contextmanager
def running(key: str, routes: list[dict[str, str]] | None = None) -> Iterator[Platform]:
    """A platform that answers until the block ends."""
    server = _Server(("127.0.0.1", 0), _requests(lambda: platform))
    platform = Platform(f"http://127.0.0.1:{server.server_address[1]}", key, routes)
    thread = threading.Thread(target=server.serve_forever, name="platform", daemon=True)
    thread.start()
    try:
        yield platform
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
