"""Runs coroutines that nobody awaits."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure


def resume(work: Coroutine[Deferred[Any], Any, Any], result: object) -> Deferred[Any]:
    """Go on with *work*, which waited for *result*; what it waits for now.

    ``Deferred.fromCoroutine`` does the same for what can be awaited and cancelled, at three times the cost.  As with
    it, a coroutine is to go on in the context that it began in.

    :raises StopIteration: it has ended, and what it returned.
    """
    return result.throwExceptionIntoGenerator(work) if isinstance(result, Failure) else work.send(result)
