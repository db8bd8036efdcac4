"""Ranges of what is drawn under EOT, each in its physical unit."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from physadv.core.errors import OptionError

Range = tuple[float, float]


@dataclass(frozen=True)
class EotRanges:
    """Uniform ranges (low, high) of every drawn parameter; a range whose ends are equal switches the effect off."""

    size_px: Range = (20.0, 110.0)
    """Width of the sign in the camera's own pixels before the victim's resize: distance, as seen by a classifier."""
    frame_share: Range = (0.12, 0.55)
    """Width of the sign as a share of the frame's height: distance, as seen by a detector."""
    margin: Range = (-0.02, 0.22)
    """Context around the sign's square in a classifier's crop, as a share of its width, each side."""
    yaw_deg: Range = (-40.0, 40.0)
    pitch_deg: Range = (-15.0, 15.0)
    roll_deg: Range = (-12.0, 12.0)
    exposure_ev: Range = (-1.3, 0.9)
    white_balance: Range = (0.82, 1.2)
    """Gain of red and of blue against green, in linear light."""
    contrast: Range = (0.75, 1.25)
    brightness: Range = (-0.08, 0.08)
    gamma: Range = (0.75, 1.35)
    defocus_px: Range = (0.2, 1.1)
    motion_px: Range = (0.0, 2.5)
    read_noise: Range = (0.0, 0.025)
    shot_noise: Range = (0.0, 0.03)
    jpeg_quality: Range = (45.0, 95.0)
    ink_black: Range = (0.01, 0.06)
    paper_white: Range = (0.72, 0.95)
    ink_mixing: Range = (0.0, 0.12)
    """Share of each ink's light that comes from the other two channels."""

    def as_dict(self) -> dict[str, list[float]]:
        """For the card: name -> [low, high]."""
        return {name: list(value) for name, value in asdict(self).items()}


def eot_preset(name: str) -> EotRanges:
    """Ranges by name; only "default" so far. Raises OptionError for other names."""
    if name != "default":
        raise OptionError(f"EOT preset {name!r}", "only 'default' is known", "leave --eot out")
    return EotRanges()
