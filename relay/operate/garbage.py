"""When Python looks for garbage."""

from __future__ import annotations

import gc

#: Objects made and not yet dropped before the next look, and how many looks until a thorough one.
_SELDOM = (20_000, 20, 20)


def look_seldom() -> None:
    """Look for cycles of objects from now on, but seldom, and never at what the process has already.

    A message leaves no cycle behind; Python's default looks for some at every tenth, a twentieth of all that it costs.
    """
    gc.freeze()
    gc.set_threshold(*_SELDOM)
    gc.enable()
