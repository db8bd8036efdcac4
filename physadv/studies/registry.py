"""Registry of the lecture's studies, in the lecture's order, without loading torch.

The command line is made of this list: configurations lie in modules that import no torch, and a
study's own module is imported when it runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from physadv.core.errors import OptionError
from physadv.studies.config import StudyConfig

if TYPE_CHECKING:
    from physadv.studies.study import Study


@dataclass(frozen=True)
class StudyEntry:
    """A study as the command line lists it.

    Args:
        name: Name of the command.
        module: Module of this package that holds its ``STUDY``.
        config: Class of its configuration, from a module that imports no torch.
        short: Line in the list of studies, such as "One gradient, used twice (Szegedy 2013)."
        help: First sentence of the command's help: what is measured, in the imperative.
        example: Options of the help's example, such as "--data mnist/".
    """

    name: str
    module: str
    config: type[StudyConfig]
    short: str
    help: str
    example: str = ""

    def load(self) -> Study[Any]:
        """Import the study's module and return the study."""
        study: Study[Any] = import_module(f"{__package__}.{self.module}").STUDY
        return study


ENTRIES: tuple[StudyEntry, ...] = ()
"""All studies, in the order of the lecture."""


def study_named(name: str) -> Study[Any]:
    """Return the study called ``name``.

    Raises:
        OptionError: There is none.
    """
    for entry in ENTRIES:
        if entry.name == name:
            return entry.load()
    known = ", ".join(entry.name for entry in ENTRIES)
    raise OptionError(f"study {name!r}", f"one of {known}", "Choose one of them")
