"""The parts of defences that hide gradients: codes, thresholds, noise and activations without a useful slope."""

from __future__ import annotations

import copy
from math import pi
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physadv.core.errors import OptionError


def thermometer(images: Tensor, levels: int = 16) -> Tensor:
    """Each pixel as a thermometer of ``levels`` marks, read back as its height (Buckman et al. 2018).

    A victim trained on the code itself sees the same information. The gradient is zero almost everywhere.
    """
    marks = (torch.arange(levels, device=images.device) + 0.5) / levels
    code = (images[..., None] > marks.to(images)).to(images)
    return code.mean(-1) + 0 * images


def staircase(images: Tensor, levels: int = 16, rounds: int = 40) -> Tensor:
    """A smooth map towards ``levels`` steps, applied ``rounds`` times: as deep as a purifier run to convergence.

    Differentiable, but its slope vanishes on the steps and explodes between them, as in PixelDefend and Defense-GAN.
    """
    x = images
    for _ in range(rounds):
        x = x - 0.9 * torch.sin(2 * pi * levels * x) / (2 * pi * levels)
    return x.clamp(0, 1)


def sparse_fourier(images: Tensor, share: float = 0.1) -> Tensor:
    """Only the strongest ``share`` of each channel's Fourier coefficients is kept (after Bafna et al. 2018).

    Small changes below the threshold are removed, and with them their gradient.
    """
    spectrum = torch.fft.rfft2(images)
    size = spectrum.abs().flatten(2)
    kept = max(1, round(share * size.shape[2]))
    least = size.topk(kept, 2).values[..., -1:, None]
    sparse: Tensor = torch.fft.irfft2(spectrum * (spectrum.abs() >= least), s=images.shape[-2:])
    return sparse.clamp(0, 1)


def completed(images: Tensor, keep: float = 0.6, share: float = 0.3, rounds: int = 4) -> Tensor:
    """Random pixels dropped, then filled by low rank, as ME-Net does (Yang et al. 2019).

    Each channel is a matrix; its missing pixels are taken ``rounds`` times from the approximation that the strongest
    ``share`` of its singular values gives. Draws from the global generator.
    """
    seen = torch.rand_like(images[:, :1]) < keep
    rank = max(1, round(share * min(images.shape[-2:])))
    x = torch.where(seen, images, images.mean((2, 3), keepdim=True))
    for _ in range(rounds):
        u, s, v = torch.linalg.svd(x, full_matrices=False)
        low: Tensor = (u[..., :rank] * s[..., None, :rank]) @ v[..., :rank, :]
        x = torch.where(seen, images, low)
    return low.clamp(0, 1)


def random_resize(images: Tensor, most: float = 1.15) -> Tensor:
    """Shrunk by a random factor within 1 to ``most`` and set at a random place on grey (after Xie et al. 2018).

    One draw a batch, from the global generator.
    """
    height, width = images.shape[-2:]
    factor = 1 / float(torch.empty(()).uniform_(1, most))
    small = max(1, round(height * factor)), max(1, round(width * factor))
    resized = F.interpolate(images, small, mode="bilinear", antialias=True)
    top = int(torch.randint(0, height - small[0] + 1, ()))
    left = int(torch.randint(0, width - small[1] + 1, ()))
    return F.pad(resized, (left, width - small[1] - left, top, height - small[0] - top), value=0.5)


class KWinners(nn.Module):
    """k-winners-take-all in place of a ReLU (Xiao et al. 2020): the largest ``share`` of a sample's values pass.

    Its slope jumps wherever the winners change. With ``adaptive`` the gradient is that of a ReLU: smoother, and right
    on average.
    """

    def __init__(self, share: float, adaptive: bool) -> None:
        super().__init__()
        if not 0 < share <= 1:
            raise OptionError(f"share {share}", "above 0 and at most 1", "use 0.2")
        self.share, self.adaptive = share, adaptive

    def forward(self, x: Tensor) -> Tensor:
        """Any shape (b, ...)."""
        rows = x.flatten(1)
        least = rows.topk(max(1, round(self.share * rows.shape[1])), 1).values[:, -1]
        winners = x * (x >= least.view(-1, *[1] * (x.ndim - 1)))
        if not self.adaptive:
            return winners
        slope = x.relu()
        return slope + (winners - slope).detach()


def with_winners(net: nn.Module, share: float, *, adaptive: bool) -> nn.Module:
    """A copy of ``net`` whose ReLU modules are k-winners. Raises OptionError where there is none to replace."""
    made = copy.deepcopy(net)
    found = 0
    for module in list(made.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(module, name, KWinners(share, adaptive))
                found += 1
    if not found:
        raise OptionError(type(net).__name__, "has no ReLU module to replace", "use a net built with nn.ReLU")
    return made


class Gaussians(nn.Module):
    """A generative classifier: one Gaussian a class over leading components of the images (after Schott et al. 2019).

    Logits are log likelihoods in nats, hundreds apart: softmax saturates and the cross entropy has no gradient.
    """

    mean: Tensor
    basis: Tensor
    centres: Tensor
    precisions: Tensor

    def __init__(
        self, images: Tensor, labels: Tensor, *, classes: int, components: int = 24, floor: float = 1e-3
    ) -> None:
        super().__init__()
        rows = images.flatten(1)
        components = min(components, *rows.shape)
        mean = rows.mean(0)
        _, _, axes = torch.linalg.svd(rows - mean, full_matrices=False)
        basis = axes[:components].T
        points = (rows - mean) @ basis
        centres, precisions = torch.zeros(classes, components), torch.ones(classes, components)
        for k in range(classes):
            own = points[labels == k]
            if len(own) < 2:
                raise OptionError(f"class {k}", f"{len(own)} images; 2 are needed to fit it", "give more images")
            centres[k], precisions[k] = own.mean(0), 1 / (own.var(0) + floor)
        for name, value in (("mean", mean), ("basis", basis), ("centres", centres), ("precisions", precisions)):
            self.register_buffer(name, value)

    def forward(self, images: Tensor) -> Tensor:
        """Log likelihoods (b, classes) up to a constant."""
        points = (images.flatten(1) - self.mean) @ self.basis
        apart = (points[:, None] - self.centres).square() * self.precisions
        return (self.precisions.log() - apart).sum(2) / 2


class Scaled(nn.Module):
    """``victim`` with its logits multiplied by ``factor``: the same verdicts, another confidence."""

    def __init__(self, victim: Any, factor: float) -> None:
        super().__init__()
        self.victim, self.factor = victim, factor

    def forward(self, images: Tensor) -> Tensor:
        """Logits (b, classes)."""
        logits: Tensor = self.victim(images) * self.factor
        return logits


class OneHot(nn.Module):
    """``victim`` whose logits are 1 for the best class and 0 else: labels only, and no gradient."""

    def __init__(self, victim: Any) -> None:
        super().__init__()
        self.victim = victim

    def forward(self, images: Tensor) -> Tensor:
        """Logits (b, classes)."""
        logits: Tensor = self.victim(images)
        return F.one_hot(logits.argmax(1), logits.shape[1]).to(logits) + 0 * logits
