"""Files that desktops, network drives and archivers add to people's folders."""

from __future__ import annotations

_LITTER = frozenset(
    {"__macosx", "@eadir", "#recycle", "@recycle", "$recycle.bin", "system volume information"}
    | {"lost+found", "__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
)
"""Names of folders and files, in lower case, that desktops, network drives and archivers add."""


def is_litter(name: str) -> bool:
    """Return whether a file is hidden, or one that a desktop or an archiver adds.

    Args:
        name: Name relative to the data set, with forward slashes.

    Example:
        >>> is_litter("cat/1.png"), is_litter("__MACOSX/cat/1.png"), is_litter("cat/Thumbs.db")
        (False, True, True)
    """
    return any(p.startswith((".", "~$")) or p.casefold() in _LITTER for p in name.split("/"))
