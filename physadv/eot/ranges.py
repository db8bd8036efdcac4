"""Ranges of what is drawn under EOT, each in its physical unit, and which of them belong to one
effect."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace

from physadv.core.errors import OptionError

Range = tuple[float, float]
ZERO: Range = (0.0, 0.0)
ONE: Range = (1.0, 1.0)
DAYLIGHT_K = 6504.0
"""Correlated color temperature of D65, the white of sRGB."""
NEAR: Range = (4000.0, 4000.0)
"""A size of the sign in the camera at which nothing is enlarged for the victim."""
NO_CODEC: Range = (101.0, 101.0)
"""A JPEG quality that leaves the codec out."""


@dataclass(frozen=True)
class EotRanges:
    """Uniform ranges (low, high) of every drawn parameter; a range whose ends are equal switches
    the effect off.

    The value at which an effect does nothing is in :data:`NEUTRAL`. A probability is a range too,
    so that a preset is one flat table; its two ends are equal.
    """

    # Pose: numbers drawn with the scenes.
    size_px: Range = (20.0, 110.0)
    """Width of the sign in the camera's own pixels before the victim's resize: distance, as seen by
    a classifier."""
    frame_share: Range = (0.12, 0.55)
    """Width of the sign as a share of the frame's height: distance, as seen by a detector."""
    distance_m: Range = ZERO
    """Camera to sign in m, log-uniform. With field_of_view_deg and sensor_px it replaces size_px
    and frame_share."""
    field_of_view_deg: Range = ZERO
    """Horizontal angle of view of the camera: its focal length."""
    sensor_px: Range = ZERO
    """Width of the camera's picture in its own pixels; its height is 9/16 of that."""
    margin: Range = (-0.02, 0.22)
    """Context around the sign's square in a classifier's crop, as a share of its width, each side.
    """
    yaw_deg: Range = (-40.0, 40.0)
    pitch_deg: Range = (-15.0, 15.0)
    roll_deg: Range = (-12.0, 12.0)
    lens_k1: Range = ZERO
    """Radial distortion: a point half a picture's width from the middle moves by this share of that
    distance."""

    # The patch's own pixels, as papers change them before it is placed.
    patch_contrast: Range = ONE
    patch_brightness: Range = ZERO
    patch_noise: Range = ZERO
    """Half width of uniform noise on each texel."""
    cutout_probability: Range = ZERO
    cutout_share: Range = ZERO
    """Side of a gray square on the patch, as a share of the patch's side."""

    # Print and sticker.
    ink_black: Range = (0.01, 0.06)
    paper_white: Range = (0.72, 0.95)
    ink_mixing: Range = (0.0, 0.12)
    """Share of each ink's light that comes from the other two channels."""
    bend_mm: Range = ZERO
    """Largest shift of the 5 x 5 control points of a thin plate: an uneven ground, a sticker put on
    badly."""
    curl_deg: Range = ZERO
    """Angle that the sticker spans of a cylinder, about an axis of any direction in its plane."""

    # Light and air.
    shadow_probability: Range = ZERO
    shadow_ev: Range = ZERO
    """How much darker the shaded side is."""
    shadow_edge_mm: Range = ZERO
    """Width of the half-shadow on the sign."""
    gradient_ev: Range = ZERO
    """Change of the light along 1 m of the sign, in any direction."""
    highlight_probability: Range = ZERO
    highlight: Range = ZERO
    """Light of the brightest point of a specular reflection, in units of white."""
    highlight_mm: Range = ZERO
    """Standard deviation of its size on the sign."""
    temperature_k: Range = (DAYLIGHT_K, DAYLIGHT_K)
    """Color temperature that the camera's white balance leaves over; uniform in its reciprocal."""
    occlusion_probability: Range = ZERO
    occlusion_mm: Range = ZERO
    """Width of a branch or leaf before the sign."""
    haze_per_km: Range = ZERO
    """Extinction of the air; 3.9 over the visibility in km (Koschmieder 1924)."""

    # Camera.
    exposure_ev: Range = (-1.3, 0.9)
    white_balance: Range = (0.82, 1.2)
    """Gain of red and of blue against green, in linear light."""
    defocus_px: Range = (0.2, 1.1)
    motion_px: Range = (0.0, 2.5)
    rolling_ev: Range = ZERO
    """Depth of the bands that a flickering lamp leaves under a rolling shutter."""
    rolling_rows: Range = ZERO
    """Period of the bands as a share of the picture's height."""
    full_well_e: Range = ZERO
    """Electrons at white: shot noise of the raw picture, log-uniform; 0 switches raw noise off."""
    read_noise_e: Range = ZERO
    bayer_probability: Range = ZERO
    """Color filter array and demosaicing."""
    contrast: Range = (0.75, 1.25)
    brightness: Range = (-0.08, 0.08)
    gamma: Range = (0.75, 1.35)
    tone_curve: Range = ZERO
    """Strength of the S-shaped curve that cameras lay over the picture; 1 is a smoothstep."""
    sharpening: Range = ZERO
    """Amount of the camera's unsharp mask, radius 1 px."""
    pixel_gain: Range = ONE
    """Factor on the encoded picture (lighten / darken of papers that do not work in linear light).
    """
    pixel_offset: Range = ZERO
    channel_gain: Range = ONE
    channel_offset: Range = ZERO
    read_noise: Range = (0.0, 0.025)
    """Standard deviation of the noise on the encoded picture, and below the part that grows with
    the light."""
    shot_noise: Range = (0.0, 0.03)
    jpeg_quality: Range = (45.0, 95.0)
    video_probability: Range = ZERO
    """Share of pictures that come from a video stream instead of a JPEG file."""
    video_qp: Range = ZERO
    """Quantiser of an intra-coded H.264-like frame: the step doubles every 6."""

    def as_dict(self) -> dict[str, list[float]]:
        """For the card: name -> [low, high] of everything that acts."""
        return {name: list(value) for name, value in asdict(self).items() if self.acts(name)}

    def acts(self, name: str) -> bool:
        """Whether this range changes anything: it is not at its neutral value."""
        value: Range = getattr(self, name)
        return name not in NEUTRAL or value != NEUTRAL[name]


NEUTRAL: dict[str, Range] = {
    **{f.name: f.default for f in fields(EotRanges) if f.default in (ZERO, ONE)},
    "size_px": NEAR,
    "yaw_deg": ZERO,
    "pitch_deg": ZERO,
    "roll_deg": ZERO,
    "ink_black": ZERO,
    "paper_white": ONE,
    "ink_mixing": ZERO,
    "temperature_k": (DAYLIGHT_K, DAYLIGHT_K),
    "exposure_ev": ZERO,
    "white_balance": ONE,
    "defocus_px": ZERO,
    "motion_px": ZERO,
    "contrast": ONE,
    "brightness": ZERO,
    "gamma": ONE,
    "read_noise": ZERO,
    "shot_noise": ZERO,
    "jpeg_quality": NO_CODEC,
}
"""The value of each effect at which it does nothing; frame_share and margin have none."""

EFFECTS: dict[str, tuple[str, ...]] = {
    "print": ("ink_black", "paper_white", "ink_mixing"),
    "bending": ("bend_mm", "curl_deg"),
    "light": (
        "shadow_probability",
        "gradient_ev",
        "highlight_probability",
        "occlusion_probability",
        "haze_per_km",
    ),
    "colour": (
        "ink_black",
        "paper_white",
        "ink_mixing",
        "temperature_k",
        "white_balance",
        "contrast",
        "brightness",
        "gamma",
        "tone_curve",
        "pixel_gain",
        "pixel_offset",
        "channel_gain",
        "channel_offset",
    ),
    "exposure": ("exposure_ev", "rolling_ev"),
    "blur": ("defocus_px", "motion_px"),
    "noise": ("read_noise", "shot_noise", "full_well_e", "read_noise_e", "patch_noise"),
    "sensor": ("bayer_probability", "sharpening"),
    "codec": ("jpeg_quality", "video_probability"),
}
"""What belongs together when one effect is left out."""


def without(ranges: EotRanges, *effects: str) -> EotRanges:
    """The same ranges with whole effects switched off, for ablations. OptionError names an unknown
    effect."""
    names: set[str] = set()
    for effect in effects:
        if effect not in EFFECTS:
            raise OptionError(
                f"effect {effect!r}", f"one of {', '.join(EFFECTS)}", "choose one of these"
            )
        names |= set(EFFECTS[effect])
    return replace(ranges, **{name: NEUTRAL[name] for name in names})


NOTHING = replace(EotRanges(), **NEUTRAL)
"""Every effect off; a sharp, frontal sign, by frame_share and margin."""
