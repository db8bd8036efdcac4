"""A folder cloaked by two processes is the one that a single process makes, to the byte."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commandline import environment, run_in_two, torchrun
from PIL import Image
from tinyface import KnownFinder, drawn_photo, tiny_embedder

from physadv.core.rows import read_rows
from physadv.privacy.batch import MANIFEST, plan_jobs
from physadv.privacy.cloak_faces import MODES
from physadv.privacy.cloak_task import CloakTask
from physadv.privacy.config import CloakConfig
from physadv.privacy.divided_cloak import divide_photos
from physadv.privacy.photo_cloaker import PhotoCloaker

QUICK = replace(MODES["mid"], steps=4, draws=1, every=2)


def task_for(photos: Path, out: Path) -> CloakTask:
    """A quick cloak of the photos, with the tiny embedder."""
    jobs, folder = plan_jobs(photos, out)
    cloaker = PhotoCloaker([KnownFinder()], [tiny_embedder()], QUICK, in_place=True)
    return CloakTask(CloakConfig(photos=str(photos)), jobs, folder, cloaker)


def shadowed(person: int, shot: int) -> Image.Image:
    """A photo of a person with a shadow that no other shot has there."""
    (face,) = KnownFinder()(np.zeros((80, 80, 3), np.uint8))
    pixels = drawn_photo(80, 80, face, person=person, shot=shot)
    pixels[20 + 5 * shot : 26 + 5 * shot] -= pixels[20 + 5 * shot : 26 + 5 * shot] // 5
    return Image.fromarray(pixels)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven photos of two people by turns, and one that cannot be read."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for shot in range(7):
        shadowed(shot % 2, shot).save(folder / f"{shot}.png")
    (folder / "3b.png").write_bytes(b"no photo")
    return folder


def content(folder: Path) -> dict[str, Any]:
    """Every file of a cloaked folder, and the rows of its manifest without what clocks say."""

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: timeless(item) for key, item in value.items() if key != "seconds"}
        return [timeless(item) for item in value] if isinstance(value, list) else value

    files = {file.name: file.read_bytes() for file in folder.iterdir() if file.name != MANIFEST}
    return {**files, MANIFEST: [timeless(row) for row in read_rows(folder / MANIFEST)]}


PROGRAM = """
import sys
from itertools import islice
from pathlib import Path
from torch import distributed
from test_divided_cloak import task_for
from physadv.core.process_group import ProcessGroup
from physadv.privacy import divided_cloak

photos, whole, stopped = map(Path, sys.argv[1:])
distributed.init_process_group("gloo")
group = ProcessGroup.current()
divided_cloak.divide_photos = lambda photos, *_: [n % 3 % 2 for n in range(len(photos))]
for out, count in ((whole, None), (stopped, 2)):
    run = task_for(photos, out).divided(group)
    own = list(islice(run.run(), count))
    if count is None:
        done = run.gathered(own)
        assert [outcome.index for outcome in done] == list(range(1, 9))
        assert [o.job.name for o in done if o.status == "failed"] == ["3b.png"]
distributed.barrier()
distributed.destroy_process_group()
"""


def test_two_processes_cloak_as_one(photos: Path, tmp_path: Path) -> None:
    """Each waits for the other's cloaks of the same person: photos, settings and rows are those of
    one process; so they are where one process goes on from what two had done."""
    whole, stopped, one = (tmp_path / name for name in ("two", "stopped", "one"))
    program = tmp_path / "program.py"
    run_in_two(PROGRAM, program, photos, whole, stopped, imports=Path(__file__))
    list(task_for(photos, one).run())
    assert content(whole) == content(one)

    assert len(list(stopped.glob("cloak-manifest.rank-*.jsonl"))) == 2
    statuses = [outcome.status for outcome in task_for(photos, stopped).run()]
    assert statuses.count("already done") == 4
    resumed, expected = content(stopped), content(one)
    assert {row["source"] for row in resumed.pop(MANIFEST)} == {
        row["source"] for row in expected.pop(MANIFEST)
    }
    assert resumed == expected


def test_every_photo_knows_the_others_of_its_person(photos: Path, tmp_path: Path) -> None:
    """The first photo as the last: four of one person and three of the other, each beside one that
    cannot be read. A photo that is added later knows all; those done before stay as they are."""
    outcomes = list(task_for(photos, tmp_path / "out").run())
    known = {o.job.name: o.row["faces"][0]["others"] for o in outcomes if o.faces}
    assert known == {f"{shot}.png": 2 if shot % 2 else 3 for shot in range(7)}

    before = content(tmp_path / "out")
    shadowed(1, 7).save(photos / "0b.png")
    added = [o for o in task_for(photos, tmp_path / "out").run() if o.status == "cloaked"]
    assert [(o.job.name, o.row["faces"][0]["others"]) for o in added] == [("0b.png", 3)]
    after = content(tmp_path / "out")
    assert {name: after[name] for name in before if name != MANIFEST} == {
        name: data for name, data in before.items() if name != MANIFEST
    }


@pytest.mark.parametrize("stop", [0, 3, 6])
def test_names_and_interruptions_change_no_pixel(photos: Path, tmp_path: Path, stop: int) -> None:
    """The same photos under each other's names, stopped at some point: each is the same file."""
    (photos / "3b.png").unlink()
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    names = {f"{shot}.png": f"{(shot * 3 + 4) % 7}.png" for shot in range(7)}
    for old, new in names.items():
        (renamed / new).write_bytes((photos / old).read_bytes())
    list(task_for(photos, tmp_path / "one").run())
    list(islice(task_for(renamed, tmp_path / "two").run(), stop))
    list(task_for(renamed, tmp_path / "two").run())
    for old, new in names.items():
        assert (tmp_path / "one" / old).read_bytes() == (tmp_path / "two" / new).read_bytes()


def test_a_finished_run_looks_at_no_photo(photos: Path, tmp_path: Path) -> None:
    """Where nothing is left to cloak, no face is sought or embedded for the others' sake."""
    (photos / "3b.png").unlink()
    list(task_for(photos, tmp_path / "out").run())
    again = task_for(photos, tmp_path / "out")
    looked: list[int] = []
    assert {o.status for o in again.run(surveyed=looked.append)} == {"already done"}
    assert looked == []


def test_people_are_divided() -> None:
    """Photos of one person in a row go to one process, those of another to the other; where all
    show one person, one process cloaks them; photos without faces cost little."""
    first, second = torch.eye(16)[:1], torch.eye(16)[1:2]
    people = [[{"tiny": first}]] * 3 + [[{"tiny": second}]] * 3
    assert divide_photos(people, [tiny_embedder()], 2) == [0, 0, 0, 1, 1, 1]
    assert divide_photos(people[:3], [tiny_embedder()], 2) == [0, 0, 0]
    assert divide_photos([[], [], people[0][0:1], people[3]], [tiny_embedder()], 2)[2:] == [0, 1]


@pytest.mark.slow
def test_the_command_under_torchrun(shared_data: Path, tmp_path: Path) -> None:
    """One process prints; the JSON counts the photos of both; a second run has nothing to do."""
    weights = shared_data / "weights"
    photos = tmp_path / "photos"
    photos.mkdir()
    for person in ("Al_Gore", "Bill_Clinton"):
        for file in sorted((shared_data / "faces" / person).iterdir())[:2]:
            (photos / file.name).write_bytes(file.read_bytes())
    words = ["cloak", "photos", "--mode", "low", "--threads", "1", "--embedder", "mobilefacenet"]
    words += ["--embedder-weights", f"mobilefacenet={weights / 'mobilefacenet_foamliu.pt'}"]
    words += ["--detector-weights", str(weights / "facedet_slim_biubug6.pth"), "--json"]
    several = torchrun(2, "-m", "--", "physadv")

    def run(start: list[str], out: str) -> dict[str, Any]:
        done = subprocess.run(
            [*start, *words, "--out", out],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("How well it worked") == 1
        said: dict[str, Any] = json.loads(done.stdout)
        return said

    assert (
        run(several, "two")["cloaked"]
        == run([sys.executable, "-m", "physadv"], "one")["cloaked"]
        == 4
    )
    assert content(tmp_path / "two") == content(tmp_path / "one")
    assert run(several, "two")["already done"] == 4
