"""Evaluations: honest rates, monotone curves, the same result after any kill, doubts where they
belong."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from physadv.attacks._guarded_model import GuardedModel
from physadv.attacks.gradient import pgd
from physadv.core.errors import DataError, OptionError
from physadv.core.rows import read_rows
from physadv.datasets.base import ImageDataset, in_memory
from physadv.evaluation import ensemble, robust_accuracy
from physadv.evaluation.attack_plan import ATTACKS
from physadv.evaluation.evaluate import prepare_evaluation
from physadv.evaluation.progress_log import ProgressLog, claim_folder
from physadv.evaluation.robust_accuracy import Evaluation
from physadv.evaluation.samples import EvaluationSamples, choose_samples
from physadv.evaluation.stages import AttackStage, StageInput
from physadv.models.cards import ModelCard
from physadv.threat.constraints import LpBall

CARD = ModelCard("toy", classes=("a", "b", "c"))


class Toy(nn.Module):
    """A small fixed net on 8x8 color images."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        source = torch.Generator().manual_seed(0)
        self.scale = scale
        self.first = nn.Parameter(torch.randn(192, 24, generator=source) / 14)
        self.second = nn.Parameter(torch.randn(24, 3, generator=source))

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * (((images - 0.5).flatten(1) @ self.first).relu() @ self.second)


def toy_data(n: int = 40) -> ImageDataset:
    """Random images labeled by the toy itself, one in ten wrongly."""
    images = np.random.default_rng(0).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    with torch.no_grad():
        labels = Toy()(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255).argmax(1).numpy()
    labels[::10] = (labels[::10] + 1) % 3
    return in_memory(images, labels, ("a", "b", "c"), "toy")


def plan() -> list[AttackStage]:
    """A weak and a strong attack."""

    def run(case: StageInput, steps: int) -> object:
        return pgd(
            case.model,
            case.images,
            case.labels,
            eps=case.ball.eps,
            norm=case.ball.norm,
            steps=steps,
            levels=case.ball.levels,
            speed=case.speed,
            index=case.index,
        )

    return [
        AttackStage("weak", "white", lambda c: run(c, 1)),
        AttackStage("strong", "white", lambda c: run(c, 10)),
    ]  # type: ignore[arg-type, return-value]


def evaluation(folder: Path | None = None, **changes: object) -> Evaluation:
    """The evaluation most tests run."""
    samples = choose_samples(toy_data(), CARD)
    settings = {"plan": plan(), "folder": folder, "batch_size": 16, **changes}
    return Evaluation(Toy(), samples, LpBall("linf", 0.02), **settings)  # type: ignore[arg-type]


def test_rates_are_those_of_the_model_itself() -> None:
    """Clean accuracy is the victim's, every row has an outcome, and robust is never above clean."""
    run = evaluation()
    steps = list(run.run())
    result = run.result()
    assert result["clean_accuracy"]["rate"] == 0.9
    assert 0 < result["robust_accuracy"]["rate"] < 0.9
    assert result["complete"]
    assert sum(result["broken_by"].values()) == 36 - round(result["robust_accuracy"]["rate"] * 40)
    assert result["broken_by"]["weak"] > 0 < result["broken_by"]["strong"]
    assert steps[-1].done == steps[-1].total == 40


def test_a_radius_without_an_image_left_is_measured() -> None:
    """Where nothing withstood the main radius, a larger one has no image to attack."""
    run = evaluation(curve=(0.5, 0.6))
    run.ball = LpBall("linf", 0.4)
    list(run.run())
    assert [p["rate"] for p in run.result()["curve"]][1:] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("stop", range(1, 9))
def test_a_run_stopped_after_any_stage_ends_like_one_that_was_not(
    tmp_path: Path, stop: int
) -> None:
    """Stopped after any stage of any batch and started again, rows and rates are the same as
    without a stop."""
    whole = evaluation(tmp_path / "whole")
    list(whole.run())
    for number, _ in enumerate(evaluation(tmp_path / "torn").run(), 1):
        if number == stop:
            break
    again = evaluation(tmp_path / "torn")
    list(again.run())
    rows = [
        sorted(read_rows(tmp_path / name / "rows.jsonl"), key=lambda r: r["index"])
        for name in ("whole", "torn")
    ]
    assert rows[0] == rows[1]
    assert again.result()["robust_accuracy"] == whole.result()["robust_accuracy"]
    assert again.result()["forwards"] == whole.result()["forwards"]


@pytest.mark.parametrize("cut", [1, 7, 30, 200, 1000])
def test_a_kill_in_the_middle_of_a_line_loses_nothing_else(tmp_path: Path, cut: int) -> None:
    """Rows and marks cut off anywhere, even inside a line, still lead to the result of an
    undisturbed run."""
    whole = evaluation(tmp_path / "whole")
    list(whole.run())
    torn = tmp_path / "torn"
    list(evaluation(torn).run())
    marks = (torn / "rows.marks.jsonl").read_bytes()
    (torn / "rows.marks.jsonl").write_bytes(marks[: len(marks) // 2 - cut % 50])
    rows = (torn / "rows.jsonl").read_bytes()
    (torn / "rows.jsonl").write_bytes(rows[: len(rows) - cut])
    again = evaluation(torn)
    list(again.run())
    found = sorted(read_rows(torn / "rows.jsonl"), key=lambda r: r["index"])
    assert found == sorted(read_rows(tmp_path / "whole" / "rows.jsonl"), key=lambda r: r["index"])


@pytest.mark.parametrize("stop", [3, 5, 100])
@pytest.mark.parametrize("kept", [0, 1, 3, 7])
def test_rows_that_were_not_copied_are_computed_again(tmp_path: Path, stop: int, kept: int) -> None:
    """A folder copied in part has marks of rows that it lacks: of a run that was finished, and of
    one that goes on, where a sample without its row would count as unbroken so far."""
    whole, torn = evaluation(tmp_path / "whole"), tmp_path / "torn"
    list(whole.run())
    for number, _ in enumerate(evaluation(torn).run(), 1):
        if number == stop:
            break
    rows = (torn / "rows.jsonl").read_text().splitlines(keepends=True)
    (torn / "rows.jsonl").write_text("".join(rows[:kept]))
    again = evaluation(torn)
    list(again.run())
    found = sorted(read_rows(torn / "rows.jsonl"), key=lambda r: r["index"])
    assert found == sorted(read_rows(tmp_path / "whole" / "rows.jsonl"), key=lambda r: r["index"])
    assert again.result()["complete"]
    assert again.result()["forwards"] == whole.result()["forwards"]


def test_a_finished_run_is_not_done_again(tmp_path: Path) -> None:
    """Run again, nothing is attacked and the result stands."""
    first = evaluation(tmp_path)
    list(first.run())
    size = (tmp_path / "rows.jsonl").stat().st_size
    second = evaluation(tmp_path)
    assert list(second.run()) == []
    assert second.result() == first.result()
    assert (tmp_path / "rows.jsonl").stat().st_size == size


def test_the_curve_falls_with_eps_and_starts_at_clean_accuracy() -> None:
    """Broken at a smaller radius stays broken at a larger one; radius 0 is clean accuracy."""
    run = evaluation(curve=(0.005, 0.01, 0.05))
    list(run.run())
    rates = {p["eps"]: p["rate"] for p in run.result()["curve"]}
    assert list(rates) == [0.0, 0.005, 0.01, 0.02, 0.05]
    assert list(rates.values()) == sorted(rates.values(), reverse=True)
    assert rates[0.0] == 0.9
    assert rates[0.005] > rates[0.05]


def test_samples_do_not_depend_on_the_batch_size() -> None:
    """The same rows come out of batches of 16 and of 7."""
    runs = [evaluation(batch_size=size) for size in (16, 7)]
    for run in runs:
        list(run.run())
    outcomes = [
        {i: (r["robust"], r["broken_by"]) for i, r in run.ledger.rows.items()} for run in runs
    ]
    assert outcomes[0] == outcomes[1]


def test_what_is_kept_is_what_was_judged() -> None:
    """The images handed to keep are broken for the victim, inside the ball, and on the 8-bit grid
    when asked."""
    shown: list[tuple[list[int], Tensor, Tensor]] = []
    run = evaluation(
        keep=lambda positions, clean, found: shown.append((list(positions), clean, found))
    )
    run.ball = LpBall("linf", 0.02, 255)
    list(run.run())
    positions = [p for part, _, _ in shown for p in part]
    clean, found = torch.cat([c for _, c, _ in shown]), torch.cat([f for _, _, f in shown])
    with torch.no_grad():
        verdict = Toy()(found).argmax(1)
    assert (verdict != run.samples.targets(positions)).all()
    assert torch.equal(found, (found * 255).round() / 255)
    assert float((found.double() - clean.double()).abs().max()) <= 0.02
    assert len(positions) == sum(run.result()["broken_by"].values())


def test_targets_are_what_counts_where_there_are_any() -> None:
    """With targets a sample is broken only where the victim sees its target."""
    shown: list[Tensor] = []
    run = evaluation(
        targets=lambda positions: (choose_samples(toy_data(), CARD).targets(positions) + 1) % 3,
        keep=lambda positions, clean, found: shown.append(
            Toy()(found).argmax(1) - run.targets(positions)
        ),  # type: ignore[misc]
    )
    run.plan = [
        AttackStage(
            "pgd",
            "white",
            lambda c: pgd(c.model, c.images, c.labels, eps=0.05, steps=10, targets=c.targets),
        )
    ]
    run.ball = LpBall("linf", 0.05)
    list(run.run())
    assert len(torch.cat(shown)) > 3
    assert (torch.cat(shown) == 0).all()


def test_doubts_come_with_the_result() -> None:
    """A softmax victim is evaluated and the result says what is wrong with it."""

    class Soft(Toy):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).softmax(1)

    run = evaluation()
    run.model = Soft()
    list(run.run())
    assert "softmax-output" in [d["name"] for d in run.result()["doubts"]]


def test_another_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    """A folder belongs to one evaluation: other settings are named, the same ones go on."""
    assert not claim_folder(tmp_path, {"eps": 0.1, "seed": 0})
    assert claim_folder(tmp_path, {"eps": 0.1, "seed": 0})
    with pytest.raises(OptionError, match=r"eps 0\.1 -> 0\.2"):
        claim_folder(tmp_path, {"eps": 0.2, "seed": 0})
    (tmp_path / "evaluation.json").write_text('{"eps"')
    with pytest.raises(DataError, match="no valid JSON"):
        claim_folder(tmp_path, {"eps": 0.1, "seed": 0})


def test_a_stage_sees_the_same_samples_whatever_its_own_rows_say(tmp_path: Path) -> None:
    """Rows of an incomplete stage do not take their samples out of it when it is run again."""
    ledger = ProgressLog(tmp_path)
    ledger.write(0, "clean", [{"index": 0, "stage": "clean"}])
    (tmp_path / "rows.jsonl").open("a").write('{"index": 1, "stage": "weak"}\n')
    again = ProgressLog(tmp_path)
    assert again.unfinished(0, [0, 1, 2]) == [1, 2]
    again.write(0, "weak", [{"index": 1, "stage": "weak"}])
    assert len(list(read_rows(tmp_path / "rows.jsonl"))) == 2
    assert ProgressLog(tmp_path).unfinished(0, [0, 1, 2]) == [2]


def test_a_limit_draws_the_same_images_each_time() -> None:
    """The same seed draws the same images; a smaller limit draws some of the larger's."""
    few, many = (
        choose_samples(toy_data(), CARD, limit=5),
        choose_samples(toy_data(), CARD, limit=20),
    )
    assert (
        few == choose_samples(toy_data(), CARD, limit=5)
        or few.indices == choose_samples(toy_data(), CARD, limit=5).indices
    )
    assert set(few.indices) <= set(many.indices)
    assert few.indices != choose_samples(toy_data(), CARD, limit=5, seed=1).indices


def test_images_of_several_sizes_become_one_size_on_the_grid() -> None:
    """Other sizes are brought to the card's size and are 8-bit images again; gray ones keep one
    channel if asked."""
    arrays = [np.full((size, size, 3), 77, np.uint8) for size in (8, 12, 16)]
    names = ("x", "y", "z")
    data = ImageDataset(lambda i: arrays[i], np.zeros(3, np.int64), ("a",), names, names)
    samples = choose_samples(data, ModelCard("v", input_size=(10, 10), extra={"channels": 1}))
    images = samples.images([0, 1, 2])
    assert images.shape == (3, 1, 10, 10)
    assert torch.equal(images, (images * 255).round() / 255)


def test_color_images_for_a_gray_model_are_an_error() -> None:
    """A gray victim is not fed the mean of colors in silence."""
    samples = EvaluationSamples(toy_data(), (0,), (0,), (8, 8), channels=1)
    with pytest.raises(DataError, match="gray"):
        samples.images([0])


class Softmax(Toy):
    """The toy, saturated, with a softmax at its end."""

    def forward(self, images: Tensor) -> Tensor:
        return (30 * super().forward(images)).softmax(1)


def test_a_softmax_at_the_end_buys_no_robustness() -> None:
    """A victim that returns probabilities is said so, and is read at most as robust as through its
    logits."""
    samples = choose_samples(toy_data(), CARD)
    ball = LpBall("linf", 0.02)
    rates = {}
    for name, model in (("logits", Toy()), ("softmax", Softmax())):
        evaluation = Evaluation(model, samples, ball, plan=plan())
        list(evaluation.run())
        rates[name] = evaluation.result()["robust_accuracy"]["rate"]
        assert ("softmax-output" in {d.name for d in evaluation.findings}) == (name == "softmax")
    assert rates["softmax"] <= rates["logits"] + 1e-9


def test_a_run_is_not_resumed_under_another_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The numbers that the ensemble's stages run with are recorded, and a run that began with other
    ones is refused in a line that names the first of them; so are defaults of named attacks."""
    images = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    data = (images, net(images).argmax(1))
    prepare_evaluation(net, data, "linf:0.1").claim(tmp_path / "whole")
    prepare_evaluation(net, data, "linf:0.1").claim(tmp_path / "whole")
    prepare_evaluation(net, data, "linf:0.1", attack="pgd").claim(tmp_path / "pgd")

    monkeypatch.setattr(ensemble, "QUERIES", 1000)
    with pytest.raises(OptionError, match=r"\(plan square queries 5000 -> 1000\)"):
        prepare_evaluation(net, data, "linf:0.1").claim(tmp_path / "whole")

    longer = replace(ATTACKS["pgd"], function=partial(ATTACKS["pgd"].function, steps=50))
    monkeypatch.setitem(ATTACKS, "pgd", longer)
    with pytest.raises(OptionError, match=r"\(plan pgd steps 40 -> 50\)"):
        prepare_evaluation(net, data, "linf:0.1", attack="pgd").claim(tmp_path / "pgd")


def test_long_runs_try_compiling_between_batches_and_keep_a_batch_to_its_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run at speed auto that is expected to be long tries it once, before a batch begins; each
    batch's marks name its copy, and a batch that goes on takes that one."""
    monkeypatch.setenv("PHYSADV_CACHE", str(tmp_path / "cache"))
    tried: list[int] = []

    def compile_fastest(model: GuardedModel, images: Tensor) -> bool:
        tried.append(len(images))
        model.fastest = "compiled fold"
        return True

    monkeypatch.setattr(robust_accuracy, "compile_fastest", compile_fastest)
    list(evaluation(speed="auto").run())
    assert not tried

    monkeypatch.setattr(robust_accuracy, "LEAST_SECONDS", 0.0)
    list(evaluation(speed="fold").run())
    assert not tried

    run = evaluation(tmp_path / "run", speed="auto")
    for progress in run.run():
        if progress.stage == "weak" and tried:
            break
    assert tried == [16]
    monkeypatch.setattr(robust_accuracy, "LEAST_SECONDS", 1e9)
    again = evaluation(tmp_path / "run", speed="auto")
    list(again.run())
    names = {
        batch: {m["fastest"] for m in again.ledger.marks if m["batch"] == batch and "fastest" in m}
        for batch in range(3)
    }
    assert names[0].isdisjoint({"compiled fold"})
    assert names[1] == names[2] == {"compiled fold"}


def test_nothing_takes_more_images_at_once_than_a_batch() -> None:
    """The self-checks, too, keep to the batch size that the user chose for the memory there is."""
    run = evaluation(batch_size=6, curve=(0.01,))
    seen: list[int] = []
    handle = run.model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    list(run.run())
    handle.remove()
    assert 0 < max(seen) <= 6
