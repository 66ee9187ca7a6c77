"""The relay beside what anyone can install: CPU of a message, latency, memory, start.

    python benchmarks/compare.py [--quick] [--repeat 5] [--json FILE] [--only W2] [--program relay]

Programs: the relay, a naive Twisted relay, aiosmtpd with aiohttp, and Postfix' smtp-sink, which takes each message and
does nothing with it: what all are related to.  It needs Linux, Postfix and a C compiler from Debian, and the relay with
its extra ``bench``; what is missing is said with the command that installs it.

A program runs on one core, client and platform on the others.  CPU is user and system time of the program's process
tree, per message.  A row is BAD unless every message has a 250 and the platform counted each once, unchanged.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from comparison import needs, parts, table
from comparison.bench import Bench
from comparison.messages import WORKLOADS
from comparison.profile import profile
from comparison.programs import AIOSMTPD, RELAY, TWISTED
from comparison.result import Result, made

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "performance.rst"

#: What each is called on the command line.
PROGRAMS = {"relay": RELAY, "twisted": TWISTED, "aiosmtpd": AIOSMTPD}
SIGN_IN = parts.OF_THE_RELAY[0]
ALL = (*WORKLOADS, SIGN_IN, *parts.PARTS)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--only", action="append", choices=ALL, help="only this part; may be repeated")
    parser.add_argument("--program", action="append", choices=PROGRAMS, help="only this program; may be repeated")
    parser.add_argument("--repeat", type=positive, default=5, help="runs of each, of which the median counts")
    parser.add_argument("--seconds", type=float, default=2.0, help="about how long a run is")
    parser.add_argument("--messages", type=int, default=0, help="messages of a run, in place of --seconds")
    parser.add_argument("--quick", action="store_true", help="one run of half a second: whether it works at all")
    parser.add_argument("--client", choices=("smtp-source", "load"), default="smtp-source", help="Postfix' or ours")
    parser.add_argument("--rate", type=float, default=800.0, help="messages a second of the latency")
    parser.add_argument("--idle-sessions", type=positive, default=1000)
    parser.add_argument("--large-clients", type=positive, default=100, help="that send a large message at once")
    parser.add_argument("--large-size", type=positive, default=30_000_000, help="octets of that message, about")
    parser.add_argument(
        "--profile",
        action="append",
        choices=[f"{name}{kind and '+'}{kind}" for name in WORKLOADS for kind in parts.KINDS],
        help="only show where the relay's time goes under this; may be repeated",
    )
    parser.add_argument("--json", type=Path, help="where to write the result, with all runs")
    parser.add_argument(
        "--page", type=Path, metavar="JSON", help="measure nothing: write this result into docs/performance.rst"
    )
    options = parser.parse_args(words)
    if options.json and not options.json.resolve().parent.is_dir():
        parser.error(f"--json: {options.json.parent} is no folder")
    if options.quick:
        options.repeat, options.seconds = 1, 0.5
    options.only = [] if options.profile else options.only or list(ALL)
    names = ["relay"] if options.profile else options.program or PROGRAMS
    options.programs = [PROGRAMS[each] for each in names]
    if RELAY not in options.programs:
        options.only = [each for each in options.only if each not in parts.OF_THE_RELAY]
    return options


def positive(word: str) -> int:
    """A number that counts something; argparse says what was wrong."""
    if (number := int(word)) < 1:
        raise ValueError
    return number


def needed(options: argparse.Namespace) -> Iterator[str]:
    """What this measurement needs from Debian and PyPI."""
    yield from ("Linux", "smtp-sink", "smtp-source", "cc")
    if uses_tls(options):
        yield "openssl/ssl.h"
    for name in options.programs:
        yield from parts.NEEDS[name]


def uses_tls(options: argparse.Namespace) -> bool:
    """Whether our client needs it."""
    return SIGN_IN in options.only or any("STARTTLS" in each for each in options.profile or ())


def measure(options: argparse.Namespace) -> Result:
    """All parts that were asked for."""
    with (
        tempfile.TemporaryDirectory(prefix="relay-compare-") as folder,
        Bench.ready(options, Path(folder), tls=uses_tls(options)) as bench,
    ):
        for name in options.profile or ():
            print(profile(bench, name).text())
        workloads = [WORKLOADS[name] for name in WORKLOADS if name in options.only]
        if workloads:
            parts.table(bench, workloads)
        if SIGN_IN in options.only:
            parts.sign_in(bench, [WORKLOADS[name] for name in ("W1", "W2", "W3", "W4")])
        for name, part in parts.PARTS.items():
            if name in options.only:
                part(bench)
    kept = ("repeat", "seconds", "messages", "client", "rate", "only", "programs")
    return made({name: getattr(options, name) for name in kept}, bench.runs, bench.figures)


def main() -> int:
    """Measure and print; the exit code is 1 when a row is bad, 2 when something is missing."""
    options = arguments()
    try:
        if options.page:
            result = Result.from_json(options.page.read_text("utf-8"))
            PAGE.write_text(table.replaced(PAGE.read_text("utf-8"), table.page(result)), "utf-8")
            return 0
        if lacking := needs.missing(needed(options)):
            print(needs.advice(lacking), file=sys.stderr)
            return 2
        result = measure(options)
    except (OSError, ValueError, RuntimeError) as error:
        print(f"compare.py: {error}", file=sys.stderr)
        return 2
    print(f"\n{table.text(result)}")
    if options.json:
        options.json.write_text(result.to_json(), "utf-8")
    return 0 if all(row.good for row in result.rows) and all(each.good for each in result.figures) else 1


if __name__ == "__main__":
    sys.exit(main())
