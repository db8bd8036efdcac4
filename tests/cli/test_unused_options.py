"""An option that changes nothing beside the others is named on stderr, not ignored in silence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked import Faults, shared_server
from PIL import Image
from small_commands import SMALL_COMMANDS, write_inputs

from physadv.calibration.config import ChartConfig
from physadv.certification.config import CertifyConfig
from physadv.core.config import Config
from physadv.evaluation.attack_plan import ATTACKS
from physadv.evaluation.config import WITHOUT_SPEED, AttackConfig
from physadv.patches.config import PatchConfig
from physadv.patches.measure_config import VerifyConfig, VisibilityConfig
from physadv.printing.config import PrintConfig
from physadv.privacy.config import CloakConfig
from physadv.studies.attack_studies_config import GradientConfig
from physadv.studies.config import BookletConfig, MaskingConfig
from physadv.twin.config import TwinConfig

DATA: dict[str, Any] = {"model": "m", "data": "d"}


def options_of(lines: list[str]) -> list[str]:
    """The options that the lines name, in alphabetical order."""
    return sorted(line.partition(" is not used: ")[0] for line in lines)


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
        (PatchConfig(object="person", photos="a", true_class="yield"), ["--true-class"]),
        (PatchConfig(target_class="yield"), ["--target"]),
        (PatchConfig(goal="vanish", target_class="yield"), ["--target"]),
        (PatchConfig(goal="misclassify", target_class="yield"), []),
        (PatchConfig(content_weight=2, profile="a.json", nps=0.5), ["--content-weight", "--nps"]),
        (PatchConfig(content="a.png", content_weight=2, nps=0.5), []),
        (VisibilityConfig(boxes="b"), ["--boxes"]),
        (VisibilityConfig(signs=("a",), boxes="b", backgrounds="c"), []),
        (ChartConfig(kind="charuco", set=2), ["--set"]),
        (ChartConfig(set=2), []),
        (AttackConfig(**DATA, target="stop", targeted=True), ["--targeted"]),
        (AttackConfig(**DATA, targeted=True, speed="plain"), []),
        (AttackConfig(**DATA, attack="square", speed="bf16"), ["--speed"]),
        (AttackConfig(**DATA, surrogate=("s",), speed="bf16"), ["--speed"]),
        (CertifyConfig(**DATA, sigma=0.5, n0=10, n=50, alpha=0.01, decline=0.1), []),
        (CertifyConfig(**DATA, threat="l2:0.25", decline=0.1), ["--decline"]),
        (CertifyConfig(**DATA, curve="0.1", time_limit=5), ["--curve", "--time-limit"]),
        (
            CertifyConfig(
                **DATA, method="ibp", sigma=0.5, n0=10, n=50, alpha=0.01, noise="laplace"
            ),
            ["--alpha", "--n", "--n0", "--noise", "--sigma"],
        ),
        (CertifyConfig(**DATA, method="crown", curve="0.1", batch_size=8), []),
        (CertifyConfig(**DATA, method="bab", time_limit=5, curve="0.1"), []),
        (CertifyConfig(**DATA, method="bab", batch_size=8), ["--batch-size"]),
        (CertifyConfig(**DATA, method="patch", curve="0.1", n=5), ["--curve", "--n"]),
        (CertifyConfig(model="m", vnnlib="p", limit=3, time_limit=5, seed=2), []),
        (
            CertifyConfig(model="m", vnnlib="p", threat="linf:0.1", method="crown", bgr=True),
            ["--bgr", "--method", "--threat"],
        ),
        (PrintConfig(bundle="b", overlap=20, intent="absolute", sign="s.svg"), None),
        (
            PrintConfig(bundle="b", tile=True, overlap=20, icc="a", intent="absolute"),
            [],
        ),
        (PrintConfig(bundle="b", test_signs=True, sign="s.svg", bleed=1, safe=3), []),
        (TwinConfig(bundle="b", without=("printer",), printer="newsprint"), ["--printer"]),
        (TwinConfig(bundle="b", without=("motion",), printer="newsprint"), []),
        (GradientConfig(data="d", model="m", weights="w"), ["--model", "--weights"]),
        (GradientConfig(data="d", model="m", weights="w", pictures="p"), []),
        (BookletConfig(mnist_data="m", faces_data="f", study=("gradient",)), ["--faces-data"]),
        (BookletConfig(mnist_data="m", photos_data="p", study=("gradient",)), []),
        (BookletConfig(mnist_data="m", boxes_data="b", study=("gradient",)), ["--boxes-data"]),
        (BookletConfig(mnist_data="m", faces_data="f"), []),
        (MaskingConfig(data="d", quick=True, epochs=2, limit=100), ["--epochs", "--limit"]),
        (MaskingConfig(data="d", quick=True, limit=10, queries=5), []),
        (MaskingConfig(data="d", epochs=2), []),
    ],
    ids=lambda value: value.command if isinstance(value, Config) else "",
)
def test_what_is_not_used_is_named(config: Config, options: list[str] | None) -> None:
    """And nothing else: neither defaults nor what counts."""
    everything = ["--intent", "--overlap", "--sign"] if options is None else options
    assert options_of(config.unused_options()) == everything


def subclasses(kind: type[Config]) -> Iterator[type[Config]]:
    """All configurations of commands."""
    for below in kind.__subclasses__():
        yield from subclasses(below)
        if below.command and below.__module__.startswith("physadv"):
            yield below


REQUIRED = {
    **{"model": "m", "data": "d", "threat": "linf:0.1", "bundle": "b", "bundles": ("b",)},
    **{"source": "s", "sources": ("s",), "photos": "p", "cloaked": "c", "originals": "o"},
    **{"defense": "pgd", "people": "p", "pictures": "p"},
}


@pytest.mark.parametrize("kind", list(subclasses(Config)), ids=lambda kind: kind.command)
def test_every_rule_names_a_field(kind: type[Config]) -> None:
    """A configuration made of defaults draws no warning, and every rule is of one of its own
    options, or of those that it hands on."""
    needed = {field.name for field in fields(kind) if field.default is MISSING}
    needed |= {"model", "data"} if kind is CertifyConfig else set()
    needed |= {"photos"} if kind is CloakConfig else set()
    missing = {name: value for name, value in REQUIRED.items() if name in needed}
    config = kind(**missing)
    assert config.unused_options() == []
    if kind is not VisibilityConfig:  # which hands on what a patch is made of
        assert config.without_use().keys() <= config.documented_fields().keys()


@pytest.mark.parametrize("name", ATTACKS)
def test_the_attacks_without_speed_are_known(name: str) -> None:
    """As the plan of attacks hands the arithmetic on."""
    assert ("speed" in ATTACKS[name].takes) == (name not in WITHOUT_SPEED)


def test_options_of_detectors_do_nothing_for_a_classifier() -> None:
    """Which the model's card tells, once it is loaded."""
    config = PatchConfig(threshold=0.5)
    assert options_of(config.unused_with_models({"classify"})) == ["--threshold"]
    assert config.unused_with_models({"classify", "detect"}) == []


@pytest.mark.parametrize(
    ("given", "recorded", "options"),
    [
        ({"photos": "p"}, PatchConfig(), ["--photos"]),
        ({"backgrounds": "b"}, PatchConfig(), []),
        ({"boxes": "b"}, PatchConfig(), ["--boxes"]),
        ({"boxes": "b"}, PatchConfig(signs=("a",)), []),
        ({"boxes": "b", "signs": ("a",)}, PatchConfig(), []),
        ({"signs": ("a",), "backgrounds": "b"}, PatchConfig(object="person"), None),
        ({"photos": "p", "boxes": "b"}, PatchConfig(object="person"), []),
    ],
)
def test_what_a_bundle_needs_not_is_named(
    given: dict[str, Any], recorded: PatchConfig, options: list[str] | None
) -> None:
    """``patch verify`` on a bundle whose card records another scene."""
    expected = ["--backgrounds", "--signs"] if options is None else options
    assert options_of(VerifyConfig(bundle="b", **given).unused_on(recorded)) == expected


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs of small commands."""
    folder = tmp_path_factory.mktemp("unused")
    write_inputs(folder, "calibrate fit")
    (folder / "signs").mkdir()
    pixels = np.random.default_rng(1).integers(0, 256, (240, 320, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "signs" / "a.png")
    (folder / "signs" / "boxes.csv").write_text("file,x0,y0,x1,y1\na.png,100,80,160,140\n")
    return folder


@pytest.mark.parametrize(
    ("name", "words", "options"),
    [
        ("calibrate chart", ["--kind", "charuco", "--set", "2"], ["--set"]),
        ("calibrate fit", ["--views", "3"], ["--views"]),
        (
            "check",
            [
                *(
                    "--camera-size",
                    "640x480",
                    "--retry",
                    "5",
                    "--every",
                    "2",
                    "--clip-seconds",
                    "2",
                ),
                *("--target", "yield", "--iou", "0.5", "--threshold", "0.4", "--no-lock"),
            ],
            [
                *("--camera-size", "--clip-seconds", "--every", "--iou", "--lock"),
                *("--retry", "--threshold"),
            ],
        ),
        ("check", ["--locate", "frame"], ["--box"]),
        (
            "twin",
            ["--signs", "signs", "--backgrounds", "photos", "--distances", "2,5"],
            ["--backgrounds", "--distances"],
        ),
        (
            "cloak",
            ["--dry-run", "--overwrite", "--mode", "high", "--keep-metadata"],
            ["--keep-metadata", "--mode", "--overwrite"],
        ),
        ("cloak", [], []),
    ],
)
def test_a_command_says_so(
    inputs: Path, tmp_path: Path, name: str, words: list[str], options: list[str]
) -> None:
    """On stderr, once each, and goes on."""
    command, out = SMALL_COMMANDS[name], tmp_path / SMALL_COMMANDS[name].out
    faults = Faults(code=command.code_for(out))
    done = shared_server().run(inputs, *command.line(out), *words, faults=faults)
    assert done.code == 0, done.stderr
    warned = [line for line in done.stderr.splitlines() if " is not used: " in line]
    assert options_of([line.removeprefix("warning: ") for line in warned]) == options
