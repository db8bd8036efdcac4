"""Compare every EOT operation with kornia's: error against an independent reference, and cost.

    OMP_NUM_THREADS=1 python benchmarks/eot_kornia.py --docs docs/eot.md

References are OpenCV, scipy, Pillow (libjpeg), color formulas in float64 numpy and 16 x 16
supersampling; none of them is torch or kornia. Costs are CPU seconds of this process for one
forward and one backward pass at batch 32, 3 x 224 x 224, one thread. Both sides of a pair run in
turn, so the load of the machine cancels in their ratio: ``ratio`` is the median of the paired
quotients kornia / own, ``ratio_of_best`` the quotient of the two minima. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import kornia
import kornia.geometry.calibration as kornia_calibration
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from kornia.color import CFA
from PIL import Image
from scipy import interpolate, ndimage
from torch import Tensor

from physadv.core.boxes import box_iou
from physadv.core.image_io import to_tensor
from physadv.core.random_streams import generator
from physadv.core.synthetic_backgrounds import synthetic_background
from physadv.eot.transforms import bend, blur, codec, lens_distortion, sensor
from physadv.eot.transforms.sharpening import sharpen_picture
from physadv.eot.transforms.tone import apply_tone, apply_tone_with_kornia
from physadv.eot.warp import homography_from_corners, pixel_centers, warp_texture
from physadv.models.detectors import Detections, non_maximum_suppression
from physadv.privacy.visibility import dssim
from physadv.threat.printability import total_variation

BATCH, SIZE, TEXELS = 32, 224, 64
BEGIN, END = "<!-- operations -->", "<!-- end of operations -->"
F64 = npt.NDArray[np.float64]
Operation = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Comparison:
    """One effect: two operations on the same batch, and the reference for their results.

    ``expected`` has the shape of the first images of both outputs; errors are the root mean square
    difference to it times ``scale``. ``differentiated`` tells whether the backward pass counts,
    ``taken`` whose operation the package uses by default, and ``why``.
    """

    effect: str
    own_name: str
    own: Operation
    kornia_name: str
    kornia: Operation
    batch: Tensor
    reference: str
    expected: F64
    scale: float = 255.0
    unit: str = "8-bit levels"
    crop: int = 0
    differentiated: bool = True
    taken: str = "own"
    why: str = ""

    def error(self, operation: Operation) -> float:
        """Root mean square difference of ``operation`` to the reference."""
        with torch.no_grad():
            actual = operation(self.batch)[: len(self.expected)].double().numpy()
        difference = actual - self.expected
        if self.crop:
            inside = slice(self.crop, -self.crop)
            difference = difference[..., inside, inside]
        return float(np.sqrt(np.mean(difference**2)) * self.scale)

    def seconds(self, operation: Operation) -> float:
        """CPU seconds of one forward (and backward) pass of ``operation``."""
        images = self.batch.clone().requires_grad_(self.differentiated)
        began = time.process_time()
        result = operation(images)
        if self.differentiated:
            torch.autograd.grad(result.sum(), images)
        return time.process_time() - began


def photos() -> Tensor:
    """(32, 3, 224, 224) pictures made by code."""
    return torch.stack(
        [to_tensor(synthetic_background(i, height=SIZE, width=SIZE)) for i in range(BATCH)]
    )


def as_array(images: Tensor, count: int = 4) -> F64:
    """The first ``count`` of ``images`` in float64."""
    return np.asarray(images[:count].double().numpy())


def uniform(low: float, high: float, *shape: int, name: str) -> Tensor:
    """Draw between ``low`` and ``high`` from the stream ``name``."""
    return low + (high - low) * torch.rand(*shape, generator=generator(0, "eot_kornia", name))


def warps() -> Iterator[Comparison]:
    """A random binary patch seen small and large, beside 16 x 16 supersampling of its texels."""
    texture = (uniform(0, 1, 1, 4, TEXELS, TEXELS, name="texels") > 0.5).float()
    for label, width in (("minified, 28 px", 28.0), ("magnified, 180 px", 180.0)):
        scale = width / 100
        turn = uniform(-0.2, 0.2, BATCH, name=label)
        tilt = uniform(-2e-3, 2e-3, BATCH, 2, name=label + "tilt")
        zero, one = torch.zeros(BATCH), torch.ones(BATCH)
        half = torch.full((BATCH,), SIZE / 2)
        c, s = turn.cos() * scale, turn.sin() * scale
        affine = torch.stack([c, -s, zero, s, c, zero, tilt[:, 0], tilt[:, 1], one], -1)
        shift = torch.stack([one, zero, half, zero, one, half, zero, zero, one], -1)
        plane_to_px = shift.view(-1, 3, 3) @ affine.view(-1, 3, 3)
        rectangle = torch.tensor([-50.0, -50.0, 100.0, 100.0])

        # kornia counts from the center of the first pixel: texel indices -> mm -> pixel indices.
        to_mm = torch.tensor(
            [[100 / TEXELS, 0, -50 + 50 / TEXELS], [0, 100 / TEXELS, -50 + 50 / TEXELS], [0, 0, 1]]
        )
        to_index = torch.tensor([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1.0]])
        index_to_index = to_index @ plane_to_px @ to_mm

        def own(x: Tensor, h: Tensor = plane_to_px, r: Tensor = rectangle) -> Tensor:
            return warp_texture(x, h, r, (SIZE, SIZE))

        def plain(x: Tensor, m: Tensor = index_to_index) -> Tensor:
            moved: Tensor = kornia.geometry.warp_perspective(
                x.expand(BATCH, -1, -1, -1), m, (SIZE, SIZE)
            )
            return moved

        # Averaged over the footprint before kornia's warp: the nearest whole factor for the batch.
        factor = max(1, round(TEXELS / width))
        to_small = torch.diag(torch.tensor([1 / factor, 1 / factor, 1.0]))
        to_small[:2, 2] = (1 / factor - 1) / 2
        small_to_index = index_to_index @ torch.linalg.inv(to_small)

        def averaged(x: Tensor, m: Tensor = small_to_index, f: int = factor) -> Tensor:
            small = F.avg_pool2d(x, f) if f > 1 else x
            moved: Tensor = kornia.geometry.warp_perspective(
                small.expand(BATCH, -1, -1, -1), m, (SIZE, SIZE)
            )
            return moved

        expected = supersampled(texture, plane_to_px[:4], rectangle)
        reference = "16 x 16 supersampling"
        yield Comparison(
            f"perspective warp, {label}",
            "warp_texture",
            own,
            "geometry.warp_perspective",
            plain,
            texture,
            reference,
            expected,
            taken="own",
            why="kornia's is wrong",
        )
        if factor > 1:
            yield Comparison(
                f"perspective warp, {label}, area average first",
                "warp_texture",
                own,
                "avg_pool2d, then geometry.warp_perspective",
                averaged,
                texture,
                reference,
                expected,
                taken="own",
                why="kornia's is wrong",
            )


def supersampled(texture: Tensor, plane_to_px: Tensor, rectangle: Tensor, taps: int = 16) -> F64:
    """Mean of ``taps`` x ``taps`` nearest texels of ``texture`` in each pixel, float64 numpy."""
    x0, y0, width, height = rectangle.double().numpy()
    texels = texture[0].double().numpy()
    fine = (np.arange(SIZE * taps) + 0.5) / taps
    pictures = []
    for matrix in plane_to_px.double().numpy():
        inverse = np.linalg.inv(matrix)
        rows = []
        for block in np.split(fine, SIZE // 8):
            xs, ys = np.meshgrid(fine, block)
            x, y, w = np.tensordot(inverse, np.stack([xs, ys, np.ones_like(xs)]), 1)
            u, v = (x / w - x0) / width * TEXELS, (y / w - y0) / height * TEXELS
            inside = (u >= 0) & (u < TEXELS) & (v >= 0) & (v < TEXELS)
            column = np.clip(u, 0, TEXELS - 1).astype(int)
            row = np.clip(v, 0, TEXELS - 1).astype(int)
            values = texels[:, row, column] * inside
            shape = (len(texels), len(block) // taps, taps, SIZE, taps)
            rows.append(values.reshape(shape).mean((2, 4)))
        pictures.append(np.concatenate(rows, 1))
    return np.stack(pictures)


def blurs() -> Iterator[Comparison]:
    """Defocus and motion, alone and together."""
    images = photos()
    sigma = uniform(0.6, 2.0, BATCH, name="sigma")
    angle = uniform(0.0, math.pi, BATCH, name="angle")
    length = 7
    none = torch.zeros(BATCH)

    def defocus(x: Tensor) -> Tensor:
        result: Tensor = kornia.filters.gaussian_blur2d(x, 13, sigma[:, None].expand(-1, 2))
        return result

    def motion(x: Tensor) -> Tensor:
        # kornia turns against the clock; rows count downwards.
        result: Tensor = kornia.filters.motion_blur(
            x, length, -angle.rad2deg(), torch.zeros(BATCH), mode="bilinear"
        )
        return result

    sharp = as_array(images)
    soft = np.stack(
        [
            ndimage.gaussian_filter(picture, (0, s, s), mode="mirror", truncate=8)
            for picture, s in zip(sharp, sigma.tolist(), strict=False)
        ]
    )
    yield Comparison(
        "defocus, sigma 0.6-2 px",
        "blur.blur_lens",
        lambda x: blur.blur_lens(x, sigma, none, angle),
        "filters.gaussian_blur2d(13 px)",
        defocus,
        images,
        "scipy gaussian_filter",
        soft,
        taken="kornia",
        why="",
    )
    lengths = torch.full((BATCH,), float(length))
    yield Comparison(
        "motion, 7 px, any angle",
        "blur.blur_lens",
        lambda x: blur.blur_lens(x, none, lengths, angle),
        "filters.motion_blur(bilinear); one odd whole length a batch",
        motion,
        images,
        "scipy spline shifts, mean of 57",
        smeared(sharp, length, angle.tolist()),
        crop=8,
        taken="own",
        why="kornia's takes one whole odd length",
    )
    yield drawn_motion(images, sharp, angle)
    yield Comparison(
        "defocus and motion",
        "blur.blur_lens",
        lambda x: blur.blur_lens(x, sigma, lengths, angle),
        "gaussian_blur2d, motion_blur",
        lambda x: motion(defocus(x)),
        images,
        "scipy, both in turn",
        smeared(soft, length, angle.tolist()),
        crop=8,
        taken="own",
        why="kornia's takes one whole odd length",
    )


def drawn_motion(images: Tensor, sharp: F64, angle: Tensor) -> Comparison:
    """The motion that `default` draws: up to 2.5 px, another length for each picture."""
    lengths, none = uniform(0.0, 2.5, BATCH, name="length"), torch.zeros(BATCH)
    expected = [
        smeared(picture[None], length, [turn])[0]
        for picture, length, turn in zip(sharp, lengths.tolist(), angle.tolist(), strict=False)
    ]
    return Comparison(
        "motion, 0-2.5 px, its own for each picture",
        "blur.blur_lens",
        lambda x: blur.blur_lens(x, none, lengths, angle),
        "filters.motion_blur, a call a length, to the nearest odd px",
        lambda x: blur.blurred_with_kornia(x, none, lengths, angle),
        images,
        "scipy spline shifts, mean of 57",
        np.stack(expected),
        crop=8,
        taken="own",
        why="kornia's is wrong",
    )


def smeared(pictures: F64, length: float, angles: list[float], taps: int = 57) -> F64:
    """Mean of ``pictures`` shifted along a segment of ``length`` px at ``angles`` radians."""
    steps = ((np.arange(taps) + 0.5) / taps - 0.5) * length
    return np.stack(
        [
            np.mean(
                [
                    ndimage.shift(p, (0, t * math.sin(a), t * math.cos(a)), order=5, mode="mirror")
                    for t in steps
                ],
                0,
            )
            for p, a in zip(pictures, angles, strict=False)
        ]
    )


def plain_to_linear(image: Tensor) -> Tensor:
    """The sRGB curve undone in plain torch, which the package leaves to kornia."""
    steep = ((image.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4
    return torch.where(image <= 0.04045, image / 12.92, steep)


def plain_to_srgb(linear: Tensor) -> Tensor:
    """The sRGB curve in plain torch."""
    steep = 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, linear * 12.92, steep)


def colors() -> Iterator[Comparison]:
    """The sRGB curve, tone and sharpening."""
    images = photos()
    x = as_array(images)
    light = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    yield Comparison(
        "sRGB to linear",
        "torch.where and pow",
        plain_to_linear,
        "color.rgb_to_linear_rgb",
        kornia.color.rgb_to_linear_rgb,
        images,
        "IEC 61966-2-1 in float64",
        light,
        taken="kornia",
        why="",
    )
    back = np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)
    yield Comparison(
        "linear to sRGB",
        "torch.where and pow",
        plain_to_srgb,
        "color.linear_rgb_to_rgb",
        kornia.color.linear_rgb_to_rgb,
        images,
        "IEC 61966-2-1 in float64",
        back,
        taken="kornia",
        why="",
    )

    contrast, brightness = (
        uniform(0.75, 1.25, BATCH, name="c"),
        uniform(-0.08, 0.08, BATCH, name="b"),
    )
    gamma = uniform(0.75, 1.35, BATCH, name="g")

    c, b, g = (p[:4, None, None, None].double().numpy() for p in (contrast, brightness, gamma))
    yield Comparison(
        "contrast, brightness, gamma",
        "tone.apply_tone",
        lambda image: apply_tone(image, contrast, brightness, gamma),
        "enhance.adjust_contrast, adjust_brightness, adjust_gamma",
        lambda image: apply_tone_with_kornia(image, contrast, brightness, gamma),
        images,
        "float64 formula",
        np.clip((x - 0.5) * c + 0.5 + b, 1e-6, 1) ** g,
        taken="own",
        why="cost",
    )

    amount = uniform(0.0, 0.8, BATCH, name="amount")
    a = amount[:4, None, None, None].double().numpy()
    sigma = 1 / math.sqrt(2 * math.log(2))  # [1, 2, 1] / 4

    def unsharp(image: Tensor) -> Tensor:
        twice = kornia.filters.unsharp_mask(image, 3, (sigma, sigma))
        result: Tensor = torch.lerp(image, twice, amount[:, None, None, None])
        return result

    kernel = np.array([1.0, 2.0, 1.0]) / 4
    soft = np.stack(
        [
            cv2.sepFilter2D(
                p.transpose(1, 2, 0), cv2.CV_64F, kernel, kernel, borderType=cv2.BORDER_REFLECT_101
            ).transpose(2, 0, 1)
            for p in x
        ]
    )
    yield Comparison(
        "sharpening (unsharp mask)",
        "sharpening.sharpen_picture",
        lambda image: sharpen_picture(image, amount),
        "filters.unsharp_mask, lerp for the amount",
        unsharp,
        images,
        "OpenCV sepFilter2D in float64",
        x + a * (x - soft),
        taken="own",
        why="cost",
    )


def codecs() -> Iterator[Comparison]:
    """JPEG beside libjpeg's own file, with 4:2:0 chroma."""
    images = (photos() * 255).round() / 255
    for q in (30, 60, 90):
        quality = torch.full((BATCH,), float(q))
        decoded = []
        for picture in images[:4]:
            pixels = (picture * 255).round().byte().permute(1, 2, 0).numpy()
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "JPEG", quality=q, subsampling=2)
            decoded.append(np.asarray(Image.open(stream), np.float64).transpose(2, 0, 1) / 255)

        def own(x: Tensor, at: Tensor = quality) -> Tensor:
            return codec.differentiable_jpeg(x, at)

        def theirs(x: Tensor, at: Tensor = quality) -> Tensor:
            result: Tensor = kornia.enhance.jpeg_codec_differentiable(x, at)
            return result

        yield Comparison(
            f"JPEG, quality {q}",
            "codec.differentiable_jpeg",
            own,
            "enhance.jpeg_codec_differentiable",
            theirs,
            images,
            "Pillow (libjpeg)",
            np.stack(decoded),
            taken="own",
            why="cost",
        )


def geometry() -> Iterator[Comparison]:
    """Thin plate, homography from points, pixel centers, and the lens."""
    shift = uniform(-0.03, 0.03, BATCH, 5, 5, 2, name="plate")
    control = _unit_grid(5)[None].expand(BATCH, -1, -1)
    field = _unit_grid(bend.FIELD)[None].expand(BATCH, -1, -1)

    def plate(x: Tensor) -> Tensor:
        # A spline through the shifts with its centers on the fixed grid; kornia centers it on its
        # second argument, the moved points, so the weights come from swapped roles.
        moved = control + x.flatten(1, 2)
        weights = kornia.geometry.get_tps_transform(control, moved)
        bent: Tensor = kornia.geometry.warp_points_tps(field, moved, *weights)
        return (bent - field).transpose(1, 2).reshape(BATCH, 2, bend.FIELD, bend.FIELD)

    expected = np.stack(
        [
            interpolate.RBFInterpolator(
                control[0].numpy(), s.flatten(0, 1).double().numpy(), kernel="thin_plate_spline"
            )(field[0].double().numpy()).T.reshape(2, bend.FIELD, bend.FIELD)
            for s in shift[:4]
        ]
    )
    yield Comparison(
        "thin plate, 5 x 5 shifts of 3 % at 17 x 17 points",
        "bend.thin_plate",
        bend.thin_plate,
        "geometry.get_tps_transform, warp_points_tps",
        plate,
        shift,
        "scipy RBFInterpolator",
        expected,
        100.0,
        "mm on 100 mm",
        taken="own",
        why="kornia's is wrong; cost",
    )

    square = torch.tensor([[-50.0, -50.0], [50, -50], [50, 50], [-50, 50]]).expand(BATCH, -1, -1)
    corners = square * 0.8 + SIZE / 2 + uniform(-15, 15, BATCH, 4, 2, name="corners")
    matrices = np.stack(
        [
            cv2.getPerspectiveTransform(square[0].numpy(), c.numpy()).astype(np.float64)
            for c in corners[:4]
        ]
    )
    yield Comparison(
        "homography from four points",
        "warp.homography_from_corners (kornia's, in float64)",
        lambda x: homography_from_corners(square, x),
        "geometry.get_perspective_transform",
        lambda x: kornia.geometry.get_perspective_transform(square, x),
        corners,
        "OpenCV getPerspectiveTransform",
        matrices,
        1.0,
        "matrix entries",
        taken="kornia",
        why="in float64",
    )

    like = torch.zeros(1)

    def centers(_: Tensor) -> Tensor:
        xs, ys = pixel_centers((SIZE, SIZE), like)
        return torch.stack([xs.expand(1, SIZE, SIZE), ys.expand(1, SIZE, SIZE)], -1)

    ys, xs = np.mgrid[:SIZE, :SIZE] + 0.5
    yield Comparison(
        "pixel centers",
        "warp.pixel_centers (expanded)",
        centers,
        "geometry.create_meshgrid + 0.5",
        lambda _: kornia.geometry.create_meshgrid(SIZE, SIZE, normalized_coordinates=False) + 0.5,
        like,
        "numpy mgrid",
        np.stack([xs, ys], -1)[None],
        1.0,
        "px",
        differentiated=False,
        taken="own",
        why="crops, rows and columns apart",
    )
    yield from lenses(xs, ys)


def lenses(xs: F64, ys: F64) -> Iterator[Comparison]:
    """Every pixel of the picture through the lens and back."""
    coefficients = {
        ("k1 -0.1, 70 degrees", 70): (-0.1, 0.0, 0.0, 0.0, 0.0),
        ("k1 -0.35, 48 degrees", 48): (-0.35, 0.0, 0.0, 0.0, 0.0),
        ("five terms, 62 degrees", 62): (-0.30, 0.11, 0.0008, -0.0006, -0.02),
        ("five terms, 90 degrees", 90): (-0.22, 0.06, 0.001, -0.0007, -0.006),
    }
    points = np.stack([xs, ys], -1).reshape(-1, 2)
    batch = torch.from_numpy(points).float()[None].repeat(BATCH, 1, 1)
    for (label, degrees), numbers in coefficients.items():
        focal, middle = SIZE / 2 / math.tan(math.radians(degrees) / 2), SIZE / 2
        matrix = np.array([[focal, 0, middle], [0, focal, middle], [0, 0, 1.0]])
        camera = torch.from_numpy(matrix).float()[None].expand(BATCH, -1, -1)
        terms = torch.tensor(numbers)[None].expand(BATCH, -1)
        rays = np.concatenate([(points - middle) / focal, np.ones((len(points), 1))], 1)
        shown = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), matrix, np.array(numbers))[0]
        criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 500, 1e-12)
        ideal = cv2.undistortPoints(
            points[:, None].copy(),
            matrix,
            np.array(numbers),
            R=np.eye(3),
            P=matrix,
            criteria=criteria,
        )
        yield from _lens_pair(label, numbers, camera, terms, batch, shown[:, 0], ideal[:, 0])


def _lens_pair(
    label: str,
    numbers: tuple[float, ...],
    camera: Tensor,
    terms: Tensor,
    batch: Tensor,
    shown: F64,
    ideal: F64,
) -> Iterator[Comparison]:
    own_lens = lens_distortion.BrownLens(
        torch.tensor(
            [lens_distortion.in_half_widths(numbers, SIZE / 2 / float(camera[0, 0, 0]))]
        ).expand(BATCH, -1)
    )
    lens_distortion.check_lens(own_lens, (SIZE, SIZE))
    columns, rows = pixel_centers((SIZE, SIZE), batch)

    def backward(x: Tensor) -> Tensor:
        # All pixels of the picture: no gradient is needed on the way to them.
        places = lens_distortion.undistorted_grid(columns, rows, own_lens, (SIZE, SIZE))[:2]
        return torch.stack(places, -1).flatten(1, 2)

    yield Comparison(
        f"lens, forward, {label}",
        "lens_distortion.distorted_points",
        lambda x: torch.stack(
            lens_distortion.distorted_points(x[..., 0], x[..., 1], own_lens, (SIZE, SIZE)), -1
        ),
        "calibration.distort_points",
        lambda x: kornia_calibration.distort_points(x, camera, terms),
        batch,
        "OpenCV projectPoints",
        shown[None],
        1.0,
        "px",
        taken="kornia",
        why="",
    )
    for count in (5, 20):
        yield Comparison(
            f"lens, inverse, all pixels, {label}",
            "lens_distortion.undistorted_grid",
            backward,
            f"calibration.undistort_points({count} iterations)",
            lambda x, n=count: kornia_calibration.undistort_points(x, camera, terms, num_iters=n),
            batch,
            "OpenCV undistortPoints, 500 iterations",
            ideal[None],
            1.0,
            "px",
            differentiated=False,
            taken="own",
            why="cost",
        )


def _unit_grid(count: int) -> Tensor:
    steps = torch.linspace(0, 1, count)
    ys, xs = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack([xs.flatten(), ys.flatten()], 1)


def sensors() -> Iterator[Comparison]:
    """A color filter array and bilinear demosaicing."""
    images = photos()
    x = as_array(images)
    rows, columns = np.mgrid[:SIZE, :SIZE] % 2
    phase = 2 * rows + columns
    masks = np.stack([phase == 0, (phase == 1) | (phase == 2), phase == 3]).astype(float)
    tent = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4
    cross = np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 4
    expected = np.stack(
        [
            np.stack(
                [
                    ndimage.convolve(p[i] * masks[i], k, mode="mirror")
                    for i, k in enumerate((tent, cross, tent))
                ]
            )
            for p in x
        ]
    )

    def theirs(image: Tensor) -> Tensor:
        result: Tensor = kornia.color.raw_to_rgb(kornia.color.rgb_to_raw(image, CFA.BG), CFA.BG)
        return result

    yield Comparison(
        "Bayer array and demosaicing",
        "sensor.demosaic_bilinear",
        sensor.demosaic_bilinear,
        "color.rgb_to_raw, raw_to_rgb",
        theirs,
        images,
        "scipy convolve",
        expected,
        taken="own",
        why="cost",
    )


def boxes() -> Iterator[Comparison]:
    """Overlap of boxes and greedy suppression."""
    count = 400
    low = uniform(0, 180, count, 2, name="boxes")
    corners = torch.cat([low, low + uniform(8, 60, count, 2, name="sides")], 1)
    scores = uniform(0.5, 1, count, name="scores")
    overlap = _iou_in_numpy(corners.double().numpy())
    yield Comparison(
        "IoU, 400 x 400 boxes",
        "boxes.box_iou",
        lambda x: box_iou(x, x),
        "metrics.mean_iou_bbox",
        lambda x: kornia.metrics.mean_iou_bbox(x, x),
        corners,
        "float64 formula",
        overlap,
        1.0,
        "IoU",
        taken="own",
        why="kornia's raises for an empty box, takes no batch",
    )

    order, kept = np.argsort(-scores.numpy(), kind="stable"), []
    for index in order:
        if all(overlap[index, other] <= 0.45 for other in kept):
            kept.append(index)
    detections = Detections(corners[None], scores[None, :, None])
    yield Comparison(
        "NMS, 400 boxes",
        "detectors.non_maximum_suppression",
        lambda _: non_maximum_suppression(detections, 0.5, 0.45)[0].boxes,
        "geometry.bbox.nms",
        lambda x: x[kornia.geometry.bbox.nms(x, scores, 0.45)],
        corners,
        "greedy loop",
        corners.double().numpy()[kept],
        1.0,
        "px",
        differentiated=False,
        taken="own",
        why="cost",
    )


def _iou_in_numpy(corners: F64) -> F64:
    low = np.maximum(corners[:, None, :2], corners[None, :, :2])
    high = np.minimum(corners[:, None, 2:], corners[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    area = (corners[:, 2:] - corners[:, :2]).prod(-1)
    return np.asarray(shared / (area[:, None] + area[None] - shared))


def losses() -> Iterator[Comparison]:
    """Total variation and structural similarity."""
    images = photos()
    x = as_array(images)
    patch, ones = images[:1], torch.ones(1, 1, SIZE, SIZE)
    steps = np.abs(np.diff(x[:1], axis=2)).sum() + np.abs(np.diff(x[:1], axis=3)).sum()
    yield Comparison(
        "total variation, one patch",
        "printability.total_variation",
        lambda image: total_variation(image, ones)[None],
        "losses.total_variation, no mask",
        lambda image: kornia.losses.total_variation(image).mean(1) / SIZE**2,
        patch,
        "float64 formula",
        np.array([steps / (3 * SIZE**2)]),
        1.0,
        "value",
        taken="own",
        why="kornia's takes no mask",
    )

    other = (images + 0.05 * torch.randn(images.shape, generator=generator(0, "ssim"))).clamp(0, 1)
    yield Comparison(
        "SSIM, 11 px, sigma 1.5",
        "five blurs in one convolution",
        lambda image: plain_dssim(image, other),
        "metrics.ssim(padding valid)",
        lambda image: dssim(image, other),
        images,
        "scipy gaussian_filter1d",
        _dssim_in_scipy(x, as_array(other)),
        1.0,
        "DSSIM",
        taken="kornia",
        why="",
    )


def plain_dssim(first: Tensor, second: Tensor) -> Tensor:
    """Structural dissimilarity in plain torch, which the package leaves to kornia."""
    reach = torch.arange(-5.0, 6)
    window = torch.exp(-(reach**2) / (2 * 1.5**2))
    window = (window / window.sum()).expand(3, 1, 1, -1)
    both = torch.cat([first, second, first**2, second**2, first * second])
    soft = F.conv2d(F.conv2d(both, window, groups=3), window.transpose(2, 3), groups=3)
    a, b, aa, bb, ab = soft.chunk(5)
    c1, c2 = 0.01**2, 0.03**2
    similar = (2 * a * b + c1) * (2 * (ab - a * b) + c2)
    similar = similar / ((a**2 + b**2 + c1) * (aa - a**2 + bb - b**2 + c2))
    return ((1 - similar) / 2).mean((1, 2, 3))


def _dssim_in_scipy(first: F64, second: F64) -> F64:
    def soft(x: F64) -> F64:
        blurred = ndimage.gaussian_filter(x, (0, 0, 1.5, 1.5), truncate=5 / 1.5)
        return np.asarray(blurred[..., 5:-5, 5:-5])

    a, b = soft(first), soft(second)
    va, vb = soft(first**2) - a**2, soft(second**2) - b**2
    both = soft(first * second) - a * b
    c1, c2 = 0.01**2, 0.03**2
    ssim = (2 * a * b + c1) * (2 * both + c2) / ((a**2 + b**2 + c1) * (va + vb + c2))
    return np.asarray(((1 - ssim) / 2).mean((1, 2, 3)))


def resizes() -> Iterator[Comparison]:
    """Antialiased reduction and enlargement."""
    images = photos()
    for label, size in (("224 to 64 px", 64), ("224 to 352 px", 352)):
        expected = np.stack(
            [
                np.stack(
                    [
                        np.asarray(
                            Image.fromarray(c).resize((size, size), Image.Resampling.BILINEAR)
                        )
                        for c in picture.numpy()
                    ]
                )
                for picture in images[:4]
            ]
        ).astype(np.float64)

        def own(x: Tensor, to: int = size) -> Tensor:
            return F.interpolate(x, (to, to), mode="bilinear", antialias=True)

        def theirs(x: Tensor, to: int = size) -> Tensor:
            result: Tensor = kornia.geometry.resize(
                x, (to, to), antialias=True, align_corners=False
            )
            return result

        yield Comparison(
            f"resize with antialias, {label}",
            "torch interpolate(antialias)",
            own,
            "geometry.resize(antialias)",
            theirs,
            images,
            "Pillow resize, float",
            expected,
            taken="own",
            why="torch's; kornia's is wrong when it reduces",
        )


GROUPS: dict[str, Callable[[], Iterator[Comparison]]] = {
    "warp": warps,
    "blur": blurs,
    "color": colors,
    "codec": codecs,
    "geometry": geometry,
    "sensor": sensors,
    "boxes": boxes,
    "loss": losses,
    "resize": resizes,
}

MISSING = {
    "printer: cross-channel inks, measured color map": "printer.printed_light",
    "curl about a cylinder": "bend.unbend_points",
    "shadow, gradient, highlight at drawn places": "light.illuminate_scene",
    "color temperature in kelvin": "light.temperature_gains",
    "haze": "air.look_through",
    "occluder": "air.occluder_cover",
    "rolling shutter's bands": "sensor.rolling_bands",
    "photon and read-out noise in electrons": "sensor.expose_sensor",
    "S-shaped tone curve": "tone_curve.tone_curve",
    "intra-coded video frame": "codec.file_or_frame",
    "NMS within classes, gradients kept": "detectors.non_maximum_suppression",
    "total variation inside a mask": "printability.total_variation",
}
"""Effects for which kornia has no function that takes drawn parameters."""


def measure(pairs: list[Comparison], repeats: int) -> list[dict[str, Any]]:
    """Rows of errors and interleaved costs of ``pairs``, over ``repeats`` rounds."""
    times: list[tuple[list[float], list[float]]] = [([], []) for _ in pairs]
    for round_number in range(repeats + 1):
        for pair, (own, theirs) in zip(pairs, times, strict=True):
            # Whoever runs first finds a colder cache: take turns.
            sides = [(own, pair.own), (theirs, pair.kornia)]
            for taken, operation in sides if round_number % 2 else reversed(sides):
                seconds = pair.seconds(operation)
                if round_number:  # the first round warms up
                    taken.append(seconds)

    return [
        {
            "effect": pair.effect,
            "own": pair.own_name,
            "kornia": pair.kornia_name,
            "reference": pair.reference,
            "unit": pair.unit,
            "own_error": float(f"{pair.error(pair.own):.3g}"),
            "kornia_error": float(f"{pair.error(pair.kornia):.3g}"),
            "own_s": round(statistics.median(own), 5),
            "kornia_s": round(statistics.median(theirs), 5),
            "ratio": round(statistics.median([k / o for o, k in zip(own, theirs, strict=True)]), 2),
            "ratio_of_best": round(min(theirs) / min(own), 2),
            "taken": pair.taken,
            "why": pair.why,
            "n": repeats,
            "torch": torch.__version__,
            "kornia_version": kornia.__version__,
        }
        for pair, (own, theirs) in zip(pairs, times, strict=True)
    ]


def as_table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table of ``rows``: whose operation is the default, its error and its cost."""
    lines = [
        "| effect | default | own operation | kornia's | error, own and kornia's | CPU ms, own and "
        "kornia's | kornia's / own | why own |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row["kornia"] == "none":
            lines.append(
                f"| {row['effect']} | own | `{row['own']}` | none | | | | kornia has none |"
            )
            continue
        own, theirs = (1000 * row[key] for key in ("own_s", "kornia_s"))
        lines.append(
            f"| {row['effect']} | {row['taken']} | {row['own']} | {row['kornia']} "
            f"| {row['own_error']:.2g}, {row['kornia_error']:.2g} {row['unit']} "
            f"| {own:.3g}, {theirs:.3g} | {row['ratio']:.2f} | {row['why']} |"
        )
    return "\n".join(lines)


def write_docs(page: Path, rows: list[dict[str, Any]]) -> None:
    """Put the table of ``rows`` into ``page`` between its two marks."""
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n\n{as_table(rows)}\n\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Measure, write the rows and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/eot_kornia.jsonl"))
    parser.add_argument("--docs", type=Path, help="page that gets the table, e.g. docs/eot.md")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--only", nargs="*", default=list(GROUPS), choices=list(GROUPS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)

    rows: list[dict[str, Any]] = []
    for name in options.only:
        rows += measure(list(GROUPS[name]()), options.repeats)
    if set(options.only) == set(GROUPS):
        rows += [{"effect": e, "own": o, "kornia": "none"} for e, o in MISSING.items()]
    options.out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if options.docs:
        write_docs(options.docs, rows)
    print(as_table(rows))


if __name__ == "__main__":
    main()
