"""The parts of defenses that hide gradients: codes, thresholds, noise and activations without a
useful slope."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physadv.core.errors import OptionError


def thermometer_quantize(images: Tensor, levels: int = 16) -> Tensor:
    """Each pixel as a thermometer of ``levels`` marks, read back as its height (Buckman et al.
    2018).

    A victim trained on the code itself sees the same information. The gradient is zero almost
    everywhere.
    """
    marks = (torch.arange(levels, device=images.device) + 0.5) / levels
    code = (images[..., None] > marks.to(images)).to(images)
    return code.mean(-1) + 0 * images


def thermometer_code(images: Tensor, levels: int = 16) -> Tensor:
    """(b, c, h, w) -> (b, c * levels, h, w): the code itself, for a net trained on it. No gradient."""
    return _codes((images[:, :, None] > _marks(images, levels)).to(images)) + 0 * images.sum()


def soft_thermometer_code(images: Tensor, levels: int = 16) -> Tensor:
    """The stand-in of Athalye et al. (2018) for :func:`thermometer_code`: each mark rises over one
    level's width."""
    return _codes(((images[:, :, None] - _marks(images, levels)) * levels + 0.5).clamp(0, 1))


def _marks(images: Tensor, levels: int) -> Tensor:
    return ((torch.arange(levels, device=images.device) + 0.5) / levels).to(images).view(-1, 1, 1)


def _codes(marked: Tensor) -> Tensor:
    return marked.flatten(1, 2)


def staircase_map(images: Tensor, levels: int = 16, rounds: int = 60) -> Tensor:
    """A continuous map towards ``levels`` steps, applied ``rounds`` times: as deep as a purifier
    run to convergence.

    Differentiable almost everywhere, but slopes multiply to nothing on the steps and explode
    between them, as in PixelDefend and Defense-GAN. Each round keeps t, the distance from the
    nearest step in steps, at 0 and 1/2.
    """
    nearest = (images * levels).round().detach()
    t = images * levels - nearest
    for _ in range(rounds):
        t = t * (0.1 + 3.6 * t.square())
    return ((nearest + t) / levels).clamp(0, 1)


def hard_threshold(images: Tensor, kept: int, spoiled: int, rounds: int = 10) -> Tensor:
    """Iterative hard thresholding (Bafna et al. 2018): a few cosines and a few spoiled pixels
    explain the image.

    In turn the ``kept`` strongest coefficients of each channel's 2-D cosine transform are fitted to
    what the spoiled pixels leave, and the ``spoiled`` pixels worst explained by them are taken out.
    Returned is the part of the cosines.
    """
    rows, columns = (_cosines(side).to(images) for side in images.shape[-2:])
    noise, image = torch.zeros_like(images), images
    for _ in range(rounds if spoiled else 1):
        image = rows.T @ _strongest(rows @ (images - noise) @ columns.T, kept) @ columns
        noise = _strongest(images - image, spoiled) if spoiled else noise
    return image


def _cosines(side: int) -> Tensor:
    """The orthonormal cosine transform (type II) of ``side`` numbers, one a row."""
    place = torch.arange(side, dtype=torch.float64)
    waves = torch.cos(torch.pi * (2 * place + 1) * place[:, None] / (2 * side)) * (2 / side) ** 0.5
    scaled: Tensor = waves / torch.where(place == 0, 2**0.5, 1.0)[:, None]
    return scaled


def _strongest(planes: Tensor, count: int) -> Tensor:
    """Planes (b, c, h, w) with all but the ``count`` largest numbers of each channel set to 0."""
    least = planes.flatten(2).abs().topk(count, 2).values[..., -1:, None]
    return planes * (planes.abs() >= least)


def complete_matrix(
    images: Tensor, keep: float = 0.6, share: float = 0.3, rounds: int = 4
) -> Tensor:
    """Random pixels dropped, then filled by low rank, as ME-Net does (Yang et al. 2019).

    Each channel is a matrix; its missing pixels are taken ``rounds`` times from the approximation
    that the strongest ``share`` of its singular values gives. Draws from the global generator.
    """
    seen = torch.rand_like(images[:, :1]) < keep
    rank = max(1, round(share * min(images.shape[-2:])))
    x = torch.where(seen, images, images.mean((2, 3), keepdim=True))
    for _ in range(rounds):
        u, s, v = torch.linalg.svd(x, full_matrices=False)
        low: Tensor = (u[..., :rank] * s[..., None, :rank]) @ v[..., :rank, :]
        x = torch.where(seen, images, low)
    return low.clamp(0, 1)


def random_resize(images: Tensor, most: float = 1.15, fill: float = 0.5) -> Tensor:
    """Shrunk by a random factor within 1 to ``most`` and set at a random place on ``fill`` (after
    Xie et al. 2018).

    One draw a batch, from the global generator.
    """
    height, width = images.shape[-2:]
    factor = 1 / float(torch.empty(()).uniform_(1, most))
    small = max(1, round(height * factor)), max(1, round(width * factor))
    resized = F.interpolate(images, small, mode="bilinear", antialias=True)
    top = int(torch.randint(0, height - small[0] + 1, ()))
    left = int(torch.randint(0, width - small[1] + 1, ()))
    return F.pad(resized, (left, width - small[1] - left, top, height - small[0] - top), value=fill)


class KWinnersActivation(nn.Module):
    """k-winners-take-all in place of a ReLU (Xiao et al. 2020): the largest ``share`` of a sample's
    values pass.

    Its slope jumps wherever the winners change. With ``adaptive`` the gradient is that of a ReLU:
    smoother, and right on average.
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


def with_k_winners(net: nn.Module, share: float, *, adaptive: bool) -> nn.Module:
    """A copy of ``net`` whose ReLU modules are k-winners. Raises OptionError where there is none to
    replace."""
    made = copy.deepcopy(net)
    replace_relus(made, share, adaptive=adaptive)
    return made


def replace_relus(net: nn.Module, share: float, *, adaptive: bool) -> None:
    """Put k-winners in the place of the ReLU (or earlier k-winners) modules of ``net``. OptionError
    without any."""
    found = 0
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ReLU | KWinnersActivation):
                setattr(module, name, KWinnersActivation(share, adaptive))
                found += 1
    if not found:
        raise OptionError(
            type(net).__name__, "has no ReLU module to replace", "use a net built with nn.ReLU"
        )


class GaussianClassifier(nn.Module):
    """A generative classifier: a Gaussian a class about a subspace of images (after Schott et al.
    2019).

    Probabilistic PCA: each class has its mean and ``components`` directions; what they leave of an
    image is noise of ``sigma``. Logits are log likelihoods in nats, hundreds apart: softmax
    saturates, and the cross entropy has no gradient. Raises OptionError for a class with fewer than
    two images.
    """

    centers: Tensor
    bases: Tensor

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        classes: int,
        components: int = 24,
        sigma: float = 0.1,
    ) -> None:
        super().__init__()
        rows = images.flatten(1)
        counts = labels.bincount(minlength=classes)
        if int(counts.min()) < 2:
            short = int(counts.argmin())
            raise OptionError(
                f"class {short}",
                f"{int(counts[short])} images; 2 are needed to fit it",
                "give more images",
            )
        self.sigma = sigma
        kept = min(components, int(counts.min()) - 1, rows.shape[1] - 1)
        centers, bases = [], []
        for k in range(classes):
            own = rows[labels == k]
            centers.append(own.mean(0))
            bases.append(torch.linalg.svd(own - centers[-1], full_matrices=False).Vh[:kept])
        self.register_buffer("centers", torch.stack(centers))
        self.register_buffer("bases", torch.stack(bases))

    def forward(self, images: Tensor) -> Tensor:
        """Log likelihoods (b, classes) up to a constant."""
        apart = images.flatten(1)[:, None] - self.centers
        within = torch.einsum("bkn,kcn->bkc", apart, self.bases)
        return (within.square().sum(2) - apart.square().sum(2)) / (2 * self.sigma**2)


class NoisyModel(nn.Module):
    """``model`` on images with a little Gaussian noise from the global generator, to smooth a
    slope that jumps."""

    def __init__(self, model: Any, sigma: float = 0.02) -> None:
        super().__init__()
        self.model, self.sigma = model, sigma

    def forward(self, images: Tensor) -> Tensor:
        """Logits (b, classes)."""
        logits: Tensor = self.model(images + self.sigma * torch.randn_like(images))
        return logits


class ScaledLogits(nn.Module):
    """``model`` with its logits multiplied by ``factor``: the same verdicts, another confidence."""

    def __init__(self, model: Any, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, images: Tensor) -> Tensor:
        """Logits (b, classes)."""
        logits: Tensor = self.model(images) * self.factor
        return logits


class OneHotOutput(nn.Module):
    """``model`` whose logits are 1 for the best class and 0 else: labels only, and no gradient."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Logits (b, classes)."""
        logits: Tensor = self.model(images)
        return F.one_hot(logits.argmax(1), logits.shape[1]).to(logits) + 0 * logits
