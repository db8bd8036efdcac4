"""Small receptive fields with robust masking (PatchGuard, Xiang et al. 2021): a patch reaches few local verdicts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physadv.core.errors import OptionError
from physadv.core.types import Victim
from physadv.defences.patchproof import in_batches


class Tiles(nn.Module):
    """Local evidence from any classifier: it sees ``field`` x ``field`` px tiles, ``stride`` px apart, one by one.

    Stands in for a net of small receptive field (BagNet): (b, c, h, w) -> class probabilities (b, classes, th, tw).
    A victim of its own, trained on tiles, does best; it owns the resizing of tiles to what it takes.
    """

    def __init__(self, victim: Victim, *, field: int, stride: int, batch: int = 256) -> None:
        super().__init__()
        if field < 1 or not 1 <= stride <= field:
            raise OptionError(f"field {field}, stride {stride}", "1 <= stride <= field", "use a stride of field / 2")
        self.victim, self.field, self.stride, self.batch = victim, field, stride, batch

    def forward(self, images: Tensor) -> Tensor:
        """See the class. Raises OptionError where the image is smaller than a tile or tiles do not reach its end."""
        height, width = images.shape[-2:]
        if min(height, width) < self.field or any((n - self.field) % self.stride for n in (height, width)):
            raise OptionError(
                f"tiles of {self.field} px every {self.stride}", f"do not end with {width} x {height} px", "change them"
            )
        across = images.unfold(2, self.field, self.stride).unfold(3, self.field, self.stride)
        rows, columns = across.shape[2:4]
        stacks = across.permute(0, 2, 3, 1, 4, 5).flatten(1, 2)
        logits = in_batches(self.victim, stacks, self.batch)
        return logits.softmax(2).transpose(1, 2).reshape(len(images), -1, rows, columns)

    def reach(self, patch: int) -> int:
        """Most tiles in a row that a patch of ``patch`` px can touch."""
        return -(-(patch + self.field - 1) // self.stride)


class RobustMasking(nn.Module):
    """PatchGuard over ``local`` evidence in [0, 1]: each class loses its strongest window, and the rest votes.

    ``patch`` px is the size to withstand. The window is as many tiles as such a patch can touch.
    """

    def __init__(self, local: Tiles, *, patch: int) -> None:
        super().__init__()
        if patch < 1:
            raise OptionError(f"patch {patch}", "at least 1 px", "use a few per cent of the image's side")
        self.local, self.patch = local, (patch, patch)

    def forward(self, images: Tensor) -> Tensor:
        """(b, classes): the evidence of each class outside its strongest window, over the count of tiles."""
        evidence = self.local(images).double()
        tall, wide = self._window(evidence)
        strongest = _sums(evidence, tall, wide).flatten(2).max(2).values
        left: Tensor = (evidence.sum((2, 3)) - strongest) / evidence[0, 0].numel()
        return left

    @torch.no_grad()
    def certify(self, images: Tensor, labels: Tensor) -> Tensor:
        """(b,) bool: whatever a patch shows, wherever it lies, the label keeps the most evidence.

        For each window that may be the patch's: other classes keep at most what they have outside it, since at least
        as much is masked as the patch could add; the label keeps at least what it has outside it, less the strongest
        window of that.
        """
        evidence = self.local(images).double()
        tall, wide = self._window(evidence)
        rows, columns = evidence.shape[2] - tall + 1, evidence.shape[3] - wide + 1
        own = evidence[torch.arange(len(images)), labels][:, None]
        outside = evidence.sum((2, 3))[..., None, None] - _sums(evidence, tall, wide)
        outside = outside.scatter(1, labels.view(-1, 1, 1, 1).expand(-1, 1, rows, columns), -torch.inf)
        sure = torch.ones(len(images), dtype=torch.bool, device=images.device)
        for y in range(rows):
            for x in range(columns):
                rest = own.clone()
                rest[..., y : y + tall, x : x + wide] = 0
                lowest = rest.sum((1, 2, 3)) - _sums(rest, tall, wide).flatten(1).max(1).values
                sure &= lowest > outside[..., y, x].max(1).values + 1e-6  # rounding
        return sure

    def _window(self, evidence: Tensor) -> tuple[int, int]:
        reach = self.local.reach(self.patch[0])
        if reach >= max(evidence.shape[2:]):
            tiles = f"{evidence.shape[2]} x {evidence.shape[3]} tiles of {self.local.field} px"
            raise OptionError(
                f"patch {self.patch[0]} px", f"it can touch all of {tiles}: nothing is left to vote",
                "use a smaller patch or field",
            )  # fmt: skip
        return min(reach, evidence.shape[2]), min(reach, evidence.shape[3])


def _sums(evidence: Tensor, tall: int, wide: int) -> Tensor:
    """The sum over every tall x wide window."""
    return F.avg_pool2d(evidence, (tall, wide), 1) * (tall * wide)
