"""Certification from Python: a configuration gives the rows and rates that the command gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torch import nn

from physadv.certification.config import CertifyConfig
from physadv.core.errors import OptionError
from physadv.evaluation.certification_task import CertificationTask
from physadv.evaluation.progress_log import ProgressLog


class Brightest(nn.Module):
    """A linear model: the class is the channel with the largest mean."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.flat = nn.AdaptiveAvgPool2d(1), nn.Flatten()

    def forward(self, x):  # type: ignore[no-untyped-def]
        """Logits (b, 3)."""
        return self.flat(self.pool(x))


def make() -> Brightest:
    """Return the model, as ``module:factory`` names it."""
    return Brightest()


@pytest.fixture
def colors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Six images whose leading channel is 1, 3, 5 ... above the others, in 255ths."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    images = np.full((6, 8, 8, 3), 100, np.uint8)
    for number in range(6):
        images[number, ..., number % 3] += 2 * number + 1
    file = tmp_path / "colors.npz"
    np.savez(file, test_images=images, test_labels=np.arange(6) % 3)
    return str(file)


def config(data: str, **changes: object) -> CertifyConfig:
    values = {"model": f"{Path(__file__).stem}:make", "data": data, "method": "ibp", **changes}
    return CertifyConfig.from_table(values)


def test_bounds_certify_exactly_what_the_margin_allows(colors: str, tmp_path: Path) -> None:
    """A lead of more than twice the radius is certified; the log in a folder resumes to it."""
    task = CertificationTask.from_config(config(colors, threat="linf:2/255", curve="none"))
    log = ProgressLog(None)
    steps = list(task.run(log))
    assert (steps[0].done, steps[-1].done, steps[-1].total) == (0, 6, 6)
    assert task.certified_share(log) == pytest.approx(4 / 6)
    result = task.result(log)
    assert result["certified_accuracy"]["rate"] == pytest.approx(4 / 6)
    assert result["complete"]

    kept = task.open_log(tmp_path / "run")
    list(task.run(kept))
    assert [step.done for step in task.run(task.open_log(tmp_path / "run"))] == [6]
    other = CertificationTask.from_config(config(colors, threat="linf:1/255", curve="none"))
    with pytest.raises(OptionError, match="Name another"):
        other.open_log(tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "--threat"),
        ({"threat": "linf"}, "--threat"),
        ({"threat": "l1:3"}, "smoothing for l1"),
        ({"method": "patch", "threat": "linf:0.1"}, "size of the patch"),
        ({"method": "bounds"}, "one of smoothing"),
    ],
)
def test_a_threat_that_a_method_cannot_certify_is_refused(
    colors: str, changes: dict[str, object], words: str
) -> None:
    """Bounds need a radius in their norms, patch defenses bring their own, and methods have
    names."""
    with pytest.raises(OptionError, match=words):
        CertificationTask.from_config(config(colors, **changes))


def test_a_model_read_otherwise_is_another_certification(colors: str, tmp_path: Path) -> None:
    """Rows of a network that was given images less another mean are not resumed."""
    common = {"threat": "linf:2/255", "curve": "none"}
    CertificationTask.from_config(config(colors, **common)).claim(tmp_path)
    other = CertificationTask.from_config(config(colors, **common, mean="0.1"))
    with pytest.raises(OptionError, match="model_settings"):
        other.claim(tmp_path)
