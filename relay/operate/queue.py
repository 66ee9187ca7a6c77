"""``smtp-relay queue``: what the spool holds, for people and for programs; try it again, or drop it.

It works on the database, with the relay running or stopped, and needs no key file.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from attrs import frozen

from relay.operate.rows import WIDE, cells, columns, lines, message_object, row_object
from relay.operate.table import Table, printable
from relay.spool.operators import EVERYTHING, Selection, Shown
from relay.spool.values import Counts, Row

#: Recipients that are listed for people unless they say how many.
FEW = 100
#: Recipients read from the database at a time.
PAGE = 1000
#: Recipients that a question names.
NAMED = 3


class CannotDo(Exception):
    """What was not done, and why: a line each."""


class Queue(Protocol):
    """The spool; :class:`relay.spool.operators.Queue`."""

    def listing(self, selection: Selection, limit: int, after: int) -> Sequence[Row]:
        """At most *limit* rows, by number, from the one that follows *after*."""

    def show(self, id: str) -> Sequence[Shown]:
        """The messages with the queue id *id*."""

    def counts(self) -> Counts:
        """How full it is."""

    def retry(self, selection: Selection) -> int:
        """Make rows due now, but for those that are being posted; how many."""

    def drop(self, selection: Selection) -> int:
        """Remove rows, but for those that are being posted; how many."""


@frozen
class Command:
    """What the command line asks for.

    :ivar name: ``list``, ``show``, ``retry`` or ``drop``.
    :ivar ids: queue ids of the messages that it is about.
    :ivar selection: what ``list`` lists, and ``retry`` without ids tries again.
    :ivar limit: most recipients to list, 0 for all; None: :data:`FEW` for people, all for programs.
    :ivar json: whether a program reads it: a JSON object a line.
    """

    name: str = "list"
    ids: tuple[str, ...] = ()
    selection: Selection = EVERYTHING
    limit: int | None = None
    json: bool = False


@frozen
class Terminal:
    """Who asks.

    :ivar write: takes a line.
    :ivar confirm: asks whether to go on; None: nobody can be asked.
    :ivar width: in columns.
    """

    write: Callable[[str], None]
    confirm: Callable[[str], bool] | None = None
    width: int = WIDE
    now: Callable[[], float] = time.time


def run(queue: Queue, command: Command, terminal: Terminal) -> None:
    """Do what *command* asks for.

    :raises CannotDo: every problem; the other messages of several are done all the same.
    :raises ConfigError: the spool cannot be used.
    """
    if command.name == "list":
        listed = _list_json if command.json else _list
        for line in listed(queue, command, terminal):
            terminal.write(line)
    elif command.ids:
        _with_each(queue, command, terminal)
    else:
        terminal.write(f"{_recipients(queue.retry(command.selection))} due now")


# --- list


def _list(queue: Queue, command: Command, terminal: Terminal) -> Iterator[str]:
    """A table, and how much there is."""
    limit = FEW if command.limit is None else command.limit
    table, count, last = None, 0, 0
    for page in _pages(queue, command.selection, limit):
        now = terminal.now()
        rows = [cells(row, now) for row in page]
        if table is None:
            table = Table(columns(terminal.width), terminal.width, rows)
            yield from table.heads()
        for row in rows:
            yield from table.lines(row)
        count, last = count + len(page), page[-1].row
    more = count == limit > 0 and bool(queue.listing(command.selection, 1, last))
    if count:
        yield ""
    yield _summary(queue, command.selection, count, more)


def _list_json(queue: Queue, command: Command, terminal: Terminal) -> Iterator[str]:
    """A JSON object for each recipient."""
    for page in _pages(queue, command.selection, command.limit or 0):
        now = terminal.now()
        yield from (json.dumps(row_object(row, now)) for row in page)


def _pages(queue: Queue, selection: Selection, limit: int) -> Iterator[Sequence[Row]]:
    """The rows, some at a time, at most *limit* where that is not 0."""
    count = after = 0
    while not limit or count < limit:
        rows = queue.listing(selection, min(PAGE, limit - count) if limit else PAGE, after)
        if not rows:
            return
        yield rows
        count, after = count + len(rows), rows[-1].row


def _summary(queue: Queue, selection: Selection, count: int, more: bool) -> str:
    """The last line.

    :param count: recipients listed.
    :param more: whether there are others.
    """
    first = f"The first {_recipients(count)}; --limit 0 lists all" if more else ""
    if selection != EVERYTHING:
        return first or (_recipients(count) if count else f"No {_selected(selection)} in the spool")
    if not count:
        return "The spool is empty"
    counts = queue.counts()
    states = ((counts.waiting, "waiting"), (counts.in_flight, "being posted"), (counts.failed, "failed"))
    total = f"In the spool: {', '.join(f'{number:,} {state}' for number, state in states if number)}"
    return f"{first}. {total}" if more else total


def _selected(selection: Selection) -> str:
    """*selection* in words, for one."""
    what = "failure" if selection.failed else "recipient"
    return f"{what} of account {printable(selection.account)}" if selection.account else what


def _recipients(number: int) -> str:
    return f"{number:,} recipient{'' if number == 1 else 's'}"


# --- show, retry, drop


def _with_each(queue: Queue, command: Command, terminal: Terminal) -> None:
    """Do it with one message after the other.

    :raises CannotDo: all that was not done.
    """
    problems: list[str] = []
    for position, id in enumerate(command.ids):
        found = queue.show(id)
        try:
            if not found:
                raise CannotDo("no such message in the spool; it was delivered or dropped, or never waited here")
            if command.name == "show":
                _show(found, command, terminal, position)
            else:
                terminal.write(f"{printable(id)}: {_change(queue, command.name, id, found, terminal)}")
        except CannotDo as problem:
            problems.append(f"{printable(id)}: {problem}")
    if problems:
        raise CannotDo("\n".join(problems))


def _show(found: Sequence[Shown], command: Command, terminal: Terminal, position: int) -> None:
    for message in found:
        if command.json:
            terminal.write(json.dumps(message_object(message)))
            continue
        if position or message is not found[0]:
            terminal.write("")
        for line in lines(message, terminal.now()):
            terminal.write(line)


def _change(queue: Queue, name: str, id: str, found: Sequence[Shown], terminal: Terminal) -> str:
    """Try a message again, or drop it; what was done.

    :raises CannotDo: nothing was.
    """
    rows = [row for message in found for row in message.rows]
    busy = sum(row.state == "in flight" for row in rows)
    if name == "retry":
        done, said = queue.retry(Selection(id=id)), "due now"
    else:
        if terminal.confirm is not None and not terminal.confirm(_question(id, rows)):
            raise CannotDo("not dropped")
        done, said = queue.drop(Selection(id=id)), "dropped"
    if not done:
        if busy:
            raise CannotDo("being posted now, or was when a relay ended; look again in a minute")
        raise CannotDo("no longer in the spool")
    left = f"; {busy:,} being posted and left alone" if busy else ""
    return f"{_recipients(done)} {said}{left}"


def _question(id: str, rows: Sequence[Row]) -> str:
    names = ", ".join(printable(row.recipient) for row in rows[:NAMED])
    more = f" and {len(rows) - NAMED:,} more" if len(rows) > NAMED else ""
    return f"Drop {printable(id)} to {names}{more}? They will not get it. [y/N] "
