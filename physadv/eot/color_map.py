"""Measured color map: from the sRGB values sent to a printer to those a camera shows of the print.

Both sides are sRGB-encoded, in which the mixing of inks is nearly linear in each of them. The map
is a polynomial in all three channels: cross-channel terms decide, for an ink that absorbs one
channel darkens the other two as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import combinations_with_replacement
from operator import mul

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial import ConvexHull, QhullError
from torch import Tensor

F64 = npt.NDArray[np.float64]

DEGREES = {"3x4": 1, "10-term": 2, "20-term": 3, "35-term": 4, "56-term": 5}
"""The maps by name: all monomials of r, g and b up to this degree; the name counts them."""


def map_exponents(name: str) -> list[tuple[int, ...]]:
    """Return the channels multiplied in each term of the map ``name``: () for the constant, (0, 2)
    for r * b.
    """
    return [
        c
        for degree in range(DEGREES[name] + 1)
        for c in combinations_with_replacement(range(3), degree)
    ]


def color_terms(colors: F64, name: str) -> F64:
    """Return the (n, k) terms of the map ``name`` for (n, 3) encoded ``colors``."""
    one = np.ones(len(colors))
    return np.stack(
        [reduce(mul, (colors[:, i] for i in product), one) for product in map_exponents(name)], -1
    )


def terms_of_image(image: Tensor, name: str) -> Tensor:
    """Return the (b, k, h, w) terms of the map ``name`` for an encoded ``image`` (b, 3, h, w)."""
    one = torch.ones_like(image[:, 0])
    return torch.stack(
        [reduce(mul, (image[:, i] for i in product), one) for product in map_exponents(name)], 1
    )


@dataclass(frozen=True)
class ColorHull:
    """Convex body in color space.

    Colors outside are drawn straight towards the center until they lie on its surface.

    Args:
        center: (3,) a color inside.
        normals: (m, 3) unit normals of the faces, pointing out.
        room: (m,) distance from the center to each face.
    """

    center: Tensor
    normals: Tensor
    room: Tensor

    def clamp(self, image: Tensor) -> Tensor:
        """Return ``image`` (b, 3, h, w) with its colors drawn inside; the identity for what is
        inside."""
        offset = image - self.center.to(image)[None, :, None, None]
        reach = torch.einsum("mc,bchw->bmhw", self.normals.to(image), offset)
        share = (reach / self.room.to(image)[None, :, None, None]).amax(1, keepdim=True)
        return self.center.to(image)[None, :, None, None] + offset / share.clamp(min=1)

    def to(self, device: torch.device) -> ColorHull:
        """Return the same hull on another ``device``."""
        return ColorHull(self.center.to(device), self.normals.to(device), self.room.to(device))


def color_hull(colors: F64) -> ColorHull:
    """Return the convex hull of (n, 3) ``colors``; their box where they span no volume."""
    center = colors.mean(0)
    try:
        faces = np.unique(ConvexHull(colors).equations.round(9), axis=0)
    except QhullError:
        low, high = colors.min(0), np.maximum(colors.max(0), colors.min(0) + 1e-3)
        eye = np.eye(3)
        faces = np.concatenate([np.c_[eye, -high], np.c_[-eye, low]])
        center = (low + high) / 2

    # Distance from the center to every face.
    room = -(faces[:, :3] @ center + faces[:, 3])
    return ColorHull(
        *(torch.from_numpy(np.ascontiguousarray(v)).float() for v in (center, faces[:, :3], room))
    )


@dataclass(frozen=True)
class ColorMap:
    """Fitted map from sent to shown colors, clamped to what was measured.

    Args:
        name: Which terms it has, a key of :data:`DEGREES`.
        coefficients: (k, 3) of each term and channel.
        sent: Hull of the colors that were sent.
        seen: Hull of the colors that were seen.
        spread: (3, 3) a root of the residuals' covariance.
        basis: (4, 4) makes (1, r, g, b) of the chart's colors uncorrelated and of unit mean square.
    """

    name: str
    coefficients: Tensor
    sent: ColorHull
    seen: ColorHull
    spread: Tensor
    basis: Tensor

    def encoded(self, patch: Tensor, error: Tensor | None = None) -> Tensor:
        """Return what the camera shows of a ``patch``, bare paper being 1; differentiable.

        ``patch`` (1, 3, h, w) is the sRGB sent to the printer; ``error`` (3, 4) one draw of
        :meth:`draw_error`, None for the map itself.
        """
        inside = self.sent.clamp(patch)
        out = torch.einsum(
            "kc,bkhw->bchw", self.coefficients.to(patch), terms_of_image(inside, self.name)
        )
        if error is not None:
            out = out + torch.einsum(
                "ck,bkhw->bchw", error.to(patch), terms_of_image(inside, "3x4")
            )
        return self.seen.clamp(out)

    def draw_error(self, generator: torch.Generator) -> Tensor:
        """Draw a color error (3, 4) that changes evenly over color space, from ``generator``.

        The mean over the chart of the error's covariance is that of the leave-one-out residuals.
        """
        normal = torch.randn(3, 4, generator=generator) / 2  # four terms share the variance
        return self.spread.cpu() @ normal @ self.basis.cpu()

    def to(self, device: torch.device) -> ColorMap:
        """Return the same map on another ``device``."""
        return replace(
            self,
            coefficients=self.coefficients.to(device),
            sent=self.sent.to(device),
            seen=self.seen.to(device),
            spread=self.spread.to(device),
            basis=self.basis.to(device),
        )


def make_map(name: str, coefficients: F64, sent: F64, seen: F64, covariance: F64) -> ColorMap:
    """Build a map from what was measured.

    Args:
        name: Which terms it has, a key of :data:`DEGREES`.
        coefficients: (k, 3) of each term and channel.
        sent: (n, 3) encoded colors sent to the printer.
        seen: (n, 3) encoded colors seen of them.
        covariance: (3, 3) of the residuals.

    Returns:
        The map, in float32.
    """
    values, vectors = np.linalg.eigh(covariance)
    spread = vectors * np.sqrt(np.maximum(values, 0))

    linear = color_terms(sent, "3x4")
    second = linear.T @ linear / len(linear) + 1e-9 * np.eye(4)
    basis = np.linalg.inv(np.linalg.cholesky(second))

    tensors: Sequence[Tensor] = [
        torch.from_numpy(np.ascontiguousarray(v)).float() for v in (coefficients, spread, basis)
    ]
    return ColorMap(name, tensors[0], color_hull(sent), color_hull(seen), tensors[1], tensors[2])
