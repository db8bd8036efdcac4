"""Rows of certificates: the same for every grouping, radii that mean what they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from physadv.certification.bounds.verify import prepare_graph, verify_bounds
from physadv.certification.patch.masking import PatchCleanser
from physadv.certification.smoothing.noise import GaussianNoise
from physadv.core.errors import OptionError
from physadv.datasets.base import in_memory
from physadv.evaluation import certified_accuracy
from physadv.evaluation.certified_accuracy import (
    BoundCertifier,
    SmoothingCertifier,
    certify_all,
    is_certified,
    summarize_certified,
)
from physadv.evaluation.progress_log import ProgressLog
from physadv.evaluation.samples import EvaluationSamples, choose_samples
from physadv.models.cards import ModelCard
from physadv.models.load import as_model
from physadv.models.resizing import InputResizing
from physadv.training.loop import seed_all

SIDE = 6


def net() -> nn.Module:
    def made() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))

    return seed_all(made, 4).eval()


def samples(model: nn.Module, n: int = 9) -> EvaluationSamples:
    """Images labeled as the victim reads them, one in three wrongly."""
    pixels = np.random.default_rng(0).integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8)
    read = model(torch.tensor(pixels).permute(0, 3, 1, 2).float() / 255).argmax(1).numpy()
    labels = np.where(np.arange(n) % 3 == 2, (read + 1) % 3, read)
    return choose_samples(
        in_memory(pixels, labels.astype(np.int64), ("0", "1", "2"), "made"), ModelCard("made")
    )


def rows_of(
    certifier: BoundCertifier | SmoothingCertifier, data: EvaluationSamples
) -> list[dict[str, float]]:
    ledger = ProgressLog(None)
    list(certify_all(certifier, data, ledger, device="cpu", tick=lambda share: None))
    return [ledger.rows[i] for i in range(len(data))]


def test_the_largest_certified_radius_is_found() -> None:
    """The radius of a row is the largest asked about that holds by itself, whichever radius is the
    main one."""
    model = net()
    data, graph = samples(model), prepare_graph(model, (3, SIDE, SIDE))
    radii = [0.001, 0.004, 0.01, 0.03, 0.1]
    images, labels = data.images(range(len(data))), data.targets(range(len(data)))
    each = torch.stack(
        [verify_bounds(graph, images, labels, eps=r, method="ibp").certified for r in radii]
    )
    wanted = [
        max((r for r, ok in zip(radii, column, strict=True) if ok), default=0.0)
        for column in each.T
    ]
    assert len(set(wanted)) >= 3
    for main in (0.001, 0.01, 0.1):
        rows = rows_of(
            BoundCertifier(graph, "ibp", norm="linf", eps=radii, main=main, group=4), data
        )
        assert [r["radius"] for r in rows] == wanted


@pytest.mark.parametrize("radius", [None, 0.05])
def test_smoothing_rows_do_not_depend_on_batch(radius: float | None) -> None:
    """Another batch size gives the same rows, and a fixed radius is all that is claimed."""
    model = net()
    data = samples(model, 5)

    def run(batch: int) -> list[dict[str, float]]:
        made = SmoothingCertifier(
            model,
            GaussianNoise(0.1),
            norm="l2",
            dims=3 * SIDE**2,
            radius=radius,
            n=600,
            n0=20,
            alpha=0.01,
            batch=batch,
        )
        return rows_of(made, data)

    assert run(32) == run(500)
    assert radius is None or {r["radius"] for r in run(64)} <= {0.0, radius}


def test_summary_counts_only_right_and_wide_enough() -> None:
    """Certified accuracy falls with the radius; wrong and abstained images never count."""
    rows = [
        {"label": 1, "predicted": 1, "radius": 0.3},
        {"label": 1, "predicted": 2, "radius": 0.9},
        {"label": 0, "predicted": -1, "radius": 0.0},
        {"label": 2, "predicted": 2, "radius": 0.1},
    ]
    found = summarize_certified(rows, [0.0, 0.2, 0.5])
    assert [p["rate"] for p in found["curve"]] == [0.5, 0.25, 0.0]
    assert found["abstained"] == 1
    assert found["mean_radius"] == pytest.approx(0.1)
    assert not is_certified(rows[1], 0.1)


def test_certified_images_of_a_linear_model_cannot_be_moved() -> None:
    """Smoothing's radius is below the true distance of the smoothed linear classifier."""
    weight = torch.zeros(2, 3 * SIDE**2)
    weight[1, 0] = 1.0
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, 2))
    model[1].weight.data, model[1].bias.data = weight, torch.tensor([0.0, -0.5])

    def distances(x: Tensor) -> Tensor:
        return (x.flatten(1)[:, 0] - 0.5).abs()

    data = samples(model.eval(), 6)
    made = SmoothingCertifier(
        model, GaussianNoise(0.2), norm="l2", dims=3 * SIDE**2, n=3000, alpha=0.01
    )
    radii = torch.tensor([r["radius"] for r in rows_of(made, data)])
    assert (radii <= distances(data.images(range(6)))).all()
    assert radii.max() > 0.1


def test_settings_out_of_reach_are_refused() -> None:
    """A radius that the noise can never certify, and radii without the main one, are errors."""
    with pytest.raises(OptionError):
        SmoothingCertifier(net(), GaussianNoise(0.1), norm="l2", dims=108, radius=5.0)
    with pytest.raises(OptionError):
        BoundCertifier(
            prepare_graph(net(), (3, SIDE, SIDE)), "ibp", norm="linf", eps=[0.1], main=0.2
        )


def test_a_patch_certificate_claims_the_smaller_side_of_what_it_proves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Masks laid for a patch of 3 x 2 px prove nothing about one of 3 x 3."""

    def brightness(x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3))
        return torch.stack([mean * 0, mean - 0.2], 1)

    defense = PatchCleanser(brightness, patch=(3, 2), masks=3)
    monkeypatch.setattr(
        certified_accuracy,
        "certified_defense",
        lambda model: (defense, InputResizing((SIDE, SIDE))),
    )
    certifier = certified_accuracy.PatchCertifier(as_model(net(), classes=["0", "1", "2"]))
    rows = certifier.rows(
        torch.ones(2, 3, SIDE, SIDE), torch.ones(2, dtype=torch.long), [0, 1], lambda share: None
    )
    assert [row["radius"] for row in rows] == [2.0, 2.0]
