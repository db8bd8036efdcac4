"""Fuzzed readers of tables: configurations, cards, profiles, label maps, ranges."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from fuzz import mutations
from fuzz.reader_kit import BUNDLE, files_of, registered, texts_of, written


@cache
def configurations() -> list[Any]:
    import physadv_cli.main  # noqa: F401 - imports every configuration
    from physadv.core.config import Config

    def below(kind: type) -> Iterator[type]:
        for each in kind.__subclasses__():
            yield each
            yield from below(each)

    return [kind for kind in below(Config) if kind.__module__.startswith("physadv")]


def first_accepted(calls: Sequence[Callable[[], object]]) -> object:
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


@registered(
    "config.toml",
    texts_of(
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
    file = written(folder, "config.toml", data)
    keys = set(re.findall(rb"^(\w+)\b", data, re.MULTILINE))

    def known(kind: Any) -> int:
        return len(keys & {name.encode() for name in kind.documented_fields()})

    kinds = sorted(configurations(), key=lambda kind: (-known(kind), kind.__qualname__))
    return first_accepted([lambda kind=kind: kind.from_toml(file) for kind in kinds[:3]])


@registered(
    "card.toml", files_of("patches/stop-sticker-signs-v1/card.toml"), mutations.mutate_toml, 0.5
)
def _card(folder: Path, data: bytes) -> object:
    from physadv.core.text import read_text
    from physadv.patches.bundle import PatchCard
    from physadv.patches.config import PatchConfig

    text = read_text(written(folder, "card.toml", data))
    card = PatchCard.from_toml(text)
    return PatchConfig.from_card_table(dict(card.optimisation))


@registered(
    "bundle", files_of("patches/stop-sticker-signs-v1/card.toml"), mutations.mutate_toml, 0.1
)
def _bundle(folder: Path, data: bytes) -> object:
    from physadv.patches.bundle import read_bundle
    from physadv.report.patch_report import write_patch_report

    for name in ("patch.png", "mask.png"):
        shutil.copy(BUNDLE / name, folder / name)
    written(folder, "card.toml", data)
    read_bundle(folder)
    return write_patch_report(folder)


@registered(
    "eot ranges",
    texts_of("[eot]\nyaw_deg = [-30, 30]\ncutout_share = 0.4\n", "distance_m = [1, 8]\n"),
    mutations.mutate_toml,
    2,
)
def _ranges(folder: Path, data: bytes) -> object:
    from physadv.eot.pipeline import Pipeline
    from physadv.eot.presets import EotRanges, ranges_from_toml

    ranges = ranges_from_toml(written(folder, "eot.toml", data), EotRanges())
    return Pipeline.from_ranges(ranges)


@registered(
    "color profile", files_of("calibration/twin-office-phone.json"), mutations.mutate_json, 2
)
def _color_profile(folder: Path, data: bytes) -> object:
    from physadv.eot.profiles import read_color_profile

    return read_color_profile(written(folder, "p.json", data))


_CAMERA = (
    '{"kind": "physadv camera profile", "matrix": [[900, 0, 320], [0, 900, 240], [0, 0, 1]], '
    '"image_size": [640, 480], "distortion": [0.1, -0.2, 0, 0, 0.01], "rms_px": 0.4, '
    '"n_views": 9, "created": "2026-01-01", "camera": "phone"}'
)


def _camera_seeds() -> Sequence[bytes]:
    from physadv.eot.profiles import CAMERA_KIND

    return [_CAMERA.replace("physadv camera profile", CAMERA_KIND).encode()]


@registered("camera profile", _camera_seeds, mutations.mutate_json, 2)
def _camera_profile(folder: Path, data: bytes) -> object:
    from physadv.eot.profiles import read_camera_profile

    return read_camera_profile(written(folder, "c.json", data))


@registered(
    "label map",
    texts_of('"Give Way" = "yield"\n"b" = 3\n', '"0" = "cat"\n"1" = "dog"\n"2" = 2\n"3" = 3\n'),
    mutations.mutate_toml,
    2,
)
def _label_map(folder: Path, data: bytes) -> object:
    from physadv.datasets.class_matching import match_classes, read_label_map

    table = read_label_map(written(folder, "labels.toml", data))
    return match_classes(list(table)[:50], ["cat", "dog", "yield", "stop"], labels=table)


@registered(
    "sidecar of a model",
    texts_of(
        'classes = ["a", "b"]\nmean = [0.5, 0.5, 0.5]\nstd = [1, 1, 1]\ninput_size = [32, 32]\n'
        'task = "classify"\nresize = "stretch"\naccuracy = "clean 91.5%"\n'
    ),
    mutations.mutate_toml,
    0.5,
)
def _model_card(folder: Path, data: bytes) -> object:
    from physadv.models.cards import card_from
    from physadv.models.loading import sidecar

    written(folder, "m.safetensors.toml", data)
    return card_from(sidecar(folder / "m.safetensors"), name="m", task="classify")
