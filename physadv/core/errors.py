"""One tree of errors: what is wrong, what is allowed, what to do. The command line prints one
line."""

from __future__ import annotations

from physadv.core.addresses import redact_addresses

_COMMANDS = ("pip", "physadv", "python")
"""First words of a remedy that is a command line, which keeps its case."""


_NO_MEMORY = (
    "out of memory",
    "not enough memory",
    "insufficient memory",
    "cannot allocate memory",
    "can't allocate memory",
    "failed to allocate",
    "unable to allocate",
    "failed to map segment",
    "std::bad_alloc",
    "can't start new thread",
)
"""What systems and libraries say, in lower case, where memory runs out."""
_NO_MEMORY_ENDINGS = (
    "could not create a primitive",
    "could not execute a primitive",
    "could not create a memory",
)
"""What oneDNN says then; of a descriptor it says the same where it lacks an operation."""


_LONGEST = 6000
"""Characters of a part of an error; a file may hold any number of them where one number is due."""


def _shortened(text: str) -> str:
    """Return a text of at most ``_LONGEST`` characters, without its middle."""
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[:half]} ... {text[-half:]}"


class PhysadvError(Exception):
    """Base of every error that this toolkit raises on purpose; the command line prints it as one
    line.

    Args:
        value: What is wrong.
        limit: What is allowed.
        remedy: What to do.

    Example:
        >>> error = PhysadvError("eps -1", "at least 0", "Use 8/255")
        >>> str(error), error.remedy
        ('eps -1: at least 0. Use 8/255.', 'Use 8/255')
    """

    def __init__(self, value: str, limit: str = "", remedy: str = "") -> None:
        # Libraries put whole addresses into what they say, with the password of a camera in them.
        value, limit, remedy = (
            _shortened(redact_addresses(part)) for part in (value, limit, remedy)
        )
        if remedy.split(maxsplit=1)[:1] and remedy.split(maxsplit=1)[0] not in _COMMANDS:
            remedy = remedy[:1].upper() + remedy[1:]
        self.value, self.limit, self.remedy = value, limit, remedy
        head = f"{value}: {limit}" if limit else value
        asks = remedy.startswith("Did you mean")
        end = "" if remedy.endswith(("?", ".")) else "?" if asks else "."
        super().__init__(" ".join(f"{head}. {remedy}{end}".split()) if remedy else f"{head}.")


class ImageError(PhysadvError):
    """Image, or folder of images, that cannot be used.

    Args:
        value: What is wrong.
        limit: What is allowed.
        remedy: What to do.

    Example:
        >>> raise ImageError("split 'dev'", "train or test", "Choose one")
        Traceback (most recent call last):
        physadv.core.errors.ImageError: split 'dev': train or test. Choose one.
    """


class DataError(PhysadvError):
    """Data set or annotation file that cannot be used.

    Args:
        value: What is wrong.
        limit: What is allowed.
        remedy: What to do.

    Example:
        >>> raise DataError("split 'dev'", "train or test", "Choose one")
        Traceback (most recent call last):
        physadv.core.errors.DataError: split 'dev': train or test. Choose one.
    """


class ModelError(PhysadvError):
    """Model that cannot be loaded, or whose output cannot be used.

    Args:
        value: What is wrong.
        limit: What is allowed.
        remedy: What to do.

    Example:
        >>> raise ModelError("split 'dev'", "train or test", "Choose one")
        Traceback (most recent call last):
        physadv.core.errors.ModelError: split 'dev': train or test. Choose one.
    """


class OptionError(PhysadvError):
    """Option or argument outside what is allowed.

    Args:
        value: What is wrong.
        limit: What is allowed.
        remedy: What to do.

    Example:
        >>> raise OptionError("split 'dev'", "train or test", "Choose one")
        Traceback (most recent call last):
        physadv.core.errors.OptionError: split 'dev': train or test. Choose one.
    """


class GeometryError(PhysadvError):
    """Size or placement that does not fit, such as a sticker larger than the paper.

    Args:
        value: What is wrong.
        limit: What is allowed.
        remedy: What to do.

    Example:
        >>> raise GeometryError("split 'dev'", "train or test", "Choose one")
        Traceback (most recent call last):
        physadv.core.errors.GeometryError: split 'dev': train or test. Choose one.
    """


class BundleError(PhysadvError):
    """Patch bundle that is incomplete, altered or not what its card claims.

    Args:
        value: What is wrong.
        limit: What is allowed.
        remedy: What to do.

    Example:
        >>> raise BundleError("split 'dev'", "train or test", "Choose one")
        Traceback (most recent call last):
        physadv.core.errors.BundleError: split 'dev': train or test. Choose one.
    """


class CaptureError(PhysadvError):
    """Camera, stream or video that cannot be opened or read.

    Args:
        value: What is wrong.
        limit: What is allowed.
        remedy: What to do.

    Example:
        >>> raise CaptureError("split 'dev'", "train or test", "Choose one")
        Traceback (most recent call last):
        physadv.core.errors.CaptureError: split 'dev': train or test. Choose one.
    """


class CalibrationError(PhysadvError):
    """Chart photo or profile that cannot be used.

    Args:
        value: What is wrong.
        limit: What is allowed.
        remedy: What to do.

    Example:
        >>> raise CalibrationError("split 'dev'", "train or test", "Choose one")
        Traceback (most recent call last):
        physadv.core.errors.CalibrationError: split 'dev': train or test. Choose one.
    """


class JobEndedError(PhysadvError):
    """Job that was ended from outside, such as by torchrun: a run does not go on from item to item.

    Args:
        value: What is wrong.
        limit: What is allowed.
        remedy: What to do.

    Example:
        >>> raise JobEndedError("torchrun ended the job", "a process failed", "Start it again")
        Traceback (most recent call last):
        physadv.core.errors.JobEndedError: torchrun ended the job: a process failed. Start it again.
    """


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether ``error`` says that memory ran out.

    torch reports it as a RuntimeError, OpenCV as an error of its own, and the loading of a library
    as an ImportError: the words tell.

    Example:
        >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: not enough memory"))
        True
    """
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower().rstrip()
    said = any(words in text for words in _NO_MEMORY) or text.endswith(_NO_MEMORY_ENDINGS)
    return said and not isinstance(error, PhysadvError)
