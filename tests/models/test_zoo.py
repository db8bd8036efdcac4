"""Models known by name: embedded weights are verified, a user's own weights are marked, nothing
else changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from physadv.core.errors import ModelError
from physadv.core.files import sha256_of
from physadv.defenses.load_model import load_model
from physadv.models import zoo
from physadv.models.architectures.signnet import NAMES, SignNet
from physadv.models.load import card_of, list_models


@pytest.fixture
def embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of embedded weights with an untrained SignNet and its card."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(SignNet().state_dict(), tmp_path / "signs.safetensors")
    digest = sha256_of(tmp_path / "signs.safetensors")
    (tmp_path / "signs.toml").write_text(
        f'licence = "CC0"\nsha256 = "{digest}"\nmade = "by the test"\n[accuracy]\nreal = "90 '
        '%"\nsynthetic = "95 %"\n'
    )
    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path)
    return tmp_path


def test_the_card_beside_the_weights_is_read(embedded: Path) -> None:
    """Known keys fill the card, a table of accuracies becomes a line, the rest is kept as extra."""
    card = load_model("signs").card
    assert card.licence == "CC0"
    assert card.accuracy == "real 90 %, synthetic 95 %"
    assert card.extra["made"] == "by the test"
    assert card.classes == NAMES
    assert card.class_index("stop") == 14
    assert card.class_index("background") == 43


def test_altered_embedded_weights_are_refused(embedded: Path) -> None:
    """Weights that are not those of the card raise ModelError."""
    save_file(SignNet().state_dict(), embedded / "signs.safetensors")
    with pytest.raises(ModelError, match="is not the pinned"):
        load_model("signs")


def test_weights_of_ones_own_lose_what_was_measured_on_ours(embedded: Path, tmp_path: Path) -> None:
    """--weights with a name: loaded strictly, with their own sha256 and no borrowed accuracy."""
    own = tmp_path / "own.pth"
    torch.save(SignNet().state_dict(), own)
    card = load_model("signs", weights=own).card
    assert card.sha256 == sha256_of(own)
    assert "not measured" in card.accuracy
    assert card.classes == NAMES


def test_loading_moves_no_random_state(embedded: Path) -> None:
    """Building a net draws first weights; the caller's generator does not notice."""
    before = torch.get_rng_state()
    load_model("signs")
    assert torch.equal(before, torch.get_rng_state())


def test_every_card_is_complete() -> None:
    """Name, license, source and data are told by every card; a detector tells its threshold; names
    are unique."""
    cards = list_models()
    assert len({c.name for c in cards}) == len(cards)
    for card in cards:
        if card.name != "signs":  # its card is the file beside its weights
            assert len(card.sha256) == 64
            assert "unknown" not in (card.licence, card.source, card.data)
        assert card.classes
        assert card.task != "detect" or 0 < card.extra["score_threshold"] < 1
        assert card_of(card.name) == card


def test_weights_that_are_not_here_name_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """FastestDet before it was fetched: the error names the command that fetches it."""
    monkeypatch.setenv("PHYSADV_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="physadv models fetch fastestdet"):
        load_model("fastestdet")
