"""Tables of a result: of text for the terminal, and in reStructuredText for docs/performance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .figures import YARDSTICK, Row
from .messages import WORKLOADS
from .programs import AIOSMTPD, RELAY, TWISTED
from .result import Result

#: Between these lines of the page stands what :func:`page` makes.
BEGIN = ".. Made by benchmarks/compare.py --page from benchmarks/result.json."
END = ".. The end of what is made."

_NONE = "–"
_HEAD = ("workload", "program", "CPU ms each", "ratio", "lowest–highest", "target", "messages/s", "sent", "counted", "")


def text(result: Result) -> str:
    """For the terminal."""
    parts = [_aligned(_HEAD, [_cells(row) for row in result.rows])] if result.runs else []
    if result.figures:
        cells = [
            (each.name, digits(each.median), each.unit, _number(each.target, "g"), each.verdict, each.remark)
            for each in result.figures
        ]
        parts.append(_aligned(("", "median", "", "target", "", ""), cells))
    if result.runs:
        parts.append(f"Other work on this machine meanwhile: {result.others:.2f} cores.")
    return "\n\n".join(parts)


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.workload,
        row.program,
        f"{row.cpu_ms:.3f}",
        _number(row.ratio, ".2f"),
        _spread(row),
        _number(row.target, ".1f"),
        f"{row.rate:.0f}",
        str(row.asked),
        _NONE if row.counted is None else str(row.counted),
        row.verdict,
    )


def digits(value: float) -> str:
    """With three digits, and never in powers of ten."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _number(value: float | None, form: str) -> str:
    return _NONE if value is None else format(value, form)


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*lines, strict=True)]


def _aligned(head: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    lines = [head, *cells]
    widths = _widths(lines)
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def page(result: Result) -> str:
    """For docs/performance."""
    found = {(row.workload, row.program): row for row in result.rows}
    names = [name for name in (TWISTED, AIOSMTPD, RELAY) if any(program == name for _, program in found)]
    workloads = [each for each in WORKLOADS.values() if (each.name, RELAY) in found]
    if not workloads:
        raise ValueError("the result has no row of the relay")
    ratios = [
        (
            each.name,
            *(_ratio(found.get((each.name, name))) for name in names),
            _spread(found[each.name, RELAY]),
            _number(each.target, ".1f"),
            each.words,
        )
        for each in workloads
    ]
    milliseconds = [
        (each.name, *(_milliseconds(found.get((each.name, name))) for name in (YARDSTICK, *names)), _core(relay), sent)
        for each in workloads
        for relay in (found[each.name, RELAY],)
        for sent in (f"{relay.counted} of {relay.asked}",)
    ]
    parts = [
        _circumstances(result),
        "CPU of a message, as a ratio to smtp-sink's:",
        _rst(("", *names, "lowest–highest", "target", "workload"), ratios),
        "The same in milliseconds; how many messages a second of one core's time is enough for; how many the platform\n"
        "counted of those that were sent to the relay:",
        _rst(("", YARDSTICK, *names, "a core carries", "counted"), milliseconds),
    ]
    return "\n\n".join([*parts, *_signed_in(found), *_figures(result)]) + "\n"


def _circumstances(result: Result) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    here = result.machine
    return (
        f"{result.date}, {here['processor']}, {here['cores']} cores, Linux {here['kernel']}; {versions}.\n"
        f"Medians of {result.options['repeat']} runs; other work took {result.others:.2f} cores meanwhile."
    )


def _ratio(row: Row | None) -> str:
    return _NONE if row is None else f"{_number(row.ratio, '.2f')}{_mark(row)}"


def _spread(row: Row) -> str:
    return f"{row.spread[0]:.2f}–{row.spread[1]:.2f}" if row.spread else _NONE


def _core(row: Row) -> str:
    """Messages that a second of one core's time is enough for, by their median."""
    return f"{1000 / row.cpu_ms:.0f}/s" if row.cpu_ms else _NONE


def _milliseconds(row: Row | None) -> str:
    return _NONE if row is None else f"{row.cpu_ms:.3f}{_mark(row)}"


def _mark(row: Row) -> str:
    return "" if row.good else " BAD"


def _signed_in(found: dict[tuple[str, str], Row]) -> list[str]:
    kinds = ("plain", "AUTH", "STARTTLS")
    lines = [
        (
            name,
            *(_milliseconds(found.get((f"{name} {kind}", RELAY))) for kind in kinds),
            *(_ratio(found.get((f"{name} {kind}", RELAY))) for kind in kinds),
        )
        for name in WORKLOADS
        if (f"{name} plain", RELAY) in found
    ]
    if not lines:
        return []
    words = (
        "By our own client, which can sign in (milliseconds, then the ratio to smtp-sink driven by the same client "
        "without any of it):"
    )
    return [words, _rst(("", *kinds, *(f"{kind}, ratio" for kind in kinds)), lines)]


def _figures(result: Result) -> list[str]:
    lines = [
        (
            each.name,
            f"{digits(each.median)} {each.unit}",
            _number(each.target, "g"),
            each.remark or ("" if each.good else "BAD"),
        )
        for each in result.figures
    ]
    return [_rst(("", "median", "target", "remark"), lines)] if lines else []


def _rst(head: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A simple table; an empty first cell would continue the row above."""
    lines = [[cell or "\\" for cell in line] for line in (head, *cells)]
    rule = "  ".join("=" * width for width in _widths(lines))
    top, *body = _aligned(lines[0], lines[1:]).splitlines()
    return "\n".join([rule, top, rule, *body, rule])


def replaced(whole: str, made: str) -> str:
    """The page *whole* with *made* between its two lines.

    :raises ValueError: the lines are not there.
    """
    before, begin, rest = whole.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{made}\n{END}{after}"
