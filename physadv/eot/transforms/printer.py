"""From the patch's pixel values to the colors a print really shows, with the spread between
printers as noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from physadv.eot.color_map import ColorMap
from physadv.eot.transforms.photometry import srgb_to_linear


@dataclass(frozen=True)
class MeasuredPrinter:
    """One draw of a measured printer and camera: its color map, and how far this print strays from
    it (3, 4)."""

    colors: ColorMap
    error: Tensor

    def light(self, patch: Tensor) -> Tensor:
        """(1, 3, h, w) sRGB sent to the printer -> linear light, bare paper being 1."""
        return srgb_to_linear(self.colors.encoded(patch, self.error).clamp(0, 1))

    def to(self, device: torch.device) -> MeasuredPrinter:
        """The same draw on another device."""
        return MeasuredPrinter(self.colors.to(device), self.error.to(device))


def draw_printer(colors: ColorMap | None, generator: torch.Generator) -> MeasuredPrinter | None:
    """Draw one print of the measured printer; None, and nothing drawn, where none was measured."""
    return None if colors is None else MeasuredPrinter(colors, colors.draw_error(generator))


def printed_light(
    patch: Tensor,
    black: Tensor,
    white: Tensor,
    mixing: Tensor,
    measured: MeasuredPrinter | None = None,
) -> Tensor:
    """Reflected linear light of a (1, 3, h, w) sRGB patch on paper, (1, 3, h, w), for one drawn
    printer.

    ``black`` and ``white`` are (3,) reflectances of the darkest ink and of bare paper; ``mixing``
    (3, 3) holds the cross-channel terms of the inks (they decide), rows summing to one so that
    grays stay gray. With a ``measured`` printer its map takes the place of black and mixing; white
    stays the light of the bare paper.
    """
    paper = white[None, :, None, None]
    if measured is not None:
        return paper * measured.light(patch)
    mixed = (mixing @ srgb_to_linear(patch).flatten(2)).view_as(patch)
    return black[None, :, None, None] + (paper - black[None, :, None, None]) * mixed
