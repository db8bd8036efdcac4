"""Minimum-norm attacks: the nearest boundary of a linear victim, in every norm, with [0, 1] as a
limit."""

from __future__ import annotations

import pytest
import torch
from linear import Linear, least_distance, samples
from torch import Tensor

from physadv.attacks._hyperplane import project_to_plane
from physadv.attacks.augmented_lagrangian import alma
from physadv.attacks.minimum_norm import cw_l2, deepfool, fab, superdeepfool
from physadv.attacks.norm_descent import _within, ddn, fmn
from physadv.certification.bounds.verify import prepare_graph, verify_bounds
from physadv.core.errors import OptionError
from physadv.threat.norms import NORMS, Norm, lp_distance


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
@pytest.mark.parametrize("attack", [fab, deepfool])
def test_finds_the_nearest_boundary(attack, norm: Norm, classes: int, scale: float) -> None:  # type: ignore[no-untyped-def]
    """All samples are broken, at most half a percent farther than the closed-form nearest image,
    and never nearer."""
    model = Linear(classes, scale=scale)
    x, y = samples(model)
    near = least_distance(model, x, y, norm)
    result = attack(model, x, y, norm=norm, steps=30)
    assert result.success.all()
    assert (result.loss.double() < 1.005 * near).all()
    assert (result.loss.double() > near - 1e-6).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [2, 5])
def test_fab_ends_at_the_very_boundary(classes: int, norm: Norm) -> None:
    """With a line search of 14 passes FAB is within 1e-4 of the closed-form distance."""
    model = Linear(classes)
    x, y = samples(model)
    near = least_distance(model, x, y, norm)
    result = fab(model, x, y, norm=norm, steps=74, refine=14)
    assert result.loss is not None
    assert (result.loss.double() < (1 + 1e-4) * near).all()
    assert (result.loss.double() > near - 1e-6).all()


@pytest.mark.parametrize("scale", [1.0, 1000.0])
@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_alma_finds_the_nearest_boundary(norm: Norm, scale: float) -> None:
    """ALMA comes within 0.2 % of the nearest image in l_2 and within 20 % in l_1, where it steps to
    and fro across 0, at any logit scale and with two classes as well; and never nearer."""
    for classes in (2, 5):
        model = Linear(classes, scale=scale)
        x, y = samples(model)
        near = least_distance(model, x, y, norm)
        result = alma(model, x, y, norm=norm)
        assert result.success.all()
        assert result.loss is not None
        assert (result.loss.double() < (1.2 if norm == "l1" else 1.002) * near).all()
        assert (result.loss.double() > near - 1e-6).all()


def test_alma_refuses_what_it_cannot() -> None:
    """l_inf, a momentum of 1 and curvatures that do not grow are errors that name the remedy."""
    model = Linear()
    x, y = samples(model)
    with pytest.raises(OptionError, match="fab"):
        alma(model, x, y, norm="linf")
    for wrong in ({"momentum": 1.0}, {"growth": 1.0}):
        with pytest.raises(OptionError, match="growth"):
            alma(model, x, y, **wrong)


class Plateau(torch.nn.Module):
    """Two classes, parted by a plane, by a ReLU that is dead around images near 0.5."""

    def forward(self, images: Tensor) -> Tensor:
        risen = (images.flatten(1).mean(1) - 0.55).relu()
        return torch.stack([0.1 - 4 * risen, torch.zeros_like(risen)], 1)


@pytest.mark.parametrize("attack", [fab, ddn, fmn, alma])
def test_leaves_plateaus(attack) -> None:  # type: ignore[no-untyped-def]
    """Where the gradient is exactly 0 the attacks take random steps, and find the boundary."""
    x = torch.full((3, 1, 3, 3), 0.5)
    y = torch.zeros(3, dtype=torch.long)
    more = {} if attack is ddn else {"norm": "l2"}
    result = attack(Plateau(), x, y, **more)
    assert result.success.all()
    assert torch.equal(result.images, attack(Plateau(), x, y, **more).images)


@pytest.mark.parametrize(
    ("attack", "norm"), [(fab, "linf"), (fmn, "linf"), (fab, "l2"), (alma, "l2")]
)
def test_never_beats_a_certificate(attack, norm: Norm) -> None:  # type: ignore[no-untyped-def]
    """No adversarial image lies within a radius that bounds certify."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(16, 24), torch.nn.ReLU(), torch.nn.Linear(24, 4)
        )
        x = torch.rand(24, 1, 4, 4)
    with torch.no_grad():
        y = net(x).argmax(1)
    distance = attack(net, x, y, norm=norm).loss
    graph, certified = prepare_graph(net, (1, 4, 4)), torch.zeros(24)
    for eps in torch.linspace(0.002, 0.4, 40).tolist():
        margins = verify_bounds(graph, x, y, eps=eps, norm=norm).margins
        certified = torch.where(margins > 0, eps, certified)
    assert (certified > 0).sum() > 12
    assert (distance >= certified).all()


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_superdeepfool_finds_the_nearest_boundary(scale: float) -> None:
    """On linear models it is as near as DeepFool: within half a percent of the nearest image."""
    model = Linear(5, scale=scale)
    x, y = samples(model)
    near = least_distance(model, x, y, "l2")
    result = superdeepfool(model, x, y, steps=30)
    assert result.success.all()
    assert result.loss is not None
    assert (result.loss.double() < 1.005 * near).all()
    assert (result.loss.double() > near - 1e-6).all()


class Bowl(torch.nn.Module):
    """Two classes, parted by an ellipsoid around 0.5 whose axes differ fourfold."""

    def forward(self, images: Tensor) -> Tensor:
        weights = torch.linspace(1, 16, images[0].numel())
        inside = 1 - (weights * (images - 0.5).flatten(1).square()).sum(1)
        return torch.stack([inside, -inside], 1)


def test_superdeepfool_is_nearer_than_deepfool_at_a_bent_boundary() -> None:
    """Where the boundary bends, DeepFool's path ends off the normal; projecting brings it near."""
    x = 0.5 + 0.1 * torch.rand(32, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    model, y = Bowl(), torch.zeros(32, dtype=torch.long)
    assert (model(x).argmax(1) == 0).all()
    old, new = deepfool(model, x, y, steps=40), superdeepfool(model, x, y, steps=40)
    assert old.success.all()
    assert new.success.all()
    assert old.loss is not None
    assert new.loss is not None
    assert (new.loss <= old.loss + 1e-5).all()
    assert new.loss.mean() < 0.995 * old.loss.mean()


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_cw_finds_the_nearest_boundary(scale: float) -> None:
    """Carlini & Wagner's attack comes within 8 % of the nearest image, at any logit scale."""
    model = Linear(5, scale=scale)
    x, y = samples(model)
    near = least_distance(model, x, y, "l2")
    result = cw_l2(model, x, y)
    assert result.success.all()
    assert result.loss is not None
    assert (result.loss.double() < 1.08 * near).all()
    assert (result.loss.double() > near - 1e-6).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_fmn_finds_the_nearest_boundary(norm: Norm, scale: float) -> None:
    """The fast minimum-norm attack comes within 5 % of the nearest image, in l_1 (where the edges
    of [0, 1] bind most) within 20 %, and never nearer."""
    model = Linear(5, scale=scale)
    x, y = samples(model)
    near = least_distance(model, x, y, norm)
    result = fmn(model, x, y, norm=norm)
    assert result.success.all()
    assert result.loss is not None
    assert (result.loss.double() < (1.2 if norm == "l1" else 1.05) * near).all()
    assert (result.loss.double() > near - 1e-6).all()


@pytest.mark.parametrize("steps", [30, 100])
def test_ddn_finds_the_nearest_boundary(steps: int) -> None:
    """DDN comes within 10 % in 30 steps; in 100 within 5 %, and all but one within 0.1 %."""
    model = Linear(5)
    x, y = samples(model)
    near = least_distance(model, x, y, "l2")
    result = ddn(model, x, y, steps=steps)
    assert result.success.all()
    assert result.loss is not None
    assert (result.loss.double() < (1.1 if steps == 30 else 1.05) * near).all()
    if steps == 100:
        assert (result.loss.double() < 1.001 * near).sum() >= len(near) - 1
    assert (result.loss.double() > near - 1e-6).all()


def test_few_steps_suffice_where_pixels_begin_at_the_edges() -> None:
    """C&W with 5 searches of 11 steps, DDN and FMN with 40 steps break all images of pixels that
    are exactly 0 or 1; a tanh that begins at its very end would not move them."""
    model = Linear(5)
    x = (samples(model, 12)[0] > 0.5).to(torch.float64)
    y = model(x).argmax(1)
    for result in (
        cw_l2(model, x, y, searches=5, steps=11),
        ddn(model, x, y, steps=40),
        fmn(model, x, y, norm="l2", steps=40),
    ):
        assert result.success.all()


@pytest.mark.parametrize("norm", NORMS)
def test_projections_are_the_nearest_points(norm: Norm) -> None:
    """What lies within stays, what is projected has the radius's length, and no point of the ball
    among many is nearer in l_2."""
    draws = torch.Generator().manual_seed(0)
    change = torch.randn(6, 3, 4, dtype=torch.float64, generator=draws)
    radius = torch.tensor([0.1, 0.5, 1.0, 2.0, 5.0, 100.0], dtype=torch.float64)
    inside = _within(change, radius, norm)
    length = lp_distance(inside, torch.zeros_like(inside), norm)
    assert (length <= radius * (1 + 1e-9)).all()
    assert torch.equal(inside[-1], change[-1])
    tries = torch.randn(500, 6, 3, 4, dtype=torch.float64, generator=draws)
    for point in tries:
        other = _within(point, radius, norm)
        far = (other - change).flatten(1).norm(dim=1)
        assert (far >= (inside - change).flatten(1).norm(dim=1) - 1e-9).all()


@pytest.mark.parametrize("norm", NORMS)
def test_eps_decides(norm: Norm) -> None:
    """With eps, exactly the samples whose nearest boundary lies within it are broken."""
    model = Linear(5)
    x, y = samples(model, 12)
    near = least_distance(model, x, y, norm)
    eps = float(near.sort().values[5:7].mean())
    for attack in (fab, deepfool):
        result = attack(model, x, y, norm=norm, eps=eps, steps=30)
        assert torch.equal(result.success, near < eps)
        assert (lp_distance(result.images, x, norm) <= eps).all()


@pytest.mark.parametrize("norm", NORMS)
def test_targets(norm: Norm) -> None:
    """Towards a target the result is the nearest image that is just classified as it."""
    model = Linear(4)
    x, y = samples(model)
    targets = (y + 2) % 4
    result = fab(model, x, y, norm=norm, targets=targets, steps=60)
    with torch.no_grad():
        assert (model(result.images).argmax(1) == targets).all()
    assert result.success.all()


def test_copy_and_model_disagree_at_the_boundary() -> None:
    """Finds made on a faster copy that is a little more easily fooled are pushed out until the
    victim agrees."""
    model, copy = Linear(3), Linear(3)
    copy.bias.data += torch.tensor([0.02, 0.0, 0.0], dtype=torch.float64)
    x, y = samples(model)
    result = fab(model, x, y, norm="l2", steps=30, speed=Copy(copy))
    with torch.no_grad():
        assert torch.equal(model(result.images).argmax(1) != y, result.success)
    assert result.success.all()


def Copy(module: torch.nn.Module):  # type: ignore[no-untyped-def]  # noqa: N802
    """The module as a prepared faster copy."""
    from physadv.attacks._fused_model import FusedModel

    return FusedModel(module, channels_last=False, bf16=False)


@pytest.mark.parametrize("norm", NORMS)
def test_planes(norm: Norm) -> None:
    """The change meets the plane and stays in [0, 1]; no random change that meets it is shorter."""
    model = Linear()
    x, _ = samples(model)
    slope = model.weight[0].detach().view(1, *x.shape[1:]).expand_as(x)
    value = torch.linspace(-0.6, 0.6, len(x), dtype=torch.float64)
    change = project_to_plane(x, slope, value, norm)
    assert ((slope * change).flatten(1).sum(1) + value).abs().max() < 1e-9
    assert (x + change).min() >= -1e-12
    assert (x + change).max() <= 1 + 1e-12
    own = length(change, norm)
    for seed in range(20):
        other = (
            torch.rand(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            - x
        )
        inner = (slope * other).flatten(1).sum(1)
        share = -value / inner
        usable = (share > 0) & (share <= 1)
        assert (length(other * share.view(-1, 1, 1, 1), norm)[usable] >= own[usable] - 1e-9).all()


def length(change: Tensor, norm: Norm) -> Tensor:
    return lp_distance(change, torch.zeros_like(change), norm)


def test_unreachable_plane() -> None:
    """Where the plane does not meet [0, 1], the change goes as far as it can and is finite."""
    x = torch.full((2, 1, 2, 2), 0.5)
    for norm in NORMS:
        change = project_to_plane(x, torch.ones_like(x), torch.tensor([100.0, -100.0]), norm)
        assert change.isfinite().all()
        assert torch.equal(change.abs(), torch.full_like(change, 0.5))


def test_refine_needs_room() -> None:
    """Fewer steps than the line search takes is an error."""
    model = Linear()
    x, y = samples(model)
    with pytest.raises(OptionError, match="refine"):
        fab(model, x, y, steps=3)
