"""Certified defenses against patches: double masking and derandomized smoothing.

Both wrap a classifier and return logits whose best class is the defended prediction, so that
attacks and evaluations run through them. A certified prediction cannot be changed by any patch of
the given size, wherever it lies and whatever it shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from physadv.core.errors import ModelError, OptionError
from physadv.core.types import Model

CPU_BATCH = 64
"""Batch size on a CPU: a pass over 64 images, channels last, fits the caches and takes a third less
time than one over 256 images."""


class PatchCleanser(nn.Module):
    """Double masking around a classifier (PatchCleanser, Xiang et al. 2022) against one patch.

    Masks are laid so that one of them covers any patch of the given size. A prediction costs
    masks^2 passes an image, a certificate about masks^4 / 2.

    Args:
        model: Classifier: images in [0, 1] to logits (b, classes).
        patch: Height and width of the patch in px, or one number for both.
        masks: Number of masks along each axis. More masks are smaller each, and cost more.
        fill: Value in [0, 1] of masked pixels.
        batch: Largest number of masked images in one pass.

    Raises:
        OptionError: A number is below 1.

    Example:
        >>> import torch
        >>> from physadv.certification.patch.masking import PatchCleanser
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 2))
        >>> defense = PatchCleanser(net, patch=2, masks=3)
        >>> predicted, certified = defense.verdicts(torch.rand(4, 3, 8, 8))
        >>> predicted.shape, certified.dtype
        (torch.Size([4]), torch.bool)
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
            raise OptionError(
                f"patch {patch}, masks {masks}, batch {batch}",
                "must be at least 1 each",
                "Use e.g. 6 masks",
            )

        self.model, self.patch, self.masks = model, sides, masks
        self.fill, self.batch = fill, batch

    def mask_set(self, height: int, width: int) -> Tensor:
        """Return the masks (m, 1, height, width), bool, true where pixels are hidden.

        Any patch lies wholly within at least one of them.
        """
        rows, columns = (
            mask_spans(n, p, self.masks) for n, p in zip((height, width), self.patch, strict=True)
        )
        masks = torch.zeros(len(rows) * len(columns), 1, height, width, dtype=torch.bool)
        for k, (top, bottom, left, right) in enumerate((*r, *c) for r in rows for c in columns):
            masks[k, 0, top:bottom, left:right] = True
        return masks

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (b, classes) of ``images`` whose best class is the prediction of double
        masking.

        Where all one-mask predictions agree their logits are averaged. Otherwise the logits of a
        dissenting mask are returned if no second mask changes its prediction; if there is no such
        mask, the majority's logits are averaged.
        """
        masks = self.mask_set(*images.shape[-2:]).to(images.device)
        single = self._masked_logits(images, masks)
        return torch.stack(
            [self._decide(x, masks, logits) for x, logits in zip(images, single, strict=True)]
        )

    @torch.no_grad()
    def certify(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return (b,) bool: ``labels`` are predicted for ``images`` under every pair of masks.

        Then no patch of this size changes the prediction.
        """
        masks = self.mask_set(*images.shape[-2:]).to(images.device)
        certified = torch.ones(len(images), dtype=torch.bool, device=images.device)

        # Pairs of masks are symmetric, and images that failed one pair need no others.
        for k in range(len(masks)):
            candidates = certified.nonzero()[:, 0]
            if len(candidates) == 0:
                break
            logits = self._masked_logits(images[candidates], masks[k:] | masks[k])
            certified[candidates] = (logits.argmax(2) == labels[candidates, None]).all(1)
        return certified

    @torch.no_grad()
    def verdicts(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the predicted classes (b,) of ``images``, and (b,) bool whether each is
        certified."""
        predicted = self(images).argmax(1)
        return predicted, self.certify(images, predicted)

    def _decide(self, image: Tensor, masks: Tensor, logits: Tensor) -> Tensor:
        predicted = logits.argmax(1)
        majority = int(predicted.bincount().argmax())

        # A mask that disagrees may hide the patch: then no second mask changes its prediction.
        for k in (predicted != majority).nonzero()[:, 0].tolist():
            with torch.no_grad():
                double = self._masked_logits(image[None], masks | masks[k])[0].argmax(1)
            if bool((double == predicted[k]).all()):
                return logits[k]
        return logits[predicted == majority].mean(0)

    def _masked_logits(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return the logits (b, m, classes) of every image under every mask."""
        hidden = torch.where(
            masks[None], torch.full_like(images[:1], self.fill)[:, None], images[:, None]
        )
        return _in_batches(self.model, hidden, self.batch)


class DerandomizedSmoothing(nn.Module):
    """Derandomized smoothing (Levine and Feizi 2020): votes on images of which only a band or a
    block is kept.

    Every position has one vote, for the class that the model predicts there. Windows lie wholly
    inside the image; in the paper they also wrap around its border, where there is little to
    classify. The model should have been trained on such images
    (:class:`physadv.training.methods.occlusion.OcclusionTraining`).

    Args:
        model: Classifier: images in [0, 1] to logits (b, classes).
        size: Width of the band, or side of the block, in px.
        kind: "band" keeps whole columns, "block" a square.
        stride: Distance of neighboring windows in px.
        patch: Side in px of the patch that certificates are for.
        threshold: Probability in [0, 1) below which a vote is not counted.
        fill: Value in [0, 1] of pixels that are not kept.
        batch: Largest number of ablated images in one pass.

    Raises:
        OptionError: A number or the kind is out of range.

    Example:
        >>> import torch
        >>> from physadv.certification.patch.masking import DerandomizedSmoothing
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 2))
        >>> defense = DerandomizedSmoothing(net, size=2, patch=1)
        >>> images = torch.rand(4, 3, 8, 8)
        >>> shares = defense(images)
        >>> bool(torch.allclose(shares.sum(1), torch.ones(4).double(), atol=0.6))
        True
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
                f"{kind} of {size} px, stride {stride}, patch {patch}",
                "must be a band or a block, with sizes of at least 1 px",
                "Use e.g. a band of 4 px",
            )
        if not 0 <= threshold < 1:
            raise OptionError(
                f"threshold {threshold:g}",
                "must be at least 0 and below 1",
                "Use 0.3, or 0 to count every vote",
            )

        self.model, self.size, self.kind, self.stride = model, size, kind, stride
        self.threshold, self.patch = threshold, (patch, patch)
        self.fill, self.batch = fill, batch

    def forward(self, images: Tensor) -> Tensor:
        """Return the share of votes (b, classes), float64, of ``images``; ties go to the smaller
        class.

        Gradients are those of the mean probabilities.
        """
        local = self.probabilities(images)
        mean = local.mean((2, 3))
        shares = self._ranked(self.ballots(local)) / local[0, 0].numel()
        return mean + (shares - mean).detach()

    @torch.no_grad()
    def certify(self, images: Tensor, labels: Tensor, *, patch: int | None = None) -> Tensor:
        """Return (b,) bool: the prediction is the label and no patch changes it.

        Wherever the patch lies, all votes of the windows it touches may go to one other class. The
        count is exact where nothing is known of the votes, so it never certifies less than the
        bound of Levine and Feizi.

        Args:
            images: Images (b, c, h, w) in [0, 1].
            labels: Classes (b,) to certify.
            patch: Side of the patch in px; by default the defense's own.
        """
        size = self.patch[0] if patch is None else patch
        return self._certified(
            self.ballots(self.probabilities(images)), labels, size, images.shape[-2:]
        )

    @torch.no_grad()
    def verdicts(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the predicted classes (b,) of ``images``, and (b,) bool whether each is certified,
        at the cost of a prediction."""
        ballots = self.ballots(self.probabilities(images))
        predicted = self._ranked(ballots).argmax(1)
        return predicted, self._certified(ballots, predicted, self.patch[0], images.shape[-2:])

    def _ranked(self, ballots: Tensor) -> Tensor:
        return self._broken_ties(ballots.sum((2, 3)))

    def _certified(
        self, ballots: Tensor, labels: Tensor, patch: int, size: Sequence[int]
    ) -> Tensor:
        down, across = self.touched_positions(patch, *size)
        down, across = down.to(ballots), across.to(ballots)

        # Votes outside the patch are safe; each vote it touches may go to any one other class.
        outside = ballots.sum((2, 3))[..., None, None] - window_sums(ballots, down, across)
        reached = down.sum(1)[:, None] * across.sum(1)
        ranked = self._broken_ties(outside.flatten(2).transpose(1, 2)).transpose(1, 2)
        chosen = labels.view(-1, 1, 1).expand(-1, 1, ranked.shape[2])
        others = ranked.scatter(1, chosen, -torch.inf).max(1).values
        return (ranked.gather(1, chosen)[:, 0] > others + reached.flatten()).all(1)

    def probabilities(self, images: Tensor) -> Tensor:
        """Return the class probabilities (b, classes, rows, columns) of ``images`` at each
        position; bands have one row."""
        height, width = images.shape[-2:]
        keep = self.keeps(height, width).to(images.device)
        ablated = torch.where(
            keep[None], images[:, None], torch.full_like(images[:1], self.fill)[:, None]
        )

        logits = _in_batches(self.model, ablated, self.batch)
        return (
            logits.softmax(2)
            .transpose(1, 2)
            .reshape(len(images), logits.shape[2], -1, len(self._starts(width)))
        )

    def ballots(self, local: Tensor) -> Tensor:
        """Return the votes of ``local`` probabilities, of the same shape: 1 or 0, in float64 so
        that sums stay exact."""
        best = local.max(1, keepdim=True)
        votes = torch.zeros_like(local, dtype=torch.double).scatter(1, best.indices, 1.0)
        return votes * (best.values >= self.threshold)

    def touched_positions(self, patch: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return which windows a square patch touches, position by position of the patch.

        Sets of windows that lie within another set are left out.

        Args:
            patch: Side of the patch in px.
            height: Height of the image in px.
            width: Width of the image in px.

        Returns:
            Rows (p, rows) and columns (q, columns), bool.

        Raises:
            OptionError: The patch does not fit the image.
        """
        across = touched_windows(width, self._starts(width), self.size, patch)
        if self.kind == "band":
            return torch.ones(1, 1, dtype=torch.bool), across
        return touched_windows(height, self._starts(height), self.size, patch), across

    def keeps(self, height: int, width: int) -> Tensor:
        """Return (m, 1, height, width) bool, true where an ablated image keeps its pixels, row by
        row of positions."""
        if self.size > width or (self.kind == "block" and self.size > height):
            raise OptionError(
                f"{self.kind} of {self.size} px",
                f"exceeds the image of {width} x {height} px",
                "Use a smaller size",
            )

        columns = _spans(width, self._starts(width), self.size)[:, None, None, :].expand(
            -1, 1, height, -1
        )

        if self.kind == "band":
            return columns
        rows = _spans(height, self._starts(height), self.size)[:, None, :, None]
        return (rows[:, None] & columns[None, :, :, :1]).flatten(0, 1)

    def _starts(self, side: int) -> range:
        """Return the first pixels of the windows, centered: both ends share what the stride leaves
        over."""
        return range((side - self.size) % self.stride // 2, side - self.size + 1, self.stride)

    @staticmethod
    def _broken_ties(votes: Tensor) -> Tensor:
        """Return vote counts with ties broken by class (the last axis): the smaller class wins by
        less than half a vote."""
        classes = votes.shape[-1]
        return votes - torch.arange(classes, device=votes.device) / (2 * classes)


def touched_windows(side: int, starts: Sequence[int], size: int, patch: int) -> Tensor:
    """Return which windows a run of pixels touches, for each position of the run.

    Only the maximal sets: a set that lies within another is left out.

    Args:
        side: Length of the axis in px.
        starts: First pixels of the windows.
        size: Length of a window in px.
        patch: Length of the run in px.

    Returns:
        Sets (p, windows), bool.

    Raises:
        OptionError: The patch does not fit.
    """
    if not 1 <= patch <= side:
        raise OptionError(
            f"patch of {patch} px", f"does not fit the image of {side} px", "Use a smaller patch"
        )

    first = torch.tensor(list(starts))
    positions = torch.arange(side - patch + 1)[:, None]
    sets: Tensor = torch.unique((first < positions + patch) & (first + size > positions), dim=0)
    maximal = (sets[:, None] <= sets[None]).all(2).sum(1) == 1
    return sets[maximal]


def window_sums(values: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Return the sums (..., p, q) of ``values`` (..., rows, columns) over each set of rows ``down``
    (p, rows) and of columns ``across`` (q, columns)."""
    return down @ values @ across.T


def mask_spans(side: int, patch: int, count: int) -> list[tuple[int, int]]:
    """Return spans [start, end) such that any run of pixels lies within one of them.

    Args:
        side: Length of the axis in px.
        patch: Length of the run in px.
        count: Largest number of spans.

    Raises:
        OptionError: The patch does not fit.

    Example:
        >>> from physadv.certification.patch.masking import mask_spans
        >>> mask_spans(8, patch=2, count=3)
        [(0, 4), (3, 7), (4, 8)]
    """
    if patch > side:
        raise OptionError(
            f"patch of {patch} px", f"does not fit the image of {side} px", "Use a smaller patch"
        )

    positions = side - patch + 1
    step = -(-positions // count)
    length = patch + step - 1
    starts = [min(start, side - length) for start in range(0, positions, step)]
    return [(start, start + length) for start in starts]


def _in_batches(model: Model, stacks: Tensor, batch: int) -> Tensor:
    """Return logits (b, m, classes) of images (b, m, c, h, w), at most ``batch`` images at a
    time."""
    return torch.cat(list(_pieces(model, stacks.flatten(0, 1), batch))).view(*stacks.shape[:2], -1)


def _pieces(model: Model, images: Tensor, batch: int) -> Iterator[Tensor]:
    if images.device.type == "cpu":
        batch = min(batch, CPU_BATCH)
    for piece in torch.split(images, batch):
        logits = model(piece.contiguous(memory_format=torch.channels_last))
        if not isinstance(logits, Tensor):
            raise ModelError(
                "a detector", "this defense needs logits (b, classes)", "Wrap a classifier"
            )
        yield logits


def _spans(side: int, starts: Sequence[int], size: int) -> Tensor:
    """Return (windows, side) bool: each row is true in the ``size`` pixels from its start on."""
    pixels, first = torch.arange(side)[None], torch.tensor(list(starts))[:, None]
    return (pixels >= first) & (pixels < first + size)
