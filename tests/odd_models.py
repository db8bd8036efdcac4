"""Models that are not as they should be, by kind, and what must stay as it is around them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Net(nn.Module):
    """Three classes from batch-normalized linear features of images (b, 3, 6, 6)."""

    def __init__(self) -> None:
        super().__init__()
        source = torch.Generator().manual_seed(5)
        self.weight = nn.Parameter(torch.randn(3, 108, generator=source) / 4)
        self.norm = nn.BatchNorm1d(3, momentum=0.5, affine=False)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (b, 3)."""
        logits: Tensor = self.norm((images - 0.5).flatten(1) @ self.weight.T)
        return logits


class Wrapped(nn.Module):
    """A net with something around it: ``around(net, images)``."""

    def __init__(self, around: Callable[[nn.Module, Tensor], Any], net: nn.Module | None) -> None:
        super().__init__()
        self.net, self.around = net or Net(), around

    def forward(self, images: Tensor) -> Any:
        """Whatever ``around`` makes of the net and the images."""
        return self.around(self.net, images)


def in_place(net: nn.Module, images: Tensor) -> Tensor:
    """Normalize the images where they lie."""
    with torch.no_grad():
        images.sub_(0.5).mul_(0.8).add_(0.5)
    return net(images)


def batch_statistics(net: Any, images: Tensor) -> Tensor:
    """Normalize by the batch also in eval mode."""
    features = (images - 0.5).flatten(1) @ net.weight.T
    return 3 * F.batch_norm(features, None, None, training=True) if len(images) > 1 else features


def nan_off_the_clean_image(net: nn.Module, images: Tensor) -> Tensor:
    """NaN for every image but the clean ones."""
    clean = (images.detach()[:, None] == batch()[0]).flatten(2).all(2).any(1)
    return net(images).masked_fill(~clean[:, None], torch.nan)


def noisy(net: nn.Module, images: Tensor) -> Tensor:
    """Add noise to the logits, from the global generator."""
    logits = net(images)
    return logits + torch.randn_like(logits)


def counting(net: nn.Module, images: Tensor) -> Tensor:
    """Change a buffer of the net in eval mode."""
    net.norm.running_mean += 0.05  # type: ignore[operator, union-attr]
    return net(images)


@dataclass
class Output:
    """An output as transformers return it."""

    logits: Tensor


def never_empty(net: nn.Module, images: Tensor) -> Tensor:
    """Fail on a batch without images, as models do that stack what they make of each."""
    return torch.stack([net(image[None])[0] for image in images])


_BUFFER = torch.zeros(64, 3)


def same_buffer(net: nn.Module, images: Tensor) -> Tensor:
    """Return a view of one buffer from every call."""
    logits = net(images)
    if logits.requires_grad:
        return logits
    _BUFFER[: len(images)] = logits
    return _BUFFER[: len(images)]


def by_hand(net: nn.Module, images: Tensor) -> Tensor:
    """Take a softmax in steps, which saturates."""
    logits = 500 * net(images)
    powers = (logits - logits.amax(1, keepdim=True)).exp()
    return powers / powers.sum(1, keepdim=True)


def seeded(net: nn.Module, images: Tensor) -> Tensor:
    """Seed the global generators in every pass, and draw from them."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    return net(images) + 0.1 * torch.rand(1, 3)


@dataclass(frozen=True)
class Kind:
    """A kind of model: what is around the net, the finding it must carry, or the words of the error
    that refuses it; ``exact`` where success is what one more pass of the model says."""

    around: Callable[[Any, Tensor], Any]
    finding: str = ""
    refused: str = ""
    exact: bool = True
    gradient: bool = True


KINDS = {
    "plain": Kind(lambda net, x: net(x)),
    "saturated softmax": Kind(lambda net, x: (500 * net(x)).softmax(1), "softmax-output"),
    "saturated softmax, negative pole": Kind(
        lambda net, x: torch.softmax(500 * net(x), dim=-1), "softmax-output"
    ),
    "softmax by hand": Kind(
        lambda net, x: net(x).exp() / net(x).exp().sum(1, keepdim=True), "softmax-output"
    ),
    "log-probabilities with -inf": Kind(lambda net, x: (500 * net(x)).softmax(1).log()),
    "input changed in place": Kind(in_place, "changes-its-input"),
    "one logit": Kind(lambda net, x: net(x)[:, :1], refused="2 classes"),
    "one number": Kind(lambda net, x: net(x)[:, 0], refused="2 classes"),
    "one row": Kind(lambda net, x: net(x)[:1], refused="logits"),
    "feature map": Kind(
        lambda net, x: net(x)[:, :, None, None].repeat(1, 1, 2, 2), refused="logits"
    ),
    "sides of 1": Kind(lambda net, x: net(x)[:, :, None, None]),
    "text": Kind(lambda net, x: "stop", refused="str"),
    "none": Kind(lambda net, x: None, refused="NoneType"),
    "batch-dependent": Kind(batch_statistics, "batch-dependent", exact=False),
    "NaN off the clean image": Kind(nan_off_the_clean_image, "non-finite-output"),
    "NaN": Kind(lambda net, x: net(x) * torch.nan, "non-finite-output"),
    "NaN gradient": Kind(lambda net, x: net(x) + (net(x) * 0).sqrt(), "zero-gradient"),
    "stairs": Kind(lambda net, x: (net(x) * 10).floor(), "zero-gradient"),
    "sigmoid": Kind(lambda net, x: (300 * net(x)).sigmoid()),
    "saturated by hand": Kind(by_hand, "softmax-output"),
    "seeds itself": Kind(seeded),
    "fails without images": Kind(never_empty),
    "input changed by autograd": Kind(
        lambda net, x: net(x.mul_(0.5).add_(0.2)), "changes-its-input"
    ),
    "own no_grad": Kind(torch.no_grad()(lambda net, x: net(x)), gradient=False),
    "constant": Kind(lambda net, x: net(x) * 0, "tied-output"),
    "ties": Kind(lambda net, x: (x.flatten(1) @ net.weight.T).round() + 0 * net(x), "tied-output"),
    "random": Kind(noisy, "random-output", exact=False),
    "changes itself": Kind(counting, "changes-itself", exact=False),
    "tuple": Kind(lambda net, x: (net(x), x)),
    "list": Kind(lambda net, x: [x, net(x)]),
    "dict": Kind(lambda net, x: {"logits": net(x), "loss": None}),
    "dict of one": Kind(lambda net, x: {"out": net(x), "aux": x}),
    "ModelOutput": Kind(lambda net, x: Output(net(x))),
    "two heads": Kind(lambda net, x: (net(x), net(x)), refused="2 of its parts"),
    "same buffer": Kind(same_buffer),
    "squeezed": Kind(lambda net, x: net(x).squeeze()),
    "fails": Kind(lambda net, x: net(x[:, :2]), refused="RuntimeError"),
    "integers": Kind(lambda net, x: (10 * net(x)).round().long(), gradient=False),
    "no gradient": Kind(lambda net, x: net(x.detach()), gradient=False),
    "double": Kind(lambda net, x: net(x).double()),
    "half outputs": Kind(lambda net, x: net(x).half()),
}
"""Kinds of models, by name."""


def batch(n: int = 7) -> tuple[Tensor, Tensor]:
    """8-bit images (n, 3, 6, 6) and the classes that the plain net gives them."""
    source = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (n, 3, 6, 6), generator=source) / 255
    with torch.no_grad():
        return images, Net()(images).argmax(1)


def kept_state(model: nn.Module) -> list[Any]:
    """Everything of the caller's and of the process that an attack must leave alone."""
    own = [value.clone() for value in model.state_dict().values()]
    flags = [(p.requires_grad, p.grad is None) for p in model.parameters()]
    modes = [module.training for module in model.modules()]
    numbers = [torch.get_rng_state(), torch.from_numpy(np.random.get_state()[1].astype(int))]  # noqa: NPY002
    rest = [flags, modes, random.getstate(), torch.get_default_dtype(), torch.is_grad_enabled()]
    return [*own, *numbers, rest]


def unchanged(before: list[Any], after: list[Any]) -> bool:
    """Whether two states are the same."""
    return all(
        torch.equal(a, b) if isinstance(a, Tensor) else a == b
        for a, b in zip(before, after, strict=True)
    )


def truth(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Whether (b,) the model itself predicts another class."""
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        output = model.eval()(images.clone())
    model.load_state_dict(kept)
    if isinstance(output, list | tuple):
        output = next(part for part in output if part.shape[1:] == (3,))
    if isinstance(output, dict):
        output = output.get("logits", output.get("out"))
    logits = getattr(output, "logits", output).flatten(1)
    return (logits.argmax(1) != labels) & logits.amax(1).isfinite()
