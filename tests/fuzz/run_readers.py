"""Fuzzed readers of what runs record."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import torch
from fuzz import mutations
from fuzz.camera_readers import video_seeds
from fuzz.picture_readers import png_bytes
from fuzz.reader_kit import SEEDS, Call, registered, texts_of, written
from safetensors.torch import save


def _record(name: str) -> Callable[[], Sequence[bytes]]:
    return lambda: [(SEEDS / name).read_bytes()]


def _check_folder(folder: Path, name: str, data: bytes) -> None:
    shutil.copytree(SEEDS / "check", folder, dirs_exist_ok=True)
    for each in ("clean-notmet-0.png", "blank-notmet-0.png", "patch-notmet-0.png"):
        written(folder, f"examples/{each}", png_bytes())
    written(folder, name, data)


def _report(name: str) -> Call:
    def call(folder: Path, data: bytes) -> object:
        from physadv.report.check_report import write_check_report

        _check_folder(folder, name, data)
        return write_check_report(folder)

    return call


for _name in ("check.json", "rows.jsonl", "examples/index.json"):
    registered(f"report {_name}", _record(f"check/{_name}"), mutations.mutate_json, 0.1)(
        _report(_name)
    )


@registered("twin stage check.json", _record("check/check.json"), mutations.mutate_json, 0.1)
def _twin_stage(folder: Path, data: bytes) -> object:
    from physadv.report.sim_to_real import stage_of_check

    _check_folder(folder, "check.json", data)
    return stage_of_check(folder, None)


@registered("example frames", _record("check/examples/index.json"), mutations.mutate_json, 0.5)
def _example_frames(folder: Path, data: bytes) -> object:
    from physadv.check.example_frames import ExampleFrames
    from physadv.core.rows import read_rows

    _check_folder(folder, "examples/index.json", data)
    frames = ExampleFrames()
    frames.resume(folder / "examples", list(read_rows(folder / "rows.jsonl")))
    return frames.save(folder / "examples")


@registered("evaluation rows", _record("evaluation/rows.jsonl"), mutations.mutate_json, 1)
def _evaluation_rows(folder: Path, data: bytes) -> object:
    from physadv.evaluation.adversarial_examples import strongest_example
    from physadv.evaluation.progress_log import ProgressLog

    written(folder, "rows.jsonl", data)
    log = ProgressLog(folder)
    log.unfinished(0, [0, 1, 2])
    return strongest_example(folder)


@registered("evaluation marks", _record("evaluation/rows.marks.jsonl"), mutations.mutate_json, 1)
def _evaluation_marks(folder: Path, data: bytes) -> object:
    from physadv.evaluation.progress_log import ProgressLog

    written(folder, "rows.marks.jsonl", data)
    log = ProgressLog(folder)
    return log.total("seconds"), log.state(0, "near"), log.stages_done(0)


@registered("evaluation.json", _record("evaluation/evaluation.json"), mutations.mutate_json, 1)
def _evaluation_claim(folder: Path, data: bytes) -> object:
    from physadv.evaluation.progress_log import claim_folder

    written(folder, "evaluation.json", data)
    settings = json.loads((SEEDS / "evaluation" / "evaluation.json").read_text())
    return claim_folder(folder, settings)


@registered("samples of a run", _record("evaluation/samples.jsonl"), mutations.mutate_json, 1)
def _samples(folder: Path, data: bytes) -> object:
    from physadv.evaluation.recorded_samples import changed_images, recorded_samples, rows_digest

    written(folder, "samples.jsonl", data)
    recorded, own = recorded_samples(folder), recorded_samples(SEEDS / "evaluation")
    return rows_digest(recorded), changed_images(recorded, own), changed_images(own, recorded)


@registered("figures of a run", _record("evaluation/rows.jsonl"), mutations.mutate_json, 1)
def _figures(folder: Path, data: bytes) -> object:
    from physadv.report.run_comparison import read_figures

    shutil.copytree(SEEDS / "evaluation", folder, dirs_exist_ok=True)
    written(folder, "config.toml", b'command = "evaluate"\n')
    written(folder, "rows.jsonl", data)
    return read_figures(folder)


@registered("visibility.json", _record("visibility.json"), mutations.mutate_json, 1)
def _visibility(folder: Path, data: bytes) -> object:
    from physadv.patches.visibility import load_curves

    written(folder, "visibility.json", data)
    key = json.loads((SEEDS / "visibility.json").read_text())["key"]
    return load_curves(folder, int(key))


@registered("twin truth.jsonl", _record("truth.jsonl"), mutations.mutate_json, 1)
def _truth(folder: Path, data: bytes) -> object:
    from physadv.camera.open_source import open_frame_source

    shutil.copy(SEEDS / "twin.json", folder / "twin.json")
    for name in ("clean-00", "blank-00", "patch-00"):
        written(folder, f"clips/{name}.avi", video_seeds()[1])
    written(folder, "truth.jsonl", data)
    return list(open_frame_source(folder, max_frames=4))


@registered("twin.json", _record("twin.json"), mutations.mutate_json, 1)
def _twin_json(folder: Path, data: bytes) -> object:
    from physadv.camera.open_source import open_frame_source

    shutil.copy(SEEDS / "truth.jsonl", folder / "truth.jsonl")
    written(folder, "twin.json", data)
    return open_frame_source(folder)


_SETTINGS = '{"embedders": [{"name": "sface", "sha256": "00"}], "strength": "strong", "seed": 0}'


@registered("cloak settings", texts_of(_SETTINGS), mutations.mutate_json, 1)
def _cloak_settings(folder: Path, data: bytes) -> object:
    from physadv.privacy.batch import recorded_embedders

    return recorded_embedders(written(folder, "settings.json", data))


def _cloak(folder: Path, *, before: Sequence[tuple[str, bytes]] = ()) -> object:
    """Cloak two photos in a folder that holds what an earlier run left."""
    from physadv.privacy.batch import CloakedPhoto, PhotoJob, run_folder

    out = folder / "out"
    jobs = []
    for name in ("a.png", "b.png"):
        photo = written(folder, f"in/{name}", png_bytes())
        jobs.append(PhotoJob(photo, out / name, name))
    for name, data in before:
        written(out, name, data)
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


@registered("cloak manifest", _manifest_seeds, mutations.mutate_json, 0.5)
def _cloak_manifest(folder: Path, data: bytes) -> object:
    from physadv.privacy.batch import MANIFEST

    pictures = [(name, _cloaked()[name]) for name in ("a.png", "b.png")]
    return _cloak(folder, before=[*pictures, (MANIFEST, data)])


@registered(
    "training checkpoint",
    lambda: [save({"net/weight": torch.ones(2)}, {"facts": '{"done": 3, "history": []}'})],
    mutations.mutate_safetensors,
    1,
)
def _training_checkpoint(folder: Path, data: bytes) -> object:
    from physadv.training.checkpoint import load_training_state

    return load_training_state(written(folder, "checkpoint.safetensors", data), facts=("done",))


_PATCH_TENSORS = {n: torch.zeros(1, 3, 2, 2) for n in ("patch", "best", "exp_avg", "exp_avg_sq")}


@registered(
    "patch checkpoint",
    lambda: [save(_PATCH_TENSORS, {"key": "7", "step": "3", "loss": "0.5", "best_success": "0.1"})],
    mutations.mutate_safetensors,
    0.5,
)
def _patch_checkpoint(folder: Path, data: bytes) -> object:
    from physadv.patches.resume import load_checkpoint

    written(folder, "checkpoint.safetensors", data)
    return load_checkpoint(folder, 7, 0.1, 10)


@registered(
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

    written(folder, "start.safetensors", data)
    return load_start(folder, 7)
