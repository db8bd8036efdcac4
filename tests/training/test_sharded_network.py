"""Training by FSDP: weights in shards, a part in each of two processes, become those of one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from commandline import run_in_two
from test_divided_training import SCHEDULE, Net, batch, cases, trained
from torch import nn

from physadv.core.errors import OptionError
from physadv.core.process_group import ProcessGroup
from physadv.core.tensor_files import read_tensors
from physadv.training.loop import train_model
from physadv.training.methods.by_name import DEFENSES, method_by_name
from physadv.training.sharded_network import NetworkOutline, as_sharded, whole_tensors

WHOLE = {"ibp", "crown-ibp", "polytope", "gradient-penalty"}
"""Methods that read the weights, or differentiate gradients, which FSDP does not."""

PROGRAM = """
import sys, torch
from pathlib import Path
from torch import distributed
from torch.distributed.tensor import DTensor
from test_divided_training import cases
from test_sharded_network import WHOLE
from physadv.core.process_group import ProcessGroup
from physadv.core.tensor_files import write_tensors
from physadv.training import sharded_network
from physadv.training.loop import seed_all

distributed.init_process_group("gloo")
group, folder, weights = ProcessGroup.current(), Path(sys.argv[1]), {}
sharded_network.SMALLEST_UNIT = 1  # small layers, too, travel one by one

net = seed_all(cases()["pgd"].make, 1)
count = sum(p.numel() for p in net.parameters())
sharded_network.shard_network(net, group)
assert all(isinstance(p, DTensor) for p in net.parameters())
own = group.gather(sum(p.to_local().numel() for p in net.parameters()))
assert sum(own) == count and max(own) < 0.7 * count, own

for name, case in cases().items():
    if name.removesuffix(" norm") not in WHOLE:
        weights[name], losses = case.trained(group, fsdp=True)
        weights[name + " loss"] = torch.tensor(losses)

cases()["fast"].trained(group, folder / "half.safetensors", steps=3, fsdp=True)
weights["resumed"], _ = cases()["fast"].trained(group, folder / "one.safetensors", fsdp=True)
if group.is_first:
    write_tensors(folder / "weights.safetensors", weights)
distributed.barrier()
distributed.destroy_process_group()
"""


def test_shards_train_the_weights_of_one_process(tmp_path: Path) -> None:
    """Under every method that allows it weights, batch statistics and losses agree within 1e-5, and
    each process holds about half of the weights. What two processes keep, one goes on from, and the
    other way around, to the same weights."""
    one, _ = cases()["fast"].trained(checkpoint=tmp_path / "one.safetensors", steps=3)
    run_in_two(PROGRAM, tmp_path / "program.py", tmp_path, imports=Path(__file__))

    both, _ = read_tensors(tmp_path / "weights.safetensors")
    for name in (name for name in both if f"{name} loss" in both):
        one, losses = cases()[name].trained()
        assert float((both[name] - one).norm() / one.norm()) < 1e-5, name
        torch.testing.assert_close(both[f"{name} loss"], torch.tensor(losses), rtol=1e-5, atol=0)
    assert {name.split()[0] for name in both} - {"resumed"} == DEFENSES.keys() - WHOLE

    one, _ = cases()["fast"].trained()
    resumed, _ = cases()["fast"].trained(checkpoint=tmp_path / "half.safetensors")
    for weights in (resumed, both["resumed"]):
        assert float((weights - one).norm() / one.norm()) < 1e-5


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_methods_that_need_whole_weights_are_refused(name: str) -> None:
    """In one line, before anything is sharded."""
    options = {} if name == "gradient-penalty" else {"eps": 0.1}
    method = method_by_name(name, options)
    assert not method.shardable
    steps = train_model(
        Net(), batch, SCHEDULE, defense=method, processes=ProcessGroup(0, 2), fsdp=True
    )
    with pytest.raises(OptionError, match=r"--fsdp with .*whole weights"):
        next(steps)


def test_one_process_has_nothing_to_shard() -> None:
    """The same command on one process trains as without shards."""
    method = method_by_name("standard", {})
    nets = [Net(), Net()]
    nets[1].load_state_dict(nets[0].state_dict())
    whole = trained(nets[0], method)
    for _ in train_model(nets[1], batch, SCHEDULE, defense=method, fsdp=True):
        pass
    torch.testing.assert_close(
        torch.cat([p.detach().flatten() for p in nets[1].parameters()]), whole, rtol=0, atol=0
    )


def test_a_whole_copy_has_all_of_the_network() -> None:
    """Weights, statistics and buffers outside the state; the copy shares nothing that a later step
    changes in the outline."""
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()
    net.register_buffer("shift", torch.ones(2), persistent=False)
    outline = NetworkOutline(net)
    with torch.no_grad():
        net[0].weight.fill_(2.0)
        net[1].running_mean.fill_(3.0)
    copied, images = outline.filled(net), torch.rand(5, 3)
    torch.testing.assert_close(copied(images), net(images))
    assert torch.equal(copied.shift, net.shift)
    assert not any(p.requires_grad for p in copied.parameters())


def test_whole_tensors_pass_as_they_are() -> None:
    """What is not sharded is neither copied nor changed, and not kept where it is not asked for."""
    value = torch.rand(3)
    assert whole_tensors({"a": value})["a"] is value
    assert whole_tensors({"a": value}, keep=False) == {}
    assert as_sharded(value, torch.zeros(3)) is value
