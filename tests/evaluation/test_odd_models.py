"""Evaluations of models that are not as they should be: rates are the model's own word, or carry a
finding, or are refused by name."""

from __future__ import annotations

import pytest
import torch
from odd_models import KINDS, Net, Wrapped, batch, kept_state, truth, unchanged
from torch import Tensor

import physadv
from physadv.attacks.attack_result import AttackResult
from physadv.core.errors import PhysadvError
from physadv.datasets.base import in_memory
from physadv.evaluation.attack_plan import ATTACKS
from physadv.evaluation.evaluate import EvaluationResult
from physadv.evaluation.robust_accuracy import Evaluation
from physadv.evaluation.samples import choose_samples
from physadv.models.cards import ModelCard
from physadv.threat.constraints import LpBall

REFUSED = {"NaN": "NaN", "log-probabilities with -inf": "infinity"}
"""Kinds that attacks take with a finding, and evaluations refuse: the clean rate means nothing."""
UNSEEN = {"changes-its-input"}
"""Findings of attacks alone: evaluations load a model behind a preprocessing that copies."""


def outcome(model: Wrapped, images: Tensor, labels: Tensor) -> EvaluationResult | PhysadvError:
    """The evaluation by PGD, or the error that refuses it."""
    try:
        return physadv.evaluate(model, (images, labels), "linf:0.1", attack="pgd", steps=5)
    except PhysadvError as error:
        return error


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_is_evaluated_rightly_or_refused(kind: str) -> None:
    """Clean accuracy is what the model says, faults are findings or errors that name them, and
    model and data stay as they were."""
    case, model = KINDS[kind], Wrapped(KINDS[kind].around, None)
    images, labels = batch()
    before, clean = kept_state(model), images.clone()
    result = outcome(model, images, labels)
    assert unchanged(before, kept_state(model))
    assert torch.equal(images, clean)

    refused = case.refused or REFUSED.get(kind, "")
    if isinstance(result, PhysadvError):
        assert refused in str(result) if refused else not case.gradient
        assert "\n" not in str(result)
        return
    assert not refused
    if case.exact:
        assert round(result.clean_accuracy.rate * 7) == 7 - int(truth(model, images, labels).sum())
    named = {finding.name for finding in result.findings}
    assert not case.finding or case.finding in named or case.finding in UNSEEN


@pytest.mark.parametrize("name", ATTACKS)
def test_every_named_attack_takes_a_tuple_that_is_written_into(name: str) -> None:
    """Every attack that evaluations know by name runs behind the guard."""

    def around(net: Net, images: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            images.mul_(0.9)
        return net(images), images

    images, labels = batch(4)
    norm = ATTACKS[name].norms[0]
    threat = f"{norm}:{2 if norm == 'l0' else 0.1}"
    steps = None if ATTACKS[name].steps is None else 8 if norm != "l0" else 20
    model = Wrapped(around, None)
    result = physadv.evaluate(model, (images, labels), threat, attack=name, steps=steps)
    assert 0 <= result.robust_accuracy.rate <= result.clean_accuracy.rate
    assert round(result.clean_accuracy.rate * 4) == 4 - int(truth(model, images, labels).sum())


def test_probes_leave_a_net_in_training_mode_as_it_is() -> None:
    """Running statistics, modes and gradients of a net in training mode survive a whole run."""
    net = Net().train()
    net.weight.grad = torch.ones_like(net.weight)
    before = kept_state(net)
    images, labels = batch(6)
    pictures = (images * 255).round().to(torch.uint8).movedim(1, -1).numpy()
    samples = choose_samples(in_memory(pictures, labels.numpy(), ("a", "b", "c"), "toy"), CARD)
    evaluation = Evaluation(net, samples, LpBall("linf", 0.05))
    for _ in evaluation.run():
        pass
    assert evaluation.result()["clean_accuracy"]["n"] == 6
    assert unchanged(before, kept_state(net))
    assert torch.equal(net.weight.grad, torch.ones_like(net.weight))


CARD = ModelCard("toy", classes=("a", "b", "c"))


def test_a_radius_of_zero_is_trivial() -> None:
    """Robust accuracy is clean accuracy, nothing is attacked, and gradients are not doubted."""
    images, labels = batch(8)
    labels = torch.cat([(labels[:2] + 1) % 3, labels[2:]])
    asked = []

    def around(net: Net, x: Tensor) -> Tensor:
        asked.append(len(x))
        return net(x).round() + 0 * net(x)

    result = physadv.evaluate(Wrapped(around, None), (images, labels), "linf:0")
    assert result.robust_accuracy == result.clean_accuracy
    assert not {f.name for f in result.findings} & {"zero-gradient", "vanishing-gradient"}
    assert "unbounded-attack-fails" not in {f.name for f in result.findings}
    assert len(asked) <= 20


def test_attacks_of_ones_own_get_copies_and_are_judged() -> None:
    """An attack that writes into its images, leaves the ball and claims success is projected and
    judged; the model it gets is the module itself."""
    images, labels = batch(5)
    clean = images.clone()

    def claiming(model: torch.nn.Module, x: Tensor, y: Tensor) -> AttackResult:
        assert list(model.parameters())
        model.train()
        x.fill_(0.5)
        y.fill_(2)
        return AttackResult(x, torch.ones(len(x), dtype=torch.bool))

    result = physadv.evaluate(Net(), (images, labels), "linf:0.001", attack=claiming)
    assert torch.equal(images, clean)
    inside = images + (0.5 - images).clamp(-0.001, 0.001)
    broken = int((Net()(inside).argmax(1) != labels).sum())
    assert round(result.robust_accuracy.rate * 5) == 5 - broken


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_a_scripted_module_is_evaluated_like_the_module() -> None:
    """TorchScript is copied without its graph."""
    images, _ = batch(8)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(108, 3))
    labels = net(images).argmax(1)
    plain = physadv.evaluate(net, (images, labels), "linf:0.02", attack="pgd")
    scripted = physadv.evaluate(torch.jit.script(net), (images, labels), "linf:0.02", attack="pgd")
    assert scripted.robust_accuracy == plain.robust_accuracy
