"""Overlap and suppression, against numbers worked by hand and against a plain greedy loop."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from physadv.core.boxes import box_areas, box_iou
from physadv.core.random_streams import generator
from physadv.core.types import Detections
from physadv.models.detectors import best_of_class, non_maximum_suppression


def boxes_of(n: int, seed: int) -> torch.Tensor:
    draw = torch.rand(n, 4, generator=generator(seed, "boxes"))
    low = draw[:, :2] * 20
    return torch.cat((low, low + 1 + draw[:, 2:] * 10), 1)


def test_overlap_by_hand() -> None:
    """Two 2x2 squares sharing one unit overlap by 1/7; a box with itself by 1; apart by 0; an empty
    one by 0."""
    a = torch.tensor([[0.0, 0, 2, 2], [5, 5, 5, 5]])
    b = torch.tensor([[1.0, 1, 3, 3], [0, 0, 2, 2], [9, 9, 10, 10]])
    assert torch.allclose(box_iou(a, b), torch.tensor([[1 / 7, 1, 0], [0, 0, 0]]))
    assert box_areas(torch.tensor([3.0, 3, 1, 9])) == 0


def greedy(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> list[int]:
    kept: list[int] = []
    for i in scores.argsort(descending=True, stable=True).tolist():
        if all(float(box_iou(boxes[i][None], boxes[j][None])) <= threshold for j in kept):
            kept.append(i)
    return kept


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.sampled_from([0.0, 0.2, 0.45, 0.7]))
def test_suppression_equals_the_greedy_loop(seed: int, n: int, threshold: float) -> None:
    """The fixed point is what the textbook loop keeps, box by box."""
    boxes = boxes_of(n, seed)
    scores = torch.rand(n, 1, generator=generator(seed, "scores"))
    (found,) = non_maximum_suppression(Detections(boxes[None], scores[None]), 0.0, threshold)
    assert torch.equal(found.boxes, boxes[greedy(boxes, scores[:, 0], threshold)])


def test_classes_do_not_suppress_each_other() -> None:
    """The same box for two classes stays twice; within a class once, best first."""
    boxes = torch.tensor([[0.0, 0, 10, 10]]).repeat(3, 1)
    scores = torch.tensor([[0.9, 0.0], [0.0, 0.8], [0.7, 0.0]])
    (found,) = non_maximum_suppression(Detections(boxes[None], scores[None]), 0.5)
    assert found.labels.tolist() == [0, 1]
    assert found.scores.tolist() == pytest.approx([0.9, 0.8])


def test_multi_label_counts_a_box_for_each_class_over_the_threshold() -> None:
    """0.9 and 0.6 in one box: one label by default, two with multi_label."""
    found = Detections(torch.tensor([[[0.0, 0, 10, 10]]]), torch.tensor([[[0.9, 0.6]]]))
    assert non_maximum_suppression(found, 0.5)[0].labels.tolist() == [0]
    assert non_maximum_suppression(found, 0.5, multi_label=True)[0].labels.tolist() == [0, 1]


def test_nothing_over_the_threshold_is_an_empty_answer() -> None:
    """An image without detections gives an empty Found, not an error."""
    (found,) = non_maximum_suppression(Detections(torch.zeros(1, 5, 4), torch.zeros(1, 5, 2)), 0.5)
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)


def test_best_of_class_is_limited_to_a_box() -> None:
    """Without a box the best anywhere; with one, only candidates that overlap it; with none there,
    0."""
    boxes = torch.tensor([[[0.0, 0, 10, 10], [50, 50, 60, 60]]]).repeat(2, 1, 1)
    scores = torch.tensor([[[0.3], [0.9]], [[0.2], [0.1]]], requires_grad=True)
    found = Detections(boxes, scores)
    place = torch.tensor([0.0, 0, 10, 11])
    assert best_of_class(found, 0).tolist() == pytest.approx([0.9, 0.2])
    assert best_of_class(found, 0, place).tolist() == pytest.approx([0.3, 0.2])
    assert best_of_class(found, 0, torch.tensor([20.0, 20, 30, 30])).tolist() == [0, 0]
    per_image = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    assert best_of_class(found, 0, per_image).tolist() == pytest.approx([0.3, 0.1])
    best_of_class(found, 0, place).sum().backward()
    assert scores.grad is not None
    assert scores.grad[0, :, 0].tolist() == [1, 0]
