"""Every reader of foreign input, with mutated inputs: an error of the toolkit, or a value."""

from __future__ import annotations

import ast
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
from fuzz.harness import CORPUS, Tally, fuzz, read_one, run_batch
from fuzz.mutations import mutate_bytes
from fuzz.readers import READERS, Reader, scratch

from physadv.core.errors import DataError, PhysadvError

_SEED = int(os.environ.get("PHYSADV_FUZZ_SEED", "14"))
_KEPT = sorted(file for file in CORPUS.glob("*/*") if file.is_file())


def _run(count: int, first: int = 0) -> None:
    faults = []
    for _, tally in fuzz(READERS, seed=_SEED, count=count, first=first):
        assert tally.inputs
        faults += tally.faults
    assert not faults, f"seed {_SEED}: {faults[:10]}"


def test_mutated_inputs_of_every_reader() -> None:
    """A few thousand inputs; `make fuzz` goes on for an hour, and prints its seed."""
    _run(2500)


@pytest.mark.slow
def test_more_mutated_inputs_of_every_reader() -> None:
    """The same for about five minutes, with other inputs."""
    _run(40_000, first=2500)


@pytest.mark.parametrize("file", _KEPT, ids=lambda file: f"{file.parent.name}-{file.name[:6]}")
def test_inputs_that_once_failed(file: Path) -> None:
    """Each input that the harness once found ends as it should."""
    names = {name.replace("/", "_").replace(" ", "-"): name for name in READERS}
    outcome, detail = read_one(READERS[names[file.parent.name]], file.read_bytes())
    assert outcome in ("accepted", "refused"), detail


def _odd(folder: Path, data: bytes) -> object:
    """Reader that fails in another way by the first byte of its input."""
    kind = data[0] if data else 0
    if kind == 1:
        raise ValueError("foreign")
    if kind == 2:
        os.abort()
    if kind == 3:
        return bytearray(3 << 30)
    if kind == 4:
        end = time.process_time() + 30
        while time.process_time() < end:
            pass
    if kind == 5:
        raise DataError("refused")
    return None


@pytest.mark.parametrize(
    ("first", "kinds"),
    [(0, []), (1, ["foreign"]), (2, ["death"]), (3, ["memory"]), (4, ["slow"]), (5, [])],
)
def test_the_harness_sees_each_kind_of_fault(first: int, kinds: list[str]) -> None:
    """A foreign exception, a death, too much memory and too much time are told apart."""
    reader = Reader(_odd, lambda: [bytes([first])], mutate_bytes)
    tally = Tally()
    faults = list(run_batch("odd", reader, 0, range(1), tally))
    assert [fault.kind for fault in faults] == kinds
    assert all(fault.number == 0 for fault in faults)


def test_a_death_does_not_end_the_batch() -> None:
    """The inputs after one that kills its child are read as well."""
    reader = Reader(_odd, lambda: [b"\x02", b"\x00", b"\x01"], mutate_bytes)
    faults = list(run_batch("odd", reader, 0, range(3), Tally()))
    assert [(fault.number, fault.kind) for fault in faults] == [(0, "death"), (2, "foreign")]


ROOT = Path(__file__).resolve().parents[2]
_READING = ("read_", "load_", "parse_", "open_", "decode_", "gunzip", "refuse_rtsp", "sidecar")
_ELSEWHERE = {
    "code that the user named": {
        *("load_torchscript", "load_exported", "load_import_path", "load_foreign"),
    },
    "models of other libraries, by their names there": {"load_hf", "load_timm"},
    "cameras and windows of this machine": {
        *("open_url", "open_displays", "read_settings"),
    },
    "runs of this program, and nets in memory": {
        *("open_run", "open_samples", "open_inputs", "read_logits", "decode_boxes"),
        *(
            "read_detections",
            "decode_scores",
            "decode_faces",
            "read_run_markers",
            "load_state",
            "load_optimizer",
        ),
        *("load_model", "load_subject", "load_undefended_model", "load_segmenter"),
        *("load_embedders", "load_surrogates", "load_feature_distance"),
    },
    "callers of readers that are in the harness": {
        *("load_sign_data", "load_photos", "load_average", "read_progress", "load_training_data"),
        "parse_forms",
        *("load_yolox", "load_yolox_weights", "load_embedder", "read_views", "read_photos"),
        *("load_scene_sources", "read_sign_folders", "load_photo_sources", "load_sign_sources"),
        *("parse_models", "load_instance", "load_study_data", "open_black_box", "read_once"),
        *("open_onnx", "open_detection_samples"),
    },
}
"""Functions of such names that the harness does not reach, and why not."""


@pytest.fixture(scope="module")
def seeds_read() -> tuple[dict[str, list[str]], set[str]]:
    """What becomes of the seeds of each reader, and the names of the functions that were called."""
    outcomes: dict[str, list[str]] = {}
    called: set[str] = set()

    def note(frame: FrameType, event: str, value: object) -> None:
        if event == "call":
            called.add(frame.f_code.co_name)

    for name, reader in READERS.items():
        outcomes[name] = []
        for data in reader.seeds():
            folder = scratch()
            threading.setprofile(note)
            sys.setprofile(note)
            try:
                reader.call(folder, data)
                outcomes[name].append("accepted")
            except PhysadvError as error:
                outcomes[name].append(str(error))
            finally:
                sys.setprofile(None)
                threading.setprofile(None)  # type: ignore[arg-type]
                shutil.rmtree(folder)
    return outcomes, called


def test_every_reader_accepts_a_seed(seeds_read: tuple[dict[str, list[str]], set[str]]) -> None:
    """A reader that refuses all its seeds at the door is fuzzed no further than the door."""
    outcomes, _ = seeds_read
    barred = {name: said for name, said in outcomes.items() if "accepted" not in said}
    barred.pop("heif", None)  # refused, by name, where pillow-heif is not installed
    assert not barred


def _readers_of_the_toolkit() -> Iterator[str]:
    for folder in ("physadv", "cli"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.FunctionDef) and node.name.startswith(_READING):
                    yield node.name


def test_every_reader_of_the_toolkit_is_reached(
    seeds_read: tuple[dict[str, list[str]], set[str]],
) -> None:
    """A function that reads something foreign is called by the harness, or listed with a reason."""
    _, called = seeds_read
    known, elsewhere = set(_readers_of_the_toolkit()), set().union(*_ELSEWHERE.values())
    assert sorted(known - called - elsewhere) == []
    assert sorted(elsewhere - known) == [], "no such function"
    # A decorator is called where its module is first imported, be it within the harness or before.
    assert sorted(elsewhere & called - {"open_inputs"}) == [], "reached after all"
