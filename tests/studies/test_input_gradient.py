"""The study of the input gradient: its attack, its spectra, its two uses, and a run end to end."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from test_small_classifiers import striped_digits
from torch import Tensor, nn

from physadv.attacks.gradient import pgd
from physadv.core.image_io import save_png
from physadv.core.random_streams import generator
from physadv.core.synthetic_backgrounds import synthetic_background
from physadv.models.load import as_model
from physadv.studies.attack_studies_config import GradientConfig
from physadv.studies.box_lbfgs import box_lbfgs
from physadv.studies.input_gradient import (
    STUDY,
    losses_along_gradient,
    rms,
    rounded_beyond,
    smallest_distortions,
    target_class,
)
from physadv.studies.page import Pictures
from physadv.studies.spectra import radial_power, spectrum_picture
from physadv.studies.study import run_study, study_rows


def linear(weights: Tensor) -> nn.Module:
    """Two classes whose logits are 0 and w x."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(len(weights), 2))
    net[1].weight.data = torch.stack([torch.zeros_like(weights), weights])
    net[1].bias.data.zero_()
    return net.requires_grad_(False)


def test_lbfgs_finds_the_nearest_point_of_a_half_space() -> None:
    """On a linear classifier the nearest image of the other class is the foot of the perpendicular;
    a large weight of the distance comes within a few percent of it."""
    weights = torch.randn(36, generator=generator(0, "w"))
    image = torch.full((1, 6, 6), 0.5)
    image -= 0.02 * weights.view(1, 6, 6)  # on the side of class 0
    distance = float(-(weights @ image.flatten()) / weights.norm())
    target = int(distance > 0)
    near = box_lbfgs(linear(weights), image, target, searches=16, steps=60)
    assert near is not None
    assert int(linear(weights)(near[None]).argmax()) == target
    assert abs(distance) <= float((near - image).norm()) <= 1.1 * abs(distance) + 1e-3


def test_lbfgs_says_where_it_finds_nothing() -> None:
    """A class that no image has is not reached, and the image stays within [0, 1] elsewhere."""
    assert box_lbfgs(linear(-torch.ones(4)), torch.full((1, 2, 2), 0.5), 1) is None
    near = box_lbfgs(linear(torch.tensor([1.0, -1, 0, 0])), torch.tensor([[[0.1, 0.3], [0, 1]]]), 1)
    assert near is not None
    assert 0 <= float(near.min()) <= float(near.max()) <= 1


def test_one_gradient_lowers_the_loss_in_the_weights_and_raises_it_in_the_input() -> None:
    """Small steps change the loss by the gradient's length times the step's, with opposite signs,
    and leave the network as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Sigmoid(), nn.Linear(8, 3))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    image, label = torch.rand((1, 1, 4, 4), generator=generator(0, "x")), torch.tensor([1])
    step = 1e-4
    losses = losses_along_gradient(net, image, label, (0.0, step))

    x = image.clone().requires_grad_()
    loss = nn.functional.cross_entropy(net(x), label)
    slope, *own = torch.autograd.grad(loss, [x, *net.parameters()])
    rise = step * float(image.norm() * slope.norm())
    total = torch.cat([p.detach().flatten() for p in net.parameters()]).norm()
    fall = step * float(total * torch.cat([g.flatten() for g in own]).norm())
    assert losses["input"][1] - losses["input"][0] == pytest.approx(rise, rel=0.05)
    assert losses["weights"][0] - losses["weights"][1] == pytest.approx(fall, rel=0.05)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_white_noise_has_the_same_power_at_all_frequencies() -> None:
    """White noise has power 1 everywhere, within its spread; a wave only at its own frequency."""
    noise = torch.randn((400, 16, 16), generator=generator(0, "noise"))
    assert all(abs(power - 1) < 0.1 for _, power in radial_power(noise))
    wave = torch.cos(2 * torch.pi * torch.arange(16) * 2 / 16)[:, None].expand(16, 16)[None]
    power = dict(radial_power(wave + 3))
    assert max(power, key=lambda f: power[f]) == 0.125
    assert power[0.25] == pytest.approx(0, abs=1e-9)
    assert spectrum_picture(wave[0]).amin() == 0
    assert spectrum_picture(wave[0]).amax() == 1


def test_the_smallest_distortion_is_that_of_the_boundary() -> None:
    """For a linear classifier PGD succeeds first at the level just above the distance."""
    weights = torch.ones(16)
    net = linear(weights)
    net[1].bias.data = torch.tensor([0.0, -8.4])  # boundary where the mean is 0.525
    images = torch.full((2, 1, 4, 4), 0.5)
    images[1] = 0.47
    attack = partial(pgd, norm="l2", steps=10, speed="plain")
    found = smallest_distortions(attack, net, images, torch.zeros(2, dtype=torch.long), None)
    assert found == [pytest.approx(0.03, abs=1e-4), pytest.approx(0.06, abs=1e-4)]


def test_rounding_does_not_undo_an_attack() -> None:
    """A change too small to survive 8 bits is enlarged until it does, or reported as failed."""
    weights = torch.ones(16)
    net = linear(weights)
    net[1].bias.data = torch.tensor([0.0, -16 * (128.9 / 255)])
    clean = torch.full((1, 4, 4), 128 / 255)
    moved, success = rounded_beyond(net, clean, torch.full((1, 4, 4), 129.1 / 255), 1)
    assert success
    assert torch.equal(moved * 255, (moved * 255).round())
    assert rounded_beyond(net, clean, None, 1) == (clean, False)
    assert not rounded_beyond(net, clean, clean + 0.1 / 255, 1)[1]


def test_photos_become_ostriches_where_the_model_knows_them() -> None:
    """The target is the paper's, unless the photo shows it already or the model does not know
    it."""
    model = as_model(nn.Identity(), classes=["cat", "ostrich, bird", "dog"], name="toy")
    assert target_class(model, torch.tensor([[3.0, 1.0, 0.0]])) == 1
    assert target_class(model, torch.tensor([[1.0, 3.0, 0.0]])) == 2
    plain = as_model(nn.Identity(), classes=["cat", "dog"], name="toy")
    assert target_class(plain, torch.tensor([[0.0, 3.0]])) == 0


def test_a_quick_run_fills_its_page(tmp_path: Path) -> None:
    """All figures are drawn from the rows of a quick run; photos are attacked with any model."""
    data = striped_digits(tmp_path / "set.npz", 300, test=60)
    for k in range(2):
        picture = synthetic_background(k, height=70, width=60)
        save_png(tmp_path / "photos" / f"{k}.png", picture)
    config = GradientConfig(
        data=str(data), pictures=str(tmp_path / "photos"), model="signs", quick=True
    )
    folder = tmp_path / "run"
    *_, last = run_study(STUDY, config, folder)
    page = STUDY.page(config, study_rows(STUDY, config, folder))
    assert last.done == last.total == len(STUDY.parts(config))
    assert rms(torch.full((2, 2), 0.5)) == 0.5
    names = [figure.name for figure in page.figures]
    assert len(names) == len(set(names))
    for figure in page.figures:
        if isinstance(figure, Pictures):
            files = [picture.file for row in figure.rows for picture in row]
            assert all((folder / file).is_file() for file in files)
