"""Stand-ins for modules that peers ask for at import and do not use here."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import ModuleType

ABSENT = [name for name in ("torchvision", "visdom") if find_spec(name) is None]
"""Modules that adv_lib asks for at import, and none of its attacks here uses."""


def stand_in_for_absent() -> None:
    """Let the absent ones be imported, as empty modules."""
    for name in ABSENT:
        sys.modules[name] = ModuleType(name)
        sys.modules[name].models = sys.modules[name]  # type: ignore[attr-defined]
