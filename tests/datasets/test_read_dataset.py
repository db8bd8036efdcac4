"""Every layout is found by looking, and everything wrong with it is one clear DataError."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from idx_files import idx
from PIL import Image

from physadv.core.errors import DataError, OptionError
from physadv.datasets import ImageDataset, in_memory, read_dataset, split_by_group


def picture(value: int, width: int = 6, height: int = 4, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (value, 255 - value, 7)).save(buffer, format=form)
    return buffer.getvalue()


def put(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return root


def pack(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def gtsrb_files(tracks: int = 3, frames: int = 2, declared: int = 12) -> dict[str, bytes]:
    files = {}
    for label in (0, 14):
        lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
        for track in range(tracks):
            for frame in range(frames):
                name = f"{track:05d}_{frame:05d}.ppm"
                files[f"GTSRB/Images/{label:05d}/{name}"] = picture(10 * track + frame, 6, 6, "PPM")
                lines.append(f"{name};{declared};{declared};2;4;10;12;{label}")
        lines.append(f"00099_00000.ppm;12;12;2;4;10;12;{label}")
        files[f"GTSRB/Images/{label:05d}/GT-{label:05d}.csv"] = "\n".join(lines).encode()
    return files


def mnist_files(n: int = 3) -> dict[str, bytes]:
    images = np.arange(n * 4, dtype=np.uint8).reshape(n, 2, 2)
    labels = np.arange(n, dtype=np.uint8)
    return {
        "train-images-idx3-ubyte.gz": gzip.compress(idx(images)),
        "train-labels-idx1-ubyte.gz": gzip.compress(idx(labels)),
        "t10k-images-idx3-ubyte": idx(images[:1] + 100),
        "t10k-labels-idx1-ubyte": idx(labels[:1]),
    }


@pytest.mark.parametrize("zipped", [False, True])
def test_class_folders_with_parts(tmp_path: Path, zipped: bool) -> None:
    """train/ and test/ are parts, classes have one numbering over both, and a zip reads as its
    folder does."""
    files = {
        "set/train/cat/a.png": picture(1),
        "set/train/dog/b.png": picture(2),
        "set/test/dog/c.png": picture(3),
    }
    path = pack(tmp_path / "set.zip", files) if zipped else put(tmp_path / "all", files)
    assert read_dataset(path).classes == ("cat", "dog")
    assert len(read_dataset(path)) == 3
    test = read_dataset(path, split="test")
    assert (len(test), int(test.labels[0])) == (1, 1)
    image, label = test[0]
    assert image.shape == (4, 6, 3)
    assert image.dtype == np.uint8
    assert image[0, 0].tolist() == [3, 252, 7]
    assert label == 1


def test_class_folders_without_parts_are_whole(tmp_path: Path) -> None:
    """A set with no parts and no tracks is returned whole for any split; each image is its own
    group."""
    data = read_dataset(put(tmp_path, {"a/1.png": picture(1), "b/2.png": picture(2)}), split="test")
    assert data.classes == ("a", "b")
    assert len(set(data.groups)) == 2


@pytest.mark.parametrize("zipped", [False, True])
def test_gtsrb(tmp_path: Path, zipped: bool) -> None:
    """Labels come from the csv, tracks from the file names, rows without a file are left out."""
    files = gtsrb_files()
    data = read_dataset(pack(tmp_path / "g.zip", files) if zipped else put(tmp_path / "g", files))
    assert len(data) == 12
    assert len(data.classes) == 15
    assert set(data.labels.tolist()) == {0, 14}
    assert len(set(data.groups)) == 6
    assert "00014/00002" in data.groups


def test_gtsrb_boxes_fit_the_images_that_are_there(tmp_path: Path) -> None:
    """Images were resized to 6 px, annotations still speak of 12: boxes are in pixels of the 6."""
    data = read_dataset(put(tmp_path, gtsrb_files(declared=12)))
    assert data.boxes is not None
    assert data.boxes[0].tolist() == [1, 2, 5, 6]


def test_gtsrb_split_is_by_track_and_disjoint(tmp_path: Path) -> None:
    """train and test share no track and together are everything, the same at every call."""
    root = put(tmp_path, gtsrb_files(tracks=5))
    train, test = read_dataset(root, split="train"), read_dataset(root, split="test")
    assert not set(train.groups) & set(test.groups)
    assert len(train) + len(test) == 20
    assert read_dataset(root, split="test").names == test.names


def test_mnist_layout(tmp_path: Path) -> None:
    """idx pairs, gzipped or not; gray becomes RGB; t10k is the test part; one file brings its
    labels along."""
    root = put(tmp_path, mnist_files())
    assert len(read_dataset(root)) == 4
    test = read_dataset(root, split="test")
    assert test[0][0][0, 0].tolist() == [100, 100, 100]
    alone = read_dataset(root / "train-images-idx3-ubyte.gz")
    assert alone.labels.tolist() == [0, 1, 2]
    assert alone[2][0][1, 1, 0] == 11


@pytest.mark.parametrize(
    ("keys", "split", "n"),
    [
        (("images", "labels"), None, 3),
        (("x", "y"), "train", 3),
        (("x_test", "y_test"), "test", 3),
        (("train_images", "train_labels"), None, 3),
    ],
)
def test_npz_keys(tmp_path: Path, keys: tuple[str, str], split: str | None, n: int) -> None:
    """Each documented pair of keys is read."""
    path = tmp_path / "a.npz"
    np.savez(path, **{keys[0]: np.zeros((3, 5, 5, 3), np.uint8), keys[1]: np.array([0, 1, 1])})
    data = read_dataset(path, split=split)
    assert len(data) == n
    assert data.counts().tolist() == [1, 2]


def test_npz_groups_and_classes(tmp_path: Path) -> None:
    """Names and groups, where given, are kept."""
    path = tmp_path / "a.npz"
    np.savez(
        path,
        images=np.zeros((2, 5, 5), np.uint8),
        labels=[0, 1],
        classes=["a", "b"],
        groups=["t", "t2"],
    )
    data = read_dataset(path)
    assert data.classes == ("a", "b")
    assert data.groups == ("t", "t2")


def bad_npz(folder: Path, name: str, **arrays: Any) -> Path:
    np.savez(folder / name, **arrays)
    return folder / name


def test_bad_input_is_a_clear_error(tmp_path: Path) -> None:
    """What is missing, empty, unknown, misplaced or not promised says so and names the culprit."""
    put(tmp_path / "empty", {}).mkdir()
    put(tmp_path / "text", {"a/readme.txt": b"hello"})
    put(tmp_path / "stray", {"x.png": picture(1)})
    put(tmp_path / "blank", {"blank.zip": b""})
    put(tmp_path / "junk", {"junk.zip": b"no zip at all"})
    for path, text in (
        (tmp_path / "none", "no such file"),
        (tmp_path / "empty", "holds no file"),
        (tmp_path / "text", "no layout is known for readme.txt"),
        (tmp_path / "stray", "x.png: lies in no class folder"),
        (tmp_path / "blank/blank.zip", "empty file"),
        (tmp_path / "junk/junk.zip", "neither a folder nor a readable zip"),
        (
            bad_npz(tmp_path, "1.npz", images=np.zeros((2, 3, 3), np.uint8)),
            "images and labels are needed",
        ),
        (
            bad_npz(tmp_path, "2.npz", images=np.zeros((2, 3, 3), np.float32), labels=[0, 1]),
            "uint8",
        ),
        (
            bad_npz(tmp_path, "3.npz", images=np.zeros((2, 3, 3), np.uint8), labels=[0.5, 1]),
            "whole numbers",
        ),
        (
            bad_npz(tmp_path, "4.npz", images=np.zeros((2, 3, 3), np.uint8), labels=[0]),
            "one label an image",
        ),
        (
            bad_npz(
                tmp_path,
                "5.npz",
                images=np.zeros((2, 3, 3), np.uint8),
                labels=np.array([{}, 1], object),
            ),
            "an array of object",
        ),
    ):
        with pytest.raises(DataError, match=text):
            read_dataset(path)


def test_unknown_split_and_missing_part(tmp_path: Path) -> None:
    """A split nobody knows is an option error; a part the set lacks is a data error that names the
    parts there."""
    put(tmp_path, {"train/a/1.png": picture(1)})
    put(tmp_path, {"train/b/1.png": picture(1)})
    with pytest.raises(OptionError, match="tset"):
        read_dataset(tmp_path, split="tset")
    with pytest.raises(DataError, match="no test part"):
        read_dataset(tmp_path, split="test")


def test_truncated_files_are_named(tmp_path: Path) -> None:
    """A cut-off image, idx or csv row is reported with its name."""
    data = read_dataset(
        put(tmp_path / "p", {"a/ok.png": picture(1), "b/cut.png": picture(1, 64, 64)[:60]})
    )
    with pytest.raises(DataError, match=r"b/cut\.png"):
        data[1]
    files = mnist_files()
    files["t10k-images-idx3-ubyte"] = files["t10k-images-idx3-ubyte"][:-1]
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte: holds 3 of 4 bytes"):
        read_dataset(put(tmp_path / "m", files), split="test")
    files = gtsrb_files()
    files["GTSRB/Images/00014/GT-00014.csv"] += b"\n00000_00000.ppm;12;12;9;4;2;12;14"
    with pytest.raises(DataError, match=r"GT-00014\.csv:9"):
        read_dataset(put(tmp_path / "g", files))


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_an_animation_or_several_pages_are_no_photo(tmp_path: Path, form: str) -> None:
    """A file of two pictures is refused by name, rather than read as its first."""
    frames = [Image.new("RGB", (6, 4), (gray, gray, gray)) for gray in (20, 220)]
    buffer = io.BytesIO()
    frames[0].save(buffer, format=form, save_all=True, append_images=frames[1:])
    files = {"a/ok.png": picture(1), f"b/two.{form.lower()}": buffer.getvalue()}
    data = read_dataset(put(tmp_path, files))
    with pytest.raises(DataError, match=r"b/two\..* holds 2 pictures, one is needed"):
        data[1]


def test_split_by_group_is_stratified_and_seeded() -> None:
    """Every class has held-out groups, no group is torn, the seed decides and nothing else."""
    labels = np.repeat(np.arange(4), 30)
    groups = tuple(f"{label}/{i // 3 % 10}" for i, label in enumerate(labels))
    names = tuple(str(i) for i in range(120))
    data = ImageDataset(
        lambda i: np.zeros((1, 1, 3), np.uint8), labels, ("a", "b", "c", "d"), groups, names
    )
    kept, held = split_by_group(data, 0.2, 0)
    assert not set(kept.groups) & set(held.groups)
    assert held.counts().tolist() == [6, 6, 6, 6]
    assert split_by_group(data, 0.2, 0)[1].names == held.names
    assert split_by_group(data, 0.2, 1)[1].names != held.names
    for share in (0.0, 1.0, -1.0):
        with pytest.raises(OptionError, match="share"):
            split_by_group(data, share, 0)


def test_split_refuses_single_groups_and_mixed_ones() -> None:
    """A class with one group cannot be split, and a group of two classes is a mistake."""
    images = np.zeros((4, 2, 2), np.uint8)
    one = in_memory(images, np.array([0, 0, 0, 1]), ("a", "b"), "x")
    with pytest.raises(DataError, match="'b': has one group"):
        split_by_group(one, 0.5, 0)
    mixed = ImageDataset(one.read, one.labels, one.classes, ("g", "h", "g", "g"), one.names)
    with pytest.raises(DataError, match="'g': holds more than one class"):
        split_by_group(mixed, 0.5, 0)


def test_subset_keeps_everything_together() -> None:
    """A subset's images, labels, names and boxes are those of the indices, in their order."""
    images = np.arange(3 * 4, dtype=np.uint8).reshape(3, 2, 2)
    data = in_memory(images, np.array([0, 1, 0]), ("a", "b"), "x")
    part = data.subset([2, 1])
    assert part.names == ("x#2", "x#1")
    assert part[0][0][0, 0, 0] == 8
    assert part.labels.tolist() == [0, 1]
    with pytest.raises(DataError, match="holds no image"):
        data.subset([])


def test_shared_sets_read(shared_data: Path) -> None:
    """The real MNIST, CIFAR-10 and GTSRB files have the sizes their readme states."""
    assert len(read_dataset(shared_data / "mnist", split="test")) == 10000
    cifar = read_dataset(shared_data / "cifar10-jpg.zip", split="test")
    assert (len(cifar), len(cifar.classes), cifar[0][0].shape) == (10000, 10, (32, 32, 3))
    signs = read_dataset(shared_data / "gtsrb-train-third.zip")
    assert (len(signs), len(signs.classes)) == (13069, 43)
    assert signs.boxes is not None
    sides = np.asarray([max(signs.read(i).shape[:2]) for i in range(0, len(signs), 400)])
    assert (signs.boxes[::400, 2:] <= sides[:, None] + 0.01).all()


def test_gtsrb_boxes_follow_each_side_of_the_image(tmp_path: Path) -> None:
    """An image twice as wide as high has its own scale along each side."""
    files = gtsrb_files(declared=12)
    wide = {k: picture(9, 24, 6, "PPM") if k.endswith(".ppm") else v for k, v in files.items()}
    data = read_dataset(put(tmp_path, wide))
    assert data.boxes is not None
    assert data.boxes[0].tolist() == [4, 2, 20, 6]


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_split_leaves_each_class_a_group_on_both_sides(share: float) -> None:
    """However extreme the share: no class is missing in either part."""
    labels = np.repeat(np.arange(3), 4)
    groups = tuple(f"{label}/{i % 4}" for i, label in enumerate(labels))
    data = ImageDataset(
        lambda i: np.zeros((1, 1, 3), np.uint8), labels, ("a", "b", "c"), groups, groups
    )
    kept, held = split_by_group(data, share, 0)
    assert min(kept.counts().tolist()) >= 1
    assert min(held.counts().tolist()) >= 1


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"labels": np.array([0, 3 * 10**9])}, "label 3000000000: classes are numbered"),
        ({"labels": np.array([2**64 - 1, 0], np.uint64)}, "label 18446744073709551615"),
        ({"labels": np.array([-5, 1])}, "label -5"),
        ({"labels": np.array(3)}, "one label an image"),
        ({"images": np.array(1)}, r"images of shape \(\)"),
        ({"images": np.zeros((2, 0, 8, 3), np.uint8)}, r"images of shape \(2, 0, 8, 3\)"),
        ({"images": np.zeros((2, 8, 8, 3), complex)}, "images of complex128"),
        ({"images": np.array(["a", "b"])}, "images of <U1"),
        ({"labels": np.array([0, 7]), "classes": np.array("a")}, "label 7"),
        ({"groups": np.array(1)}, "1 groups"),
    ],
)
def test_arrays_of_odd_shapes_and_labels(
    tmp_path: Path, changed: dict[str, np.ndarray], said: str
) -> None:
    """Billions of classes, arrays without axes and sides of nothing are one error."""
    arrays = {"images": np.zeros((2, 8, 8, 3), np.uint8), "labels": np.array([0, 1]), **changed}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=said):
        read_dataset(tmp_path / "a.npz").read(0)
