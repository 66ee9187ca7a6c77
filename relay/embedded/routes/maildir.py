"""The way into a maildir (https://cr.yp.to/proto/maildir.html): a file is there whole and durable, or not at all."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from relay.embedded.database import Executor
from relay.embedded.routes.building import Built
from relay.embedded.routes.ways import Hear, NotTaken
from relay.errors import Reason, TemporaryFailure


class Folder:
    """Files messages (a :class:`~relay.embedded.routes.ways.Way`).

    :param path: of the maildir; it is made when the first message comes.
    :param writing: runs what waits for the disk.
    """

    lanes = 4
    rate = 0

    def __init__(self, path: Path, writing: Executor) -> None:
        self._path = path
        self._writing = writing

    async def send(self, message: Built, id: str) -> tuple[str, str]:
        """See :class:`~relay.embedded.routes.ways.Way`.  A repetition has the same name, and takes its place."""
        try:
            await self._writing.run(partial(_deliver, self._path, message, f"{id}.smtp-relay"))
        except OSError as error:
            raise self._problem(error) from None
        return f"stored as new/{id}.smtp-relay", f"maildir {self._path.name}"

    async def probe(self, hear: Hear) -> None:
        """See :class:`~relay.embedded.routes.ways.Way`: the folder is made, and a file in it, which is gone again."""
        try:
            await self._writing.run(partial(_try, self._path))
        except OSError as error:
            raise self._problem(error) from None
        hear("<", f"{self._path} can be written")

    def _problem(self, error: OSError) -> NotTaken:
        text = f"{error.filename or self._path}: {error.strerror}"
        return NotTaken(TemporaryFailure(Reason.UNREACHABLE), text, f"maildir {self._path.name}")

    async def close(self) -> None:
        """Nothing is open."""


def _make(folder: Path) -> None:
    for each in ("tmp", "new", "cur"):
        (folder / each).mkdir(mode=0o700, parents=True, exist_ok=True)


def _try(folder: Path) -> None:
    _make(folder)
    draft = folder / "tmp" / f"probe.{os.getpid()}"
    draft.touch(mode=0o600)
    draft.unlink()


def _deliver(folder: Path, message: Built, name: str) -> None:
    _make(folder)
    draft = folder / "tmp" / name
    head = f"Return-Path: <{message.sender}>\nDelivered-To: {message.recipient}\n".encode()
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
        file.write(head + message.content.replace(b"\r\n", b"\n"))
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, folder / "new" / name)
    descriptor = os.open(folder / "new", os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
