"""Training batches of the built-in model ``signs``: GTSRB's 43 classes and ``background``.

A batch is drawn class by class (balanced). Each sign is laid on its own surroundings, or cut out
and laid on a photo, viewed from a random pose, partly covered by blank stickers, and then passed
through the camera effects of :mod:`physadv.training.sign_classifier.augmentation`. Some stop
samples are drawn by code: the one face of the demo, or the varied faces that patches are optimized
on, beside which some samples without a sign are decoys, signs with letters that are no stop signs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from physadv.core.errors import OptionError
from physadv.core.random_streams import generator, numpy_generator
from physadv.core.stop_signs import PLAIN
from physadv.eot.sampling import draw_uniform
from physadv.eot.scenes.sign_faces import DECOYS, TRAINING_FACES, UNREAD_FACES, FaceDesign
from physadv.models.architectures.signnet import BACKGROUND, INPUT_PX, STOP
from physadv.training.loop import Batch
from physadv.training.sign_classifier import augmentation
from physadv.training.sign_classifier.canvases import (
    CANVAS_PX,
    BackgroundPhotos,
    SignCanvases,
    draw_design,
    draw_stop_sign,
    sign_outline,
    sign_outline_mask,
)

_STOP_FACES = (*TRAINING_FACES * 4, *UNREAD_FACES)
"""Designs of the drawn stop samples, each as likely as any other."""


@dataclass(frozen=True)
class BatchMix:
    """Shares of the kinds of samples in a batch.

    Cut-outs, stickers, camera effects and poses grow from ``ease`` of their strength to all of it:
    what is easy is learned first (Bengio et al. 2009).

    Attributes:
        background: Share of samples without a sign.
        stop: Share of stop signs.
        drawn: Share of the stop samples that are drawn by code.
        cut: Share of signs cut out by their outline and laid on a photo.
        covered: Share of samples covered by blank stickers.
        camera: Share of samples passed through the camera effects.
        ease: Strength at the first step.
        easing: Steps after which the strength is full.
        hardest: Strength at which growth stops, above 0 and at most 1.
        faces: Drawn stop faces: "varied" (:mod:`physadv.eot.scenes.sign_faces`) or "plain".
        decoys: Share of the samples without a sign that are decoys.
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
    faces: str = PLAIN
    decoys: float = 0.0

    @classmethod
    def of_faces(cls, faces: str, hardest: float = 1.0) -> BatchMix:
        """Return the shares for drawn stop faces of the kind ``faces``.

        Varied faces take half of half as many stop samples again, so that the photographed ones
        stay as many as with the plain face.
        """
        if faces == PLAIN:
            return cls(hardest=hardest)
        return cls(hardest=hardest, stop=0.12, drawn=0.5, faces=faces, decoys=0.12)

    def __post_init__(self) -> None:
        if not 0 < self.hardest <= 1:
            raise OptionError(
                f"hardest {self.hardest:g}",
                "must be above 0 and at most 1",
                "Use 1, or 0.5 for milder augmentation",
            )


class SignBatches:
    """Training batches by number: the same for the same seed, canvases and photos.

    Args:
        signs: Images of signs.
        photos: Photos without signs.
        size: Samples in a batch.
        seed: Seed of the draws.
        mix: Shares of the kinds of samples.
    """

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

        # Stop signs and background have shares of their own; other classes are balanced.
        self._members = [torch.nonzero(signs.labels == c).flatten() for c in range(BACKGROUND)]
        weights = torch.tensor([1.0 if len(members) else 0.0 for members in self._members])
        others = 1 - mix.background - (mix.stop if len(self._members[STOP]) else 0.0)
        weights[STOP] = 0.0
        weights = weights / weights.sum().clamp(min=1) * others
        weights[STOP] = mix.stop if len(self._members[STOP]) else 0.0
        self._odds = torch.cat([weights, torch.tensor([mix.background])])
        self._plain = draw_stop_sign()

    def __call__(self, step: int) -> Batch:
        """Return batch number ``step``: images (size, 3, 64, 64) in [0, 1] and labels (size,)."""
        draws = generator(self.seed, "batch", step)
        rng = numpy_generator(self.seed, "photos", step)
        faces_rng = numpy_generator(self.seed, "faces", step)
        labels = torch.multinomial(self._odds, self.size, replacement=True, generator=draws)

        hard = self._hardness(step)
        canvas, boxes, alpha = self._objects(labels, hard, draws, rng, faces_rng)
        canvas = augmentation.cover_with_stickers(
            canvas, boxes, draws, share=self.mix.covered * hard
        )

        view, _ = augmentation.draw_homographies(
            boxes, draws, fill=(1 - 0.45 * hard, 1.1), degrees=20 * hard, tilt=0.16 * hard
        )
        foreground = augmentation.warp_canvas(canvas, view, INPUT_PX)
        shape = augmentation.warp_canvas(alpha, view, INPUT_PX, padding="zeros")

        # Most signs on their own surroundings keep what lies beyond their canvas's edge.
        opaque = alpha.amin((2, 3), keepdim=True) == 1
        keep_edges = (
            opaque & augmentation.draw_chance(draws, 0.7, self.size)[:, None, None, None]
        ).float()
        shape = torch.maximum(shape, keep_edges)

        background = _floats([self.photos.crop(rng, INPUT_PX) for _ in range(self.size)])
        return augmentation.simulate_camera(
            background + (foreground - background) * shape, draws, share=self.mix.camera * hard
        ), labels

    def _hardness(self, step: int) -> float:
        """Return the strength at ``step``: from ``ease`` at the first to 1 after ``easing`` steps,
        or ``hardest`` before."""
        return min(
            self.mix.hardest, self.mix.ease + (1 - self.mix.ease) * step / max(1, self.mix.easing)
        )

    def _objects(
        self,
        labels: Tensor,
        hard: float,
        draws: Generator,
        rng: np.random.Generator,
        faces_rng: np.random.Generator,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return canvases (b, 3, px, px), boxes (b, 4) and alpha (b, 1, px, px) for drawn
        labels."""
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
            is_decoy = label == BACKGROUND and drawn[i] < self.mix.decoys
            if is_decoy or (label == STOP and drawn[i] < self.mix.drawn):
                face, outline = self._draw_face(DECOYS if is_decoy else _STOP_FACES, faces_rng)
                canvas[i], boxes[i] = face / 255 * tint[i], torch.tensor([-1.0, -1, 1, 1])
                alpha[i, 0] = outline / 255
                continue
            if label == BACKGROUND:
                canvas[i] = _floats([self.photos.crop(rng, CANVAS_PX)])[0]
                half = 0.6 + 0.4 * float(pick[i])
                boxes[i] = torch.tensor([-half, -half, half, half])
                shape = int(rng.choice([0, 0, 11, 12, 13, 14]))
            else:
                index = int(self._members[label][int(pick[i] * len(self._members[label]))])
                canvas[i], boxes[i] = self.signs.images[index] / 255, self.signs.boxes[index]

            if cut[i] < self.mix.cut * hard:
                alpha[i, 0] = (
                    torch.from_numpy(sign_outline_mask(sign_outline(shape), boxes[i].tolist()))
                    / 255
                )
        return canvas.clamp_(0, 1), boxes, alpha

    def _draw_face(
        self, designs: Sequence[FaceDesign], rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return a face (3, px, px) uint8 and its outline (px, px) uint8: one of ``designs`` drawn
        anew, or always the plain one."""
        if self.mix.faces == PLAIN:
            return self._plain
        return draw_design(designs[int(rng.integers(len(designs)))], rng)


def _floats(pictures: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div_(255)
