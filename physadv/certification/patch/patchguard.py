"""Local verdicts with robust masking (PatchGuard, Xiang et al. 2021): a patch reaches few of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from physadv.certification.patch.masking import DerandomizedSmoothing, window_sums
from physadv.core.errors import OptionError


class RobustMasking(nn.Module):
    """PatchGuard over the verdicts of ``local``: each class loses its strongest window, and the
    rest is its score.

    Local evidence is what the model says of ablated images, as in their masked derandomized
    smoothing: the probabilities of all classes at each place, in [0, 1] whatever a patch shows.
    Places where none reaches the threshold of ``local`` count nothing. The window is the places
    that a patch of the size of ``local`` can touch; none runs around the image's border.
    """

    def __init__(self, local: DerandomizedSmoothing) -> None:
        super().__init__()
        self.local, self.patch = local, local.patch

    def evidence(self, images: Tensor) -> Tensor:
        """(b, classes, rows, columns) in [0, 1], double."""
        local = self.local.probabilities(images).double()
        return local * (local.max(1, keepdim=True).values >= self.local.threshold)

    def forward(self, images: Tensor) -> Tensor:
        """(b, classes): the evidence of each class outside its strongest window, over the count of
        places."""
        evidence = self.evidence(images)
        return self._left(evidence, *self._windows(images, evidence))

    @torch.no_grad()
    def verdicts(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(b,) classes and (b,) bool: the verdicts, and whether they are certified; for the price
        of the former."""
        evidence = self.evidence(images)
        windows = self._windows(images, evidence)
        said = self._left(evidence, *windows).argmax(1)
        return said, self._certified(evidence, said, *windows)

    @torch.no_grad()
    def certify(self, images: Tensor, labels: Tensor) -> Tensor:
        """(b,) bool: whatever a patch shows, wherever it lies, the label keeps the most evidence.

        For each window that may be the patch's: other classes keep at most what they have outside
        it, since at least as much is masked as the patch could add; the label keeps at least what
        it has outside it, less the strongest window of that.
        """
        evidence = self.evidence(images)
        return self._certified(evidence, labels, *self._windows(images, evidence))

    @staticmethod
    def _left(evidence: Tensor, down: Tensor, across: Tensor) -> Tensor:
        """(b, classes): what each class keeps, over the count of places."""
        strongest = window_sums(evidence, down, across).flatten(2).max(2).values
        return (evidence.sum((2, 3)) - strongest) / evidence[0, 0].numel()

    @staticmethod
    def _certified(evidence: Tensor, labels: Tensor, down: Tensor, across: Tensor) -> Tensor:
        own = evidence[torch.arange(len(labels)), labels]
        outside = evidence.sum((2, 3))[..., None, None] - window_sums(evidence, down, across)
        chosen = labels.view(-1, 1, 1, 1).expand(-1, 1, *outside.shape[2:])
        others = outside.scatter(1, chosen, -torch.inf).max(1).values
        sure = torch.ones(len(labels), dtype=torch.bool, device=labels.device)
        for place, rows in enumerate(down):
            rest = own[:, None] * (1 - rows[:, None] * across[:, None, :])
            lowest = rest.sum((2, 3)) - window_sums(rest, down, across).flatten(2).max(2).values
            sure &= (lowest > others[:, place] + 1e-6).all(1)  # rounding
        return sure

    def _windows(self, images: Tensor, evidence: Tensor) -> tuple[Tensor, Tensor]:
        down, across = self.local.met(self.patch[0], *images.shape[-2:])
        if bool(down.all(1).any() and across.all(1).any()):
            raise OptionError(
                f"patch {self.patch[0]} px",
                f"it can touch all of {down.shape[1]} x {across.shape[1]} places that see "
                f"{self.local.size} px",
                "use a smaller patch, size or stride",
            )
        return down.to(evidence), across.to(evidence)
