"""Color management of prints: sRGB pictures, or those in the space of a print shop's output profile
with a soft proof.

A proof is the profile's prediction, not a measurement of a print.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from physadv.core.color import de00
from physadv.core.errors import OptionError
from physadv.core.image_io import Array
from physadv.core.reading import MAX_PROFILE_BYTES, foreign_errors
from physadv.core.text import read_file

_UNREADABLE = "not a readable ICC profile"
_PRINT_PROFILE = "Give the output profile of your print shop, e.g. one of ISO Coated or GRACoL"
INTENTS = {
    "perceptual": ImageCms.Intent.PERCEPTUAL,
    "relative": ImageCms.Intent.RELATIVE_COLORIMETRIC,
    "saturation": ImageCms.Intent.SATURATION,
    "absolute": ImageCms.Intent.ABSOLUTE_COLORIMETRIC,
}
FAR = 5.0
"""Color difference (CIEDE2000) above which a color counts as clearly missed."""
_DATE = slice(24, 36)  # of an ICC header
_MODES = {"CMYK": "CMYK", "RGB": "RGB", "GRAY": "L"}
"""Pillow's mode of a profile's color space."""
_CLASSES = {
    "scnr": "scanners and cameras",
    "mntr": "displays",
    "link": "a pair of devices (device link)",
    "spac": "conversion of color spaces",
    "abst": "an effect (abstract)",
    "nmcl": "named colors",
}


@dataclass(frozen=True)
class SoftProof:
    """Prediction of a profile for a picture, relative to the paper's white.

    Attributes:
        mean: Mean color difference between design and print, CIEDE2000.
        p95: Its 95th percentile.
        worst: Its maximum.
        share_far: Share of pixels that differ by more than ``FAR``.
        most_ink_percent: Largest sum of the inks, in percent; None for an RGB profile, which does
            not tell its inks.
    """

    mean: float
    p95: float
    worst: float
    share_far: float
    most_ink_percent: float | None


def srgb_profile() -> bytes:
    """Return the sRGB profile as ICC bytes, with a fixed date so that equal sheets are equal
    files."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    data[_DATE] = bytes([0x07, 0xD0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0])  # 2000-01-01
    return bytes(data)


class PressProfile:
    """A print shop's output profile, which converts pictures and predicts their appearance.

    Attributes:
        path: The ICC file.
        data: Its bytes.
        name: Its description.
        space: Color space of the printer: "CMYK", "RGB" or "GRAY".

    Args:
        profile: ICC file.
        intent: "relative" (with black-point compensation), "perceptual", "saturation" or
            "absolute".

    Raises:
        OptionError: The intent is unknown, or the file is not an output profile for CMYK, RGB or
            gray.
    """

    def __init__(self, profile: str | Path, *, intent: str = "relative") -> None:
        if intent not in INTENTS:
            raise OptionError(
                f"intent {intent!r}", f"one of {', '.join(INTENTS)}", "Correct the name"
            )

        self.path, self.intent = Path(profile), intent
        if not self.path.is_file():
            raise OptionError(f"ICC profile {self.path}", "no such file", "Check the path")

        self.data = read_file(self.path, most_bytes=MAX_PROFILE_BYTES, error=OptionError)
        self.space: str = self._checked_space()
        with foreign_errors(f"ICC profile {self.path}", OptionError, _UNREADABLE, _PRINT_PROFILE):
            self._profile = ImageCms.ImageCmsProfile(io.BytesIO(self.data))
            self._assert_usable()
        self.name = self._description()

    def _checked_space(self) -> str:
        """Return the color space that the profile's header names, of a printer."""
        if self.data[36:40] != b"acsp":
            raise self._refusal("not an ICC profile")
        kind, space = (self.data[i : i + 4].decode("latin-1").strip() for i in (12, 16))
        if kind != "prtr":
            what = _CLASSES.get(kind, f"something else ({kind!r})")
            raise self._refusal(f"a profile for {what}; an output profile (prtr) is needed")
        if space not in _MODES:
            raise self._refusal(f"color space {space!r}; CMYK, RGB or GRAY is needed")
        return space

    def _assert_usable(self) -> None:
        """Refuse a profile that cannot convert to the printer's colors and back.

        Raises:
            OptionError: A table is missing.
            ImageCms.PyCMSError: A table is damaged.
        """
        facts = self._profile.profile
        if not facts.is_intent_supported(INTENTS[self.intent], 1):
            raise self._refusal(f"it has no table for the intent {self.intent!r}")
        if not facts.is_intent_supported(INTENTS["relative"], 0):
            raise self._refusal("it does not tell how its colors look, so no proof can be made")
        self.proof(np.zeros((1, 1, 3), np.uint8))

    def _description(self) -> str:
        try:
            return ImageCms.getProfileDescription(self._profile).strip() or self.path.stem
        except ImageCms.PyCMSError:  # the text alone is damaged
            return self.path.stem

    def _refusal(self, what: str) -> OptionError:
        return OptionError(f"ICC profile {self.path}", what, _PRINT_PROFILE)

    @property
    def channels(self) -> int:
        """Number of the printer's channels."""
        return {"CMYK": 4, "RGB": 3, "GRAY": 1}[self.space]

    @cached_property
    def _to_press(self) -> Any:
        flags = (
            ImageCms.Flags.BLACKPOINTCOMPENSATION
            if self.intent == "relative"
            else ImageCms.Flags.NONE
        )

        srgb = ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(
            srgb, self._profile, "RGB", _MODES[self.space], INTENTS[self.intent], flags
        )

    def convert(self, rgb: Array) -> Array:
        """Return the printer's values (h, w, channels) for ``rgb`` (h, w, 3) in sRGB.

        255 is solid ink in CMYK, and paper white in RGB and gray. Alpha is not handled.
        """
        return np.asarray(self._inked(rgb), np.uint8).reshape(*rgb.shape[:2], self.channels)

    def proof(self, rgb: Array) -> Array:
        """Return the print of ``rgb`` (h, w, 3) as the profile predicts it, in sRGB with the paper
        as white."""
        return self._predicted(rgb, ImageCms.createProfile("sRGB"), "RGB")

    def compare(
        self, rgb: Array, inside: npt.NDArray[np.bool_]
    ) -> tuple[SoftProof, npt.NDArray[np.float64]]:
        """Predict how far the print deviates from the design.

        Args:
            rgb: Picture (h, w, 3) uint8 in sRGB.
            inside: Pixels (h, w) to count.

        Returns:
            The figures over ``inside``, and the color difference (h, w) of every pixel.
        """
        lab = ImageCms.createProfile("LAB")
        to_lab = ImageCms.buildTransform(
            ImageCms.createProfile("sRGB"), lab, "RGB", "LAB", INTENTS["relative"]
        )
        target = np.asarray(ImageCms.applyTransform(Image.fromarray(rgb), to_lab), np.uint8)

        off = de00(_lab(target), _lab(self._predicted(rgb, lab, "LAB")))
        inside_off = off[inside]
        figures = SoftProof(
            mean=float(inside_off.mean()),
            p95=float(np.quantile(inside_off, 0.95)),
            worst=float(inside_off.max()),
            share_far=float((inside_off > FAR).mean()),
            most_ink_percent=self._most_ink(rgb[inside][None]),
        )
        return figures, off

    def _most_ink(self, rgb: Array) -> float | None:
        """Return the largest sum of inks in percent; None where the profile does not tell it."""
        if self.space == "RGB":
            return None
        values = self.convert(rgb).astype(np.float64)
        inks = 255 - values if self.space == "GRAY" else values
        return float(inks.sum(-1).max() / 255 * 100)

    def _inked(self, rgb: Array) -> Any:
        return ImageCms.applyTransform(Image.fromarray(rgb), self._to_press)

    def _predicted(self, rgb: Array, space: Any, mode: str) -> Array:
        to_space = ImageCms.buildTransform(
            self._profile, space, _MODES[self.space], mode, INTENTS["relative"]
        )
        return np.asarray(ImageCms.applyTransform(self._inked(rgb), to_space), np.uint8)


def _lab(eight_bit: Array) -> npt.NDArray[np.float64]:
    """Convert 8-bit Lab as Pillow returns it (a and b in two's complement) to L 0..100, a and b
    -128..127."""
    signed = eight_bit[..., 1:].astype(np.int8).astype(np.float64)
    return np.concatenate([eight_bit[..., :1] / 2.55, signed], -1)
