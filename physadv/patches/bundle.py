"""Patch bundle: a folder of patch.png, mask.png, card.toml, rows.jsonl and preview.png."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import tomli_w
import torch
from torch import Tensor

from physadv.core.errors import BundleError, GeometryError
from physadv.core.files import write_bytes, write_text
from physadv.core.image_io import Array, png_bytes, read_rgba, to_tensor, to_uint8
from physadv.core.members import member_of, refuse_links_out_of
from physadv.core.notebook_html import result_html
from physadv.core.package_data import bundle_folder, ready_made_bundles
from physadv.core.parsing import parse_toml
from physadv.core.rows import Row
from physadv.core.tables import parse_table
from physadv.core.text import read_text
from physadv.evaluation.metrics.intervals import RateInterval

PATCH, MASK, CARD, ROWS, PREVIEW = "patch.png", "mask.png", "card.toml", "rows.jsonl", "preview.png"
_GOALS = ("targeted", "untargeted", "vanish", "misclassify", "create")
_FINGERPRINTED = ("name", "goal", "true_class", "target_class")


@dataclass(frozen=True)
class PatchInfo:
    """Identity of a patch.

    Args:
        name: Name on the card and the sheet.
        goal: targeted, untargeted, vanish, misclassify or create.
        true_class: Class of the object that carries it.
        target_class: Class to be predicted instead, or to appear.
        run_id: First 12 digits of ``sha256``, unless given; filled in by :func:`write_bundle`.
        created: Time in UTC, ISO 8601.
        physadv: Version that made it.
        sha256: Fingerprint of the bundle; filled in by :func:`write_bundle`.
    """

    name: str
    goal: str
    true_class: str
    target_class: str | None = None
    run_id: str = ""
    created: str = ""
    physadv: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class PatchSize:
    """Physical size of patch.png and mask.png; the mask touches all four edges of it.

    Args:
        width_mm: Width in mm.
        height_mm: Height in mm.
    """

    width_mm: float
    height_mm: float


@dataclass(frozen=True)
class CardPlacement:
    """Place of a sticker on its sign.

    Args:
        sign: Name of the sign, or what else carries the patch.
        sign_width_mm: Width of the sign in mm.
        center_mm: Center of the sticker from that of the sign in mm, x right, y down.
        area_share: Area of the sticker over that of the sign.
    """

    sign: str
    sign_width_mm: float
    center_mm: tuple[float, float]
    area_share: float


@dataclass(frozen=True)
class ModelInfo:
    """Model that a patch was optimized on.

    Args:
        name: Its name or module:factory.
        task: "classify" or "detect".
        sha256: Checksum of its weights.
    """

    name: str
    task: str
    sha256: str = ""


@dataclass(frozen=True)
class TransferRecord:
    """Success of a patch on one model, in the held-out draws of its card.

    Args:
        victim: The model: its name, or the name of its file or module:factory.
        in_training: Whether the patch was made on it, alone or in an ensemble.
        goal: Goal that was measured; a target class anywhere becomes a box to create for a
            detector.
        draws: Number of draws, with the clean, the blank and the patched scene of each.
        success: Share of goals met with the patch, among draws whose clean scene it recognizes.
        blank_success: The same with the white sheet of the patch's shape.
        clean_recognised: Share of all draws whose clean scene it recognizes.
        score_threshold: Score from which a detector's box counts; None for a classifier.
    """

    victim: ModelInfo
    in_training: bool
    goal: str
    draws: int
    success: RateInterval
    blank_success: RateInterval
    clean_recognised: RateInterval
    score_threshold: float | None = None


@dataclass(frozen=True)
class TwinRates:
    """Rates of a patch in frames of the twin by one camera; the trials of intervals are clips.

    Args:
        camera: Name of the camera; "all" for all of them together.
        success: Share of frames with the patch in which the goal is met.
        blank_success: The same with the white sheet of the patch's shape.
        clean_recognised: Share of frames without a patch in which the true class is recognized.
    """

    camera: str
    success: RateInterval
    blank_success: RateInterval
    clean_recognised: RateInterval


@dataclass(frozen=True)
class TwinRecord:
    """Success of a patch in a film of the twin, as ``physadv check --record`` measured it.

    Args:
        victim: The model.
        goal: Goal that was checked.
        seed: Seed of the film.
        clips: Clips of each block.
        frames: Frames of a clip.
        cameras: All cameras together, then each.
        score_threshold: Score from which a detector's box counts; None for a classifier.
    """

    victim: ModelInfo
    goal: str
    seed: int
    clips: int
    frames: int
    cameras: tuple[TwinRates, ...]
    score_threshold: float | None = None


@dataclass(frozen=True)
class PatchCard:
    """Card of a bundle: typed sections, then free tables.

    Args:
        patch: Identity of the patch.
        size: Its physical size.
        placement: Its place.
        victim: Model that it was optimized on.
        eot: Ranges of EOT by name.
        optimisation: Configuration that it was made with.
        heldout: Rates on held-out draws.
        visibility: How small each victim still reads the clean sign.
        data: Sources of the data sets named in the configuration.
        versions: Versions of the packages.
        transfer: Success on other models, as ``physadv patch transfer --record`` measured it.
        twin: Success in films of the twin by camera, as ``physadv check --record`` measured it.

    Example:
        >>> card = read_bundle("stop-sticker-signs-v1").card
        >>> PatchCard.from_toml(card.to_toml()) == card
        True
    """

    patch: PatchInfo
    size: PatchSize
    placement: CardPlacement
    victim: ModelInfo
    eot: dict[str, Any] = field(default_factory=dict)
    optimisation: dict[str, Any] = field(default_factory=dict)
    heldout: dict[str, Any] = field(default_factory=dict)
    visibility: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    transfer: tuple[TransferRecord, ...] = ()
    twin: tuple[TwinRecord, ...] = ()

    def to_toml(self) -> str:
        """Return the card as TOML text, without keys that are None and without empty ``transfer``
        and ``twin``."""
        table = asdict(self)
        for name in ("transfer", "twin"):
            if not table[name]:
                del table[name]
        return tomli_w.dumps(_plain(table))

    @staticmethod
    def from_toml(text: str, *, name: str = CARD) -> PatchCard:
        """Parse the TOML ``text`` of a card; errors call it ``name``.

        Raises:
            BundleError: The text is no TOML, or a key is missing, unknown or of the wrong type.
        """
        remedy = "Restore the card of the run"
        tables = parse_toml(text, name, finite=False, error=BundleError, remedy=remedy)
        card = parse_table(tables, PatchCard, name=name, error=BundleError, remedy=remedy)
        _check_card(card, name)
        return card


@dataclass(frozen=True)
class PatchBundle:
    """A patch in memory, as its folder holds it.

    Attributes:
        card: What the patch is, how it was made, and what was measured.
        patch: Pixels (1, 3, h, w) in [0, 1].
        mask: Shape (1, 1, h, w) in [0, 1].
        folder: Folder of the bundle.

    Example:
        >>> bundle = read_bundle("stop-sticker-signs-v1")
        >>> bundle.card.size.width_mm, bundle.mask.shape == (1, 1, *bundle.patch.shape[-2:])
        (201.8, True)
    """

    card: PatchCard
    patch: Tensor
    mask: Tensor
    folder: Path

    def _repr_html_(self) -> str:
        """The patch in a notebook: its picture, size and held-out success with both controls."""
        card = self.card
        names = {
            "success": "Success",
            "blank_success": "Blank control",
            "clean_recognised": "Clean control",
        }
        rates = {
            words: RateInterval(**card.heldout[key])
            for key, words in names.items()
            if key in card.heldout
        }
        goal = f"{card.patch.goal} {card.patch.target_class or ''}".strip()
        facts = {
            "Goal": f"{goal}, on {card.victim.name}",
            "Size": f"{card.size.width_mm:g} x {card.size.height_mm:g} mm",
            **rates,
        }
        on_white = (self.patch * self.mask + (1 - self.mask))[0]
        return result_html(
            card.patch.name,
            facts,
            notes=["simulated, on held-out draws"],
            pictures=[("patch", on_white)],
        )


def write_bundle(
    folder: str | Path,
    *,
    card: PatchCard,
    patch: Tensor,
    mask: Tensor,
    preview: Tensor | Array | None = None,
    rows: Iterable[Row] | None = None,
) -> PatchBundle:
    """Write a patch bundle; the card goes in last, so that a folder without it is no bundle.

    Empty margins of the mask are cut off, and size and center on the card follow.

    Args:
        folder: Folder of the bundle, created if needed.
        card: Its card; checksum and run id are filled in.
        patch: Pixels (1, 3, h, w) in [0, 1].
        mask: Shape (1, 1, h, w) in [0, 1].
        preview: Picture for people, (3, h, w) in [0, 1] or an 8-bit array with channels last.
        rows: Raw rows of the measurement; None leaves a rows.jsonl that is already there.

    Returns:
        The bundle as it reads back, in 8 bits.

    Raises:
        BundleError: The card has an unknown goal or an impossible size.
        GeometryError: The shapes differ, or the mask has no pixels.
    """
    target = Path(folder)
    patch, mask = _eight_bit(patch), _eight_bit(mask)
    _check_shapes(patch, mask, str(target))
    card, patch, mask = _cut_margins(card, patch, mask)

    digest = bundle_fingerprint(PatchBundle(card, patch, mask, target))
    info = replace(card.patch, sha256=digest, run_id=card.patch.run_id or digest[:12])
    card = replace(card, patch=info)
    _check_card(card, CARD)

    files = {PATCH: png_bytes(patch[0], optimize=True), MASK: png_bytes(mask[0], optimize=True)}
    if isinstance(preview, Tensor):
        preview = preview.reshape(preview.shape[-3:])
    if preview is not None:
        files[PREVIEW] = png_bytes(preview, optimize=True)
    if rows is not None:
        files[ROWS] = "".join(json.dumps(row, default=float) + "\n" for row in rows).encode()

    # The card goes last: a bundle without one is not finished.
    for name, data in files.items():
        write_bytes(target / name, data)
    write_text(target / CARD, card.to_toml())
    return PatchBundle(card, patch, mask, target)


def write_card(bundle: PatchBundle) -> None:
    """Write the card of ``bundle`` into its folder, over the one that is there.

    Raises:
        BundleError: The folder cannot be written.
    """
    try:
        write_text(bundle.folder / CARD, bundle.card.to_toml())
    except OSError as error:
        raise BundleError(
            f"{bundle.folder}",
            f"its card cannot be written ({error.strerror or error})",
            "Copy the bundle to a folder of yours, and name that",
        ) from error


def read_bundle(name_or_path: str | Path) -> PatchBundle:
    """Read a patch bundle.

    Args:
        name_or_path: Folder of the bundle, or the name of a ready-made one.

    Returns:
        The bundle: card, patch, mask and folder.

    Raises:
        BundleError: A file is missing or a link, a key of the card is wrong, sizes differ, or the
            content was altered since it was written.
        GeometryError: The mask has no pixels or empty margins.

    Example:
        >>> bundle = read_bundle("stop-sticker-signs-v1")
        >>> bundle.card.patch.goal, bundle.patch.shape[:2]
        ('untargeted', torch.Size([1, 3]))
    """
    root = bundle_folder(Path(name_or_path))
    refuse_links_out_of(root, remedy="Remove the link", error=BundleError)
    for file in (CARD, PATCH, MASK):
        if not member_of(root, file, error=BundleError).is_file():
            raise BundleError(
                f"{root}: {file} is missing",
                "A bundle has a card, a patch and a mask",
                "Name a folder made by `physadv patch`, or one of "
                f"{', '.join(ready_made_bundles())}",
            )

    text = read_text(root / CARD, error=BundleError)
    card = PatchCard.from_toml(text, name=str(root / CARD))
    patch = to_tensor(read_rgba(root / PATCH))[None, :3]
    mask = to_tensor(read_rgba(root / MASK))[None, :1]
    bundle = PatchBundle(card, patch, mask, root)
    _check_pictures(bundle)
    if card.patch.sha256 and card.patch.sha256 != bundle_fingerprint(bundle):
        raise BundleError(
            f"{root}: picture or card changed since it was written",
            "Its fingerprint must be that on the card",
            "Restore the files, or delete the line sha256 under [patch] to accept the change",
        )
    return bundle


def _check_pictures(bundle: PatchBundle) -> None:
    """Raise BundleError or GeometryError for pictures of different sizes or a mask with margins."""
    patch, mask, root = bundle.patch, bundle.mask, bundle.folder
    if patch.shape[-2:] != mask.shape[-2:]:
        raise BundleError(
            f"{root}: {PATCH} is {patch.shape[-1]}x{patch.shape[-2]} px, "
            f"{MASK} {mask.shape[-1]}x{mask.shape[-2]} px",
            "The two must be of one size",
            "Restore the files of the run",
        )
    _check_shapes(patch, mask, str(root / MASK))
    if _bounds(mask) != (0, 0, mask.shape[-1], mask.shape[-2]):
        raise GeometryError(
            f"{root / MASK}: the mask has empty margins",
            "It must touch all four edges",
            "Crop both pictures to it, or use write_bundle",
        )


def bundle_fingerprint(bundle: PatchBundle) -> str:
    """Return the hex sha256 of a ``bundle``.

    It covers the pixels, and the names, sizes, placement and model on the card.
    """
    card = bundle.card
    info = {key: value for key, value in asdict(card.patch).items() if key in _FINGERPRINTED}
    facts = [
        info,
        _as_floats(asdict(card.size)),
        _as_floats(asdict(card.placement)),
        asdict(card.victim),
    ]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=float).encode())
    for picture in (bundle.patch, bundle.mask):
        digest.update(f"|{tuple(picture.shape)}|".encode())
        digest.update(to_uint8(picture).tobytes())
    return digest.hexdigest()


def _as_floats(value: Any) -> Any:
    """Numbers as floats, so that 190 and the 190.0 it becomes in TOML count as one."""
    if isinstance(value, dict):
        return {k: _as_floats(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_as_floats(v) for v in value]
    return float(value) if isinstance(value, int) else value


def _eight_bit(picture: Tensor) -> Tensor:
    return picture.detach().cpu().float().clamp(0, 1).mul(255).round().div(255)


def _check_shapes(patch: Tensor, mask: Tensor, name: str) -> None:
    if patch.ndim != 4 or patch.shape[:2] != (1, 3) or mask.shape != (1, 1, *patch.shape[-2:]):
        shapes = f"patch {tuple(patch.shape)}, mask {tuple(mask.shape)}"
        raise GeometryError(
            f"{name}: {shapes}", "(1, 3, h, w) and (1, 1, h, w) are needed", "Reshape them"
        )
    if not bool((mask > 0.5).any()):
        raise GeometryError(
            f"{name}: the mask has no pixels",
            "It marks the sticker's shape",
            "Paint the shape white in it",
        )


def _bounds(mask: Tensor) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of what is not black, in px."""
    ys, xs = torch.nonzero(mask[0, 0] > 0, as_tuple=True)
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


def _cut_margins(card: PatchCard, patch: Tensor, mask: Tensor) -> tuple[PatchCard, Tensor, Tensor]:
    """Card, patch and mask without the mask's empty margins."""
    x0, y0, x1, y1 = _bounds(mask)
    height, width = mask.shape[-2:]
    if (x0, y0, x1, y1) == (0, 0, width, height):
        return card, patch, mask

    x_mm, y_mm = card.size.width_mm / width, card.size.height_mm / height
    x, y = card.placement.center_mm
    center = (x + ((x0 + x1) / 2 - width / 2) * x_mm, y + ((y0 + y1) / 2 - height / 2) * y_mm)
    placement = replace(card.placement, center_mm=center)
    size = PatchSize((x1 - x0) * x_mm, (y1 - y0) * y_mm)
    window = (..., slice(y0, y1), slice(x0, x1))
    card = replace(card, size=size, placement=placement)
    return card, patch[window].contiguous(), mask[window].contiguous()


def _plain(value: Any) -> Any:
    """Fit for TOML: None left out, tuples and paths as lists and text."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value if v is not None]
    return value if isinstance(value, str | int | float | bool) else str(value)


def _check_card(card: PatchCard, name: str) -> None:
    """Raise BundleError for an unknown goal or an impossible size."""
    if card.patch.goal not in _GOALS:
        raise BundleError(
            f"{name}: patch.goal = {card.patch.goal!r}",
            f"One of {', '.join(_GOALS)} is needed",
            "Correct it",
        )

    sizes = {
        "size.width_mm": card.size.width_mm,
        "size.height_mm": card.size.height_mm,
        "placement.sign_width_mm": card.placement.sign_width_mm,
    }
    for key, value in sizes.items():
        if not 0 < value < 100_000:
            raise BundleError(
                f"{name}: {key} = {value:g}", "0 < mm < 100000", "Give the size in millimeters"
            )
