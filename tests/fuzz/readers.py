"""The readers of foreign input, each with seeds, a mutation, and a call that reads one input.

A call gets an empty folder and the bytes of the input. It may raise an error of
``physadv.core.errors``; anything else is a fault.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import shutil
import socket
import struct
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz import mutations
from fuzz.mutations import Mutation
from PIL import Image, ImageCms
from safetensors.torch import save

ROOT = Path(__file__).resolve().parents[2]
SEEDS = Path(__file__).resolve().parent / "seeds"
_BUNDLE = ROOT / "patches" / "stop-sticker-signs-v1"

Call = Callable[[Path, bytes], object]


@dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes:
        call: Reads one input.
        seeds: Returns small real inputs.
        mutate: Makes an input of them.
        share: Inputs of it in relation to those of a reader of text; slow ones get fewer.
    """

    call: Call
    seeds: Callable[[], Sequence[bytes]]
    mutate: Mutation
    share: float = 1.0


READERS: dict[str, Reader] = {}


def _reader(
    name: str, seeds: Callable[[], Sequence[bytes]], mutate: Mutation, share: float = 1.0
) -> Callable[[Call], Call]:
    def register(call: Call) -> Call:
        READERS[name] = Reader(call, cache(seeds), mutate, share)
        return call

    return register


def _written(folder: Path, name: str, data: bytes) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


def _texts(*texts: str) -> Callable[[], Sequence[bytes]]:
    return lambda: [text.encode() for text in texts]


def _files(*names: str) -> Callable[[], Sequence[bytes]]:
    return lambda: [(ROOT / name).read_bytes() for name in names]


# Tables: configurations, cards, profiles, label maps, ranges.


@cache
def _configs() -> list[Any]:
    import physadv_cli.main  # noqa: F401 - imports every configuration
    from physadv.core.config import Config

    def below(kind: type) -> Iterator[type]:
        for each in kind.__subclasses__():
            yield each
            yield from below(each)

    return [kind for kind in below(Config) if kind.__module__.startswith("physadv")]


def _first_accepted(calls: Sequence[Callable[[], object]]) -> object:
    """Make all calls; the error of the last one where none of them accepts the input."""
    from physadv.core.errors import PhysadvError

    results, last = [], None
    for call in calls:
        try:
            results.append(call())
        except PhysadvError as error:
            str(error)
            last = error
    if last is not None and not results:
        raise last
    return results


@_reader(
    "config.toml",
    _texts(
        'model = "signs"\nsize = [190, 150]\nsteps = 300\nlr = 0.05\ncenter = [0, 95]\nseed = 7\n',
        'model = "signs"\ndata = "d.npz"\nthreat = "linf:8/255"\nlimit = 4\nbatch_size = 128\n',
        'source = "clips"\nbundle = "x"\nevery = 2\nbox = [4, 2, 60, 80]\ndistance = "2.5m"\n',
        'photos = "in"\nstrength = "strong"\nfinder = "slim"\n',
        'data = "d"\nepochs = 2\nthreat = "linf:8/255"\nattack_steps = 3\n',
    ),
    mutations.mutate_toml,
    3,
)
def _config(folder: Path, data: bytes) -> object:
    file = _written(folder, "config.toml", data)
    keys = set(re.findall(rb"^(\w+)\b", data, re.MULTILINE))

    def known(kind: Any) -> int:
        return len(keys & {name.encode() for name in kind.documented_fields()})

    kinds = sorted(_configs(), key=lambda kind: (-known(kind), kind.__qualname__))
    return _first_accepted([lambda kind=kind: kind.from_toml(file) for kind in kinds[:3]])


@_reader("card.toml", _files("patches/stop-sticker-signs-v1/card.toml"), mutations.mutate_toml, 0.5)
def _card(folder: Path, data: bytes) -> object:
    from physadv.core.text import read_text
    from physadv.patches.bundle import PatchCard
    from physadv.patches.config import PatchConfig

    text = read_text(_written(folder, "card.toml", data))
    card = PatchCard.from_toml(text)
    return PatchConfig.from_card_table(dict(card.optimisation))


@_reader("bundle", _files("patches/stop-sticker-signs-v1/card.toml"), mutations.mutate_toml, 0.1)
def _bundle(folder: Path, data: bytes) -> object:
    from physadv.patches.bundle import read_bundle
    from physadv.report.patch_report import write_patch_report

    for name in ("patch.png", "mask.png"):
        shutil.copy(_BUNDLE / name, folder / name)
    _written(folder, "card.toml", data)
    read_bundle(folder)
    return write_patch_report(folder)


@_reader(
    "eot ranges",
    _texts("[eot]\nyaw_deg = [-30, 30]\ncutout_share = 0.4\n", "distance_m = [1, 8]\n"),
    mutations.mutate_toml,
    2,
)
def _ranges(folder: Path, data: bytes) -> object:
    from physadv.eot.pipeline import Pipeline
    from physadv.eot.presets import EotRanges, ranges_from_toml

    ranges = ranges_from_toml(_written(folder, "eot.toml", data), EotRanges())
    return Pipeline.from_ranges(ranges)


@_reader("color profile", _files("calibration/twin-office-phone.json"), mutations.mutate_json, 2)
def _color_profile(folder: Path, data: bytes) -> object:
    from physadv.eot.profiles import read_color_profile

    return read_color_profile(_written(folder, "p.json", data))


_CAMERA = (
    '{"kind": "physadv camera profile", "matrix": [[900, 0, 320], [0, 900, 240], [0, 0, 1]], '
    '"image_size": [640, 480], "distortion": [0.1, -0.2, 0, 0, 0.01], "rms_px": 0.4, '
    '"n_views": 9, "created": "2026-01-01", "camera": "phone"}'
)


def _camera_seeds() -> Sequence[bytes]:
    from physadv.eot.profiles import CAMERA_KIND

    return [_CAMERA.replace("physadv camera profile", CAMERA_KIND).encode()]


@_reader("camera profile", _camera_seeds, mutations.mutate_json, 2)
def _camera_profile(folder: Path, data: bytes) -> object:
    from physadv.eot.profiles import read_camera_profile

    return read_camera_profile(_written(folder, "c.json", data))


@_reader(
    "label map",
    _texts('"Give Way" = "yield"\n"b" = 3\n', '"0" = "cat"\n"1" = "dog"\n"2" = 2\n"3" = 3\n'),
    mutations.mutate_toml,
    2,
)
def _label_map(folder: Path, data: bytes) -> object:
    from physadv.datasets.class_matching import match_classes, read_label_map

    table = read_label_map(_written(folder, "labels.toml", data))
    return match_classes(list(table)[:50], ["cat", "dog", "yield", "stop"], labels=table)


@_reader(
    "sidecar of a model",
    _texts(
        'classes = ["a", "b"]\nmean = [0.5, 0.5, 0.5]\nstd = [1, 1, 1]\ninput_size = [32, 32]\n'
        'task = "classify"\nresize = "stretch"\naccuracy = "clean 91.5%"\n'
    ),
    mutations.mutate_toml,
    0.5,
)
def _model_card(folder: Path, data: bytes) -> object:
    from physadv.models.cards import card_from
    from physadv.models.loading import sidecar

    _written(folder, "m.safetensors.toml", data)
    return card_from(sidecar(folder / "m.safetensors"), name="m", task="classify")


# Labels and boxes.


@_reader(
    "boxes csv",
    _texts(
        "file,x0,y0,x1,y1\na.jpg,1,2,31,42\nb.jpg,3,4,5.5,6\n",
        'file;xmin;ymin;xmax;ymax;class\n"a b.jpg";1,5;2;31;42;stop\n',
        "sep=\t\nfilename\tx0\ty0\tx1\ty1\twidth\theight\na.jpg\t1\t2\t3\t4\t100\t80\n",
    ),
    mutations.mutate_text,
    10,
)
def _boxes_csv(folder: Path, data: bytes) -> object:
    from physadv.eot.scenes.boxes import read_boxes

    return read_boxes(_written(folder, "boxes.csv", data), "stop")


@_reader(
    "boxes yolo",
    _texts(
        "0 0.5 0.5 0.2 0.3\n1 0.1 0.2 0.3 0.4 0.99\n", "3 0.1 0.1 0.2 0.1 0.2 0.3\n", "# note\n"
    ),
    mutations.mutate_text,
    10,
)
def _boxes_yolo(folder: Path, data: bytes) -> object:
    from physadv.eot.scenes.boxes import read_boxes

    _written(folder, "classes.txt", b"stop\nyield\n")
    _written(folder, "a.txt", data)
    return read_boxes(folder if len(data) % 2 else folder / "a.txt")


@_reader("class names", _texts("stop\nyield\n", "0 person\n1 car\n"), mutations.mutate_text, 2)
def _class_names(folder: Path, data: bytes) -> object:
    from physadv.eot.scenes.boxes import read_boxes

    _written(folder, "classes.txt", data)
    _written(folder, "a.txt", b"0 0.5 0.5 0.2 0.3\n")
    return read_boxes(folder)


_COCO = (
    '{"images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 80}], "categories": '
    '[{"id": 3, "name": "stop"}], "annotations": [{"id": 7, "image_id": 1, "category_id": 3, '
    '"bbox": [1, 2, 30, 40], "iscrowd": 0, "segmentation": [[1, 2, 3]], "area": 12.5}]}'
)


@_reader("boxes coco", _texts(_COCO), mutations.mutate_json, 4)
def _boxes_coco(folder: Path, data: bytes) -> object:
    from physadv.eot.scenes.boxes import read_boxes

    return read_boxes(_written(folder, "boxes.json", data))


_VOC = (
    "<annotation><filename>a.jpg</filename><size><width>100</width><height>80</height></size>"
    "<object><name>stop</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>31</xmax>"
    "<ymax>42</ymax></bndbox></object></annotation>"
)


@_reader(
    "boxes voc",
    _texts(_VOC, f'<?xml version="1.0" encoding="latin-1"?><!-- x -->{_VOC}'),
    mutations.mutate_text,
    10,
)
def _boxes_voc(folder: Path, data: bytes) -> object:
    from physadv.eot.scenes.boxes import read_boxes

    return read_boxes(_written(folder, "a.xml", data))


@_reader(
    "boxes beside photos", _texts("file,x0,y0,x1,y1\na.png,1,2,11,12\n"), mutations.mutate_text, 0.5
)
def _boxes_beside(folder: Path, data: bytes) -> object:
    from physadv.eot.scenes.load import read_signs

    _written(folder, "a.png", _png())
    _written(folder, "boxes.csv", data)
    return read_signs(folder)


@_reader("sign boxes", _texts("file,x0,y0,x1,y1\na.png,1,2,31,42\n"), mutations.mutate_text, 2)
def _sign_boxes(folder: Path, data: bytes) -> object:
    from physadv.training.sign_classifier.validation import read_sign_boxes

    return read_sign_boxes(_written(folder, "boxes.csv", data))


@_reader("photo classes", _texts("file,class\na.png,stop\nb.png,3\n"), mutations.mutate_text, 2)
def _photo_classes(folder: Path, data: bytes) -> object:
    from physadv.eot.scenes.photos import ScenePhoto
    from physadv.models.cards import ModelCard
    from physadv.patches.photo_sources import _read_labels

    card = ModelCard("toy", classes=("stop", "yield"))
    photo = object.__new__(ScenePhoto)
    object.__setattr__(photo, "group", "a.png")
    return _read_labels(_written(folder, "labels.csv", data), [photo], card.class_index)


# Records of runs.


def _record(name: str) -> Callable[[], Sequence[bytes]]:
    return lambda: [(SEEDS / name).read_bytes()]


def _check_folder(folder: Path, name: str, data: bytes) -> None:
    shutil.copytree(SEEDS / "check", folder, dirs_exist_ok=True)
    for each in ("clean-notmet-0.png", "blank-notmet-0.png", "patch-notmet-0.png"):
        _written(folder, f"examples/{each}", _png())
    _written(folder, name, data)


def _report(name: str) -> Call:
    def call(folder: Path, data: bytes) -> object:
        from physadv.report.check_report import write_check_report

        _check_folder(folder, name, data)
        return write_check_report(folder)

    return call


for _name in ("check.json", "rows.jsonl", "examples/index.json"):
    _reader(f"report {_name}", _record(f"check/{_name}"), mutations.mutate_json, 0.1)(
        _report(_name)
    )


@_reader("twin stage check.json", _record("check/check.json"), mutations.mutate_json, 0.1)
def _twin_stage(folder: Path, data: bytes) -> object:
    from physadv.report.sim_to_real import stage_of_check

    _check_folder(folder, "check.json", data)
    return stage_of_check(folder, None)


@_reader("example frames", _record("check/examples/index.json"), mutations.mutate_json, 0.5)
def _example_frames(folder: Path, data: bytes) -> object:
    from physadv.check.example_frames import ExampleFrames
    from physadv.core.rows import read_rows

    _check_folder(folder, "examples/index.json", data)
    frames = ExampleFrames()
    frames.resume(folder / "examples", list(read_rows(folder / "rows.jsonl")))
    return frames.save(folder / "examples")


@_reader("evaluation rows", _record("evaluation/rows.jsonl"), mutations.mutate_json, 1)
def _evaluation_rows(folder: Path, data: bytes) -> object:
    from physadv.evaluation.adversarial_examples import strongest_example
    from physadv.evaluation.progress_log import ProgressLog

    _written(folder, "rows.jsonl", data)
    log = ProgressLog(folder)
    log.unfinished(0, [0, 1, 2])
    return strongest_example(folder)


@_reader("evaluation marks", _record("evaluation/rows.marks.jsonl"), mutations.mutate_json, 1)
def _evaluation_marks(folder: Path, data: bytes) -> object:
    from physadv.evaluation.progress_log import ProgressLog

    _written(folder, "rows.marks.jsonl", data)
    log = ProgressLog(folder)
    return log.total("seconds"), log.state(0, "near"), log.stages_done(0)


@_reader("evaluation.json", _record("evaluation/evaluation.json"), mutations.mutate_json, 1)
def _evaluation_claim(folder: Path, data: bytes) -> object:
    from physadv.evaluation.progress_log import claim_folder

    _written(folder, "evaluation.json", data)
    settings = json.loads((SEEDS / "evaluation" / "evaluation.json").read_text())
    return claim_folder(folder, settings)


@_reader("visibility.json", _record("visibility.json"), mutations.mutate_json, 1)
def _visibility(folder: Path, data: bytes) -> object:
    from physadv.patches.visibility import load_curves

    _written(folder, "visibility.json", data)
    key = json.loads((SEEDS / "visibility.json").read_text())["key"]
    return load_curves(folder, int(key))


@_reader("twin truth.jsonl", _record("truth.jsonl"), mutations.mutate_json, 1)
def _truth(folder: Path, data: bytes) -> object:
    from physadv.camera.open_source import open_frame_source

    shutil.copy(SEEDS / "twin.json", folder / "twin.json")
    for name in ("clean-00", "blank-00", "patch-00"):
        _written(folder, f"clips/{name}.avi", _video_seeds()[1])
    _written(folder, "truth.jsonl", data)
    return list(open_frame_source(folder, max_frames=4))


@_reader("twin.json", _record("twin.json"), mutations.mutate_json, 1)
def _twin_json(folder: Path, data: bytes) -> object:
    from physadv.camera.open_source import open_frame_source

    shutil.copy(SEEDS / "truth.jsonl", folder / "truth.jsonl")
    _written(folder, "twin.json", data)
    return open_frame_source(folder)


_SETTINGS = '{"embedders": [{"name": "sface", "sha256": "00"}], "strength": "strong", "seed": 0}'


@_reader("cloak settings", _texts(_SETTINGS), mutations.mutate_json, 1)
def _cloak_settings(folder: Path, data: bytes) -> object:
    from physadv.privacy.batch import recorded_embedders

    return recorded_embedders(_written(folder, "settings.json", data))


def _cloak(folder: Path, *, before: Sequence[tuple[str, bytes]] = ()) -> object:
    """Cloak two photos in a folder that holds what an earlier run left."""
    from physadv.privacy.batch import CloakedPhoto, PhotoJob, run_folder

    out = folder / "out"
    jobs = []
    for name in ("a.png", "b.png"):
        photo = _written(folder, f"in/{name}", _png())
        jobs.append(PhotoJob(photo, out / name, name))
    for name, data in before:
        _written(out, name, data)
    untouched = lambda rgb, name: CloakedPhoto(rgb, [{}])  # noqa: E731
    return list(run_folder(jobs, out, untouched, settings={"seed": 0}))


@cache
def _cloaked() -> dict[str, bytes]:
    """The files that a cloak of two photos writes."""
    from physadv.privacy.batch import MANIFEST

    with tempfile.TemporaryDirectory() as folder:
        _cloak(Path(folder))
        return {n: (Path(folder) / "out" / n).read_bytes() for n in (MANIFEST, "a.png", "b.png")}


def _manifest_seeds() -> Sequence[bytes]:
    from physadv.privacy.batch import MANIFEST

    failed = b'{"source": "b.png", "status": "failed", "reason": "x", "faces": [], "notes": []}\n'
    whole = _cloaked()[MANIFEST]
    return [whole, whole.splitlines(keepends=True)[0] + failed]


@_reader("cloak manifest", _manifest_seeds, mutations.mutate_json, 0.5)
def _cloak_manifest(folder: Path, data: bytes) -> object:
    from physadv.privacy.batch import MANIFEST

    pictures = [(name, _cloaked()[name]) for name in ("a.png", "b.png")]
    return _cloak(folder, before=[*pictures, (MANIFEST, data)])


@_reader(
    "training checkpoint",
    lambda: [save({"net/weight": torch.ones(2)}, {"facts": '{"done": 3, "history": []}'})],
    mutations.mutate_safetensors,
    1,
)
def _training_checkpoint(folder: Path, data: bytes) -> object:
    from physadv.training.checkpoint import load_training_state

    return load_training_state(_written(folder, "checkpoint.safetensors", data), facts=("done",))


_PATCH_TENSORS = {n: torch.zeros(1, 3, 2, 2) for n in ("patch", "best", "exp_avg", "exp_avg_sq")}


@_reader(
    "patch checkpoint",
    lambda: [save(_PATCH_TENSORS, {"key": "7", "step": "3", "loss": "0.5", "best_success": "0.1"})],
    mutations.mutate_safetensors,
    0.5,
)
def _patch_checkpoint(folder: Path, data: bytes) -> object:
    from physadv.patches.resume import load_checkpoint

    _written(folder, "checkpoint.safetensors", data)
    return load_checkpoint(folder, 7, 0.1, 10)


@_reader(
    "race start",
    lambda: [
        save(
            {"patch": torch.zeros(1, 3, 2, 2)},
            {
                "key": "7",
                "center_mm": "0.0 1.0",
                "size_mm": "9.0 9.0",
                "texture": "1",
                "draws": "3",
            },
        )
    ],
    mutations.mutate_safetensors,
    1,
)
def _race_start(folder: Path, data: bytes) -> object:
    from physadv.patches.race import load_start

    _written(folder, "start.safetensors", data)
    return load_start(folder, 7)


# Images.


def _noise(side: int = 12) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _encoded(kind: str, image: Image.Image | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image or _noise()).save(buffer, kind, **options)
    return buffer.getvalue()


@cache
def _png() -> bytes:
    return _encoded("PNG", _noise(16))


@cache
def _jpeg() -> bytes:
    return _encoded("JPEG", _noise(16))


def _png_seeds() -> Sequence[bytes]:
    deep = Image.fromarray(np.arange(144, dtype=np.uint16).reshape(12, 12) * 400)
    palette = _noise().quantize(8)
    frames = [_noise(), _noise().transpose(Image.Transpose.ROTATE_90)]
    return [
        _png(),
        _encoded("PNG", deep),
        _encoded("PNG", palette, transparency=3),
        _encoded("PNG", _noise().convert("RGBA")),
        _encoded("PNG", _noise().convert("LA")),
        _encoded("PNG", frames[0], save_all=True, append_images=frames[1:], duration=40),
        _encoded("PNG", exif=_exif(), icc_profile=_srgb()),
    ]


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x8769] = 6, "Maker", {0x829A: (1, 60), 0x8827: 100}
    return exif.tobytes()


def _srgb() -> bytes:
    return bytes(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())


def _picture_seeds() -> Sequence[bytes]:
    frames = [_noise(), _noise().transpose(Image.Transpose.ROTATE_90)]
    return [
        _encoded("JPEG", exif=_exif(), icc_profile=_srgb(), dpi=(72, 72), comment=b"x"),
        _encoded("JPEG", progressive=True),
        _encoded("JPEG", _noise().convert("CMYK")),
        _encoded("GIF", frames[0], save_all=True, append_images=frames[1:], duration=40),
        _encoded("BMP"),
        _encoded("WEBP", exif=_exif()),
        _encoded("WEBP", frames[0], save_all=True, append_images=frames[1:], lossless=True),
        _encoded("TIFF", compression="tiff_lzw"),
        _encoded("TIFF", compression="tiff_adobe_deflate"),
        _encoded("PPM"),
        _encoded("TGA"),
        _encoded("ICO"),
        _encoded("AVIF") if "AVIF" in Image.SAVE else _encoded("PCX"),
    ]


def _decode(folder: Path, data: bytes) -> object:
    from physadv.core.image_io import decode_rgba
    from physadv.core.picture_files import pictures_in

    pictures_in(data, "picture")
    return decode_rgba(data, "picture")


_reader("png", _png_seeds, mutations.mutate_png, 1)(_decode)
_reader("pictures", _picture_seeds, mutations.mutate_bytes, 1)(_decode)


def _photo(folder: Path, data: bytes) -> object:
    from physadv.privacy.photo_io.photo import encode_photo, read_photo

    photo = read_photo(_written(folder, "photo.jpg", data))
    return encode_photo(photo, photo.rgb, keep_metadata=bool(len(data) % 2))


_reader("photo png", _png_seeds, mutations.mutate_png, 0.5)(_photo)
_reader("photo jpeg and others", _picture_seeds, mutations.mutate_bytes, 0.5)(_photo)


@_reader("mask", _files("patches/stop-sticker-signs-v1/mask.png"), mutations.mutate_png, 0.5)
def _mask(folder: Path, data: bytes) -> object:
    from physadv.patches.bundle import read_bundle

    for name in ("patch.png", "card.toml"):
        shutil.copy(_BUNDLE / name, folder / name)
    _written(folder, "mask.png", data)
    return read_bundle(folder)


_SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="30" viewBox="0 0 40 30">'
    '<style>.a{fill:#f00}</style><rect class="a" x="1" y="2" width="30" height="20"/>'
    '<g transform="rotate(12 3 4)"><path d="M0 0L9 9Z" stroke="blue"/></g></svg>'
)


@_reader(
    "svg",
    lambda: [_SVG.encode(), (_BUNDLE / "sheet-cut.svg").read_bytes()],
    mutations.mutate_text,
    0.05,
)
def _svg(folder: Path, data: bytes) -> object:
    from physadv.core.image_io import read_rgba

    return read_rgba(_written(folder, "a.svg", data), svg_px=64)


# Data sets.


def _packed(members: dict[str, bytes]) -> bytes:
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def _npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _npz_seeds() -> Sequence[bytes]:
    images = np.arange(4 * 8 * 8 * 3, dtype=np.uint8).reshape(4, 8, 8, 3)
    labels = np.array([0, 1, 1, 0])
    return [
        _packed({"images.npy": _npy(images), "labels.npy": _npy(labels)}),
        _packed({"x_train.npy": _npy(images[..., 0]), "y_train.npy": _npy(labels)}),
        _packed(
            {
                "images.npy": _npy(images.astype(np.float32) / 255),
                "labels.npy": _npy(labels[:, None]),
                "classes.npy": _npy(np.array(["cat", "dog"])),
            }
        ),
    ]


def _read_all(path: Path) -> object:
    from physadv.datasets.read import read_dataset

    dataset = read_dataset(path)
    return dataset.read(0), str(dataset.summary)


@_reader("npz", _npz_seeds, mutations.mutate_npz, 1)
def _npz(folder: Path, data: bytes) -> object:
    return _read_all(_written(folder, "d.npz", data))


def _idx_seeds() -> Sequence[bytes]:
    images = struct.pack(">IIII", 0x803, 3, 4, 4) + bytes(48)
    return [images, gzip.compress(images)]


@_reader("idx images", _idx_seeds, mutations.mutate_bytes, 1)
def _idx(folder: Path, data: bytes) -> object:
    _written(folder, "train-labels-idx1-ubyte", struct.pack(">II", 0x801, 3) + b"\0\1\2")
    _written(folder, "train-images-idx3-ubyte", data)
    return _read_all(folder)


@_reader(
    "idx labels",
    lambda: [struct.pack(">II", 0x801, 3) + b"\0\1\2"],
    mutations.mutate_bytes,
    1,
)
def _idx_labels(folder: Path, data: bytes) -> object:
    _written(folder, "train-images-idx3-ubyte", _idx_seeds()[0])
    _written(folder, "train-labels-idx1-ubyte", data)
    return _read_all(folder)


def _zip_seeds() -> Sequence[bytes]:
    return [
        _packed({"train/a/0.png": _png(), "train/b/0.png": _png(), "test/a/0.png": _png()}),
        _packed({"a/0.jpg": _jpeg(), "b/0.jpg": _jpeg()}),
        _packed(
            {
                "GTSRB/Images/00001/GT-00001.csv": _GTSRB.encode(),
                "GTSRB/Images/00001/0_0.png": _png(),
            }
        ),
    ]


_GTSRB = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n0_0.png;16;16;1;1;14;14;1\n"


@_reader("zip of images", _zip_seeds, mutations.mutate_zip, 1)
def _zip(folder: Path, data: bytes) -> object:
    return _read_all(_written(folder, "d.zip", data))


@_reader(
    "gtsrb csv",
    _texts(_GTSRB, "Width,Height,Roi.X1,Roi.Y1,Roi.X2,Roi.Y2,ClassId,Path\n9,9,1,1,8,8,1,a.png\n"),
    mutations.mutate_text,
    2,
)
def _gtsrb(folder: Path, data: bytes) -> object:
    _written(folder, "GTSRB/Images/00001/0_0.png", _png())
    _written(folder, "GTSRB/Images/00001/GT-00001.csv", data)
    return _read_all(folder)


# Files of models.


def _state() -> dict[str, torch.Tensor]:
    return {"conv.weight": torch.ones(2, 3, 3, 3), "conv.bias": torch.zeros(2)}


def _pth_seeds() -> Sequence[bytes]:
    buffer, old = io.BytesIO(), io.BytesIO()
    torch.save(_state(), buffer)
    torch.save({"model": _state()}, old, _use_new_zipfile_serialization=False)
    return [buffer.getvalue(), old.getvalue()]


@_reader("pth", _pth_seeds, mutations.mutate_zip, 0.5)
def _pth(folder: Path, data: bytes) -> object:
    from physadv.models.loading import kind_of, read_state

    file = _written(folder, "m.pth", data)
    kind_of(file)
    return read_state(file)


@_reader("safetensors", lambda: [save(_state(), {"a": "b"})], mutations.mutate_safetensors, 1)
def _safetensors(folder: Path, data: bytes) -> object:
    from physadv.models.loading import read_state

    return read_state(_written(folder, "m.safetensors", data))


@_reader("pt2 and torchscript", lambda: [_pt2(), _torchscript()], mutations.mutate_zip, 0.3)
def _exported(folder: Path, data: bytes) -> object:
    from physadv.models.exported_archive import vetted_archive
    from physadv.models.loading import kind_of

    file = _written(folder, "m.pt2", data)
    kind_of(file)
    return vetted_archive(file)


class _Net(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))


@cache
def _pt2() -> bytes:
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(_Net(), (torch.rand(1, 3, 4, 4),)), buffer)
    return buffer.getvalue()


@cache
def _torchscript() -> bytes:
    return bytes(torch.jit.trace(_Net(), torch.rand(1, 3, 4, 4)).save_to_buffer())  # type: ignore[no-untyped-call]


def _field(number: int, content: bytes | int) -> bytes:
    def varint(value: int) -> bytes:
        out = bytearray()
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        return bytes((*out, value))

    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def _onnx_seeds() -> Sequence[bytes]:
    dims = b"".join(_field(1, side) for side in (2, 3, 1, 1))
    weight = dims + _field(2, 1) + _field(8, b"w") + _field(9, bytes(24))
    node = _field(1, b"x") + _field(1, b"w") + _field(2, b"y") + _field(4, b"Conv")
    shape = b"".join(_field(1, _field(1, side)) for side in (1, 3, 32, 32))
    given = _field(1, b"x") + _field(2, _field(1, _field(2, shape)))
    graph = _field(1, node) + _field(5, weight) + _field(11, given)
    return [_field(1, 8) + _field(7, graph)]


@_reader("onnx", _onnx_seeds, mutations.mutate_bytes, 2)
def _onnx(folder: Path, data: bytes) -> object:
    from physadv.models.onnx_file import read_onnx

    return read_onnx(_written(folder, "m.onnx", data))


def _program_seeds() -> Sequence[bytes]:
    def tensor(name: bytes, shape: tuple[int, ...], kind: int, content: bytes) -> bytes:
        dims = b"".join(_field(1, side) for side in shape)
        return dims + _field(2, kind) + _field(8, name) + _field(9, content)

    def operation(kind: bytes, inputs: Sequence[bytes], output: bytes, *settings: bytes) -> bytes:
        names = b"".join(_field(1, name) for name in inputs) + _field(2, output)
        return _field(1, names + _field(4, kind) + b"".join(_field(5, s) for s in settings))

    def whole(name: bytes, number: int) -> bytes:
        return _field(1, name) + _field(3, number) + _field(20, 2)

    def list_of(name: bytes, *numbers: int) -> bytes:
        return _field(1, name) + b"".join(_field(8, n) for n in numbers) + _field(20, 7)

    shape = b"".join(_field(1, _field(1, side)) for side in (1, 2, 4, 4))
    ends = _field(11, _field(1, b"x") + _field(2, _field(1, _field(2, shape))))
    ends += _field(12, _field(1, b"y"))
    weight = np.ones((3, 2, 3, 3), "<f4").tobytes()
    graph = operation(b"Conv", [b"x", b"w"], b"a", list_of(b"pads", 1, 1, 1, 1))
    graph += operation(b"MaxPool", [b"a"], b"b", list_of(b"kernel_shape", 2, 2))
    graph += operation(b"Relu", [b"b"], b"c") + operation(b"Reshape", [b"c", b"s"], b"d")
    graph += operation(b"Gemm", [b"d", b"v"], b"y", whole(b"transB", 1))
    graph += _field(5, tensor(b"w", (3, 2, 3, 3), 1, weight))
    graph += _field(5, tensor(b"s", (2,), 7, struct.pack("<qq", 1, -1)))
    graph += _field(5, tensor(b"v", (2, 27), 1, bytes(216)))
    return [_field(1, 8) + _field(7, graph + ends) + _field(8, _field(2, 13)), *_onnx_seeds()]


@_reader("onnx program", _program_seeds, mutations.mutate_bytes, 1)
def _onnx_program(folder: Path, data: bytes) -> object:
    from physadv.models.onnx_model import load_onnx_model

    return load_onnx_model(_written(folder, "m.onnx", data))


@_reader(
    "vnnlib",
    _texts(
        "; x\n(declare-const X_0 Real)\n(declare-const Y_0 Real)\n(declare-const Y_1 Real)\n"
        "(assert (>= X_0 -0.5))\n(assert (<= X_0 1e-1))\n"
        "(assert (or (and (>= Y_0 Y_1)) (and (<= (+ Y_0 (* 2 Y_1)) 3) (<= X_0 0))))\n",
        "(declare-fun X_0 () Real)(declare-fun Y_0 () Real)(assert (and (<= X_0 1) (>= X_0 0)))"
        "(assert (<= (- Y_0 2) (- 1)))(check-sat)",
    ),
    mutations.mutate_text,
)
def _vnnlib(folder: Path, data: bytes) -> object:
    from physadv.certification.vnnlib import read_vnnlib

    return read_vnnlib(_written(folder, "p.vnnlib", data))


@_reader("instances.csv", _texts("a.onnx,p.vnnlib,30\nb/c.onnx,q.vnnlib\n"), mutations.mutate_text)
def _instances(folder: Path, data: bytes) -> object:
    from physadv.certification.verify_property import read_instances

    return read_instances(_written(folder, "instances.csv", data))


@_reader(
    "black box settings",
    _texts(
        'url = "http://127.0.0.1:9/x"\nclasses = ["a", "b"]\ninput_size = [8, 8]\nbudget = 9\n',
        'command = "./classify {image}"\noutputs = "labels"\nper_second = 2.5\nretries = 0\n',
    ),
    mutations.mutate_text,
)
def _black_box_settings(folder: Path, data: bytes) -> object:
    from physadv.models.black_box import BlackBox, _settings_in

    settings = _settings_in(_written(folder, "box.toml", data))
    return None if settings.url else BlackBox("box", settings)


@_reader(
    "answers of black boxes",
    _texts(
        '{"scores": [[0.5, 0.25, 0.25]], "classes": ["a", "b", "c"]}',
        '{"labels": ["a"], "outputs": "labels"}',
        "[0.1, 0.9]",
    ),
    mutations.mutate_text,
)
def _black_box_answer(folder: Path, data: bytes) -> object:
    from physadv.models.black_box import _read_answer

    return _read_answer(data, "box")


def _dlib_seeds() -> Sequence[bytes]:
    def integer(value: int) -> bytes:
        return bytes([1, value])

    tensor = b"".join(map(integer, (2, 1, 2, 1, 1))) + bytes(8)
    layers = b"".join(bytes([1, len(name)]) + name + tensor for name in (b"affine_", b"con_4"))
    return [layers * 2, bytes(200), struct.pack("<BI", 4, 1 << 30) * 40]


@_reader("dlib dat", _dlib_seeds, mutations.mutate_bytes, 0.5)
def _dlib(folder: Path, data: bytes) -> object:
    from physadv.models.architectures import dlib_resnet

    file = _written(folder, "m.dat", data)
    layers = lambda: dlib_resnet._tensors(file)  # noqa: E731
    return _first_accepted([layers, lambda: dlib_resnet.load_dlib_resnet(file)])


@_reader(
    "embedder card",
    _texts(
        'name = "mine"\nsize = 112\ndimension = 8\nlicence = "mine"\nthreshold = 0.31\n'
        '[thresholds]\n"0.001" = 0.5\n',
        'weights = "w.pt"\nsize = 112\ndimension = 8\nlicense = "x"\nthreshold = 1\nfar = 0.01\n',
    ),
    mutations.mutate_toml,
    1,
)
def _embedder(folder: Path, data: bytes) -> object:
    from physadv.core.errors import ModelError
    from physadv.core.tables import read_table
    from physadv.models.faces.embedders import _card_of

    file = _written(folder, "e.toml", data)
    table = read_table(file, error=ModelError)
    table.pop("weights", None)
    return _card_of(table, file, "")


# Printing.


def _icc_seeds() -> Sequence[bytes]:
    from press_profiles import cmyk_profile, gray_profile, rgb_profile

    with tempfile.TemporaryDirectory() as folder:
        makers = (cmyk_profile, gray_profile, rgb_profile)
        return [make(Path(folder) / "p.icc").read_bytes() for make in makers] + [_srgb()]


@_reader("icc", _icc_seeds, mutations.mutate_bytes, 0.3)
def _icc(folder: Path, data: bytes) -> object:
    from physadv.printing.icc import PressProfile

    return PressProfile(_written(folder, "p.icc", data))


def _sheet_seeds() -> Sequence[bytes]:
    """The sheet of a bundle as it is, and with its streams unpacked for mutations to reach."""
    import pikepdf

    file, plain = _BUNDLE / "sheet.pdf", io.BytesIO()
    with pikepdf.open(file) as pdf:
        pdf.save(plain, compress_streams=False, stream_decode_level=pikepdf.StreamDecodeLevel.all)
    return [file.read_bytes(), plain.getvalue()]


@_reader("sheet pdf", _sheet_seeds, mutations.mutate_pdf, 0.1)
def _sheet(folder: Path, data: bytes) -> object:
    from physadv.twin.printed_sheet import read_sticker

    return read_sticker(_BUNDLE, _written(folder, "sheet.pdf", data), dpi=20)


# Videos and streams.


@cache
def _video_seeds() -> Sequence[bytes]:
    import av

    found = []
    for kind, codec in (("mp4", "mpeg4"), ("avi", "mjpeg"), ("matroska", "mpeg4")):
        buffer = io.BytesIO()
        with av.open(buffer, "w", format=kind) as container:
            stream = container.add_stream(codec, rate=10)
            stream.width = stream.height = 32
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for number in range(3):
                frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 40 * number, np.uint8))
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        found.append(buffer.getvalue())
    return found


@_reader("video", _video_seeds, mutations.mutate_bytes, 0.15)
def _video(folder: Path, data: bytes) -> object:
    from physadv.camera.open_source import open_frame_source

    suffix = (".mp4", ".avi", ".mkv")[len(data) % 3]
    source = open_frame_source(_written(folder, f"v{suffix}", data), timeout_s=4)
    return sum(1 for _ in source)


def _mjpeg_seeds() -> Sequence[bytes]:
    part = b"--x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(_jpeg())
    return [(part + _jpeg() + b"\r\n") * 2, b"--x\r\n\r\n" + _jpeg() + b"\r\n--x\r\n\r\n" + _jpeg()]


@_reader("mjpeg stream", _mjpeg_seeds, mutations.mutate_bytes, 1)
def _mjpeg(folder: Path, data: bytes) -> object:
    from physadv.camera.mjpeg import MjpegCapture

    capture = MjpegCapture(io.BytesIO(data))
    frames = 0
    while capture.read()[0] and frames < 100:
        frames += 1
    return capture.get(3)


# Answers of cameras, and requests to the page of a check.


class _Answering:
    """Connections that all get the same answer, whatever host a redirect names."""

    def __init__(self, answer: bytes) -> None:
        self._answer, self._open = answer, []  # type: ignore[var-annotated]

    def connect(self, *_: object, **__: object) -> socket.socket:
        ours, theirs = socket.socketpair()
        self._open += [ours, theirs]
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
        theirs.setblocking(False)
        with suppress(BlockingIOError):
            theirs.send(self._answer)
        theirs.shutdown(socket.SHUT_WR)
        ours.settimeout(2)
        return ours

    def said(self) -> bytes:
        """What the other side sent."""
        received = b""
        with suppress(BlockingIOError):
            while piece := self._open[-1].recv(1 << 16):
                received += piece
        return received

    def close(self) -> None:
        for each in self._open:
            each.close()


@contextmanager
def _answering(data: bytes) -> Iterator[None]:
    """Let no connection leave this process while the context lasts."""
    answering, connect, tls = _Answering(data), socket.create_connection, HTTPSConnection.connect
    socket.create_connection = answering.connect  # type: ignore[assignment]
    HTTPSConnection.connect = HTTPConnection.connect  # type: ignore[method-assign]
    try:
        yield
    finally:
        socket.create_connection, HTTPSConnection.connect = connect, tls  # type: ignore[method-assign]
        answering.close()


def _http_seeds() -> Sequence[bytes]:
    kind = b"Content-Type: multipart/x-mixed-replace; boundary=x\r\n"
    body = b"\r\n" + _mjpeg_seeds()[0]
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    return [
        b"HTTP/1.1 200 OK\r\nServer: cam\r\n" + kind + body,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + kind + b"\r\n" + chunked,
        b"HTTP/1.0 302 Found\r\nLocation: http://127.0.0.1/b?c\r\nContent-Length: 0\r\n\r\n",
        b'HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm="x"\r\n\r\nno',
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n" + kind + body,
    ]


@_reader("answers of http cameras", _http_seeds, mutations.mutate_head, 2)
def _http_camera(folder: Path, data: bytes) -> object:
    from physadv.camera.mjpeg import open_mjpeg

    with _answering(data):
        user = "u:p@" if len(data) % 2 else ""
        capture = open_mjpeg(f"http://{user}127.0.0.1/a", 1.0)
        frames = 0
        while capture is not None and capture.read()[0] and frames < 20:
            frames += 1
        return frames


def _rtsp_seeds() -> Sequence[bytes]:
    digest = 'Digest realm="x", nonce="y", qop="auth", algorithm=MD5, opaque="z"'
    return [
        f"RTSP/1.0 401 No\r\nCSeq: 1\r\nWWW-Authenticate: {digest}\r\n\r\n".encode(),
        b'RTSP/1.0 401 No\r\nCSeq: 1\r\nWWW-Authenticate: Basic realm="x"\r\n\r\n',
        b"RTSP/1.0 302 Moved\r\nLocation: rtsp://127.0.0.1/b\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nContent-Type: application/sdp\r\n\r\nv=0\r\n",
    ]


@_reader("answers of rtsp cameras", _rtsp_seeds, mutations.mutate_head, 3)
def _rtsp_camera(folder: Path, data: bytes) -> object:
    from physadv.camera.rtsp_redirect import refuse_rtsp_redirect

    with _answering(data):
        return refuse_rtsp_redirect("rtsp://u:p@127.0.0.1/a", 1.0)


_TOKEN, _PAGE = "t" * 24, b"the page of a check"


class _ServerOfNothing:
    """What a handler asks of its server."""

    port, token = 8000, _TOKEN

    def heard(self, request: socket.socket) -> None:
        """Note nothing."""


_REQUEST = f"GET /{_TOKEN}/ HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n"


@_reader(
    "requests to the local server",
    _texts(
        f"{_REQUEST}Accept: */*\r\n\r\n",
        f"POST /next HTTP/1.1\r\nHost: localhost:8000\r\nX-Token: {_TOKEN}\r\n\r\n",
        f"POST /{_TOKEN}/next HTTP/1.0\r\nHost: localhost:8000\r\nContent-Length: 3\r\n\r\nabc",
        f"{_REQUEST}Origin: http://127.0.0.1:8000\r\nExpect: 100-continue\r\n\r\n",
    ),
    mutations.mutate_head,
    3,
)
def _local_server(folder: Path, data: bytes) -> object:
    from physadv.camera.local_server import LocalHandler

    class Page(LocalHandler):
        def get(self, path: str) -> None:
            self.answer(200, "text/plain", _PAGE)

        post = get

    answering = _Answering(data)
    request = answering.connect()
    with suppress(OSError):  # as the server: a browser that went away is no fault
        Page(request, ("127.0.0.1", 9), _ServerOfNothing())  # type: ignore[arg-type]
    request.shutdown(socket.SHUT_WR)
    said = answering.said()
    answering.close()
    assert _PAGE not in said or _TOKEN.encode() in data, "answered without the token"
    assert data in (b"",) or _TOKEN.encode() not in said, "the token is told"
    return said


# The parsers and decoders themselves, which the readers above reach behind checks of their own.


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


@_reader("parsers of text", _parser_seeds, mutations.mutate_text, 20)
def _parsers(folder: Path, data: bytes) -> object:
    from physadv.core import csv_tables, parsing, rows, tables, text

    file = _written(folder, "a.json", data)
    decode = lambda: text.decode_text(data, "a", guess=True).text  # noqa: E731
    words = _first_accepted([decode])[0]  # type: ignore[index]
    return _first_accepted(
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


@_reader("arrays", lambda: [_npy(np.arange(6)), _npy(np.ones((2, 3)))], mutations.mutate_npy, 2)
def _arrays(folder: Path, data: bytes) -> object:
    from physadv.core.array_files import parse_npy

    return parse_npy(data, "a.npy")


@_reader("tensors", lambda: [save(_state(), {"a": "b"})], mutations.mutate_safetensors, 1)
def _tensors(folder: Path, data: bytes) -> object:
    from physadv.core.tensor_files import read_tensors

    return read_tensors(_written(folder, "a.safetensors", data))


def _decode_otherwise(folder: Path, data: bytes) -> object:
    """Decode a picture in each of the ways that the commands do."""
    from physadv.core import image_io, opencv_pictures, picture_files
    from physadv.privacy.photo_io.sixteen_bit import decode_16bit

    file = _written(folder, "a.png", data)
    return _first_accepted(
        [
            lambda: opencv_pictures.decode_bgr(data, "a"),
            lambda: decode_16bit(data, 6, file),
            lambda: picture_files.shown_size(data, "a"),
            lambda: image_io.read_image(file),
            lambda: image_io.read_rgb(file),
        ]
    )


_reader("png otherwise", _png_seeds, mutations.mutate_png, 1)(_decode_otherwise)
_reader("pictures otherwise", _picture_seeds, mutations.mutate_bytes, 1)(_decode_otherwise)


def _jpeg_seeds() -> Sequence[bytes]:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:li>a</rdf:li></rdf:RDF></x:xmpmeta>'
    second = _noise().transpose(Image.Transpose.ROTATE_90)
    return [
        _encoded("JPEG", exif=_exif(), icc_profile=_srgb(), dpi=(72, 72), comment=b"x", xmp=xmp),
        _encoded("JPEG", progressive=True, exif=_gps()),
        _encoded("MPO", save_all=True, append_images=[second], exif=_exif()),
        _encoded("JPEG", _noise().convert("L"), xmp=xmp, exif=_gps()),
    ]


def _gps() -> bytes:
    """EXIF data with a place, a serial number, a maker's note and a preview."""
    exif = Image.Exif()
    exif[0x0112], exif[0x0132] = 3, "2026:01:01 00:00:00"
    exif[0x8769] = {0x927C: b"note" * 9, 0xA431: "serial", 0x829A: 0.02}
    exif[0x8825] = {1: "N", 2: (48.0, 8.0, 1.0), 3: "E", 4: (11.0, 3.0, 2.0)}
    return exif.tobytes()


_reader("metadata of a jpeg", _jpeg_seeds, mutations.mutate_jpeg, 3)(_decode)
_reader("metadata of a photo", _jpeg_seeds, mutations.mutate_jpeg, 3)(_photo)


def _heif_seeds() -> Sequence[bytes]:
    """A picture where pillow-heif is installed, and heads of one."""
    head = struct.pack(">I4s4sI4s4s", 24, b"ftyp", b"heic", 0, b"mif1", b"heic")
    meta = struct.pack(">I4sI", 12, b"meta", 0)
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return [head + meta, head + bytes(64), head.replace(b"heic", b"mif1") + meta]
    register_heif_opener()
    return [_encoded("HEIF", _noise(64), exif=_exif()), head + meta]


_reader("heif", _heif_seeds, mutations.mutate_bytes, 0.5)(_photo)


def _chart_seeds() -> Sequence[bytes]:
    import pypdfium2

    with pypdfium2.PdfDocument(str(ROOT / "calibration" / "chart-1-a4.pdf")) as pdf:
        page = np.asarray(pdf[0].render(scale=1.5).to_pil().convert("RGB"))
    light = np.linspace(0.95, 0.8, page.shape[1])[:, None]
    return [_encoded("JPEG", Image.fromarray((light * page).astype(np.uint8)), quality=80)]


@_reader("photo of a chart", _chart_seeds, mutations.mutate_bytes, 0.05)
def _chart(folder: Path, data: bytes) -> object:
    from physadv.calibration.chart_reader import read_chart
    from physadv.core.image_io import decode_rgba, lay_on_white

    return read_chart(lay_on_white(decode_rgba(data, "photo")), "photo")


# Words of the command line, several readers an input.


def _word(*calls: Callable[[str], object]) -> Call:
    def call(folder: Path, data: bytes) -> object:
        text = data.decode("utf-8", "surrogateescape").replace("\0", "")[:5000]
        return _first_accepted([lambda each=each: each(text) for each in calls])

    return call


def _threat(text: str) -> object:
    from physadv.threat.parsing import parse_eps, parse_threat

    parse_threat(text)
    return parse_eps(text, "l2")


def _eps(text: str) -> object:
    from physadv.threat.parsing import parse_eps

    return parse_eps(text)


_reader(
    "threats",
    _texts("linf:8/255", "l2:0.5", "8/255", "l1:12", "L2:1e-3", "inf:0.03"),
    mutations.mutate_text,
    16,
)(_word(_threat, _eps))


def _pairs(text: str) -> object:
    from physadv_cli.configured import parse_numbers

    def read(separator: str, count: int) -> object:
        return parse_numbers(text, "--size", separator, count=count)

    kinds = (("x", 2), (",", 2), (":", 2), (",", 4))
    return _first_accepted([lambda kind=kind: read(*kind) for kind in kinds])


_reader(
    "pairs of numbers",
    _texts("190x150", "0,95", "0.3:0.5", "4,2,60,80", "280x190mm", "1280×720"),
    mutations.mutate_text,
    16,
)(_word(_pairs))


def _palette(text: str) -> object:
    from physadv.threat.printability import parse_palette

    return parse_palette(text)


def _paper(text: str) -> object:
    from physadv.printing.layout import paper_size

    return paper_size(text)


def _distance(text: str) -> object:
    from physadv.check.check_task import _parse_distance

    return _parse_distance(text)


_reader(
    "palettes, papers, distances",
    _texts("#c01c28,#ffffff,#000", "a4", "300x400mm", "letter", "2.5m", "250cm"),
    mutations.mutate_text,
    6,
)(_word(_palette, _paper, _distance))


def _device(text: str) -> object:
    from physadv.models.loading import pick_device

    return pick_device(text)


def _class_of(text: str) -> object:
    from physadv.models.cards import ModelCard

    return ModelCard("toy", classes=("stop", "give way", "3")).class_index(text)


def _defense(text: str) -> object:
    from physadv.defenses.registry import DEFENSES, _settings

    name, _, settings = text.partition(":")
    name = name if name in DEFENSES else "jpeg"
    return _settings(name, DEFENSES[name], settings)


def _address(text: str) -> object:
    from physadv.camera.open_source import is_camera, open_frame_source, public_address

    is_camera(text)
    public_address(text)
    # No address of a machine: a file without a scheme, or a word that the system refuses at once.
    return open_frame_source(text, timeout_s=0.2) if "/" not in text and ":" not in text else None


_reader(
    "devices, classes, defenses, addresses",
    _texts(
        "cuda:0", "cpu", "stop", "3", "jpeg:quality50,plain", "median:size5", "http://u:p@h:80/x"
    ),
    mutations.mutate_text,
    3,
)(_word(_device, _class_of, _defense, _address))


def _options(text: str) -> object:
    words = text.split()[:40]

    def read(kind: Any) -> object:
        names = list(kind.documented_fields())
        return kind.from_table({names[(len(w) + i) % len(names)]: w for i, w in enumerate(words)})

    return _first_accepted([lambda kind=kind: read(kind) for kind in _configs()[:12]])


_reader(
    "options",
    _texts("signs 190x150 300 0.05 0,95 linf:8/255 auto", "a 1 2 nan x:y", "signs", ""),
    mutations.mutate_text,
    2,
)(_word(_options))


def _member(text: str) -> object:
    from physadv.core.members import member_of

    folder = Path("/nowhere")
    member = member_of(folder, text)
    assert member.is_relative_to(folder), "a member outside"
    return member


def _shown(text: str) -> object:
    from physadv.core.addresses import redact_addresses
    from physadv.core.names import natural_key, plain_name
    from physadv.core.visible_text import visible_line, visible_text

    line = visible_line(text)
    plain = line.replace("\t", "")
    assert not any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in plain), "obeyed"
    return natural_key(text), plain_name(text), visible_text(text), redact_addresses(text)


_reader(
    "names",
    _texts("clips/a.png", "a", "../b", "IMG 10.jpg", "rtsp://u:p@h/x and more", "\x1b[31m"),
    mutations.mutate_text,
    6,
)(_word(_member, _shown))


def chosen(names: str) -> dict[str, Reader]:
    """Return the readers whose names hold one of the words, separated by commas; all without."""
    words = [word for word in names.split(",") if word]
    return {n: r for n, r in READERS.items() if not words or any(word in n for word in words)}


def scratch() -> Path:
    """Return a new folder in memory where there is one."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    return Path(tempfile.mkdtemp(prefix="physadv-fuzz-", dir=place))


from fuzz import data_set_readers  # noqa: E402, F401 - registers its readers here
