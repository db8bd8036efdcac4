"""The package's front door."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

import physadv


@pytest.mark.parametrize("name", sorted(set(physadv.__all__) - {"__version__"}))
def test_every_name_that_is_offered_is_there(name: str) -> None:
    """Each is a package of ours, or a callable of its home module."""
    found = getattr(physadv, name)
    if isinstance(found, ModuleType):
        assert found.__name__ == f"physadv.{name}"
    else:
        assert callable(found)
        assert found.__module__.startswith("physadv.")


def test_importing_the_package_is_light() -> None:
    """Neither torch nor numpy is loaded before a name is used; an unknown name is an
    AttributeError."""
    code = (
        "import sys, physadv; assert not {'torch', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = physadv.nothing_of_the_kind
