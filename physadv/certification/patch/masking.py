"""Defenses against patches that come with a proof: double masking and derandomized smoothing.

Both wrap a classifier and answer with logits whose best class is the defended verdict, so that
attacks and evaluations run through them. A certificate says: no patch of that size, wherever it
lies and whatever it shows, changes the verdict.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from physadv.core.errors import ModelError, OptionError
from physadv.core.types import Model

CPU_BATCH = 64
"""What fits the caches: a victim's pass over 64 images, channels last, is a third faster than over
256 as they come."""


class PatchCleanser(nn.Module):
    """Double masking around any classifier (Xiang et al. 2022) against one patch of ``patch`` px (a
    side, or h and w).

    ``masks`` along each axis are laid so that one of them covers any such patch; more of them are
    smaller, and cost more: masks^2 passes an image, about masks^4 / 2 for a certificate. Masked
    pixels get ``fill``.
    """

    def __init__(
        self,
        model: Model,
        *,
        patch: int | tuple[int, int],
        masks: int = 6,
        fill: float = 0.5,
        batch: int = 256,
    ) -> None:
        super().__init__()
        sides = (patch, patch) if isinstance(patch, int) else patch
        if min(sides) < 1 or masks < 1 or batch < 1:
            raise OptionError(f"patch {patch}, masks {masks}", "at least 1 each", "use 6 masks")
        self.model, self.patch, self.masks, self.fill, self.batch = (
            model,
            sides,
            masks,
            fill,
            batch,
        )

    def mask_set(self, height: int, width: int) -> Tensor:
        """(m, 1, h, w) bool, true where a mask hides; any patch lies wholly within at least one."""
        rows, columns = (
            mask_spans(n, p, self.masks) for n, p in zip((height, width), self.patch, strict=True)
        )
        found = torch.zeros(len(rows) * len(columns), 1, height, width, dtype=torch.bool)
        for k, (top, bottom, left, right) in enumerate((*r, *c) for r in rows for c in columns):
            found[k, 0, top:bottom, left:right] = True
        return found

    def forward(self, images: Tensor) -> Tensor:
        """Logits (b, classes) whose best class is the verdict of double masking.

        Where all one-mask verdicts agree they are averaged. Else a mask whose verdict differs is
        believed if every second mask upholds it, and its logits are the answer; if none is, the
        majority's logits are averaged.
        """
        masks = self.mask_set(*images.shape[-2:]).to(images.device)
        once = self._masked_logits(images, masks)
        return torch.stack(
            [self._decide(x, masks, logits) for x, logits in zip(images, once, strict=True)]
        )

    @torch.no_grad()
    def certify(self, images: Tensor, labels: Tensor) -> Tensor:
        """(b,) bool: every pair of masks leaves the victim right, so no patch of this size changes
        the verdict."""
        masks = self.mask_set(*images.shape[-2:]).to(images.device)
        sure = torch.ones(len(images), dtype=torch.bool, device=images.device)
        for k in range(len(masks)):
            left = sure.nonzero()[:, 0]
            if len(left) == 0:
                break
            logits = self._masked_logits(images[left], masks[k:] | masks[k])
            sure[left] = (logits.argmax(2) == labels[left, None]).all(1)
        return sure

    @torch.no_grad()
    def verdicts(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(b,) classes and (b,) bool: the verdicts, and whether they are certified."""
        said = self(images).argmax(1)
        return said, self.certify(images, said)

    def _decide(self, image: Tensor, masks: Tensor, logits: Tensor) -> Tensor:
        verdicts = logits.argmax(1)
        majority = int(verdicts.bincount().argmax())
        for k in (verdicts != majority).nonzero()[:, 0].tolist():
            with torch.no_grad():
                twice = self._masked_logits(image[None], masks | masks[k])[0].argmax(1)
            if bool((twice == verdicts[k]).all()):
                return logits[k]
        return logits[verdicts == majority].mean(0)

    def _masked_logits(self, images: Tensor, masks: Tensor) -> Tensor:
        """(b, m, classes): every image under every mask."""
        hidden = torch.where(
            masks[None], torch.full_like(images[:1], self.fill)[:, None], images[:, None]
        )
        return _in_batches(self.model, hidden, self.batch)


class DerandomizedSmoothing(nn.Module):
    """Derandomised smoothing (Levine and Feizi 2020): votes on images of which only a band or a
    block is left.

    ``kind`` "band" keeps ``size`` columns, "block" a ``size`` x ``size`` square, ``stride`` px
    apart and wholly inside the image (theirs also run around its border, where there is little to
    see); the rest gets ``fill``. Every place has one vote, which it casts where the model gives
    its class at least the probability ``threshold``. The model should have been trained on such
    images (:class:`physadv.training.methods.occlusion.OcclusionTraining`). ``patch`` px a side is what
    certificates are for unless they are asked for another.
    """

    def __init__(
        self,
        model: Model,
        *,
        size: int,
        kind: Literal["band", "block"] = "band",
        stride: int = 1,
        patch: int = 5,
        threshold: float = 0.0,
        fill: float = 0.5,
        batch: int = 256,
    ) -> None:
        super().__init__()
        if min(size, stride, patch) < 1 or kind not in ("band", "block"):
            raise OptionError(
                f"{kind} of {size} px", "a band or a block of at least 1 px", "use band and 4"
            )
        if not 0 <= threshold < 1:
            raise OptionError(
                f"threshold {threshold:g}",
                "0 <= threshold < 1",
                "use 0.3, or 0 where all shall vote",
            )
        self.model, self.size, self.kind, self.stride, self.fill, self.batch = (
            model,
            size,
            kind,
            stride,
            fill,
            batch,
        )
        self.threshold, self.patch = threshold, (patch, patch)

    def forward(self, images: Tensor) -> Tensor:
        """(b, classes), double: the share of votes, ties to the smaller class; gradients are of
        mean probabilities."""
        local = self.probabilities(images)
        mean = local.mean((2, 3))
        shares = self._ranked(self.ballots(local)) / local[0, 0].numel()
        return mean + (shares - mean).detach()

    @torch.no_grad()
    def certify(self, images: Tensor, labels: Tensor, *, patch: int | None = None) -> Tensor:
        """(b,) bool: the verdict is right and stays so for any square of ``patch`` px a side (by
        default its own).

        Wherever the patch lies, the votes of the places it meets may all be for one other class;
        exact for votes that nothing is known of, so never below the count of Levine and Feizi.
        """
        size = self.patch[0] if patch is None else patch
        return self._certified(
            self.ballots(self.probabilities(images)), labels, size, images.shape[-2:]
        )

    @torch.no_grad()
    def verdicts(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(b,) classes and (b,) bool: the verdicts, and whether they are certified; for the price
        of the former."""
        ballots = self.ballots(self.probabilities(images))
        said = self._ranked(ballots).argmax(1)
        return said, self._certified(ballots, said, self.patch[0], images.shape[-2:])

    def _ranked(self, ballots: Tensor) -> Tensor:
        return self._broken_ties(ballots.sum((2, 3)))

    def _certified(
        self, ballots: Tensor, labels: Tensor, patch: int, size: Sequence[int]
    ) -> Tensor:
        down, across = self.met(patch, *size)
        down, across = down.to(ballots), across.to(ballots)
        outside = ballots.sum((2, 3))[..., None, None] - window_sums(ballots, down, across)
        reached = down.sum(1)[:, None] * across.sum(1)
        ranked = self._broken_ties(outside.flatten(2).transpose(1, 2)).transpose(1, 2)
        chosen = labels.view(-1, 1, 1).expand(-1, 1, ranked.shape[2])
        others = ranked.scatter(1, chosen, -torch.inf).max(1).values
        return (ranked.gather(1, chosen)[:, 0] > others + reached.flatten()).all(1)

    def probabilities(self, images: Tensor) -> Tensor:
        """(b, classes, rows, columns): what the victim says of each place; one row of bands."""
        height, width = images.shape[-2:]
        keep = self.keeps(height, width).to(images.device)
        left = torch.where(
            keep[None], images[:, None], torch.full_like(images[:1], self.fill)[:, None]
        )
        logits = _in_batches(self.model, left, self.batch)
        return (
            logits.softmax(2)
            .transpose(1, 2)
            .reshape(len(images), logits.shape[2], -1, len(self._starts(width)))
        )

    def ballots(self, local: Tensor) -> Tensor:
        """The votes of such probabilities, of the same shape: 1 or 0, in double precision so that
        sums stay exact."""
        best = local.max(1, keepdim=True)
        votes = torch.zeros_like(local, dtype=torch.double).scatter(1, best.indices, 1.0)
        return votes * (best.values >= self.threshold)

    def met(self, patch: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Which rows (p, rows) and columns (q, columns) of places a square patch touches, bool,
        wherever it lies.

        Where it can touch more, those that it touches elsewhere are left out. Raises OptionError
        for a patch that does not fit the image.
        """
        across = touched_windows(width, self._starts(width), self.size, patch)
        if self.kind == "band":
            return torch.ones(1, 1, dtype=torch.bool), across
        return touched_windows(height, self._starts(height), self.size, patch), across

    def keeps(self, height: int, width: int) -> Tensor:
        """(m, 1, h, w) bool, true where an ablated image keeps its pixels; rows of places, then
        columns."""
        if self.size > width or (self.kind == "block" and self.size > height):
            raise OptionError(
                f"{self.kind} of {self.size} px",
                f"the image is {width} x {height} px",
                "make it smaller",
            )
        columns = _spans(width, self._starts(width), self.size)[:, None, None, :].expand(
            -1, 1, height, -1
        )
        if self.kind == "band":
            return columns
        rows = _spans(height, self._starts(height), self.size)[:, None, :, None]
        return (rows[:, None] & columns[None, :, :, :1]).flatten(0, 1)

    def _starts(self, side: int) -> range:
        """Where windows begin, what is left over shared by both ends."""
        return range((side - self.size) % self.stride // 2, side - self.size + 1, self.stride)

    @staticmethod
    def _broken_ties(votes: Tensor) -> Tensor:
        """Equal counts ordered by class, the last axis: the smaller one first, by less than half a
        vote."""
        classes = votes.shape[-1]
        return votes - torch.arange(classes, device=votes.device) / (2 * classes)


def touched_windows(side: int, starts: Sequence[int], size: int, patch: int) -> Tensor:
    """(p, starts) bool: which windows of ``size`` px a run of ``patch`` px on ``side`` touches,
    place by place.

    Only the largest sets: one that lies within another is left out. Raises OptionError for a patch
    that does not fit.
    """
    if not 1 <= patch <= side:
        raise OptionError(
            f"patch of {patch} px", f"the image is {side} px", "a patch must fit the image"
        )
    first = torch.tensor(list(starts))
    places = torch.arange(side - patch + 1)[:, None]
    found: Tensor = torch.unique((first < places + patch) & (first + size > places), dim=0)
    alone = (found[:, None] <= found[None]).all(2).sum(1) == 1
    return found[alone]


def window_sums(values: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """(..., rows, columns) -> (..., p, q): the sum over each of the sets of rows ``down`` by each
    of columns."""
    return down @ values @ across.T


def mask_spans(side: int, patch: int, count: int) -> list[tuple[int, int]]:
    """[start, end) of ``count`` spans on ``side`` px such that any ``patch`` px in a row lie within
    one."""
    if patch > side:
        raise OptionError(
            f"patch of {patch} px", f"the image is {side} px", "a patch must fit the image"
        )
    places = side - patch + 1
    step = -(-places // count)
    length = patch + step - 1
    starts = [min(start, side - length) for start in range(0, places, step)]
    return [(start, start + length) for start in starts]


def _in_batches(model: Model, stacks: Tensor, batch: int) -> Tensor:
    """(b, m, c, h, w) -> logits (b, m, classes), at most ``batch`` images at a time."""
    return torch.cat(list(_pieces(model, stacks.flatten(0, 1), batch))).view(*stacks.shape[:2], -1)


def _pieces(model: Model, images: Tensor, batch: int) -> Iterator[Tensor]:
    if images.device.type == "cpu":
        batch = min(batch, CPU_BATCH)
    for piece in torch.split(images, batch):
        logits = model(piece.contiguous(memory_format=torch.channels_last))
        if not isinstance(logits, Tensor):
            raise ModelError(
                "a detector", "this defense needs logits (b, classes)", "wrap a classifier"
            )
        yield logits


def _spans(side: int, starts: Sequence[int], size: int) -> Tensor:
    """(starts, side) bool: a row keeps the ``size`` places from its start on."""
    places, first = torch.arange(side)[None], torch.tensor(list(starts))[:, None]
    return (places >= first) & (places < first + size)
