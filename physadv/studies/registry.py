"""Registry of the studies that the command line and the booklet know, in the lecture's order."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from physadv.core.errors import OptionError
from physadv.studies.study import Study

MODULES: tuple[str, ...] = ()
"""Modules of this package, each with its ``STUDY``, in the order of the lecture."""


def studies() -> dict[str, Study[Any]]:
    """Return all studies by name, in the lecture's order."""
    found = [import_module(f"{__package__}.{module}").STUDY for module in MODULES]
    return {study.name: study for study in found}


def study_named(name: str) -> Study[Any]:
    """Return the study called ``name``.

    Raises:
        OptionError: There is none.
    """
    known = studies()
    if name not in known:
        raise OptionError(f"study {name!r}", f"one of {', '.join(known)}", "Choose one of them")
    return known[name]
