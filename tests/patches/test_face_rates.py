"""Success on each held-out face and on real photos: on the card, on the terminal and in JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from physadv.core.rows import read_rows
from physadv.core.sign_artwork import sign_face, stop_sign_svg
from physadv.eot.scenes.sign_faces import HELD_OUT_FACES
from physadv.patches.face_rates import PHOTOS, face_table, rates_by_face, worst_face

VERDICT = st.fixed_dictionaries({"recognised": st.booleans(), "success": st.booleans()})
ROW = st.fixed_dictionaries(
    {
        "group": st.sampled_from(["DUR", "hand", "1.jpg", "2.jpg"]),
        "clean": VERDICT,
        "blank": VERDICT,
        "patch": VERDICT,
    }
)


@given(st.lists(ROW, max_size=40))
def test_the_rates_of_the_faces_add_up(rows: list[dict[str, object]]) -> None:
    """The draws, the valid ones and the successes of all entries are those of the rows; the worst
    is the lowest."""
    rates = rates_by_face(rows, ["DUR", "hand"])
    assert sum(each.n for each in rates) == len(rows)
    valid = [row for row in rows if row["clean"]["recognised"]]
    assert sum(each.success.n for each in rates) == len(valid)
    successes = sum(round(each.success.rate * each.success.n) for each in rates if each.success.n)
    assert successes == sum(row["patch"]["success"] for row in valid)
    assert [each.name for each in rates] == [
        name
        for name in ("DUR", "hand", PHOTOS)
        if any(
            (row["group"] if row["group"] in ("DUR", "hand") else PHOTOS) == name for row in rows
        )
    ]

    worst = worst_face(rates)
    assert (worst is None) == (not valid)
    if worst is not None:
        assert worst.success.rate == min(e.success.rate for e in rates if e.success.n)
    lines = face_table(rates).splitlines()
    assert len(lines) == len(rates) + 1
    assert max(map(len, lines)) <= 80


def test_the_command_tells_each_face(own_model: str, tmp_path: Path) -> None:
    """`physadv patch` with a folder of photos and a drawing prints and records a line a face, whose
    draws add up to those that were asked for."""
    (tmp_path / "mixed").mkdir()
    face = cv2.resize(sign_face().rgba, (90, 90), interpolation=cv2.INTER_AREA)
    for number in range(6):
        street = np.full((200, 260, 3), 140 + 4 * number, np.uint8)
        part, share = street[50:140, 60:150], face[..., 3:] / 255
        part[:] = (face[..., :3] * share + part * (1 - share)).astype(np.uint8)
        Image.fromarray(street).save(tmp_path / "mixed" / f"{number}.png")
    (tmp_path / "mine.svg").write_text(stop_sign_svg(), encoding="utf-8")

    arguments = ["patch", "--model", own_model, "--signs", "mixed", "--signs", "mine.svg"]
    sizes = ["--steps", "2", "--draws", "4", "--test-draws", "60", "--resolution", "8"]
    run = subprocess.run(
        [sys.executable, "-m", "physadv", *arguments, *sizes, "--out", "out", "--json", "--force"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    by_face = json.loads(run.stdout)["by_face"]
    card = tomllib.loads((tmp_path / "out" / "card.toml").read_text(encoding="utf-8"))
    assert str(card["heldout"]["by_face"]) == str(by_face)  # a rate of no valid draw is NaN
    assert card["optimisation"]["faces"] == "varied"
    assert card["optimisation"]["signs"] == ["mixed", "mine.svg"]

    counts = {each["name"]: each["n"] for each in by_face}
    assert sum(counts.values()) == 60
    assert counts[PHOTOS] == 20
    assert counts["mine.svg/mine"] == 20
    names = {face.name for face in HELD_OUT_FACES}
    assert set(counts) <= names | {PHOTOS, "mine.svg/mine"}
    groups = [row["group"] for row in read_rows(tmp_path / "out" / "rows.jsonl")]
    assert sum(group in names for group in groups) == 20
    assert card["heldout"]["worst_face"] in counts
