"""The examples in the docstrings of physadv.eot run and show what they say."""

from __future__ import annotations

import doctest
from importlib import import_module
from pkgutil import walk_packages

import pytest

import physadv.eot

MODULES = [m.name for m in walk_packages(physadv.eot.__path__, "physadv.eot.") if not m.ispkg]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    """Every line after >>> of the module gives the line below it."""
    results = doctest.testmod(import_module(name), verbose=False)
    assert results.failed == 0
