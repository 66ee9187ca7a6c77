"""DESIGN.md, "Folders, and what each may import": the column, checked against every import statement.

An import counts wherever it stands, within a function or under ``TYPE_CHECKING`` too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

RELAY = Path(__file__).parents[1] / "relay"

#: May be imported by every module.  ``policy`` holds the declared defaults, ``relay`` itself the version.
ANYWHERE = {"policy", ""}

#: The units of DESIGN.md and what of ours each may import beside itself.  These go beyond the column: an Outcome
#: (values) holds a Failure; a verdict (replies) is taken from a Receipt; posting and presence are what pipeline,
#: session and spool share; the spool keeps the last reply; the metrics and the command line (operate) show the spool.
MAY_IMPORT: dict[str, set[str]] = {
    "": set(),
    "policy": set(),
    "errors": set(),
    "values": {"errors"},
    "config": {"errors"},
    "message": {"values", "errors"},
    "routing": {"values", "errors"},
    "wire": {"values"},
    "revisions": {"errors"},
    "replies": {"values", "errors"},
    "presence": set(),
    "deadlines": set(),
    "coroutines": set(),
    "periodic": set(),
    "posting": {"values", "errors"},
    "pipeline": {"values", "errors", "message", "routing", "replies", "posting", "presence"},
    "smtp": {"values", "errors", "replies", "presence", "deadlines", "coroutines"},
    "client": {"values", "errors", "wire", "deadlines"},
    "spool": {"values", "errors", "wire", "replies", "posting", "revisions"}
    | {"presence", "deadlines", "periodic", "coroutines"},
    "embedded": {"values", "errors", "wire", "revisions", "spool"},
    "send_test": set(),
    "operate": {"values", "errors", "replies", "config", "spool"},
}

#: The composition root and what stands above it may import everything but ``tap``.
ROOTS = {"service", "intake", "workers", "tap", "commands", "testing", "__main__"}

#: The only modules that may touch the global reactor.
REACTOR = {"service", "tap", "workers.__main__"}


def modules() -> Iterator[tuple[str, str, ast.Module]]:
    """(dotted name below relay, unit, syntax tree) of every module of the relay."""
    for path in sorted(RELAY.rglob("*.py")):
        parts = path.relative_to(RELAY).with_suffix("").parts
        dotted = ".".join(part for part in parts if part != "__init__")
        yield dotted, dotted.partition(".")[0], ast.parse(path.read_text("utf-8"), str(path))


def imports(dotted: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of everything that *tree* imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = ["relay", *dotted.split(".")][: -node.level]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def unit_of(name: str) -> str | None:
    """The unit of ours that the imported *name* lies in, None if it is not of ours."""
    if name == "relay":
        return ""
    if not name.startswith("relay."):
        return None
    first = name.split(".")[1]
    return first if (RELAY / first).is_dir() or (RELAY / f"{first}.py").is_file() else ""


class LayeringTests(SynchronousTestCase):
    """The directions of DESIGN.md."""

    def violations(self, allowed: dict[str, set[str]]) -> list[str]:
        """Every import of ours that *allowed* does not allow."""
        return [
            f"relay/{dotted.replace('.', '/')}:{line} imports relay.{target}"
            for dotted, unit, tree in modules()
            if unit in allowed
            for line, name in imports(dotted, tree)
            if (target := unit_of(name)) is not None and target not in {unit, *ANYWHERE, *allowed[unit]}
        ]

    def test_every_unit_has_a_row(self) -> None:
        """A new folder or module is entered in the table before it is used."""
        self.assertEqual({unit for _, unit, _ in modules()} - MAY_IMPORT.keys() - ROOTS, set())

    def test_column(self) -> None:
        """Each unit imports of ours only what its row allows."""
        self.assertEqual(self.violations(MAY_IMPORT), [])

    def test_nothing_imports_tap(self) -> None:
        """The command lines stand at the top: no module but the console script imports ``tap``."""
        found = [
            dotted
            for dotted, unit, tree in modules()
            if unit not in ("tap", "commands")
            for _, name in imports(dotted, tree)
            if unit_of(name) == "tap"
        ]
        self.assertEqual(found, [])

    def test_pure_units(self) -> None:
        """The pure units import no Twisted and no HTTP client."""
        pure = {"message", "values", "errors", "policy", "routing", "wire", "replies", "config", "presence"}
        found = [
            f"{dotted}:{line} {name}"
            for dotted, unit, tree in modules()
            if unit in pure
            for line, name in imports(dotted, tree)
            if name.split(".")[0] in ("twisted", "treq", "zope", "sqlalchemy")
        ]
        self.assertEqual(found, [])

    def test_global_reactor(self) -> None:
        """Only the composition root and the command line touch the global reactor."""
        found = [
            f"{dotted}:{line} {name}"
            for dotted, unit, tree in modules()
            if unit not in REACTOR and dotted not in REACTOR
            for line, name in imports(dotted, tree)
            # deferToThread takes no reactor: it uses the global one.
            if name in ("twisted.internet.reactor", "twisted.internet.threads.deferToThread")
        ]
        self.assertEqual(found, [])

    def test_treq(self) -> None:
        """treq and Twisted's HTTP client, long to import, are for who hands in a client of their own alone."""
        own = {"client.exchange", "client.agent"}
        heavy = ("treq", "twisted.web.client", "twisted.web._newclient", *(f"relay.{each}" for each in own))
        found = [
            f"{dotted} {name}"
            for dotted, _, tree in modules()
            if dotted not in own
            for _, name in imports(dotted, tree)
            if name.startswith(heavy)
        ]
        self.assertEqual(found, ["client.request relay.client.exchange.ThroughTreq"])

    def test_the_check_sees(self) -> None:
        """The check finds an import in a function, a relative one, and one of a name out of a package."""
        tree = ast.parse(
            "def f():\n    from twisted.internet import reactor\n"
            "from ..client import backend\nfrom . import auth\nimport relay.spool.store\nfrom relay import tap\n"
        )
        self.assertEqual(
            {name for _, name in imports("smtp.session", tree)},
            {"twisted.internet.reactor", "relay.client.backend", "relay.smtp.auth", "relay.spool.store", "relay.tap"},
        )
