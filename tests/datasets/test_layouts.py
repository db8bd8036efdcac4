"""A layout is recognized for what it is or refused in one line, and no part stands for another."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from idx_files import idx
from PIL import Image

from physadv.core.errors import DataError, OptionError
from physadv.datasets import read_dataset
from physadv.datasets.parts import part_of, parts_of

HEAD = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"


def picture(value: int = 9, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (value, 7, 7)).save(buffer, format=form)
    return buffer.getvalue()


def lay_out(root: Path, *names: str) -> Path:
    """Write an image to each name of an image, and a word to any other."""
    for number, name in enumerate(names):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        image = file.suffix in (".png", ".jpg", ".ppm")
        form = {".jpg": "JPEG", ".ppm": "PPM"}.get(file.suffix, "PNG")
        file.write_bytes(picture(number, form) if image else b"word")
    return root


def put_idx(root: Path, name: str, count: int, highest: int = 9) -> None:
    """Write the pair of idx files called ``name``, such as emnist-letters-train."""
    root.mkdir(parents=True, exist_ok=True)
    images = np.arange(count * 4, dtype=np.uint8).reshape(count, 2, 2)
    labels = np.linspace(0, highest, count).astype(np.uint8)
    (root / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    (root / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))


TRAIN = ("train", "Training", "TRAIN", "train_set", "trainset", "train-images", "train2017")
VAL = ("val", "valid", "validation", "dev", "Validation_Set", "eval", "evaluation", "val2014")
TEST = ("test", "testing", "Test", "hold-out", "holdout", "held_out", "t10k", "test_images")


@pytest.mark.parametrize(
    ("names", "part"), [(TRAIN, "train"), (VAL, "val"), (TEST, "test"), (("seg_pred",), None)]
)
def test_parts_have_many_names(names: tuple[str, ...], part: str | None) -> None:
    """Every usual spelling of a part is that part."""
    assert {part_of(name) for name in names} == {part}


@pytest.mark.parametrize("name", ["cat", "bullet train", "test tube", "0", "images", "pretrain"])
def test_names_of_classes_are_no_parts(name: str) -> None:
    """A word beside the part's, or none, is no part."""
    assert part_of(name) is None


def test_a_beginning_that_all_share_is_the_sets_name() -> None:
    """pets_train beside pets_test are parts; cats_train beside dogs_test are not."""
    assert parts_of(["pets_train", "pets_test"]) == {"pets_train": "train", "pets_test": "test"}
    assert set(parts_of(["cats_train", "dogs_test"]).values()) == {None}


@pytest.mark.parametrize("val", VAL)
def test_each_part_is_read_by_its_name(tmp_path: Path, val: str) -> None:
    """Three parts of the same classes, whatever the validation part is called."""
    lay_out(tmp_path, "train/a/0.png", "train/b/0.png", "test/b/1.png", f"{val}/a/2.png")
    assert read_dataset(tmp_path).classes == ("a", "b")
    found = {part: read_dataset(tmp_path, split=part) for part in ("train", "val", "test")}
    assert {part: data.names for part, data in found.items()} == {
        "train": ("train/a/0.png", "train/b/0.png"),
        "val": (f"{val}/a/2.png",),
        "test": ("test/b/1.png",),
    }
    assert found["test"].labels.tolist() == [1]  # numbered as in the whole set
    assert found["val"].summary.part == "val"
    assert len(read_dataset(tmp_path, split="all")) == 4


@pytest.mark.parametrize(
    ("files", "split", "text"),
    [
        (["train/a/0.png", "train/b/0.png"], "test", "no test part. Parts there: train"),
        (["set/train/a/0.png", "set/train/b/0.png"], "test", "no test part"),
        (["train/a/0.png", "val/a/0.png"], "test", "Parts there: train, val; give --split val"),
        (["test/a/0.png", "test/b/0.png"], "train", "no train part. Parts there: test"),
        (["train/a/0.png", "dev/a/0.png"], "test", r"train, val \(dev\)"),
        (["train/a/0.png", "val/a/0.png", "dev/a/0.png"], "validation", "dev and val"),
        (["train/a/0.png", "test/0.png"], "test", "test/0.png: lies in no class folder"),
        (["train/n1/images/0.png", "val/images/0.png"], "val", "none of them is a class"),
    ],
)
def test_a_part_that_is_not_there_is_an_error(
    tmp_path: Path, files: list[str], split: str, text: str
) -> None:
    """No other part is returned in its place."""
    with pytest.raises(DataError, match=text):
        read_dataset(lay_out(tmp_path, *files), split=split)


def test_another_word_is_no_part(tmp_path: Path) -> None:
    """A part nobody knows is an error of the option."""
    with pytest.raises(OptionError, match="split 'tset': names no part"):
        read_dataset(lay_out(tmp_path, "a/0.png"), split="tset")


A = ("a",)


@pytest.mark.parametrize(
    ("files", "split", "classes"),
    [
        (["seg_train/seg_train/a/0.png", "seg_test/seg_test/a/0.png", "seg_pred/1.png"], "test", A),
        (["train/images/a/0.png", "test/images/a/0.png"], "test", ("a",)),
        (["a/train/0.png", "a/test/1.png", "b/train/0.png"], "test", ("a", "b")),
        (["car/0.png", "train/0.png"], "test", ("car", "train")),
        (["train/a/0.png", "test/0.png"], "train", ("a",)),
        (["images/a/0.png", "images/b/0.png"], None, ("a", "b")),
        ([f"{i}/0.png" for i in (10, 2, 0, 1)], None, ("0", "1", "2", "10")),
    ],
)
def test_layouts_that_are_read(
    tmp_path: Path, files: list[str], split: str | None, classes: tuple[str, ...]
) -> None:
    """Parts below classes, folders within parts, a class called train, numbers in order."""
    assert read_dataset(lay_out(tmp_path, *files), split=split).classes == classes


@pytest.mark.parametrize(
    ("files", "text"),
    [
        (["images/train/0.jpg", "images/val/0.jpg", "labels/train/0.txt"], "YOLO"),
        (["train/images/0.jpg", "train/labels/0.txt", "valid/images/1.jpg"], "YOLO"),
        (["train/0.jpg", "train/0.txt", "valid/1.jpg", "data.yaml"], "YOLO"),
        (["train/0.jpg", "train/_annotations.coco.json", "valid/0.jpg"], "COCO"),
        (["train2017/0.jpg", "val2017/0.jpg", "annotations/instances_val2017.json"], "COCO"),
        (["JPEGImages/0.jpg", "Annotations/0.xml", "ImageSets/Main/train.txt"], "Pascal VOC"),
        (["train/0.jpg", "train/0.xml", "test/1.jpg"], "Pascal VOC"),
        (["train/0.jpg", "train/_annotations.csv"], "Roboflow"),
        (["images/0.jpg", "masks/0.png"], "say what lies in them"),
        (["train/images/0.jpg", "train/masks/0.png"], "say what lies in them"),
        (["train/cat.0.jpg", "train/dog.0.jpg", "test/1.jpg"], "lies in no class folder"),
        (["images/0.jpg", "labels.csv"], "say what lies in them|lies in no class folder"),
        (["0.jpg", "labels.csv"], "lies in no class folder"),
        (["train/a/0.png", "test/a/0.png", "extra/a/0.png"], "some folders name parts"),
        (["cat/0.png", "dog/0.png", "test/0.png"], "some folders name parts"),
        (["a/x/0.png", "train/x/0.png"], "some folders name parts"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_layouts_that_are_refused(
    tmp_path: Path, files: list[str], text: str, zipped: bool
) -> None:
    """Boxes, masks, flat folders and half-named parts are refused in one line, for any part."""
    path = lay_out(tmp_path / "set", *files)
    if zipped:
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            for name in files:
                archive.write(path / name, name)
        path = tmp_path / "set.zip"
    for split in (None, "train"):
        with pytest.raises(DataError, match=text) as refused:
            read_dataset(path, split=split)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("zipped", [False, True])
def test_litter_is_left_out_and_counted(tmp_path: Path, zipped: bool) -> None:
    """What desktops, network drives and archivers add is no class and no image."""
    litter = (
        *("@eaDir/a/0.png", "a/@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg", "__MACOSX/a/._0.png"),
        *("a/.hidden.png", "a/Thumbs.db", "b/desktop.ini", ".DS_Store", "#recycle/c/0.png"),
    )
    own = ("a/0.png", "b/0.png", "b/notes.txt", "b/1.psd")
    path = lay_out(tmp_path / "set", *own, *litter)
    if zipped:
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            for name in (*own, *litter):
                archive.write(path / name, name)
        path = tmp_path / "set.zip"
    data = read_dataset(path)
    assert (data.classes, len(data)) == (("a", "b"), 2)
    assert data.summary.skipped == {
        "pictures of a kind that is not read (.psd)": 1,
        "other files (.txt)": 1,
        "hidden files and files of desktops": 8,
    }


def test_a_class_of_pictures_that_are_not_read_keeps_its_number(tmp_path: Path) -> None:
    """Its folder stays among the classes, and it is said that it has no image."""
    data = read_dataset(lay_out(tmp_path, "a/0.png", "b/0.psd", "c/0.png"))
    assert data.classes == ("a", "b", "c")
    assert data.labels.tolist() == [0, 2]
    assert "no image of b" in data.summary.notes


def test_lists_of_parts_are_named(tmp_path: Path) -> None:
    """Images in class folders with train.txt and test.txt beside them are all read, and it is
    said."""
    data = read_dataset(lay_out(tmp_path, "images/a/0.png", "meta/train.txt", "meta/test.txt"))
    assert data.summary.notes == ("lists of parts are not read: meta/test.txt, meta/train.txt",)


def test_idx_with_one_half_has_no_other(tmp_path: Path) -> None:
    """The training half is not returned as the test part, nor the other way round."""
    put_idx(tmp_path, "train", 3)
    with pytest.raises(DataError, match="no test part"):
        read_dataset(tmp_path, split="test")
    with pytest.raises(DataError, match="no test part"):
        read_dataset(tmp_path / "train-images-idx3-ubyte.gz", split="test")
    put_idx(tmp_path, "t10k", 2, highest=4)
    test = read_dataset(tmp_path, split="test")
    assert (len(test), len(test.classes)) == (2, 10)
    assert test.summary.parts == ("train", "test (t10k)")


@pytest.mark.parametrize("name", ["emnist-letters", "qmnist", "kmnist"])
def test_idx_parts_with_the_sets_name(tmp_path: Path, name: str) -> None:
    """NIST's spelling of the parts is read, and EMNIST's mirrored images are named."""
    put_idx(tmp_path, f"{name}-train", 5)
    put_idx(tmp_path, f"{name}-test", 2)
    assert len(read_dataset(tmp_path, split="test")) == 2
    assert bool(read_dataset(tmp_path).summary.notes) is name.startswith("emnist")


@pytest.mark.parametrize(
    "names",
    [
        ("emnist-letters-train", "emnist-digits-train"),
        ("MNIST/raw/train", "FashionMNIST/raw/train"),
        ("emnist-letters-train", "train"),
    ],
)
def test_several_idx_sets_are_not_merged(tmp_path: Path, names: tuple[str, str]) -> None:
    """Letters and digits have the same numbers for other classes."""
    for name in names:
        file = tmp_path / name
        put_idx(file.parent, file.name, 3)
    with pytest.raises(DataError, match="are 2 data sets"):
        read_dataset(tmp_path)


def save(folder: Path, **arrays: object) -> Path:
    np.savez(folder / "set.npz", **arrays)  # type: ignore[arg-type]
    return folder / "set.npz"


def images(count: int) -> np.ndarray:
    return np.zeros((count, 4, 4, 3), np.uint8)


def test_npz_parts(tmp_path: Path) -> None:
    """MedMNIST's three parts are three; everything is all three."""
    path = save(
        tmp_path,
        train_images=images(3),
        train_labels=np.array([[0], [1], [2]]),
        val_images=images(2),
        val_labels=np.array([[0], [1]]),
        test_images=images(1),
        test_labels=np.array([[0]]),
    )
    sizes = {split: len(read_dataset(path, split=split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 3, "val": 2, "test": 1}
    assert len(read_dataset(path)) == 6
    assert len(read_dataset(path, split="test").classes) == 3


@pytest.mark.parametrize(
    ("arrays", "split", "text"),
    [
        ({"x_train": images(2), "y_train": [0, 1]}, "test", "no test part. Parts there: train"),
        ({"X_test": images(2), "Y_test": [0, 1]}, "train", "no train part. Parts there: test"),
        (
            {"x": images(2), "y": [0, 1], "x_test": images(2), "y_test": [0, 1]},
            "test",
            "images of no part",
        ),
        ({"x_train": images(2)}, "train", "images and labels are needed"),
    ],
)
def test_npz_without_the_part(
    tmp_path: Path, arrays: dict[str, object], split: str, text: str
) -> None:
    """Each cause has its own message."""
    with pytest.raises(DataError, match=text):
        read_dataset(save(tmp_path, **arrays), split=split)


def test_npz_class_names_may_be_bytes(tmp_path: Path) -> None:
    """Names saved as bytes are the same names; further arrays are named as not read."""
    names = np.array([b"stop", b"yield"])
    path = save(tmp_path, images=images(2), labels=[0, 1], classes=names, weights=[1, 2])
    data = read_dataset(path)
    assert data.classes == ("stop", "yield")
    assert data.summary.skipped == {"arrays (weights)": 1}


def official_test(root: Path, *, answers: bool = True) -> Path:
    """GTSRB's test set: images numbered through, and the csv with or without classes."""
    lay_out(root, "Final_Test/Images/00000.ppm", "Final_Test/Images/00001.ppm")
    rows = [f"0000{i}.ppm;6;4;1;1;5;3;{14 * i}" for i in range(2)]
    listed = [row.rsplit(";", 1)[0] for row in rows]
    kept_back = "\n".join([HEAD.rsplit(";", 1)[0], *listed])
    (root / "Final_Test/Images/GT-final_test.test.csv").write_text(kept_back)
    if answers:
        (root / "GT-final_test.csv").write_text("\n".join([HEAD, *rows]))
    return root


def official_train(root: Path, tracks: int = 2) -> Path:
    for label in (0, 14):
        names = [f"{track:05d}_00000.ppm" for track in range(tracks)]
        folder = f"Final_Training/Images/{label:05d}"
        lay_out(root, *(f"{folder}/{name}" for name in names))
        rows = [f"{name};6;4;1;1;5;3;{label}" for name in names]
        (root / folder / f"GT-{label:05d}.csv").write_text("\n".join([HEAD, *rows]))
    return root


def test_gtsrbs_own_test_set_is_the_test_part(tmp_path: Path) -> None:
    """Answers beside the images or above them; there is no training part in it."""
    test = read_dataset(official_test(tmp_path), split="test")
    assert test.labels.tolist() == [0, 14]
    assert test.summary.parts == ("test",)
    assert len(read_dataset(tmp_path)) == 2
    for split in ("train", "val"):
        with pytest.raises(DataError, match=f"no {split} part. Parts there: test"):
            read_dataset(tmp_path, split=split)


def test_gtsrb_without_answers_says_where_they_are(tmp_path: Path) -> None:
    """The list without classes is named for what it is."""
    with pytest.raises(DataError, match=r"names no classes.*GTSRB_Final_Test_GT\.zip"):
        read_dataset(official_test(tmp_path, answers=False))


def test_gtsrb_with_both_sets_is_divided_by_them(tmp_path: Path) -> None:
    """The official parts come before the division by tracks."""
    official_train(official_test(tmp_path), tracks=3)
    sizes = {split: len(read_dataset(tmp_path, split=split)) for split in ("train", "test")}
    assert sizes == {"train": 6, "test": 2}
    assert read_dataset(tmp_path, split="train").summary.notes == ()


def test_gtsrbs_training_set_says_that_it_is_divided(tmp_path: Path) -> None:
    """Its test part are held-out tracks, and the summary says so."""
    summary = read_dataset(official_train(tmp_path), split="test").summary
    assert summary.part == "test"
    assert "parts are tracks of the training set, 20 % of them held out" in summary.notes[0]


def test_gtsrb_as_copies_have_it(tmp_path: Path) -> None:
    """Train.csv and Test.csv with paths are the two parts; Meta/ is no class."""
    names = [f"Train/{c}/0000{c}_00000_0000{i}.png" for c in (2, 10) for i in (0, 1)]
    lay_out(tmp_path, *names, "Test/00000.png", "Meta/0.png", "Meta/1.png")
    head = "Width,Height,Roi.X1,Roi.Y1,Roi.X2,Roi.Y2,ClassId,Path\n"
    rows = "\n".join(f"6,4,1,1,5,3,{name.split('/')[1]},{name}" for name in names)
    (tmp_path / "Train.csv").write_text(head + rows)
    (tmp_path / "Test.csv").write_text(head + "6,4,1,1,5,3,10,Test/00000.png\n")
    train, test = (read_dataset(tmp_path, split=split) for split in ("train", "test"))
    assert train.labels.tolist() == [2, 2, 10, 10]
    assert len(set(train.groups)) == 2
    assert test.labels.tolist() == [10]
    assert test.classes[10] == "10"
    assert test.summary.skipped == {"other files (.png)": 2}


@pytest.mark.parametrize("count", [1, 3, 43, 1000])
def test_a_summary_is_short_however_many_classes(tmp_path: Path, count: int) -> None:
    """Few classes are listed each, many by the least and the most; the line fits a terminal."""
    labels = [i for i in range(count) for _ in range(1 + (i == count - 1))]
    path = save(tmp_path, images=images(len(labels)), labels=labels)
    data = read_dataset(path)
    summary = data.summary.of_labels(data.labels.tolist(), data.classes, image_sizes="4x4 px")
    text = "\n".join(summary.lines())
    assert f"{len(labels):,} images of {count:,} class" in text
    assert max(len(line) for line in summary.lines()) < 200 + len(str(path))
    assert (": 0: 1, 1: 1, 2: 2" in text) == (count == 3)
    assert len(summary.as_dict()["images_by_class"]) == count


@pytest.mark.parametrize(
    ("files", "text"),
    [
        (["fold1/a/0.png", "fold1/b/0.png", "fold2/a/0.png"], "fold1, fold2.*folders a: which"),
        (["obj_train_data/0.jpg", "obj_train_data/0.txt"], "YOLO"),
        (["training/image_2/0.png", "training/label_2/0.txt"], "YOLO"),
        (["data/0.jpg", "labels.json"], "say what lies in them"),
        (["leftImg8bit/train/x/0.png", "gtFine/train/x/0.png"], "say what lies in them|cannot be"),
    ],
)
def test_what_may_be_two_things_is_refused(tmp_path: Path, files: list[str], text: str) -> None:
    """Folds, boxes beside images, and images without a class folder."""
    path = lay_out(tmp_path, *files)
    for name in files:
        if name.endswith(".txt"):
            (path / name).write_text("0 0.5 0.5 0.25 0.25\n")
    with pytest.raises(DataError, match=text):
        read_dataset(path)


def test_captions_beside_images_are_no_boxes(tmp_path: Path) -> None:
    """A text of words for each image leaves class folders what they are."""
    data = read_dataset(lay_out(tmp_path, "a/0.png", "a/0.txt", "b/0.png"))
    assert data.classes == ("a", "b")
    assert data.summary.skipped == {"other files (.txt)": 1}


def test_folders_behind_links_are_read_once(tmp_path: Path) -> None:
    """A class folder that is a link is a class, and a link to above is not followed for ever."""
    lay_out(tmp_path, "set/a/0.png", "elsewhere/0.png")
    (tmp_path / "set" / "b").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "set" / "a" / "up").symlink_to(tmp_path / "set", target_is_directory=True)
    assert read_dataset(tmp_path / "set").names == ("a/0.png", "b/0.png")


def test_copies_of_idx_files_in_folders_are_one_set(tmp_path: Path) -> None:
    """Unpacked copies, each in a folder of its file's name, lie beside the files themselves."""
    put_idx(tmp_path, "train", 3)
    for kind in ("images-idx3", "labels-idx1"):
        packed = tmp_path / f"train-{kind}-ubyte.gz"
        folder = tmp_path / f"train-{kind}-ubyte"
        folder.mkdir()
        (folder / folder.name).write_bytes(gzip.decompress(packed.read_bytes()))
    assert len(read_dataset(tmp_path)) == 3


def test_idx_halves_in_folders_of_their_own_are_one_set(tmp_path: Path) -> None:
    """images/ and labels/ each hold one half."""
    put_idx(tmp_path, "train", 3)
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        for file in tmp_path.glob(f"train-{kind}-*"):
            file.rename(tmp_path / kind / file.name)
    assert len(read_dataset(tmp_path)) == 3


def test_npz_class_names_have_other_keys(tmp_path: Path) -> None:
    """class_names are classes as well."""
    path = save(tmp_path, images=images(2), labels=[0, 1], class_names=["stop", "yield"])
    assert read_dataset(path).classes == ("stop", "yield")
