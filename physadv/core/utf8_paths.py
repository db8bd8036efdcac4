"""Paths for libraries that take UTF-8 alone: with another name they fail, or crash the process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def utf8_path(path: Path) -> Iterator[Path]:
    """Yield a path of UTF-8 that leads to the file or folder at ``path`` while the context lasts.

    A name that is UTF-8 is yielded as it is; to another leads a link in a temporary folder.

    Example:
        >>> with utf8_path(Path("stop.mp4")) as name:
        ...     str(name)
        'stop.mp4'
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with TemporaryDirectory(prefix="physadv-") as folder:
            link = Path(folder) / "link"
            link.symlink_to(path.absolute())
            yield link
    else:
        yield path
