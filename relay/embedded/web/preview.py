"""HTML of a message, served so that it does nothing (THREATS.md, "Web"): no script, no origin, no request."""

from __future__ import annotations

import re

from relay.embedded.resource import Answer
from relay.embedded.web.frame import HTML

#: Wherever it is opened, in a frame of ours or by itself.
HEADERS = (
    (
        "Content-Security-Policy",
        "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'",
    ),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("X-DNS-Prefetch-Control", "off"),
)

#: No policy keeps Chromium from connecting ahead for ``<link rel=preconnect>`` and for frames; what else these
#: elements could do, the policy forbids already.
_CONNECTING = re.compile(r"<(?=(?:link|i?frame)[\s/>])", re.IGNORECASE)


def harmless(body: str) -> Answer:
    """The HTML *body* by itself."""
    return Answer(_CONNECTING.sub("<x-", body).encode("utf-8", "replace"), HTML, headers=HEADERS)
