"""Robust masking of local predictions (PatchGuard, Xiang et al. 2021): a patch reaches few of
them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from physadv.certification.patch.masking import DerandomizedSmoothing, window_sums
from physadv.core.errors import OptionError


class RobustMasking(nn.Module):
    """PatchGuard over local predictions: each class loses its strongest window, and the rest is its
    score.

    Local evidence are the class probabilities of ablated images, as in the authors' masked
    derandomized smoothing: in [0, 1] whatever a patch shows. Positions where no class reaches the
    threshold of ``local`` count nothing. The window is the set of positions that a patch can touch;
    none wraps around the image's border.

    Args:
        local: Derandomized smoothing that provides the evidence and the size of the patch.

    Example:
        >>> import torch
        >>> from physadv.certification.patch.masking import DerandomizedSmoothing
        >>> from physadv.certification.patch.patchguard import RobustMasking
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 2))
        >>> defense = RobustMasking(DerandomizedSmoothing(net, size=2, patch=1))
        >>> predicted, certified = defense.verdicts(torch.rand(4, 3, 8, 8))
        >>> predicted.shape, certified.dtype
        (torch.Size([4]), torch.bool)
    """

    def __init__(self, local: DerandomizedSmoothing) -> None:
        super().__init__()
        self.local, self.patch = local, local.patch

    def evidence(self, images: Tensor) -> Tensor:
        """Return the evidence (b, classes, rows, columns) of ``images`` in [0, 1], float64."""
        local = self.local.probabilities(images).double()
        return local * (local.max(1, keepdim=True).values >= self.local.threshold)

    def forward(self, images: Tensor) -> Tensor:
        """Return the share of evidence (b, classes) of ``images`` outside each class's strongest
        window."""
        evidence = self.evidence(images)
        return self._masked_evidence(evidence, *self._windows(images, evidence))

    @torch.no_grad()
    def verdicts(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the predicted classes (b,) of ``images``, and (b,) bool whether each is certified,
        at the cost of a prediction."""
        evidence = self.evidence(images)
        windows = self._windows(images, evidence)
        predicted = self._masked_evidence(evidence, *windows).argmax(1)
        return predicted, self._certified(evidence, predicted, *windows)

    @torch.no_grad()
    def certify(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return (b,) bool: whatever a patch on ``images`` shows, ``labels`` keep the most
        evidence.

        For each window that may be the patch's: other classes keep at most their evidence outside
        it, since at least as much is masked as the patch could add; the label keeps at least its
        evidence outside, less the strongest window of that.
        """
        evidence = self.evidence(images)
        return self._certified(evidence, labels, *self._windows(images, evidence))

    @staticmethod
    def _masked_evidence(evidence: Tensor, down: Tensor, across: Tensor) -> Tensor:
        """Return the share of evidence (b, classes) that each class keeps."""
        strongest = window_sums(evidence, down, across).flatten(2).max(2).values
        return (evidence.sum((2, 3)) - strongest) / evidence[0, 0].numel()

    @staticmethod
    def _certified(evidence: Tensor, labels: Tensor, down: Tensor, across: Tensor) -> Tensor:
        own = evidence[torch.arange(len(labels)), labels]
        outside = evidence.sum((2, 3))[..., None, None] - window_sums(evidence, down, across)
        chosen = labels.view(-1, 1, 1, 1).expand(-1, 1, *outside.shape[2:])
        others = outside.scatter(1, chosen, -torch.inf).max(1).values

        certified = torch.ones(len(labels), dtype=torch.bool, device=labels.device)
        for position, rows in enumerate(down):
            rest = own[:, None] * (1 - rows[:, None] * across[:, None, :])
            lowest = rest.sum((2, 3)) - window_sums(rest, down, across).flatten(2).max(2).values
            certified &= (lowest > others[:, position] + 1e-6).all(1)  # 1e-6 covers rounding
        return certified

    def _windows(self, images: Tensor, evidence: Tensor) -> tuple[Tensor, Tensor]:
        down, across = self.local.touched_positions(self.patch[0], *images.shape[-2:])
        if bool(down.all(1).any() and across.all(1).any()):
            raise OptionError(
                f"patch {self.patch[0]} px",
                f"can touch all of {down.shape[1]} x {across.shape[1]} windows of "
                f"{self.local.size} px",
                "Use a smaller patch, size or stride",
            )
        return down.to(evidence), across.to(evidence)
