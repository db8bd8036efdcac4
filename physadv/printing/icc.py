"""Color management of prints: sRGB as default output intent, or a print shop's CMYK profile with a
soft proof.

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

INTENTS = {
    "perceptual": ImageCms.Intent.PERCEPTUAL,
    "relative": ImageCms.Intent.RELATIVE_COLORIMETRIC,
    "saturation": ImageCms.Intent.SATURATION,
    "absolute": ImageCms.Intent.ABSOLUTE_COLORIMETRIC,
}
FAR = 5.0
"""Color difference (CIEDE2000) above which a color counts as clearly missed."""
_DATE = slice(24, 36)  # of an ICC header


@dataclass(frozen=True)
class SoftProof:
    """Prediction of a profile for a picture, relative to the paper's white.

    Attributes:
        mean: Mean color difference between design and print, CIEDE2000.
        p95: Its 95th percentile.
        worst: Its maximum.
        share_far: Share of pixels that differ by more than ``FAR``.
        most_ink_percent: Largest sum of the four inks, in percent.
    """

    mean: float
    p95: float
    worst: float
    share_far: float
    most_ink_percent: float


def srgb_profile() -> bytes:
    """Return the sRGB profile as ICC bytes, with a fixed date so that equal sheets are equal
    files."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    data[_DATE] = bytes([0x07, 0xD0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0])  # 2000-01-01
    return bytes(data)


class PressProfile:
    """A print shop's CMYK profile, which converts pictures and predicts their appearance.

    Args:
        profile: ICC file.
        intent: "relative" (with black-point compensation), "perceptual", "saturation" or
            "absolute".

    Raises:
        OptionError: The intent is unknown, or the file is not a CMYK output profile.
    """

    def __init__(self, profile: str | Path, *, intent: str = "relative") -> None:
        if intent not in INTENTS:
            raise OptionError(
                f"intent {intent!r}", f"one of {', '.join(INTENTS)}", "Correct the name"
            )

        self.path, self.intent = Path(profile), intent
        if not self.path.is_file():
            raise OptionError(f"ICC profile {self.path}", "no such file", "Check the path")

        self.data = self.path.read_bytes()
        self._profile = self._read()
        self.name = ImageCms.getProfileDescription(self._profile).strip() or self.path.stem

    def _read(self) -> Any:
        remedy = "Give the CMYK output profile of your print shop, e.g. one of ISO Coated or GRACoL"
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(self.data))
        except (ImageCms.PyCMSError, OSError) as error:
            raise OptionError(f"ICC profile {self.path}", "not an ICC profile", remedy) from error

        space = profile.profile.xcolor_space.strip()
        if space != "CMYK" or not profile.profile.is_intent_supported(INTENTS[self.intent], 1):
            kind = f"color space {space}" if space != "CMYK" else "no output profile"
            raise OptionError(
                f"ICC profile {self.path}", f"{kind}; a CMYK output profile is needed", remedy
            )
        return profile

    @cached_property
    def _to_press(self) -> Any:
        flags = (
            ImageCms.Flags.BLACKPOINTCOMPENSATION
            if self.intent == "relative"
            else ImageCms.Flags.NONE
        )

        srgb = ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(
            srgb, self._profile, "RGB", "CMYK", INTENTS[self.intent], flags
        )

    def convert(self, rgb: Array) -> Array:
        """Return the inks (h, w, 4) of ``rgb`` (h, w, 3) in sRGB, 255 being solid; alpha is not
        handled."""
        return np.asarray(self._inked(rgb), np.uint8)

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
        ink = self.convert(rgb).astype(np.float64).sum(-1)[inside].max() / 255 * 100

        figures = (
            inside_off.mean(),
            np.quantile(inside_off, 0.95),
            inside_off.max(),
            (inside_off > FAR).mean(),
            ink,
        )
        return SoftProof(*map(float, figures)), off

    def _inked(self, rgb: Array) -> Any:
        return ImageCms.applyTransform(Image.fromarray(rgb), self._to_press)

    def _predicted(self, rgb: Array, space: Any, mode: str) -> Array:
        to_space = ImageCms.buildTransform(self._profile, space, "CMYK", mode, INTENTS["relative"])
        return np.asarray(ImageCms.applyTransform(self._inked(rgb), to_space), np.uint8)


def _lab(eight_bit: Array) -> npt.NDArray[np.float64]:
    """Convert 8-bit Lab as Pillow returns it (a and b in two's complement) to L 0..100, a and b
    -128..127."""
    signed = eight_bit[..., 1:].astype(np.int8).astype(np.float64)
    return np.concatenate([eight_bit[..., :1] / 2.55, signed], -1)
