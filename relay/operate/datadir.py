"""The data directory: made where it is missing, and held by one relay at a time."""

from __future__ import annotations

import fcntl
import os

from relay.errors import ConfigError

#: The file that is locked; it stays when the relay ends, the lock does not.
LOCK = "lock"


class DataDirectory:
    """Holds *path* until :meth:`release`, or until the process ends, however it ends.

    Two relays on one directory would each think its spool, key and certificate its own.

    :raises ConfigError: another relay holds it.
    :raises OSError: it cannot be made or written to.
    """

    def __init__(self, path: str) -> None:
        os.makedirs(path, mode=0o700, exist_ok=True)
        file = os.open(os.path.join(path, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(file, 0)
            os.write(file, b"%d\n" % os.getpid())
        except BlockingIOError:
            holder = os.read(file, 20).decode("ascii", "replace").strip() or "unknown"
            os.close(file)
            raise ConfigError(
                [f"data: {path} is in use by another relay (process {holder}): give each its own with --data"]
            ) from None
        except OSError:
            os.close(file)
            raise
        self._file: int | None = file

    def release(self) -> None:
        """Let another relay have it; what is released already stays so."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)
