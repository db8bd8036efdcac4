"""Start of the process with limits in which a drawing or a page is drawn."""

from __future__ import annotations

import functools
import signal
import subprocess
import sys
from importlib.util import find_spec
from math import inf
from pathlib import Path
from types import ModuleType

from physadv.core import drawing_child
from physadv.core.errors import ImageError, PhysadvError
from physadv.core.parsing import parse_json
from physadv.core.reading import foreign_errors, format_bytes

_LONGEST_WAIT_S = 60.0
"""Longest wait for a drawing on a busy machine; its processor time is bounded by its process."""


def drawn_elsewhere(
    drawing: ModuleType,
    package: str,
    data: bytes,
    *arguments: str,
    name: str,
    error: type[PhysadvError] = ImageError,
    remedy: str = "",
) -> bytes:
    """Draw a file in a process of its own, with limits on memory, time and files.

    Args:
        drawing: Module of this room whose ``draw`` is called with ``data`` and ``arguments``.
        package: Import name of its renderer.
        data: Content of the file.
        *arguments: What ``draw`` takes behind it.
        name: Name of the file in errors.
        error: Class of the error.
        remedy: What to do about a file that makes the process fail.

    Returns:
        What ``draw`` returned.

    Raises:
        PhysadvError: The file is refused, or takes too much memory or time.
    """
    limits = [str(drawing.MOST_MEMORY_BYTES), str(drawing.MOST_SECONDS)]
    program = [sys.executable, "-I", "-S", drawing_child.__file__]
    module = Path(str(drawing.__file__)).stem
    with foreign_errors(name, error, "cannot be drawn", remedy):
        try:
            done = subprocess.run(
                [*program, _folder_of(package), module, *limits, *arguments],
                input=data,
                capture_output=True,
                timeout=_LONGEST_WAIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise error(name, f"takes over {_LONGEST_WAIT_S:g} s to draw", remedy) from None

    if done.returncode == drawing_child.REFUSED:
        limit, own_remedy = parse_json(done.stdout.decode(), name)
        raise error(name, limit, own_remedy)
    if done.returncode != 0:
        raise error(name, _death_of(done, drawing), remedy)
    return done.stdout


@functools.cache
def _folder_of(package: str) -> str:
    """Return the folder that a package is installed in: its process looks nowhere else."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        named = package.replace("_", "-")
        raise ImageError("a drawing", f"needs the package {named}", f"pip install {named}")
    return str(Path(spec.origin).parents[1])


def _death_of(done: subprocess.CompletedProcess[bytes], drawing: ModuleType) -> str:
    """Say why the process of a drawing ended without a picture."""
    killed_by_clock = {getattr(signal, name, None) for name in ("SIGXCPU", "SIGKILL")}
    if -done.returncode in killed_by_clock:
        return f"takes over {drawing.MOST_SECONDS} s to draw"
    if b"memory" in done.stderr.lower():
        if _most_memory_bytes() < drawing.MOST_MEMORY_BYTES:
            return "it takes more memory than there is"
        return f"takes over {format_bytes(drawing.MOST_MEMORY_BYTES)} to draw"
    return "makes its renderer fail"


def _most_memory_bytes() -> float:
    """Return the limit of memory that processes of this one inherit, as ulimit sets it."""
    try:
        import resource
    except ImportError:  # not a Unix: there is none
        return inf
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    return inf if most == resource.RLIM_INFINITY else most
