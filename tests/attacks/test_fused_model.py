"""The faster copy: the same function or not used, and never at the cost of the user's module."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from test_contract import Net, of_net
from torch import Tensor, nn

from physadv.attacks import _fused_model
from physadv.attacks._compiled_model import can_compile, compiled_gradient
from physadv.attacks._fused_model import (
    COMPILED,
    FusedModel,
    compile_fastest,
    fold_batch_norm,
    fuse_model,
    gradient_model_for,
)
from physadv.attacks._guarded_model import guarded
from physadv.attacks.auto_pgd import apgd
from physadv.attacks.gradient import pgd
from physadv.core.errors import OptionError
from physadv.core.findings import FindingWarning
from physadv.evaluation.attack_plan import AttackSettings, attack_by_name
from physadv.evaluation.evaluate import prepare_evaluation
from physadv.evaluation.stages import sample_verdicts
from physadv.threat.constraints import LpBall

pytestmark = pytest.mark.usefixtures("cache")


def batch_norms(module: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in module.modules())


def test_folds_and_agrees() -> None:
    """All batch norms after convolutions are folded, the logits stay, and the user's module keeps
    its own."""
    net = Net()
    x, _ = of_net(net)
    copy = fuse_model(net, x)
    assert isinstance(copy, FusedModel)
    assert batch_norms(copy.module) == 0
    assert batch_norms(net) == 2
    assert not any(p.requires_grad for p in copy.module.parameters())
    assert all(p.requires_grad for p in net.parameters())
    torch.testing.assert_close(copy(x), net(x), rtol=1e-4, atol=1e-5)


class Shared(nn.Module):
    """A convolution whose output goes to its batch norm and elsewhere: not to be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)
        self.norm.running_mean.fill_(0.7)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.head((self.norm(y) + y).mean((2, 3)))


class Twice(Shared):
    """A convolution used twice: not to be folded either."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.norm(self.conv(x)) + self.norm(self.conv(x.flip(3)))).mean((2, 3)))


@pytest.mark.parametrize("kind", [Shared, Twice])
def test_wrong_folds_are_not_used(kind: type[nn.Module]) -> None:
    """Where folding would change the function, the result still is the victim's function."""
    net = kind().eval()
    x = torch.rand((4, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fuse_model(net, x)(x), net(x), rtol=1e-4, atol=1e-5)


class BySize(Shared):
    """Another function of large batches than of the two images that a copy is compared on."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return 4 * self.head((self.norm(y) if len(x) <= 4 else 9 - 5 * y).mean((2, 3)))


@pytest.mark.parametrize("speed", ["fold", "bf16", "plain"])
def test_a_copy_that_differs_on_the_whole_batch_is_told(speed: str) -> None:
    """Its losses are compared with those of the model, which are computed anyway; a copy that
    agrees, and the model itself, tell nothing."""
    x = torch.rand((16, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    for kind, differs in ((BySize, speed != "plain"), (Shared, False)):
        torch.manual_seed(0)
        net = kind().eval()
        with torch.no_grad():
            labels = net(x).argmax(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FindingWarning)
            result = pgd(net, x, labels, eps=0.05, steps=20, speed=speed)  # type: ignore[arg-type]
        found = {finding.name for finding in result.findings}
        assert ("copy-differs" in found) == differs
        assert torch.equal(result.success, net(result.images).argmax(1) != labels)
        task = prepare_evaluation(net, (x, labels), "linf:0.05", attack="pgd", speed=speed)
        run = task.start()
        list(run.run())
        doubts = {doubt["name"] for doubt in run.result()["doubts"]}
        assert ("copy-differs" in doubts) == differs


class Restless(Shared):
    """Puts its batch norm into training mode."""

    def forward(self, x: Tensor) -> Tensor:
        self.norm.train()
        return super().forward(x)


class Fixed(Shared):
    """Takes eight images, no more and no fewer."""

    def forward(self, x: Tensor) -> Tensor:
        assert len(x) == 8
        return super().forward(x)


@pytest.mark.parametrize("kind", [Restless, Fixed])
def test_models_that_cannot_be_compared_are_attacked_as_they_are(kind: type[nn.Module]) -> None:
    """What they raise on two images, or in training mode, ends no attack."""
    net = kind().eval()
    x = torch.rand((8, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        labels = net(x).argmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FindingWarning)
        assert len(pgd(net, x, labels, eps=0.05, steps=20, speed="fold").success) == 8


def test_batch_norm_in_use_is_kept() -> None:
    """A batch norm that stands before its convolution, or has no statistics, is left alone."""
    net = nn.Sequential(
        nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)
    ).eval()
    assert fold_batch_norm(net, torch.rand(2, 3, 8, 8)) == 0


def test_models_that_are_left_alone() -> None:
    """No module, a module with hooks, and one that cannot be copied come back as they are."""
    net = Net()
    x, _ = of_net(net)
    function = lambda images: net(images)  # noqa: E731
    assert fuse_model(function, x) is function
    handle = net.head.register_forward_hook(lambda *_: None)
    assert fuse_model(net, x) is net
    handle.remove()

    class Locked(Net):
        def __deepcopy__(self, memo: object) -> None:
            raise TypeError("no copies")

    locked = Locked()
    assert fuse_model(locked, x) is locked


@pytest.mark.parametrize("speed", ["plain", "fold", "bf16"])
def test_every_speed_is_judged_by_the_model(speed: str) -> None:
    """Folded and bfloat16 steps end in verdicts of the user's own model, and break about as many
    samples."""
    net = Net()
    x, y = of_net(net, 24)
    result = pgd(net, x, y, eps=0.03, steps=20, speed=speed)  # type: ignore[arg-type]
    with torch.no_grad():
        assert torch.equal(net(result.images).argmax(1) != y, result.success)
    plain = pgd(net, x, y, eps=0.03, steps=20, speed="plain")
    assert abs(int(result.success.sum()) - int(plain.success.sum())) <= 2


class DeadFrom(Net):
    """A net whose gradient is zero on every image but the first, and that no step fools."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        dead = torch.arange(len(x)) > 0
        return torch.where(dead[:, None], logits.detach() + 0 * x.flatten(1).sum(1, True), logits)


@pytest.mark.parametrize("speed", ["plain", "fold", "bf16"])
def test_findings_are_of_the_attack_not_of_the_probe(speed: str) -> None:
    """A comparison of the copy with the model leaves no trace in what is told of the gradients."""
    net = DeadFrom()
    x, y = of_net(net)
    with pytest.warns(FindingWarning):
        result = pgd(net, x, y, eps=1e-4, steps=4, speed=speed)
    told = {f.name: f.finding for f in result.findings}
    assert f"{len(x) - 1} of {len(x)} images" in told["zero-gradient"]


def test_what_ran_is_told_not_what_was_asked() -> None:
    """Each stage names the copy where it used one, and the model itself where no copy agrees."""
    x, y = of_net(Net())
    ball = LpBall("linf", 8 / 255)
    for net, told in (
        (Net(), "a copy of the model, 2 batch norms folded, channels last"),
        (hooked(Net()), "the model itself"),
    ):
        plan = [attack_by_name("pgd", "linf", AttackSettings(steps=4))]
        found = list(sample_verdicts(net.eval(), x, y, ball=ball, plan=plan))
        assert [verdict.gradients_of for verdict in found] == ["", told]


def hooked(net: nn.Module) -> nn.Module:
    """The net with a forward hook, which forbids a copy."""
    net.register_forward_hook(lambda *_: None)
    return net


class Asking(Net):
    """A net that notes whether TF32 was allowed when it ran."""

    def __init__(self) -> None:
        super().__init__()
        self.allowed: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        self.allowed.append(matmul or cudnn)
        return super().forward(x)


def test_copies_are_compared_without_tf32() -> None:
    """TF32 is off while a copy is compared with its model, and the caller's choice back after."""
    net = Asking()
    x, _ = of_net(net)
    net.allowed.clear()
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    try:
        matmul.allow_tf32 = cudnn.allow_tf32 = True
        fuse_model(net, x)
        assert matmul.allow_tf32
        assert cudnn.allow_tf32
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
    assert net.allowed == [False]


def test_unknown_speed() -> None:
    """A speed we do not know is an error that names the ones we do."""
    net = Net()
    x, y = of_net(net)
    with pytest.raises(OptionError, match="bf16"):
        pgd(net, x, y, eps=0.1, speed="warp")  # type: ignore[arg-type]


class Counted:
    """A net that counts its forwards."""

    def __init__(self, net: nn.Module) -> None:
        self.net, self.calls = net, 0

    def __call__(self, images: Tensor) -> Tensor:
        self.calls += 1
        return self.net(images)


@pytest.mark.parametrize("attack", [pgd, apgd])
def test_the_last_quarter_of_the_steps_is_in_full_precision(attack: Any) -> None:
    """Of 20 steps the rough copy makes 15 at most, and the exact one the rest: small slopes have
    noise for signs in bfloat16."""
    net = Net()
    x, y = of_net(net, 4)
    rough, exact = Counted(net), Counted(net)
    fine = FusedModel(exact, False)  # type: ignore[arg-type]
    copy = FusedModel(rough, False, exact=fine)  # type: ignore[arg-type]
    attack(net, x, y, eps=0.001, steps=20, speed=copy, drop_broken=False)
    assert 14 <= rough.calls <= 15
    assert rough.calls + exact.calls in (20, 21)


def test_auto_takes_the_fastest_and_never_a_slower_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of copies that agree the one of least time is taken; the model itself where none is worth
    it. What was found is kept with the guarded model."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
    net.eval()
    images = torch.rand(4, 3, 8, 8)
    timed: list[dict[str, float]] = []

    def timings(chosen: dict[str, float]) -> None:
        def measured(candidates: dict[str, object], probe: Tensor) -> dict[str, float]:
            timed.append({name: chosen.get(name, 2.0) for name in candidates})
            return timed[-1]

        monkeypatch.setattr(_fused_model, "_timed", measured)

    timings({"plain": 1.0, "fold, contiguous": 0.5})
    guard = guarded(net)
    copy = _fused_model.gradient_model_for(guard, "auto", images)
    assert isinstance(copy, _fused_model.FusedModel)
    assert not copy.channels_last
    assert not copy.bf16
    assert guard.fastest == "fold, contiguous"
    again = _fused_model.gradient_model_for(guard, "auto", images)
    assert isinstance(again, _fused_model.FusedModel)
    assert not again.channels_last
    assert len(timed) == 1

    timings({"plain": 1.0, "fold": 0.99})
    guard = guarded(net)
    assert _fused_model.gradient_model_for(guard, "timed", images) is guard
    assert guard.fastest == "plain"
    assert _fused_model.gradient_model_for(guard, "auto", images) is guard


def test_auto_times_and_attacks() -> None:
    """Really timed, the attack is judged by the model as at any speed, and copies that were only
    timed count as unused."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
    net.eval()
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = net(images).argmax(1)
    result = pgd(net, images, labels, eps=0.2, steps=5, speed="auto")
    assert torch.equal(net(result.images).argmax(1) != labels, result.success)


def test_few_gradients_are_taken_of_the_model_itself() -> None:
    """Where the checks of a copy would take longer than it can save, there is none, and "auto"
    times nothing; many gradients are taken of the copy."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
    guard, images = guarded(net.eval()), torch.rand(4, 3, 8, 8)
    for speed in ("fold", "auto"):
        assert gradient_model_for(guard, speed, images, 40) is guard
        assert isinstance(gradient_model_for(guard, speed, images, 400), FusedModel)
    assert guard.fastest is None


@pytest.mark.parametrize(
    ("seconds", "wrong", "kept"), [(0.5, False, True), (0.99, False, False), (0.5, True, False)]
)
def test_a_compiled_copy_is_kept_where_it_agrees_and_is_faster(
    monkeypatch: pytest.MonkeyPatch, seconds: float, wrong: bool, kept: bool
) -> None:
    """Compiled gradients that differ from the model's, or save nothing, are not used; others are
    from then on, at their name, without being compiled again."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
    guard, images = guarded(net.eval()), torch.rand(4, 3, 8, 8)
    guard.fastest = "plain"
    made: list[nn.Module] = []

    def compiled(module: nn.Module, images: Tensor, **_: bool) -> Any:
        made.append(module)
        return lambda x: module(1 - x if wrong else x)

    monkeypatch.setattr(_fused_model, "compiled_gradient", compiled)
    monkeypatch.setattr(_fused_model, "_timed", lambda *_: {"plain": 1.0, COMPILED: seconds})
    assert compile_fastest(guard, images) == kept
    assert guard.fastest == ("compiled fold, contiguous" if kept else "plain")
    copy = gradient_model_for(guard, "auto", images)
    assert str(copy).endswith("compiled") if kept else copy is guard
    assert len(made) == 1


def test_a_copy_recorded_as_compiled_runs_uncompiled_where_no_compiler_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run that goes on where nothing compiles takes the same copy as it is."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
    guard, images = guarded(net.eval()), torch.rand(4, 3, 8, 8)
    guard.fastest = "compiled fold, contiguous"
    monkeypatch.setattr("shutil.which", lambda _: None)
    copy = gradient_model_for(guard, "auto", images)
    assert isinstance(copy, FusedModel)
    assert copy.compiled is None
    assert copy.folded == 1


@pytest.mark.slow
@pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="needs a C++ compiler")
def test_really_compiled_gradients_are_the_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.compile's own gradients agree on batches of any size, and leave nothing behind but
    files in the cache folder."""
    monkeypatch.setenv("PHYSADV_CACHE", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.Flatten())
    net = nn.Sequential(net, nn.Linear(144, 3)).eval()
    images = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    compiled = compiled_gradient(net, images)
    assert compiled is not None
    for count in (8, 5, 1):
        slopes = []
        for model in (net, compiled):
            x = images[:count].clone().requires_grad_()
            slopes.append(torch.autograd.grad(model(x).amax(1).sum(), x)[0])
        torch.testing.assert_close(*slopes)
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ
    assert any((tmp_path / "compiled").iterdir())
