"""Members of folders from elsewhere: bundles, run folders and their indexes reach no other file.

Such a folder says by name which file it means: in an index, a manifest, a card, or by convention,
as ``preview.png``. :func:`member_of` makes a path of the name, and refuses a name, or a link, by
which the folder would reach a file outside itself.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from physadv.core.errors import DataError, OptionError, PhysadvError

_LONGEST_NAME, _LONGEST_PART = 1024, 255
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_RULE = "A folder reaches only files of its own"


def member_of(folder: str | Path, name: object, *, error: type[PhysadvError] = DataError) -> Path:
    """Return the path of the file or folder called ``name`` inside ``folder``.

    Args:
        folder: Folder from elsewhere, which may itself be reached through a link.
        name: Name below it, with ``/`` between its parts, as a file of the folder states it.
        error: Class of the error.

    Returns:
        The path, which need not exist; a file or a folder where it does.

    Raises:
        PhysadvError: ``name`` is no text or no plain relative path, leads through a link, or is a
            device or pipe.

    Example:
        >>> member_of("run", "examples/patch-met-0.png").as_posix()
        'run/examples/patch-met-0.png'
        >>> member_of("run", "../../etc/passwd")
        Traceback (most recent call last):
        physadv.core.errors.DataError: "run" names '../../etc/passwd', which lies outside of it: A \
folder reaches only files of its own. Use a copy from somebody you trust.
    """
    root = Path(folder)
    reason = _fault_of(name)
    if reason is not None:
        raise _refusal(root, name, reason, error)
    path = root
    for part in str(name).split("/"):
        path = path / part
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            continue
        except OSError as fault:
            reason = f"cannot be read ({fault.strerror or fault})"
            raise _refusal(root, name, f"which {reason}", error) from fault
        if stat.S_ISLNK(mode):
            raise error(
                f'"{path}" is a link, which is not followed',
                _RULE,
                "Put the file itself in its place if you trust it",
            )
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise error(f'"{path}" is a device or pipe', _RULE, "Remove it")
    return path


def refuse_links_out_of(
    folder: Path, *, remedy: str, error: type[PhysadvError] = OptionError
) -> None:
    """Refuse a folder with a link that leads out of it: a folder of somebody else's could have the
    program write, or show, any file of the user's.

    Args:
        folder: Bundle or run folder.
        remedy: What the error says to do.
        error: Class of the error.

    Raises:
        PhysadvError: There is such a link at any depth.
    """
    root = folder.resolve()
    for place, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(place, name)
            if path.is_symlink() and not _lies_in(path, root):
                raise error(
                    f'"{folder / path.relative_to(root)}" is a link that leads out of the folder',
                    _RULE,
                    remedy,
                )


def _lies_in(link: Path, root: Path) -> bool:
    """Whether what ``link`` leads to lies in ``root``; a link in a circle leads nowhere."""
    try:
        return link.resolve().is_relative_to(root)
    except (OSError, RuntimeError):
        return False


def _fault_of(name: object) -> str | None:
    """Why ``name`` is no plain path below a folder, in words; None where it is one."""
    if not isinstance(name, str) or not name:
        return "which is no name of a file"
    parts = name.split("/")
    if len(name) > _LONGEST_NAME or any(
        len(part.encode(errors="replace")) > _LONGEST_PART for part in parts
    ):
        return "which is too long"
    if _CONTROL.search(name):
        return "which holds a control character"
    is_foreign = "\\" in name or ":" in parts[0]  # a path of Windows, a drive, an address
    if is_foreign or any(part in ("", ".", "..") for part in parts):
        return "which lies outside of it"
    return None


def _refusal(root: Path, name: object, reason: str, error: type[PhysadvError]) -> PhysadvError:
    shown = repr(name) if len(repr(name)) <= 80 else f"{repr(name)[:76]}..."
    return error(f'"{root}" names {shown}, {reason}', _RULE, "Use a copy from somebody you trust")
