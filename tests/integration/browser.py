"""The pages in a real browser: a relay in a process of its own, and Debian's Chromium led by Playwright.

    class LogTests(PagesCase):
        def test_search(self) -> None:
            self.post(subject="Hello")
            page = self.sign_in()
            page.goto("/log")
            self.shots(page, "log")

Pictures go to the folder that RELAY_SCREENSHOTS names, else to ``_screenshots``.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import tempfile
import urllib.request
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from playwright.sync_api import Browser, Page, sync_playwright
from twisted.trial.unittest import SynchronousTestCase

from relay.embedded.first import ADMINISTRATOR, USER
from tests.embedded.inmemory import MESSAGE
from tests.integration.support import ROOT, Relay, running

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

DESKTOP = {"width": 1280, "height": 860}
PHONE = {"width": 390, "height": 844}


@cache
def chromium() -> Browser:
    """The browser, started when it is first asked for and closed when the run ends."""
    playwright = sync_playwright().start()
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(_ARGUMENTS))

    def close() -> None:
        browser.close()
        playwright.stop()

    atexit.register(close)
    return browser


class PagesCase(SynchronousTestCase):
    """A relay with its embedded backend, and a browser.

    :cvar settings: keys of the relay's configuration, as :func:`tests.integration.support.start` takes them.
    :ivar relay: a new one for each test.
    :ivar url: of its pages.
    """

    if CHROMIUM is None:
        skip = "there is no Chromium"

    settings: ClassVar[dict[str, Any]] = {}
    administrator = ADMINISTRATOR
    user = USER
    relay: Relay

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        entered = running(folder=Path(folder.name), **self.settings)
        self.relay = entered.__enter__()
        self.addCleanup(entered.__exit__, None, None, None)
        self.url = f"http://127.0.0.1:{self.relay.dashboard}"
        lines = (self.relay.data / "first-passwords").read_text().splitlines()
        self.passwords = {email: password for _, email, password in map(str.split, lines)}

    def visit(self, **options: Any) -> Page:
        """A browser of its own, with nobody signed in; paths are taken from the relay's pages.

        What its scripts complain of fails the test.
        """
        context = chromium().new_context(
            **{"base_url": self.url, "viewport": DESKTOP, "color_scheme": "light", **options}
        )
        context.set_default_timeout(20_000)
        self.addCleanup(context.close)
        page = context.new_page()
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        self.addCleanup(lambda: self.assertEqual(complaints, []))
        return page

    def sign_in(self, email: str = USER, password: str = "", **options: Any) -> Page:
        """A browser in which *email* is signed in, by the form, at the first page."""
        page = self.visit(**options)
        page.goto("/sign-in")
        page.get_by_label("E-mail address").fill(email)
        page.get_by_label("Password").fill(password or self.passwords[email])
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(re.compile(r"/(?!sign-in)"))
        return page

    def post(self, **changed: Any) -> str:
        """Submit a message by the HTTP API; its id."""
        request = urllib.request.Request(
            f"{self.url}/api/transactional/send",
            json.dumps({**MESSAGE, **changed}).encode(),
            {"X-Auth-APIKey": self.relay.api_key, "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            return str(json.load(reply)["id"])

    def shots(self, page: Page, name: str, *, full: bool = True, tall: bool = False) -> None:
        """Pictures of the page as it is: light, dark, and as wide as a phone.

        :param tall: the window is as high as the page: a frame that is out of sight is not painted.

        Nothing may be wider than the phone.
        """
        folder = Path(os.environ.get("RELAY_SCREENSHOTS") or ROOT / "_screenshots")
        folder.mkdir(parents=True, exist_ok=True)
        for kind, scheme, size in (("light", "light", DESKTOP), ("dark", "dark", DESKTOP), ("phone", "light", PHONE)):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            page.set_viewport_size(size)  # type: ignore[arg-type]
            page.evaluate("scrollTo(0, 0)")
            if tall:
                height = page.evaluate("document.documentElement.scrollHeight")
                page.set_viewport_size({"width": size["width"], "height": height})
                page.wait_for_timeout(200)
            page.screenshot(path=folder / f"{name}-{kind}.png", full_page=full, animations="disabled")
            if kind == "phone":
                wide = page.evaluate("document.documentElement.scrollWidth")
                self.assertLessEqual(wide, PHONE["width"], f"{name} is wider than a phone")
        page.emulate_media(color_scheme="light")
        page.set_viewport_size(DESKTOP)  # type: ignore[arg-type]
