"""Whether torchrun started this process, one of several of the same command."""

from __future__ import annotations

import os

from physadv.core.errors import OptionError


def is_one_of_several() -> bool:
    """Return whether torchrun started this process beside others."""
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def is_first() -> bool:
    """Return whether this process, alone or the first of several, is the one that prints."""
    return not is_one_of_several() or os.environ.get("RANK") == "0"


def refuse_several(command: str) -> None:
    """Refuse to run ``command`` in several processes at once.

    Raises:
        OptionError: torchrun started several.
    """
    if is_one_of_several():
        raise OptionError(
            f"physadv {command.replace('-', ' ')} under torchrun",
            "attack, evaluate and certify are divided among processes",
            "Start it alone",
        )
