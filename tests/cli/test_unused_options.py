"""An option that changes nothing beside the others is named on stderr, not ignored in silence."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from physadv.calibration.config import ChartConfig
from physadv.core.config import Config
from physadv.patches.config import PatchConfig
from physadv_cli.main import app


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (PatchConfig(photos="a", boxes="b"), ["--boxes", "--photos"]),
        (PatchConfig(signs=("a",), boxes="b"), []),
        (PatchConfig(object="person", boxes="b"), ["--boxes"]),
        (PatchConfig(object="person", photos="a", boxes="b", share=(0.1, 0.2)), []),
        (
            PatchConfig(object="anywhere", signs=("a",), backgrounds="b", center_mm=(1, 2)),
            ["--backgrounds", "--center", "--signs"],
        ),
        (PatchConfig(content_weight=2, profile="a.json", nps=0.5), ["--content-weight", "--nps"]),
        (PatchConfig(content="a.png", content_weight=2, nps=0.5), []),
        (ChartConfig(kind="charuco", set=2), ["--set"]),
        (ChartConfig(set=2), []),
    ],
)
def test_what_is_not_used_is_named(config: Config, options: list[str]) -> None:
    """And nothing else: neither defaults nor what counts."""
    lines = config.unused_options()
    assert sorted(line.partition(" is not used: ")[0] for line in lines) == options


def test_every_rule_names_a_field() -> None:
    """Of any configuration; one made of defaults draws no warning."""
    for config in (PatchConfig(), PatchConfig(object="person"), ChartConfig(kind="charuco")):
        assert config._without_use().keys() <= config.documented_fields().keys()
        assert config.unused_options() == []


def test_a_command_says_so(tmp_path: Path) -> None:
    """On stderr, once, and goes on."""
    words = ["calibrate", "chart", "--kind", "charuco", "--set", "2"]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "board.pdf")])
    assert done.exit_code == 0
    assert done.stderr.count("--set is not used: only the color chart has sets") == 1
    assert (tmp_path / "board.pdf").is_file()
