"""Faults that come from outside the code (disk, file, memory, an empty variable) in one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from physadv.core.errors import OptionError, PhysadvError, is_out_of_memory


@contextmanager
def outside_faults_in_words() -> Iterator[None]:
    """Raise what the operating system or torch report as a PhysadvError, which is one line."""
    try:
        yield
    except Exception as error:
        known = in_words(error)
        if known is None:
            raise
        raise known from error


def in_words(error: Exception) -> PhysadvError | None:
    """Return ``error`` as a PhysadvError; None for a fault of the program itself."""
    if isinstance(error, PhysadvError):
        return error
    if is_out_of_memory(error):
        remedy = "Use a smaller --batch-size, fewer --draws or smaller images"
        return PhysadvError("Memory ran out", "", remedy)
    if isinstance(error, OSError):
        reason = error.strerror or str(error) or type(error).__name__
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        subject = f"{' -> '.join(names)}: " if names else ""
        remedy = "Check the path, its permissions and the space on the disk"
        return PhysadvError(f"{subject}{reason}", "", remedy)
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):
        # Python before 3.13 tells it so where it resolves a path.
        return PhysadvError(str(error), "", "Remove the link, or name another path")
    return None


def refuse_empty_words(arguments: Sequence[str]) -> None:
    """Refuse an empty word on a command line, such as an unset variable of a shell.

    Where a path is meant, it would name the working folder.

    Args:
        arguments: Words of the command line.

    Raises:
        OptionError: One of them, or the value behind ``--option=``, is empty.
    """
    for before, word in zip(("", *arguments), arguments, strict=False):
        option, sign, value = word.partition("=")
        if not word.strip():
            named = before if before.startswith("-") else "an argument"
        elif sign and not value.strip() and option.startswith("--"):
            named = option
        else:
            continue
        raise OptionError(
            f"{named} is empty", "A value is needed", "Give one; . names the working folder"
        )
