"""What holds for every epsilon-ball attack alike, in every norm it knows."""

from __future__ import annotations

import pytest
import torch
from linear import Linear, samples
from roster import CASES, EPS, IDS, Entry
from torch import Tensor, nn

from physadv.attacks._guarded_model import guarded
from physadv.core.errors import ImageError, OptionError
from physadv.threat.norms import Norm, lp_distance


class Net(nn.Module):
    """A small net with what can go wrong in it: batch norm, dropout, mixed modes, frozen and free
    parameters."""

    def __init__(
        self, classes: int = 5, dtype: torch.dtype = torch.float32, scale: float = 1.0
    ) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.body = nn.Sequential(
                nn.Conv2d(3, 8, 3, padding=1),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.Dropout(0.5),
                nn.Conv2d(8, 8, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(8),
                nn.ReLU(),
            )
            self.head = nn.Linear(8 * 9, classes)
            for norm in (self.body[1], self.body[5]):
                norm.running_mean.normal_(0, 0.3)
                norm.running_var.uniform_(0.5, 2)
        self.scale = scale
        self.to(dtype).eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits (b, classes)."""
        logits: Tensor = self.head(self.body(x * 4 - 2).flatten(1)) * self.scale
        return logits


def of_net(net: Net, n: int = 7) -> tuple[Tensor, Tensor]:
    """Images on the 8-bit grid with some pixels at the ends of [0, 1], and the classes the net
    gives them."""
    dtype = net.head.weight.dtype
    x, _ = samples(Linear(dtype=torch.float64), n)
    x = (x * 1.2 - 0.1).clamp(0, 1).mul(255).round().div(255).to(dtype)
    with torch.no_grad():
        return x, net(x).argmax(1)


@pytest.mark.parametrize(("entry", "norm"), CASES, ids=IDS)
def test_within_the_ball(entry: Entry, norm: Norm) -> None:
    """Distance <= eps in float64, values in [0, 1], detached, same dtype and shape."""
    net = Net()
    x, y = of_net(net)
    out = entry(net, x, y, norm).images
    assert (lp_distance(out, x, norm) <= EPS[norm]).all()
    assert out.min() >= 0
    assert out.max() <= 1
    assert not out.requires_grad
    assert (out.dtype, out.shape) == (x.dtype, x.shape)
    assert (lp_distance(out, x, norm) > 0).any()


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize(("entry", "norm"), CASES, ids=IDS)
def test_success_is_the_models_word_on_the_returned_images(
    entry: Entry, norm: Norm, plain: bool
) -> None:
    """``success`` is what the user's own victim predicts for the very images that come back."""
    net = Net()
    x, y = of_net(net)
    result = entry(net, x, y, norm, plain=plain)
    with torch.no_grad():
        assert torch.equal(net(result.images).argmax(1) != y, result.success)


@pytest.mark.parametrize(
    ("entry", "norm"),
    [c for c in CASES if c[0].levels],
    ids=[i for c, i in zip(CASES, IDS, strict=True) if c[0].levels],
)
def test_eight_bit(entry: Entry, norm: Norm) -> None:
    """With ``levels=255`` the result survives a PNG round trip, and is inside the ball and judged
    as it then is."""
    net = Net()
    x, y = of_net(net)
    result = entry(net, x, y, norm, levels=255)
    loaded = result.images.mul(255).round().to(torch.uint8).float().div(255)
    assert torch.equal(loaded, result.images)
    assert (lp_distance(loaded, x, norm) <= EPS[norm]).all()
    with torch.no_grad():
        assert torch.equal(net(loaded).argmax(1) != y, result.success)


@pytest.mark.parametrize(("entry", "norm"), CASES, ids=IDS)
def test_seed_and_batch(entry: Entry, norm: Norm) -> None:
    """The same seed gives the same result, and a sample's result does not depend on its batch."""
    net = Net(dtype=torch.float64)
    x, y = of_net(net)
    whole, again = entry(net, x, y, norm).images, entry(net, x, y, norm).images
    assert torch.equal(whole, again)
    if entry.name == "universal":
        return  # one change for all images is about the batch
    more = {"index": torch.tensor([4])} if entry.random and entry.indexed else {}
    alone = entry(net, x[4:5], y[4:5], norm, **more).images
    torch.testing.assert_close(alone, whole[4:5], rtol=0, atol=1e-6)
    if entry.random and entry.indexed:
        assert not torch.equal(entry(net, x, y, norm, seed=1).images, whole)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("entry", "norm"), CASES, ids=IDS)
def test_dtypes(entry: Entry, norm: Norm, dtype: torch.dtype) -> None:
    """float64 and bfloat16 images come back in their dtype and inside the ball."""
    net = Net(dtype=dtype)
    x, y = of_net(net)
    result = entry(net, x, y, norm)
    assert result.images.dtype == dtype
    assert (lp_distance(result.images, x, norm) <= EPS[norm]).all()
    assert result.images.isfinite().all()


@pytest.mark.parametrize(("entry", "norm"), CASES, ids=IDS)
def test_memory_format(entry: Entry, norm: Norm) -> None:
    """channels_last images come back channels_last, and attacked as contiguous ones are."""
    net = Net(dtype=torch.float64)
    x, y = of_net(net)
    last = entry(net, x.to(memory_format=torch.channels_last), y, norm).images
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last.contiguous(), entry(net, x, y, norm).images, rtol=0, atol=1e-6)


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize(("entry", "norm"), CASES, ids=IDS)
def test_no_side_effects(entry: Entry, norm: Norm, plain: bool) -> None:
    """Modes of every submodule, statistics, parameters, flags, gradients, global RNG and input stay
    as they were."""
    net = Net()
    x, y = of_net(net)
    net.train()
    net.body[1].eval()
    net.head.bias.requires_grad_(False)
    net.head.weight.grad = torch.ones_like(net.head.weight)
    held = {name: value.clone() for name, value in net.state_dict().items()}
    modes, flags = [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()]
    before, labels, state = x.clone(), y.clone(), torch.get_rng_state()
    with torch.no_grad():
        entry(net, x, y, norm, plain=plain)
    assert modes == [m.training for m in net.modules()]
    assert flags == [p.requires_grad for p in net.parameters()]
    assert all(torch.equal(held[name], value) for name, value in net.state_dict().items())
    assert torch.equal(net.head.weight.grad, torch.ones_like(net.head.weight))
    assert all(p.grad is None for p in net.body.parameters())
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(before, x)
    assert not x.requires_grad
    assert torch.equal(labels, y)


@pytest.mark.parametrize(("entry", "norm"), CASES, ids=IDS)
def test_forwards(entry: Entry, norm: Norm) -> None:
    """k steps take at most k + 1 forwards of any sample, counted by a hook behind the gate, and
    ``queries`` says how many."""
    net = Net()
    x, y = of_net(net)
    seen: list[int] = []
    net.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    result = entry(guarded(net), x, y, norm, plain=True)
    calls = entry.steps + 1 if entry.name != "universal" else (entry.steps + 1) * 3
    assert len(seen) <= calls
    assert result.queries is not None
    assert int(result.queries.max()) <= entry.steps + 1
    if entry.name not in ("universal", "square"):
        assert sum(seen) == int(result.queries.sum())


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize(("entry", "norm"), CASES, ids=IDS)
def test_few_classes_and_large_logits(entry: Entry, norm: Norm, classes: int) -> None:
    """Nothing breaks with 2, 3 or 4 classes, and logits times 1000 are attacked as well as the
    logits themselves."""
    small, large = Net(classes), Net(classes, scale=1000.0)
    x, y = of_net(small)
    few = {"eps": 3 * EPS[norm]}
    plain, scaled = entry(small, x, y, norm, **few), entry(large, x, y, norm, **few)
    assert int(scaled.success.sum()) >= int(plain.success.sum()) - 1


@pytest.mark.parametrize(
    ("entry", "norm"),
    [c for c in CASES if c[0].targeted],
    ids=[i for c, i in zip(CASES, IDS, strict=True) if c[0].targeted],
)
def test_targets(entry: Entry, norm: Norm) -> None:
    """With targets, success is the target and nothing else."""
    net = Net()
    x, y = of_net(net)
    targets = (y + 1) % 5
    result = entry(net, x, y, norm, eps=6 * EPS[norm], targets=targets)
    with torch.no_grad():
        assert torch.equal(net(result.images).argmax(1) == targets, result.success)
    # The net has random weights, so that shuffled blocks say nothing of the image.
    if entry.name not in ("universal", "gradient_ascent", "cw_l2", "bsr"):
        assert result.success.any()


@pytest.mark.parametrize(("entry", "norm"), CASES[::3], ids=IDS[::3])
def test_empty_batch_and_zero_eps(entry: Entry, norm: Norm) -> None:
    """No images give no images (or a known error), and eps 0 gives the clean images."""
    net = Net()
    x, y = of_net(net)
    if entry.name != "universal":
        assert entry(net, x[:0], y[:0], norm).images.shape == (0, 3, 6, 6)
    assert torch.equal(entry(net, x, y, norm, eps=0.0).images, x)


@pytest.mark.parametrize(
    "name", ["fgsm", "pgd", "apgd-dlr", "fab", "cw_l2", "universal", "diverse"]
)
def test_inference_mode(name: str) -> None:
    """Attacks work within the caller's ``inference_mode``, on tensors made there."""
    entry, norm = next(c for c in CASES if c[0].name == name)
    net = Net()
    x, y = of_net(net)
    with torch.inference_mode():
        result = entry(net, x * 1.0, y + 0, norm)
    torch.testing.assert_close(result.images, entry(net, x, y, norm).images)


@pytest.mark.parametrize("name", ["fgsm", "pgd", "apgd-ce", "fab", "universal", "mifgsm"])
def test_bad_input(name: str) -> None:
    """Images outside [0, 1], wrong labels and a bad eps are errors that name the remedy."""
    entry, norm = next(c for c in CASES if c[0].name == name)
    net = Net()
    x, y = of_net(net)
    with pytest.raises(ImageError, match="normalization"):
        entry(net, x * 3, y, norm)
    with pytest.raises(ImageError, match="255"):
        entry(net, (x * 255).to(torch.uint8), y, norm)
    with pytest.raises(OptionError, match="class number"):
        entry(net, x, y[:-1], norm)
    with pytest.raises(OptionError, match="eps"):
        entry(net, x, y, norm, eps=-1.0)
