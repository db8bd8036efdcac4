"""EdgeFace-XS: quantized and low-rank weights are read, embeddings have gradients, and it stays out
of a cloak to judge it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from physadv.models.architectures.edgeface import EdgeFace, merge_low_rank
from physadv.models.faces import embedders as embedders_module
from physadv.models.faces.embedders import FETCHABLE, load_embedder, load_surrogates
from physadv.models.fetch import fetch_weights
from physadv.models.loading import read_state


def test_quantized_linear_layers_are_read_as_plain_ones(tmp_path: Path) -> None:
    """Weights and biases come back within a step of the quantization, under the layer's own names,
    with everything else as it was."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.LayerNorm(4))
    quantized = torch.ao.quantization.quantize_dynamic(net, {torch.nn.Linear}, dtype=torch.qint8)
    torch.save(quantized.state_dict(), tmp_path / "q.pt")
    state = read_state(tmp_path / "q.pt")
    assert state.keys() == net.state_dict().keys()
    step = float(net[0].weight.detach().abs().max()) / 127
    assert float((state["0.weight"] - net[0].weight).abs().max()) <= step
    assert torch.equal(state["0.bias"], net[0].bias)


def test_low_rank_layers_are_merged() -> None:
    """The one layer gives what the two give in turn; layers of full rank stay."""
    torch.manual_seed(0)
    pair = torch.nn.Sequential(torch.nn.Linear(6, 2, bias=False), torch.nn.Linear(2, 5))
    merged = merge_low_rank(
        {
            "fc.linear1.weight": pair[0].weight,
            "fc.linear2.weight": pair[1].weight,
            "fc.linear2.bias": pair[1].bias,
            "head.weight": pair[1].weight,
        }
    )
    x = torch.rand(3, 6)
    whole = torch.nn.functional.linear(x, merged["fc.weight"], merged["fc.bias"])
    assert torch.allclose(whole, pair(x), atol=1e-6)
    assert merged.keys() == {"fc.weight", "fc.bias", "head.weight"}


def test_published_weights_fit_and_give_gradients(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`models fetch` knows the file by its sha256; every key fits; the card names the terms; the
    parts that an adaptive check trains make up the whole."""
    monkeypatch.setenv("PHYSADV_CACHE", str(tmp_path))
    fetch_weights(FETCHABLE["edgeface-xs"], source=shared_data / "weights" / "edgeface_xs_q.pt")
    embedder = load_embedder("edgeface-xs")
    assert "research" in embedder.card.licence
    crop = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0)).requires_grad_()
    out = embedder(crop)
    assert out.shape == (2, 512)
    out.square().sum().backward()
    assert crop.grad is not None
    assert (crop.grad.abs().mean((1, 2, 3)) > 0).all()
    net = embedder.net
    assert isinstance(net, EdgeFace)
    with torch.no_grad():
        assert torch.equal(net.tail(net.trunk(crop)), net(crop))


@pytest.mark.parametrize(
    ("at_hand", "named", "used", "judge"),
    [
        ("dlib", "", "dlib", None),
        ("dlib mobilefacenet", "", "mobilefacenet", "dlib"),
        ("dlib edgeface-xs", "", "dlib", "edgeface-xs"),
        ("dlib mobilefacenet edgeface-xs", "", "dlib mobilefacenet", "edgeface-xs"),
        ("dlib edgeface-xs", "edgeface-xs", "edgeface-xs", "dlib"),
        ("dlib edgeface-xs", "dlib edgeface-xs", "dlib edgeface-xs", None),
    ],
)
def test_one_recognizer_stays_out_of_a_cloak(
    at_hand: str, named: str, used: str, judge: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default the one of research terms, else dlib; those named are used all the same, and only
    then is there none that judges."""
    monkeypatch.setattr(embedders_module, "available_embedders", at_hand.split)

    def loaded(name: str, **options: Any) -> SimpleNamespace:
        return SimpleNamespace(name=f"loaded {name}", no_gradient="")

    monkeypatch.setattr(embedders_module, "load_embedder", loaded)
    found, left_out = load_surrogates(named.split())
    assert [vars(each)["name"] for each in found] == [f"loaded {name}" for name in used.split()]
    assert left_out == judge
