"""The parsers and decoders themselves, which the other readers reach behind checks of their own."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from fuzz import mutations
from fuzz.array_readers import npy_bytes
from fuzz.model_readers import small_state
from fuzz.picture_readers import (
    decode_picture,
    encoded,
    exif_block,
    noise_picture,
    picture_seeds,
    png_seeds,
    read_photo_of,
    srgb_profile,
)
from fuzz.reader_kit import ROOT, registered, written
from fuzz.table_readers import first_accepted
from PIL import Image
from safetensors.torch import save


@dataclass(frozen=True)
class _Typed:
    """A record of every kind of value."""

    name: str
    count: int = 0
    share: float = 0.0
    pairs: dict[str, tuple[float, ...]] = field(default_factory=dict)


def _parser_seeds() -> Sequence[bytes]:
    return [
        b'{"name": "a", "count": 3, "share": 0.5, "pairs": {"b": [1.5, 2]}}',
        b'[{"name": "a"}, {"name": "b", "count": 1}]\n',
        b'name = "a"\ncount = 3\n[pairs]\nb = [1.5, 2.0]\n',
        b"<a b='c'><d>1.5</d><!-- e --></a>",
        b"name,count\na,3\n",
        b"3",
    ]


@registered("parsers of text", _parser_seeds, mutations.mutate_text, 20)
def _parsers(folder: Path, data: bytes) -> object:
    from physadv.core import csv_tables, parsing, rows, tables, text

    file = written(folder, "a.json", data)
    decode = lambda: text.decode_text(data, "a", guess=True).text  # noqa: E731
    words = first_accepted([decode])[0]  # type: ignore[index]
    return first_accepted(
        [
            lambda: parsing.parse_json(words, "a"),
            lambda: parsing.parse_json_as(words, _Typed, "a"),
            lambda: parsing.parse_toml(words, "a"),
            lambda: parsing.parse_xml(data, "a"),
            lambda: parsing.parse_number(words, "x", "a"),
            lambda: parsing.parse_whole_number(words, "x", "a"),
            lambda: csv_tables.parse_csv(words, "a", {"name": ("count",)}),
            lambda: tables.read_table(file),
            lambda: tables.read_table_list(file),
            lambda: list(rows.read_rows(file)),
            lambda: tables.parse_table(tables.read_table(file), _Typed),
        ]
    )


@registered(
    "arrays", lambda: [npy_bytes(np.arange(6)), npy_bytes(np.ones((2, 3)))], mutations.mutate_npy, 2
)
def _arrays(folder: Path, data: bytes) -> object:
    from physadv.core.array_files import parse_npy

    return parse_npy(data, "a.npy")


@registered("tensors", lambda: [save(small_state(), {"a": "b"})], mutations.mutate_safetensors, 1)
def _tensors(folder: Path, data: bytes) -> object:
    from physadv.core.tensor_files import read_tensors

    return read_tensors(written(folder, "a.safetensors", data))


def _decode_otherwise(folder: Path, data: bytes) -> object:
    """Decode a picture in each of the ways that the commands do."""
    from physadv.core import image_io, opencv_pictures, picture_files
    from physadv.privacy.photo_io.sixteen_bit import decode_16bit

    file = written(folder, "a.png", data)
    return first_accepted(
        [
            lambda: opencv_pictures.decode_bgr(data, "a"),
            lambda: decode_16bit(data, 6, file),
            lambda: picture_files.shown_size(data, "a"),
            lambda: image_io.read_image(file),
            lambda: image_io.read_rgb(file),
        ]
    )


registered("png otherwise", png_seeds, mutations.mutate_png, 1)(_decode_otherwise)
registered("pictures otherwise", picture_seeds, mutations.mutate_bytes, 1)(_decode_otherwise)


def _jpeg_seeds() -> Sequence[bytes]:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:li>a</rdf:li></rdf:RDF></x:xmpmeta>'
    second = noise_picture().transpose(Image.Transpose.ROTATE_90)
    return [
        encoded(
            "JPEG",
            exif=exif_block(),
            icc_profile=srgb_profile(),
            dpi=(72, 72),
            comment=b"x",
            xmp=xmp,
        ),
        encoded("JPEG", progressive=True, exif=_gps()),
        encoded("MPO", save_all=True, append_images=[second], exif=exif_block()),
        encoded("JPEG", noise_picture().convert("L"), xmp=xmp, exif=_gps()),
    ]


def _gps() -> bytes:
    """EXIF data with a place, a serial number, a maker's note and a preview."""
    exif = Image.Exif()
    exif[0x0112], exif[0x0132] = 3, "2026:01:01 00:00:00"
    exif[0x8769] = {0x927C: b"note" * 9, 0xA431: "serial", 0x829A: 0.02}
    exif[0x8825] = {1: "N", 2: (48.0, 8.0, 1.0), 3: "E", 4: (11.0, 3.0, 2.0)}
    return exif.tobytes()


registered("metadata of a jpeg", _jpeg_seeds, mutations.mutate_jpeg, 3)(decode_picture)
registered("metadata of a photo", _jpeg_seeds, mutations.mutate_jpeg, 3)(read_photo_of)


def _heif_seeds() -> Sequence[bytes]:
    """A picture where pillow-heif is installed, and heads of one."""
    head = struct.pack(">I4s4sI4s4s", 24, b"ftyp", b"heic", 0, b"mif1", b"heic")
    meta = struct.pack(">I4sI", 12, b"meta", 0)
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return [head + meta, head + bytes(64), head.replace(b"heic", b"mif1") + meta]
    register_heif_opener()
    return [encoded("HEIF", noise_picture(64), exif=exif_block()), head + meta]


registered("heif", _heif_seeds, mutations.mutate_bytes, 0.5)(read_photo_of)


def _chart_seeds() -> Sequence[bytes]:
    import pypdfium2

    with pypdfium2.PdfDocument(str(ROOT / "calibration" / "chart-1-a4.pdf")) as pdf:
        page = np.asarray(pdf[0].render(scale=1.5).to_pil().convert("RGB"))
    light = np.linspace(0.95, 0.8, page.shape[1])[:, None]
    return [encoded("JPEG", Image.fromarray((light * page).astype(np.uint8)), quality=80)]


@registered("photo of a chart", _chart_seeds, mutations.mutate_bytes, 0.05)
def _chart(folder: Path, data: bytes) -> object:
    from physadv.calibration.chart_reader import read_chart
    from physadv.core.image_io import decode_rgba, lay_on_white

    return read_chart(lay_on_white(decode_rgba(data, "photo")), "photo")
