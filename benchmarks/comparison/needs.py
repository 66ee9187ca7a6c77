"""What the measurement needs from Debian and PyPI, and how to get what is missing."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

#: Debian's folder of Postfix' programs is not in everybody's PATH.
_SBIN = "/usr/sbin"

_DEBIAN = {"smtp-sink": "postfix", "smtp-source": "postfix", "cc": "gcc libc6-dev", "openssl/ssl.h": "libssl-dev"}
#: Where processes are looked at.
_LINUX = "Linux"
_PYPI = {"treq": ".", "aiosmtpd": ".[bench]", "aiohttp": ".[bench]", "smtp-relay": "."}


def program(name: str) -> str:
    """The path of a program; its name if there is none."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name) or shutil.which(name, path=_SBIN) or name


def missing(needed: Iterable[str]) -> list[str]:
    """Those that are not there, of the names in the tables above and Linux."""
    return [each for each in needed if not _is_there(each)]


def _is_there(name: str) -> bool:
    if name == _LINUX:
        return sys.platform == "linux"
    if name.endswith(".h"):
        compiler = program("cc")
        if not Path(compiler).is_absolute():
            return False
        seen = subprocess.run([compiler, "-E", "-include", name, "-x", "c", "/dev/null"], capture_output=True)
        return seen.returncode == 0
    if name in _DEBIAN or name == "smtp-relay":
        return Path(program(name)).is_absolute()
    return importlib.util.find_spec(name) is not None


def advice(names: Iterable[str]) -> str:
    """The commands that install them."""
    found = list(names)
    debian = sorted({package for each in found if each in _DEBIAN for package in _DEBIAN[each].split()})
    pypi = sorted({_PYPI[each] for each in found if each in _PYPI})
    lines = [f"missing: {', '.join(found)}"]
    if debian:
        lines.append(f"  apt-get install --no-install-recommends {' '.join(debian)}")
    lines += [f"  {sys.executable} -m pip install -e '{each}'" for each in pypi]
    return "\n".join(lines)
