"""Convolutions by Winograd's method: the same function and gradient, or the convolution itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from physadv.attacks import _winograd
from physadv.attacks._fused_model import FusedModel, fuse_model
from physadv.attacks._winograd import (
    WinogradConv2d,
    any_number_of_pixels,
    fits,
    undo_winograd,
    use_winograd,
)
from physadv.attacks.gradient import pgd

pytestmark = pytest.mark.usefixtures("cache")


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def wide(channels: int = 160) -> nn.Sequential:
    """A net with one convolution that gains, and others that do not."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, 4),
    ).eval()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread, whatever the machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def filtered_layers(module: nn.Module) -> int:
    return sum(isinstance(m, WinogradConv2d) for m in module.modules())


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 9), (13, 6), (1, 3)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_is_the_convolution(
    height: int,
    width: int,
    layout: torch.memory_format,
    chunk: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Outputs and input gradients are those of the convolution, for sizes that 4 does not divide,
    in both memory formats, and image by image."""
    monkeypatch.setattr(_winograd, "_CHUNK", chunk)
    conv = nn.Conv2d(5, 7, 3, padding=1).requires_grad_(False)
    layer = WinogradConv2d(conv)
    x = noise(3, 5, height, width).contiguous(memory_format=layout).requires_grad_()
    weight = noise(3, 7, height, width) - 0.5
    with any_number_of_pixels(layer):
        outputs = [layer(x), conv(x)]
    slopes = [torch.autograd.grad((out * weight).sum(), x)[0] for out in outputs]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(slopes[0], slopes[1], rtol=0, atol=1e-5)


def test_the_output_may_be_changed_in_place() -> None:
    """An activation in place behind a convolution without a bias works, and its gradient too."""
    conv = nn.Conv2d(4, 4, 3, padding=1, bias=False).requires_grad_(False)
    layer, x = WinogradConv2d(conv), noise(4, 4, 8, 8).requires_grad_()
    slopes = [torch.autograd.grad(torch.relu_(f(x)).sum(), x)[0] for f in (layer, conv)]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=0, atol=1e-5)


def test_few_pixels_go_through_the_convolution() -> None:
    """Where the batch has fewer pixels than pay, the output is the convolution's to the bit."""
    conv = nn.Conv2d(4, 4, 3, padding=1).requires_grad_(False)
    x = noise(3, 4, 8, 8)
    assert torch.equal(WinogradConv2d(conv)(x), conv(x))


def test_only_plain_wide_convolutions_are_replaced() -> None:
    """Strides, groups, dilation, other padding, few channels, float64 and subclasses stay."""

    class Own(nn.Conv2d):
        pass

    assert fits(nn.Conv2d(160, 160, 3, padding=1))
    assert fits(nn.Conv2d(160, 160, 3, padding="same"))
    for other in (
        nn.Conv2d(160, 160, 3, padding=1, stride=2),
        nn.Conv2d(160, 160, 3, padding=2, dilation=2),
        nn.Conv2d(160, 160, 3, padding=1, groups=160),
        nn.Conv2d(160, 160, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(160, 160, 3),
        nn.Conv2d(160, 160, 1),
        nn.Conv2d(160, 64, 3, padding=1),
        nn.Conv2d(160, 160, 3, padding=1).double(),
        Own(160, 160, 3, padding=1),
    ):
        assert not fits(other)


def test_replaced_layers_are_put_back() -> None:
    """A shared convolution is replaced in both of its places by one layer, and both come back."""
    net = wide()
    conv = net[3]
    both = nn.Sequential(net, nn.ModuleDict({"again": conv}))
    assert use_winograd(both) == 1
    assert net[3] is both[1]["again"]  # type: ignore[index]
    assert filtered_layers(both) == 1
    undo_winograd(both)
    assert net[3] is conv
    assert filtered_layers(both) == 0


def test_weights_that_take_too_much_memory_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is replaced where the transformed weights together exceed the limit."""
    monkeypatch.setattr(_winograd, "_MOST_BYTES", 160 * 160 * 36 * 4 - 1)
    assert use_winograd(wide()) == 0


@pytest.mark.usefixtures("one_thread")
def test_a_copy_uses_it_and_says_so() -> None:
    """The fused copy of a wide net runs it, agrees with the net, and the attack's verdicts are the
    net's; the net itself keeps its layers."""
    net, x = wide(), noise(24, 3, 8, 8)
    copy = fuse_model(net, x)
    assert isinstance(copy, FusedModel)
    assert filtered_layers(copy.module) == 1
    assert filtered_layers(net) == 0
    assert "1 convolution by Winograd's method" in str(copy)
    torch.testing.assert_close(copy(x), net(x), rtol=1e-4, atol=1e-5)

    labels = net(x).argmax(1)
    for speed in ("plain", copy):
        result = pgd(net, x, labels, eps=0.05, steps=8, speed=speed)  # type: ignore[arg-type]
        assert torch.equal(result.success, net(result.images).argmax(1) != labels)


@pytest.mark.usefixtures("one_thread")
def test_the_bf16_copy_keeps_bf16_convolutions() -> None:
    """Of a copy in bfloat16 only the last, exact steps use it."""
    copy = fuse_model(wide(), noise(4, 3, 8, 8), bf16=True)
    assert isinstance(copy, FusedModel)
    assert copy.bf16
    assert filtered_layers(copy.module) == 0
    assert filtered_layers(copy.exact.module) == 1


@pytest.mark.parametrize("bf16", [False, True])
def test_one_that_disagrees_is_undone(bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it computes something else, the copy is folded as before and runs the convolutions."""
    true = _winograd._transposed
    monkeypatch.setattr(_winograd, "_transposed", lambda *args: true(*args).flip(2))
    net, x = wide(), noise(4, 3, 8, 8)
    copy = fuse_model(net, x, bf16=bf16, timed=True)
    assert isinstance(copy, FusedModel)
    assert copy.bf16 == bf16
    assert copy.folded == 2 or bf16
    assert filtered_layers(copy.exact.module) == 0
    assert "Winograd" not in str(copy.exact)
    torch.testing.assert_close(copy.exact(x), net(x), rtol=1e-4, atol=1e-5)


def test_several_threads_take_it_only_where_it_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that share cores with other work make it slower than the convolution, so that a copy
    which is taken without being timed runs the convolution."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    copies = [fuse_model(wide(), noise(4, 3, 8, 8), timed=timed) for timed in (False, True)]
    assert [filtered_layers(c.module) for c in copies if isinstance(c, FusedModel)] == [0, 1]
