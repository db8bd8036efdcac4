"""Random views of images that gradients are taken of, so that adversarial images transfer.

Each view is drawn for every sample from a random stream of its own, so that a result does not
depend on the batch. A view of several ``copies`` averages as many gradients a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import cos, pi, sin
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from physadv.attacks._classifier_step import modules_of
from physadv.attacks._directions import unit_direction
from physadv.core.errors import OptionError
from physadv.models.cards import require_gradient
from physadv.threat.losses import Objective

_Net = Callable[[Tensor], Tensor]
_Range = tuple[int, int]


class InputView(Protocol):
    """A random view of images."""

    @property
    def copies(self) -> int:
        """Number of gradients, each of another draw, that one step averages."""
        ...

    def drawn(
        self, net: _Net, images: Tensor, goal: Objective, sources: Sequence[torch.Generator]
    ) -> _Net:
        """Draw a view of each sample; return the function from images to their views.

        Args:
            net: Model that the views are shown to.
            images: Images (b, c, h, w) at which the view is drawn.
            goal: Loss of each sample.
            sources: Random stream of each sample.
        """
        ...

    @property
    def passes(self) -> int:
        """Forward passes that one step takes of each sample."""
        ...


@dataclass(frozen=True)
class DiverseInputs:
    """Input diversity (Xie et al. 2019): random shrinking and placement on black.

    Args:
        share: Share of the images that are shrunk, in [0, 1].
        smallest: Smallest scale, in (0, 1].

    Raises:
        OptionError: A value is out of range.

    Example:
        >>> import torch
        >>> views = DiverseInputs(share=1.0, smallest=0.5)
        >>> source = torch.Generator().manual_seed(0)
        >>> views(torch.ones(1, 3, 8, 8), [source]).shape
        torch.Size([1, 3, 8, 8])
    """

    share: float = 0.5
    smallest: float = 0.85
    copies: ClassVar[int] = 1
    passes: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not (0 <= self.share <= 1 and 0 < self.smallest <= 1):
            raise OptionError(
                f"share {self.share}, smallest {self.smallest}",
                "share is 0 to 1, smallest above 0 to 1",
                "Correct them",
            )

    def __call__(self, images: Tensor, sources: Sequence[torch.Generator]) -> Tensor:
        """Return ``images`` (b, c, h, w) diversified, each with a random stream of ``sources``."""
        if not sources:
            return images

        draws = torch.stack([torch.rand(4, generator=g, dtype=torch.float64) for g in sources]).to(
            images
        )
        scale = self.smallest + (1 - self.smallest) * draws[:, 1]
        scale = torch.where(draws[:, 0] < self.share, scale, torch.ones_like(scale))
        shift = (draws[:, 2:] * 2 - 1) * (1 / scale - 1)[:, None]

        zoom = torch.diag_embed(torch.stack([1 / scale, 1 / scale], 1))
        grid = F.affine_grid(
            torch.cat([zoom, shift[:, :, None]], 2), list(images.shape), align_corners=False
        )
        return F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)

    def drawn(
        self, net: _Net, images: Tensor, goal: Objective, sources: Sequence[torch.Generator]
    ) -> _Net:
        """Return the function from images to views drawn once from ``sources``, a stream a sample.

        ``net``, ``images`` and ``goal`` have no part in this view.
        """
        states = [source.get_state() for source in sources]

        def view(x: Tensor) -> Tensor:
            return self(x, [_stream_at(state) for state in states])

        return view


@dataclass(frozen=True)
class _Blocks:
    """Base of views that treat blocks of an image each in its own way.

    Args:
        blocks: Number of blocks along each side.
        copies: Number of gradients that one step averages.
    """

    blocks: int = 3
    copies: int = 10

    def __post_init__(self) -> None:
        if self.blocks < 1 or self.copies < 1:
            raise OptionError(
                f"{self.blocks} blocks, {self.copies} copies", "at least 1 of each", "Raise them"
            )

    @property
    def passes(self) -> int:
        """Forward passes that one step takes of each sample."""
        return self.copies


@dataclass(frozen=True)
class BlockShuffle(_Blocks):
    """Block shuffle and rotation, BSR (Wang et al. 2024): blocks of random sizes change places, and
    each is turned around its center.

    Args:
        blocks: Number of blocks along each side.
        copies: Number of gradients that one step averages.
        degrees: Largest turn of a block.

    Raises:
        OptionError: A value is out of range.

    Example:
        >>> import torch
        >>> still = BlockShuffle(blocks=1, copies=1, degrees=0)
        >>> images = torch.rand(1, 3, 8, 8)
        >>> source = torch.Generator().manual_seed(0)
        >>> view = still.drawn(torch.nn.Identity(), images, None, [source])
        >>> torch.allclose(view(images), images, atol=1e-6)
        True
    """

    degrees: float = 24.0

    def drawn(
        self, net: _Net, images: Tensor, goal: Objective, sources: Sequence[torch.Generator]
    ) -> _Net:
        """Return the function from images (b, c, h, w) to views drawn from ``sources``, a stream a
        sample.

        ``net`` and ``goal`` have no part in this view.
        """
        height, width = images.shape[-2:]
        if not sources:
            return _unchanged
        maps = [self._map(height, width, source) for source in sources]
        grid = torch.stack([points for points, _ in maps]).to(images)
        inside = torch.stack([own for _, own in maps]).to(images)[:, None]

        def view(x: Tensor) -> Tensor:
            return F.grid_sample(x, grid, align_corners=False, padding_mode="border") * inside

        return view

    def _map(self, height: int, width: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
        """Where each pixel of the view comes from, (h, w, 2) in [-1, 1], and whether that lies in
        its block, (h, w)."""
        points = torch.zeros(height, width, 2, dtype=torch.float64)
        inside = torch.ones(height, width, dtype=torch.float64)
        top = 0
        for first, last in _shuffled(_pieces(height, self.blocks, source), source):
            left = 0
            for start, end in _shuffled(_pieces(width, self.blocks, source), source):
                where = (slice(top, top + last - first), slice(left, left + end - start))
                own, valid = self._turned((first, last), (start, end), source)
                points[where], inside[where] = own, valid
                left += end - start
            top += last - first

        # From the centers of pixels to the coordinates of grid_sample.
        scale = torch.tensor([width, height], dtype=torch.float64)
        return (2 * points + 1) / scale - 1, inside

    def _turned(
        self, rows: _Range, columns: _Range, source: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Pixel coordinates (x, y) of a block turned around its center, and which lie in it."""
        draw = float(torch.rand((), generator=source, dtype=torch.float64))
        angle = (2 * draw - 1) * self.degrees * pi / 180
        y = torch.arange(rows[0], rows[1], dtype=torch.float64)[:, None]
        x = torch.arange(columns[0], columns[1], dtype=torch.float64)[None]
        middle_y, middle_x = (rows[0] + rows[1] - 1) / 2, (columns[0] + columns[1] - 1) / 2
        down, right = y - middle_y, x - middle_x
        from_x = middle_x + cos(angle) * right - sin(angle) * down
        from_y = middle_y + sin(angle) * right + cos(angle) * down
        valid = (from_x > columns[0] - 0.5) & (from_x < columns[1] - 0.5)
        valid = valid & (from_y > rows[0] - 0.5) & (from_y < rows[1] - 0.5)
        return torch.stack([from_x, from_y], 2), valid.to(torch.float64)


@dataclass(frozen=True)
class StructureInvariant(_Blocks):
    """Structure invariant transformation, SIA (Wang et al. 2023): each block is changed in a way of
    its own, and stays in its place.

    The ways are shifts and flips along either axis, a half turn, a random brightness, noise, and
    dropped pixels; of the paper's ten, resizing and DCT are left out.

    Args:
        blocks: Number of blocks along each side.
        copies: Number of gradients that one step averages.
        noise: Largest change of a pixel by noise.
        dropped: Share of the pixels of a block that are dropped.

    Raises:
        OptionError: A value is out of range.

    Example:
        >>> import torch
        >>> images = torch.rand(1, 3, 8, 8)
        >>> source = torch.Generator().manual_seed(0)
        >>> view = StructureInvariant().drawn(torch.nn.Identity(), images, None, [source])
        >>> view(images).shape
        torch.Size([1, 3, 8, 8])
    """

    noise: float = 16 / 255
    dropped: float = 0.1

    def drawn(
        self, net: _Net, images: Tensor, goal: Objective, sources: Sequence[torch.Generator]
    ) -> _Net:
        """Return the function from images (b, c, h, w) to views drawn from ``sources``, a stream a
        sample.

        ``net`` and ``goal`` have no part in this view.
        """
        if not sources:
            return _unchanged
        _, channels, height, width = images.shape
        maps = [self._map(channels, height, width, source) for source in sources]
        places = torch.stack([m[0] for m in maps]).flatten(1)[:, None].to(images.device)
        scale = torch.stack([m[1] for m in maps])[:, None].to(images)
        shift = torch.stack([m[2] for m in maps]).to(images)

        def view(x: Tensor) -> Tensor:
            moved = x.flatten(2).gather(2, places.expand(-1, x.shape[1], -1)).view(x.shape)
            return (moved * scale + shift).clamp(0, 1)

        return view

    def _map(
        self, channels: int, height: int, width: int, source: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Place (h, w) that each pixel is taken from, its factor (h, w) and its shift (c, h, w)."""
        places = torch.arange(height * width).view(height, width)
        scale = torch.ones(height, width, dtype=torch.float64)
        shift = torch.zeros(channels, height, width, dtype=torch.float64)
        for first, last in _pieces(height, self.blocks, source):
            for start, end in _pieces(width, self.blocks, source):
                rows, columns = slice(first, last), slice(start, end)
                block = places[rows, columns].clone()
                way = int(torch.randint(8, (), generator=source))
                if way < 2:
                    most = block.shape[way]
                    block = block.roll(int(torch.randint(most, (), generator=source)), way)
                elif way < 5:
                    block = block.flip([(0,), (1,), (0, 1)][way - 2])
                elif way == 5:
                    scale[rows, columns] = torch.rand((), generator=source, dtype=torch.float64)
                elif way == 6:
                    draw = torch.rand((channels, *block.shape), generator=source)
                    shift[:, rows, columns] = (draw * 2 - 1) * self.noise
                else:
                    kept = torch.rand(block.shape, generator=source) >= self.dropped
                    scale[rows, columns] = kept.to(scale)
                places[rows, columns] = block
        return places, scale, shift


@dataclass(frozen=True)
class DeformationWarp:
    """Deformation-constrained warping, DeCoWA (Lin et al. 2024): a smooth warp by thin-plate
    splines, moved a little towards views that the model still reads.

    Args:
        points: Number of control points along each side, at least 3; those on the edge stay.
        copies: Number of gradients that one step averages.
        strength: Largest move of a control point, in half widths of the image.
        rate: Length of the step that the warp takes against the attack.

    Raises:
        OptionError: A value is out of range.

    Example:
        >>> import torch
        >>> from physadv.threat.losses import objective_by_name
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
        >>> images, goal = torch.rand(1, 3, 8, 8), objective_by_name("ce", torch.tensor([0]))
        >>> source = torch.Generator().manual_seed(0)
        >>> DeformationWarp().drawn(net, images, goal, [source])(images).shape
        torch.Size([1, 3, 8, 8])
    """

    points: int = 3
    copies: int = 10
    strength: float = 1.0
    rate: float = 0.05

    def __post_init__(self) -> None:
        if self.points < 3 or self.copies < 1 or not 0 <= self.strength <= 1 or self.rate < 0:
            raise OptionError(
                f"{self.points} points, {self.copies} copies, strength {self.strength}, rate "
                f"{self.rate}",
                "at least 3 points and 1 copy, strength 0 to 1, rate not below 0",
                "Correct them",
            )

    @property
    def passes(self) -> int:
        """Forward passes that one step takes of each sample: each copy takes two."""
        return 2 * self.copies

    def drawn(
        self, net: _Net, images: Tensor, goal: Objective, sources: Sequence[torch.Generator]
    ) -> _Net:
        """Return the function from images (b, c, h, w) to views drawn from ``sources``, a stream a
        sample, after one step up the loss ``goal`` of ``net`` at ``images``."""
        base, influence = _spline(self.points, images.shape[-2], images.shape[-1])
        base, influence = base.to(images), influence.to(images)
        count = influence.shape[2]
        draws = [torch.rand(count, 2, generator=g, dtype=torch.float64) for g in sources]
        moves = torch.stack(draws) if draws else influence.new_zeros(0, count, 2)
        moves = ((moves * 2 - 1) * self.strength).to(images)

        def warped(x: Tensor, by: Tensor) -> Tensor:
            grid = base + torch.einsum("hwp,bpc->bhwc", influence, by)
            return F.grid_sample(x, grid, align_corners=True)

        moves = moves.requires_grad_()
        loss = goal(net(warped(images.detach(), moves)))
        require_gradient(loss, modules_of(net))
        (slope,) = torch.autograd.grad(loss.sum(), moves, allow_unused=True, materialize_grads=True)
        # Of length 1, so that the scale of the logits does not matter.
        slope = unit_direction(torch.nan_to_num(slope, 0.0, 0.0, 0.0), "l2")
        moves = (moves + self.rate * slope).detach()
        return lambda x: warped(x, moves)


def _unchanged(images: Tensor) -> Tensor:
    return images


def _spline(points: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The identity (h, w, 2) in [-1, 1], and how far (h, w, p) each pixel's source follows a move
    of each of the p inner control points: a thin-plate spline is linear in its points."""
    ticks = torch.linspace(-1, 1, points, dtype=torch.float64)
    control = torch.cartesian_prod(ticks, ticks).flip(1)  # x, y, row by row
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height, dtype=torch.float64),
        torch.linspace(-1, 1, width, dtype=torch.float64),
        indexing="ij",
    )
    base = torch.stack([x, y], 2)

    count = len(control)
    system = torch.zeros(count + 3, count + 3, dtype=torch.float64)
    system[:count, :count] = _kernel(control, control)
    affine = torch.cat([torch.ones(count, 1, dtype=torch.float64), control], 1)
    system[:count, count:], system[count:, :count] = affine, affine.T
    weights = torch.linalg.inv(system)[:, :count]

    flat = base.view(-1, 2)
    terms = torch.cat([_kernel(flat, control), torch.ones(len(flat), 1).to(flat), flat], 1)
    inner = (control.abs() < 1).all(1)
    return base, (terms @ weights)[:, inner].view(height, width, -1)


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    """r^2 log r^2 of the distances (n, m) between points (n, 2) and (m, 2); 0 at 0."""
    square = (first[:, None] - second[None]).square().sum(2)
    return square * torch.where(square > 0, square, torch.ones_like(square)).log()


def _pieces(length: int, count: int, source: torch.Generator) -> list[_Range]:
    """Ends of up to ``count`` pieces of random lengths, in order; none is empty."""
    cuts = torch.randperm(max(0, length - 1), generator=source)[: count - 1] + 1
    return list(pairwise(sorted([0, *cuts.tolist(), length])))


def _shuffled(pieces: Sequence[_Range], source: torch.Generator) -> list[_Range]:
    return [pieces[i] for i in torch.randperm(len(pieces), generator=source).tolist()]


def _stream_at(state: Tensor) -> torch.Generator:
    """A stream that goes on from ``state``, so that every surrogate gets the same view."""
    stream = torch.Generator()
    stream.set_state(state)
    return stream
