"""Freed memory that a command keeps for its next large arrays."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from physadv.core.memory import keep_freed_memory

PAGES = """
import resource, sys
import torch
if sys.argv[1] == "command":
    from physadv_cli.arithmetic import prepare_torch
    prepare_torch(1)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 << 20)  # 64 MB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(16):  # until the holes between small blocks fit
    faults()
print(sum(faults() for _ in range(4)))
"""
needs_glibc = pytest.mark.skipif(sys.platform != "linux", reason="an allocator of glibc's")


def page_faults(kind: str, **own: str) -> int:
    """Return how often four large arrays, one after the other, waited for a page of the system."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", PAGES, kind], env=plain | own, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@needs_glibc
def test_a_command_keeps_large_arrays_and_the_library_alone_does_not() -> None:
    """Huge pages hide most faults of a fresh array, so what counts is that none is left."""
    assert page_faults("command") < 16 <= page_faults("library")


@needs_glibc
def test_settings_of_the_user_stand() -> None:
    """Where the environment sets the allocator, a command leaves it as it is."""
    assert page_faults("command", MALLOC_MMAP_THRESHOLD_="1048576") >= 16


@needs_glibc
def test_nothing_is_kept_of_a_limited_address_space(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that runs out under `ulimit -v` must be given back, so that fewer draws fit."""
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda kind: (3 << 30, 3 << 30))
    assert not keep_freed_memory()


@pytest.mark.parametrize(
    ("name", "value"),
    [("MALLOC_TRIM_THRESHOLD_", "1"), ("GLIBC_TUNABLES", "glibc.malloc.mmap_max=1")],
)
def test_nothing_is_set_beside_the_users(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert not keep_freed_memory()
