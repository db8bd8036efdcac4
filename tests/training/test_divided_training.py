"""A batch in parts, in one process or in two, trains the network that the whole batch trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
import torch
from commandline import run_in_two
from torch import Tensor, nn

from physadv.core.errors import OptionError
from physadv.core.memory_limit import MemoryLimit
from physadv.core.process_group import ALONE, ProcessGroup
from physadv.core.tensor_files import read_tensors
from physadv.training.loop import TrainingSchedule, seed_all, train_model
from physadv.training.methods.base import Metrics, TrainingMethod
from physadv.training.methods.by_name import DEFENSES, method_by_name
from physadv.training.sharded_network import whole_tensors

DIVIDED = {
    "standard": {},
    "fgsm": {"eps": 0.05},
    "pgd": {"eps": 0.05, "steps": 2},
    "trades": {"eps": 0.05, "steps": 2},
    "fast": {"eps": 0.05, "every": 2, "held": 2},
    "gradient-penalty": {},
    "gaussian": {"sigma": 0.2},
    "smoothadv": {"sigma": 0.2, "eps": 0.1, "steps": 2},
    "masked": {"plain": 0.3, "kept": 0.3, "covers": (0.5, 0.5), "windows": (0.5, 0.5), "draws": 1},
}
TRACED = {
    "polytope": {"eps": 0.05, "grow": (0.0, 0.2), "projections": 3},
    "ibp": {"eps": 0.05, "grow": (0.0, 1.0)},
    "crown-ibp": {"eps": 0.05, "grow": (0.0, 1.0)},
}
"""Methods whose network is traced, and so has no memory to run out of."""
NORMALIZED = ("standard", "fgsm", "gradient-penalty", "smoothadv", "free", "polytope", "crown-ibp")
"""Methods that are tried with batch normalization: one pass and two, second derivatives, images
twice, gradients of images, and bounds."""
SCHEDULE = TrainingSchedule(epochs=2, steps=3, lr=0.01, precision="fp32")


class Net(nn.Module):
    """A small network; of more than ``most`` images at once the memory runs out.

    A bias that batch normalization takes away again has no gradient but rounding, which Adam would
    enlarge: there is none.
    """

    def __init__(self, most: int = 1000, *, norm: bool = False) -> None:
        super().__init__()
        middle = nn.BatchNorm1d(8) if norm else nn.Identity()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(12, 8, bias=not norm), middle, nn.Tanh(), nn.Linear(8, 3)
        )
        self.most = most

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        logits: Tensor = self.layers(images)
        return logits


def traced(*, norm: bool = False) -> nn.Module:
    """A network that bounds can be traced through."""
    first = [nn.Conv2d(3, 8, 2, bias=not norm), *([nn.BatchNorm2d(8)] if norm else []), nn.ReLU()]
    return nn.Sequential(*first, nn.Flatten(), nn.Linear(8, 3))


def pooled() -> nn.Module:
    """A network of images of any size."""
    layers = [nn.Conv2d(3, 8, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(32, 3))


@dataclass(frozen=True)
class Case:
    """A method, what makes a network for it, and the side of its images."""

    make: Callable[[], nn.Module]
    method: TrainingMethod
    side: int = 2

    def trained(
        self,
        processes: ProcessGroup = ALONE,
        checkpoint: Path | None = None,
        steps: int = 6,
        *,
        fsdp: bool = False,
    ) -> tuple[Tensor, list[float]]:
        """The weights and batch statistics after some steps, in one vector, and the losses."""
        net = seed_all(self.make, 1)
        run = train_model(
            net,
            partial(batch, side=self.side),
            SCHEDULE,
            defense=self.method,
            processes=processes,
            checkpoint=checkpoint,
            fsdp=fsdp,
        )
        losses = [step.loss for step in islice(run, steps)]
        state = whole_tensors(net.state_dict())
        return torch.cat([t.detach().float().flatten() for t in state.values()]), losses


def cases() -> dict[str, Case]:
    """Every method, with a network for it."""
    options = {**DIVIDED, **TRACED, "free": {"eps": 0.05, "replays": 2}}
    found = {}
    for name, own in options.items():
        net = traced if name in TRACED else Net
        found[name] = Case(net, method_by_name(name, own))
        if name in NORMALIZED:
            found[name + " norm"] = Case(partial(net, norm=True), method_by_name(name, own))
    return {**found, "patch": Case(pooled, method_by_name("patch", {"steps": 2}), side=16)}


def batch(number: int, side: int = 2) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(number)
    images = torch.rand(9, 3, side, side, generator=source)
    return images, torch.randint(0, 3, (9,), generator=source)


def trained(net: nn.Module, method: TrainingMethod, memory: MemoryLimit | None = None) -> Tensor:
    """The weights after a few steps, in one vector."""
    for _ in train_model(net, batch, SCHEDULE, defense=method, memory=memory):
        pass
    return torch.cat([p.detach().flatten() for p in net.parameters()])


@pytest.mark.parametrize("name", DIVIDED)
def test_parts_of_a_batch_add_up_to_it(name: str) -> None:
    """Out of memory at 9 and at 4 images, the loop takes 2 at once: same draws, same weights."""
    memory = MemoryLimit()
    method = method_by_name(name, DIVIDED[name])
    small = 2 * (2 if name == "smoothadv" else 1)  # which shows the network two noises an image
    parts = trained(seed_all(lambda: Net(small), 1), method, memory)
    whole = trained(seed_all(Net, 1), method_by_name(name, DIVIDED[name]))
    assert float((parts - whole).norm() / whole.norm()) < 1e-5
    assert (memory.first_failed, memory.most) == (9, 2)


def test_what_needs_whole_batches_is_not_divided() -> None:
    """Batch statistics: memory's error is passed on. A method that does not say how it is divided
    is refused in several processes."""
    with pytest.raises(torch.OutOfMemoryError):
        trained(seed_all(lambda: Net(4, norm=True), 1), method_by_name("standard", {}))

    class Own(TrainingMethod):
        def loss(self, *_: object) -> tuple[Tensor, Metrics]:
            raise AssertionError

    steps = train_model(Net(), batch, SCHEDULE, defense=Own(), processes=ProcessGroup(0, 2))
    with pytest.raises(OptionError, match="Training with Own, which needs whole batches"):
        next(steps)


def test_every_method_is_divided() -> None:
    """No method that `physadv train` knows is missing here."""
    assert {name.removesuffix(" norm") for name in cases()} == DEFENSES.keys()


PROGRAM = """
import sys, torch
from pathlib import Path
from torch import distributed
from test_divided_training import DIVIDED, Net, SCHEDULE, batch, cases
from physadv.core.memory_limit import MemoryLimit
from physadv.training.methods.by_name import method_by_name
from physadv.core.process_group import ALONE, ProcessGroup
from physadv.core.tensor_files import write_tensors
from physadv.training.loop import seed_all, train_model

distributed.init_process_group("gloo")
group = ProcessGroup.current()
weights = {}
for name, case in cases().items():
    weights[name], losses = case.trained(group)
    weights[name + " loss"] = torch.tensor(losses)

# Memory holds two images at once in the second process alone; then both take as few.
memory, net = MemoryLimit(), seed_all(lambda: Net(2 if group.rank else 1000), 1)
method = method_by_name("pgd", DIVIDED["pgd"])
for step in train_model(net, batch, SCHEDULE, defense=method, processes=group, memory=memory):
    pass
weights["small"] = torch.cat([p.detach().flatten() for p in net.parameters()])
assert set(group.gather((memory.first_failed, memory.most))) == {(5, 2)}
cases()["free"].trained(group, Path(sys.argv[2]), steps=3)  # its state is of all processes
if group.is_first:
    write_tensors(sys.argv[1], weights)
distributed.barrier()  # gloo aborts a process whose peer has gone
distributed.destroy_process_group()
"""


def test_two_processes_train_the_weights_of_one(tmp_path: Path) -> None:
    """Under every method weights and batch statistics agree within 1e-5, at an odd batch size, and
    the reported loss is that of the whole batch; so they do where one of the two runs out of
    memory, after which both take few images at once; and where one process goes on from what two
    have kept of their images' changes."""
    out, kept = tmp_path / "weights.safetensors", tmp_path / "free.safetensors"
    run_in_two(PROGRAM, tmp_path / "program.py", out, kept, imports=Path(__file__))
    both, _ = read_tensors(out)
    resumed, _ = cases()["free"].trained(checkpoint=kept)
    assert float((resumed - both["free"]).norm() / resumed.norm()) < 1e-5
    for name, case in cases().items():
        one, losses = case.trained()
        assert float((both[name] - one).norm() / one.norm()) < 1e-5, name
        torch.testing.assert_close(both[f"{name} loss"], torch.tensor(losses), rtol=1e-5, atol=0)
        if name == "pgd":
            assert float((both["small"] - one).norm() / one.norm()) < 1e-5
