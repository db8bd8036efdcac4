"""Memory that runs out above some number of images halves the work and changes no row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from physadv.certification.smoothing.noise import noise_by_name
from physadv.certification.smoothing.sampler import NoiseSampler, SampleRequest
from physadv.core.memory_limit import MemoryLimit
from physadv.evaluation.certified_accuracy import BoundCertifier, certify_all
from physadv.evaluation.evaluate import evaluate
from physadv.evaluation.progress_log import ProgressLog
from physadv.models.load import as_model
from physadv_cli.main import app


class Small(nn.Module):
    """A net whose device holds ``most`` images at once, and says so as torch does."""

    def __init__(self, most: int | None = None) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(
                nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)
            )
        self.most, self.largest = most, 0

    def forward(self, x: Tensor) -> Tensor:
        if self.most is not None and len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self.largest = max(self.largest, len(x))
        logits: Tensor = self.body(x)
        return logits


def data(net: nn.Module, count: int = 12) -> tuple[Tensor, Tensor]:
    images = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return images, net(images).argmax(1)


@pytest.mark.parametrize("attack", [None, "pgd", "square", "mifgsm", "bsr"])
def test_an_evaluation_ends_with_the_same_rows(attack: str | None) -> None:
    """Each attack, and the ensemble, on a net that holds 5 images: rows, passes and rates are those
    of a net that holds all, and the result says what happened."""
    pair = data(Small())
    settings: dict[str, Any] = {"attack": attack, "speed": "plain", "batch_size": 12}
    if attack == "square":
        settings["steps"] = 60
    whole = evaluate(Small(), pair, "linf:0.03", **settings)
    cramped = Small(most=5)
    parts = evaluate(cramped, pair, "linf:0.03", **settings)
    keys = ("index", "robust", "broken_by", "stage", "forwards")
    assert [[r[k] for k in keys] for r in parts.rows] == [[r[k] for k in keys] for r in whole.rows]
    assert "memory" not in whole.facts
    assert "memory ran out at" in parts.facts["memory"]
    assert "memory" in str(parts)


def test_what_does_not_fit_alone_is_an_error() -> None:
    """A net that holds no single image ends with the error of torch, not with a loop."""
    with pytest.raises(RuntimeError, match="out of memory"):
        evaluate(Small(most=0), data(Small()), "linf:0.03", attack="pgd")


def test_a_function_of_ones_own_is_not_divided() -> None:
    """What it returns may depend on its batch, so it is told to take fewer images."""

    def mine(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        model(images)
        return images

    with pytest.raises(RuntimeError, match="out of memory"):
        evaluate(Small(most=5), data(Small()), "linf:0.03", attack=mine)


def test_votes_under_noise_are_the_same() -> None:
    """A sampler whose batch does not fit halves it, and counts the same votes."""
    image = data(Small())[0][:1]
    request = SampleRequest(image, 0, "certify", 0, 200)
    counts, words = [], []
    for most in (None, 48):
        sampler = NoiseSampler(Small(most), noise_by_name("gaussian", 0.5), batch=128)
        counts.append(sampler.count([request])[0].tolist())
        words.append(sampler.memory.in_words())
    assert counts[0] == counts[1]
    assert words[0] == ""
    assert "at most 32" in words[1]


def test_bounds_are_taken_in_parts() -> None:
    """A certifier that holds 3 images at once gives the rows of one that holds all,
    margins to rounding."""

    class Cramped(BoundCertifier):
        def rows(self, images: Tensor, *more: Any) -> Any:
            if len(images) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().rows(images, *more)

    from physadv.certification.bounds.verify import prepare_graph
    from physadv.evaluation.data import open_samples

    net = Small().body.eval()
    model = as_model(net)
    samples = open_samples(data(Small(), 8), model.card)
    results = []
    for kind in (BoundCertifier, Cramped):
        graph = prepare_graph(net, (3, 8, 8))
        certifier = kind(graph, "ibp", norm="linf", eps=[0.01], main=0.01)
        log = ProgressLog(None)
        list(certify_all(certifier, samples, log, device="cpu", tick=lambda share: None))
        results.append((log.rows, log.named("memory")))
    for whole, parts in zip(results[0][0].values(), results[1][0].values(), strict=True):
        assert parts == {**whole, "margin": pytest.approx(whole["margin"], abs=1e-5)}
    assert not results[0][1]
    assert any("ran out at 8" in text for text in results[1][1])


def test_the_program_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`physadv attack` finishes, and its summary tells how many images memory held."""
    from physadv.models.architectures import signnet

    photos = Path(__file__).resolve().parents[1] / "datasets" / "gtsrb-by-number.zip"
    plain = signnet.SignNet.forward

    def cramped(self: Any, x: Tensor) -> Tensor:
        if len(x) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return plain(self, x)

    monkeypatch.setattr(signnet.SignNet, "forward", cramped)
    words = ["attack", "--model", "signs", "--data", str(photos), "--split", "all", "--attack"]
    more = ["fgsm", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, [*words, *more])
    assert result.exit_code == 0, result.output
    assert "memory ran out at" in result.output


def test_a_limit_learns_and_ends() -> None:
    """The number falls by halves and stays; other errors pass."""
    limit = MemoryLimit()
    sizes = []

    def part(first: int, last: int) -> int:
        sizes.append(last - first)
        if last - first > 5:
            raise MemoryError
        return last - first

    assert sum(limit.run(30, part)) == 30
    assert sizes[:4] == [30, 15, 7, 3]
    assert limit.run(7, part) == [3, 3, 1]
    with pytest.raises(ZeroDivisionError):
        limit.run(3, lambda first, last: 1 // 0)
