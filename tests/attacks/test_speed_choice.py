"""The fastest copy remembered for later runs: it saves the timing and decides nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from physadv.attacks import _fused_model, pgd
from physadv.attacks._fused_model import FusedModel, gradient_model_for
from physadv.attacks._guarded_model import guarded
from physadv.attacks._speed_choice import FILE, choice_key, earlier_choice, keep_choice
from physadv.evaluation.evaluate import prepare_evaluation

NAMES = ("fold",)
pytestmark = pytest.mark.usefixtures("cache")


class Counting(nn.Module):
    """A small net whose forward passes count, those of its copies too."""

    passes = 0

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        Counting.passes += 1
        logits: Tensor = self.body(x)
        return logits


def net_of(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Counting().eval()


def images_of(count: int = 4) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@dataclass
class Timing:
    """Replaces the clock: ``seconds`` by name, 2 for all others, and how often it was read."""

    seconds: dict[str, float]
    rounds: int = 0


@pytest.fixture
def timing(monkeypatch: pytest.MonkeyPatch) -> Timing:
    clock = Timing({"plain": 1.0, "fold": 0.5})

    def timed(candidates: dict[str, object], probe: Tensor) -> dict[str, float]:
        clock.rounds += 1
        return {name: clock.seconds.get(name, 2.0) for name in candidates}

    monkeypatch.setattr(_fused_model, "_timed", timed)
    return clock


def chosen(speed: str = "auto", net: nn.Module | None = None, count: int = 4) -> tuple[str, bool]:
    """What a run of its own takes: the copy's name, and whether it was chosen earlier."""
    guard = guarded(net_of() if net is None else net)
    gradient_model_for(guard, speed, images_of(count))  # type: ignore[arg-type]
    return str(guard.fastest), guard.chosen_earlier


def test_a_second_run_makes_no_timing_passes(cache: Path) -> None:
    """Of the same net made anew, the second attack passes nothing for timing; both results are the
    model's own verdict, and the same."""
    x = images_of()
    y = net_of()(x).argmax(1)
    counts, results = [], []
    for _ in range(2):
        Counting.passes = 0
        results.append(pgd(net_of(), x, y, eps=0.1, steps=500, speed="auto", drop_broken=False))
        counts.append(Counting.passes)
    first = _fused_model._ROUNDS
    assert counts[0] - counts[1] >= 2 * first
    assert json.loads((cache / FILE).read_text())["form"] == 1
    assert torch.equal(results[0].success, results[1].success)
    assert torch.equal(net_of()(results[1].images).argmax(1) != y, results[1].success)


def test_timed_asks_the_clock_again_and_replaces_the_choice(timing: Timing) -> None:
    """Speed "timed" takes no earlier choice, and what it finds is taken from then on."""
    assert chosen() == ("fold", False)
    timing.seconds = {"plain": 1.0, "fold, contiguous": 0.4}
    assert chosen() == ("fold", True)
    assert timing.rounds == 1
    assert chosen("timed") == ("fold, contiguous", False)
    assert chosen() == ("fold, contiguous", True)
    timing.seconds = {}
    assert chosen("timed")[0] == "plain"
    assert chosen() == ("plain", True)


def test_another_net_batch_or_setting_is_timed_for_itself(
    timing: Timing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, a layer's settings, code, shape, type, threads and version are each in the key."""

    class Other(Counting):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2

    strided, doubled = net_of(), Other().eval()
    strided.body[0].dilation = (1, 1, 1)  # type: ignore[union-attr, index, operator]
    doubled.load_state_dict(net_of().state_dict())
    x = images_of()

    keys = [choice_key(net, x, NAMES) for net in (net_of(), net_of(1), strided, doubled)]
    keys += [choice_key(net_of(), x[:3], NAMES), choice_key(net_of(), x.double(), NAMES)]
    keys += [choice_key(net_of(), x, (*NAMES, "bf16"))]
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 7)
        keys.append(choice_key(net_of(), x, NAMES))
    with monkeypatch.context() as patch:
        patch.setattr("physadv.attacks._speed_choice.version", lambda _: "0")
        keys.append(choice_key(net_of(), x, NAMES))
    assert len(set(keys)) == len(keys)
    assert None not in keys
    assert choice_key(net_of(), x, NAMES) == keys[0]

    assert chosen() == ("fold", False)
    assert chosen(net=net_of(1)) == ("fold", False)
    assert chosen(count=3) == ("fold", False)
    assert timing.rounds == 3


PROGRAM = """
import torch
from physadv.attacks._speed_choice import choice_key
torch.set_num_threads(1)
class Net(torch.nn.Conv2d):
    def forward(self, x):
        return super().forward(x) if self.padding_mode in {"zeros", "circular", "reflect"} else x
torch.manual_seed(0)
print(choice_key(Net(3, 4, 3), torch.zeros(1, 3, 8, 8), ()))
"""


def test_the_key_is_the_same_in_another_process() -> None:
    """Neither addresses nor the order of sets, which differ by process, are in it."""
    printed = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert len(printed) == 1
    assert len(printed.pop()) == 64


def test_weights_that_are_no_bytes_have_no_key(timing: Timing, cache: Path) -> None:
    """A net that cannot be hashed is timed in each run, and nothing is kept of it."""
    lazy = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    lazy.register_buffer("sparse", torch.eye(3).to_sparse())
    assert choice_key(lazy, images_of(), NAMES) is None
    net = net_of()
    net.register_buffer("sparse", torch.eye(3).to_sparse())
    assert [chosen(net=net)[1] for _ in range(2)] == [False, False]
    assert timing.rounds == 2
    assert not cache.exists()


FOREIGN = [
    b"",
    b"{",
    b"\xff\xfe",
    b"[1, 2]",
    b'{"form": 1, "fastest": ["fold"]}',
    b'{"form": 1, "fastest": {"KEY": 3}}',
    b'{"form": 0, "fastest": {"KEY": "bf16"}}',
    b'{"form": 1, "fastest": {"KEY": "warp"}}',
    b'{"form": 1, "fastest": {"KEY": "compiled fold"}}',
    b'{"form": 1, "fastest": {"KEY": "__import__(\'os\')"}}',
    b" " * (1 << 19) + b'{"form": 1, "fastest": {"KEY": "bf16"}}',
]


@pytest.mark.parametrize("content", FOREIGN, ids=range(len(FOREIGN)))
def test_a_foreign_file_is_ignored_and_replaced(
    timing: Timing, cache: Path, content: bytes
) -> None:
    """What is malformed, of another form, too large or names no copy is timed anew, without a word,
    and replaced by what was found."""
    names = tuple(_fused_model._VARIANTS)
    key = choice_key(net_of(), images_of(), names)
    assert key is not None
    cache.mkdir()
    (cache / FILE).write_bytes(content.replace(b"KEY", key.encode()))
    assert chosen() == ("fold", False)
    assert earlier_choice(key) == "fold"
    assert chosen() == ("fold", True)


@pytest.mark.parametrize("name", ["plain", "bf16", "fold, contiguous"])
def test_a_tampered_choice_changes_no_verdict(timing: Timing, name: str) -> None:
    """Another copy than the fastest is compared with the model as any other, and success is the
    model's own."""
    x = images_of()
    key = choice_key(net_of(), x, tuple(_fused_model._VARIANTS))
    assert key is not None
    keep_choice(key, name)
    y = net_of()(x).argmax(1)
    result = pgd(net_of(), x, y, eps=0.1, steps=500, speed="auto")
    assert timing.rounds == 0
    assert torch.equal(net_of()(result.images).argmax(1) != y, result.success)


def test_an_earlier_choice_that_does_not_agree_is_not_taken(
    timing: Timing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that computes something else, whatever the file says, makes no step."""
    assert chosen() == ("fold", False)
    agrees = _fused_model._agrees

    def wrong_fold(candidate: FusedModel, model: Callable[[Tensor], Tensor], probe: Tensor) -> bool:
        return candidate.bf16 and agrees(candidate, model, probe)

    monkeypatch.setattr(_fused_model, "_agrees", wrong_fold)
    timing.seconds["fold"] = 0.1
    name, earlier = chosen()
    assert not earlier
    assert not name.startswith("fold")


@pytest.mark.parametrize("blocked", ["read-only", "a file", "a folder there"])
def test_a_cache_that_cannot_be_written_is_no_error(
    timing: Timing, cache: Path, monkeypatch: pytest.MonkeyPatch, blocked: str
) -> None:
    """The run goes on, and the next one times again."""
    if blocked == "a file":
        cache.write_text("in the way")
    elif blocked == "a folder there":
        (cache / FILE).mkdir(parents=True)
    else:

        def refused(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("physadv.attacks._speed_choice.write_json", refused)
    assert [chosen() for _ in range(2)] == [("fold", False)] * 2
    assert timing.rounds == 2


def test_the_latest_choices_are_kept(cache: Path) -> None:
    """The file does not grow without end."""
    full = {f"{number:064}": "fold, contiguous" for number in range(500)}
    cache.mkdir()
    (cache / FILE).write_text(json.dumps({"form": 1, "fastest": full}))
    keep_choice(f"{1:064}", "plain")
    keep_choice(f"{500:064}", "plain")
    kept = list(json.loads((cache / FILE).read_text())["fastest"])
    assert kept == [f"{number:064}" for number in [*range(2, 500), 1, 500]]
    assert earlier_choice(f"{500:064}") == "plain"
    assert earlier_choice(f"{0:064}") is None


def test_an_evaluation_says_whose_choice_it_runs(timing: Timing, tmp_path: Path) -> None:
    """The first run says nothing of it, later ones that an earlier run chose; one that goes on says
    of its batches what the run said that it goes on from."""
    x = images_of(8)
    data = (x, net_of()(x).argmax(1))
    said = "a copy of the model, 1 batch norm folded, channels last"
    earlier = f"{said}, as chosen in an earlier run"

    def run(folder: str, *, stop: bool = False) -> list[str]:
        task = prepare_evaluation(net_of(), data, attack="pgd", speed="auto", batch_size=4)
        running = task.start(tmp_path / folder)
        for progress in running.run():
            if stop and progress.stage == "pgd":
                break
        return list(running.result()["gradients_of"])

    assert run("first", stop=True) == [said]
    assert run("second", stop=True) == [earlier]
    assert run("first") == [said]
    assert run("second") == [earlier]
    assert timing.rounds == 1
