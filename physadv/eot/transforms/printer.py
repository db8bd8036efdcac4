"""From the patch's pixel values to the colours a print really shows, with the spread between printers as noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from physadv.eot.color_map import ColourMap
from physadv.eot.transforms.photometry import to_linear


@dataclass(frozen=True)
class MeasuredPrinter:
    """One draw of a measured printer and camera: its colour map, and how far this print strays from it (3, 4)."""

    colours: ColourMap
    error: Tensor

    def light(self, patch: Tensor) -> Tensor:
        """(1, 3, h, w) sRGB sent to the printer -> linear light, bare paper being 1."""
        return to_linear(self.colours.encoded(patch, self.error).clamp(0, 1))

    def to(self, device: torch.device) -> MeasuredPrinter:
        """The same draw on another device."""
        return MeasuredPrinter(self.colours.to(device), self.error.to(device))


def draw_printer(colours: ColourMap | None, generator: torch.Generator) -> MeasuredPrinter | None:
    """Draw one print of the measured printer; None, and nothing drawn, where none was measured."""
    return None if colours is None else MeasuredPrinter(colours, colours.draw_error(generator))


def printed_light(
    patch: Tensor, black: Tensor, white: Tensor, mixing: Tensor, measured: MeasuredPrinter | None = None
) -> Tensor:
    """Reflected linear light of a (1, 3, h, w) sRGB patch on paper, (1, 3, h, w), for one drawn printer.

    ``black`` and ``white`` are (3,) reflectances of the darkest ink and of bare paper; ``mixing`` (3, 3) holds
    the cross-channel terms of the inks (they decide), rows summing to one so that greys stay grey. With a
    ``measured`` printer its map takes the place of black and mixing; white stays the light of the bare paper.
    """
    paper = white[None, :, None, None]
    if measured is not None:
        return paper * measured.light(patch)
    mixed = (mixing @ to_linear(patch).flatten(2)).view_as(patch)
    return black[None, :, None, None] + (paper - black[None, :, None, None]) * mixed
