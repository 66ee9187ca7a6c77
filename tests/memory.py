"""Every test that needs no process, no socket and no program: ``trial tests.memory``."""

from __future__ import annotations

import pkgutil
from unittest import TestSuite

from twisted.trial.runner import TestLoader

import tests

#: Real sockets, real processes, real clients.
SLOW = "integration"


def testSuite() -> TestSuite:
    """What trial loads for this module: all of ``tests`` but the folder named above."""
    loader = TestLoader()
    found = [each for each in pkgutil.iter_modules(tests.__path__) if each.name != SLOW]
    names = [f"tests.{each.name}" for each in found if each.ispkg or each.name.startswith("test_")]
    return TestSuite(loader.loadByName(name, recurse=True) for name in names)
