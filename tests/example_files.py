"""Small files under the names that the examples of help and docs use."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from cifar_records import write_cifar
from idx_files import idx
from PIL import Image
from press_profiles import cmyk_profile
from reference_server import CLASSIFY
from small_commands import SMALL_COMMANDS, write_inputs
from torch import nn

from physadv.calibration.color_chart import write_chart
from physadv.core.package_data import bundle_folder

Maker = Callable[[Path, "Pool"], None]
_MODELS = """\
import torch
from physadv import as_model

def make(weights=None):
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.AdaptiveAvgPool2d(8), torch.nn.Flatten(), torch.nn.Linear(192, 3))
    return as_model(net, classes=["stop", "yield", "poster"])

net = make
"""
_PROPERTY = """\
(declare-const X_0 Real)
(declare-const X_1 Real)
(declare-const Y_0 Real)
(declare-const Y_1 Real)
(assert (>= X_0 -1))
(assert (<= X_0 1))
(assert (>= X_1 -1))
(assert (<= X_1 1))
(assert (>= Y_0 1000))
"""


class Pool:
    """A folder in which each file of the examples is made once, when it is first asked for.

    Args:
        folder: where they lie.
        shared: the real data of the project, for weights; None where there is none.
        run: runs a command in a folder: ``run(folder, words, out)``.
    """

    def __init__(
        self,
        folder: Path,
        shared: Path | None,
        run: Callable[[Path, tuple[str, ...], Path], None],
    ) -> None:
        self.folder, self.shared, self.run = folder, shared, run

    def made(self, name: str) -> Path:
        """Return the file or folder ``name`` of this pool."""
        made = self.folder / name
        if not made.exists():
            made.parent.mkdir(parents=True, exist_ok=True)
            FILES[name](made, self)
        return made

    def copy(self, name: str, folder: Path, own: Maker | None = None) -> None:
        """Put the file or folder ``name`` below ``folder``; ``own`` makes another of that name."""
        target = folder / name
        if own is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            own(target, self)
            return
        made = self.made(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if made.is_dir():
            shutil.copytree(made, target, dirs_exist_ok=True)
        else:
            shutil.copy(made, target)


def _pixels(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def _pictures(side: int = 64, count: int = 2, suffix: str = ".png") -> Maker:
    def make(target: Path, pool: Pool) -> None:
        target.mkdir()
        for number in range(count):
            Image.fromarray(_pixels(number, side, side, 3)).save(target / f"{number}{suffix}")

    return make


def _signs(target: Path, pool: Pool) -> None:
    """Drawn faces of a sign, each filling its picture."""
    target.mkdir()
    for number in range(2):
        pixels = np.full((96, 96, 3), 235, np.uint8)
        pixels[16:80, 16:80] = (200, 20 + 30 * number, 30)
        Image.fromarray(pixels).save(target / f"{number}.png")


def class_folders(target: Path, pool: Pool) -> None:
    for number, name in enumerate(("stop", "yield", "poster")):
        (target / name).mkdir(parents=True)
        for shot in range(2):
            pixels = _pixels(shot, 16, 16, 3) // 2
            pixels[..., number] += 100
            Image.fromarray(pixels).save(target / name / f"{shot}.png")


def _digits(target: Path, pool: Pool) -> None:
    target.mkdir()
    for part, count in (("train", 200), ("t10k", 80)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = np.zeros((count, 28, 28), np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[:, 2 * label + 2 : 2 * label + 6] = 220
        (target / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (target / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))


def _cifar(target: Path, pool: Pool) -> None:
    folder = target.parent / "cifar"
    for name in (*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"):
        write_cifar(folder, name, [k % 10 for k in range(60)])
    shutil.make_archive(str(target.with_suffix("")), "zip", folder)


def _faces(target: Path, pool: Pool) -> None:
    """Two drawn photos of each of three people, in files."""
    world = _world(target.parent)
    shutil.copytree(world / ("cloaked" if "cloaked" in target.name else "faces"), target)


def _world(folder: Path) -> Path:
    """The inputs of small_commands, made once below a folder."""
    world = folder / ".world"
    if not world.exists():
        world.mkdir()
        write_inputs(world)
    return world


def _people(target: Path, pool: Pool) -> None:
    """A folder a person."""
    from tinyface import drawn_photo, face_at

    for person in range(3):
        (target / f"p{person}").mkdir(parents=True)
        for shot in range(3):
            photo = drawn_photo(96, 96, face_at(24, 24, 48), person=9 + person, shot=shot)
            Image.fromarray(photo).save(target / f"p{person}" / f"{shot}.jpg", quality=95)


def _measured(target: Path, pool: Pool) -> None:
    source = bundle_folder(Path("stop-sticker-signs-v1"))
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("sheet*"))


def _ran(*words: str, needs: tuple[str, ...] = ()) -> Maker:
    """What a command leaves."""

    def make(target: Path, pool: Pool) -> None:
        for name in needs:
            pool.made(name)
        pool.run(pool.folder, words, target)

    return make


def _film(target: Path, pool: Pool) -> None:
    """Pictures of a clip of each block, named by their block."""
    target.mkdir()
    for block in ("clean", "blank", "patch"):
        for number in range(2):
            name = f"{block}-{number}.png"
            Image.fromarray(_pixels(number, 480, 640, 3)).save(target / name)


def _text(words: str) -> Maker:
    return lambda target, pool: (target.write_text(words), None)[1]


def _prepared(name: str, source: str) -> Maker:
    """What small_commands prepares for the command ``name``, by its name there."""

    def make(target: Path, pool: Pool) -> None:
        prepare = SMALL_COMMANDS[name].prepare
        assert prepare is not None
        folder = pool.folder / f".{name.replace(' ', '-')}"
        if not folder.exists():
            folder.mkdir()
            prepare(folder)
        made = folder / source
        shutil.copytree(made, target) if made.is_dir() else shutil.copyfile(made, target)

    return make


def _weights(name: str) -> Maker:
    def make(target: Path, pool: Pool) -> None:
        assert pool.shared is not None
        shutil.copyfile(pool.shared / "weights" / name, target)

    return make


def _scripted(target: Path, pool: Pool) -> None:
    net = nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(192, 44))
    torch.jit.trace(net.eval(), torch.rand(1, 3, 64, 64)).save(str(target))


def _onnx(columns: int, classes: int, *shape: int) -> Maker:
    """A linear net of ``shape`` without the batch, as an ONNX file."""

    def make(target: Path, pool: Pool) -> None:
        weights = np.random.default_rng(0).normal(size=(columns, classes)).astype(np.float32)
        nodes = [
            helper.make_node("Flatten", ["x"], ["a"]),
            helper.make_node("MatMul", ["a", "w"], ["y"]),
        ]
        graph = helper.make_graph(
            nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", *shape))],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n", classes))],
            [numpy_helper.from_array(weights, "w")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
        model.ir_version = 9
        target.write_bytes(model.SerializeToString())

    from onnx import TensorProto, helper, numpy_helper

    return make


def _photo_chart(number: int) -> Maker:
    return _prepared("calibrate fit", f"chart-{number}.jpg")


def _other_chart(target: Path, pool: Pool) -> None:
    """A photo of set 2 of the colors, which a map is checked on."""
    from guided_films import frame, page_picture

    page = target.with_suffix(".pdf")
    write_chart(page, 2)
    pixels = frame(page_picture(page), (0.0, 0.0, 90.0, 330.0, 0.0, 0.0), seed=2)
    Image.fromarray(pixels).save(target, quality=95)


def stop_photos(target: Path, pool: Pool) -> None:
    """Real photos of stop signs, with their boxes."""
    assert pool.shared is not None
    shutil.copytree(pool.shared / "stop-photos/stop", target)
    boxes = Path(__file__).parents[1] / "benchmarks/stop-photos-boxes.csv"
    shutil.copyfile(boxes, target / "boxes.csv")


def drawings(target: Path, pool: Pool) -> None:
    """Round signs of many colors, with transparency around them."""
    target.mkdir()
    y, x = np.mgrid[:96, :96] - 47.5
    for number in range(27):
        pixels = np.zeros((96, 96, 4), np.uint8)
        pixels[np.hypot(x, y) < 46] = (*(125 * (number // 3**k % 3) for k in range(3)), 255)
        Image.fromarray(pixels).save(target / f"{number}.png")


def named_script(target: Path, pool: Pool) -> None:
    """A TorchScript file with the names of its classes beside it."""
    _scripted(target, pool)
    names = ", ".join(f'"{name}"' for name in ("stop", *(f"class {k}" for k in range(1, 44))))
    target.with_name(f"{target.name}.toml").write_text(f"classes = [{names}]\n")


def own_weights(target: Path, pool: Pool) -> None:
    """Weights of the linear layer of my_models."""
    torch.save({"2.weight": torch.rand(3, 192), "2.bias": torch.zeros(3)}, target)


def numbered_classes(target: Path, pool: Pool) -> None:
    """A folder of pictures a class, by its number."""
    class_folders(target, pool)
    for number, name in enumerate(("stop", "yield", "poster")):
        (target / name).rename(target / str(number))


def _street_objects(target: Path, pool: Pool) -> None:
    """Four photos with the box of a person each, as YOLO keeps them."""
    for folder in ("images", "labels"):
        (target / folder).mkdir(parents=True)
    for number in range(4):
        Image.fromarray(_pixels(number, 352, 352, 3)).save(target / "images" / f"{number}.png")
        (target / "labels" / f"{number}.txt").write_text("0 0.5 0.5 0.5 0.8\n")
    (target / "data.yaml").write_text("names: [person]\ntrain: images\nval: images\n")


def _boxed(target: Path, pool: Pool) -> None:
    """Two photos with a box each in boxes.csv."""
    target.mkdir()
    for number in range(2):
        Image.fromarray(_pixels(number, 352, 352, 3)).save(target / f"{number}.png")
    rows = "".join(f"{n}.png,90,60,250,220,person\n" for n in range(2))
    (target / "boxes.csv").write_text(f"file,x0,y0,x1,y1,label\n{rows}")


def _program(target: Path, pool: Pool) -> None:
    target.write_text(f"#!{sys.executable}\n{CLASSIFY}")
    target.chmod(0o755)


def _sticker(target: Path, pool: Pool) -> None:
    """A sticker of two steps."""
    made = pool.folder / ".sticker"
    if not made.exists():
        small = ("--steps", "2", "--draws", "4", "--test-draws", "4", "--force")
        pool.run(pool.folder, ("patch", *small), made)
    shutil.copytree(made, target)


def recorded_sticker(target: Path, pool: Pool) -> None:
    """A sticker whose card tells how it transfers."""
    _sticker(target, pool)
    words = ("patch", "transfer", str(target), "--model", "signs", "--test-draws", "4")
    pool.run(pool.folder, (*words, "--record"), pool.folder / f".recorded-{target.name}")


def album(target: Path, pool: Pool) -> None:
    """Drawn photos of faces, one of them called IMG_1.jpg."""
    _faces(target, pool)
    shutil.copyfile(target / "a-0.jpg", target / "IMG_1.jpg")


def cloaked_album(target: Path, pool: Pool) -> None:
    """What `physadv cloak` makes of the photos of :func:`album`."""
    originals = target.parent / ".originals" / "photos"
    originals.parent.mkdir()
    album(originals, pool)
    pool.run(target.parent, ("cloak", str(originals), "--threads", "1"), target)


def _one_photo(target: Path, pool: Pool) -> None:
    """A drawn photo of a face."""
    shutil.copyfile(_world(target.parent) / "faces" / "a-0.jpg", target)


def _instances(target: Path, pool: Pool) -> None:
    """A list of one property and its network."""
    target.mkdir(parents=True)
    for name in ("net.onnx", "property.vnnlib"):
        pool.copy(name, target)
    (target / "instances.csv").write_text("net.onnx,property.vnnlib,12\n")


_SHARD = ("attack", "--data", "data.npz", "--model", "own:make", "--attack", "pgd", "--steps", "2")
_EVALUATE = (
    "evaluate",
    "--data",
    "data.npz",
    "--model",
    "own:make",
    "--eps",
    "8/255",
    "--limit",
    "4",
)
_OWN = ("data.npz", "own.py")
_TWIN = ("twin", "my-patch", "--clips", "1", "--frames", "2", "--frame-size", "320x240")


def _of_small_commands(target: Path, pool: Pool) -> None:
    """A file that small_commands writes."""
    shutil.copyfile(_world(target.parent) / target.name, target)


FILES: dict[str, Maker] = {
    **dict.fromkeys(("data.npz", "own.py"), _of_small_commands),
    **dict.fromkeys(("my_models.py", "mine.py"), _text(_MODELS)),
    **dict.fromkeys(("my-patch", "my-sticker", "sticker", "hide-the-sign"), _sticker),
    **dict.fromkeys(("runs/stop", "runs/a", "runs/b", "runs/my-sticker"), _sticker),
    "patches/stop-sticker-signs-v1": _measured,
    **dict.fromkeys(("photos", "posters"), _boxed),
    **dict.fromkeys(("streets", "backgrounds", "drawings"), _signs),
    "stop-photos": stop_photos,
    "experiments": _ran(*_EVALUATE, needs=_OWN),
    "net.pth": _weights("wongkolter_mnist_eps01.pth"),
    "benchmarks/mnistfc": _instances,
    "signs": class_folders,
    "test": class_folders,
    "mnist": _digits,
    "cifar10.zip": _cifar,
    **dict.fromkeys(("gtsrb.zip", "gtsrb-train.zip"), _prepared("train signs", "gtsrb.zip")),
    "coco128": _street_objects,
    "map.toml": _text('stop = "stop"\nyield = "yield"\nposter = "background"\n'),
    "films": _film,
    **dict.fromkeys(("faces", "photos-cloaked", "cloaked"), _faces),
    **dict.fromkeys(("me-1.jpg", "me-2.jpg", "me-3.jpg"), _one_photo),
    "older-photos": _faces,
    "other-people": _people,
    "decoys": _people,
    "press.icc": lambda target, pool: (cmyk_profile(target), None)[1],
    **{f"IMG_{n}.jpg": _photo_chart(n - 1) for n in (1, 2)},
    "chart-1.jpg": _photo_chart(0),
    **dict.fromkeys(("chart-2.jpg", "IMG_3.jpg"), _other_chart),
    **dict.fromkeys(
        ("photos-of-the-board", "board-photos"), _prepared("calibrate camera", "board")
    ),
    "laser-phone.json": _ran(
        "calibrate", "fit", "IMG_1.jpg", "IMG_2.jpg", needs=("IMG_1.jpg", "IMG_2.jpg")
    ),
    "webcam.json": _ran("calibrate", "camera", "board-photos", needs=("board-photos",)),
    "fastestdet.pth": _weights("fastestdet_coco.pth"),
    "f.pth": _weights("fastestdet_coco.pth"),
    "w.pth": _weights("wongkolter_mnist_eps01.pth"),
    "mine.ts": _scripted,
    "mine.pt": _scripted,
    "a.pt": _scripted,
    "mine.onnx": _onnx(192, 3, 3, 8, 8),
    "net.onnx": _onnx(2, 2, 2),
    "property.vnnlib": _text(_PROPERTY),
    "classify": _program,
    "sheet.pdf": _ran("print", "my-patch", "--test-signs", needs=("my-patch",)),
    **dict.fromkeys(("runs/twin", "my-twin"), _ran(*_TWIN, needs=("my-patch",))),
    "my-check": _ran(
        *("check", "films", "--bundle", "my-patch", "--locate", "box", "--box", "9,9,99,99"),
        needs=("films", "my-patch"),
    ),
    "my-twin-check": _ran("check", "my-twin", "--bundle", "my-patch", needs=("my-twin",)),
    "runs/20260101T120000Z-check": _ran(
        *("check", "films", "--bundle", "my-patch", "--locate", "box", "--box", "9,9,99,99"),
        needs=("films", "my-patch"),
    ),
    "runs/shard-1": _ran(*_SHARD, "--shard", "1/2", needs=_OWN),
    "runs/shard-2": _ran(*_SHARD, "--shard", "2/2", needs=_OWN),
    **{f"runs/share-{n}": _ran(*_SHARD, "--shard", f"{n}/3", needs=_OWN) for n in (1, 2, 3)},
    "runs/signs-linf": _ran(
        *(
            "evaluate",
            "--model",
            "signs",
            "--data",
            "gtsrb.zip",
            "--limit",
            "2",
            "--threat",
            "linf:1/255",
        ),
        needs=("gtsrb.zip",),
    ),
    **dict.fromkeys(("runs/before", "runs/after", "runs/mine"), _ran(*_EVALUATE, needs=_OWN)),
    "runs/signs": _ran(
        *("certify", "--model", "signs", "--data", "gtsrb.zip", "--threat", "l2:0.25"),
        *("--n0", "10", "--n", "40", "--limit", "2"),
        needs=("gtsrb.zip",),
    ),
    "runs/pgd": _ran(
        *("train", "--data", "mnist", "--defense", "pgd", "--threat", "linf:0.1"),
        *("--epochs", "1", "--attack-steps", "1"),
        needs=("mnist",),
    ),
}
"""How each file or folder of the examples is made, by its name."""
