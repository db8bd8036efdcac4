"""The interface from Python: what is exported, that it is documented, and that its examples run."""

from __future__ import annotations

import doctest
import inspect
import os
import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import physadv
from physadv import attacks, eot
from physadv.core.config import Config
from physadv.eot.stage import Stage, StageRanges

EXPORTS = [
    "AttackResult",
    "AutoAttack",
    "BoundCertificates",
    "BundleError",
    "CalibrationError",
    "CaptureError",
    "CheckResult",
    "CloakResult",
    "DataError",
    "Detections",
    "DetectorResult",
    "EotRanges",
    "EvaluationResult",
    "GeometryError",
    "ImageError",
    "LoadedModel",
    "LpBall",
    "ModelCard",
    "ModelError",
    "OptionError",
    "PatchBundle",
    "PatchConfig",
    "PhysadvError",
    "Pipeline",
    "RateInterval",
    "SmoothingCertificates",
    "__version__",
    "apgd",
    "as_model",
    "attacks",
    "benchmark",
    "certify_bounds",
    "certify_smoothing",
    "check",
    "cloak_photo",
    "eot",
    "eot_preset",
    "evaluate",
    "evaluate_detector",
    "fgsm",
    "list_models",
    "load_model",
    "make_patch",
    "pgd",
    "read_bundle",
    "read_dataset",
    "read_detection_dataset",
    "render_patch",
    "square_attack",
]


def exported() -> list[tuple[str, Any]]:
    """Everything public with its full name, once."""
    found: dict[str, Any] = {}
    for module in (physadv, attacks):
        for name in module.__all__:
            value = getattr(module, name)
            if not isinstance(value, str) and value not in (attacks, eot):
                found[f"{module.__name__}.{name}"] = value
    return list({id(value): (name, value) for name, value in reversed(found.items())}.values())


NAMED = exported()


def test_the_exports_are_these() -> None:
    """A name that is added or dropped is a change of the interface, to be made on purpose."""
    assert sorted(physadv.__all__) == sorted(EXPORTS)
    assert dir(physadv) == sorted(physadv.__all__)
    assert dir(attacks) == sorted(attacks.__all__)


@pytest.mark.parametrize(("name", "value"), NAMED, ids=[name for name, _ in NAMED])
def test_every_export_is_documented(name: str, value: Any) -> None:
    """Every parameter is named in the docstring, functions say what they return, and all have an
    example."""
    text = inspect.getdoc(value) or ""
    assert ">>>" in text
    if isinstance(value, type) and issubclass(value, Config):
        assert all(note.help for _, note in value.documented_fields().values())
        return
    if isinstance(value, type) and issubclass(value, eot.EotRanges):
        return  # its fields are those of the stages, whose docstrings name them

    names = [
        parameter.name
        for parameter in inspect.signature(value).parameters.values()
        if parameter.name not in ("self", "args", "kwargs", "options")
    ]
    missing = [parameter for parameter in names if parameter not in text]
    assert not missing
    if isinstance(value, ModuleType) or not isinstance(value, type):
        assert "Returns:" in text or "Return " in text
    if len(names) >= 3:
        assert "Args:" in text or "Attributes:" in text


@pytest.mark.parametrize(("name", "value"), NAMED, ids=[name for name, _ in NAMED])
def test_every_example_runs(
    name: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Examples of exports do what they show, without network or further weights, and write
    nowhere but where they are told."""
    monkeypatch.chdir(tmp_path)
    home = value if isinstance(value, ModuleType) else import_module(value.__module__)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL)
    text = inspect.getdoc(value) or ""
    case = doctest.DocTestParser().get_doctest(text, vars(home).copy(), name, None, None)
    assert case.examples
    shown: list[str] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # an example's draws must not depend on the tests before it
        runner.run(case, out=shown.append)
    assert runner.failures == 0, "".join(shown)
    assert list(tmp_path.iterdir()) == []


def test_every_other_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples of what is no export, too: a reader copies them all the same."""
    monkeypatch.chdir(tmp_path)
    exported = {
        f"{value.__module__}.{value.__qualname__}"
        for _, value in NAMED
        if not isinstance(value, ModuleType)
    }
    finder, shown = doctest.DocTestFinder(), list[str]()
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL)
    for module in walk_packages(physadv.__path__, "physadv."):
        if module.name.endswith("__main__"):
            continue
        for case in finder.find(import_module(module.name)):
            if case.examples and case.name not in exported:
                with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    torch.manual_seed(0)
                    runner.run(case, out=shown.append)
    assert runner.failures == 0, "".join(shown)
    assert runner.tries > 800
    assert list(tmp_path.iterdir()) == []


def test_the_room_of_checks_can_be_called_however_it_was_imported() -> None:
    """physadv.check is the package and the function, also after its modules were imported."""
    import physadv.check.rates

    assert callable(physadv.check)
    assert physadv.check.rates.tabulate_rates([]) == {}
    with pytest.raises(physadv.OptionError, match="bundle"):
        physadv.check("clip.mp4", model="signs")


def test_stages_of_ones_own_need_nothing_but_the_interface() -> None:
    """A module of the user's stands in a pipeline, and a patch is shown through it with
    gradients."""

    class Dim(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return 0.5 * images

    ranges = physadv.eot_preset("default")
    pipeline = eot.Pipeline([*eot.Pipeline.from_ranges(ranges).stages.values(), Dim()])
    patch = torch.rand(3, 8, 8, requires_grad=True)
    images = torch.full((2, 3, 48, 48), 0.5)
    corners = np.array([[10, 10], [38, 10], [38, 38], [10, 38]])
    shown = physadv.render_patch(patch, images, corners, eot=pipeline)
    assert shown.shape == (2, 3, 48, 48)
    assert float(shown.max()) <= 0.51
    shown.sum().backward()
    assert patch.grad is not None
    assert float(patch.grad.abs().sum()) > 0
    assert issubclass(eot.LensBlur, Stage)
    assert issubclass(eot.StageRanges, StageRanges)


def test_an_attack_loop_of_ones_own_needs_nothing_but_the_interface() -> None:
    """Signed steps projected by LpBall break what the exported attack breaks, and never leave the
    ball."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    images = torch.rand(8, 3, 4, 4)
    labels = net(images).argmax(1)
    ball = physadv.LpBall("Linf", 0.1)
    x = images.clone()
    for _ in range(20):
        x.requires_grad_()
        loss = nn.functional.cross_entropy(net(x), labels, reduction="sum")
        (slope,) = torch.autograd.grad(loss, x)
        x = ball.project((x + 0.02 * slope.sign()).detach(), images)
    mine = net(x).argmax(1) != labels
    theirs = physadv.pgd(net, images, labels, eps=0.1).success
    assert float(ball.violation(x, images).max()) == 0
    assert int(mine.sum()) >= int(theirs.sum()) - 1


def test_shapes_are_checked_where_they_are_annotated(tmp_path: Path) -> None:
    """With jaxtyping's import hook and beartype the examples still run, and a wrong shape is an
    error."""
    code = """
from jaxtyping import install_import_hook
with install_import_hook(
    ["physadv.certification.certify_images", "physadv.core.boxes", "physadv.core.types",
     "physadv.patches.make_patch"],
    "beartype.beartype",
):
    import physadv.certification.certify_images as certify
    import physadv.core.boxes as boxes
    import physadv.patches.make_patch as make
import doctest
import torch
for module in (certify, boxes):
    assert doctest.testmod(module).failed == 0, module
make.render_patch(torch.ones(3, 4, 4), torch.zeros(1, 3, 8, 8), [[1, 1], [6, 1], [6, 6], [1, 6]])
try:
    boxes.box_iou(torch.zeros(2, 4), torch.zeros(2, 5))
except Exception as error:
    assert "box_iou" in str(error)
else:
    raise SystemExit("a box of five numbers was taken")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_page_on_the_interface_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example of docs/api.md gives what it shows, and nothing is left in the folder."""
    page = Path(__file__).resolve().parents[1] / "docs" / "api.md"
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testfile(str(page), module_relative=False)
    assert tried > 20
    assert failed == 0
    assert list(tmp_path.iterdir()) == []
