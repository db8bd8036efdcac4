"""Tracing: nets that hide an operation, a view, a cast, a state or a decision are refused in one
sentence, or bounded as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physadv.certification.bounds.rounding import rounding_of_margins
from physadv.certification.bounds.tracing import folded_graph, trace_graph
from physadv.certification.bounds.verify import prepare_graph, verify_bounds
from physadv.core.errors import ModelError
from physadv.training.loop import seed_all

SHAPE = (3, 8, 8)


class Net(nn.Module):
    """A linear layer over whatever ``before`` makes of the images; ``after`` changes its logits."""

    def __init__(
        self,
        before: Callable[[Tensor], Any] = lambda x: x,
        after: Callable[[Tensor], Any] = lambda y: y,
    ) -> None:
        super().__init__()
        self.before, self.after = before, after
        with torch.no_grad():
            size = int(self.before(torch.rand(2, *SHAPE))[0].numel())
        self.linear = seed_all(lambda: nn.Linear(size, 4), 0)

    def forward(self, x: Tensor) -> Any:
        return self.after(self.linear(self.before(x).flatten(1)))


@torch.jit.script
def scripted_step(x: Tensor) -> Tensor:
    if bool(x.max() < 0.01):
        return torch.ones(4) * 100
    return torch.zeros(4)


class CustomStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.cos()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0]


def past_torch_function(x: Tensor) -> Tensor:
    with torch._C.DisableTorchFunction():
        return x.sin()


def stale_output(y: Tensor) -> Tensor:
    F.relu(y[:, :2], inplace=True)
    return y


def stale_base(x: Tensor) -> Tensor:
    h = x - 0.5
    h[:, 0].relu_()
    return h


def stale_detached(x: Tensor) -> Tensor:
    h = x - 0.5
    h.detach().relu_()
    return h


def base_changed(x: Tensor) -> Tensor:
    h = x - 0.5
    view = h.permute(0, 1, 3, 2)
    h.relu_()
    return view


def squeezed_base_changed(x: Tensor) -> Tensor:
    h = (x - 0.5).unsqueeze(1)
    view = h.squeeze(1)
    h.mul_(2)
    return view


def assigned(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 0] = 0
    return y


def accumulated(x: Tensor) -> Tensor:
    total = torch.zeros(8)
    y = x + total
    total += 1
    return y + total


def filled_by_images(x: Tensor) -> Tensor:
    kept = torch.zeros(len(x), 3, 8, 8)
    kept.copy_(x)
    return kept * 2


def given_out(x: Tensor) -> Tensor:
    return torch.mul(x, 2, out=torch.empty(x.shape))


def transposed_in_place(x: Tensor) -> Tensor:
    return (x * 2).transpose_(2, 3)


def under_autocast(x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return F.linear(x, torch.eye(8))


def by_value(x: Tensor) -> Tensor:
    return x * float(x.max())


def by_list(x: Tensor) -> Tensor:
    return x * torch.tensor(x[0].flatten().tolist()).max()


def by_numpy(x: Tensor) -> Tensor:
    return x * float(x.numpy().max())


def torch_batch_norm(x: Tensor) -> Tensor:
    statistics = (torch.arange(3.0) + i for i in range(4))
    return torch.batch_norm(x, *statistics, False, 0.1, 1e-5, False)


def quantized() -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    return torch.ao.quantization.quantize_dynamic(net)  # type: ignore[no-any-return]


class Counting(nn.Module):
    """Counts its calls in a buffer, in place or anew, and lets the count leak into the logits."""

    def __init__(self, *, anew: bool, leak: float) -> None:
        super().__init__()
        self.linear = nn.Linear(192, 4)
        self.register_buffer("calls", torch.zeros(()))
        self.anew, self.leak = anew, leak

    def forward(self, x: Tensor) -> Tensor:
        if self.anew:
            self.calls = self.calls + 1
        else:
            self.calls += 1
        return self.linear(x.flatten(1)) + self.leak * self.calls


class Decaying(nn.Module):
    """Changes its own weight in every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(192, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.linear.weight.mul_(0.99)
        return self.linear(x.flatten(1))


class Drifting(nn.Module):
    """Counts its calls in Python."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.calls = nn.Linear(192, 4), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x.flatten(1)) + 1e-6 * self.calls


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, track_running_stats=False)
        self.linear = nn.Linear(192, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(x).flatten(1))


def looks_like_relu(x: Tensor) -> Tensor:
    return torch.ops.physadv_test.relu(x)


if not hasattr(torch.ops.physadv_test, "relu"):
    LIBRARY = torch.library.Library("physadv_test", "DEF")
    LIBRARY.define("relu(Tensor x) -> Tensor")
    LIBRARY.impl("relu", lambda x: x * 0.5, "CompositeExplicitAutograd")


class Refused(NamedTuple):
    """A net and the words of its refusal."""

    make: Callable[[], nn.Module]
    words: str


REFUSED = {
    "scripted function": Refused(
        lambda: Net(after=lambda y: y + scripted_step(y)), "scripted function"
    ),
    "custom function": Refused(lambda: Net(CustomStep.apply), "'cos'"),
    "hidden from torch": Refused(lambda: Net(past_torch_function), "cannot follow"),
    "custom operator": Refused(lambda: Net(looks_like_relu), "physadv_test"),
    "scripted module": Refused(
        lambda: torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(192, 4))), "scripted"
    ),
    "stale output": Refused(lambda: Net(after=stale_output), "through another view"),
    "stale base": Refused(lambda: Net(stale_base), "through another view"),
    "stale detached": Refused(lambda: Net(stale_detached), "through another view"),
    "base changed": Refused(lambda: Net(base_changed), "through another view"),
    "squeezed base changed": Refused(lambda: Net(squeezed_base_changed), "through another view"),
    "assignment": Refused(lambda: Net(assigned), "assignment into a tensor"),
    "accumulator": Refused(lambda: Net(accumulated), "constant of the model"),
    "filled by images": Refused(lambda: Net(filled_by_images), "(copy|constant|filled)"),
    "out=": Refused(lambda: Net(given_out), "out="),
    "transpose_": Refused(lambda: Net(transposed_in_place), "in place"),
    "input in place": Refused(lambda: Net(lambda x: x.sub_(0.5)), "own input in place"),
    "negative pooling": Refused(
        lambda: Net(lambda x: F.avg_pool2d(x, 2, divisor_override=-4)), "avg_pool2d"
    ),
    "autocast": Refused(lambda: Net(under_autocast), "bfloat16"),
    "half": Refused(lambda: Net(lambda x: x.half().float()), "float16"),
    "to half": Refused(lambda: Net(lambda x: x.to(torch.bfloat16).to(x.dtype)), "bfloat16"),
    "type as": Refused(lambda: Net(lambda x: x.type_as(torch.ones(1).half()).float()), "float16"),
    "rounding": Refused(lambda: Net(lambda x: (x * 255).round() / 255), "rounding"),
    "fake quantization": Refused(
        lambda: Net(lambda x: torch.fake_quantize_per_tensor_affine(x, 1e-4, 0, -20000, 20000)),
        "fake quantization",
    ),
    "bits": Refused(lambda: Net(lambda x: x.view(torch.int32).view(torch.float32)), "int32"),
    "random": Refused(lambda: Net(after=lambda y: y + 1e-9 * torch.rand(4)), "random"),
    "dropout": Refused(lambda: Net(lambda x: F.dropout(x, 0.1)), "random"),
    "counting": Refused(lambda: Counting(anew=False, leak=0.0), "buffer"),
    "counting anew": Refused(lambda: Counting(anew=True, leak=0.0), "buffer 'calls'"),
    "decaying": Refused(Decaying, "parameter"),
    "drifting": Refused(Drifting, "(twice|differs)"),
    "decision by value": Refused(lambda: Net(by_value), "maximum"),
    "decision by list": Refused(lambda: Net(by_list), "mixes the images"),
    "decision by numpy": Refused(lambda: Net(by_numpy), "numpy"),
    "length of the batch": Refused(
        lambda: Net(after=lambda y: y * (1 if len(y) > 1 else -1)), "batch"
    ),
    "constant of the batch": Refused(lambda: Net(after=lambda y: y / len(y)), "batch"),
    "a large batch": Refused(lambda: Net(after=lambda y: y if len(y) < 30 else -y), "batch"),
    "gradients": Refused(
        lambda: Net(after=lambda y: y if torch.is_grad_enabled() else y * 0), "differs"
    ),
    "a graded input": Refused(lambda: Net(lambda x: x if x.requires_grad else x * 0), "differs"),
    "one logit": Refused(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 1)), "at least two"),
    "another order of arguments": Refused(lambda: Net(torch_batch_norm), "differs"),
    "vmap": Refused(lambda: Net(lambda x: torch.vmap(torch.cos)(x)), "cannot follow"),
    "dynamic quantization": Refused(quantized, "quantized"),
    "squeeze": Refused(lambda: Net(after=lambda y: y[:, None].squeeze()), "batch of 1"),
    "mean of the batch": Refused(lambda: Net(lambda x: x - x.mean(0)), "mixes the images"),
    "statistics of the batch": Refused(Normed, "statistics of the batch"),
    "GELU by tanh": Refused(lambda: Net(lambda x: F.gelu(x, approximate="tanh")), "GELU"),
    "a constant joined": Refused(
        lambda: Net(lambda x: torch.cat([x, torch.ones(x.shape)], 1)), "concatenation.*not depend"
    ),
    "joined images": Refused(lambda: Net(lambda x: torch.cat([x, x])), "concatenation.*mixes"),
    "limits by pixel": Refused(
        lambda: Net(lambda x: x.clamp(torch.zeros(8), torch.ones(8))), "clipping.*not the same"
    ),
    "softmax": Refused(lambda: Net(after=lambda y: y.softmax(1)), "logits before it"),
    "tuple": Refused(lambda: Net(after=lambda y: (y, y)), "returns a tuple"),
    "grey net": Refused(lambda: nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten()), "channels=1"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_is_no_fixed_known_network_is_refused_in_words(name: str) -> None:
    """One ModelError of one sentence, which names the operation or the state; buffers stay."""
    net = REFUSED[name].make().eval()
    tensors = {k: v for k, v in net.state_dict().items() if isinstance(v, Tensor)}
    before = {key: value.clone() for key, value in tensors.items()}
    with pytest.raises(ModelError, match=REFUSED[name].words) as refused:
        prepare_graph(net, SHAPE)
    assert len(str(refused.value).splitlines()) == 1
    after = net.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_a_refusal_names_the_layer() -> None:
    """The path of the module in which the operation stands."""
    net = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(192, 4), nn.Softmax(1)))
    with pytest.raises(ModelError, match=r"softmax.* in layer '1\.1'"):
        trace_graph(net, SHAPE)
    assert not any(module._forward_hooks for module in net.modules())


def test_autocast_around_the_call_is_refused() -> None:
    """The network would run in bfloat16."""
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ModelError, match="autocast"):
        prepare_graph(Net(), SHAPE)


def idle_steps(x: Tensor) -> Tensor:
    y = x.clone().contiguous().detach().float() * 1.0 + 0
    return F.dropout(nn.Identity()(y), 0.5, training=False).type_as(x)


def pieces(x: Tensor) -> Tensor:
    upper, lower = x.chunk(2, 2)
    first, *_ = x.unbind(1)
    return upper - lower + first[:, None, :4].expand(-1, 3, -1, -1)


def in_place(x: Tensor) -> Tensor:
    h = x - 0.5
    F.relu(h, inplace=True)
    h += 0.25
    return h.mul_(torch.arange(8) > 2)


@pytest.mark.parametrize("steps", [idle_steps, pieces, in_place])
def test_idle_steps_pieces_and_steps_in_place_are_followed(
    steps: Callable[[Tensor], Tensor],
) -> None:
    """The graph is the net; a ball of no size gives the margin itself."""
    net = Net(steps).requires_grad_(False)
    images = torch.rand(4, *SHAPE)
    labels = net(images).argmax(1)
    graph = prepare_graph(net, SHAPE)
    assert torch.allclose(graph(images), net(images), atol=1e-5)
    assert verify_bounds(graph, images, labels, eps=0.0).certified.all()


@pytest.mark.parametrize(
    "wrap",
    [
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
    ],
)
def test_parametrized_weights_are_bounded(wrap: Callable[[nn.Module], nn.Module]) -> None:
    """Weights that are computed at every pass are those of that pass."""
    net = nn.Sequential(nn.Flatten(), wrap(nn.Linear(192, 4))).eval()
    images = torch.rand(4, *SHAPE)
    assert torch.allclose(folded_graph(net, SHAPE)(images), net(images), atol=1e-5)


class Cancelling(nn.Module):
    """Adds a constant and takes it away again: in float32 the logits are steps of its rounding."""

    def __init__(self, constant: float) -> None:
        super().__init__()
        self.linear, self.constant = seed_all(lambda: nn.Linear(192, 4), 0), constant

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1)) + self.constant - self.constant


def test_rounding_counts_against_a_certificate() -> None:
    """The estimate is above what float32 changes, also where large numbers cancel, and small."""
    images = torch.rand(16, *SHAPE)
    for constant, most in ((0.0, 1e-4), (512.0, 1e-2)):
        net = Cancelling(constant).requires_grad_(False)
        rounding = rounding_of_margins(trace_graph(net, SHAPE), images)
        logits = net(images).double()
        gap = (logits - net.double()(images.double())).abs().max(1).values
        assert (gap > 0).any()
        assert (gap <= rounding).all()
        assert (rounding < most).all()


def test_large_numbers_that_cancel_are_refused() -> None:
    """A net that is mostly rounding is not its graph."""
    with pytest.raises(ModelError, match="differs from its own traced layers"):
        prepare_graph(Cancelling(2.0**20), SHAPE)
