"""Weights as training programs leave them: what wraps them, in one file, several, or a folder."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from physadv.core.errors import ModelError
from physadv.models.load import load_undefended_model
from physadv.models.loading import load_state, read_state
from physadv.models.weight_folders import sha256_of_weights


def net() -> nn.Module:
    """A small net with a batch norm, whose counter older files lack."""
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.LazyLinear(3))


def weights(seed: int = 0) -> dict[str, Tensor]:
    """Weights of such a net."""
    torch.manual_seed(seed)
    made = net()
    made(torch.rand(2, 3, 4, 4))
    return dict(made.state_dict())


def prefixed(prefix: str) -> dict[str, Tensor]:
    """The same behind a prefix."""
    return {prefix + key: value for key, value in weights().items()}


def fits(path: Path) -> bool:
    """Whether ``path`` holds those weights for the net."""
    made = net()
    made(torch.rand(2, 3, 4, 4))
    load_state(made, read_state(path), name="test")
    return all(
        torch.equal(value, weights()[key])
        for key, value in made.state_dict().items()
        if "num_batches" not in key
    )


CHECKPOINTS: dict[str, Any] = {
    "torchvision": {
        "model": weights(),
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1, out=Path("x")),
    },
    "a running mean alone": {"model_ema": {**prefixed("module."), "n_averaged": torch.tensor(3)}},
    "an equal running mean": {"model": weights(), "model_ema": prefixed("module.")},
    "Lightning": {
        "state_dict": {**prefixed("net._orig_mod."), "loss.weight": torch.ones(3)},
        "hyper_parameters": {"lr": 0.1},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.3)}},
        "optimizer_states": [{"state": {}}],
    },
    "DeepSpeed": {"module": weights(), "optimizer": None, "ds_config": {"stage": 1}},
    "measured by thop": {
        **weights(),
        "total_ops": torch.zeros(1),
        "1.total_params": torch.zeros(1),
    },
    "of old": {k: v for k, v in weights().items() if "num_batches" not in k},
    "of old, in parallel": {k: v for k, v in prefixed("module.").items() if "num_b" not in k},
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_gives_its_weights(name: str, tmp_path: Path) -> None:
    """What stands around the weights is taken off."""
    torch.save(CHECKPOINTS[name], tmp_path / "x.pth")
    assert fits(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("plain", "mean"), [("model", "model_ema"), ("state_dict", "state_dict_ema"), ("net", "ema")]
)
def test_weights_and_another_mean_of_them_are_not_chosen_among(
    plain: str, mean: str, tmp_path: Path
) -> None:
    """Figures of the one are not those of the other: the error names both."""
    torch.save({plain: weights(), mean: weights(1)}, tmp_path / "x.pth")
    with pytest.raises(ModelError, match=f"'{plain}' and a running mean of them under '{mean}'"):
        read_state(tmp_path / "x.pth")


class Payload:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch ran",)


@pytest.mark.parametrize("inside", [Payload(), argparse.Namespace(x=Payload()), [Payload()]])
def test_options_beside_weights_run_nothing(
    inside: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Options of argparse are read, and what runs when it is read is refused in them too."""
    monkeypatch.chdir(tmp_path)
    torch.save({"model": weights(), "args": inside}, tmp_path / "x.pth")
    with pytest.raises(ModelError, match="pickle of more than weights"):
        read_state(tmp_path / "x.pth")
    assert not (tmp_path / "ran").exists()


def write_shards(folder: Path, names: tuple[str, str]) -> Path:
    """Two shards and their index."""
    folder.mkdir()
    state, places = weights(), {}
    for number, name in enumerate(names):
        own = {k: v for i, (k, v) in enumerate(state.items()) if i % 2 == number}
        places |= dict.fromkeys(own, name)
        if "/" not in name:
            save_file(own, folder / name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


def test_shards_are_read_by_their_index(tmp_path: Path) -> None:
    """The index or its folder; one hash stands for all."""
    index = write_shards(tmp_path / "s", ("a.safetensors", "b.safetensors"))
    assert fits(index)
    assert fits(index.parent)
    assert sha256_of_weights(index) == sha256_of_weights(index.parent)
    (tmp_path / "s/b.safetensors").unlink()
    with pytest.raises(ModelError, match=r"b\.safetensors"):
        read_state(index)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/x.safetensors", "..", ""])
def test_an_index_leads_nowhere_else(name: str, tmp_path: Path) -> None:
    """Shards lie beside their index."""
    save_file(weights(), tmp_path / "x.safetensors")
    index = write_shards(tmp_path / "s", ("a.safetensors", "b.safetensors"))
    index.write_text(json.dumps({"weight_map": {"0.weight": name}}))
    with pytest.raises(ModelError, match=r"shard|names it"):
        read_state(index)


def test_a_link_in_an_index_leads_nowhere_else(tmp_path: Path) -> None:
    """A shard that is a link to another folder is refused."""
    save_file(weights(), tmp_path / "x.safetensors")
    index = write_shards(tmp_path / "s", ("a.safetensors", "b.safetensors"))
    (tmp_path / "s/b.safetensors").unlink()
    (tmp_path / "s/b.safetensors").symlink_to(tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match="own folder"):
        read_state(index)


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": {}}', '{"weight_map": 3}', "?"])
def test_an_index_that_names_no_shards_is_one_error(index: str, tmp_path: Path) -> None:
    """Also where it is no JSON."""
    file = tmp_path / "model.safetensors.index.json"
    file.write_text(index)
    with pytest.raises(ModelError):
        read_state(file)


def test_folders_of_accelerate_and_deepspeed(tmp_path: Path) -> None:
    """accelerate's own file, DeepSpeed's of one process by ``latest``; those of several processes,
    and torch.distributed's, are told how to be merged."""
    saved = tmp_path / "accelerate"
    saved.mkdir()
    save_file(weights(), saved / "model.safetensors")
    torch.save({"state": {}}, saved / "optimizer.bin")
    assert fits(saved)
    with pytest.raises(ModelError, match=f"--weights {saved}"):
        load_undefended_model(saved)

    deep = tmp_path / "deep"
    (deep / "step7").mkdir(parents=True)
    (deep / "latest").write_text("step7\n")
    torch.save({"module": weights()}, deep / "step7/mp_rank_00_model_states.pt")
    assert fits(deep)
    assert fits(deep / "step7")
    torch.save({}, deep / "step7/zero_pp_rank_0_mp_rank_00_model_states.pt")
    with pytest.raises(ModelError, match="zero_to_fp32"):
        read_state(deep)
    (deep / "latest").write_text("../step7")
    with pytest.raises(ModelError, match="no folder beside it"):
        read_state(deep)

    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / ".metadata").write_bytes(b"")
    with pytest.raises(ModelError, match="dcp_to_torch"):
        read_state(parts)
    (parts / ".metadata").unlink()
    with pytest.raises(ModelError, match="holds none of"):
        read_state(parts)
