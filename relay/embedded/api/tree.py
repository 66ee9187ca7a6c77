"""The tree of the API: from the paths that it has to the resources that answer at them."""

from __future__ import annotations

from collections.abc import Mapping

from twisted.web.server import Request

from relay.embedded.resource import Answer, Endpoint, nothing


class Folder(Endpoint):
    """A path, with or without an answer of its own, and what is below it."""

    isLeaf = False

    def __init__(self) -> None:
        super().__init__()
        self.own: Endpoint | None = None
        self.below: dict[str, Folder] = {}
        self.any: Folder | None = None

    def getChild(self, path: bytes, request: Request) -> Endpoint:
        found = self.below.get(path.decode("latin-1")) or (self.any if path else None)
        return found or Folder()

    def render(self, request: Request) -> int:
        return super().render(request) if self.own is None else self.own.render(request)

    async def _answer(self, request: Request) -> Answer:
        return self.refusal(request, nothing())


def grow(paths: Mapping[str, Endpoint]) -> Folder:
    """A tree with an endpoint at each of *paths*; ``{name}`` is a segment with any text."""
    root = Folder()
    for path, endpoint in paths.items():
        folder = root
        for name in path.split("/"):
            if name.startswith("{"):
                folder.any = folder.any or Folder()
                folder = folder.any
            else:
                folder = folder.below.setdefault(name, Folder())
        folder.own = endpoint
    return root


def segment(request: Request, position: int) -> str:
    """A segment of the request's path, counted from 0."""
    parts: list[bytes] = request.prepath or []
    return parts[position].decode("utf-8", "replace")
