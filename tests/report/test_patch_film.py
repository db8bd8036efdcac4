"""A film of a patch: both sides of each frame, the model's answer below, GIF or MP4."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from bundle_fixtures import demo_bundle
from PIL import Image

from physadv.core.errors import OptionError
from physadv.core.package_data import bundle_folder
from physadv.report.patch_film import PatchFilm, _recorded_reading, film_patch, write_film


def test_a_film_shows_clean_beside_patch(tmp_path: Path) -> None:
    """Frames are two sides wide and equal but for the sticker; all are judged; the GIF has them."""
    film = film_patch(bundle_folder(Path("stop-sticker-signs-v1")), frames=2, frame_size=(160, 96))
    assert len(film.frames) == film.judged == 2
    first = film.frames[0]
    assert first.shape == (96 + 40, 320, 3)
    clean, patch = first[:96, :160].astype(int), first[:96, 160:].astype(int)
    changed = (np.abs(clean - patch).max(2) > 0).mean()
    assert 0 < changed < 0.5
    assert "supports no claim" in str(film)

    file = write_film(film, tmp_path / "film.gif")
    assert Image.open(file).n_frames == 2


def test_a_model_of_ones_own_is_read_as_its_card_records(tmp_path: Path) -> None:
    """Its classes come from the card, so that the patch's true class is known; a file that a card
    names for them is not read."""
    bundle = demo_bundle(tmp_path / "sticker", torch.rand(1, 3, 40, 60))
    card = bundle.card
    own = replace(card.victim, name="shape_of_numbers:make")
    for classes, read in (("stop,go", {"classes": "stop,go"}), ("names.txt", {})):
        recorded = {"classes": classes, "bgr": True}
        patch = replace(bundle, card=replace(card, victim=own, optimisation=recorded))
        assert _recorded_reading(patch) == {**read, "bgr": True}


def test_an_mp4_can_be_read_back(tmp_path: Path) -> None:
    """Its frames and size are those of the film; another suffix is refused."""
    frames = [np.full((64, 96, 3), value, np.uint8) for value in (0, 120, 240)]
    film = PatchFilm(frames, 1, 3)
    with av.open(str(write_film(film, tmp_path / "film.mp4"))) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [picture.shape for picture in shown] == [(64, 96, 3)] * 3
    assert abs(int(shown[1].mean()) - 120) < 4
    with pytest.raises(OptionError, match=r"\.gif or \.mp4"):
        write_film(film, tmp_path / "film.avi")
