"""Models that only answer, in `patch` and `check`: search by scores, queries counted, budgets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from commandline import physadv as command
from reference_server import ReferenceBox, served

import physadv

SMALL = ("--steps", "4", "--draws", "2", "--test-draws", "4", "--resolution", "16")
RANGES = "size_px = [40.0, 60.0]\n"
"""Distances that are given, so that none are measured."""


@pytest.fixture(scope="module")
def signs() -> Iterator[tuple[str, ReferenceBox]]:
    """The embedded classifier behind an address."""
    model = physadv.load_model("signs")
    about = {"classes": list(model.card.classes), "input_size": [64, 64]}

    def answer(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return model(images).softmax(1)

    box = ReferenceBox(answer, {**about, "outputs": "probabilities"})
    with served(box) as url:
        yield url, box


@pytest.mark.parametrize("rule", ["auto", "evolution"])
def test_a_patch_is_searched_by_answers(
    tmp_path: Path, signs: tuple[str, ReferenceBox], rule: str
) -> None:
    """A bundle with its rates; the queries that are printed are those that the box has seen."""
    url, box = signs
    (tmp_path / "near.toml").write_text(RANGES)
    before = box.images
    words = ("patch", "--model", url, *SMALL, "--search-by", rule, "--eot-ranges", "near.toml")
    done = command(tmp_path, *words, "--out", "bundle", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["queries"] == box.images - before
    kind = "square" if rule == "auto" else rule
    assert f"{kind} search by answers: about" in done.stderr
    assert f"{result['queries']} queries sent" in done.stderr
    assert (tmp_path / "bundle/patch.png").is_file()


def test_a_budget_that_does_not_suffice_is_refused_before_the_run(
    tmp_path: Path, signs: tuple[str, ReferenceBox]
) -> None:
    """One line with the queries that the run takes; next to none are sent."""
    url, box = signs
    (tmp_path / "near.toml").write_text(RANGES)
    (tmp_path / "box.toml").write_text(f'url = "{url}"\nbudget = 500\n')
    before = box.images
    done = command(tmp_path, "patch", "--model", "box.toml", *SMALL, "--eot-ranges", "near.toml")
    assert done.returncode == 1
    assert "Its budget is 500" in done.stderr
    assert box.images - before < 20


def test_what_needs_gradients_is_named(tmp_path: Path, signs: tuple[str, ReferenceBox]) -> None:
    """Steps by gradient, and starts that race by it."""
    url, _ = signs
    for words, limit in (
        (("--search-by", "gradient"), "only answers has none"),
        (("--restarts", "3"), "race by their gradients"),
    ):
        done = command(tmp_path, "patch", "--model", url, *SMALL, *words)
        assert done.returncode == 1
        assert limit in done.stderr


def test_a_label_only_box_is_evaluated_by_decisions(tmp_path: Path) -> None:
    """Attacks on classes alone run, and break what is near the boundary."""

    def colors(images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))

    box = ReferenceBox(
        colors, {"classes": ["red", "green", "blue"], "outputs": "labels"}, labels=True
    )
    images = torch.full((8, 3, 8, 8), 0.5)
    images[:, 0] += 0.02
    with served(box) as url:
        result = physadv.evaluate(
            physadv.load_model(url), (images, torch.zeros(8, dtype=torch.long)), "linf:0.1"
        )
    assert set(result.broken_by) == {"rays", "hopskipjump"}
    assert result.clean_accuracy.rate == 1
    assert result.robust_accuracy.rate == 0


def test_a_check_asks_a_box(tmp_path: Path, signs: tuple[str, ReferenceBox]) -> None:
    """Films of a colored card, judged by a box; every frame is a query, and they are counted."""
    import cv2
    import numpy as np
    from capture_fixtures import numbered

    def red(images: torch.Tensor) -> torch.Tensor:
        share = (0.5 + 4 * (images[:, 0] - images[:, 2]).mean((1, 2))).clamp(0, 1)
        return torch.stack([share, 1 - share], 1)

    letters = {"clean": "rrrr", "blank": "rrrr", "patch": "bbbb"}
    colors = {"r": (30, 30, 200), "b": (200, 30, 30)}
    for block, frames in letters.items():
        (tmp_path / "films").mkdir(exist_ok=True)
        name = str(tmp_path / f"films/{block}.avi")
        writer = cv2.VideoWriter(name, cv2.VideoWriter.fourcc(*"MJPG"), 10, (160, 120))
        for number, letter in enumerate(frames):
            image = np.full((120, 160, 3), 128, np.uint8)
            image[30:90, 50:110] = colors[letter]
            writer.write(numbered(image, number))
        writer.release()
    about = {"classes": ["red", "blue"], "outputs": "probabilities"}
    box = ReferenceBox(red, about)
    with served(box) as url:
        films = {block: f"films/{block}.avi" for block in letters}
        controls = ("--clean", films["clean"], "--blank", films["blank"])
        asked = ("--model", url, "--true-class", "red", "--goal", "untargeted")
        done = command(
            tmp_path,
            *("check", films["patch"], *controls, *asked, "--box", "50,30,110,90", "--json"),
        )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["blocks"]["patch"]["attack_success_rate"] == 1.0
    assert result["queries"] == box.images >= 12
