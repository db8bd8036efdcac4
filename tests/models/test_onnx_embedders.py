"""Face recognizers as ONNX files, by a descriptor."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from physadv.core.errors import ModelError
from physadv.models.faces.embedders import load_embedder, load_surrogates

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

TEXT = """
weights = "{weights}"
size = 32
channels = "bgr"
dimension = 4
license = "test"
threshold = 0.3
"""


class Pooled(nn.Module):
    """A convolution, pooled; with ``last`` for images of which channels come last."""

    def __init__(self, *, last: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.filters, self.last = nn.Conv2d(3, 4, 5), last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 3, 1, 2) if self.last else x
        return self.filters(x).tanh().mean((2, 3))


def described(folder: Path, net: nn.Module, shape: tuple[int, ...] = (1, 3, 32, 32)) -> Path:
    """Write ``net`` as ONNX for one image, and a descriptor beside it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = str(folder / "net.onnx")
        torch.onnx.export(net.eval(), (torch.rand(shape),), file, dynamo=False, opset_version=17)
    descriptor = folder / "mine.toml"
    descriptor.write_text(TEXT.format(weights="net.onnx"), encoding="utf-8")
    return descriptor


@pytest.mark.parametrize("last", [False, True])
def test_an_onnx_recognizer_computes_what_its_net_does(tmp_path: Path, last: bool) -> None:
    """For a batch too, with channels first or last; its descriptor alone is enough, and it has
    gradients."""
    net = Pooled(last=last)
    shape = (1, 32, 32, 3) if last else (1, 3, 32, 32)
    embedder = load_embedder(described(tmp_path, net, shape))
    crops = torch.rand(3, 3, 32, 32, requires_grad=True)
    expected = (crops.flip(1) - 0.5) / 0.5
    expected = net(expected.permute(0, 2, 3, 1) if last else expected)
    found = embedder(crops)
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.autograd.grad(found.sum(), crops)[0].abs().max() > 0
    assert (embedder.card.name, embedder.no_gradient) == ("mine", "")
    assert len(embedder.card.sha256) == 64


def test_one_without_a_gradient_judges_and_makes_no_cloak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be converted is asked through onnxruntime; as a surrogate it is refused."""
    from physadv.models import onnx_loading

    def refuse(path: Path) -> nn.Module:
        raise ModelError(f"{path}", "operation 'X' is not known", "")

    monkeypatch.setattr(onnx_loading, "load_onnx_model", refuse)
    descriptor = described(tmp_path, Pooled())
    embedder = load_embedder(descriptor)
    assert embedder(torch.rand(1, 3, 32, 32)).shape == (1, 4)
    assert "not known" in embedder.no_gradient
    with pytest.raises(ModelError, match="made with gradients"):
        load_surrogates([str(descriptor)])


def test_a_file_that_is_no_embedder_is_refused(tmp_path: Path) -> None:
    """Another dimension than stated, at its first use."""
    descriptor = described(tmp_path, Pooled())
    text = descriptor.read_text(encoding="utf-8").replace("dimension = 4", "dimension = 5")
    descriptor.write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match="is stated"):
        load_embedder(descriptor)(torch.rand(1, 3, 32, 32))
