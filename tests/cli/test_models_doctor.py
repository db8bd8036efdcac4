"""`physadv models` and `physadv doctor`: JSON on stdout, nothing fetched unasked, exit codes that
mean it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commandline import physadv
from torch import nn
from typer.testing import CliRunner, Result

from physadv.core.errors import ModelError, OptionError
from physadv.defenses.load_model import load_model
from physadv.models import zoo
from physadv.models.cards import ModelCard
from physadv.models.fetch import cache_path, cached_weights
from physadv_cli.commands import doctor_command
from physadv_cli.main import app


def invoke(*arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=answer)


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHYSADV_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def carried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A victim called `small`, and its weights as a file carried here."""
    file = tmp_path / "carried.pth"
    torch.save(nn.Linear(2, 2).state_dict(), file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    card = ModelCard(
        name="small", sha256=digest, licence="MIT", urls=("https://example.invalid/small.pth",)
    )
    entry = zoo.KnownModel(
        lambda: card, lambda: nn.Linear(2, 2), lambda: cached_weights(card), "fetch it"
    )
    monkeypatch.setitem(zoo.KNOWN, "small", entry)
    return file


def test_list_names_every_model_and_whether_it_is_here() -> None:
    """The JSON holds a full card each, and says which weights are here."""
    result = invoke("models", "list", "--json")
    assert result.exit_code == 0, result.output
    models = {v["name"]: v for v in json.loads(result.stdout)["victims"]}
    assert {"signs", "fastestdet", "efficientnet-lite0"} <= models.keys()
    assert models["fastestdet"]["here"] is False
    assert len(models["fastestdet"]["sha256"]) == 64
    assert models["fastestdet"]["classes"][11] == "stop sign"


def test_list_groups_what_is_ready_fetchable_and_yours() -> None:
    """People see three groups; the JSON names each model's group and the forms of one's own."""
    result = invoke("models", "list", "--json")
    listed = json.loads(result.stdout)
    groups = {v["name"]: v["group"] for v in listed["victims"]}
    assert groups["signs"] == "ready"
    assert groups["yolox-nano"] == "fetchable"
    assert "model.onnx" in [entry["form"] for entry in listed["yours"]]
    for title in ("Ready", "Fetchable", "Yours"):
        assert title in result.output


def test_patch_list_names_the_bundles_at_hand() -> None:
    """Each with its effect, the model it was made on, its size and held-out success."""
    result = invoke("patch", "list", "--json")
    assert result.exit_code == 0, result.output
    bundles = {b["name"]: b for b in json.loads(result.stdout)["bundles"]}
    assert bundles["stop-sticker-signs-v1"]["model"] == "signs"
    assert all("%" in b["success"] and b["width_mm"] > 0 for b in bundles.values())


def test_show_prints_the_card_of_a_name() -> None:
    """Licence, source and pinned sha256 are there, without loading weights."""
    result = invoke("models", "show", "fastestdet", "--json")
    card = json.loads(result.stdout)
    assert card["licence"] == "BSD-3-Clause"
    assert card["urls"][0].startswith("https://raw.githubusercontent.com/dog-qiuqiu/FastestDet/")


def test_show_and_check_take_a_model_of_the_users_own(tmp_path: Path) -> None:
    """module:factory in the working folder: shown with its classes, checked, and warned of its
    softmax."""
    (tmp_path / "own_for_cli.py").write_text(
        "import torch\nfrom physadv.models.load import as_model\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, x):\n        return x.mean((2, 3)).softmax(1)\n"
        "def make():\n    return as_model(Net(), classes=['a', 'b', 'c'])\n"
    )
    assert json.loads(invoke("models", "show", "own_for_cli:make", "--json").stdout)["classes"] == [
        "a",
        "b",
        "c",
    ]
    result = invoke("models", "check", "own_for_cli:make", "--device", "cpu", "--json")
    assert result.exit_code == 0, result.output
    (warning,) = json.loads(result.stdout)["warnings"]
    assert "probabilities" in warning


def test_fetch_asks_and_takes_no_for_an_answer(carried: Path) -> None:
    """Unasked, or answered no, or without anybody to ask: nothing is fetched, and the remedy is
    named."""
    for answer in ("n\n", None):
        result = invoke("models", "fetch", "small", "--from", str(carried), answer=answer)
        assert isinstance(result.exception, OptionError)
        assert "--accept-license" in str(result.exception)
    assert zoo.KNOWN["small"].own_weights() is None


def test_fetch_says_what_it_is_about_to_do(carried: Path) -> None:
    """Source, sha256 and license are on stderr before the question."""
    result = invoke("models", "fetch", "small", answer="n\n")
    assert "https://example.invalid/small.pth" in result.stderr
    assert hashlib.sha256(carried.read_bytes()).hexdigest() in result.stderr
    assert "MIT" in result.stderr


@pytest.mark.parametrize("accept", ["--yes", "--accept-license"])
def test_fetch_once_accepted_is_here_and_loads(carried: Path, accept: str) -> None:
    """--yes and --accept-license are one; a second fetch finds it here; the victim loads by
    name."""
    result = invoke("models", "fetch", "small", "--from", str(carried), accept, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["fetched"] is True
    assert json.loads(invoke("models", "fetch", "small", "--json").stdout)["fetched"] is False
    assert load_model("small").card.name == "small"


def test_fetch_accepts_at_the_prompt(carried: Path) -> None:
    """An answer of yes fetches."""
    assert invoke("models", "fetch", "small", "--from", str(carried), answer="y\n").exit_code == 0
    assert zoo.KNOWN["small"].own_weights() is not None


def test_fetch_of_what_is_embedded_or_installed_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    """efficientnet-lite0 without its package: the error names the extra."""
    monkeypatch.setattr(zoo, "find_spec", lambda name: None)
    result = invoke("models", "fetch", "efficientnet-lite0", "--yes")
    assert isinstance(result.exception, ModelError)
    assert "physadv[imagenet]" in str(result.exception)


@pytest.mark.parametrize(
    ("name", "weights"),
    [("fastestdet", "fastestdet_coco.pth"), ("yolox-nano", "yolox_nano_coco.onnx")],
)
def test_a_detector_from_a_carried_file_loads_by_name(
    shared_data: Path, name: str, weights: str
) -> None:
    """The real file passes its pinned sha256, keeps its kind in the cache, and load_model(name)
    then needs no path."""
    file = shared_data / "weights" / weights
    done = invoke("models", "fetch", name, "--from", str(file), "--yes", "--json")
    assert done.exit_code == 0
    assert Path(json.loads(done.stdout)["path"]).suffix == file.suffix
    assert load_model(name).card.task == "detect"


def test_an_unknown_name_ends_with_one_line_and_exit_code_1(tmp_path: Path) -> None:
    """A misspelt name suggests the right one."""
    done = physadv(tmp_path, "models", "show", "fastesdet")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "id you mean fastestdet" in done.stderr


def findings(result: Result) -> dict[str, dict[str, str]]:
    return {f["what"]: f for f in json.loads(result.stdout)["findings"]}


def test_doctor_finds_this_installation_sound() -> None:
    """Packages, markers, the CPU and the embedded weights are in order; exit code 0; nothing is
    left behind."""
    result = invoke("doctor", "--json")
    found = findings(result)
    assert result.exit_code == 0, [f for f in found.values() if f["state"] == "broken"]
    for what in (
        "torch",
        "opencv-python",
        "aruco markers",
        "device cpu",
        "model signs",
        "runs folder",
    ):
        assert found[what]["state"] == "ok"
    assert list(Path().iterdir()) == []


def test_doctor_names_a_broken_package_and_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that cannot be imported is broken, with the command that repairs it; exit code
    1."""
    monkeypatch.setitem(doctor_command.ESSENTIAL, "no-such-package", "no_such_module")
    result = invoke("doctor", "--json")
    assert result.exit_code == 1
    assert findings(result)["no-such-package"]["remedy"] == "pip install no-such-package"


def test_doctor_notices_weights_that_are_not_the_cards(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Embedded weights that are absent, and fetched ones that were changed, are broken."""
    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path)
    changed = cache_path(zoo.fastestdet_card())
    changed.parent.mkdir(parents=True)
    changed.write_bytes(b"changed")
    result = invoke("doctor", "--json")
    assert result.exit_code == 1
    assert findings(result)["model signs"]["state"] == "broken"
    assert findings(result)["model fastestdet"]["state"] == "broken"


def test_doctor_outlives_what_it_examines(monkeypatch: pytest.MonkeyPatch) -> None:
    """An examination that itself fails is a finding, and the others still come."""
    monkeypatch.setitem(doctor_command.INSPECTIONS, "devices", lambda: iter([1 / 0]))  # type: ignore[dict-item]
    found = findings(invoke("doctor", "--json"))
    assert found["devices"]["state"] == "broken"
    assert "aruco markers" in found


def test_doctor_names_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only place for runs is broken, with the remedy."""

    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor_command.tempfile, "TemporaryFile", refuse)
    result = invoke("doctor", "--json")
    assert findings(result)["runs folder"]["state"] == "broken"
    assert "--out" in findings(result)["runs folder"]["remedy"]


NOISY = """
import os
import torch

class Net(torch.nn.Sequential):
    def forward(self, images):
        print("forward", len(images))
        return super().forward(images)

print("imported")

def make():
    print("loading my model...")
    os.write(1, b"native code\\n")
    return Net(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
"""


def test_json_has_stdout_alone_whatever_a_users_model_prints(tmp_path: Path) -> None:
    """stdout is one JSON object, although module, factory, forward and native code print; what
    they print is on stderr."""
    (tmp_path / "noisy.py").write_text(NOISY)
    command = [sys.executable, "-m", "physadv", "models", "check", "noisy:make", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert json.loads(done.stdout)["victim"] == "noisy:make"
    for said in ("imported", "loading my model...", "native code", "forward"):
        assert said in done.stderr


def test_doctor_names_three_things_to_fix_first() -> None:
    """What is broken comes first, then what most people miss; never more than three."""
    absent = [
        doctor_command.Finding(what, "absent", "none", "Install it")
        for what in reversed(doctor_command.WORTH)
    ]
    broken = doctor_command.Finding("torch", "broken", "no", "pip install torch")
    named = [finding.what for finding in doctor_command.fix_first([*absent, broken])]
    assert named == ["torch", *list(doctor_command.WORTH)[:2]]
    assert doctor_command.fix_first([doctor_command.Finding("torch", "ok", "2")]) == []
