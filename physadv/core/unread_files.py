"""Files of a folder or an archive that are not read, counted by kind and named."""

from __future__ import annotations

from collections import Counter

_NAMED = 3
_LONGEST_NAME = 60


class UnreadFiles:
    """Files that are not read, by kind: how many, and the names of the first.

    Example:
        >>> unread = UnreadFiles()
        >>> for name in ("a.png", "b.png", "c.png", "d.png"):
        ...     unread.add("links", name)
        >>> unread.counts()
        {'links (a.png, b.png, c.png ...)': 4}
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._names: dict[str, list[str]] = {}

    def add(self, kind: str, name: str) -> None:
        """Count a file.

        Args:
            kind: What such files are called, in the plural.
            name: Name of the file; empty where it has none.
        """
        self._counts[kind] += 1
        named = self._names.setdefault(kind, [])
        if name and len(named) < _NAMED:
            named.append(_shortened(name))

    def merge(self, other: UnreadFiles, prefix: str = "") -> None:
        """Count the files of ``other`` too, whose names follow ``prefix``."""
        for kind, count in other._counts.items():
            self._counts[kind] += count
            named = self._names.setdefault(kind, [])
            more = other._names[kind][: _NAMED - len(named)]
            named += [_shortened(prefix + name) for name in more]

    def counts(self) -> dict[str, int]:
        """Return the number of files by kind, with the names of the first in brackets."""
        return {_described(k, self._names[k], n): n for k, n in self._counts.items()}


def _described(kind: str, names: list[str], count: int) -> str:
    if not names:
        return kind
    more = " ..." if count > len(names) else ""
    return f"{kind} ({', '.join(names)}{more})"


def _shortened(name: str) -> str:
    """A name of at most ``_LONGEST_NAME`` characters, without its middle."""
    half = (_LONGEST_NAME - 3) // 2
    return name if len(name) <= _LONGEST_NAME else f"{name[:half]}...{name[-half:]}"
