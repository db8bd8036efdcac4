"""Checks with a model of known outputs: rates, rows, controls and failures equal those computed by
hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from physadv.camera.open_source import open_frame_source
from physadv.check.differences import control_differences
from physadv.check.locators import by_box, by_frame, locator_for
from physadv.check.rates import draw_conclusion, ended_by_data, tabulate_rates
from physadv.check.run_check import BlockSource, run_check
from physadv.check.stopping_rule import STEP
from physadv.core.errors import CaptureError, ModelError, OptionError
from physadv.core.rows import read_rows
from physadv.core.torch_threads import cores_beside
from physadv.evaluation.metrics.intervals import clustered_interval


def check(
    folder: Path, source: Path, model: Any, **more: Any
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    options: dict[str, Any] = {
        "goal": "untargeted",
        "true_class": "stop",
        "locator": locator_for(),
        "batch": 4,
        **more,
    }
    for _ in run_check(
        [BlockSource(open_frame_source(source), fallback="patch")], model, folder=folder, **options
    ):
        pass
    return list(read_rows(folder / "rows.jsonl")), json.loads((folder / "check.json").read_text())


CONTROLS = {"clean-00": "rrrrr", "clean-01": "rrrrr", "blank-00": "rrrrr", "blank-01": "rrrrr"}
CLIPS = {**CONTROLS, "patch-00": "rrrbb", "patch-01": "bbbbb"}


def test_rates_of_a_twin(tmp_path: Path, twin: Callable[..., Path], color_model: Any) -> None:
    """7 of 10 patch frames are blue, so the goal is met in 70 %; controls are true; intervals go by
    clip."""
    rows, settings = check(tmp_path / "run", twin(CLIPS), color_model)
    table = tabulate_rates(rows)
    patch = table["patch"].as_dict()
    expected = clustered_interval([False] * 3 + [True] * 7, ["patch-00"] * 5 + ["patch-01"] * 5)
    assert (patch["attack_success_rate"], patch["frames"], patch["clips"]) == (0.7, 10, 2)
    assert (patch["low"], patch["high"]) == (expected.low, expected.high)
    # Two clips of 40 % and 100 % leave nearly everything open.
    assert patch["low"] < 0.15
    assert patch["high"] > 0.98
    assert patch["true_class_rate"] == pytest.approx(0.3)
    assert [table[b].true.rate for b in ("clean", "blank")] == [1.0, 1.0]
    assert (settings["status"], settings["simulation"], settings["warnings"]) == (
        "complete",
        True,
        [],
    )
    assert settings["located_by"]["patch"] == {"truth": 10}


def test_row_fields(tmp_path: Path, twin: Callable[..., Path], color_model: Any) -> None:
    """A row holds clip, block, frame, verdict, scores and geometry, all finite."""
    rows, _ = check(tmp_path / "run", twin(CLIPS), color_model)
    row = rows[-1]
    assert {
        k: row[k]
        for k in ("clip", "block", "frame", "verdict", "true", "success", "located_by", "crop_px")
    } == {
        "clip": "patch-01",
        "block": "patch",
        "frame": 4,
        "verdict": "limit",
        "true": False,
        "success": True,
        "located_by": "truth",
        "crop_px": 60,
    }
    assert row["distance_m"] == 8.0
    assert row["yaw_deg"] == 10.0
    assert row["confidence"] > 0.9
    assert row["confidence"] + row["true_score"] == pytest.approx(1, abs=1e-5)


def test_the_classifier_sees_the_sign_and_its_margin(
    tmp_path: Path, twin: Callable[..., Path], color_model: nn.Module
) -> None:
    """The crop is the sign's square widened by the margin: blue in it, mostly gray where the margin
    is wide."""
    seen: list[Tensor] = []
    forward = color_model.forward
    color_model.forward = lambda images: (seen.append(images), forward(images))[1]
    check(tmp_path / "run", twin({"patch-00": "b"}), color_model, margin=0.5)
    crop = seen[0][0]
    assert crop.shape == (3, 32, 32)
    assert crop[2, 9:23, 9:23].mean() > 0.7  # the inner half is the sign
    assert abs(float(crop[:, :6].mean()) - 128 / 255) < 0.05  # the outer quarter is the wall


def test_same_input_same_rows_and_examples(
    tmp_path: Path, twin: Callable[..., Path], color_model: Any
) -> None:
    """Two runs write equal rows and choose equal example frames, whatever the batch size."""
    folder = twin(CLIPS)
    check(tmp_path / "a", folder, color_model)
    check(tmp_path / "b", folder, color_model, batch=3)
    for name in ("rows.jsonl", "examples/index.json", "examples/patch-met-0.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_targeted_success_is_the_target(
    tmp_path: Path, twin: Callable[..., Path], color_model: nn.Module
) -> None:
    """For a targeted goal only the target's verdict counts; the true rate is reported beside it."""
    rows, _ = check(tmp_path / "r", twin(CLIPS), color_model, goal="targeted", target_class="limit")
    assert tabulate_rates(rows)["patch"].attack.rate == 0.7
    with pytest.raises(OptionError, match="needs a target"):
        check(tmp_path / "s", twin(CLIPS), color_model, goal="targeted")
    with pytest.raises(OptionError, match="threshold 0"):
        check(tmp_path / "u", twin(CLIPS), color_model, threshold=0.0)
    with pytest.raises(OptionError, match="it is the true class"):
        check(tmp_path / "t", twin(CLIPS), color_model, goal="targeted", target_class="stop")


def test_detector_verdicts(
    tmp_path: Path, twin: Callable[..., Path], red_detector: Any, middle: tuple[float, ...]
) -> None:
    """A stop sign box over the sign is true; a score below the threshold, or a box elsewhere,
    leaves nothing."""
    folder = twin(CLIPS)
    rows, settings = check(
        tmp_path / "a", folder, red_detector, goal="vanish", true_class="stop sign"
    )
    assert tabulate_rates(rows)["patch"].attack.rate == 0.7
    assert {r["verdict"] for r in rows if r["block"] == "patch"} == {"stop sign", "nothing"}
    assert settings["threshold"] == 0.25
    strict, _ = check(
        tmp_path / "b", folder, red_detector, goal="vanish", true_class="stop sign", threshold=0.95
    )
    assert tabulate_rates(strict)["clean"].true.rate == 0.0
    red_detector.box = [5.0, 30.0, 65.0, 90.0]
    apart, _ = check(
        tmp_path / "c", folder, red_detector, goal="vanish", true_class="stop sign", threshold=0.01
    )
    assert {r["verdict"] for r in apart} == {"nothing"}  # IoU with the sign's box is 0.14


def test_detector_without_a_box_asks_the_whole_frame(
    tmp_path: Path, video: Callable[..., Path], red_detector: nn.Module
) -> None:
    """Where the sign's location is unknown, any stop sign in the frame counts, and other objects do
    not."""
    source = video(tmp_path / "a.avi", "rb")
    rows, _ = check(
        tmp_path / "run",
        source,
        red_detector,
        goal="vanish",
        true_class="stop sign",
        locator=by_frame,
    )
    assert [r["verdict"] for r in rows] == ["stop sign", "nothing"]
    assert [r["crop_px"] for r in rows] == [None, None]


def test_failed_controls_forbid_the_claim(
    tmp_path: Path, twin: Callable[..., Path], color_model: Any
) -> None:
    """If fewer than 90 % of clean verdicts are true, the conclusion states that the check is not
    valid."""
    rows, settings = check(tmp_path / "r", twin({**CLIPS, "clean-01": "rrbbb"}), color_model)
    said = draw_conclusion(tabulate_rates(rows), settings)
    assert not said.valid
    assert "Not valid for a claim" in said.headline
    assert "70.0 % of the frames" in said.headline  # 7 of 10 clean frames are true


def test_one_clip_supports_no_claim(
    tmp_path: Path, twin: Callable[..., Path], color_model: Any
) -> None:
    """However many frames a single clip has, its rate has no interval, and the check is not
    valid."""
    clips = {**CONTROLS, "patch-00": "b" * 20}
    rows, settings = check(tmp_path / "r", twin(clips), color_model)
    said = draw_conclusion(tabulate_rates(rows), settings)
    assert not said.valid
    assert "20 frames from 1 clip (too few clips for an interval)" in said.headline
    assert "too few clips of the patch for an interval; at least 2" in said.headline


def test_twin_blocks_are_compared_frame_by_frame(
    tmp_path: Path, twin: Callable[..., Path], color_model: Any
) -> None:
    """Where blank and patch fail together, the paired difference is narrower than that of the
    rates; frames that one block lacks, or filmed ones, are compared by the rates."""
    words = ["rr", "bb", "rr", "bb"] * 3
    clips = {f"{b}-{i:02d}": w for b in ("blank", "patch") for i, w in enumerate(words)}
    rows, _ = check(tmp_path / "r", twin(clips), color_model)
    table = tabulate_rates(rows)
    paired = control_differences(table, rows, simulation=True)["blank"]
    apart = control_differences(table, rows, simulation=False)["blank"]
    fewer = control_differences(table, rows[:-1], simulation=True)["blank"]
    assert (paired.value, paired.paired) == (0, True)
    assert paired.high - paired.low < 0.7 * (apart.high - apart.low)
    assert not apart.paired
    assert not fewer.paired


def test_words_for_a_valid_result(
    tmp_path: Path, twin: Callable[..., Path], color_model: Any
) -> None:
    """The headline has rate, n, clips, interval and both controls; the notes name the
    simulation."""
    clips = {
        f"{b}-{i:02d}": ("bb" if b == "patch" else "rr")
        for b in ("clean", "blank", "patch")
        for i in range(10)
    }
    rows, settings = check(tmp_path / "r", twin(clips), color_model)
    said = draw_conclusion(tabulate_rates(rows), settings)
    assert said.valid
    assert "100.0 % of 20 frames from 10 clips" in said.headline
    assert "the clean sign 0.0 %, a blank sticker 0.0 %" in said.headline
    assert said.notes == ["This is a simulation: no sheet was printed and no camera was used."]


def test_missing_controls_and_no_effect(
    tmp_path: Path, twin: Callable[..., Path], color_model: Any
) -> None:
    """Without controls there is no valid conclusion; a patch without effect is reported as such."""
    rows, settings = check(tmp_path / "a", twin({"patch-00": "bb"}, tmp_path / "t1"), color_model)
    assert "proves nothing yet" in draw_conclusion(tabulate_rates(rows), settings).headline
    rows, settings = check(
        tmp_path / "b",
        twin({**CONTROLS, "patch-00": "rr", "patch-01": "rr"}, tmp_path / "t2"),
        color_model,
    )
    assert "no clear effect" in draw_conclusion(tabulate_rates(rows), settings).headline
    assert "No frame with the patch" in draw_conclusion({}, {}).headline


def test_nan_stops_with_what_was_judged_kept(
    tmp_path: Path, video: Callable[..., Path], middle: Any
) -> None:
    """A model that turns NaN raises ModelError; the rows of earlier batches stay."""

    class Turning(nn.Module):
        card = type("Card", (), {})

        def __init__(self, card: Any) -> None:
            super().__init__()
            self.card, self.calls = card, 0

        def forward(self, images: Tensor) -> Tensor:
            self.calls += 1
            return torch.full((len(images), 2), float("nan") if self.calls > 1 else 0.5)

    from physadv.models.cards import ModelCard

    model = Turning(ModelCard("nan", "classify", ("stop", "limit"), (8, 8)))
    with pytest.raises(ModelError, match="NaN"):
        check(tmp_path / "run", video(tmp_path / "a.avi", "r" * 10), model, locator=by_box(middle))
    assert len(list(read_rows(tmp_path / "run" / "rows.jsonl"))) == 4
    assert json.loads((tmp_path / "run" / "check.json").read_text())["status"] == "stopped"


def test_wrong_number_of_classes(tmp_path: Path, twin: Callable[..., Path]) -> None:
    """Logits that do not fit the card are refused, not read by index."""
    from physadv.models.cards import ModelCard

    class Three(nn.Module):
        card = ModelCard("three", "classify", ("stop", "limit"), (8, 8))

        def forward(self, images: Tensor) -> Tensor:
            return torch.zeros(len(images), 3)

    with pytest.raises(ModelError, match="3 classes"):
        check(tmp_path / "run", twin({"patch-00": "r"}), Three())


def test_stopping_keeps_the_rows(
    tmp_path: Path, twin: Callable[..., Path], color_model: Any
) -> None:
    """Closing the generator after the first batch leaves its rows and a record with status
    "stopped"."""
    progress = run_check(
        [BlockSource(open_frame_source(twin(CLIPS)))],
        color_model,
        folder=tmp_path / "run",
        locator=locator_for(),
        goal="untargeted",
        true_class="stop",
        batch=4,
    )
    assert next(progress).judged == 4
    progress.close()
    assert len(list(read_rows(tmp_path / "run" / "rows.jsonl"))) == 4
    settings = json.loads((tmp_path / "run" / "check.json").read_text())
    assert settings["status"] == "stopped"
    assert any("stopped before its end" in n for n in draw_conclusion({}, settings).notes)


def test_a_second_check_does_not_mix_rows(
    tmp_path: Path, twin: Callable[..., Path], color_model: nn.Module
) -> None:
    """A folder that already holds rows is refused."""
    check(tmp_path / "run", twin({"patch-00": "r"}), color_model)
    with pytest.raises(OptionError, match="already holds"):
        check(tmp_path / "run", twin({"patch-00": "r"}), color_model)


def test_max_frames_a_block(
    tmp_path: Path, video: Callable[..., Path], color_model: Any, middle: Any
) -> None:
    """The limit applies per block, and reading stops there."""
    source = open_frame_source(video(tmp_path / "a.avi", "r" * 30))
    steps = list(
        run_check(
            [BlockSource(source, "clean")],
            color_model,
            folder=tmp_path / "run",
            locator=by_box(middle),
            goal="untargeted",
            true_class="stop",
            max_frames=7,
            batch=4,
        )
    )
    assert [s.judged for s in steps] == [4, 7]
    assert steps[-1].total == 7


def test_signs_not_found_are_counted(
    tmp_path: Path, video: Callable[..., Path], color_model: Any
) -> None:
    """A frame without a located sign is left out and counted; without any sign the check is an
    error."""
    with pytest.raises(CaptureError, match="5 patch: sign not found"):
        check(tmp_path / "run", video(tmp_path / "a.avi", "rrrrr"), color_model)
    with pytest.raises(CaptureError, match="3 patch: sign outside the frame"):
        check(
            tmp_path / "off",
            video(tmp_path / "b.avi", "rrr"),
            color_model,
            locator=by_frame_outside,
        )


def by_frame_outside(_: Any) -> Any:
    from physadv.camera.localization.boxes import corners_of
    from physadv.check.locators import SignLocation

    return SignLocation(corners_of((500, 500, 600, 600)), "box")


def test_flags_of_the_model_are_put_back(
    tmp_path: Path, twin: Callable[..., Path], color_model: Any
) -> None:
    """A module in train mode is evaluated in eval mode and returned in train mode."""
    modes: list[bool] = []
    color_model.train()
    forward = color_model.forward
    color_model.forward = lambda x: (modes.append(color_model.training), forward(x))[1]
    check(tmp_path / "run", twin({"patch-00": "r"}), color_model)
    assert modes == [False]
    assert color_model.training


def test_a_truncated_clip_keeps_its_half(
    tmp_path: Path, twin: Callable[..., Path], color_model: nn.Module
) -> None:
    """Of a clip cut in half the frames are classified, and the record carries a warning."""
    folder = twin({"clean-00": "r" * 10, "patch-00": "b" * 40})
    clip = folder / "clips" / "patch-00.avi"
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    rows, settings = check(tmp_path / "run", folder, color_model)
    patch = [r for r in rows if r["block"] == "patch"]
    assert 5 < len(patch) < 40
    assert len(settings["warnings"]) == 1
    assert f"ended after {len(patch)} of 40" in settings["warnings"][0]


def test_frames_of_several_sizes(
    tmp_path: Path, make_picture: Callable[..., np.ndarray], red_detector: nn.Module
) -> None:
    """A detector receives batches of one frame size, even where photos differ in size."""
    from physadv.core.image_io import save_png

    for i, size in enumerate([(160, 120), (160, 120), (200, 160)]):
        save_png(tmp_path / "p" / f"patch-{i}.png", make_picture((200, 30, i), size))
    rows, _ = check(
        tmp_path / "run",
        tmp_path / "p",
        red_detector,
        goal="vanish",
        true_class="stop sign",
        locator=by_frame,
    )
    assert [r["clip"] for r in rows] == ["patch-0", "patch-1", "patch-2"]


def test_progress_tells_of_frames_left_out(
    tmp_path: Path, twin: Callable[..., Path], video: Callable[..., Path], color_model: Any
) -> None:
    """Frames without a sign are reported as they arrive, not only at the end."""
    feeds = [
        BlockSource(open_frame_source(video(tmp_path / "a.avi", "rrr")), "clean"),
        BlockSource(open_frame_source(twin({"patch-00": "bb"}))),
    ]
    steps = list(
        run_check(
            feeds,
            color_model,
            folder=tmp_path / "run",
            locator=locator_for(),
            goal="untargeted",
            true_class="stop",
        )
    )
    assert [(s.judged, s.left_out) for s in steps] == [(0, 1), (0, 2), (0, 3), (2, 3)]
    assert steps[-1].success == {"patch": (2, 2)}


def test_small_markers_are_refused_and_their_size_is_said(
    tmp_path: Path, color_model: Any, marked_page: Callable[..., np.ndarray]
) -> None:
    """Pages too far away are left out; their marker size and the limit are in the warning, or in
    the error where none is near enough."""
    from physadv.core.image_io import save_png

    for name, width in (("far", 100), ("near", 300)):
        for k in range(2):
            page = marked_page("patch", width)
            page[0, 0] = k  # no two photos are alike
            save_png(tmp_path / name / f"{k}.png", page)
    with pytest.raises(
        CaptureError,
        match=r"2 patch: markers under 20 px \(markers of 1\d to 1\d px, 20 are needed\)",
    ):
        check(tmp_path / "a", tmp_path / "far", color_model)
    (tmp_path / "far").rename(tmp_path / "near" / "far")
    rows, settings = check(tmp_path / "b", tmp_path / "near", color_model)
    assert len(rows) == 2
    assert all(r["marker_px"] > 30 for r in rows)
    assert settings["left_out"] == {"patch: markers under 20 px": 2}
    assert any("Come closer, or print the signs larger" in w for w in settings["warnings"])


def test_a_narrow_interval_ends_the_block(
    tmp_path: Path, video: Callable[..., Path], color_model: Any
) -> None:
    """With equal clips the block ends at the first test at which the interval that allows looking
    is narrow enough, not before; the rates of the run have this interval."""
    source = open_frame_source(video(tmp_path / "patch.avi", "b" * 200), clip_seconds=0.5)
    steps = list(
        run_check(
            [BlockSource(source, "patch")],
            color_model,
            folder=tmp_path / "run",
            locator=by_box((50, 30, 110, 90)),
            goal="untargeted",
            true_class="stop",
            width=0.2,
            batch=1,
        )
    )
    record = json.loads((tmp_path / "run" / "check.json").read_text())
    assert record["width"] == 0.2
    assert ended_by_data(record)
    rows = list(read_rows(tmp_path / "run" / "rows.jsonl"))
    rates = tabulate_rates(rows, sequential=True)["patch"]
    assert rates.attack.high - rates.attack.low <= 0.2
    assert steps[-1].judged < 200
    before = tabulate_rates(rows[: -STEP - 1], sequential=True)["patch"].attack
    assert before.high - before.low > 0.2


def test_whoever_watches_names_the_block_and_ends_it(
    tmp_path: Path, color_model: Any, make_picture: Any
) -> None:
    """Without markers the chosen block applies from then on; a stop ends the check with status
    "stopped", at most two frames before."""
    from physadv.camera.frames import CameraFrame, FrameSource
    from physadv.check.live.remote_control import RemoteControl

    remote = RemoteControl()

    class Hands(FrameSource):
        live = True

        def __iter__(self) -> Any:
            for k in range(30):
                if k == 10:
                    remote.choose("clean")
                if k == 20:
                    remote.stop()
                yield CameraFrame(make_picture((200, 30, 30)), k / 10, "live-000", None, k)

    for _ in run_check(
        [BlockSource(Hands("hands"))],
        color_model,
        folder=tmp_path / "run",
        locator=by_box((50, 30, 110, 90)),
        goal="untargeted",
        true_class="stop",
        remote=remote,
    ):
        pass
    rows = list(read_rows(tmp_path / "run" / "rows.jsonl"))
    assert [(r["block"], r["frame"]) for r in rows] == [
        ("clean", k) for k in range(10, 10 + len(rows))
    ]
    assert 8 <= len(rows) <= 10
    settings = json.loads((tmp_path / "run" / "check.json").read_text())
    assert (settings["status"], settings["left_out"]) == (
        "stopped",
        {"unsorted: block not known": 10},
    )


def test_the_same_check_goes_on(
    tmp_path: Path, twin: Callable[..., Path], color_model: Any
) -> None:
    """A check stopped after a batch and run again has the rows of one run, and keeps the pictures
    of the first."""
    folder = twin(CLIPS)
    check(tmp_path / "whole", folder, color_model)
    steps = run_check(
        [BlockSource(open_frame_source(folder), fallback="patch")],
        color_model,
        folder=tmp_path / "run",
        locator=locator_for(),
        goal="untargeted",
        true_class="stop",
        batch=4,
    )
    next(steps)
    steps.close()
    rows, settings = check(tmp_path / "run", folder, color_model)
    assert rows == list(read_rows(tmp_path / "whole" / "rows.jsonl"))
    assert (settings["attempt"], settings["status"]) == (2, "complete")
    shown = json.loads((tmp_path / "run" / "examples" / "index.json").read_text())
    assert {(s["block"], s["frame"]) for s in shown if s["clip"] == "clean-00"} & {
        ("clean", 0),
        ("clean", 1),
    }
    with pytest.raises(OptionError, match="already holds"):
        check(tmp_path / "run", folder, color_model)
    (tmp_path / "run" / "check.json").write_text(json.dumps({**settings, "status": "running"}))
    with pytest.raises(OptionError, match="another true_class"):
        check(tmp_path / "run", folder, color_model, true_class="limit")


def test_the_model_leaves_a_core_to_reading(
    tmp_path: Path, twin: Callable[..., Path], color_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On two cores the model runs on one thread, and torch has its own number again afterwards."""
    monkeypatch.setattr("physadv.check.run_check.cores_beside", lambda busy: 2 - busy)
    seen: list[int] = []
    forward = color_model.forward

    def counted(images: torch.Tensor) -> Any:
        seen.append(torch.get_num_threads())
        return forward(images)

    monkeypatch.setattr(color_model, "forward", counted)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        check(tmp_path / "out", twin(CLIPS), color_model)
        assert set(seen) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_cores_beside_others_are_at_least_one() -> None:
    """Whatever is busy, one core is left to compute on."""
    assert cores_beside(10**6) == 1
    assert cores_beside(0) >= 1
