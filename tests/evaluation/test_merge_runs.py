"""A run divided into shards and merged: the rows of one process, whatever was interrupted where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_robust_accuracy import evaluation

from physadv.core.errors import DataError, OptionError
from physadv.core.rows import read_rows, replace_rows
from physadv.core.shards import Shard
from physadv.evaluation.merge_runs import gather_ranks, merge_runs, rank_folder
from physadv.evaluation.progress_log import claim_folder

IDENTITY = {"data": "toy", "threat": "linf:0.02", "images": 40}


def run(folder: Path, stop: int | None = None, **changes: Any) -> Any:
    """The evaluation in a folder that says what it is, stopped after so many stages."""
    claim_folder(folder, IDENTITY)
    found = evaluation(folder, batch_size=6, **changes)
    for number, _ in enumerate(found.run(), 1):
        if number == stop:
            break
    return found


def rows(folder: Path) -> list[dict[str, Any]]:
    return sorted(read_rows(folder / "rows.jsonl"), key=lambda row: row["index"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run(folder, curve=(0.01,))
    return folder


@settings(max_examples=8, deadline=None)
@given(stops=st.lists(st.integers(1, 12), min_size=1, max_size=5), data=st.data())
def test_shards_stopped_anywhere_and_merged_end_like_one_process(
    tmp_path_factory: pytest.TempPathFactory, whole: Path, stops: list[int], data: st.DataObject
) -> None:
    """Each shard is stopped after some stage; merged in any order and resumed, rows, rates and the
    curve are those of one undisturbed process."""
    root, count = tmp_path_factory.mktemp("shards"), len(stops)
    parts = [root / str(number) for number in range(1, count + 1)]
    for number, (part, stop) in enumerate(zip(parts, stops, strict=True), 1):
        run(part, stop, shard=Shard(number, count), curve=(0.01,))
    merged = merge_runs(data.draw(st.permutations(parts)), root / "merged")
    assert merged.done == len(rows(root / "merged")) <= merged.images == 40

    again = run(root / "merged", curve=(0.01,)).result()
    assert rows(root / "merged") == rows(whole)
    assert again["complete"]
    undisturbed = run(whole, curve=(0.01,)).result()
    for key in ("clean_accuracy", "robust_accuracy", "broken_by", "curve", "forwards"):
        assert again[key] == undisturbed[key], key


def test_merging_again_changes_nothing(tmp_path: Path) -> None:
    """A merge that is repeated, as after a kill, leaves the same bytes."""
    for number in (1, 2):
        run(tmp_path / str(number), shard=Shard(number, 2))
    parts = [tmp_path / "1", tmp_path / "2"]
    merge_runs(parts, tmp_path / "merged")
    first = {f.name: f.read_bytes() for f in (tmp_path / "merged").glob("*.jsonl")}
    merge_runs(parts, tmp_path / "merged")
    assert first == {f.name: f.read_bytes() for f in (tmp_path / "merged").glob("*.jsonl")}


def test_ranks_are_gathered_however_many_there_were(tmp_path: Path, whole: Path) -> None:
    """What three processes left is known to a run of one, and their folders go."""
    claim_folder(tmp_path, IDENTITY)
    for rank in range(3):
        run(rank_folder(tmp_path, rank), 3, shard=Shard(rank + 1, 3))
    gather_ranks(tmp_path)
    assert not (tmp_path / "ranks").exists()
    run(tmp_path, curve=(0.01,))
    assert rows(tmp_path) == rows(whole)


def _of_other_settings(folder: Path) -> None:
    (folder / "evaluation.json").write_text(json.dumps({**IDENTITY, "threat": "linf:0.03"}))


def _disagreeing(folder: Path) -> None:
    changed = [{**row, "robust": not row["robust"]} for row in read_rows(folder / "rows.jsonl")]
    replace_rows(folder / "rows.jsonl", changed)


def _linked(folder: Path) -> None:
    (folder / "examples").mkdir()
    (folder / "examples/0-clean.png").symlink_to("/etc/passwd")


def _no_run(folder: Path) -> None:
    (folder / "evaluation.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_of_other_settings, r"run of other settings.*threat linf:0.02 -> linf:0.03"),
        (_disagreeing, "disagree on image"),
        (_linked, "link"),
        (_no_run, "holds no run of attack, evaluate or certify"),
    ],
)
def test_folders_that_do_not_belong_together_are_refused(
    tmp_path: Path, spoil: Any, said: str
) -> None:
    """Other settings, another outcome for one image, a link and a folder of something else."""
    for name in ("1", "2"):
        run(tmp_path / name, 3)
    spoil(tmp_path / "2")
    with pytest.raises(DataError, match=said):
        merge_runs([tmp_path / "1", tmp_path / "2"], tmp_path / "merged")
    assert not (tmp_path / "merged/rows.jsonl").exists()


def test_a_folder_counts_once(tmp_path: Path) -> None:
    run(tmp_path / "1", 3)
    with pytest.raises(OptionError, match="named twice"):
        merge_runs([tmp_path / "1", tmp_path / "1/../1"], tmp_path / "merged")
    with pytest.raises(OptionError, match="named twice"):
        merge_runs([tmp_path / "1"], tmp_path / "1")
    with pytest.raises(OptionError, match="no run"):
        merge_runs([], tmp_path / "merged")


@pytest.mark.parametrize("text", ["0/3", "4/3", "1/0", "1", "", "a/b", "-1/2", "1/2/3", "1.0/2"])
def test_shards_are_counted_from_one(text: str) -> None:
    with pytest.raises(OptionError, match="counted from 1"):
        Shard.parse(text)


@given(st.integers(1, 20), st.integers(0, 500))
def test_every_batch_belongs_to_one_shard(count: int, batch: int) -> None:
    assert sum(Shard(number, count).holds(batch) for number in range(1, count + 1)) == 1
