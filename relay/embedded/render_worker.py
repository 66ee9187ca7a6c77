"""A process that renders templates: a JSON line in, a JSON line out, within limits (THREATS.md, "Jinja2").

In: ``{"source": str, "variables": object or null}``, null for a look at the source alone.  Out: ``{"body": str,
"undefined": [str]}`` or ``{"error": str, "line": number or null}``; with ``"ends": true`` the process takes no more.
:mod:`relay.embedded.render` starts it, watches the clock and restarts it.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
from typing import Any

from relay.embedded import template

#: What is said of a template that needs more memory than it may have.
MEMORY = "the template needs too much memory"


def confine(memory: int) -> None:
    """Bound this process for good: *memory* in bytes of address space, no files written, no core, no children."""
    limits = (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 16),
    )
    for limit, most in limits:
        # A system that does not know a limit has the others, and the clock.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(limit, (most, most))


def allow_cpu(seconds: int) -> None:
    """Let this process run for about *seconds* more before SIGXCPU ends it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(used.ru_utime + used.ru_stime)
    resource.setrlimit(resource.RLIMIT_CPU, (spent + 1 + seconds, resource.RLIM_INFINITY))


def answer(line: bytes) -> dict[str, Any]:
    """What becomes of one request."""
    request = json.loads(line)
    try:
        rendered = template.render(request["source"], request["variables"])
    except template.TemplateError as error:
        return {"error": error.words[:1000], "line": error.line}
    return {"body": rendered.text, "undefined": rendered.undefined}


def main(memory: int, cpu: int) -> None:
    """Answer requests until the input ends.

    :param memory: of this process, in bytes.
    :param cpu: of one request, in seconds.
    """
    # What Jinja2 imports late must be there before files run short.
    template.render("{{ a|upper }}{% for b in a %}{{ loop.index }}{% endfor %}", {"a": "b"})
    confine(memory)
    for line in sys.stdin.buffer:
        allow_cpu(cpu)
        try:
            said = json.dumps(answer(line)).encode()
        except MemoryError:
            # Written without asking for more; a fresh process takes over.
            sys.stdout.buffer.write(b'{"error": "%s", "ends": true}\n' % MEMORY.encode())
            sys.stdout.buffer.flush()
            return
        sys.stdout.buffer.write(said + b"\n")
        sys.stdout.buffer.flush()
