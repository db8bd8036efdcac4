"""Boxes and smoothness of our own beside kornia's: equal where kornia takes the input."""

from __future__ import annotations

import kornia
import pytest
import torch
from torch import Tensor

from physadv.core.boxes import box_iou
from physadv.core.random_streams import generator
from physadv.models.detectors import Detections, non_maximum_suppression
from physadv.threat.printability import total_variation


def random_boxes(count: int = 60) -> Tensor:
    g = generator(0, "kornia boxes")
    low = 100 * torch.rand(count, 2, generator=g)
    return torch.cat([low, low + 5 + 40 * torch.rand(count, 2, generator=g)], 1)


def test_overlap_is_kornias() -> None:
    """Boxes with an area have kornia's overlap."""
    boxes = random_boxes()
    torch.testing.assert_close(box_iou(boxes, boxes), kornia.metrics.mean_iou_bbox(boxes, boxes))


def test_kornia_refuses_an_empty_box() -> None:
    """A detector may return a box without area: ours overlaps nothing, kornia's function raises."""
    empty, other = torch.tensor([[5.0, 5.0, 5.0, 9.0]]), torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    assert float(box_iou(empty, other)) == 0
    with pytest.raises(AssertionError):
        kornia.metrics.mean_iou_bbox(empty, other)


def test_suppression_is_kornias_within_a_class() -> None:
    """With one class the same boxes stay, in the same order."""
    boxes = random_boxes()
    scores = 0.5 + 0.5 * torch.rand(len(boxes), generator=generator(0, "scores"))
    ours = non_maximum_suppression(Detections(boxes[None], scores[None, :, None]))[0]
    theirs = kornia.geometry.bbox.nms(boxes, scores, 0.45)
    torch.testing.assert_close(ours.boxes, boxes[theirs])


def test_total_variation_is_kornias_without_a_mask() -> None:
    """Over a whole picture it is kornia's, per value of it."""
    patch = torch.rand(1, 3, 12, 9, generator=generator(0, "patch"))
    theirs = kornia.losses.total_variation(patch).mean() / (12 * 9)
    torch.testing.assert_close(total_variation(patch, torch.ones(1, 1, 12, 9)), theirs)
