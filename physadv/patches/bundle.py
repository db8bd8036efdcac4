"""Patch bundles: folders of patch.png, mask.png, rows.jsonl, preview.png and, written last,
card.toml."""

from __future__ import annotations

import hashlib
import json
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

import tomli_w
import torch
from torch import Tensor

from physadv.core.errors import BundleError, GeometryError
from physadv.core.image_io import Array, read_rgba, save_png, to_tensor, to_uint8
from physadv.core.package_data import bundle_folder
from physadv.core.rows import Row

PATCH, MASK, CARD, ROWS, PREVIEW = "patch.png", "mask.png", "card.toml", "rows.jsonl", "preview.png"
GOALS = ("targeted", "untargeted", "vanish", "misclassify", "create")
_Section = TypeVar("_Section")


@dataclass(frozen=True)
class PatchInfo:
    """Section [patch] of a card: what the patch is. ``sha256`` and an empty ``run_id`` are filled
    in by :func:`write_bundle`."""

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
    """Physical size of patch.png and mask.png in mm; the mask touches all four edges of it."""

    width_mm: float
    height_mm: float


@dataclass(frozen=True)
class CardPlacement:
    """Section [placement] of a card: place of the sticker on the sign.

    Attributes:
        sign: Name of the sign or object.
        sign_width_mm: Its width in mm.
        center_mm: Center of the sticker from that of the sign in mm, x right, y down.
        area_share: Share of the sign that the sticker covers.
    """

    sign: str
    sign_width_mm: float
    center_mm: tuple[float, float]
    area_share: float


@dataclass(frozen=True)
class ModelInfo:
    """Section [victim] of a card: the model that the patch was optimized against."""

    name: str
    task: str
    sha256: str = ""


@dataclass(frozen=True)
class PatchCard:
    """Content of card.toml: typed sections, then free tables."""

    patch: PatchInfo
    size: PatchSize
    placement: CardPlacement
    victim: ModelInfo
    eot: dict[str, Any] = field(default_factory=dict)
    optimisation: dict[str, Any] = field(default_factory=dict)
    heldout: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    """Data sets named under [optimization], and how to get them."""
    versions: dict[str, Any] = field(default_factory=dict)

    def to_toml(self) -> str:
        """Return the card as TOML text; keys that are None are left out."""
        return tomli_w.dumps(_plain(asdict(self)))

    @staticmethod
    def from_toml(text: str, *, name: str = CARD) -> PatchCard:
        """Read a card.

        Args:
            text: Content of a card.toml.
            name: Name of the file in errors.

        Returns:
            The card.

        Raises:
            BundleError: The text is no TOML, or a key is missing, unknown or of the wrong type.
        """
        try:
            tables = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise BundleError(name, f"not TOML ({error})", "restore the card of the run") from error
        card = _section(PatchCard, tables, name, "")
        _check(card, name)
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
        (190.0, True)
    """

    card: PatchCard
    patch: Tensor
    mask: Tensor
    folder: Path


def write_bundle(
    folder: str | Path,
    *,
    card: PatchCard,
    patch: Tensor,
    mask: Tensor,
    preview: Tensor | Array | None = None,
    rows: Iterable[Row] | None = None,
) -> PatchBundle:
    """Write a bundle; the card goes in last, so that a folder without one is no bundle.

    Empty margins of the mask are cut off, and size and center corrected, so that the sizes on the
    card are those of the cut sticker.

    Args:
        folder: Folder of the bundle, created if need be.
        card: Content of card.toml.
        patch: Pixels (1, 3, h, w) in [0, 1].
        mask: Shape (1, 1, h, w) in [0, 1].
        preview: Picture of the patch, a tensor (3, h, w) in [0, 1] or an array (h, w, 3) uint8.
        rows: Measured rows; None leaves a rows.jsonl that is already there.

    Returns:
        The bundle as it reads back, rounded to 8 bits.

    Raises:
        GeometryError: Patch and mask differ in size, or the mask has no pixels.
    """
    target = Path(folder)
    patch, mask = _eight_bit(patch), _eight_bit(mask)
    _check_shapes(patch, mask, str(target))
    card, patch, mask = _crop(card, patch, mask)
    digest = bundle_fingerprint(PatchBundle(card, patch, mask, target))
    card = replace(
        card, patch=replace(card.patch, sha256=digest, run_id=card.patch.run_id or digest[:12])
    )
    _check(card, CARD)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".bundle-", dir=target) as name:
        draft = Path(name)
        save_png(draft / PATCH, patch[0])
        save_png(draft / MASK, mask[0])
        if preview is not None:
            save_png(
                draft / PREVIEW,
                preview if not isinstance(preview, Tensor) else preview.reshape(preview.shape[-3:]),
            )
        if rows is not None:
            lines = "".join(json.dumps(row, default=float) + "\n" for row in rows)
            (draft / ROWS).write_text(lines, encoding="utf-8")
        (draft / CARD).write_text(card.to_toml(), encoding="utf-8")
        for part in (PATCH, MASK, PREVIEW, ROWS, CARD):
            if (draft / part).exists():
                (draft / part).chmod(0o644)
                (draft / part).replace(target / part)

    return PatchBundle(card, patch, mask, target)


def read_bundle(name_or_path: str | Path) -> PatchBundle:
    """Read a patch bundle.

    Args:
        name_or_path: Folder of the bundle, or the name of a ready-made one.

    Returns:
        The bundle: card, patch, mask and folder.

    Raises:
        BundleError: A file is missing, a key of the card is wrong, sizes differ, or the content was
            altered since it was written.
        GeometryError: The mask has no pixels or empty margins.

    Example:
        >>> bundle = read_bundle("stop-sticker-signs-v1")
        >>> bundle.card.patch.goal, bundle.patch.shape[:2]
        ('untargeted', torch.Size([1, 3]))
    """
    root = bundle_folder(Path(name_or_path))
    for part in (CARD, PATCH, MASK):
        if not (root / part).is_file():
            raise BundleError(
                f"{root}", f"{part} is missing", "name a folder made by `physadv patch`"
            )

    text = (root / CARD).read_text(encoding="utf-8", errors="replace")
    card = PatchCard.from_toml(text, name=str(root / CARD))
    patch = to_tensor(read_rgba(root / PATCH))[None, :3]
    mask = to_tensor(read_rgba(root / MASK))[None, :1]
    if patch.shape[-2:] != mask.shape[-2:]:
        (height, width), (h, w) = patch.shape[-2:], mask.shape[-2:]
        sizes = f"{PATCH} is {width}x{height} px, {MASK} {w}x{h} px"
        raise BundleError(f"{root}", sizes, "the two must be of one size")

    _check_shapes(patch, mask, str(root / MASK))
    if _bounds(mask) != (0, 0, mask.shape[-1], mask.shape[-2]):
        raise GeometryError(
            f"{root / MASK}",
            "the mask has empty margins",
            "crop both pictures to it, or write_bundle",
        )

    bundle = PatchBundle(card, patch, mask, root)
    if card.patch.sha256 and card.patch.sha256 != bundle_fingerprint(bundle):
        raise BundleError(
            f"{root}",
            "picture or card changed since it was written",
            "restore the files, or delete the line sha256 under [patch] to accept the change",
        )

    return bundle


def bundle_fingerprint(bundle: PatchBundle) -> str:
    """Return the sha256 in hex over the pixels of ``bundle`` and the names, sizes, placement and
    model on its card."""
    card = bundle.card
    info = {
        k: v
        for k, v in asdict(card.patch).items()
        if k in {"name", "goal", "true_class", "target_class"}
    }
    core = [
        info,
        _as_floats(asdict(card.size)),
        _as_floats(asdict(card.placement)),
        asdict(card.victim),
    ]
    digest = hashlib.sha256(json.dumps(core, sort_keys=True, default=float).encode())
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
        raise GeometryError(name, shapes, "give (1, 3, h, w) and (1, 1, h, w)")
    if not bool((mask > 0.5).any()):
        raise GeometryError(name, "the mask has no pixels", "mark the sticker's shape white in it")


def _bounds(mask: Tensor) -> tuple[int, int, int, int]:
    ys, xs = torch.nonzero(mask[0, 0] > 0, as_tuple=True)
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


def _crop(card: PatchCard, patch: Tensor, mask: Tensor) -> tuple[PatchCard, Tensor, Tensor]:
    """Cut empty margins; the card's size and center follow."""
    x0, y0, x1, y1 = _bounds(mask)
    h, w = mask.shape[-2:]
    if (x0, y0, x1, y1) == (0, 0, w, h):
        return card, patch, mask

    px, py = card.size.width_mm / w, card.size.height_mm / h
    cx, cy = card.placement.center_mm
    center = (cx + ((x0 + x1) / 2 - w / 2) * px, cy + ((y0 + y1) / 2 - h / 2) * py)
    placement = replace(card.placement, center_mm=center)
    cut = replace(card, size=PatchSize((x1 - x0) * px, (y1 - y0) * py), placement=placement)

    return cut, patch[..., y0:y1, x0:x1].contiguous(), mask[..., y0:y1, x0:x1].contiguous()


def _plain(value: Any) -> Any:
    """Fit for TOML: None left out, tuples and paths as lists and text."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value if v is not None]
    return value if isinstance(value, str | int | float | bool) else str(value)


def _section(kind: type[_Section], table: Mapping[str, Any], name: str, path: str) -> _Section:
    """Build dataclass ``kind`` from a TOML table, checking every key."""
    hints = get_type_hints(kind)
    known = {f.name: f for f in fields(cast(Any, kind))}
    for key in table:
        if key not in known:
            raise BundleError(f"{name}: {path}{key}", "unknown key", f"known: {', '.join(known)}")

    values: dict[str, Any] = {}
    for key, spec in known.items():
        required = spec.default is spec.default_factory  # both are MISSING
        if key in table:
            values[key] = _value(hints[key], table[key], name, f"{path}{key}")
        elif required:
            raise BundleError(f"{name}: {path}{key}", "is missing", "restore the card of the run")

    return kind(**values)


def _value(hint: Any, value: Any, name: str, key: str) -> Any:
    if isinstance(hint, type) and is_dataclass(hint):
        if isinstance(value, Mapping):
            return _section(hint, value, name, f"{key}.")
        wanted, good = "a table", False
    elif hint is float:
        wanted, good = "a number", isinstance(value, int | float) and not isinstance(value, bool)
    elif hint == tuple[float, float]:
        wanted = "two numbers"
        good = (
            isinstance(value, list)
            and len(value) == 2
            and all(isinstance(v, int | float) for v in value)
        )
        value = tuple(map(float, value)) if good else value
    elif hint == dict[str, Any]:
        wanted, good = "a table", isinstance(value, dict)
    else:
        wanted, good = "text", isinstance(value, str)
    if not good:
        raise BundleError(
            f"{name}: {key} = {value!r}", f"{wanted} is needed", "restore the card of the run"
        )

    return float(value) if hint is float else value


def _check(card: PatchCard, name: str) -> None:
    if card.patch.goal not in GOALS:
        raise BundleError(
            f"{name}: patch.goal = {card.patch.goal!r}", f"one of {', '.join(GOALS)}", "correct it"
        )

    sizes = {
        "size.width_mm": card.size.width_mm,
        "size.height_mm": card.size.height_mm,
        "placement.sign_width_mm": card.placement.sign_width_mm,
    }
    for key, value in sizes.items():
        if not 0 < value < 100_000:
            raise BundleError(
                f"{name}: {key} = {value:g}", "0 < mm < 100000", "give the size in millimeters"
            )
