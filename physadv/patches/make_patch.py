"""Patches from Python: optimize one into a bundle, and show one in images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from kornia.geometry.transform import get_perspective_transform
from torch import Tensor, nn

from physadv.core.errors import GeometryError, ImageError
from physadv.core.image_io import read_image
from physadv.core.random_streams import generator
from physadv.core.tensors import as_unit_images
from physadv.core.wording import count_noun
from physadv.eot.pipeline import Pipeline
from physadv.eot.placement import Placement
from physadv.eot.presets import eot_preset
from physadv.eot.ranges import NOTHING, EotRanges
from physadv.eot.scenes.scene_batch import SceneBatch
from physadv.models.load import as_model
from physadv.patches.bundle import PatchBundle, read_bundle
from physadv.patches.config import PatchConfig
from physadv.patches.optimize import PatchProgress
from physadv.patches.patch_run import PatchRun

PatchLike = PatchBundle | Tensor | npt.NDArray[Any] | str | Path
"""A bundle, its folder or name, or the pixels of a patch (3, h, w) in [0, 1]."""


def make_patch(
    config: PatchConfig | None = None,
    *,
    model: nn.Module | str | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    force: bool = False,
    on_progress: Callable[[PatchProgress], None] | None = None,
    **settings: Any,
) -> PatchBundle:
    """Optimize a universal patch or sticker under expectation over transformation into a bundle.

    An interrupted run resumes with the same ``out``. The success on the card is of simulated,
    held-out draws.

    Args:
        config: What to optimize; None for the defaults of :class:`PatchConfig`.
        model: Model under attack, a module with logits (b, classes) or detections, or its name;
            None for that of ``config``. Name the classes of a module with
            :func:`physadv.as_model`.
        out: Folder of the run and its bundle; None makes ``runs/<utc>-patch``.
        overwrite: Whether a finished bundle of another configuration may be replaced.
        force: Whether to go on where the clean or the blank control is not valid.
        on_progress: Called after every step.
        **settings: Fields of :class:`PatchConfig` that overrule ``config``, such as ``goal``,
            ``steps`` or ``size_mm``.

    Returns:
        The bundle: patch, mask, card with the measured success, and its folder.

    Raises:
        PhysadvError: Something named cannot be used, or ``out`` holds another result.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     bundle = make_patch(
        ...         model="signs", steps=2, draws=2, test_draws=4, resolution=8, out=folder
        ...     )
        >>> bundle.patch.shape[:2], bundle.card.heldout["success"]["n"] <= 4
        (torch.Size([1, 3]), True)
    """
    chosen = replace(config or PatchConfig(), **settings)
    loaded = None
    if isinstance(model, nn.Module):
        loaded = as_model(model)
        chosen = replace(chosen, model=loaded.card.name)
    elif model is not None:
        chosen = replace(chosen, model=model)

    folder = Path("runs") / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-patch"
    target = folder if out is None else Path(out)
    run = PatchRun(chosen, target, overwrite=overwrite, force=force, model=loaded)
    run.check_controls()
    for progress in run.steps():
        if on_progress is not None:
            on_progress(progress)
    bundle, _ = run.finish()
    return bundle


def render_patch(
    patch: PatchLike,
    images: Tensor | npt.NDArray[Any] | str | Path,
    corners: Tensor | npt.NDArray[Any] | list[Any],
    *,
    mask: Tensor | None = None,
    eot: Pipeline | EotRanges | str | None = None,
    seed: int = 0,
) -> Float[Tensor, "b 3 h w"]:
    """Show a patch in images, flat between four corners, and photograph it if asked to.

    Differentiable in the pixels of the patch, so that it serves in an optimization of one's own.

    Args:
        patch: Bundle, its folder or name, or pixels (3, ph, pw) or (1, 3, ph, pw) in [0, 1].
        images: Images (b, 3, h, w) or (3, h, w) in [0, 1], an array with channels last, or a file.
        corners: Where the patch's corners lie in px, (4, 2) or (b, 4, 2): top left, top right,
            bottom right, bottom left.
        mask: Shape of the patch (1, 1, ph, pw) in [0, 1]; None for the bundle's, else all of it.
        eot: Effects of print, light, lens and camera: a pipeline, ranges, or the name of a preset;
            None for none. The place is that of ``corners``.
        seed: Seed of the draw.

    Returns:
        The images with the patch.

    Raises:
        ImageError: The images or the patch are no pictures in [0, 1].
        GeometryError: The corners are no four points, or have no area.
        BundleError: ``patch`` names no bundle.
        OptionError: ``eot`` names no preset.

    Example:
        >>> white = torch.ones(3, 8, 8)
        >>> corners = [[8, 8], [24, 8], [24, 24], [8, 24]]
        >>> shown = render_patch(white, torch.zeros(1, 3, 32, 32), corners)
        >>> round(float(shown.sum() / 3))
        256
    """
    pixels, shape = _pixels_of(patch, mask)
    scenes = _images_of(images).to(pixels)
    quads = torch.as_tensor(np.asarray(corners, dtype=np.float32)).to(pixels)
    if quads.shape == (4, 2):
        quads = quads.expand(len(scenes), 4, 2)
    if quads.shape != (len(scenes), 4, 2) or not bool((_areas(quads) > 1e-6).all()):
        raise GeometryError(
            f"Corners of shape {tuple(np.shape(corners))} for {count_noun(len(scenes), 'image')}",
            "Four points that do not cross are needed, for each image or for all",
            "Give (4, 2) or (b, 4, 2) in px, in order round the patch",
        )

    # The plane of the patch is measured in its own pixels.
    height, width = pixels.shape[-2:]
    placement = Placement(float(width), float(height))
    plane = torch.tensor(
        [
            [-width / 2, -height / 2],
            [width / 2, -height / 2],
            [width / 2, height / 2],
            [-width / 2, height / 2],
        ]
    ).to(pixels)
    count = len(scenes)
    batch = SceneBatch(
        scenes,
        get_perspective_transform(plane.expand(count, 4, 2), quads),
        torch.ones(count, 3).to(pixels),
        torch.zeros(count, 3).to(pixels),
        torch.ones(count).to(pixels),
        tuple(str(i) for i in range(count)),
    )
    pipeline = _pipeline_of(eot)
    draw = pipeline.sample(batch, generator(seed, "render patch")).to(pixels.device)
    return pipeline.apply(pixels, shape, placement, batch, draw)


def _pipeline_of(eot: Pipeline | EotRanges | str | None) -> Pipeline:
    if isinstance(eot, Pipeline):
        return eot
    if eot is None:
        return Pipeline.from_ranges(NOTHING)
    return Pipeline.from_ranges(eot_preset(eot) if isinstance(eot, str) else eot)


def _pixels_of(patch: PatchLike, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Pixels (1, 3, h, w) and mask (1, 1, h, w)."""
    if isinstance(patch, str | Path):
        patch = read_bundle(patch)
    if isinstance(patch, PatchBundle):
        pixels, shape = patch.patch, patch.mask if mask is None else mask
    else:
        pixels = patch if isinstance(patch, Tensor) else torch.as_tensor(patch).float()
        pixels = pixels[None] if pixels.ndim == 3 else pixels
        shape = torch.ones(1, 1, *pixels.shape[-2:]) if mask is None else mask
    if pixels.ndim != 4 or pixels.shape[:2] != (1, 3) or not pixels.is_floating_point():
        raise ImageError(
            f"Patch of shape {tuple(pixels.shape)} and type {pixels.dtype}",
            "(3, h, w) floats in [0, 1] are needed",
            "Permute and scale it",
        )

    return pixels, shape.to(pixels)


def _images_of(images: Any) -> Tensor:
    """Images (b, 3, h, w) in [0, 1]."""
    if isinstance(images, str | Path):
        return read_image(images)[None]
    lone = images.ndim == 3
    return as_unit_images(images[None] if lone else images)


def _areas(quads: Tensor) -> Tensor:
    """Areas (b,) of quadrilaterals by the shoelace formula."""
    x, y = quads.unbind(-1)
    return ((x * y.roll(-1, 1) - y * x.roll(-1, 1)).sum(1) / 2).abs()
