"""The embedded backend on real threads and sockets, and its previews in a real browser."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import treq
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent, HTTPConnectionPool

from relay.embedded.backend import Backend
from tests.embedded.inmemory import MESSAGE
from tests.integration.browser import PagesCase

#: Every way that HTML has to make a browser speak to {0}, and to run script.
HOSTILE = """<!doctype html><html><head><meta http-equiv=refresh content="0;url={0}/refresh"><title>As sent</title>
<link rel=preconnect href="{0}"><link rel=dns-prefetch href="{0}"><link rel=prefetch href="{0}/prefetch">
<link rel=preload as=image href="{0}/preload"><link rel=stylesheet href="{0}/css"><link rel=icon href="{0}/icon">
<link rel=modulepreload href="{0}/module"><base href="{0}/"><script src="{0}/js"></script>
<style>@import "{0}/import"; body {{ background: url({0}/background) }}
@font-face {{ font-family: x; src: url({0}/font) }} p {{ font-family: x }}</style>
<script>fetch("{0}/fetch"); document.title = "RAN"; top.location = "{0}/top"</script></head>
<body onload="document.title = 'RAN'"><p>text</p><img src="{0}/img"><img srcset="{0}/srcset 1x">
<img src=x onerror="document.title = 'RAN'"><video autoplay src="{0}/video" poster="{0}/poster"></video>
<audio autoplay src="{0}/audio"></audio><iframe src="{0}/frame"></iframe><object data="{0}/object"></object>
<iframe srcdoc="<img src={0}/inner>"></iframe><embed src="{0}/embed"><svg><image href="{0}/svg"/></svg>
<form action="{0}/form"><input autofocus onfocus="this.form.submit()"></form>
<table background="{0}/table"><tr><td>x</table><input type=image src="{0}/input"></body></html>"""


class EmbeddedCase(TestCase):
    """A backend that listens on a port of its own."""

    async def open(self) -> None:
        self.data = getattr(self, "data", None) or Path(self.mktemp())
        self.data.mkdir(exist_ok=True)
        self.backend = Backend.open(self.data, reactor=reactor)
        self.port = reactor.listenTCP(0, self.backend.site(), interface="127.0.0.1")
        self.url = f"http://127.0.0.1:{self.port.getHost().port}"
        self.pool = HTTPConnectionPool(reactor)
        self.pool.maxPersistentPerHost = 50
        self.client = treq.client.HTTPClient(Agent(reactor, pool=self.pool))

    async def shut(self) -> None:
        await self.pool.closeCachedConnections()
        await self.port.stopListening()
        await self.backend.close()

    async def post(self, key: str, **changed: Any) -> dict[str, Any]:
        """Submit a message; the answer."""
        headers = {"X-Auth-APIKey": self.backend.api_key, "Idempotency-Key": key}
        reply = await self.client.post(
            f"{self.url}/api/transactional/send", json={**MESSAGE, **changed}, headers=headers
        )
        said: dict[str, Any] = await treq.json_content(reply)
        self.assertEqual(reply.code, 200, said)
        return said

    async def listed(self) -> list[dict[str, Any]]:
        """The log."""
        reply = await self.client.get(
            f"{self.url}/api/transactional/log?limit=500", headers={"X-Auth-APIKey": self.backend.api_key}
        )
        return (await treq.json_content(reply))["messages"]


class ThreadsTests(EmbeddedCase):
    """Real threads."""

    def test_at_once(self) -> Deferred[None]:
        """Of 150 submissions at once, each key thrice, 50 are stored; a restart finds them."""

        async def run() -> None:
            await self.open()
            keys = [str(number) for number in range(50)] * 3
            posting = [Deferred.fromCoroutine(self.post(key, subject=f"number {key}")) for key in keys]
            said = await gatherResults(posting)
            ids = [each["id"] for each in said]
            self.assertEqual(ids[:50], ids[50:100])
            self.assertEqual(ids[:50], ids[100:])
            await self.shut()
            await self.open()
            self.assertEqual({row["id"] for row in await self.listed()}, set(ids))
            self.assertEqual(len(await self.listed()), 50)
            await self.shut()

        return Deferred.fromCoroutine(run())

    def test_rendering(self) -> Deferred[None]:
        """A body with variables is rendered by a process of its own, which closing ends."""

        async def run() -> None:
            await self.open()
            await self.post("K", body="<p>{{ name }}</p>", variables={"name": "<Zoë>"})
            (row,) = await self.listed()
            self.assertEqual(row["size"], len("<p>&lt;Zoë&gt;</p>".encode()))
            await self.shut()

        return Deferred.fromCoroutine(run())


class BrowserTests(PagesCase):
    """A message that tries everything, in Chromium."""

    def test_nothing_leaves(self) -> None:
        """Neither on the message's page nor opened alone does it run script or reach another server."""
        with socket.create_server(("127.0.0.1", 0)) as elsewhere:
            body = HOSTILE.format(f"http://127.0.0.1:{elsewhere.getsockname()[1]}")
            id = self.post(body=body)
            page = self.sign_in()
            asked, blocked = [], []
            page.on("request", lambda request: asked.append(request.url))
            page.on("requestfailed", lambda request: blocked.append(request.url))
            page.goto(f"/message/{id}")
            page.wait_for_timeout(1500)
            self.assertEqual(page.locator("iframe").count(), 1)
            page.goto(f"/message/{id}/preview")
            page.wait_for_timeout(1500)
            self.assertEqual(page.title(), "As sent")
            own = (f"{self.url}/message/{id}", f"{self.url}/static/", "data:")
            # What the policy forbade is listed too, as blocked.
            self.assertEqual([url for url in asked if not url.startswith(own) and url not in blocked], [])
            elsewhere.setblocking(False)
            self.assertRaises(BlockingIOError, elsewhere.accept)
            # The same without our headers does reach it, or the test shows nothing.
            page.set_content(body, wait_until="commit")
            elsewhere.settimeout(10)
            elsewhere.accept()[0].close()
