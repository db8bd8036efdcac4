"""Patch in the scene: its pose, its placement, and its light there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from physadv.eot.crop_window import CropWindow
from physadv.eot.placement import Placement, place_patch, reached_px
from physadv.eot.sampling import DrawStream
from physadv.eot.scenes.scene_batch import SceneBatch
from physadv.eot.stage import ABOVE_ZERO, FROM_ZERO, SHARE, Range, Stage, StageRanges, span
from physadv.eot.transforms.bend import BendDraw
from physadv.eot.transforms.lens_distortion import BrownLens, undistorted_grid


@dataclass(frozen=True)
class PoseRanges(StageRanges):
    """Ranges of the pose; the scenes draw from them, so that signs in photos can be posed too."""

    size_px: Range = span(20, 110, off=(4000.0, 4000.0), within=ABOVE_ZERO)
    """Width of the sign in the camera's own pixels before the model's resize: distance, as seen by
    a classifier."""
    frame_share: Range = span(0.12, 0.55, off=None, within=ABOVE_ZERO)
    """Width of the sign as a share of the frame's height: distance, as seen by a detector."""
    frame_aspect: Range = span(4 / 3, 16 / 9, off=(1.0, 1.0), within=ABOVE_ZERO)
    """Width over height of the frame that a detector is given; it fits each into its square input
    by stretching or padding, as it does with a camera's."""
    frame_place: Range = span(0.1, 0.9, off=(0.0, 1.0), within=SHARE)
    """Where the sign stands in a detector's frame, per axis: it touches the left or upper edge at
    0, the right or lower one at 1."""
    post_probability: Range = span(0.8, 0.8, within=SHARE)
    """Share of the drawn signs in a detector's frames that stand on a post."""
    distance_m: Range = span(0, 0, within=FROM_ZERO)
    """Camera to sign in m, log-uniform. With field_of_view_deg and sensor_px it replaces size_px
    and frame_share."""
    field_of_view_deg: Range = span(0, 0, within=(0.0, 179.0))
    """Horizontal angle of view of the camera: its focal length."""
    sensor_px: Range = span(0, 0, within=FROM_ZERO)
    """Width of the camera's picture in its own pixels; its height is 9/16 of that."""
    visible_share: Range = span(0, 0, within=FROM_ZERO)
    """Widths of the sign, as shares of the frame's height, at which a detector reads it: with
    distance_m, each camera is only drawn at distances where it shows the sign in such a size."""
    visible_px: Range = span(0, 0, within=FROM_ZERO)
    """The same in the camera's own pixels, for a classifier."""
    margin: Range = span(-0.02, 0.22, off=None)
    """Context around the sign's square in a classifier's crop, as a share of its width, each side.
    """
    yaw_deg: Range = span(-40, 40, within=(-89.0, 89.0))
    pitch_deg: Range = span(-15, 15, within=(-89.0, 89.0))
    roll_deg: Range = span(-12, 12)


@dataclass(frozen=True)
class PrintedPatch:
    """A printed patch and the geometry it is seen through."""

    light: Tensor  # (1 or b, 3, ph, pw) linear
    mask: Tensor  # (1, 1, ph, pw)
    placement: Placement
    bend: BendDraw | None = None
    lens: BrownLens | None = None


@dataclass(frozen=True)
class ScenePose:
    """Where the patch lies in b scenes, and how they light it."""

    homographies: tuple[Tensor, ...]  # (b, 3, 3) each: the patch lies there once
    gain: Tensor  # (b, 3)
    lift: Tensor  # (b, 3)
    picture: tuple[int, int]  # (height, width)
    patch: PrintedPatch | None = None  # None: the clean scene
    window: CropWindow | None = None
    margin: int = 0


class Place(Stage[PoseRanges, ScenePose]):
    """Pinhole pose, area-averaging warp, relighting; alpha is applied once, in linear light."""

    encoding = "linear"
    windowed = True
    backends = ("own", "kornia")

    def sample(self, batch: SceneBatch, ranges: PoseRanges, stream: DrawStream) -> ScenePose:
        """Return the poses of ``batch``, which were drawn within ``ranges`` with its scenes.

        Nothing is drawn from ``stream``.
        """
        others = () if batch.others is None else batch.others.unbind(1)
        height, width = batch.images.shape[-2:]
        return ScenePose((batch.homography, *others), batch.gain, batch.lift, (height, width))

    def apply(self, images: Tensor, params: ScenePose) -> Tensor:
        """Return linear scenes ``images`` with the printed patch of ``params`` on them."""
        patch, window = params.patch, params.window or CropWindow.whole(images)
        if patch is None:
            return images

        pinhole = None
        if patch.lens is not None:
            pinhole = partial(undistorted_grid, lens=patch.lens, picture=params.picture)
        for homography in params.homographies:
            # Only the part that this patch can reach is warped.
            reached = reached_px(
                patch.placement, homography, patch.bend, patch.lens, params.picture
            )
            near = window.within(reached, params.margin)
            placed = place_patch(
                near.take(images),
                patch.light,
                patch.mask,
                homography,
                patch.placement,
                params.gain,
                params.lift,
                at=near.centers(window, params.margin, images),
                pinhole=pinhole,
                bend=patch.bend,
                backend=self.backend,
            )
            images = near.paste(images, placed)
        return images

    def crop(self, params: ScenePose, window: CropWindow, margin: int) -> ScenePose:
        """Return ``params`` for the ``window`` with ``margin`` px round it."""
        return replace(params, window=window, margin=margin)


def reached_box(pose: ScenePose) -> Tensor:
    """Return (b, 4) boxes x0, y0, x1, y1 in px that hold every patch of ``pose``."""
    patch = pose.patch
    if patch is None:
        return torch.zeros(len(pose.gain), 4)
    boxes = torch.stack(
        [
            reached_px(patch.placement, h, patch.bend, patch.lens, pose.picture)
            for h in pose.homographies
        ]
    )
    return torch.cat([boxes[..., :2].amin(0), boxes[..., 2:].amax(0)], -1)
