"""Photos with a patch anywhere in them (Brown 2017), or on the objects in them (Thys 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from physadv.core.errors import DataError, ImageError
from physadv.core.image_io import Array, lay_on_white, list_images, read_reduced
from physadv.core.picture_files import picture_count
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
"""Homography to a place outside of every picture, for scenes with fewer objects than others of
their batch."""

_WHOLE_FROM = 0.8
"""Share of an object inside the picture from which it counts as whole."""


@dataclass(frozen=True)
class ScenePhoto:
    """One photo and what is known of its content."""

    image: Array
    """(h, w, 3) uint8."""
    group: str
    """Name of the photo, relative to its folder."""
    label: int = -1
    """Index of its class; -1: unknown."""
    boxes: Float | None = None
    """(k, 4) boxes x0, y0, x1, y1 in px of the objects in it."""
    file_size: tuple[int, int] | None = None
    """Width and height of its file in px, which ``image`` may have been reduced from."""


@dataclass(frozen=True)
class PatchPose:
    """Size, turn and light of a patch in a photo, as uniform ranges drawn anew for every patch."""

    width_mm: float
    """Width of the patch."""
    height_mm: float
    """Height of the patch."""
    share: Range = (0.3, 0.5)
    """Width of the patch over the picture's side, or over the diagonal of the object's box."""
    roll_deg: Range = (-45.0, 45.0)
    """Turn in the picture's plane."""
    tilt: float = 0.5
    """Factor of the EOT's yaw and pitch by which the patch is turned out of the picture's plane."""
    light: Range = (0.55, 1.0)
    """Gain in linear light that relights the patch to the photo, whose own light is unknown."""
    veil: Range = (0.0, 0.03)
    """Linear light that is added to the patch."""


class PatchAnywhere:
    """Photos with the patch at any place, size and turn, wholly inside the picture (Brown 2017).

    Args:
        photos: Photos to choose from.
        pose: Size, turn and light of the patch.
        inner: Central share of the picture's side that the model keeps after its own crop.

    Example:
        >>> from physadv.core.random_streams import numpy_generator
        >>> gray = ScenePhoto(np.full((90, 120, 3), 128, np.uint8), "gray.png", label=3)
        >>> source = PatchAnywhere([gray], PatchPose(100, 100))
        >>> view = SceneSize(64, whole_frame=False)
        >>> scenes = source.sample(2, view, EotRanges(), numpy_generator(0, "scenes"))
        >>> tuple(scenes.images.shape), scenes.marks.labels.tolist()
        ((2, 3, 64, 64), [3, 3])
    """

    def __init__(
        self, photos: Sequence[ScenePhoto], pose: PatchPose, *, inner: float = 1.0
    ) -> None:
        self.photos, self.pose, self.inner = tuple(photos), pose, inner

    def sample(
        self, count: int, view: SceneSize, ranges: EotRanges, rng: np.random.Generator
    ) -> SceneBatch:
        """Draw scenes.

        Args:
            count: Number of scenes.
            view: Size of the pictures.
            ranges: Ranges of yaw and pitch.
            rng: Random stream; nothing else decides.

        Returns:
            The scenes; ``marks`` has the class of each photo and the box of the patch itself.
        """
        inner_px = self.inner * view.size
        images, matrices, groups, labels = [], [], [], []
        for _ in range(count):
            photo = self.photos[int(rng.integers(len(self.photos)))]
            window = _square_window(photo.image, rng)
            images.append(_cut_window(photo.image, window, view.size))

            width_px = draw_between(rng, self.pose.share) * inner_px
            matrix, corners = _draw_patch_plane(self.pose, ranges, rng, width_px)
            reach = np.minimum(np.abs(corners).max(0), inner_px / 2)
            low = reach + view.size * (1 - self.inner) / 2
            high = view.size * (1 + self.inner) / 2 - reach
            matrices.append(_shift(matrix, rng.uniform(low, np.maximum(low, high))))
            groups.append(photo.group)
            labels.append(photo.label)

        batch = _relit_batch(images, matrices, groups, self.pose, rng)
        boxes = patch_boxes(batch.homography, self.pose, view.size)
        all_labeled = min(labels) >= 0
        return replace(
            batch, marks=Annotations(boxes, torch.tensor(labels) if all_labeled else None)
        )


class OnObjects:
    """Photos in which each object carries the patch, as persons carry it (Thys 2019).

    Args:
        photos: Photos to choose from, each with the boxes of its objects.
        pose: Size, turn and light of the patch.
        center: Place of the patch in the box of its object, (0, 0) the upper left, (1, 1) the lower
            right corner.
        jitter: Largest distance from that place along each axis, as a share of the box's side.
        most: Largest number of objects per photo that carry the patch; the largest ones do.
    """

    def __init__(
        self,
        photos: Sequence[ScenePhoto],
        pose: PatchPose,
        *,
        center: tuple[float, float] = (0.5, 0.5),
        jitter: float = 0.05,
        most: int = 4,
    ) -> None:
        self.photos, self.pose = tuple(photos), pose
        self.center, self.jitter, self.most = center, jitter, most

    def sample(
        self, count: int, view: SceneSize, ranges: EotRanges, rng: np.random.Generator
    ) -> SceneBatch:
        """Draw scenes.

        Args:
            count: Number of scenes.
            view: Size of the pictures.
            ranges: Ranges of yaw and pitch.
            rng: Random stream; nothing else decides.

        Returns:
            The scenes; ``marks`` has the box of every object that carries the patch.
        """
        images, groups, matrices, object_boxes, owners = [], [], [], [], []
        for number in range(count):
            photo = self.photos[int(rng.integers(len(self.photos)))]
            image, boxes = self._draw_view(photo, view, rng)
            images.append(image)
            groups.append(photo.group)
            matrices.append([self._draw_place(box, ranges, rng) for box in boxes])
            object_boxes += [np.clip(box, 0, view.size) for box in boxes]
            owners += [number] * len(boxes)

        # The first patch of each scene is its own; the further ones are `others`, of equal number.
        first = [scene_matrices[0] for scene_matrices in matrices]
        batch = _relit_batch(images, first, groups, self.pose, rng)
        most = max(len(scene_matrices) for scene_matrices in matrices)
        further = [
            [*scene_matrices[1:], *[np.array(FAR_AWAY)] * (most - len(scene_matrices))]
            for scene_matrices in matrices
        ]
        others = torch.from_numpy(np.array(further, np.float64)).float()

        boxes_px = torch.from_numpy(np.array(object_boxes, np.float32)).view(-1, 4)
        return replace(
            batch,
            marks=Annotations(boxes_px, None, torch.tensor(owners)),
            others=others.view(count, most - 1, 3, 3) if most > 1 else None,
        )

    def _draw_view(
        self, photo: ScenePhoto, view: SceneSize, rng: np.random.Generator
    ) -> tuple[Float, list[Float]]:
        """Draw a part or the whole of a photo, perhaps mirrored; return it and the boxes in it.

        A part cuts no object; the whole photo is taken where eight draws find no such part.
        """
        height, width = photo.image.shape[:2]
        boxes = np.zeros((0, 4)) if photo.boxes is None else photo.boxes
        mirrored = bool(rng.integers(2))
        window = np.array([0.0, 0.0, width, height])
        for _ in range(8):
            share = rng.uniform(0.6, 1.0)
            x, y = rng.uniform(0, 1 - share, 2)
            closer = np.array([x * width, y * height, (x + share) * width, (y + share) * height])
            inside = _shares_inside(boxes, closer)
            cut = (inside > 0) & (inside <= _WHOLE_FROM)
            if 1 <= (inside > _WHOLE_FROM).sum() <= self.most and not cut.any():
                window = closer
                break

        whole = boxes[_shares_inside(boxes, window) > _WHOLE_FROM]
        largest = whole[np.argsort(-(whole[:, 2:] - whole[:, :2]).prod(1))][: self.most]
        scale = np.tile(view.size / (window[2:] - window[:2]), 2)
        boxes_px = (largest - np.tile(window[:2], 2)) * scale

        image = _cut_window(photo.image, window, view.size)
        if mirrored:
            image = np.ascontiguousarray(image[:, ::-1])
            x0, y0, x1, y1 = boxes_px.T
            boxes_px = np.stack([view.size - x1, y0, view.size - x0, y1], 1)
        return image, list(boxes_px)

    def _draw_place(self, box: Float, ranges: EotRanges, rng: np.random.Generator) -> Matrix:
        """Draw the homography of a patch on the object in ``box``."""
        sides = box[2:] - box[:2]
        width_px = draw_between(rng, self.pose.share) * float(np.hypot(*sides))
        matrix, _ = _draw_patch_plane(self.pose, ranges, rng, width_px)
        shift = rng.uniform(-self.jitter, self.jitter, 2)
        return _shift(matrix, box[:2] + (np.array(self.center) + shift) * sides)


def patch_boxes(homography: Tensor, pose: PatchPose, size: int) -> Tensor:
    """Return the axis-aligned boxes (b, 4) of patches in px, cut at the picture's edge.

    Args:
        homography: (b, 3, 3) maps from mm of the patch's plane to px.
        pose: Size of the patch.
        size: Side of the square picture in px.

    Example:
        >>> scale = torch.diag(torch.tensor([0.1, 0.1, 1.0]))[None]
        >>> patch_boxes(scale, PatchPose(100, 60), 64).tolist()
        [[0.0, 0.0, 5.0, 3.0]]
    """
    x, y = pose.width_mm / 2, pose.height_mm / 2
    corners = torch.tensor([[-x, -y], [x, -y], [x, y], [-x, y]]).expand(len(homography), 4, 2)
    corners_px = apply_homography(homography, corners)
    return torch.cat([corners_px.amin(1), corners_px.amax(1)], -1).clamp(0, size)


def read_photos(folder: Path, shorter_px: int) -> tuple[list[ScenePhoto], list[str]]:
    """Read the photos of a folder, each reduced as it is read.

    Args:
        folder: Folder of photos, or one photo.
        shorter_px: Greatest length of a photo's shorter side.

    Returns:
        The photos, and a note on every file that cannot be read.

    Raises:
        ImageError: There is no such folder, or no image in it.
        DataError: None of its images can be read.
    """
    photos, notes = [], []
    root = folder if folder.is_dir() else folder.parent
    for file in list_images(folder):
        try:
            rgba, size = read_reduced(file)
            image = lay_on_white(rgba)
        except ImageError as error:
            notes.append(f"skipped: {error}")
            continue
        reduced = np.ascontiguousarray(shrink_photo(image, shorter_px))
        name = file.relative_to(root).as_posix()
        photos.append(ScenePhoto(reduced, name, file_size=size))
        if (pictures := picture_count(file)) > 1:
            notes.append(f"{name}: the first of its {pictures} pictures is read")

    if not photos:
        raise DataError(
            f'"{folder}" holds no photo that can be read',
            notes[0].partition(": ")[2] if notes else "At least one is needed",
            "Name a folder of photos with --photos",
        )
    return photos, notes


def shrink_photo(image: Array, shorter_px: int) -> Array:
    """Return ``image`` (h, w, 3) reduced so that its shorter side has at most ``shorter_px`` px.

    Example:
        >>> shrink_photo(np.zeros((90, 120, 3), np.uint8), 30).shape
        (30, 40, 3)
    """
    factor = shorter_px / min(image.shape[:2])
    if factor >= 1:
        return image
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _draw_patch_plane(
    pose: PatchPose, ranges: EotRanges, rng: np.random.Generator, width_px: float
) -> tuple[Matrix, Float]:
    """Draw the turn and tilt of a patch about the origin.

    Returns the homography from mm to px and the (4, 2) corners in px. The area is that of an
    upright patch ``width_px`` wide, whatever the tilt.
    """
    turned = replace(ranges, roll_deg=pose.roll_deg)
    to_unit = np.diag([1 / pose.width_mm, 1 / pose.width_mm, 1.0])
    matrix = draw_pose(rng, turned, pose.tilt) @ to_unit
    x, y = pose.width_mm / 2, pose.height_mm / 2
    corners = to_pixels(matrix, np.array([[-x, -y], [x, -y], [x, y], [-x, y]]))

    area = cv2.contourArea(corners.astype(np.float32))
    scale = width_px * np.sqrt(pose.height_mm / pose.width_mm) / max(np.sqrt(area), 1e-9)
    middle = (corners.min(0) + corners.max(0)) / 2
    fit = np.array([[scale, 0, -scale * middle[0]], [0, scale, -scale * middle[1]], [0, 0, 1.0]])
    return fit @ matrix, (corners - middle) * scale


def _shift(matrix: Matrix, to: Float) -> Matrix:
    """Move the origin of a homography's picture to the point ``to``."""
    return np.asarray(np.array([[1, 0, to[0]], [0, 1, to[1]], [0, 0, 1.0]]) @ matrix, np.float64)


def _square_window(image: Array, rng: np.random.Generator) -> Float:
    """Draw a square x0, y0, x1, y1 of most of the shorter side, near the middle.

    Classifiers are given photos so.
    """
    height, width = image.shape[:2]
    size = np.array([width, height])
    side = min(height, width) * rng.uniform(0.9, 1.0)
    center = size / 2 + rng.uniform(-0.5, 0.5, 2) * (size - side) * 0.3
    return np.concatenate([center - side / 2, center + side / 2])


def _cut_window(image: Array, window: Float, size: int) -> Float:
    """Return the part x0, y0, x1, y1 of a photo as a (size, size, 3) picture in [0, 1]."""
    scale = size / (window[2:] - window[:2])
    matrix = np.array(
        [[scale[0], 0, -scale[0] * window[0]], [0, scale[1], -scale[1] * window[1]], [0, 0, 1.0]]
    )

    smooth = image
    if scale.max() < 1:  # blurred before it shrinks, so that nothing aliases
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
    """Return the share (k,) of each box (k, 4) that lies in the window."""
    low, high = np.maximum(boxes[:, :2], window[:2]), np.minimum(boxes[:, 2:], window[2:])
    shared = (high - low).clip(0).prod(1)
    return np.asarray(shared / (boxes[:, 2:] - boxes[:, :2]).prod(1).clip(1e-9), np.float64)


def _relit_batch(
    images: list[Float],
    matrices: list[Matrix],
    groups: list[str],
    pose: PatchPose,
    rng: np.random.Generator,
) -> SceneBatch:
    """Draw the light on the patch of each scene, and return the scenes as a batch."""
    count = len(images)
    brightness = rng.uniform(*pose.light, (count, 1))
    tint = rng.uniform(0.93, 1.07, (count, 3))
    gain = torch.from_numpy(brightness * tint).float()
    lift = torch.from_numpy(rng.uniform(*pose.veil, (count, 1)).repeat(3, 1)).float()
    return batch_of(images, matrices, gain, lift, [1.0] * count, groups)
