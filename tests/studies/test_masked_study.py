"""The masked study: one table from rows that are kept, made once, whatever stops it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from physadv.core.errors import OptionError
from physadv.core.rows import Row, append_rows, read_rows, replace_rows
from physadv.datasets import DatasetSummary
from physadv.report.masked_report import render_masked_report
from physadv.studies.config import MaskingConfig
from physadv.studies.gradient_masking.study import (
    COLUMNS,
    ROWS,
    TOTAL,
    claim_masking,
    masking_markdown,
    masking_table,
    more_rounds,
    run_masking_study,
    split_half,
    study_result,
)
from physadv_cli.main import app

SMALL: dict[str, Any] = {
    "limit": 6,
    "attack_steps": 2,
    "queries": 4,
    "train_images": 60,
    "epochs": 1,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three kinds of gray bars, as folders of classes with a train and a test part."""
    root = tmp_path_factory.mktemp("bars")
    rng = np.random.default_rng(0)
    for part, count in (("train", 24), ("test", 4)):
        for name in range(3):
            folder = root / part / f"bar{name}"
            folder.mkdir(parents=True)
            for k in range(count):
                picture = rng.integers(0, 60, (16, 16))
                picture[:, 5 * name : 5 * name + 5] += 180
                Image.fromarray(picture.astype(np.uint8)).save(folder / f"{k}.png")
    return root


@pytest.fixture(scope="module")
def settings(data: Path) -> MaskingConfig:
    return MaskingConfig(data=str(data), threat="linf:0.1", **SMALL)


@pytest.fixture(scope="module")
def folder(settings: MaskingConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished study."""
    out = tmp_path_factory.mktemp("study")
    stages = list(run_masking_study(settings, out))
    assert [s.done for s in stages] == list(range(TOTAL + 1))
    return out


def test_nine_defenses_and_two_controls_in_one_table(folder: Path) -> None:
    """Every defense once, with as many rows as images; real robustness is never above any attack's
    column."""
    lines = masking_table(list(read_rows(folder / ROWS)))
    assert len(lines) == TOTAL == len({t["defence"] for t in lines})
    for t in lines:
        assert t["n"] == 6
        assert t["real"]["rate"] <= min(t[c]["rate"] for c in COLUMNS)
        assert max(t[c]["rate"] for c in COLUMNS) == t["clean"]["rate"]


def timeless(rows: list[Row]) -> list[Row]:
    """The rows without their seconds."""
    return [{k: v for k, v in r.items() if not k.endswith("_s")} for r in rows]


def test_a_stopped_study_goes_on_to_the_same_rows(
    settings: MaskingConfig, folder: Path, tmp_path: Path
) -> None:
    """Rows of a defense that a kill cut short are made anew; finished ones and trained nets are
    kept."""
    whole = list(read_rows(folder / ROWS))
    for name in ("evaluation.json",):
        (tmp_path / name).write_text((folder / name).read_text())
    (tmp_path / "nets").symlink_to(folder / "nets")
    append_rows(tmp_path / ROWS, whole[:-4])
    assert len(study_result(tmp_path)) == TOTAL - 1
    list(run_masking_study(settings, tmp_path))
    assert timeless(list(read_rows(tmp_path / ROWS))) == timeless(whole)


def test_more_rounds_go_on_from_fewer(
    settings: MaskingConfig, folder: Path, tmp_path: Path
) -> None:
    """A defense that is not settled is attacked further, one that is stays as it was; the rows keep
    their order and add up."""
    (tmp_path / "nets").symlink_to(folder / "nets")
    list(run_masking_study(replace(settings, rounds=1), tmp_path))
    rows = list(read_rows(tmp_path / ROWS))
    list(run_masking_study(settings, tmp_path))

    after = list(read_rows(tmp_path / ROWS))
    assert [(r["defence"], r["index"]) for r in after] == [(r["defence"], r["index"]) for r in rows]
    assert all(old["real"] or not new["real"] for old, new in zip(rows, after, strict=True))
    for t in masking_table(after):
        own = [r for r in after if r["defence"] == t["defence"]]
        before = [r for r in rows if r["defence"] == t["defence"]]
        broken = sum(r["real"] for r in before) - sum(r["real"] for r in own)
        further = own[0]["rounds"][len(before[0]["rounds"]) :]
        assert broken == sum(one["broken"] for one in further)
        assert not more_rounds(own, 3)
    assert timeless(after) == timeless(list(read_rows(folder / ROWS)))


def test_rows_of_a_run_survive_further_rounds(
    settings: MaskingConfig, folder: Path, tmp_path: Path
) -> None:
    """A defense that is attacked anew before another goes on keeps the rows just written."""
    (tmp_path / "nets").symlink_to(folder / "nets")
    few = replace(settings, rounds=0)
    list(run_masking_study(few, tmp_path))
    rows = list(read_rows(tmp_path / ROWS))
    first = rows[0]["defence"]
    replace_rows(tmp_path / ROWS, [r for r in rows if r["defence"] != first])
    list(run_masking_study(replace(settings, rounds=1), tmp_path))
    assert len(study_result(tmp_path)) == TOTAL


def test_report_and_table_name_every_defense(folder: Path) -> None:
    """Both are made from the rows alone."""
    rows = list(read_rows(folder / ROWS))
    page, text = (
        render_masked_report(
            masking_table(rows),
            {"eps": 0.1, "data": "bars", "steps": 2},
            DatasetSummary("bars", "npz", "test", ("train", "test")),
        ),
        masking_markdown(rows),
    )
    for t in masking_table(rows):
        # Kept rows spell it as earlier versions did.
        shown = str(t["defence"]).replace("defence", "defense")
        assert shown in page
        assert shown in text
    assert "npz, part test of train, test" in page
    assert "n</th>" in text or "| n |" in text


def test_another_study_in_the_folder_is_refused(
    settings: MaskingConfig, folder: Path, data: Path
) -> None:
    """Settings must agree with what lies there."""
    with pytest.raises(OptionError):
        next(
            run_masking_study(
                MaskingConfig(data=str(data), threat="linf:0.3", **SMALL),
                folder,
            )
        )


def test_other_images_in_the_data_are_another_study(data: Path, tmp_path: Path) -> None:
    """One image replaced under its name."""
    copied = Path(shutil.copytree(data, tmp_path / "data"))
    config = MaskingConfig(data=str(copied), threat="linf:0.1", **SMALL)
    folder = tmp_path / "study"
    folder.mkdir()
    for _ in range(2):
        claim_masking(folder, config)
    shutil.copyfile(copied / "test/bar1/1.png", copied / "test/bar1/0.png")
    with pytest.raises(OptionError, match="contents of the data"):
        claim_masking(folder, config)


def test_settings_are_chosen_on_other_images_than_those_reported(folder: Path) -> None:
    """The halves of the test images share none, whatever is drawn from them, and rows say which
    half is theirs."""
    halves = [set(split_half(101, part).tolist()) for part in ("choose", "report")]
    assert not halves[0] & halves[1]
    assert len(halves[0] | halves[1]) == 101
    rows = list(read_rows(folder / ROWS))
    assert {int(r["index"]) for r in rows} <= set(split_half(12, "report").tolist())
    assert {r["part"] for r in rows} == {"report"}
    threats = {r["defence"]: r["threat"] for r in rows}
    assert threats["no defence"] == "l_inf 0.1"
    assert threats["sparse Fourier recovery"].endswith(" px")


def test_bad_settings_are_refused(data: Path) -> None:
    """A radius of 0 and no images are errors."""
    with pytest.raises(OptionError):
        MaskingConfig(data=str(data), threat="linf:0")
    with pytest.raises(OptionError):
        MaskingConfig(data=str(data), limit=0)
    with pytest.raises(OptionError):
        MaskingConfig(data=str(data), part="all")
    with pytest.raises(OptionError, match="of l_inf"):
        MaskingConfig(data=str(data), threat="l2:0.5")


def test_the_command_records_and_repeats_a_study(data: Path, folder: Path, tmp_path: Path) -> None:
    """The table of a finished study, from older spellings and from the recorded configuration."""
    shutil.copytree(folder, tmp_path / "run")
    words = ["--eps", "0.1", "--steps", "2", "--train", "60", "--epochs", "1", "--queries", "4"]
    command = ["study", "masked", "--data", str(data), *words, "--limit", "6", "--json", "--out"]
    done = CliRunner().invoke(app, [*command, str(tmp_path / "run")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert len(result["table"]) == TOTAL
    assert (result["eps"], result["steps"], result["train"]) == (0.1, 2, 60)
    assert (tmp_path / "run" / "report.html").is_file()

    config = tmp_path / "run" / "config.toml"
    recorded = MaskingConfig.from_toml(config)
    assert (recorded.attack_steps, recorded.train_images) == (2, 60)
    again = ["study", "masked", "--config", str(config), "--json", "--out", str(tmp_path / "run")]
    repeated = CliRunner().invoke(app, again, catch_exceptions=False)
    assert json.loads(repeated.stdout)["table"] == result["table"]


def test_a_quick_study_is_a_small_one() -> None:
    """Numbers that are smaller already stay; the given values are recorded."""
    config = MaskingConfig(data="d", quick=True, limit=7)
    assert config.facts()["images"] == 7
    assert config.facts()["train"] == 512
    assert config.as_table()["train_images"] == 10_000
    assert MaskingConfig(data="d").facts()["train"] == 10_000
