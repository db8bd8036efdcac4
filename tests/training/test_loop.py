"""The loop learns, is repeatable, resumes exactly and leaves the caller's random state alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from physadv.core.errors import DataError, OptionError
from physadv.core.random_streams import generator
from physadv.training.loop import (
    TrainingSchedule,
    TrainingStep,
    ValidationSchedule,
    load_average,
    read_progress,
    seed_all,
    train_model,
    update_average,
)
from physadv.training.methods.base import Metrics, TrainingMethod, TrainingPosition

FAST = TrainingSchedule(epochs=3, steps=8, lr=0.05, average=0.5, precision="fp32")


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def batches(step: int) -> tuple[Tensor, Tensor]:
    points = torch.randn(64, 2, generator=generator(0, "points", step))
    return points, (points[:, 0] > points[:, 1]).long()


def run(
    schedule: TrainingSchedule = FAST, checkpoint: Path | None = None, stop: int | None = None
) -> tuple[nn.Module, list[TrainingStep]]:
    net, steps = seed_all(build, 3), []
    for step in train_model(net, batches, schedule, checkpoint=checkpoint):
        steps.append(step)
        if step.number == stop:
            break
    return net, steps


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_learns(optimizer: str, precision: str) -> None:
    """A separable toy problem is solved by the averaged net, in either arithmetic and with either
    optimizer."""
    _, steps = run(
        TrainingSchedule(6, 20, lr=0.05, average=0.9, optimizer=optimizer, precision=precision)
    )
    points, labels = batches(-1)
    assert not steps[-1].average.training
    accuracy = (steps[-1].average(points).argmax(1) == labels).float().mean()
    assert accuracy > 0.93
    assert steps[-1].loss < steps[0].loss


def test_same_seed_same_weights_and_global_rng_untouched() -> None:
    """Two runs agree to the bit, and neither reads nor moves the global generator."""
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, _ = run()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    second, _ = run()
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_killed_run_goes_on_where_it_stood(tmp_path: Path) -> None:
    """Stopped in the middle of an epoch and resumed, the result is that of the undisturbed run, to
    the bit."""
    whole, _ = run()
    run(checkpoint=tmp_path / "c.safetensors", stop=11)
    resumed, steps = run(checkpoint=tmp_path / "c.safetensors")
    assert steps[0].number == 9
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert run(checkpoint=tmp_path / "c.safetensors")[1] == []
    average = load_average(tmp_path / "c.safetensors", build())
    for a, b in zip(
        average.state_dict().values(), steps[-1].average.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    """Another schedule or identity, or a broken file, is a DataError with a remedy."""
    run(checkpoint=tmp_path / "c.safetensors", stop=8)
    with pytest.raises(DataError, match="another run"):
        run(TrainingSchedule(4, 8, precision="fp32"), checkpoint=tmp_path / "c.safetensors")
    with pytest.raises(DataError, match="another run"):
        next(
            train_model(
                build(), batches, FAST, checkpoint=tmp_path / "c.safetensors", identity="other data"
            )
        )
    (tmp_path / "c.safetensors").write_bytes(b"rubbish")
    with pytest.raises(DataError, match="not a readable checkpoint"):
        run(checkpoint=tmp_path / "c.safetensors")


@dataclass
class Seen(TrainingMethod):
    """Notes what it is given; ``factor`` spoils the loss."""

    factor: float = 1.0
    steps: list[int] = field(default_factory=list, init=False)
    draws: list[float] = field(default_factory=list, init=False)

    def loss(
        self, net: nn.Module, images: Tensor, labels: Tensor, at: TrainingPosition
    ) -> tuple[Tensor, Metrics]:
        assert net.training
        self.steps.append(at.step)
        self.draws.append(float(torch.rand((), generator=at.generator)))
        return net(images).square().mean() * self.factor, {"share": at.share}


def test_a_defense_is_the_part_that_differs() -> None:
    """It receives the net in train mode, the step and a generator of the step's own; its metrics
    come
    out of the loop."""
    defense = Seen()
    steps = list(
        train_model(
            seed_all(build, 0), batches, TrainingSchedule(1, 4, precision="fp32"), defense=defense
        )
    )
    assert defense.steps == [0, 1, 2, 3]
    assert len(set(defense.draws)) == 4
    assert [s.metrics["share"] for s in steps] == [0, 0.25, 0.5, 0.75]
    again = Seen()
    list(
        train_model(
            seed_all(build, 0), batches, TrainingSchedule(1, 4, precision="fp32"), defense=again
        )
    )
    assert again.draws == defense.draws


def test_divergence_is_an_error() -> None:
    """A loss that is not finite ends the run with a DataError, not with NaN weights."""
    with pytest.raises(DataError, match="diverged"):
        list(train_model(build(), batches, FAST, defense=Seen(float("nan"))))


def scripted(*scores: float) -> Callable[[nn.Module], Metrics]:
    """A judge that finds these scores, epoch by epoch."""
    left = list(scores)
    return lambda net: {"robust": left.pop(0)}


def test_validation_keeps_the_best_epoch_and_patience_ends_the_run(tmp_path: Path) -> None:
    """Scores 1 5 5 2 2, patience 3: the later of equals is kept, and three epochs after the first
    of them it ends."""
    file, schedule = (
        tmp_path / "c.safetensors",
        TrainingSchedule(9, 2, lr=0.05, average=0.5, precision="fp32"),
    )
    net, kept = seed_all(build, 3), []
    judge = ValidationSchedule(scripted(1, 5, 5, 2, 2, 9, 9, 9, 9), "robust", patience=3)
    for step in train_model(net, batches, schedule, validation=judge, checkpoint=file):
        if step.ends_epoch:
            kept.append({k: v.clone() for k, v in step.average.state_dict().items()})
    assert len(kept) == 5
    best = load_average(file, build(), best=True).state_dict()
    assert all(torch.equal(best[k], kept[2][k]) for k in best)
    assert [h["robust"] for h in read_progress(file)["history"]] == [1, 5, 5, 2, 2]
    assert (
        list(train_model(seed_all(build, 3), batches, schedule, validation=judge, checkpoint=file))
        == []
    )


def test_epochs_before_full_strength_are_not_chosen() -> None:
    """With ``after`` a half, the first half's scores do not count."""
    judge = ValidationSchedule(lambda net: {}, "robust", patience=1, after=0.5)
    history = [{"robust": r} for r in (0.9, 0.8, 0.1, 0.2)]
    assert judge.best(history, 4) == 3
    assert not judge.over(history[:2], 4)
    assert not judge.over(history, 4)
    assert judge.over([*history[:3], {"robust": 0.0}], 4)


def test_average_is_the_exponential_mean() -> None:
    """keep = 0.75 moves a quarter of the way; integer buffers are copied."""
    mean, net = build(), build()
    expected = torch.lerp(mean[0].weight, net[0].weight, 0.25)
    net[1].num_batches_tracked.fill_(7)
    update_average(mean, net, 0.75)
    assert torch.allclose(mean[0].weight, expected)
    assert int(mean[1].num_batches_tracked) == 7


def test_schedule_rises_falls_and_checks_itself() -> None:
    """The rate peaks after the warm-up and ends near zero; values that cannot be are refused."""
    schedule = TrainingSchedule(10, 10, lr=1.0, warmup=0.2)
    rates = [schedule.rate(i) for i in range(100)]
    assert max(rates) == pytest.approx(1.0)
    assert rates.index(max(rates)) == 20
    assert rates[0] < 0.1
    assert rates[-1] < 0.01
    for bad in (
        {"epochs": 0},
        {"lr": 0.0},
        {"optimizer": "lion"},
        {"precision": "fp8"},
        {"average": 1.0},
    ):
        with pytest.raises(OptionError):
            TrainingSchedule(**{"epochs": 1, "steps": 1, **bad})


def test_the_average_warms_up() -> None:
    """After one step the mean keeps a tenth of the start, whatever the final rate: an average that
    begins at 0.998 would be the untrained net for hundreds of steps."""
    schedule = TrainingSchedule(1, 1, lr=0.05, average=0.998, precision="fp32")
    start = seed_all(build, 3)
    net, steps = run(schedule)
    for began, now, mean in zip(
        start.parameters(), net.parameters(), steps[-1].average.parameters(), strict=True
    ):
        torch.testing.assert_close(mean, torch.lerp(began, now, 0.9))
