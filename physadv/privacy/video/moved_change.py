"""A cloak's change in the coordinates of the face, to be laid onto the face wherever it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from physadv.privacy.cloak_faces import CloakMode, FaceWindow
from physadv.privacy.face_change import GainLimits

_SIDE, _MARGIN = 192, 0.1
"""Samples a side of the stored change, and how far it reaches beyond the ArcFace square, as a share
of its side."""


@dataclass(frozen=True)
class FaceChange:
    """A change on the ArcFace square of a face.

    Attributes:
        gain: Gain (1, 1, s, s) as a share of what each place allows, in [-1, 1].
        flow: Shift (1, 2, s, s) along the face's own axes, as a share of the farthest allowed.
    """

    gain: Tensor
    flow: Tensor

    @classmethod
    def taken(cls, window: FaceWindow, gain: Tensor, flow: Tensor) -> FaceChange:
        """Take a change off a face.

        Args:
            window: The face.
            gain: Gain (1, 1, gh, gw) of its box, in shares.
            flow: Shift (1, 2, gh, gw) of its box, in shares, along the photo's axes.

        Returns:
            The same change in the coordinates of the face.
        """
        to_box = _to_box(window)
        steps = (np.arange(_SIDE) + 0.5) / _SIDE * (1 + 2 * _MARGIN) - _MARGIN
        places = np.stack(np.meshgrid(steps, steps), -1) @ to_box[:, :2].T + to_box[:, 2]
        grid = _unit_grid(places, gain.shape[-2:]).to(gain)
        both = F.grid_sample(torch.cat([gain, flow], 1), grid, align_corners=False)
        return cls(both[:, :1], _turned(both[:, 1:], -_angle(to_box)))

    def mixed(self, other: FaceChange, share: float) -> FaceChange:
        """Return this change with ``share`` in [0, 1] of the ``other``."""
        return FaceChange(
            torch.lerp(self.gain, other.gain, share), torch.lerp(self.flow, other.flow, share)
        )

    def laid(self, window: FaceWindow, mode: CloakMode) -> Tensor:
        """Lay the change onto a face.

        Args:
            window: The face.
            mode: Limits that the shares refer to.

        Returns:
            Face box (3, bh, bw) uint8 at the frame's own size.
        """
        height, width = window.mask.shape[-2:]
        gain, flow = self.shares(window)
        gain = GainLimits.of(window.box_of(window.scene), mode.limits).gain(gain)
        farthest = mode.limits.shift * max(height, width) / 112
        return window.rendered(gain, flow * farthest, 1.0, mode.linf)

    def shares(self, window: FaceWindow) -> tuple[Tensor, Tensor]:
        """Return the change in the box of a face, in shares: gain (1, 1, gh, gw), and shift (1, 2,
        gh, gw) along the photo's axes."""
        height, width = window.mask.shape[-2:]
        to_box = _to_box(window)
        back = np.linalg.inv(to_box[:, :2])
        rows, columns = np.mgrid[:height, :width] + 0.5
        places = (np.stack([columns, rows], -1) - to_box[:, 2]) @ back.T
        shares = 2 * (places + _MARGIN) / (1 + 2 * _MARGIN) - 1
        grid = torch.from_numpy(shares)[None].to(self.gain)
        both = F.grid_sample(torch.cat([self.gain, self.flow], 1), grid, align_corners=False)
        return both[:, :1], _turned(both[:, 1:], _angle(to_box))


def _to_box(window: FaceWindow) -> np.ndarray:
    """The similarity (2, 3) from the unit ArcFace square to px of the window's face box."""
    to_scene = window.face.to_photo("arcface", 1).copy()
    to_scene[:, 2] -= window.inner[:2]
    return to_scene


def _unit_grid(places: np.ndarray, size: torch.Size) -> Tensor:
    """Places (h, w, 2) in px as ``grid_sample`` takes them, (1, h, w, 2)."""
    height, width = size
    return torch.from_numpy(2 * places / np.array([width, height]) - 1)[None]


def _angle(similarity: np.ndarray) -> float:
    """Rotation of a similarity (2, 3) in radians."""
    return float(np.arctan2(similarity[1, 0], similarity[0, 0]))


def _turned(flow: Tensor, angle: float) -> Tensor:
    """Vectors (1, 2, h, w), turned by ``angle`` in radians."""
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    x, y = flow[:, :1], flow[:, 1:]
    return torch.cat([cos * x - sin * y, sin * x + cos * y], 1)
