"""Photos with a patch anywhere in them (Brown 2017), or on the objects in them (Thys 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from physadv.core.image_io import Array
from physadv.eot.ranges import EotRanges
from physadv.eot.scenes.scene_batch import SceneBatch
from physadv.eot.scenes.sign_framing import (
    Float,
    Matrix,
    draw_between,
    draw_pose,
    for_opencv,
    to_pixels,
)
from physadv.eot.scenes.signs import SceneSize, batch_of
from physadv.eot.stage import Range
from physadv.eot.warp import apply_homography
from physadv.threat.patch_goals import Annotations

FAR_AWAY = ((1.0, 0.0, -1e5), (0.0, 1.0, -1e5), (0.0, 0.0, 1.0))
"""A place outside of every picture: for the scenes that hold fewer objects than others of their
batch."""


@dataclass(frozen=True)
class ScenePhoto:
    """One photo.

    Args:
        image: (h, w, 3) uint8.
        group: Its name.
        label: Its class; -1: none.
        boxes: (k, 4) px of the objects in it.
    """

    image: Array
    group: str
    label: int = -1
    boxes: Float | None = None


@dataclass(frozen=True)
class PatchPose:
    """How a patch lies in a photo: uniform ranges, drawn anew for every patch.

    ``share`` is the patch's width over the picture's side (anywhere) or over the diagonal of the
    object's box.
    """

    width_mm: float
    height_mm: float
    share: Range = (0.3, 0.5)
    roll_deg: Range = (-45.0, 45.0)
    tilt: float = 0.5
    """Share of the EOT's yaw and pitch by which it is turned out of the picture's plane."""
    light: Range = (0.55, 1.0)
    """Linear gain that relights it to the photo, whose own light is not known."""
    veil: Range = (0.0, 0.03)


class PatchAnywhere:
    """Photos with the patch in any place, at any scale and turn, wholly in the picture (Brown
    2017).

    Args:
        photos: The photos.
        lie: How the patch lies in them.
        inner: Central share of the picture's side that the model takes after its own crop.
    """

    def __init__(self, photos: Sequence[ScenePhoto], lie: PatchPose, *, inner: float = 1.0) -> None:
        self.photos, self.lie, self.inner = tuple(photos), lie, inner

    def sample(
        self, count: int, view: SceneSize, ranges: EotRanges, rng: np.random.Generator
    ) -> SceneBatch:
        """Draw scenes.

        Args:
            count: Number of scenes.
            view: Size of their pictures, and whether they are whole frames.
            ranges: Ranges of the pose.
            rng: Decides everything.

        Returns:
            The scenes; ``marks`` holds the photo's class and the patch's own box.
        """
        images, places, groups, labels = [], [], [], []
        for _ in range(count):
            photo = self.photos[int(rng.integers(len(self.photos)))]
            window = _square_window(photo.image, rng)
            images.append(_seen(photo.image, window, view.size))

            turned, half = _turned(
                self.lie, ranges, rng, draw_between(rng, self.lie.share) * self.inner * view.size
            )
            reach = np.minimum(np.abs(half).max(0), self.inner * view.size / 2)
            low, high = (
                reach + view.size * (1 - self.inner) / 2,
                view.size * (1 + self.inner) / 2 - reach,
            )

            places.append(_moved(turned, rng.uniform(low, np.maximum(low, high))))
            groups.append(photo.group)
            labels.append(photo.label)

        batch = _lit(images, places, groups, self.lie, rng)
        marks = Annotations(
            patch_boxes(batch.homography, self.lie, view.size), torch.tensor(labels)
        )
        return replace(batch, marks=marks if min(labels) >= 0 else replace(marks, labels=None))


class OnObjects:
    """Photos of objects that each carry the patch.

    Args:
        photos: The photos, with the boxes of their objects.
        lie: Scale and turn of the patch on an object.
        center: Place of the patch in the object's box, x and y in [0, 1].
        jitter: How far the place strays from it, as a share of the box's sides.
        most: Largest number of objects a photo that carry the patch, largest first.
    """

    def __init__(
        self,
        photos: Sequence[ScenePhoto],
        lie: PatchPose,
        *,
        center: tuple[float, float] = (0.5, 0.5),
        jitter: float = 0.05,
        most: int = 4,
    ) -> None:
        self.photos, self.lie, self.center, self.jitter, self.most = (
            tuple(photos),
            lie,
            center,
            jitter,
            most,
        )

    def sample(
        self, count: int, view: SceneSize, ranges: EotRanges, rng: np.random.Generator
    ) -> SceneBatch:
        """Draw scenes.

        Args:
            count: Number of scenes.
            view: Size of their pictures, and whether they are whole frames.
            ranges: Ranges of the pose.
            rng: Decides everything.

        Returns:
            The scenes; ``marks`` holds the box of every object that carries the patch.
        """
        images, groups, places, marks, owners = [], [], [], [], []
        for number in range(count):
            photo = self.photos[int(rng.integers(len(self.photos)))]
            image, boxes = self._shown(photo, view, rng)
            images.append(image)
            groups.append(photo.group)
            places.append([self._worn(box, ranges, rng) for box in boxes])
            marks += [np.clip(box, 0, view.size) for box in boxes]
            owners += [number] * len(boxes)

        # The first patch of each photo is its own, further ones are `others`.
        batch = _lit(images, [p[0] for p in places], groups, self.lie, rng)
        most = max(len(p) for p in places)
        rest = [[*p[1:], *[np.array(FAR_AWAY)] * (most - len(p))] for p in places]
        others = torch.from_numpy(np.array(rest, np.float64)).float().view(count, most - 1, 3, 3)

        boxes_px = torch.from_numpy(np.array(marks, np.float32)).view(-1, 4)
        return replace(
            batch,
            marks=Annotations(boxes_px, None, torch.tensor(owners)),
            others=others if most > 1 else None,
        )

    def _shown(
        self, photo: ScenePhoto, view: SceneSize, rng: np.random.Generator
    ) -> tuple[Float, list[Float]]:
        """Return a closer or the whole view of a photo, perhaps mirrored, and the boxes in it.

        No object is cut by half.
        """
        height, width = photo.image.shape[:2]
        boxes = np.zeros((0, 4)) if photo.boxes is None else photo.boxes
        whole = np.array([0.0, 0.0, width, height])
        mirrored = bool(rng.integers(2))
        chosen = whole

        for _ in range(8):
            share = rng.uniform(0.6, 1.0)
            x, y = rng.uniform(0, 1 - share, 2)
            window = np.array([x * width, y * height, (x + share) * width, (y + share) * height])
            inside = _shares_inside(boxes, window)
            if (
                1 <= (inside > 0.8).sum() <= self.most
                and not ((inside > 0) & (inside <= 0.8)).any()
            ):
                chosen = window
                break

        kept = boxes[_shares_inside(boxes, chosen) > 0.8]
        kept = kept[np.argsort(-(kept[:, 2:] - kept[:, :2]).prod(1))][: self.most]
        side = np.tile(view.size / (chosen[2:] - chosen[:2]), 2)
        seen = (kept - np.tile(chosen[:2], 2)) * side

        image = _seen(photo.image, chosen, view.size)
        if mirrored:
            image = np.ascontiguousarray(image[:, ::-1])
            seen = np.stack(
                [view.size - seen[:, 2], seen[:, 1], view.size - seen[:, 0], seen[:, 3]], 1
            )
        return image, list(seen)

    def _worn(self, box: Float, ranges: EotRanges, rng: np.random.Generator) -> Matrix:
        sides = box[2:] - box[:2]
        turned, _ = _turned(
            self.lie, ranges, rng, draw_between(rng, self.lie.share) * float(np.hypot(*sides))
        )
        shift = rng.uniform(-self.jitter, self.jitter, 2)
        return _moved(turned, box[:2] + (np.array(self.center) + shift) * sides)


def patch_boxes(homography: Tensor, lie: PatchPose, size: int) -> Tensor:
    """Return axis-aligned boxes (b, 4) in px of the patch itself, cut at the picture's edge.

    Args:
        homography: (b, 3, 3) mm of the patch's plane to px.
        lie: Its size in mm.
        size: Side of the square picture in px.
    """
    x, y = lie.width_mm / 2, lie.height_mm / 2
    corners = torch.tensor([[-x, -y], [x, -y], [x, y], [-x, y]]).expand(len(homography), 4, 2)
    seen = apply_homography(homography, corners)
    return torch.cat([seen.amin(1), seen.amax(1)], -1).clamp(0, size)


def shrink_photo(image: Array, shorter_px: int) -> Array:
    """Return a photo ``image`` reduced so that its shorter side has at most ``shorter_px``."""
    factor = shorter_px / min(image.shape[:2])
    if factor >= 1:
        return image
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _turned(
    lie: PatchPose, ranges: EotRanges, rng: np.random.Generator, width_px: float
) -> tuple[Matrix, Float]:
    """Return plane mm -> px about the origin, and the patch's four corners in px.

    Turned and tilted; its area is that of an upright patch ``width_px`` wide.
    """
    tilted = replace(ranges, roll_deg=lie.roll_deg)
    pose = draw_pose(rng, tilted, lie.tilt) @ np.diag([1 / lie.width_mm, 1 / lie.width_mm, 1.0])
    x, y = lie.width_mm / 2, lie.height_mm / 2
    corners = np.array([[-x, -y], [x, -y], [x, y], [-x, y]])
    seen = to_pixels(pose, corners)
    area = cv2.contourArea(seen.astype(np.float32))
    scale = width_px * np.sqrt(lie.height_mm / lie.width_mm) / max(np.sqrt(area), 1e-9)
    middle = (seen.min(0) + seen.max(0)) / 2
    fit = np.array([[scale, 0, -scale * middle[0]], [0, scale, -scale * middle[1]], [0, 0, 1.0]])
    return fit @ pose, (seen - middle) * scale


def _moved(matrix: Matrix, to: Float) -> Matrix:
    return np.asarray(np.array([[1, 0, to[0]], [0, 1, to[1]], [0, 0, 1.0]]) @ matrix, np.float64)


def _square_window(image: Array, rng: np.random.Generator) -> Float:
    """Draw a square of most of the photo's shorter side, near its middle.

    Classifiers are shown photos so.
    """
    height, width = image.shape[:2]
    side = min(height, width) * rng.uniform(0.9, 1.0)
    center = (
        np.array([width, height]) / 2
        + rng.uniform(-0.5, 0.5, 2) * (np.array([width, height]) - side) * 0.3
    )
    return np.concatenate([center - side / 2, center + side / 2])


def _seen(image: Array, window: Float, size: int) -> Float:
    """Return the window x0, y0, x1, y1 of a photo as (size, size, 3) float in [0, 1]."""
    scale = size / (window[2:] - window[:2])
    matrix = np.array(
        [[scale[0], 0, -scale[0] * window[0]], [0, scale[1], -scale[1] * window[1]], [0, 0, 1.0]]
    )

    smooth = image
    if scale.max() < 1:  # area first, so that nothing aliases
        smooth = cv2.GaussianBlur(image, (0, 0), 0.35 / float(scale.max()))

    picture = cv2.warpPerspective(
        smooth,
        for_opencv(matrix),
        (size, size),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(picture, np.float32) / 255


def _shares_inside(boxes: Float, window: Float) -> Float:
    """Return (k,) the share of each box that lies in the window."""
    shared = (
        (np.minimum(boxes[:, 2:], window[2:]) - np.maximum(boxes[:, :2], window[:2]))
        .clip(0)
        .prod(1)
    )
    return np.asarray(shared / (boxes[:, 2:] - boxes[:, :2]).prod(1).clip(1e-9), np.float64)


def _lit(
    images: list[Float],
    places: list[Matrix],
    groups: list[str],
    lie: PatchPose,
    rng: np.random.Generator,
) -> SceneBatch:
    count = len(images)
    gain = torch.from_numpy(
        rng.uniform(*lie.light, (count, 1)) * rng.uniform(0.93, 1.07, (count, 3))
    ).float()
    lift = torch.from_numpy(rng.uniform(*lie.veil, (count, 1)).repeat(3, 1)).float()
    return batch_of(images, places, gain, lift, [1.0] * count, groups)
