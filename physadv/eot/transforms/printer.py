"""Printed light of a patch: what paper shows of its pixel values, from printer to printer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from physadv.eot.color_map import ColorMap
from physadv.eot.sampling import DrawStream
from physadv.eot.scenes.scene_batch import SceneBatch
from physadv.eot.stage import ONE, SHARE, Range, Stage, StageRanges, span
from physadv.eot.transforms.photometry import srgb_to_linear


@dataclass(frozen=True)
class PrintRanges(StageRanges):
    """Ranges of inks and paper, as shares of reflected light."""

    ink_black: Range = span(0.01, 0.06, within=SHARE, effects=("print", "colour"))
    paper_white: Range = span(0.72, 0.95, off=ONE, within=SHARE, effects=("print", "colour"))
    ink_mixing: Range = span(0, 0.12, within=SHARE, effects=("print", "colour"))
    """Share of each ink's light that comes from the other two channels."""


@dataclass(frozen=True)
class MeasuredPrinter:
    """One draw of a measured printer and camera.

    Its color map, and how far this print strays from it (3, 4).
    """

    colors: ColorMap
    error: Tensor

    def light(self, patch: Tensor) -> Tensor:
        """Return linear light of a ``patch`` (1, 3, h, w), sRGB sent to the printer; bare paper is
        1."""
        return srgb_to_linear(self.colors.encoded(patch, self.error).clamp(0, 1))

    def to(self, device: torch.device) -> MeasuredPrinter:
        """Return the same draw on another ``device``."""
        return MeasuredPrinter(self.colors.to(device), self.error.to(device))


def draw_printer(colors: ColorMap | None, generator: torch.Generator) -> MeasuredPrinter | None:
    """Draw one print of the measured printer ``colors`` from ``generator``.

    None, and nothing drawn, where no printer was measured.
    """
    return None if colors is None else MeasuredPrinter(colors, colors.draw_error(generator))


def printed_light(
    patch: Tensor,
    black: Tensor,
    white: Tensor,
    mixing: Tensor,
    measured: MeasuredPrinter | None = None,
) -> Tensor:
    """Return the linear light that a patch on paper reflects, for one drawn printer.

    Args:
        patch: (1, 3, h, w) sRGB.
        black: (3,) reflectances of the darkest ink.
        white: (3,) reflectances of bare paper.
        mixing: (3, 3) cross-channel terms of the inks, which decide; rows sum to one so that grays
            stay gray.
        measured: A printer whose map takes the place of black and mixing.

    Returns:
        (1, 3, h, w).
    """
    paper = white[None, :, None, None]
    if measured is not None:
        return paper * measured.light(patch)
    mixed = (mixing @ srgb_to_linear(patch).flatten(2)).view_as(patch)
    return black[None, :, None, None] + (paper - black[None, :, None, None]) * mixed


@dataclass(frozen=True)
class PrintDraw:
    """One drawn printer and paper."""

    black: Tensor  # (3,)
    white: Tensor  # (3,)
    mixing: Tensor  # (3, 3)
    measured: MeasuredPrinter | None = None


class Printer(Stage[PrintRanges, PrintDraw]):
    """From the values sent to a printer to the light that the print reflects."""

    returns = "linear"
    acts_on = "patch"

    def sample(
        self, batch: SceneBatch, ranges: PrintRanges, stream: DrawStream
    ) -> PrintDraw | None:
        """Draw one printer for all of ``batch`` within ``ranges`` from the shared ``stream``.

        The measured printer of ``stream.colors``, where there is one, takes the place of the inks.
        """
        measured = draw_printer(stream.colors, stream.named("printer"))
        if measured is None and not ranges.acts("ink_black", "paper_white", "ink_mixing"):
            return None

        # Rows sum to one, so that grays stay gray.
        leak = stream.shared("ink_mixing", ranges.ink_mixing) / 2
        mixing = leak - torch.diag(leak.diagonal())
        mixing = mixing + torch.diag(1 - mixing.sum(1))
        black = stream.shared("ink_black", ranges.ink_black).expand(3)
        black = black * stream.shared("ink_black_channels", (0.85, 1.15))
        white = torch.ones(3)
        if ranges.acts("paper_white"):
            white = stream.shared("paper_white", ranges.paper_white).expand(3)
            white = white * stream.shared("paper_white_channels", (0.96, 1.04))
        return PrintDraw(black, white, mixing, measured)

    def part(self, params: PrintDraw, rows: slice, count: int) -> PrintDraw:
        """Return ``params``: all ``count`` scenes share one printer, whatever ``rows`` are."""
        return params

    def apply(self, images: Tensor, params: PrintDraw) -> Tensor:
        """Return the linear light of ``images``, encoded patches, printed by ``params``."""
        return printed_light(images, params.black, params.white, params.mixing, params.measured)
