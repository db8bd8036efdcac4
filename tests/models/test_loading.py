"""A user's own model: ten lines, TorchScript, torch.export, weights alone; and what must be
refused."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from physadv.core.errors import ModelError
from physadv.core.types import Detections
from physadv.defenses.load_model import load_model
from physadv.models.checks import check_model
from physadv.models.load import LoadedModel, as_model
from physadv.models.loading import load_state, read_state
from physadv.models.resizing import Fit

TEN_LINES = """
import torch
from physadv.models.load import as_model

class Tiny(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Conv2d(3, 8, 3, 2), torch.nn.ReLU(),
                         torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 3))

def make():
    return as_model(Tiny(), classes=["stop", "yield", "other"], mean=[0.5, 0.5, 0.5], std=0.25,
                    input_size=32)
def named(): return as_model(Tiny(), name="my net")

broken = 3
instance = Tiny()
def bare(): return Tiny()
def needs(argument): return Tiny()
def wrong(): return "a string"
"""


class Tiny(nn.Sequential):
    def __init__(self, classes: int = 3) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, 2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, classes),
        )


class Pair(nn.Module):
    """A detector of four fixed places; boxes in px of what it is given."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        side = images.shape[-1]
        corners = (
            torch.tensor([[0, 0, 1, 1], [1, 0, 2, 1], [0, 1, 1, 2], [1, 1, 2, 2]]) * side / 2.0
        )
        scores = nn.functional.adaptive_avg_pool2d(images, 2).mean(1).flatten(1)
        return corners.expand(images.shape[0], 4, 4), scores[..., None].expand(-1, -1, 2)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the user's own module, under a name of its own (modules are cached by
    name)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"own_{abs(hash(tmp_path))}.py").write_text(TEN_LINES)
    return tmp_path


def module_of(folder: Path) -> str:
    return next(folder.glob("own_*.py")).stem


def logits(model: LoadedModel, images: Tensor) -> Tensor:
    found = model(images)
    assert isinstance(found, Tensor)
    return found


def test_ten_lines_in_the_working_folder_are_a_model(folder: Path) -> None:
    """`module:factory` gives a frozen model in eval mode, with the classes it named, for images of
    any size."""
    model = load_model(f"{module_of(folder)}:make")
    assert logits(model, torch.rand(2, 3, 50, 70)).shape == (2, 3)
    assert model.card.classes == ("stop", "yield", "other")
    assert model.card.class_index("Yield") == 1
    assert model.card.input_size == (32, 32)
    assert not any(m.training for m in model.modules())
    assert not any(p.requires_grad for p in model.parameters())


def test_weights_go_into_what_the_factory_makes(folder: Path) -> None:
    """--weights with module:factory loads a state dict, wrapped by as_model or not."""
    name = module_of(folder)
    state = {k: v + 1 for k, v in load_model(f"{name}:bare").net.net.state_dict().items()}  # type: ignore[union-attr]
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, folder / "w.pth")
    for factory in ("bare", "make"):
        model = load_model(f"{name}:{factory}", weights=folder / "w.pth")
        loaded = model.net.net.state_dict()  # type: ignore[union-attr]
        assert all(torch.equal(loaded[k], v) for k, v in state.items())
        assert len(model.card.sha256) == 64


def test_a_model_of_ones_own_is_called_as_it_was_named(folder: Path) -> None:
    """Reports name it as the command line does, or as its maker did, and not by its class."""
    module = module_of(folder)
    for factory in ("bare", "make", "instance"):
        assert load_model(f"{module}:{factory}").card.name == f"{module}:{factory}"
    assert load_model(f"{module}:named").card.name == "my net"


def test_an_instance_in_the_users_module_is_left_as_it_is(folder: Path) -> None:
    """Loading `module:instance` copies: the instance keeps training mode and requires_grad."""
    name = module_of(folder)
    model = load_model(f"{name}:instance")
    import importlib

    theirs = importlib.import_module(name).instance
    assert theirs.training
    assert all(p.requires_grad for p in theirs.parameters())
    assert not any(p is q for p in theirs.parameters() for q in model.parameters())


def _prefixed(prefix: str) -> Callable[[dict[str, Tensor]], dict[str, Any]]:
    return lambda state: {prefix + k: v for k, v in state.items()}


WRAPPED: dict[str, Callable[[dict[str, Tensor]], dict[str, Any]]] = {
    "torch.compile": _prefixed("_orig_mod."),
    "parallel and compiled": _prefixed("module._orig_mod."),
    "compiled and parallel": _prefixed("_orig_mod.module."),
    "one part compiled": lambda s: {k.replace("0.", "0._orig_mod.", 1): s[k] for k in s},
    "Lightning": lambda s: {"state_dict": _prefixed("model.")(s), "epoch": 3},
    "Lightning with a metric": lambda s: {
        "state_dict": {**_prefixed("net.")(s), "f1.n": s["1.bias"]}
    },
    "averaged": lambda s: {**_prefixed("module.")(s), "n_averaged": torch.tensor(5)},
    "under net, beside numbers": lambda s: {"net": s, "acc": 91.2, "epoch": 3},
    "under a name of its own": lambda s: {"classifier": s, "epoch": 3},
    "under model, beside a table": lambda s: {"model": s, "args": {"lr": 0.1}, "ema": None},
    "averaged alone": lambda s: {"ema": _prefixed("module.")(s), "updates": 5},
    "timm's, beside its average": lambda s: {"state_dict": s, "state_dict_ema": s, "arch": "x"},
    "YOLOX, compiled": lambda s: {"start_epoch": 3, "model": _prefixed("module._orig_mod.")(s)},
    "Lightning, whole": lambda s: {
        "epoch": 1,
        "pytorch-lightning_version": "2.5",
        "state_dict": _prefixed("model._orig_mod.")(s),
        "loops": {"fit_loop": {"state_dict": {}}},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}}],
        "hyper_parameters": {"lr": 0.1},
    },
    "under two names": lambda s: {"checkpoint": {"model": s, "step": 1}},
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_what_wrappers_add_to_a_state_dict_is_taken_off(
    tmp_path: Path, wrap: Callable[[dict[str, Tensor]], dict[str, Any]]
) -> None:
    """A state dict fits whatever torch.compile, DataParallel, Lightning or a training script put
    around it."""
    state = {k: v + 1 for k, v in Tiny().state_dict().items()}
    torch.save(wrap(state), tmp_path / "w.pth")
    net = Tiny()
    load_state(net, read_state(tmp_path / "w.pth"), name="w.pth")
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())


def test_two_state_dicts_of_which_either_could_be_meant_are_refused(tmp_path: Path) -> None:
    """Generator and discriminator in one file, or two nets under prefixes: none is guessed."""
    state = Tiny().state_dict()
    torch.save({"generator": state, "discriminator": state}, tmp_path / "two.pth")
    with pytest.raises(ModelError, match="2 state dicts"):
        read_state(tmp_path / "two.pth")

    both = {**_prefixed("a.")(state), **_prefixed("b.")(state)}
    with pytest.raises(ModelError, match="do not fit"):
        load_state(Tiny(), both, name="both")


def test_an_exported_program_has_no_training_mode(tmp_path: Path) -> None:
    """The flags of an exported program's parts say nothing: in evaluation mode, none is left
    set."""
    program = torch.export.export(Tiny().eval(), (torch.rand(2, 3, 16, 16),))
    torch.export.save(program, tmp_path / "net.pt2")
    model = load_model(tmp_path / "net.pt2")
    assert not any(m.training for m in model.modules())
    assert check_model(model, torch.rand(2, 3, 16, 16)) == []


def test_a_model_in_half_precision_is_named_as_one(tmp_path: Path) -> None:
    """A float16 TorchScript model ends in one line with the number format, wherever it is run."""
    torch.jit.trace(Tiny().eval().half(), torch.rand(2, 3, 16, 16).half()).save(  # type: ignore[no-untyped-call]
        str(tmp_path / "half.ts")
    )
    model = load_model(tmp_path / "half.ts")
    for run in (model, lambda images: check_model(model, images)):
        with pytest.raises(ModelError, match=r"float16 weights: float32 is needed"):
            run(torch.rand(2, 3, 16, 16))


def test_what_a_users_model_raises_is_one_line_with_its_reason() -> None:
    """Any exception in the user's forward becomes a ModelError that quotes it; running out of
    memory stays what it is."""

    class Fails(nn.Module):
        error: Exception = KeyError("no such layer")

        def forward(self, images: Tensor) -> Tensor:
            raise self.error

    model = as_model(Fails())
    with pytest.raises(ModelError, match=r"fails on images \(1, 3, 8, 8\): KeyError: 'no such"):
        model(torch.rand(1, 3, 8, 8))
    Fails.error = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")
    with pytest.raises(RuntimeError, match="can't allocate"):
        model(torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("attribute", "said"),
    [
        ("absent", "no such attribute"),
        ("broken", "is a int"),
        ("needs", "called without arguments"),
        ("wrong", "str"),
    ],
)
def test_a_factory_that_fails_is_reported_in_one_line(
    folder: Path, attribute: str, said: str
) -> None:
    """Missing attribute, not callable, needs arguments, returns no module: ModelError that says
    which."""
    with pytest.raises(ModelError, match=said):
        load_model(f"{module_of(folder)}:{attribute}")


def test_an_unknown_module_file_or_name_is_refused(tmp_path: Path) -> None:
    """Each kind of wrong name has an error of its own, with the nearest known name."""
    with pytest.raises(ModelError, match="cannot be imported"):
        load_model("no_such_module_here:make")
    with pytest.raises(ModelError, match="no such file"):
        load_model(tmp_path / "absent.pt")
    with pytest.raises(ModelError, match="id you mean fastestdet"):
        load_model("fastestdt")


def test_wrapping_changes_nothing_of_the_users_model() -> None:
    """Training mode, requires_grad, gradients and batch-norm statistics are as before, also after a
    backward pass."""
    given = Tiny()
    given[0].weight.requires_grad_(False)
    given[5].weight.grad = torch.ones_like(given[5].weight)
    before = copy.deepcopy(given.state_dict())
    flags = [(p.requires_grad, p.grad is None) for p in given.parameters()]
    model = as_model(given, mean=0.5, std=0.25)
    images = torch.rand(2, 3, 20, 20, requires_grad=True)
    logits(model, images).sum().backward()
    assert images.grad is not None
    assert given.training
    assert [(p.requires_grad, p.grad is None) for p in given.parameters()] == flags
    assert bool((given[5].weight.grad == 1).all())
    assert all(torch.equal(before[k], v) for k, v in given.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_mean_and_std_are_in_units_of_the_unit_interval() -> None:
    """as_model(model, mean, std)(x) equals model((x - mean) / std)."""
    given = Tiny().eval()
    images = torch.rand(2, 3, 20, 20)
    mean, std = (
        torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1),
        torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1),
    )
    model = as_model(given, mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7])
    assert torch.allclose(logits(model, images), given((images - mean) / std), atol=1e-5)


def test_probabilities_become_logits_with_the_same_ranking_and_softmax() -> None:
    """outputs="probabilities": softmax of what the wrapped model returns is what the model
    returned."""
    given = nn.Sequential(Tiny(), nn.Softmax(1)).eval()
    images = torch.rand(4, 3, 20, 20)
    found = logits(as_model(given, outputs="probabilities"), images)
    assert torch.allclose(found.softmax(1), given(images), atol=1e-6)


@pytest.mark.parametrize(
    ("resize", "box"), [("letterbox", [100, 50, 200, 150]), ("stretch", [100, 50, 200, 100])]
)
def test_a_detectors_boxes_come_back_in_pixels_of_the_image_given(
    resize: Fit, box: list[float]
) -> None:
    """The lower right quarter of a 64x64 input is the image's where it was stretched; a letterbox
    has 16 px of padding above and below a 100x200 image, so that it reaches beyond."""
    model = as_model(Pair(), task="detect", input_size=64, resize=resize)
    found = model(torch.rand(2, 3, 100, 200))
    assert isinstance(found, Detections)
    assert found.boxes[1, 3].tolist() == pytest.approx(box)


@pytest.mark.parametrize("beside", [False, True])
def test_the_yolo_layout_is_read(beside: bool) -> None:
    """(b, 4 + classes, n) of center, size and scores, alone or first in a tuple, becomes corners
    and scores."""

    class Yolo(nn.Module):
        def forward(self, images: Tensor) -> object:
            row = (
                torch.tensor([32.0, 16.0, 20.0, 10.0, 0.25, 0.75]).view(1, 6, 1) + 0 * images.mean()
            )
            output = row.expand(images.shape[0], 6, 7)
            return (output, [images]) if beside else output

    found = as_model(Yolo(), task="detect", input_size=64)(torch.rand(2, 3, 64, 128))
    assert isinstance(found, Detections)
    assert found.boxes.shape == (2, 7, 4)
    assert found.boxes[1, 6].tolist() == pytest.approx([44, -10, 84, 10])
    assert found.scores[0, 0].tolist() == pytest.approx([0.25, 0.75])


def test_a_detector_of_another_kind_is_refused_with_a_remedy() -> None:
    """Lists of dictionaries after suppression are refused with what to return."""

    class After(nn.Module):
        def forward(self, images: Tensor) -> object:
            return [{"labels": images}]

    with pytest.raises(ModelError, match="before suppression"):
        as_model(After(), task="detect")(torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('mean = "grey"', "one or three numbers"),
        ("std = 0", "must be positive"),
        ("mean = [0.1, 0.2]", "one or three"),
        ('classes = "abc"', "list of names"),
        ("input_size = 22.4", "a side or"),
        ('task = "segment"', "neither classify nor detect"),
        ('outputs = "labels"', "One of logits, probabilities"),
        ("classes = [", "no valid TOML"),
    ],
)
def test_a_sidecar_that_cannot_be_meant_is_refused(tmp_path: Path, line: str, said: str) -> None:
    """Every setting has its one-line error."""
    path = tmp_path / "own.pt"
    torch.jit.script(Tiny().eval()).save(str(path))
    path.with_name("own.pt.toml").write_text(line + "\n")
    with pytest.raises(ModelError, match=said):
        load_model(path)


def test_torchscript_with_a_sidecar(tmp_path: Path) -> None:
    """A TorchScript file gives what the model gives; classes, mean, std and input size come from
    <file>.toml."""
    given = Tiny().eval()
    path = tmp_path / "own.pt"
    torch.jit.script(given).save(str(path))
    path.with_name("own.pt.toml").write_text(
        'classes = ["a", "b", "c"]\nmean = [0.5, 0.5, 0.5]\nstd = 0.25\ninput_size = 24\nlicence '
        '= "MIT"\n'
    )
    model = load_model(path)
    images = torch.rand(3, 3, 24, 24)
    assert torch.allclose(logits(model, images), given((images - 0.5) / 0.25), atol=1e-5)
    assert model.card.classes == ("a", "b", "c")
    assert model.card.licence == "MIT"
    assert logits(model, torch.rand(1, 3, 90, 40)).shape == (1, 3)
    assert not any(p.requires_grad for p in model.parameters())


def test_exported_program_of_one_image_takes_batches_of_any_size(tmp_path: Path) -> None:
    """torch.export of one 24x24 image: any batch and size is served, and the gradient reaches the
    image."""
    given = Tiny().eval()
    path = tmp_path / "own.pt2"
    torch.export.save(torch.export.export(given, (torch.rand(1, 3, 24, 24),)), path)
    model = load_model(path)
    images = torch.rand(3, 3, 24, 24, requires_grad=True)
    found = logits(model, images)
    assert torch.allclose(found, given(images), atol=1e-5)
    (gradient,) = torch.autograd.grad(found.sum(), images)
    assert float(gradient.abs().sum()) > 0
    assert model.card.input_size == (24, 24)
    assert logits(model, torch.rand(2, 3, 60, 30)).shape == (2, 3)
    assert not any(p.requires_grad for p in model.parameters())


def test_exported_program_of_a_fixed_batch_is_filled_up(tmp_path: Path) -> None:
    """Exported for batches of 4: five images are served in two pieces, and each answer is the
    image's own."""
    given = Tiny().eval()
    path = tmp_path / "four.pt2"
    torch.export.save(torch.export.export(given, (torch.rand(4, 3, 24, 24),)), path)
    images = torch.rand(5, 3, 24, 24)
    assert torch.allclose(logits(load_model(path), images), given(images), atol=1e-5)


def test_a_state_dict_alone_is_no_model(tmp_path: Path) -> None:
    """Weights without a model are refused with the remedy: name module:factory, give them with
    --weights."""
    torch.save(Tiny().state_dict(), tmp_path / "w.pth")
    with pytest.raises(ModelError, match="--weights"):
        load_model(tmp_path / "w.pth")


class Bomb:
    """Its pickle runs code when opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (self.path,))  # type: ignore[return-value]


@pytest.mark.parametrize("suffix", ["pt", "pth"])
def test_a_pickle_of_more_than_weights_is_refused_and_never_run(
    tmp_path: Path, suffix: str
) -> None:
    """A pickled module, and a pickle that would run code, raise ModelError with the remedy;
    nothing ran."""
    torch.save(Tiny(), tmp_path / f"module.{suffix}")
    torch.save({"x": Bomb(tmp_path / "ran")}, tmp_path / f"bomb.{suffix}")
    (tmp_path / f"plain.{suffix}").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    for name in ("module", "bomb", "plain"):
        with pytest.raises(ModelError, match=r"could run any code.*state_dict"):
            load_model(tmp_path / f"{name}.{suffix}")
    assert not (tmp_path / "ran").exists()


def test_damaged_files_are_told_in_one_line(tmp_path: Path) -> None:
    """An empty file, text, and a cut zip raise ModelError, not a traceback of the reader."""
    torch.jit.script(Tiny().eval()).save(str(tmp_path / "whole.pt"))
    whole = (tmp_path / "whole.pt").read_bytes()
    for name, data in (
        ("empty.pt", b""),
        ("text.pt", b"hello"),
        ("cut.pt", whole[: len(whole) // 2]),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ModelError):
            load_model(tmp_path / name)


def test_weights_that_do_not_fit_name_the_keys(folder: Path) -> None:
    """Strict loading: a missing key, an unknown key and a wrong shape are each named."""
    state = load_model(f"{module_of(folder)}:bare").net.net.state_dict()  # type: ignore[union-attr]
    state["4.weight"] = torch.zeros(4, 8)
    del state["0.bias"]
    state["9.bias"] = torch.zeros(1)
    torch.save(state, folder / "w.pth")
    with pytest.raises(ModelError, match=r"missing.*unknown.*another shape"):
        load_model(f"{module_of(folder)}:bare", weights=folder / "w.pth")


def test_class_names_are_found_or_explained() -> None:
    """Case and underscores do not matter; a near miss is suggested; a name of two classes and a
    wrong number raise."""
    card = as_model(Tiny(4), classes=["stop sign", "crane", "crane", "other"]).card
    assert card.class_index("Stop_Sign") == 0
    assert card.class_index("3") == 3
    with pytest.raises(ModelError, match="id you mean 'stop sign'"):
        card.class_index("stop signs")
    with pytest.raises(ModelError, match=r"stands for \[1, 2\]"):
        card.class_index("crane")
    with pytest.raises(ModelError, match=r"0\.\.3"):
        card.class_index(4)


def test_a_class_whose_name_is_a_number_is_found_by_it() -> None:
    """Among the speeds 20, 30 and 50 the text "30" is a name, and the number 1 an index."""
    card = as_model(Tiny(3), classes=["20", "30", "50"]).card
    assert (card.class_index("30"), card.class_index(1)) == (1, 1)
    with pytest.raises(ModelError, match=r"0\.\.2"):
        card.class_index("40")


def test_a_device_that_is_not_there_is_refused() -> None:
    """An unknown device name raises ModelError with the remedy."""
    with pytest.raises(ModelError, match="--device cpu"):
        load_model("efficientnet-lite0", device="nonsense")
