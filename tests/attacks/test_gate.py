"""What holds for every attack there is on models that are not as they should be: what comes back is
right, carries a finding, or is refused by name, and nothing of the caller's is changed.

Each attack runs on each kind of model of the table ``KINDS``; the truth is what the very model says
of the images that come back.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from odd_models import KINDS, Net, Wrapped, batch, kept_state, truth, unchanged
from torch import Tensor, nn

from physadv import attacks
from physadv.attacks.attack_result import AttackResult
from physadv.core.errors import ImageError, OptionError, PhysadvError
from physadv.core.findings import FindingWarning
from physadv.evaluation.ensemble import attack_ensemble, standard_stages
from physadv.threat.norms import lp_distance

EPS = 0.1


@dataclass(frozen=True)
class Named:
    """An attack with its options; its images are within ``eps`` in ``norm``, or so many pixels."""

    run: Callable[..., AttackResult]
    norm: Any = "linf"
    eps: float | None = EPS
    pixels: int | None = None
    black: bool = False

    def __call__(self, model: Any, images: Any, labels: Any, **options: Any) -> AttackResult:
        """Run it within ``eps``, where it has one."""
        radius = {} if self.eps is None else {"eps": self.eps}
        return self.run(model, images, labels, **{**radius, **options})


def transferred(model: Any, images: Any, labels: Any, *, eps: Any) -> AttackResult:
    """Transfer from the model itself to the model."""
    attack = partial(attacks.pgd, eps=eps, steps=4)
    return attacks.transfer_attack(model, images, labels, surrogates=[model], attack=attack)


def estimated(model: Any, images: Any, labels: Any, *, eps: Any) -> AttackResult:
    """PGD on estimated gradients."""
    box = attacks.EstimatedGradient(model, pairs=3, sigma=0.05)
    return attacks.pgd(box, images, labels, eps=eps, steps=2, speed="plain")


def straight_through(model: Any, images: Any, labels: Any, *, eps: Any) -> AttackResult:
    """PGD through a part that has no gradient."""
    part = attacks.bpda(lambda x: x.clone())
    return attacks.pgd(lambda x: model(part(x)), images, labels, eps=eps, steps=4)


def expected(model: Any, images: Any, labels: Any, *, eps: Any) -> AttackResult:
    """PGD on the expectation over draws."""
    return attacks.pgd(attacks.expectation_model(model, draws=2), images, labels, eps=eps, steps=3)


ATTACKS = {
    "fgsm": Named(attacks.fgsm),
    "fgsm-l1": Named(partial(attacks.fgsm, norm="l1"), "l1", 5.0),
    "pgd": Named(partial(attacks.pgd, steps=5)),
    "pgd-plain": Named(partial(attacks.pgd, steps=5, speed="plain", loss="margin")),
    "pgd-l2": Named(partial(attacks.pgd, steps=5, norm="l2", keep="loss"), "l2", 0.8),
    "pgd-bf16": Named(partial(attacks.pgd, steps=5, speed="bf16")),
    "apgd": Named(partial(attacks.apgd, steps=5, loss="dlr")),
    "gradient_ascent": Named(partial(attacks.gradient_ascent, steps=5), "l2", 0.8),
    "mi_fgsm": Named(partial(attacks.mi_fgsm, steps=4)),
    "mi_fgsm-diverse": Named(partial(attacks.mi_fgsm, steps=4, diverse=attacks.DiverseInputs())),
    "mi_fgsm-bsr": Named(partial(attacks.mi_fgsm, steps=3, diverse=attacks.BlockShuffle(copies=2))),
    "mi_fgsm-decowa": Named(
        partial(attacks.mi_fgsm, steps=3, diverse=attacks.DeformationWarp(copies=2))
    ),
    "fab": Named(partial(attacks.fab, steps=10)),
    "fab-nearest": Named(partial(attacks.fab, steps=10, norm="l2"), "l2", None),
    "alma": Named(partial(attacks.alma, steps=20), "l2", 0.8),
    "deepfool": Named(partial(attacks.deepfool, steps=10), "l2", 0.8),
    "superdeepfool": Named(partial(attacks.superdeepfool, steps=10), "l2", 0.8),
    "ddn": Named(partial(attacks.ddn, steps=12), "l2", 0.8),
    "fmn": Named(partial(attacks.fmn, steps=12)),
    "sigma_zero": Named(partial(attacks.sigma_zero, steps=20), "l0", 3.0),
    "pgd-l0": Named(partial(attacks.pgd, steps=5, norm="l0"), "l0", 3.0),
    "cw_l2": Named(partial(attacks.cw_l2, steps=8, searches=2), "l2", 0.8),
    "universal_perturbation": Named(partial(attacks.universal_perturbation, epochs=2)),
    "square_attack": Named(partial(attacks.square_attack, queries=12), black=True),
    "square_attack-l2": Named(
        partial(attacks.square_attack, queries=12, norm="l2"), "l2", 0.8, black=True
    ),
    "square_attack-l1": Named(
        partial(attacks.square_attack, queries=12, norm="l1"), "l1", 5.0, black=True
    ),
    "rays": Named(partial(attacks.rays, queries=40), black=True),
    "hopskipjump": Named(partial(attacks.hopskipjump, queries=60), "l2", 0.8, black=True),
    "surfree": Named(partial(attacks.surfree, queries=60), "l2", 0.8, black=True),
    "geoda": Named(partial(attacks.geoda, queries=60), "l2", 0.8, black=True),
    "saliency_attack": Named(partial(attacks.saliency_attack, pixels=3), "linf", None, 3),
    "pointwise": Named(
        partial(attacks.pointwise, pixels=3, queries=60), "linf", None, 3, black=True
    ),
    "sparse_search": Named(
        partial(attacks.sparse_search, pixels=3, queries=10), "linf", None, 3, black=True
    ),
    "transfer_attack": Named(transferred),
    "EstimatedGradient": Named(estimated, black=True),
    "bpda": Named(straight_through),
    "expectation_model": Named(expected),
    "ensemble": Named(partial(attack_ensemble, plan=standard_stages()[:3])),
}
"""Every attack by name, options after a dash."""


def hidden(name: str, finding: str) -> bool:
    """Whether what an attack is, or what stands before the model, rightly hides a finding."""
    if finding == "zero-gradient":  # not asked for, or another model's
        return ATTACKS[name].black or name == "transfer_attack"
    if finding == "changes-its-input":  # what stands before the model gives it copies
        return name in ("EstimatedGradient", "bpda", "expectation_model")
    if finding == "non-finite-output":  # a surrogate's output is its own affair
        return name == "transfer_attack"
    # An expectation is of log-probabilities and not random, and fresh draws may agree.
    return name == "expectation_model" and finding in (
        "softmax-output",
        "random-output",
        "batch-dependent",
    )


def outcome(
    attack: Named, model: nn.Module, images: Tensor, labels: Tensor
) -> AttackResult | PhysadvError:
    """The result of an attack, or the error that refuses the call."""
    try:
        return attack(model, images, labels)
    except PhysadvError as error:
        return error


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_on_every_kind_of_model(name: str, kind: str) -> None:
    """Success is the model's own word, or the result carries the finding and one warning, or an
    error names what is wrong; images keep their limits and the caller's things their values."""
    attack, case = ATTACKS[name], KINDS[kind]
    model = Wrapped(case.around, None)
    model.train()
    images, labels = batch()
    before, clean, classes = kept_state(model), images.clone(), labels.clone()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = outcome(attack, model, images, labels)

    assert unchanged(before, kept_state(model))
    assert torch.equal(images, clean)
    assert torch.equal(labels, classes)
    assert not images.requires_grad
    if isinstance(result, PhysadvError):
        assert case.refused or not case.gradient, result
        assert case.refused in str(result)
        assert "\n" not in str(result)
        return
    assert not case.refused
    assert case.gradient or attack.black or name == "ensemble"

    assert result.images.min() >= 0
    assert result.images.max() <= 1
    if attack.eps is not None:
        assert (lp_distance(result.images, clean, attack.norm) <= attack.eps).all()
    if attack.pixels is not None:
        assert (result.images != clean).any(1).flatten(1).sum(1).max() <= attack.pixels
    found = truth(model, result.images, labels)
    if case.exact:
        assert torch.equal(result.success, found)

    named = [finding.name for finding in result.findings]
    announced = [str(one.message) for one in caught if one.category is FindingWarning]
    assert len(announced) == bool(named)
    assert all(finding in announced[0] for finding in named)
    assert not case.finding or case.finding in named or hidden(name, case.finding)


@pytest.mark.parametrize("name", ["pgd", "apgd", "fab", "ensemble", "square_attack"])
def test_saturated_probabilities_are_attacked_as_well_as_their_logits(name: str) -> None:
    """A softmax of 500 times the logits rounds to 0 and 1; no fewer images break for that."""
    images, labels = batch()
    plain = ATTACKS[name](Net(), images, labels, eps=0.3)
    saturated = Wrapped(KINDS["saturated softmax"].around, None).eval()
    with pytest.warns(FindingWarning, match="softmax-output"):
        hidden = ATTACKS[name](saturated, images, labels, eps=0.3)
    assert int(plain.success.sum()) >= 5
    assert int(hidden.success.sum()) == int(plain.success.sum())


FAULTS: dict[str, tuple[str, Callable[[Tensor, Tensor], dict[str, Any]]]] = {
    "label beyond the classes": ("3 classes", lambda x, y: {"labels": y + 1}),
    "label below 0": ("from 0", lambda x, y: {"labels": y - 1}),
    "labels of floats": ("whole numbers", lambda x, y: {"labels": y.float()}),
    "one-hot labels": ("argmax", lambda x, y: {"labels": F.one_hot(y)}),
    "too few labels": ("class number", lambda x, y: {"labels": y[:-1]}),
    "labels (b, 1)": ("class number", lambda x, y: {"labels": y[:, None]}),
    "uint8 tensor": ("255", lambda x, y: {"images": (x * 255).to(torch.uint8)}),
    "0 to 255": ("255", lambda x, y: {"images": x * 255}),
    "normalized": ("normalization", lambda x, y: {"images": x * 4 - 2}),
    "NaN in an image": ("nan", lambda x, y: {"images": x.masked_fill(x > 0.9, torch.nan)}),
    "channels last": ("movedim", lambda x, y: {"images": x.movedim(1, -1)}),
    "no batch axis": ("fails", lambda x, y: {"images": x[0], "labels": y[:3]}),
    "half images": ("float16|dtype|Half", lambda x, y: {"images": x.half()}),
    "other size": ("fails", lambda x, y: {"images": x[..., :4]}),
    "eps of 8": ("8/255", lambda x, y: {"eps": 8}),
    "eps of '8'": ("8/255", lambda x, y: {"eps": "8"}),
    "eps of 800": ("at most", lambda x, y: {"eps": 800.0}),
    "eps below 0": ("eps", lambda x, y: {"eps": -0.1}),
    "eps of NaN": ("eps", lambda x, y: {"eps": float("nan")}),
    "eps of several": ("eps", lambda x, y: {"eps": torch.tensor([0.1, 0.2])}),
    "eps of text": ("eps", lambda x, y: {"eps": "much"}),
}
"""Faults of the call: words of the error, and what is changed."""


CALLS = [
    (name, fault)
    for name, attack in ATTACKS.items()
    for fault in FAULTS
    if not fault.startswith("eps")
    or (
        (attack.norm == "linf" if fault in ("eps of 8", "eps of '8'") else True)
        and attack.eps is not None
    )
]
"""Faults of each attack; 8 is a radius in l_2, and some have none."""


@pytest.mark.parametrize(("name", "fault"), CALLS)
def test_every_attack_refuses_a_call_that_cannot_be_meant(name: str, fault: str) -> None:
    """Wrong labels, images and radii are refused by name, and nothing is attacked."""
    attack = ATTACKS[name]
    words, change = FAULTS[fault]
    images, labels = batch()
    call = {"images": images, "labels": labels, **change(images, labels)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(PhysadvError, match=words) as caught:
            attack(Net(), **call)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ATTACKS)
def test_half_precision_nets_are_attacked_in_half_precision(name: str) -> None:
    """A float16 or bfloat16 net gets images of its dtype, which come back within the ball, and
    float32 images are refused with the dtype named."""
    attack = ATTACKS[name]
    for dtype in (torch.float16, torch.bfloat16):
        net = Net().to(dtype)
        images, labels = batch()
        with pytest.raises(PhysadvError, match=f"{str(dtype).removeprefix('torch.')}|dtype"):
            attack(net, images, labels)
        x = images.to(dtype)
        labels = net(x).argmax(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FindingWarning)  # such outputs tie
            result = attack(net, x, labels)
        assert result.images.dtype == dtype
        assert torch.equal(result.success, net(result.images).argmax(1) != labels)
        if attack.eps is not None:
            assert (lp_distance(result.images, x, attack.norm) <= attack.eps).all()


@pytest.mark.parametrize("name", [name for name in ATTACKS if ATTACKS[name].eps is not None])
def test_a_radius_of_zero_leaves_the_images_and_costs_next_to_nothing(name: str) -> None:
    """With eps 0 the images are the clean ones, success is a wrong clean prediction, and hardly a
    query is spent."""
    images, labels = batch()
    labels = torch.cat([(labels[:1] + 1) % 3, labels[1:]])
    result = ATTACKS[name](Net(), images, labels, eps=0)
    assert torch.equal(result.images, images)
    assert result.success.tolist() == [True] + [False] * 6
    if result.queries is not None and name != "EstimatedGradient":
        assert int(result.queries.max()) <= 6


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "universal_perturbation"])
def test_no_images_are_no_work(name: str) -> None:
    """Of an empty batch comes an empty result; one change for all images needs some."""
    images, labels = batch()
    result = ATTACKS[name](Net(), images[:0], labels[:0])
    assert result.images.shape == images[:0].shape
    assert result.success.shape == (0,)


@pytest.mark.parametrize(
    ("attack", "options", "words"),
    [
        (attacks.hopskipjump, {"eps": None}, "eps None"),
        (attacks.pgd, {"eps": None}, "eps None"),
        (attacks.pointwise, {"pixels": None}, "pixels None"),
        (attacks.pointwise, {"pixels": 37}, "at most 36"),
        (attacks.pointwise, {"pixels": 0}, "pixels 0"),
        (attacks.sparse_search, {"pixels": 2.5}, "pixels 2.5"),
        (attacks.pgd, {"eps": EPS, "levels": 2.5}, "levels 2.5"),
        (attacks.pgd, {"eps": EPS, "index": [0.5] * 7}, "whole numbers"),
        (attacks.square_attack, {"eps": EPS, "ahead": -1}, "ahead -1"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(
    attack: Callable[..., Any], options: dict[str, Any], words: str
) -> None:
    """A radius that is left open where there is no default, more pixels than there are, fractions
    of counts."""
    with pytest.raises(OptionError, match=words):
        attack(Net(), *batch(), **options)


@pytest.mark.parametrize("name", ["apgd", "hopskipjump", "surfree", "geoda", "pointwise"])
def test_starts_are_images(name: str) -> None:
    """NaN, values outside [0, 1] and another number of starts are refused; arrays are taken."""
    images, labels = batch()
    attack = partial(
        getattr(attacks, name),
        **({"pixels": 3} if name == "pointwise" else {"eps": EPS}),
        **({"steps": 3} if name == "apgd" else {"queries": 20}),
    )
    for starts, error in (
        (images[:2], OptionError),
        (images * 3, ImageError),
        (images * torch.nan, ImageError),
    ):
        with pytest.raises(error, match="starts"):
            attack(Net(), images, labels, starts=starts)
    attack(Net(), images, labels, starts=images.flip(0).numpy())


@pytest.mark.parametrize("name", ATTACKS)
def test_tensors_of_every_make_are_left_alone(name: str) -> None:
    """Images that are expanded, strided, leaves with gradients or made in inference mode, and
    arrays that cannot be written to, are attacked like plain ones."""
    images, labels = batch()
    plain = ATTACKS[name](Net(), images, labels).images
    leaf = images.clone().requires_grad_()
    with torch.inference_mode():
        sealed = images * 1.0
    array = images.numpy().copy()
    array.setflags(write=False)
    strided = torch.stack([images, images], -1)[..., 0]
    for made in (leaf, sealed, array, strided):
        result = ATTACKS[name](Net(), made, labels.tolist())
        torch.testing.assert_close(result.images, plain, rtol=0, atol=1e-6)
        assert not result.images.requires_grad
    assert leaf.grad is None
    assert leaf.requires_grad
    one = ATTACKS[name](Net(), images[:1].expand(4, -1, -1, -1), labels[:1].expand(4))
    assert len(one.images) == 4


def test_no_attack_is_left_out() -> None:
    """Every name under physadv.attacks is attacked with here, or is none."""
    others = {"AttackResult", "DiverseInputs", "SurrogateEnsemble", "UniversalResult"}
    others |= {"BlockShuffle", "DeformationWarp", "GradientRelevance", "StructureInvariant"}
    others |= {"DetectorAttackResult", "detector_attack"}  # built on the others
    named = {name.split("-")[0] for name in ATTACKS}
    assert set(attacks.__all__) - others - {"apply_change"} == named - {"ensemble"}


def test_surrogates_of_other_classes_and_targets_that_are_labels_are_told() -> None:
    """A surrogate of fewer classes is refused; a target that is the label carries a finding."""
    images, labels = batch()
    fewer = nn.Sequential(nn.Flatten(), nn.Linear(108, 5))
    with pytest.raises(PhysadvError, match="surrogate of 5 classes: the model has 3"):
        attacks.mi_fgsm(Net(), images, labels, eps=EPS, surrogates=[fewer])
    attack = partial(attacks.pgd, eps=EPS)
    with pytest.raises(PhysadvError, match="surrogate of 5 classes: the model has 3"):
        attacks.transfer_attack(Net(), images, labels, surrogates=[fewer], attack=attack)
    with pytest.warns(FindingWarning, match="target of 7 of 7 images"):
        attacks.pgd(Net(), images, labels, eps=EPS, targets=labels, steps=1)
    with pytest.raises(PhysadvError, match="keep"):
        attacks.pgd(Net(), images, labels, eps=EPS, keep="worst")  # type: ignore[arg-type]


def test_saturated_surrogates_are_attacked_by_their_logarithm() -> None:
    """A surrogate whose softmax rounds to 0 and 1 transfers as its logits do."""
    images, labels = batch()
    hidden = Wrapped(KINDS["saturated softmax"].around, None)
    by_logits = attacks.mi_fgsm(Net(), images, labels, eps=0.3, surrogates=[Net()])
    by_softmax = attacks.mi_fgsm(Net(), images, labels, eps=0.3, surrogates=[hidden])
    assert by_logits.success.sum() >= 5
    assert torch.equal(by_logits.success, by_softmax.success)


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_scripted_and_frozen_modules_are_attacked_too() -> None:
    """TorchScript, frozen as well, which has no training mode."""
    images, labels = batch()
    net = nn.Sequential(nn.Flatten(), nn.Linear(108, 3)).eval()
    labels = net(images).argmax(1)
    plain = attacks.pgd(net, images, labels, eps=EPS, steps=3)
    scripted = torch.jit.script(net)
    for module in (scripted, torch.jit.freeze(scripted)):
        found = attacks.pgd(module, images, labels, eps=EPS, steps=3)
        torch.testing.assert_close(found.images, plain.images, rtol=0, atol=1e-6)
