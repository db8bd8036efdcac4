"""Whether torchrun started this process, one of several of the same command."""

from __future__ import annotations

import os
import time

from physadv.core.errors import OptionError

_SECONDS_TO_END = 3.0
"""Time in which torchrun notices a failed process; it looks ten times a second."""


def is_one_of_several() -> bool:
    """Return whether torchrun started this process beside others."""
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def is_first() -> bool:
    """Return whether this process, alone or the first of several, is the one that prints."""
    return not is_one_of_several() or os.environ.get("RANK") == "0"


def await_first_line() -> None:
    """Wait a little in all processes but the first: what failed in each is said once, for torchrun
    ends the others as soon as one has ended."""
    if not is_first():
        time.sleep(_SECONDS_TO_END)


def refuse_several(command: str) -> None:
    """Refuse to run ``command`` in several processes at once.

    Raises:
        OptionError: torchrun started several.
    """
    if is_one_of_several():
        raise OptionError(
            f"physadv {command.replace('-', ' ')} under torchrun",
            "attack, evaluate, certify, patch, train and cloak (of photos) are divided",
            "Start it alone",
        )
