"""From the patch's pixel values to the colours a print really shows, with the spread between printers as noise."""

from __future__ import annotations

from torch import Tensor

from physadv.scene.photometry import to_linear


def printed_light(patch: Tensor, black: Tensor, white: Tensor, mixing: Tensor) -> Tensor:
    """Reflected linear light of a (1, 3, h, w) sRGB patch on paper, (1, 3, h, w), for one drawn printer.

    ``black`` and ``white`` are (3,) reflectances of the darkest ink and of bare paper; ``mixing`` (3, 3) holds
    the cross-channel terms of the inks (FIELD: they decide), rows summing to one so that greys stay grey.
    """
    mixed = (mixing @ to_linear(patch).flatten(2)).view_as(patch)
    return black[None, :, None, None] + (white - black)[None, :, None, None] * mixed
