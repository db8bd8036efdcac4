"""A file names no code: whatever it is, and whichever command reads it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tomli_w
import torch
from commandline import physadv, write_colors
from torch import nn
from typer.testing import CliRunner, Result

from physadv.core.errors import BundleError, ModelError, OptionError
from physadv.core.package_data import bundle_folder
from physadv.models.faces.embedders import load_embedder
from physadv_cli.main import app

BAIT = """
from pathlib import Path
Path("ran").touch()

def make():
    from torch import nn
    Path("made").touch()
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""
DESCRIPTOR = 'size = 16\ndimension = 3\nlicense = "mine"\n'


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a stranger might have packed it: a module and models that are code."""
    folder = tmp_path_factory.mktemp("packed")
    (folder / "bait.py").write_text(BAIT, encoding="utf-8")
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    torch.jit.trace(net, torch.rand(1, 3, 8, 8)).save(folder / "bait.ts")
    program = torch.export.export(net, (torch.rand(1, 3, 8, 8),))
    torch.export.save(program, folder / "bait.pt2")
    for name in ("bait.ts", "bait.pt2"):
        shutil.copy(folder / name, folder / f"signs+{name}")
    write_colors(folder / "data", count=2, side=16, values=(0, 200), lead=20)
    (folder / "film.mp4").write_bytes(b"")
    return folder


@pytest.fixture(autouse=True)
def _inside(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test works in a copy of it."""
    shutil.copytree(packed, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")


def invoke(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def config(**values: object) -> str:
    Path("exp.toml").write_text(tomli_w.dumps(values), encoding="utf-8")
    return "exp.toml"


def refused(result: Result, name: str, error: type[Exception] = ModelError) -> None:
    """The command ended with an error that names the code, and the code did not run."""
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, error), result.exception
    assert name in str(result.exception)
    assert not Path("ran").exists()


THREAT = ("--threat", "linf:4/255", "--device", "cpu")
CODE = ["bait:make", "bait.ts", "bait.pt2"]
COMMANDS = {
    "evaluate": ("evaluate", "--data", "data", *THREAT),
    "attack": ("attack", "--attack", "fgsm", "--data", "data", *THREAT),
    "certify": ("certify", "--data", "data", *THREAT),
    "study": ("study", "photographed", "--pictures", "data/red"),
    "check": ("check", "film.mp4", "--goal", "untargeted", "--true-class", "stop"),
    "patch": ("patch", "--steps", "1"),
    "visibility": ("patch", "visibility"),
    "verify": ("patch", "verify", "stop-sticker-signs-v1", "--test-draws", "2"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", [*CODE, "bait:make+jpeg"])
def test_a_config_file_names_no_code(command: str, name: str) -> None:
    """--config with a model that is code: refused by name, in every command that has a model."""
    words = COMMANDS[command]
    result = invoke(*words, "--config", config(model=name))
    refused(result, name.partition("+")[0])
    assert "exp.toml" in str(result.exception)
    assert "--model" in str(result.exception)


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (("check",), {"source": "http://127.0.0.1:9/live"}),
        (("check", "film.mp4"), {"clean": "rtsp://me:secret@127.0.0.1:9/live"}),
        (("check", "film.mp4"), {"blank": "http://127.0.0.1:9/live"}),
        (("calibrate", "camera"), {"sources": ["http://127.0.0.1:9/board"]}),
    ],
)
def test_a_config_file_opens_no_address(words: tuple[str, ...], values: dict[str, object]) -> None:
    """Whoever wrote the file would learn that, and from where, it was used."""
    result = invoke(*words, "--config", config(**values))
    refused(result, "names the address", OptionError)
    assert "secret" not in str(result.exception)


@pytest.mark.parametrize("command", ["evaluate", "attack"])
def test_a_config_file_names_no_place_to_write(command: str) -> None:
    """--save of a run is written where it is typed, as --out is."""
    values = {"model": "signs", "save": "elsewhere"}
    result = invoke(*COMMANDS[command], "--config", config(**values))
    refused(result, "--save elsewhere", OptionError)
    assert not Path("elsewhere").exists()


@pytest.mark.parametrize(
    ("command", "values"),
    [
        ("attack", {"model": "signs", "surrogate": ["bait:make"]}),
        ("attack", {"model": "signs", "surrogate": ["bait.ts"]}),
        ("patch", {"ensemble": ["bait:make"]}),
        ("patch", {"ensemble": ["bait.ts"]}),
        ("patch", {"eot": "bait:make"}),
        ("visibility", {"eot": "bait:make"}),
        ("verify", {"eot": "bait:make"}),
    ],
)
def test_no_other_field_of_a_config_file_names_code(
    command: str, values: dict[str, object]
) -> None:
    """Surrogates, ensembles and pipelines; the test data has the classes of no built-in model."""
    if command == "attack":
        shutil.rmtree("data")
        for name in ("stop", "yield"):
            Path("data", name).mkdir(parents=True)
        write_colors(Path("noise"), count=2, side=16, values=(0, 200), lead=20)
        shutil.copy("noise/red/0.png", "data/stop/0.png")
        shutil.copy("noise/red/1.png", "data/yield/1.png")
    refused(invoke(*COMMANDS[command], "--config", config(**values)), "bait")


def test_a_config_of_transfer_names_no_code() -> None:
    """patch transfer, whose models are a list."""
    words = ("patch", "transfer", "stop-sticker-signs-v1", "--test-draws", "2")
    refused(invoke(*words, "--config", config(model=["bait:make"])), "bait:make")


def test_what_is_typed_overrules_the_file_and_runs() -> None:
    """The same name on the command line runs, and one line says that it is code."""
    words = ("models", "check", "bait:make")
    done = physadv(Path.cwd(), *words)
    assert Path("made").exists()
    assert done.stderr.count("Python code") == 1


@pytest.mark.parametrize("name", CODE)
def test_code_is_announced_once_and_trust_silences(name: str) -> None:
    """On stderr, once; with --trust not at all."""
    assert invoke("models", "show", name).stderr.count("code") == 1
    assert "--trust" in invoke("models", "show", name).stderr
    assert "code" not in invoke("models", "show", name, "--trust").stderr


@pytest.mark.parametrize("name", CODE)
def test_never_forbids_what_is_typed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """PHYSADV_TRUST=never holds against --trust as well."""
    monkeypatch.setenv("PHYSADV_TRUST", "never")
    refused(invoke("models", "show", name, "--trust"), "PHYSADV_TRUST=never")


def test_never_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 1 and one line, nothing imported."""
    monkeypatch.setenv("PHYSADV_TRUST", "never")
    done = physadv(Path.cwd(), "models", "show", "bait:make")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "PHYSADV_TRUST=never" in done.stderr
    assert not Path("ran").exists()


def bundle_with(**changes: object) -> str:
    """A ready-made bundle whose card's [optimisation] has other values, its seal taken off."""
    import tomllib

    shutil.copytree(bundle_folder(Path("stop-sticker-signs-v1")), "bundle")
    card = Path("bundle", "card.toml")
    table = tomllib.loads(card.read_text(encoding="utf-8"))
    table["patch"].pop("sha256")
    table["optimisation"] |= changes
    if "victim" in changes:
        table["victim"]["name"] = changes["victim"]
    card.write_text(tomli_w.dumps(table), encoding="utf-8")
    return "bundle"


CARDS = {
    "verify": ("patch", "verify", "bundle", "--test-draws", "2"),
    "transfer": ("patch", "transfer", "bundle", "--model", "signs", "--test-draws", "2"),
    "check": ("check", "film.mp4", "--bundle", "bundle"),
}


@pytest.mark.parametrize("command", CARDS)
@pytest.mark.parametrize("name", [*CODE, "signs+bait.ts", "signs+bait.pt2", "./bait.ts"])
def test_a_card_names_no_code(command: str, name: str) -> None:
    """The victim of a card: modules and files, even a file that is called like a defended model."""
    bundle_with(victim=name)
    refused(invoke(*CARDS[command]), name, BundleError)


@pytest.mark.parametrize("command", ["verify", "transfer"])
@pytest.mark.parametrize("changes", [{"ensemble": ["bait:make"]}, {"eot": "bait:make"}])
def test_no_other_entry_of_a_card_names_code(command: str, changes: dict[str, object]) -> None:
    """Further victims and the pipeline."""
    bundle_with(**changes)
    refused(invoke(*CARDS[command]), "bait:make", BundleError)


@pytest.mark.parametrize("words", [("patch", "show"), ("report",)])
def test_a_card_is_shown_without_its_model(words: tuple[str, ...]) -> None:
    """patch show and report read the name and load nothing."""
    bundle_with(victim="bait:make")
    assert invoke(*words, "bundle").exit_code == 0
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    "line", ['factory = "bait:make"', 'weights = "bait.ts"', 'weights = "bait.pt2"']
)
def test_a_descriptor_of_a_face_model_names_no_code(line: str) -> None:
    """A net that a descriptor names runs only once the user names it too."""
    Path("face.toml").write_text(f"{line}\n{DESCRIPTOR}", encoding="utf-8")
    name = line.split('"')[1]
    with pytest.raises(ModelError, match=f"--embedder-weights face.toml={name}"):
        load_embedder("face.toml")
    assert not Path("ran").exists()
    assert load_embedder("face.toml", weights=name).card.name == "face"


def test_a_sidecar_names_no_code() -> None:
    """The table beside a model file chooses among the package's own architectures."""
    from safetensors.torch import save_file

    save_file({"w": torch.ones(1)}, "net.safetensors")
    lines = [
        'architecture = "bait:make"',
        'classes = ["a", "b"]',
        "input_size = 16",
        "channels = 3",
    ]
    Path("net.safetensors.toml").write_text("\n".join(lines), encoding="utf-8")
    result = invoke("models", "show", "net.safetensors")
    refused(result, "net.safetensors")
