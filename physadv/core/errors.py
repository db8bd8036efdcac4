"""One tree of errors. Each names the value met, the limit it broke and the remedy; the CLI prints
it as one line."""

from __future__ import annotations


class PhysadvError(Exception):
    """Base of every error this toolkit raises on purpose.

    ``value`` says what was met, ``limit`` what is allowed, ``remedy`` what to do about it.
    """

    def __init__(self, value: str, limit: str = "", remedy: str = "") -> None:
        self.value, self.limit, self.remedy = value, limit, remedy
        head = f"{value}: {limit}" if limit else value
        super().__init__(" ".join(f"{head}. {remedy}.".split()) if remedy else f"{head}.")


class ImageError(PhysadvError):
    """An image, or a folder of them, that cannot be used."""


class DataError(PhysadvError):
    """A data set or annotation file that cannot be used."""


class ModelError(PhysadvError):
    """A model that cannot be loaded or whose output cannot be trusted."""


class OptionError(PhysadvError):
    """An option or argument outside what is allowed."""


class GeometryError(PhysadvError):
    """A size or a placement that does not fit: a mask without pixels, a sticker larger than the
    paper."""


class BundleError(PhysadvError):
    """A patch folder that is incomplete, altered or fails its re-verification."""


class CaptureError(PhysadvError):
    """A camera, stream or video that cannot be opened or read."""


class CalibrationError(PhysadvError):
    """A chart photo or a profile that cannot be used."""
