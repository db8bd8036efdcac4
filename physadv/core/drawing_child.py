"""Program that draws one file in a process of its own, from stdin to stdout.

A drawing or a page of a few bytes can nest, repeat or blur itself without end, and the renderer
then aborts or crashes its process. Here that process is one that holds nothing else: its memory and
processor time are bounded, and while it draws it can open no file and no connection. It imports
the standard library and one renderer alone, so that it starts in a few hundredths of a second.

Its arguments are the folder that the renderer is installed in, the name of the module beside this
one that draws (:mod:`physadv.core.svg_drawing`, :mod:`physadv.core.pdf_drawing`), the limits, and
what that module's ``draw`` takes behind the file's content and :func:`no_new_files`.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType

REFUSED = 3
"""Exit code where stdout holds a reason and a remedy as JSON."""


def _main() -> int:
    packages, name, most_bytes, most_seconds, *arguments = sys.argv[1:]
    sys.path.append(packages)
    drawing = _module_beside(name)
    _bound_this_process(int(most_bytes), int(most_seconds))
    try:
        drawn = drawing.draw(sys.stdin.buffer.read(), no_new_files, *arguments)
    except drawing.RefusedError as refused:
        import json

        sys.stdout.buffer.write(json.dumps(refused.args).encode())
        return REFUSED
    sys.stdout.buffer.write(drawn)
    return 0


@contextlib.contextmanager
def no_new_files() -> Iterator[None]:
    """Let the process open nothing, where the system can forbid it: no fonts of this machine
    either, so that a drawing looks the same on every one."""
    try:
        import resource
    except ImportError:  # not a Unix
        yield
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, most))


def _module_beside(name: str) -> ModuleType:
    """Import a module of this folder without the package around it, which takes a second."""
    spec = spec_from_file_location(name, __file__.replace("drawing_child", name))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _bound_this_process(most_bytes: int, most_seconds: int) -> None:
    """Set the limits of memory and processor time, where the system has them."""
    try:
        import resource
    except ImportError:  # not a Unix: the caller's time limit is left
        return
    for kind, most in (
        (resource.RLIMIT_AS, most_bytes),
        (resource.RLIMIT_CPU, most_seconds),
        (resource.RLIMIT_CORE, 0),
    ):
        # Some systems know a limit and do not keep it
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (most, most))


if __name__ == "__main__":
    sys.exit(_main())
