"""Embeddings of every portrait as original, cloaked, noisy and blurred, through every channel, by
every recognizer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from physadv.core.errors import ModelError
from physadv.core.image_io import Array, to_tensor
from physadv.models.faces.embedders import FaceEmbedder
from physadv.models.faces.face_detection import DetectedFace, FaceFinder, crop_faces
from physadv.privacy.check.channels import CHANNELS, SharingChannel, blur_like, noise_like
from physadv.privacy.check.pairs import PortraitPair, main_face

Variant = Literal["original", "cloaked", "noise", "blur"]
BASELINE_CHANNELS = ("png", "jpeg75", "half")


@dataclass(frozen=True)
class EmbeddingPlan:
    """Extent of a check: its channels, whether the baselines noise and blur are embedded, and
    their seed."""

    channels: tuple[str, ...] = tuple(CHANNELS)
    baselines: bool = True
    seed: int = 0


@dataclass
class EmbeddingBank:
    """Embeddings by recognizer, variant and channel.

    Attributes:
        people: Person of each row.
        photos: Photo of each row.
        rows: Embeddings (d,) by (recognizer, variant, channel), in the order of ``people``; None
            where there is none.
        crops: Aligned crops by recognizer: original, and cloaked or None.
        found: For each cloaked photo as saved, whether a detector still finds the face.
    """

    people: list[str] = field(default_factory=list)
    photos: list[str] = field(default_factory=list)
    rows: dict[tuple[str, Variant, str], list[Tensor | None]] = field(default_factory=dict)
    crops: dict[str, list[tuple[Tensor, Tensor | None]]] = field(default_factory=dict)
    found: list[bool] = field(default_factory=list)

    def add(self, person: str, photo: str) -> int:
        """Open a row for ``photo`` of ``person`` and return its number."""
        self.people.append(person)
        self.photos.append(photo)
        return len(self.people) - 1

    def put(self, key: tuple[str, Variant, str], number: int, embedding: Tensor) -> None:
        """Keep one embedding.

        Args:
            key: Recognizer, variant and channel.
            number: Row, as :meth:`add` returned it.
            embedding: Embedding (d,).
        """
        column = self.rows.setdefault(key, [])
        column += [None] * (number + 1 - len(column))
        column[number] = embedding

    def table(self, recognizer: str, variant: Variant, channel: str = "png") -> Tensor:
        """Return all embeddings of one kind as a table.

        Args:
            recognizer: Name of the recognizer.
            variant: "original", "cloaked", "noise" or "blur".
            channel: Name of the channel.

        Returns:
            Embeddings (n, d); rows of NaN where there is none.
        """
        column = self.rows.get((recognizer, variant, channel), [])
        width = next((len(row) for row in column if row is not None), 1)
        gap = torch.full((width,), float("nan"))

        column = column + [None] * (len(self.people) - len(column))
        return (
            torch.stack([gap if row is None else row for row in column])
            if column
            else gap[None][:0]
        )


def fill_bank(
    bank: EmbeddingBank,
    portraits: Iterable[PortraitPair],
    recognizers: Sequence[FaceEmbedder],
    finders: Sequence[FaceFinder],
    plan: EmbeddingPlan,
    *,
    keep_crops: bool = False,
) -> Iterator[PortraitPair]:
    """Embed portraits one by one into a bank and yield each.

    Args:
        bank: Bank to fill.
        portraits: Portraits to embed.
        recognizers: Recognizers to embed by.
        finders: Face detectors, run anew on each picture that arrives.
        plan: Channels and baselines.
        keep_crops: Whether to keep aligned crops, to train an adaptive recognizer on.

    Yields:
        Each portrait, once embedded.
    """
    for portrait in portraits:
        number = bank.add(portrait.pair.person, portrait.pair.name)

        for variant, pixels, channels in _variants(portrait, plan):
            for channel in channels:
                arrived = channel.send(pixels, portrait.side)
                face = _face_in(arrived, portrait, channel, finders)
                if variant == "cloaked" and channel.name == "png":
                    bank.found.append(face is not None)

                # A recognizer without a detection would not match at all; the known position is the
                # harder test.
                location = face or portrait.face.moved(channel.factor, 0, 0)
                for recognizer in recognizers:
                    crop = aligned_crop(arrived, location, recognizer)
                    bank.put(
                        (recognizer.card.name, variant, channel.name),
                        number,
                        embed_crop(recognizer, crop),
                    )
                    if keep_crops and channel.name == "png" and variant in ("original", "cloaked"):
                        _keep_crop(bank, recognizer.card.name, variant, crop)
        yield portrait


def embed_crop(recognizer: FaceEmbedder, crop: Tensor) -> Tensor:
    """Return one embedding (d,) of ``crop`` by ``recognizer``, on the CPU.

    Raises:
        ModelError: The embedding holds NaN or infinity, which would pass for a perfect cloak.
    """
    with torch.no_grad():
        embedding: Tensor = recognizer(crop.to(recognizer.mean))[0].cpu()
    if not torch.isfinite(embedding).all():
        raise ModelError(
            f"{recognizer.card.name}", "gave NaN or infinity", "Check its mean, std and weights"
        )
    return embedding


def aligned_crop(rgb: Array, face: DetectedFace, recognizer: FaceEmbedder) -> Tensor:
    """Cut the crop of a face that a recognizer receives.

    Args:
        rgb: Picture (h, w, 3) uint8.
        face: Face in its pixels.
        recognizer: Recognizer that sets size and alignment.

    Returns:
        Crop (1, 3, size, size).
    """
    card = recognizer.card
    warp = torch.from_numpy(face.to_photo(card.alignment, card.size))[None]
    return crop_faces(to_tensor(rgb)[None], warp, card.size)


def _keep_crop(bank: EmbeddingBank, name: str, variant: Variant, crop: Tensor) -> None:
    column = bank.crops.setdefault(name, [])
    small = crop.mul(255).round().byte()
    if variant == "original":
        column.append((small, None))
    else:
        column[-1] = (column[-1][0], small)


def _variants(
    portrait: PortraitPair, plan: EmbeddingPlan
) -> Iterator[tuple[Variant, Array, list[SharingChannel]]]:
    every = [CHANNELS[name] for name in plan.channels]
    if portrait.after is None:
        yield "original", portrait.before, [CHANNELS["png"]]
        return
    yield "original", portrait.before, every
    yield "cloaked", portrait.after, every

    if not plan.baselines:
        return

    few = [channel for channel in every if channel.name in BASELINE_CHANNELS]
    x0, y0, x1, y1 = portrait.box()
    before, after = portrait.before[y0:y1, x0:x1], portrait.after[y0:y1, x0:x1]
    noisy, blurred = portrait.before.copy(), portrait.before.copy()
    noisy[y0:y1, x0:x1] = noise_like(before, after, plan.seed, portrait.pair.name)
    blurred[y0:y1, x0:x1] = blur_like(before, after)

    yield "noise", noisy, few
    yield "blur", blurred, few


def _face_in(
    sent: Array, portrait: PortraitPair, channel: SharingChannel, finders: Sequence[FaceFinder]
) -> DetectedFace | None:
    """The face as a detector finds it anew, if it is the same one; else None, and the known place
    is used."""
    face = main_face(sent, finders)
    if face is None:
        return None
    known = portrait.face.moved(channel.factor, 0, 0).quad()
    apart = np.linalg.norm(face.quad().mean(0) - known.mean(0))
    return face if apart < np.linalg.norm(known[1] - known[0]) / 3 else None
