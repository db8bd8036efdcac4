"""Attacks by name, each as a stage of an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from physadv import attacks
from physadv.attacks._classifier_step import Classifier
from physadv.attacks._guarded_model import guarded
from physadv.attacks.attack_result import AttackResult
from physadv.core.errors import OptionError
from physadv.evaluation.stages import AttackStage, Family, StageInput, in_pixels, settings_of
from physadv.threat.constraints import LpBall
from physadv.threat.losses import loss_by_name


@dataclass(frozen=True)
class AttackSettings:
    """Options of a named attack; None keeps the attack's own default.

    Args:
        steps: Steps of the attack, or queries of a black-box attack.
        restarts: Random starts.
        loss: "ce", "margin", "dlr" or "pm".
        surrogates: Models to attack together; the model under test then only evaluates the result.
    """

    steps: int | None = None
    restarts: int = 1
    loss: str | None = None
    surrogates: tuple[Classifier, ...] = ()


@dataclass(frozen=True)
class _Named:
    function: Callable[..., AttackResult]
    family: Family = "white"
    norms: tuple[str, ...] = ("linf", "l2", "l1")
    steps: str | None = "steps"
    takes: tuple[str, ...] = ()
    targeted: bool = True


def _nes(
    model: Classifier, images: Tensor, labels: Tensor, *, seed: int, **options: Any
) -> AttackResult:
    """Attack with PGD on gradients estimated from scores; ``queries`` counts every image
    queried."""
    estimated = attacks.EstimatedGradient(model, seed=seed)
    result = attacks.pgd(
        guarded(estimated), images, labels, seed=seed, speed="plain", drop_broken=False, **options
    )
    queries = estimated.queries // max(1, len(images))
    each = torch.full_like(result.success, queries, dtype=torch.long)
    return AttackResult(result.images, result.success, result.loss, each)


_VIEWS: dict[str, dict[str, Any]] = {
    "difgsm": {"diverse": attacks.DiverseInputs()},
    "bsr": {"diverse": attacks.BlockShuffle()},
    "sia": {"diverse": attacks.StructureInvariant()},
    "decowa": {"diverse": attacks.DeformationWarp()},
    "gra": {"relevance": attacks.GradientRelevance()},
}
_OF_BATCHES = ("universal", "nes")
"""Attacks whose result for a sample depends on the other samples of its batch."""
_AND_L0 = ("linf", "l2", "l1", "l0")
_BALL = ("levels", "speed", "seed", "index", "loss")
ATTACKS: dict[str, _Named] = {
    "fgsm": _Named(attacks.fgsm, norms=_AND_L0, steps=None, takes=("levels", "loss")),
    "pgd": _Named(attacks.pgd, norms=_AND_L0, takes=(*_BALL, "restarts")),
    "apgd": _Named(attacks.apgd, takes=(*_BALL, "restarts")),
    "ascent": _Named(attacks.gradient_ascent, takes=("levels", "speed", "loss")),
    "mifgsm": _Named(attacks.mi_fgsm, takes=("levels", "seed", "index", "loss")),
    **{
        # Together with momentum, the usual choice for transfer.
        name: _Named(partial(attacks.mi_fgsm, **more), takes=("levels", "seed", "index", "loss"))
        for name, more in _VIEWS.items()
    },
    "universal": _Named(
        attacks.universal_perturbation, steps="epochs", takes=("levels", "speed", "seed", "loss")
    ),
    "nes": _Named(_nes, "black", takes=("levels", "seed", "index", "loss")),
    "fab": _Named(attacks.fab, takes=("levels", "speed")),
    "deepfool": _Named(attacks.deepfool, takes=("levels", "speed")),
    "superdeepfool": _Named(attacks.superdeepfool, norms=("l2",), takes=("levels", "speed")),
    "ddn": _Named(attacks.ddn, norms=("l2",), takes=("levels", "speed")),
    "fmn": _Named(attacks.fmn, takes=("levels", "speed")),
    "alma": _Named(attacks.alma, norms=("l2", "l1"), takes=("levels", "speed")),
    "cw": _Named(attacks.cw_l2, norms=("l2",), takes=("levels", "speed")),
    "sigma-zero": _Named(attacks.sigma_zero, norms=("l0",), takes=("levels", "speed")),
    "jsma": _Named(in_pixels(attacks.saliency_attack), norms=("l0",), steps=None),
    "square": _Named(attacks.square_attack, "black", steps="queries", takes=("seed",)),
    "sparse-rs": _Named(in_pixels(attacks.sparse_search), "black", ("l0",), "queries", ("seed",)),
    "rays": _Named(attacks.rays, "black", ("linf",), "queries", targeted=False),
    "hopskipjump": _Named(
        attacks.hopskipjump, "black", ("linf", "l2"), "queries", ("seed", "starts")
    ),
    "surfree": _Named(attacks.surfree, "black", ("l2",), "queries", ("seed", "starts")),
    "pointwise": _Named(
        in_pixels(attacks.pointwise), "black", ("l0",), "queries", ("seed", "starts")
    ),
    "geoda": _Named(attacks.geoda, "black", steps="queries", takes=("seed", "starts")),
}


def attack_by_name(
    name: str, norm: str, settings: AttackSettings, *, targeted: bool = False
) -> AttackStage:
    """Return an attack as a stage of an evaluation.

    Args:
        name: Name of the attack, a key of ``ATTACKS``.
        norm: Norm of the threat.
        settings: Options of the attack.
        targeted: Whether samples have target classes.

    Raises:
        OptionError: The name is unknown, or the attack has no such norm or option.

    Example:
        >>> from physadv.evaluation.attack_plan import AttackSettings, attack_by_name
        >>> attack_by_name("pgd", "linf", AttackSettings(steps=20)).name
        'pgd'
    """
    if name not in ATTACKS:
        raise OptionError(f"attack {name!r}", f"one of {', '.join(ATTACKS)}", "Choose one of these")
    attack = ATTACKS[name]
    _check_settings(attack, name, norm, settings, targeted)

    return AttackStage(
        name,
        "black" if settings.surrogates else attack.family,
        lambda case: _run(attack, case, settings),
        divisible=name not in _OF_BATCHES and not (targeted and "starts" in attack.takes),
        settings=settings_of(attack.function),
    )


def attack_function(
    name: str, ball: LpBall, settings: AttackSettings, seed: int
) -> Callable[..., AttackResult]:
    """Return an attack with its options bound, for any model of two logits or more.

    Args:
        name: Name of the attack, a key of ``ATTACKS``.
        ball: Threat model.
        settings: Options of the attack.
        seed: Seed of its random starts.

    Returns:
        Function of a model, images, labels and, by keyword, the number ``index`` of the image.

    Raises:
        OptionError: The name is unknown, or the attack has no such norm or option.
    """
    if name not in ATTACKS:
        raise OptionError(f"attack {name!r}", f"one of {', '.join(ATTACKS)}", "Choose one of these")
    attack = ATTACKS[name]
    _check_settings(attack, name, ball.norm, settings, False)

    def run(model: Classifier, images: Tensor, labels: Tensor, *, index: int = 0) -> AttackResult:
        known: dict[str, Any] = {
            "levels": ball.levels,
            "speed": "plain",
            "seed": seed,
            "index": torch.tensor([index], device=images.device),
            "restarts": settings.restarts,
            "loss": settings.loss,
            "starts": None,
        }
        options = {k: known[k] for k in attack.takes if known[k] is not None or k == "levels"}
        if "index" not in attack.takes and "seed" in options:
            options["seed"] = seed + index  # else each image would get the same draws
        if attack.steps is not None and settings.steps is not None:
            options[attack.steps] = settings.steps
        if len(attack.norms) > 1:
            options["norm"] = ball.norm
        return attack.function(model, images, labels, eps=ball.eps, **options)

    return run


def _check_settings(
    attack: _Named, name: str, norm: str, settings: AttackSettings, targeted: bool
) -> None:
    if norm not in attack.norms:
        raise OptionError(
            f"{name} in {norm}",
            f"it supports {', '.join(attack.norms)}",
            "Choose another attack or norm",
        )
    if targeted and not attack.targeted:
        raise OptionError(f"{name} with targets", "it is untargeted", "Choose another attack")

    # Options that this attack does not have.
    if settings.restarts != 1 and "restarts" not in attack.takes:
        raise OptionError(
            f"{name} with {settings.restarts} restarts", "it has none", "Leave out --restarts"
        )
    if settings.loss is not None and "loss" not in attack.takes:
        raise OptionError(
            f"{name} with loss {settings.loss!r}", "it has its own", "Leave out --loss"
        )
    if settings.loss is not None:
        loss_by_name(settings.loss)  # a wrong one is refused before the work
    if settings.steps is not None and attack.steps is None:
        raise OptionError(
            f"{name} with {settings.steps} steps", "it takes one", "Leave out --steps"
        )
    if settings.surrogates and attack.family == "black":
        raise OptionError(
            f"{name} with surrogates", "it is a black-box attack itself", "Choose a gradient attack"
        )


def _of_target_classes(case: StageInput) -> Tensor | None:
    """For each sample an image of the batch whose class is the target, itself where there is none;
    None without targets."""
    if case.targets is None:
        return None
    of_target = case.labels[None] == case.targets[:, None]
    own = torch.arange(len(case.images), device=of_target.device)
    return case.images[torch.where(of_target.any(1), of_target.int().argmax(1), own)]


def _run(attack: _Named, case: StageInput, settings: AttackSettings) -> AttackResult:
    """Run the attack on a stage's input, with the options that it takes."""
    known: dict[str, Any] = {
        "levels": case.ball.levels,
        "speed": case.speed,
        "seed": case.seed,
        "index": case.index,
        "restarts": settings.restarts,
        "loss": settings.loss,
        "starts": _of_target_classes(case),
    }
    options = {key: known[key] for key in attack.takes if known[key] is not None or key == "levels"}
    if attack.steps is not None and settings.steps is not None:
        options[attack.steps] = settings.steps
    if case.targets is not None:
        options["targets"] = case.targets
    if len(attack.norms) > 1:
        options["norm"] = case.ball.norm

    function = partial(attack.function, eps=case.ball.eps, **options)
    if settings.surrogates:
        function = partial(function, speed="plain") if "speed" in attack.takes else function
        return attacks.transfer_attack(
            case.model,
            case.images,
            case.labels,
            surrogates=settings.surrogates,
            attack=function,
            targets=case.targets,
        )
    return function(case.model, case.images, case.labels)
