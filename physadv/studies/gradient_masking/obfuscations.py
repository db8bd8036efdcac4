"""Building blocks of defenses that hide gradients: codes, thresholds, noise, and activations
without a useful slope."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physadv.core.errors import OptionError
from physadv.core.wording import count_noun


def thermometer_quantize(images: Tensor, levels: int = 16) -> Tensor:
    """Return ``images`` with each pixel encoded as a thermometer of ``levels`` and decoded to its
    height (Buckman et al. 2018).

    A model trained on the code itself receives the same information. The gradient is zero almost
    everywhere.
    """
    marks = (torch.arange(levels, device=images.device) + 0.5) / levels
    code = (images[..., None] > marks.to(images)).to(images)
    return code.mean(-1) + 0 * images


def thermometer_code(images: Tensor, levels: int = 16) -> Tensor:
    """Return the thermometer code (b, c * levels, h, w) of ``images`` with ``levels`` a pixel, for
    a network trained on it.

    It has no gradient.

    Example:
        >>> import torch
        >>> from physadv.studies.gradient_masking.obfuscations import thermometer_code
        >>> thermometer_code(torch.full((1, 1, 1, 1), 0.5), levels=4).flatten().tolist()
        [1.0, 1.0, 0.0, 0.0]
    """
    return _codes((images[:, :, None] > _marks(images, levels)).to(images)) + 0 * images.sum()


def soft_thermometer_code(images: Tensor, levels: int = 16) -> Tensor:
    """Return the differentiable stand-in of Athalye et al. (2018) for :func:`thermometer_code`.

    Each of the ``levels`` of a pixel of ``images`` rises over the width of one level.
    """
    return _codes(((images[:, :, None] - _marks(images, levels)) * levels + 0.5).clamp(0, 1))


def _marks(images: Tensor, levels: int) -> Tensor:
    return ((torch.arange(levels, device=images.device) + 0.5) / levels).to(images).view(-1, 1, 1)


def _codes(marked: Tensor) -> Tensor:
    return marked.flatten(1, 2)


def staircase_map(images: Tensor, levels: int = 16, rounds: int = 60) -> Tensor:
    """Return ``images`` moved towards the nearest of ``levels`` steps, in ``rounds`` applications
    of a continuous map.

    It is as deep as a purifier run to convergence: differentiable almost everywhere, but slopes
    vanish on the steps and explode between them, as in PixelDefend and Defense-GAN. Each round
    fixes t, the distance to the nearest step in steps, at 0 and 1/2.
    """
    nearest = (images * levels).round().detach()
    t = images * levels - nearest
    for _ in range(rounds):
        t = t * (0.1 + 3.6 * t.square())
    return ((nearest + t) / levels).clamp(0, 1)


def hard_threshold(images: Tensor, kept: int, spoiled: int, rounds: int = 10) -> Tensor:
    """Return images denoised by iterative hard thresholding (Bafna et al. 2018): a few cosines and
    a few corrupted pixels explain an image.

    In turn the strongest coefficients of each channel's 2-D cosine transform are fitted to what the
    corrupted pixels leave, and the pixels that they explain worst are removed.

    Args:
        images: Images (b, c, h, w).
        kept: Number of coefficients a channel.
        spoiled: Number of corrupted pixels a channel.
        rounds: Number of iterations.

    Returns:
        The part of the cosines.
    """
    rows, columns = (_cosines(side).to(images) for side in images.shape[-2:])
    noise, image = torch.zeros_like(images), images
    for _ in range(rounds if spoiled else 1):
        image = rows.T @ _strongest(rows @ (images - noise) @ columns.T, kept) @ columns
        noise = _strongest(images - image, spoiled) if spoiled else noise
    return image


def _cosines(side: int) -> Tensor:
    """Return the orthonormal cosine transform (type II) of ``side`` numbers, one a row."""
    place = torch.arange(side, dtype=torch.float64)
    waves = torch.cos(torch.pi * (2 * place + 1) * place[:, None] / (2 * side)) * (2 / side) ** 0.5
    scaled: Tensor = waves / torch.where(place == 0, 2**0.5, 1.0)[:, None]
    return scaled


def _strongest(planes: Tensor, count: int) -> Tensor:
    """Return planes (b, c, h, w) with all but the ``count`` largest numbers of each channel set to
    0."""
    least = planes.flatten(2).abs().topk(count, 2).values[..., -1:, None]
    return planes * (planes.abs() >= least)


def complete_matrix(
    images: Tensor, keep: float = 0.6, share: float = 0.3, rounds: int = 4
) -> Tensor:
    """Return images with random pixels dropped and filled by low rank, as in ME-Net (Yang et al.
    2019).

    Each channel is a matrix whose missing pixels are repeatedly replaced by a low-rank
    approximation. Draws come from the global generator.

    Args:
        images: Images (b, c, h, w) in [0, 1].
        keep: Share of pixels kept.
        share: Share of singular values kept.
        rounds: Number of iterations.
    """
    known = torch.rand_like(images[:, :1]) < keep
    rank = max(1, round(share * min(images.shape[-2:])))
    x = torch.where(known, images, images.mean((2, 3), keepdim=True))
    for _ in range(rounds):
        u, s, v = torch.linalg.svd(x, full_matrices=False)
        low: Tensor = (u[..., :rank] * s[..., None, :rank]) @ v[..., :rank, :]
        x = torch.where(known, images, low)
    return low.clamp(0, 1)


def random_resize(images: Tensor, most: float = 1.15, fill: float = 0.5) -> Tensor:
    """Return images shrunk by a random factor and placed at random on a flat border (after Xie et
    al. 2018).

    One draw a batch, from the global generator.

    Args:
        images: Images (b, c, h, w) in [0, 1].
        most: Largest factor, at least 1.
        fill: Value in [0, 1] of the border.
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

    Raises:
        OptionError: ``share`` is out of range.
    """

    def __init__(self, share: float, adaptive: bool) -> None:
        super().__init__()
        if not 0 < share <= 1:
            raise OptionError(f"share {share}", "must be above 0 and at most 1", "Use e.g. 0.2")
        self.share, self.adaptive = share, adaptive

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` (b, ...) with all but the winners set to 0."""
        rows = x.flatten(1)
        least = rows.topk(max(1, round(self.share * rows.shape[1])), 1).values[:, -1]
        winners = x * (x >= least.view(-1, *[1] * (x.ndim - 1)))
        if not self.adaptive:
            return winners
        slope = x.relu()
        return slope + (winners - slope).detach()


def with_k_winners(net: nn.Module, share: float, *, adaptive: bool) -> nn.Module:
    """Return a copy of a network whose ReLU modules are k-winners.

    Args:
        net: Network with ReLU modules.
        share: Share of values that pass.
        adaptive: Whether gradients are those of a ReLU.

    Raises:
        OptionError: The network has no ReLU module.
    """
    clone = copy.deepcopy(net)
    replace_relus(clone, share, adaptive=adaptive)
    return clone


def replace_relus(net: nn.Module, share: float, *, adaptive: bool) -> None:
    """Replace the ReLU modules (or earlier k-winners) of a network in place.

    Args:
        net: Network with ReLU modules.
        share: Share of values that pass.
        adaptive: Whether gradients are those of a ReLU.

    Raises:
        OptionError: The network has no ReLU module.
    """
    replaced = 0
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ReLU | KWinnersActivation):
                setattr(module, name, KWinnersActivation(share, adaptive))
                replaced += 1

    if not replaced:
        raise OptionError(
            type(net).__name__, "has no ReLU module to replace", "Use a network built with nn.ReLU"
        )


class GaussianClassifier(nn.Module):
    """A generative classifier: a Gaussian a class around a subspace of images (after Schott et al.
    2019).

    Probabilistic PCA: each class has its mean and a few directions; the rest of an image is noise.
    Logits are log likelihoods in nats, hundreds apart: softmax saturates, and the cross entropy has
    no gradient.

    Args:
        images: Images (n, ...) to fit.
        labels: Their classes (n,).
        classes: Number of classes.
        components: Largest number of directions a class.
        sigma: Standard deviation of the noise, in units of [0, 1].

    Raises:
        OptionError: A class has fewer than two images.
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
                f"has {count_noun(int(counts[short]), 'image')}, and 2 are needed to fit it",
                "Give more images",
            )

        self.sigma = sigma
        rank = min(components, int(counts.min()) - 1, rows.shape[1] - 1)

        centers, bases = [], []
        for k in range(classes):
            own = rows[labels == k]
            centers.append(own.mean(0))
            bases.append(torch.linalg.svd(own - centers[-1], full_matrices=False).Vh[:rank])

        self.register_buffer("centers", torch.stack(centers))
        self.register_buffer("bases", torch.stack(bases))

    def forward(self, images: Tensor) -> Tensor:
        """Return the log likelihoods (b, classes) of ``images`` up to a constant."""
        deviation = images.flatten(1)[:, None] - self.centers
        explained = torch.einsum("bkn,kcn->bkc", deviation, self.bases)
        residual = deviation.square().sum(2) - explained.square().sum(2)
        return -residual / (2 * self.sigma**2)


class NoisyModel(nn.Module):
    """A model on images with a little Gaussian noise from the global generator, which smooths a
    slope that jumps."""

    def __init__(self, model: Any, sigma: float = 0.02) -> None:
        super().__init__()
        self.model, self.sigma = model, sigma

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (b, classes) of ``images`` under one draw of noise."""
        logits: Tensor = self.model(images + self.sigma * torch.randn_like(images))
        return logits


class ScaledLogits(nn.Module):
    """A model with its logits multiplied by ``factor``: the same predictions, another
    confidence."""

    def __init__(self, model: Any, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, images: Tensor) -> Tensor:
        """Return the scaled logits (b, classes) of ``images``."""
        logits: Tensor = self.model(images) * self.factor
        return logits


class OneHotOutput(nn.Module):
    """A model whose logits are 1 for the best class and 0 else: labels only, and no gradient."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return the one-hot predictions (b, classes) of ``images``."""
        logits: Tensor = self.model(images)
        return F.one_hot(logits.argmax(1), logits.shape[1]).to(logits) + 0 * logits
