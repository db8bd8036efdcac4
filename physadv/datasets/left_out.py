"""Counts of the files of a data set that were not read, by the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

_PICTURE_SUFFIXES = frozenset(
    {".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".psd", ".svg", ".tga", ".dng", ".cr2"}
    | {".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2"}
)
"""Suffixes of pictures, in lower case; those among them that are not read are named."""


def left_out(litter: int, names: Iterable[str], used: Iterable[str]) -> dict[str, int]:
    """Return how many files were left out, by the reason.

    Args:
        litter: Number of hidden files and of those that desktops add.
        names: Names of all other files.
        used: Names of those that were read.

    Example:
        >>> left_out(1, ["a/1.png", "a/2.heic", "notes.txt"], ["a/1.png"])
        {'pictures of a kind that is not read (.heic)': 1, 'other files (.txt)': 1, 'hidden ...': 1}
    """
    everything, read = list(names), list(used)
    pictures = other_pictures(everything, read)
    rest = set(everything) - set(read) - set(pictures)
    reasons = {
        f"pictures of a kind that is not read ({_suffixes(pictures)})": len(pictures),
        f"other files ({_suffixes(sorted(rest))})": len(rest),
        "hidden files and files of desktops": litter,
    }
    return {reason: count for reason, count in reasons.items() if count}


def other_pictures(names: Iterable[str], used: Iterable[str]) -> list[str]:
    """Return the names of pictures that are not read; those of one class keep it among the
    classes."""
    others = set(names) - set(used)
    return sorted(n for n in others if PurePosixPath(n).suffix.lower() in _PICTURE_SUFFIXES)


def _suffixes(names: Sequence[str]) -> str:
    """The most frequent suffixes."""
    counts = Counter(PurePosixPath(n).suffix.lower() or "no suffix" for n in names)
    shown = [suffix for suffix, _ in counts.most_common(3)]
    return ", ".join(shown) + (" ..." if len(counts) > len(shown) else "")
