"""``/static``: the style sheet and the script, for anyone: they tell nothing."""

from __future__ import annotations

from twisted.web.server import Request

from relay.embedded.resource import Answer, Endpoint, nothing
from relay.embedded.web.frame import HEADERS, asset, static

_SCRIPT = "text/javascript; charset=utf-8"
_TYPES = {"style.css": "text/css; charset=utf-8", "relay.js": _SCRIPT, "editor.js": _SCRIPT}


class Static(Endpoint):
    """A file by its name; what is asked for by the path of :func:`~relay.embedded.web.frame.static` never changes."""

    async def answer(self, request: Request) -> Answer:
        name = "/".join(part.decode("latin-1") for part in request.postpath or ())
        if name not in _TYPES:
            raise nothing()
        keep = "max-age=31536000, immutable" if request.uri.decode("latin-1") == static(name) else "no-cache"
        return Answer(asset("static", name), _TYPES[name], headers=(*HEADERS, ("Cache-Control", keep)))
