"""What it costs to read a message: ``python benchmarks/parser.py [--seconds 0.2] [--rounds 7]``.

Reads the messages of ``compare.py`` with the parser for usual shapes and with the general one, in turn, in one
process.  Printed are the least microseconds of CPU a message, and the ratio, which says more.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from comparison.messages import letters

from relay.message import general, usual
from relay.policy import Limits
from relay.values import Message

LIMITS = Limits()


def cost(read: Callable[[bytes], Message | None], content: bytes, seconds: float) -> float:
    """CPU of one call, in microseconds."""
    count, begun = 0, time.process_time()
    while (took := time.process_time() - begun) < seconds:
        for _ in range(20):
            read(content)
        count += 20
    return took / count * 1e6


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.2, help="of each parser, message and round")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    for name, letter in letters().items():
        content = letter.content.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        quick = slow = float("inf")
        for _ in range(options.rounds):
            quick = min(quick, cost(lambda content: usual.read(content, LIMITS), content, options.seconds))
            slow = min(slow, cost(general, content, options.seconds))
        print(f"{name}: usual {quick:.1f} µs, general {slow:.1f} µs, {slow / quick:.2f} times")


if __name__ == "__main__":
    main()
