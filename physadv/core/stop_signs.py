"""Words about stop signs that configurations, scenes and models share."""

from __future__ import annotations

from physadv.core.errors import OptionError

STOP_NAMES = ("stop", "stop sign", "street sign")
"""Name of the stop sign's class in GTSRB, COCO and ImageNet."""
VARIED, PLAIN = "varied", "plain"
"""Kinds of drawn stop faces: many, each drawn anew, or the one of
:func:`physadv.core.sign_artwork.sign_face`."""


def check_face_kind(kind: str) -> None:
    """Raise OptionError where ``kind`` is neither :data:`VARIED` nor :data:`PLAIN`."""
    if kind not in (VARIED, PLAIN):
        raise OptionError(
            f"--faces {kind}", f"must be {VARIED} or {PLAIN}", f"Leave it out for {VARIED}"
        )
