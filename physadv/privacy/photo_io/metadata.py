"""Metadata of photos: entries that stay, and entries that reveal a place, a device or the
unchanged face."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from physadv.privacy.photo_io.cloak_mark import MARK_TAG, mark_of

ORIENTATION = 0x0112
# Date and time with their offsets and fractions, and GPS's own.
_DATES = frozenset(
    {0x0132, 0x9003, 0x9004, 0x9010, 0x9011, 0x9012, 0x9290, 0x9291, 0x9292, 0x882A, 0xC71B}
)
_GPS_DATES = frozenset({0x0007, 0x001D})
# XMP, Photoshop's and IPTC's blocks may carry a thumbnail of the face as it was; so may Photoshop's
# and DNG's private data. XMP is kept by itself, where it carries none.
_WITH_PICTURES = frozenset({0x02BC, 0x8649, 0x83BB, 0x935C, 0xC634})
_PICTURE_SIGNS = (b"\xff\xd8\xff", b"\x89PNG\r\n")
_EXIF_IFD, _GPS_IFD, _INTEROP_IFD = 0x8769, 0x8825, 0xA005
# Owner, body and lens serial numbers, unique ids, maker notes (they hold serials), user comment.
_PRIVATE_EXIF = frozenset({0x927C, 0x9286, 0xA420, 0xA430, 0xA431, 0xA435})
# Artist, copyright, host, document name, XP* fields, camera serial, raw data id, XMP, IPTC,
# Photoshop, DNG private.
_PRIVATE_BASE = frozenset(
    {
        0x013B,
        0x8298,
        0x013C,
        0x010D,
        0x010E,
        0x9C9B,
        0x9C9C,
        0x9C9D,
        0x9C9E,
        0x9C9F,
        0xC62F,
        0xC65D,
        0x02BC,
        0x83BB,
        0x8649,
        0xC634,
    }
)
# Where pixels lie and how: Pillow writes its own. Thumbnails live in sub-images; those go always.
_LAYOUT = frozenset(
    {
        0x00FE,
        0x00FF,
        0x0100,
        0x0101,
        0x0102,
        0x0103,
        0x0106,
        0x010A,
        0x0111,
        0x0115,
        0x0116,
        0x0117,
        0x011C,
        0x013D,
        0x0140,
        0x0142,
        0x0143,
        0x0144,
        0x0145,
        0x014A,
        0x0152,
        0x0153,
        0x0201,
        0x0202,
        0x0211,
        0x0212,
        0x0213,
        0x0214,
        0x8773,
    }
)


@dataclass(frozen=True)
class PhotoMetadata:
    """Metadata of one photo: ``icc`` profile and ``dpi`` always stay, both EXIF tables in part;
    GPS, ``xmp`` and ``comment`` only on request."""

    icc: bytes | None
    dpi: tuple[float, float] | None
    base: dict[int, Any]
    exif: dict[int, Any]
    gps: dict[int, Any]
    xmp: bytes | None
    comment: bytes | None

    @classmethod
    def of(cls, image: Image.Image) -> PhotoMetadata:
        """Read the metadata of an opened ``image``; the orientation is left out, for pixels are
        turned upright instead."""
        table = image.getexif()
        base = {
            k: v
            for k, v in dict(table).items()
            if k not in _LAYOUT | _WITH_PICTURES | {ORIENTATION, _EXIF_IFD, _GPS_IFD}
            and not _holds_picture(v)
        }

        dpi = image.info.get("dpi")
        xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
        comment = image.info.get("comment")

        return cls(
            icc=image.info.get("icc_profile") or None,
            dpi=(float(dpi[0]), float(dpi[1])) if dpi and all(float(v) > 0 for v in dpi) else None,
            base=base,
            exif={
                k: v
                for k, v in dict(table.get_ifd(_EXIF_IFD)).items()
                if k not in _WITH_PICTURES | {_INTEROP_IFD} and not _holds_picture(v)
            },
            gps=dict(table.get_ifd(_GPS_IFD)),
            xmp=_without_pictures(xmp),
            comment=comment if isinstance(comment, bytes) else None,
        )

    def stripped(self) -> PhotoMetadata:
        """Return it without place, owner, serial numbers, maker notes, captions, XMP and
        comments."""
        return replace(
            self,
            base={k: v for k, v in self.base.items() if k not in _PRIVATE_BASE},
            exif={k: v for k, v in self.exif.items() if k not in _PRIVATE_EXIF},
            gps={},
            xmp=None,
            comment=None,
        )

    def without_dates(self) -> PhotoMetadata:
        """Return it without dates and times, wherever they stand: EXIF, GPS, XMP, comments."""
        return replace(
            self,
            base={k: v for k, v in self.base.items() if k not in _DATES},
            exif={k: v for k, v in self.exif.items() if k not in _DATES},
            gps={k: v for k, v in self.gps.items() if k not in _GPS_DATES},
            xmp=None,
            comment=None,
        )

    def marked(self, made_with: Iterable[Mapping[str, str]]) -> PhotoMetadata:
        """Return it with the mark of a cloak by the embedders ``made_with``, name and sha256 of
        each; what a mark of an earlier cloak names stays named."""
        mark = mark_of(made_with, self.base.get(MARK_TAG))
        return replace(self, base={**self.base, MARK_TAG: mark}) if mark else self

    def exif_bytes(self) -> bytes:
        """Return an EXIF block without sub-images; b"" where it would be empty."""
        table = Image.Exif()
        for tag, value in _writable(self.base).items():
            table[tag] = value
        for ifd, values in ((_EXIF_IFD, self.exif), (_GPS_IFD, self.gps)):
            if kept := _writable(values):
                table.get_ifd(ifd).update(kept)
        return table.tobytes() if len(table) or self.exif or self.gps else b""

    def for_pillow(self, kind: str) -> dict[str, Any]:
        """Return keyword arguments of ``Image.save`` for the format ``kind``, "JPEG" or another
        of Pillow's names."""
        options: dict[str, Any] = {}
        if self.icc and kind != "BMP":
            options["icc_profile"] = self.icc
        if self.dpi and kind in {"JPEG", "PNG", "TIFF", "BMP"}:
            options["dpi"] = self.dpi

        # Pillow rejects what a format cannot hold, so each entry goes only where it has a place.
        if kind != "BMP" and (block := self.exif_bytes()):
            options["exif"] = block
        if self.xmp and kind in {"JPEG", "WEBP"}:
            options["xmp"] = self.xmp
        if self.comment and kind == "JPEG":
            options["comment"] = self.comment
        return options


def _writable(entries: Mapping[int, Any]) -> dict[int, Any]:
    """Entries that Pillow can write: what it read from a damaged block may be of a type that its
    tag does not have, such as text for a fraction."""
    kept = {}
    for tag, value in entries.items():
        alone = Image.Exif()
        alone[tag] = value
        try:
            alone.tobytes()
        except Exception:
            continue
        kept[tag] = value
    return kept


def _holds_picture(value: Any) -> bool:
    """Whether an entry, such as a maker note, carries a JPEG or PNG of its own: it may show the
    face as it was."""
    return isinstance(value, bytes) and any(sign in value for sign in _PICTURE_SIGNS)


def _without_pictures(xmp: Any) -> bytes | None:
    """XMP that carries a picture of its own (a thumbnail, a depth map) is not kept: it may show the
    face as it was."""
    text = xmp.encode() if isinstance(xmp, str) else xmp
    if not isinstance(text, bytes) or any(
        word in text for word in (b"humbnail", b"GImage", b"GDepth", b"hdrgm")
    ):
        return None
    return text
