"""A run goes on with the images and labels that it began with, wherever these lie."""

from __future__ import annotations

import io
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import nn

from physadv.certification.config import CertifyConfig
from physadv.core.errors import DataError, OptionError
from physadv.core.shards import Shard
from physadv.datasets.detection import detection_in_memory
from physadv.evaluation.certification_task import CertificationTask
from physadv.evaluation.detection_samples import open_detection_samples
from physadv.evaluation.evaluate import prepare_evaluation
from physadv.evaluation.merge_runs import merge_runs
from physadv.evaluation.progress_log import claim_folder
from physadv.evaluation.recorded_samples import sample_rows
from physadv.models.cards import ModelCard

SIDE = 8
CHANGED = 3
"""Number of the image that is replaced."""


def pictures(*, changed: bool) -> list[np.ndarray[Any, Any]]:
    """Six images of noise; one of them another, of the same size."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8) for _ in range(6)]
    if changed:
        images[CHANGED] = images[CHANGED].copy()
        images[CHANGED][0, 0] ^= 1
    return images


def files(*, changed: bool) -> dict[str, bytes]:
    """The images as files of two class folders; all have the same number of bytes."""
    made = {}
    for number, image in enumerate(pictures(changed=changed)):
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "bmp")
        made[f"{'ab'[number % 2]}/{number}.bmp"] = stream.getvalue()
    return made


def folder(target: Path, *, changed: bool) -> Path:
    for name, data in files(changed=changed).items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(data)
    return target


def zipped(target: Path, *, changed: bool) -> Path:
    file = target.with_suffix(".zip")
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in files(changed=changed).items():
            archive.writestr(name, data)
    return file


def tarred(target: Path, *, changed: bool) -> Path:
    file = target.with_suffix(".tar")
    with tarfile.open(file, "w") as archive:
        for name, data in files(changed=changed).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file


def shards(target: Path, *, changed: bool) -> Path:
    file = target.with_suffix(".tar")
    with tarfile.open(file, "w") as archive:
        for number, data in enumerate(files(changed=changed).values()):
            label = str(number % 2).encode()
            for name, content in ((f"{number}.bmp", data), (f"{number}.cls", label)):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return file


def listed(target: Path, *, changed: bool) -> Path:
    folder(target, changed=changed)
    names = files(changed=changed)
    (target / "list.csv").write_text("".join(f"{name},{name[0]}\n" for name in names))
    return target / "list.csv"


def array(target: Path, *, changed: bool) -> Path:
    file = target.with_suffix(".npz")
    labels = np.arange(6) % 2
    np.savez(file, images=np.stack(pictures(changed=changed)), labels=labels)
    return file


def table(target: Path, *, changed: bool) -> Path:
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    images = [{"bytes": data, "path": None} for data in files(changed=changed).values()]
    rows = arrow.table({"image": images, "label": [0, 1] * 3})
    pyarrow.parquet.write_table(rows, target.with_suffix(".parquet"))
    return target.with_suffix(".parquet")


def classifier() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 2))


FORMS: list[Callable[..., Path]] = [folder, zipped, tarred, shards, listed, array, table]


@pytest.mark.parametrize("write", FORMS, ids=lambda form: form.__name__)
def test_an_image_replaced_under_its_name_is_told_by_its_name(
    tmp_path: Path, write: Callable[..., Path]
) -> None:
    """The same files go on; one of other contents under the same name, of the same number of
    bytes, is refused, and goes on once it is put back."""
    net, out = classifier(), tmp_path / "run"
    out.mkdir()
    data = write(tmp_path / "data", changed=False)

    def claim() -> None:
        prepare_evaluation(net, data, attack="fgsm", split=None).claim(out)

    claim()
    claim()
    write(tmp_path / "data", changed=True)
    with pytest.raises(OptionError, match=rf'other contents of ".*{CHANGED}[^"]*": .* Put them'):
        claim()
    write(tmp_path / "data", changed=False)
    claim()


def test_a_label_changed_in_a_listing_is_told(tmp_path: Path) -> None:
    """Figures of the old label are not told as those of the new one."""
    net, data = classifier(), listed(tmp_path / "data", changed=False)
    prepare_evaluation(net, data, attack="fgsm").claim(tmp_path)
    data.write_text(data.read_text().replace("b/3.bmp,b", "b/3.bmp,a"))
    with pytest.raises(OptionError, match=r'another label of "b/3.bmp"'):
        prepare_evaluation(net, data, attack="fgsm").claim(tmp_path)


def test_shards_of_other_images_are_not_merged(tmp_path: Path) -> None:
    """Two shards of one data set, of which one image was replaced between them."""
    net = classifier()
    for number in (1, 2):
        data = folder(tmp_path / "data", changed=number == 2)
        task = prepare_evaluation(net, data, attack="fgsm", split=None, batch_size=2)
        (tmp_path / str(number)).mkdir()
        list(task.start(tmp_path / str(number), shard=Shard(number, 2)).run())
    with pytest.raises(DataError, match=r'other contents of "b/3.bmp"'):
        merge_runs([tmp_path / "1", tmp_path / "2"], tmp_path / "merged")


def test_a_merged_run_knows_its_images(tmp_path: Path) -> None:
    """What is merged of shards names the changed image as well."""
    net, data = classifier(), folder(tmp_path / "data", changed=False)
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        task = prepare_evaluation(net, data, attack="fgsm", split=None, batch_size=2)
        list(task.start(tmp_path / str(number), shard=Shard(number, 2)).run())
    merge_runs([tmp_path / "1", tmp_path / "2"], tmp_path / "merged")
    folder(tmp_path / "data", changed=True)
    task = prepare_evaluation(net, data, attack="fgsm", split=None, batch_size=2)
    with pytest.raises(OptionError, match=r'other contents of "b/3.bmp"'):
        task.claim(tmp_path / "merged")


def test_a_certification_knows_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of certify is refused on a file replaced under its name."""
    (tmp_path / "pair_of_classes.py").write_text(
        "from torch import nn\n"
        f"def make(): return nn.Sequential(nn.Flatten(), nn.Linear({3 * SIDE * SIDE}, 2))\n"
    )
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    data = folder(tmp_path / "data", changed=False)
    config = CertifyConfig(
        model="pair_of_classes:make", data=str(data), threat="linf:0.01", method="ibp", seed=1
    )

    def claim() -> None:
        import torch

        torch.manual_seed(0)
        CertificationTask.from_config(config).claim(tmp_path / "run")

    claim()
    claim()
    folder(tmp_path / "data", changed=True)
    with pytest.raises(OptionError, match=r'other contents of "b/3.bmp"'):
        claim()


def test_a_detectors_run_knows_its_images_and_boxes(tmp_path: Path) -> None:
    """Another picture and another box are both other contents."""

    def rows(side: float, *, changed: bool) -> list[dict[str, Any]]:
        images = pictures(changed=changed)
        boxes = [np.array([[0, 0, 4, side]], np.float32)] * 6
        data = detection_in_memory(images, boxes, [np.array([0])] * 6, ("a",))
        return sample_rows(open_detection_samples(data, ModelCard("m", classes=("a",))))

    claim_folder(tmp_path, {"seed": 0}, rows(4, changed=False))
    assert claim_folder(tmp_path, {"seed": 0}, rows(4, changed=False))
    with pytest.raises(OptionError, match=rf'other contents of "#{CHANGED}"'):
        claim_folder(tmp_path, {"seed": 0}, rows(4, changed=True))
    with pytest.raises(OptionError, match='other contents of "#0" and 5 more'):
        claim_folder(tmp_path, {"seed": 0}, rows(5, changed=False))


def test_boxes_in_label_files_are_contents_of_a_detectors_images(tmp_path: Path) -> None:
    """A YOLO set: a label file that is rewritten makes another image of it, others stay."""
    data = tmp_path / "set"
    (data / "images").mkdir(parents=True)
    (data / "labels").mkdir()
    for number, content in enumerate(files(changed=False).values()):
        (data / f"images/{number}.bmp").write_bytes(content)
        (data / f"labels/{number}.txt").write_text("0 0.5 0.5 0.5 0.5\n")

    def digests() -> list[str]:
        card = ModelCard("m", classes=("0",))
        return [row["digest"] for row in sample_rows(open_detection_samples(data, card))]

    before = digests()
    assert digests() == before
    (data / "labels/2.txt").write_text("0 0.5 0.5 0.5 0.6\n")
    assert [old == new for old, new in zip(before, digests(), strict=True)].count(False) == 1


def test_a_folder_without_a_record_of_images_goes_on(tmp_path: Path) -> None:
    """Runs of versions that recorded none are resumed as before; a lost record is told in general
    words."""
    net, data = classifier(), folder(tmp_path / "data", changed=False)
    task = prepare_evaluation(net, data, attack="fgsm", split=None)
    claim_folder(tmp_path, {**task.facts, **task.identity})
    task.claim(tmp_path)

    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    (tmp_path / "run").mkdir()
    task.claim(tmp_path / "run")
    (tmp_path / "run/samples.jsonl").unlink()
    task.claim(tmp_path / "run")
    folder(tmp_path / "data", changed=True)
    with pytest.raises(OptionError, match="other images"):
        prepare_evaluation(net, data, attack="fgsm", split=None).claim(tmp_path / "run")
