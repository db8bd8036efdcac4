"""Shared fixtures: where the real photos lie, and one thread, so that small nets do not crawl."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

pytest_plugins = ["capture_fixtures"]

settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
"""Every run checks the same drawn examples; HYPOTHESIS_PROFILE=explore looks for new ones."""

# A shell starts what runs in its background with Ctrl-C ignored, and programs inherit that: those
# that tests start would then go on after it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _threads_restored() -> Iterator[None]:
    """Commands run in this process set torch's threads; later modules are to find one again."""
    yield
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _denormals() -> None:
    """Commands run in this process flush denormals; hypothesis' floats need them."""
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the project; PHYSADV_SHARED names another. Skips where there
    is none."""
    root = Path(os.environ.get("PHYSADV_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    data = root / "data" if (root / "data").is_dir() else root
    if not (data / "README.md").is_file():
        pytest.skip(f"no shared data at {data} (set PHYSADV_SHARED)")
    return data
