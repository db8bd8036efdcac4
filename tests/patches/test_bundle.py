"""A bundle reads back as it was written, and says clearly what is wrong with a bad one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from physadv.core.errors import BundleError, GeometryError
from physadv.patches.bundle import (
    CardPlacement,
    ModelInfo,
    PatchCard,
    PatchInfo,
    PatchSize,
    bundle_fingerprint,
    read_bundle,
    write_bundle,
)


def card(**size: float) -> PatchCard:
    return PatchCard(
        patch=PatchInfo(
            "demo",
            "targeted",
            "stop",
            "priority road",
            created="2026-01-01T00:00:00Z",
            physadv="0.1.0",
        ),
        size=PatchSize(size.get("width", 60.0), size.get("height", 40.0)),
        placement=CardPlacement("stop", 762.0, (0.0, 120.5), 0.004),
        victim=ModelInfo("signs", "classify", "ab" * 32),
        eot={"yaw_deg": [-35, 35]},
        optimisation={"steps": 10, "lr": 0.05},
        heldout={"success": {"rate": 0.5, "low": 0.2, "high": 0.8, "n": 10}},
        versions={"torch": "2"},
    )


def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    patch = torch.rand(1, 3, 20, 30, generator=torch.Generator().manual_seed(1))
    return patch, torch.ones(1, 1, 20, 30)


def test_round_trip(tmp_path: Path) -> None:
    """What is read equals what was written, to 8 bits; the returned bundle is that of the disk."""
    patch, mask = pictures()
    written = write_bundle(
        tmp_path / "b", card=card(), patch=patch, mask=mask, preview=patch, rows=[{"a": 1}]
    )
    read = read_bundle(tmp_path / "b")
    assert read.card == written.card
    assert torch.equal(read.patch, written.patch)
    assert (read.patch - patch).abs().max() <= 0.5 / 255 + 1e-6
    assert read.card.patch.sha256 == bundle_fingerprint(read)
    assert read.card.patch.run_id == bundle_fingerprint(read)[:12]
    names = {p.name for p in (tmp_path / "b").iterdir()}
    assert names == {"patch.png", "mask.png", "card.toml", "rows.jsonl", "preview.png"}
    assert PatchCard.from_toml(card().to_toml()) == card()


def test_inputs_are_left_alone(tmp_path: Path) -> None:
    """Writing neither changes nor detaches the caller's tensors."""
    patch, mask = pictures()
    patch.requires_grad_(True)
    before = patch.detach().clone()
    write_bundle(tmp_path, card=card(), patch=patch, mask=mask)
    assert patch.requires_grad
    assert torch.equal(patch.detach(), before)


def test_margins_are_cut(tmp_path: Path) -> None:
    """Empty margins go, and size and center on the card follow by the millimeter."""
    patch, mask = pictures()
    mask[..., :10] = 0
    mask[..., 15:, :] = 0
    written = write_bundle(tmp_path, card=card(), patch=patch, mask=mask)
    assert tuple(written.mask.shape) == (1, 1, 15, 20)
    assert written.card.size == PatchSize(40.0, 30.0)
    assert written.card.placement.center_mm == pytest.approx((10.0, 115.5))
    assert read_bundle(tmp_path).card == written.card


def test_mask_without_pixels(tmp_path: Path) -> None:
    """An empty mask is a GeometryError."""
    patch, mask = pictures()
    with pytest.raises(GeometryError, match="no pixels"):
        write_bundle(tmp_path, card=card(), patch=patch, mask=mask * 0)


@pytest.mark.parametrize("part", ["patch.png", "mask.png", "card.toml"])
def test_missing_file(tmp_path: Path, part: str) -> None:
    """A missing file is named."""
    patch, mask = pictures()
    write_bundle(tmp_path, card=card(), patch=patch, mask=mask)
    (tmp_path / part).unlink()
    with pytest.raises(BundleError, match=part):
        read_bundle(tmp_path)


def test_sizes_differ(tmp_path: Path) -> None:
    """Patch and mask of different sizes are named with both sizes."""
    patch, mask = pictures()
    write_bundle(tmp_path / "a", card=card(), patch=patch, mask=mask)
    write_bundle(tmp_path / "b", card=card(), patch=patch[..., :10], mask=mask[..., :10])
    (tmp_path / "a" / "mask.png").write_bytes((tmp_path / "b" / "mask.png").read_bytes())
    with pytest.raises(BundleError, match=r"30x20 px.*10x20 px"):
        read_bundle(tmp_path / "a")


def test_altered(tmp_path: Path) -> None:
    """A picture changed after writing is noticed; without the sha256 line it is accepted."""
    patch, mask = pictures()
    write_bundle(tmp_path / "a", card=card(), patch=patch, mask=mask)
    write_bundle(tmp_path / "b", card=card(), patch=1 - patch, mask=mask)
    (tmp_path / "a" / "patch.png").write_bytes((tmp_path / "b" / "patch.png").read_bytes())
    with pytest.raises(BundleError, match="changed"):
        read_bundle(tmp_path / "a")
    text = (tmp_path / "a" / "card.toml").read_text()
    kept = [
        line for line in text.splitlines() if not line.startswith("sha256") or "ab" * 32 in line
    ]
    (tmp_path / "a" / "card.toml").write_text("\n".join(kept))
    assert torch.equal(read_bundle(tmp_path / "a").patch, read_bundle(tmp_path / "b").patch)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("width_mm = 60.0", 'width_mm = "wide"', "size.width_mm"),
        ("width_mm = 60.0", "width_mm = -1", "size.width_mm"),
        ("width_mm = 60.0", "", "size.width_mm"),
        ("width_mm = 60.0", "width_mm = 60.0\nwidht = 3", "size.widht"),
        ('goal = "targeted"', 'goal = "chaos"', "patch.goal"),
        ("[victim]", "[oops]", "oops"),
        ("    120.5,", "", "placement.center_mm"),
        ("[size]", "[size", "card.toml"),
    ],
)
def test_bad_card_key_is_named(tmp_path: Path, old: str, new: str, key: str) -> None:
    """The error names the offending key of the card."""
    patch, mask = pictures()
    write_bundle(tmp_path, card=card(), patch=patch, mask=mask)
    text = (tmp_path / "card.toml").read_text()
    assert old in text
    (tmp_path / "card.toml").write_text(text.replace(old, new, 1))
    with pytest.raises(BundleError, match=key):
        read_bundle(tmp_path)


def test_rewriting_replaces(tmp_path: Path) -> None:
    """A second write replaces the first; fingerprints follow pixels and size, not the date."""
    patch, mask = pictures()
    first = write_bundle(tmp_path, card=card(), patch=patch, mask=mask)
    dated = replace(card(), patch=replace(card().patch, created="later"))
    second = write_bundle(tmp_path, card=dated, patch=patch, mask=mask)
    third = write_bundle(tmp_path, card=card(width=61.0), patch=patch, mask=mask)
    assert bundle_fingerprint(first) == bundle_fingerprint(second) != bundle_fingerprint(third)
    assert read_bundle(tmp_path).card == third.card
