"""The recipe of the embedded victim ``signs``: GTSRB's 43 classes and ``background``, on SignNet.

A batch is drawn class by class (balanced), each sign laid on its own surroundings or cut out and
laid on a photo, looked at from a random pose, half covered by blank stickers, and then sent through
the camera chain of ``augment``. Some stop samples are the face drawn by code, so that the drawn
sign of the demo is known too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from physadv.core.errors import OptionError
from physadv.core.random_streams import generator, numpy_generator
from physadv.eot.sampling import draw_uniform
from physadv.models.architectures.signnet import BACKGROUND, INPUT_PX, STOP
from physadv.training.loop import Batch
from physadv.training.sign_classifier import augmentation
from physadv.training.sign_classifier.canvases import (
    CANVAS_PX,
    BackgroundPhotos,
    SignCanvases,
    draw_stop_sign,
    sign_outline,
    sign_outline_mask,
)


@dataclass(frozen=True)
class BatchMix:
    """Shares of a batch: ``background`` and ``stop`` of all samples, ``drawn`` of the stop samples,
    ``cut`` of all samples cut out by their outline and laid on a photo, ``covered`` by blank
    stickers, ``camera`` of those sent through the camera chain. The last three and the poses grow
    from ``ease`` of this to all of it over the first ``easing`` steps: what is easy is learned
    first (Bengio et al. 2009). They stop growing at ``hardest``.
    """

    background: float = 0.2
    stop: float = 0.08
    drawn: float = 0.25
    cut: float = 0.2
    covered: float = 0.4
    camera: float = 0.65
    ease: float = 0.2
    easing: int = 1000
    hardest: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.hardest <= 1:
            raise OptionError(
                f"hardest {self.hardest:g}",
                "above 0, at most 1",
                "use 1, or 0.5 for milder pictures",
            )


class SignBatches:
    """Training batches by number: ``SignBatches(...)(step)`` is the same for the same seed,
    canvases and photos."""

    def __init__(
        self,
        signs: SignCanvases,
        photos: BackgroundPhotos,
        *,
        size: int = 128,
        seed: int = 0,
        mix: BatchMix = BatchMix(),
    ) -> None:
        self.signs, self.photos, self.size, self.seed, self.mix = signs, photos, size, seed, mix
        self._of = [torch.nonzero(signs.labels == c).flatten() for c in range(BACKGROUND)]
        weights = torch.tensor([1.0 if len(of) else 0.0 for of in self._of])
        others = 1 - mix.background - (mix.stop if len(self._of[STOP]) else 0.0)
        weights[STOP] = 0.0
        weights = weights / weights.sum().clamp(min=1) * others
        weights[STOP] = mix.stop if len(self._of[STOP]) else 0.0
        self._odds = torch.cat([weights, torch.tensor([mix.background])])
        self._drawn = draw_stop_sign()

    def __call__(self, step: int) -> Batch:
        """Images (size, 3, 64, 64) in [0, 1] and labels (size,)."""
        draws = generator(self.seed, "batch", step)
        rng = numpy_generator(self.seed, "photos", step)
        labels = torch.multinomial(self._odds, self.size, replacement=True, generator=draws)
        hard = self._hardness(step)
        canvas, boxes, alpha = self._objects(labels, hard, draws, rng)
        canvas = augmentation.cover_with_stickers(
            canvas, boxes, draws, share=self.mix.covered * hard
        )
        view, _ = augmentation.draw_homographies(
            boxes, draws, fill=(1 - 0.45 * hard, 1.1), degrees=20 * hard, tilt=0.16 * hard
        )
        seen = augmentation.warp_canvas(canvas, view, INPUT_PX)
        shape = augmentation.warp_canvas(alpha, view, INPUT_PX, padding="zeros")
        opaque = alpha.amin((2, 3), keepdim=True) == 1
        keep_edges = (
            opaque & augmentation.draw_chance(draws, 0.7, self.size)[:, None, None, None]
        ).float()
        shape = torch.maximum(shape, keep_edges)
        behind = _floats([self.photos.crop(rng, INPUT_PX) for _ in range(self.size)])
        return augmentation.simulate_camera(
            behind + (seen - behind) * shape, draws, share=self.mix.camera * hard
        ), labels

    def _hardness(self, step: int) -> float:
        """From ``ease`` at the first step to 1 after ``easing`` steps, or to ``hardest`` before."""
        return min(
            self.mix.hardest, self.mix.ease + (1 - self.mix.ease) * step / max(1, self.mix.easing)
        )

    def _objects(
        self, labels: Tensor, hard: float, draws: Generator, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Canvases (b, 3, px, px), boxes (b, 4) and alpha (b, 1, px, px) for the drawn labels."""
        b = len(labels)
        pick, cut, drawn = (
            torch.rand(b, generator=draws),
            torch.rand(b, generator=draws),
            torch.rand(b, generator=draws),
        )
        tint = draw_uniform(draws, (0.75, 1.1), b, 3, 1, 1)
        canvas, boxes, alpha = (
            torch.empty(b, 3, CANVAS_PX, CANVAS_PX),
            torch.empty(b, 4),
            torch.ones(b, 1, CANVAS_PX, CANVAS_PX),
        )
        for i, label in enumerate(labels.tolist()):
            shape = label
            if label == BACKGROUND:
                canvas[i] = _floats([self.photos.crop(rng, CANVAS_PX)])[0]
                half = 0.6 + 0.4 * float(pick[i])
                boxes[i] = torch.tensor([-half, -half, half, half])
                shape = int(rng.choice([0, 0, 11, 12, 13, 14]))
            elif label == STOP and drawn[i] < self.mix.drawn:
                canvas[i], boxes[i] = self._drawn[0] / 255 * tint[i], torch.tensor([-1.0, -1, 1, 1])
                alpha[i, 0] = self._drawn[1] / 255
                continue
            else:
                index = int(self._of[label][int(pick[i] * len(self._of[label]))])
                canvas[i], boxes[i] = self.signs.images[index] / 255, self.signs.boxes[index]
            if cut[i] < self.mix.cut * hard:
                alpha[i, 0] = (
                    torch.from_numpy(sign_outline_mask(sign_outline(shape), boxes[i].tolist()))
                    / 255
                )
        return canvas.clamp_(0, 1), boxes, alpha


def _floats(pictures: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div_(255)
