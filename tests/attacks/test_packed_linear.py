"""Linear layers with packed weights: the same function and gradient, or the layer itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from physadv.attacks import _fused_model, _packed_linear
from physadv.attacks._fused_model import FusedModel, fuse_model
from physadv.attacks._packed_linear import (
    PackedLinear,
    any_number_of_rows,
    undo_packed_linear,
    use_packed_linear,
)

pytestmark = pytest.mark.usefixtures("cache")

OPERATORS = all(hasattr(torch.ops.mkldnn, name) for name in _packed_linear._OPERATORS)
needs_operators = pytest.mark.skipif(not OPERATORS, reason="this torch has no oneDNN")


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def mixer() -> nn.Sequential:
    """A net of two layers that gain and a head that does not."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(2),
        nn.Linear(64, 128),
        nn.GELU(),
        nn.Linear(128, 64),
        nn.Flatten(),
        nn.Linear(192, 4),
    ).eval()


def packed_layers(module: nn.Module) -> int:
    return sum(isinstance(m, PackedLinear) for m in module.modules())


@needs_operators
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(5, 33), (1, 33), (3, 4, 33), (2, 3, 4, 33)])
def test_is_the_linear_layer(shape: tuple[int, ...], bias: bool) -> None:
    """Outputs and input gradients are those of the layer, for any number of leading axes, also
    where the input is no dense tensor and the output is changed in place."""
    linear = nn.Linear(33, 40, bias=bias).requires_grad_(False)
    layer, weight = PackedLinear(linear), noise(*shape[:-1], 40)
    for x in (noise(*shape), noise(*shape[:-2], 33, shape[-2]).transpose(-1, -2)):
        x = x.requires_grad_()
        with any_number_of_rows(layer):
            outputs = [torch.relu_(f(x)) for f in (layer, linear)]
        slopes = [torch.autograd.grad((out * weight).sum(), x)[0] for out in outputs]
        torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-5)
        torch.testing.assert_close(slopes[0], slopes[1], rtol=0, atol=1e-5)


@needs_operators
def test_small_calls_go_through_the_layer() -> None:
    """Calls of few rows or products give the layer's output to the bit."""
    linear = nn.Linear(64, 64).requires_grad_(False)
    x = noise(20, 64)
    assert torch.equal(PackedLinear(linear)(x), linear(x))


@needs_operators
def test_only_plain_wide_layers_are_replaced_and_put_back() -> None:
    """Narrow ones, float64 and subclasses stay; a shared layer stays one; all come back."""

    class Own(nn.Linear):
        pass

    layer = nn.Linear(64, 64)
    net = nn.Sequential(layer, nn.Linear(64, 10), nn.Linear(64, 64).double(), Own(64, 64), layer)
    assert use_packed_linear(net) == 1
    assert net[0] is net[4]
    assert packed_layers(net) == 1
    undo_packed_linear(net)
    assert net[0] is net[4] is layer
    assert packed_layers(net) == 0


def test_nothing_is_replaced_without_operators_or_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch that lacks the operators, and weights too large, leave the layers as they are."""
    monkeypatch.setattr(_packed_linear, "_MOST_BYTES", 2 * (2 * 64 * 128) * 4 - 1)
    assert use_packed_linear(mixer()) == 0
    monkeypatch.undo()
    monkeypatch.setattr(_packed_linear, "_OPERATORS", ("no_such_operator",))
    assert use_packed_linear(mixer()) == 0


def test_operators_that_fail_cost_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the operators are there and fail, as those of another version may, the copy has the
    layers themselves, and what else makes it faster."""

    def fail(weight: Tensor) -> Tensor:
        raise RuntimeError("unknown layout")

    monkeypatch.setattr(_packed_linear, "_packed", fail)
    conv = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 64))
    copy = fuse_model(conv.eval(), noise(2, 3, 8, 8))
    assert isinstance(copy, FusedModel)
    assert (copy.folded, copy.packed) == (1, 0)


@needs_operators
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_copy_uses_it_and_says_so(channels_last: bool) -> None:
    """The copy of a net of linear layers runs packed ones in either memory format, and agrees."""
    net, x = mixer(), noise(64, 3, 8, 8)
    copy = fuse_model(net, x, channels_last=channels_last)
    assert isinstance(copy, FusedModel)
    assert packed_layers(copy.module) == 2
    assert packed_layers(net) == 0
    assert "2 linear layers packed" in str(copy)
    torch.testing.assert_close(copy(x), net(x), rtol=1e-4, atol=1e-5)


@needs_operators
def test_one_that_disagrees_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it computes something else the copy runs the layers themselves."""
    true = _packed_linear._multiply
    monkeypatch.setattr(_packed_linear, "_multiply", lambda *args: true(*args).flip(-1))
    net, x = mixer(), noise(64, 3, 8, 8)
    copy = fuse_model(net, x)
    assert isinstance(copy, FusedModel)
    assert packed_layers(copy.module) == 0
    assert "packed" not in str(copy)
    torch.testing.assert_close(copy(x), net(x), rtol=1e-4, atol=1e-5)


@needs_operators
def test_the_compiler_is_given_the_layers_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed weights are opaque to torch.compile, which is handed the layers that it knows."""
    given: list[int] = []

    def compiled(module: nn.Module, images: Tensor, *, bf16: bool = False) -> None:
        given.append(packed_layers(module))

    monkeypatch.setattr(_fused_model, "compiled_gradient", compiled)
    net, x = mixer(), noise(64, 3, 8, 8)
    copy = fuse_model(net, x)
    assert isinstance(copy, FusedModel)
    assert not _fused_model._compile(copy, net, x)
    assert given == [0]


@needs_operators
def test_a_transformer_runs_with_it() -> None:
    """Blocks of attention, which look at their layers' weights, agree with and without a
    gradient."""
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(64, 4, 256, 0.0, "gelu", batch_first=True, norm_first=True)
    net = nn.Sequential(nn.Flatten(2), block, nn.Flatten(), nn.Linear(192, 4)).eval()
    copy = fuse_model(net, noise(64, 3, 8, 8))
    assert isinstance(copy, FusedModel)
    assert packed_layers(copy.module) == 2
    with torch.no_grad():
        torch.testing.assert_close(
            copy(noise(64, 3, 8, 8)), net(noise(64, 3, 8, 8)), rtol=1e-4, atol=1e-5
        )
