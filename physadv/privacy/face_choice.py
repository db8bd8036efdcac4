"""Choice of the faces of each photo that are cloaked, and how strongly, by their numbers in the
preview."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from physadv.core.errors import OptionError
from physadv.core.parsing import parse_whole_number
from physadv.models.faces.face_detection import Box, DetectedFace
from physadv.privacy.cloak_faces import CloakMode, read_mode

Reason = Literal["too small", "doubtful", "not chosen"]
"""Why a face stays bare: no recognizer tells it apart, the second look did not confirm it, or the
choice leaves it out."""
_FORM = "NUMBERS for one photo, or PHOTO:NUMBERS, for example IMG_1.jpg:2,3"
Chosen = Mapping[str, frozenset[int]]
"""Numbers by the photo's name."""
_MODE_FORM = "NUMBERS=MODE or PHOTO:NUMBERS=MODE, for example IMG_1.jpg:2=high"


@dataclass(frozen=True)
class PhotoFaces:
    """Faces of a photo by their number, from 1: those to cloak and those left bare.

    Attributes:
        cloaked: Faces to cloak.
        bare: Faces left as they are.
        reasons: Why each of ``bare`` is.
    """

    cloaked: dict[int, DetectedFace] = field(default_factory=dict)
    bare: dict[int, DetectedFace] = field(default_factory=dict)
    reasons: dict[int, Reason] = field(default_factory=dict)

    def boxes(self, height: int, width: int) -> tuple[dict[int, Box], dict[int, Box]]:
        """Return the boxes of the faces to cloak, and of those left bare, by their number, in a
        photo of ``height`` x ``width`` px."""
        return (
            {number: face.box(height, width) for number, face in self.cloaked.items()},
            {number: face.box(height, width) for number, face in self.bare.items()},
        )

    def notes(self) -> tuple[str, ...]:
        """Return what the owner should know of the faces left bare, a note a reason."""
        words = {
            "too small": "left as they are, too small to be recognized",
            "doubtful": "left as they are, probably no faces (--only-faces cloaks them)",
            "not chosen": "left as they are, as chosen",
        }
        reasons = list(self.reasons.values())
        return tuple(
            f"{text}: {reasons.count(reason)}"
            for reason, text in words.items()
            if reason in reasons
        )


@dataclass(frozen=True)
class FaceChoice:
    """Faces that ``--only-faces``, ``--skip-faces`` and ``--face-mode`` name, by the photo's name.

    Attributes:
        only: Numbers of the faces to cloak, of photos of which not all are.
        skip: Numbers of faces to leave bare.
        modes: Modes of single faces, by their number.
    """

    only: Chosen = field(default_factory=dict)
    skip: Chosen = field(default_factory=dict)
    modes: Mapping[str, Mapping[int, CloakMode]] = field(default_factory=dict)

    @classmethod
    def parse(
        cls,
        only: Sequence[str],
        skip: Sequence[str],
        photos: Sequence[str],
        modes: Sequence[str] = (),
    ) -> FaceChoice:
        """Read the values of the options.

        Args:
            only: Values of ``--only-faces``.
            skip: Values of ``--skip-faces``.
            photos: Names of the photos of the run.
            modes: Values of ``--face-mode``.

        Returns:
            The choice.

        Raises:
            OptionError: A value has another form, or names no photo of the run or no mode, or a
                face is both to be cloaked and to be left.

        Example:
            >>> FaceChoice.parse(["a.jpg:1,3"], [], ["a.jpg", "b.jpg"]).only["a.jpg"] == {1, 3}
            True
        """
        cloaked = _parsed("--only-faces", only, photos)
        left = _parsed("--skip-faces", skip, photos)
        for photo in cloaked.keys() & left.keys():
            for number in sorted(cloaked[photo] & left[photo]):
                raise OptionError(
                    f"{photo}: face {number}",
                    "is named by --only-faces and by --skip-faces",
                    "Name it in one of them",
                )
        return cls(cloaked, left, _parsed_modes(modes, photos))

    def apply(
        self,
        name: str,
        certain: Sequence[DetectedFace],
        doubtful: Sequence[DetectedFace] = (),
        small: Sequence[DetectedFace] = (),
    ) -> PhotoFaces:
        """Number the faces of the photo ``name`` and divide them.

        Args:
            name: Name of the photo.
            certain: Faces that are cloaked unless left out.
            doubtful: Faces that are cloaked only where named.
            small: Faces that are never cloaked.

        Returns:
            The faces, numbered in this order.

        Raises:
            OptionError: The choice names a number that no face has, or one that is too small.
        """
        numbered = dict(enumerate([*certain, *doubtful, *small], 1))
        sure = range(1, len(certain) + 1)
        most = len(certain) + len(doubtful)

        named = self.only.get(name, frozenset()) | self.skip.get(name, frozenset())
        for number in sorted(named | self.modes.get(name, {}).keys()):
            if number not in numbered:
                faces = "no face was found" if not numbered else f"It has 1 to {len(numbered)}"
                raise OptionError(f"{name}: face {number}", faces, "--preview shows the numbers")
        for number in sorted(self.only.get(name, frozenset())):
            if number > most:
                raise OptionError(
                    f"{name}: face {number}", "is too small to be recognized", "Leave it out"
                )

        wanted = self.only.get(name, frozenset(sure)) - self.skip.get(name, frozenset())
        reasons: dict[int, Reason] = {}
        for number in numbered:
            if number not in wanted:
                reasons[number] = (
                    "too small"
                    if number > most
                    else "doubtful"
                    if number not in sure and number not in named
                    else "not chosen"
                )
        return PhotoFaces(
            {number: face for number, face in numbered.items() if number in wanted},
            {number: face for number, face in numbered.items() if number not in wanted},
            reasons,
        )


def _parsed_modes(values: Sequence[str], photos: Sequence[str]) -> dict[str, dict[int, CloakMode]]:
    """Modes by photo and number of all values of ``--face-mode``; the last one counts."""
    modes: dict[str, dict[int, CloakMode]] = {}
    for value in values:
        faces, sign, word = value.rpartition("=")
        if not sign:
            raise OptionError(f"--face-mode {value}", "names no mode", f"Give {_MODE_FORM}")
        mode = read_mode(word)
        for photo, numbers in _parsed("--face-mode", [faces], photos).items():
            modes.setdefault(photo, {}).update(dict.fromkeys(numbers, mode))
    return modes


def _parsed(option: str, values: Sequence[str], photos: Sequence[str]) -> Chosen:
    """Numbers by photo of all values of one option."""
    chosen: dict[str, frozenset[int]] = {}
    for value in values:
        name, colon, text = value.rpartition(":")
        numbers = text.split(",")
        if not all(number.isascii() and number.isdigit() for number in numbers):
            raise OptionError(f"{option} {value}", "names no faces", f"Give {_FORM}")
        if not colon and len(photos) != 1:
            raise OptionError(
                f"{option} {value}", f"is for one photo; there are {len(photos)}", f"Give {_FORM}"
            )
        photo = name if colon else photos[0]
        if photo not in photos:
            raise OptionError(
                f"{option} {value}", f"{photo} is no photo of this run", "--dry-run lists them"
            )
        chosen[photo] = chosen.get(photo, frozenset()) | {
            parse_whole_number(
                n, "the face's number", option, error=OptionError, remedy=f"Give {_FORM}"
            )
            for n in numbers
        }
    return chosen
