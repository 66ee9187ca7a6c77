"""All that a measurement found, and its form in JSON."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

from . import needs
from .figures import Figure, Row, Run, rows
from .messages import WORKLOADS, signed_in
from .programs import RELAY


@frozen
class Result:
    """What the tables are made of.

    :ivar machine: processor, cores, kernel.
    :ivar versions: of everything that has a part in it.
    :ivar options: how it was measured.
    """

    date: str
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    options: Mapping[str, Any]
    runs: Sequence[Run]
    figures: Sequence[Figure]

    @property
    def rows(self) -> list[Row]:
        """The medians."""
        yardsticks = {each.name: each.yardstick for each in WORKLOADS.values()}
        for each in WORKLOADS.values():
            for kind in ("", "AUTH", "STARTTLS"):
                yardsticks[signed_in(each.name, kind)] = signed_in(each.yardstick, "")
        targets = {each.name: each.target for each in WORKLOADS.values() if each.target}
        return rows(self.runs, yardsticks, targets, RELAY)

    @property
    def others(self) -> float:
        """Cores that were busy with other work, on the average."""
        return sum(run.others for run in self.runs) / len(self.runs) if self.runs else 0.0

    def to_json(self) -> str:
        """The rows for those who read it, and all runs that they are made of: one a line."""
        whole = {**attrs.asdict(self), "rows": [attrs.asdict(row) for row in self.rows]}
        lines = (f"{json.dumps(name)}: {_lines(_rounded(whole[name]))}" for name in _ORDER)
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> Result:
        """What :meth:`to_json` made; the rows are made again."""
        whole = json.loads(text)
        whole.pop("rows", None)
        whole["runs"] = tuple(Run(**each) for each in whole["runs"])
        whole["figures"] = tuple(Figure(**each) for each in whole["figures"])
        return cls(**whole)


_ORDER = ("date", "machine", "versions", "options", "rows", "figures", "runs")


def _lines(value: Any) -> str:
    if not isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    return "[\n" + ",\n".join(f" {json.dumps(each, ensure_ascii=False)}" for each in value) + "\n]"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, Mapping):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value


def made(options: Mapping[str, Any], runs: Sequence[Run], figures: Sequence[Figure]) -> Result:
    """The result of today, on this machine."""
    return Result(
        datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        {"processor": _processor(), "cores": os.cpu_count(), "kernel": platform.release()},
        versions(),
        options,
        tuple(runs),
        tuple(figures),
    )


def _processor() -> str:
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    return found[1] if found else platform.machine()


def versions() -> dict[str, str]:
    """Of Python, the relay, the packages, Postfix and the compiler; those that are not there are left out."""
    found = {platform.python_implementation(): platform.python_version(), "relay": _commit()}
    for name in ("twisted", "treq", "orjson", "httptools", "aiosmtpd", "aiohttp"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    found["Postfix"] = _said("postconf", "-d", "-h", "mail_version")
    found["cc"] = _said("cc", "-dumpfullversion")
    return {name: version for name, version in found.items() if version}


def _commit() -> str:
    """The version, and the commit in a clone."""
    here = Path(__file__).parent
    commit = _said("git", "-C", str(here), "describe", "--always", "--dirty", "--exclude=*")
    return " ".join(filter(None, (importlib.metadata.version("smtp-relay"), commit)))


def _said(program: str, *arguments: str) -> str:
    try:
        ran = subprocess.run([needs.program(program), *arguments], capture_output=True, text=True)
    except OSError:
        return ""
    return ran.stdout.strip() if ran.returncode == 0 else ""
