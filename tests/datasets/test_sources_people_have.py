"""Data as people have it: listings, globs, Hugging Face folders, WebDataset, picture kinds."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from physadv.core.errors import DataError, PhysadvError
from physadv.core.image_io import read_rgb
from physadv.datasets.read import read_dataset, read_detection_dataset

SIDE = 12
LEVELS = {"cat": 40, "dog": 200}


def png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (level, level, level)).save(buffer, "PNG")
    return buffer.getvalue()


def images(folder: Path, *, nested: bool = True) -> list[tuple[str, str]]:
    """Three pictures of each class; their names and classes."""
    rows = []
    for name, level in LEVELS.items():
        for i in range(3):
            file = folder / (f"{name}s/{i}.png" if nested else f"{name}{i}.png")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(level + i))
            rows.append((file.relative_to(folder).as_posix(), name))
    return rows


def assert_read(data: Any, count: int = 6) -> None:
    """Every image has the level of its class."""
    assert len(data) == count
    for image, label in data:
        name = data.classes[label].rstrip("s")
        assert abs(int(image[0, 0, 0]) - LEVELS[name]) <= 3
        assert image.shape == (SIDE, SIDE, 3)


@pytest.mark.parametrize(
    ("head", "delimiter", "encoding"),
    [
        ("path,label\n", ",", "utf-8"),
        ("", ",", "utf-8"),
        ("", ";", "utf-8-sig"),
        ("Label;Image\n", ";", "utf-16"),
        ("image_path\tclass_name\tsplit\n", "\t", "cp1252"),
        ("Datei;Klasse\n", ";", "cp1252"),
    ],
)
def test_csv_of_any_dialect(tmp_path: Path, head: str, delimiter: str, encoding: str) -> None:
    """With a header in any order or none, any delimiter, any encoding; parts by their column."""
    lines = []
    for number, (file, label) in enumerate(images(tmp_path)):
        cells = [label, file] if head.startswith("Label") else [file, label]
        cells += ["train" if number % 2 else "test"] if "split" in head else []
        lines.append(delimiter.join(cells))
    (tmp_path / "set.csv").write_text(head + "\n".join(lines), encoding=encoding)
    data = read_dataset(tmp_path / "set.csv", split="test")
    assert_read(data, 3 if "split" in head else 6)
    assert data.classes == ("cat", "dog")


def test_a_csv_as_excel_writes_it_is_a_listing(tmp_path: Path) -> None:
    """Its own first line names the delimiter, and empty cells follow a row or the header."""
    rows = [f"{file};{label};" for file, label in images(tmp_path)]
    file = tmp_path / "set.csv"
    file.write_text("\n".join(["sep=;", "path;label;;", *rows]))
    assert_read(read_dataset(file))
    file.write_text("\n".join(["sep=;", "path;label", *rows, "a.png;cat;more"]))
    with pytest.raises(DataError, match=r"set\.csv:9.*3 cells under 2 columns"):
        read_dataset(file)


def test_a_csv_beside_flat_images_names_their_classes(tmp_path: Path) -> None:
    """The folder itself is given, as Kaggle's downloads are."""
    rows = images(tmp_path, nested=False)
    text = "id,breed\n" + "\n".join(f"{file[:-4]},{label}" for file, label in rows)
    (tmp_path / "labels.csv").write_text(text)
    assert_read(read_dataset(tmp_path))


def test_imagenet_by_wnids_and_its_validation_list(tmp_path: Path) -> None:
    """Class folders of wnids, and LOC_val_solution.csv with a synset and boxes in a cell."""
    rows = [("n02123045", 40), ("n02084071", 90)]
    for wnid, level in rows:
        for folder in (f"train/{wnid}", "val"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            name = f"ILSVRC2012_val_{wnid}.JPEG" if folder == "val" else "a.JPEG"
            Image.new("RGB", (SIDE, SIDE), (level,) * 3).save(tmp_path / folder / name)
    assert read_dataset(tmp_path / "train").classes == ("n02084071", "n02123045")
    lines = [f"ILSVRC2012_val_{wnid},{wnid} 1 2 3 4 {wnid} 5 6 7 8" for wnid, _ in rows]
    file = tmp_path / "LOC_val_solution.csv"
    file.write_text("ImageId,PredictionString\n" + "\n".join(lines))
    data = read_dataset(file)
    assert [data.classes[k] for k in data.labels] == [wnid for wnid, _ in rows]
    assert int(data[0][0][0, 0, 0]) in range(38, 43)

    file.write_text(file.read_text() + "\nILSVRC2012_val_n02123045,")
    with pytest.raises(DataError, match="image 3: Its label is empty"):
        read_dataset(file)


def test_globs_and_lists_of_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is the class; a list has its label behind the path, or globs."""
    rows = images(tmp_path / "set")
    assert_read(read_dataset(f"{tmp_path}/set/*/*.png"))
    assert_read(read_dataset(f"{tmp_path}/set/cats/*.png,{tmp_path}/set/d*/**/*.png"))
    listed = "\n".join(f"set/{file} {label}" for file, label in rows)
    (tmp_path / "list.txt").write_text(listed)
    assert_read(read_dataset(tmp_path / "list.txt"))
    (tmp_path / "globs.txt").write_text("set/cats/*.png\nset/dogs/*.png\n")
    assert_read(read_dataset(tmp_path / "globs.txt"))
    monkeypatch.chdir(tmp_path)
    assert_read(read_dataset("set/*/*.png"))
    with pytest.raises(DataError, match="names no image"):
        read_dataset("set/birds/*.png")


def webdataset(folder: Path, kind: str) -> None:
    """Two shards a part, each sample an image and a label."""
    folder.mkdir()
    for part in ("train", "val"):
        for shard, (name, level) in enumerate(LEVELS.items()):
            with tarfile.open(folder / f"{part}-{shard:06d}.tar", "w") as archive:
                for i in range(3):
                    label = {"cls": str(shard), "json": json.dumps({"label": name}), "txt": name}
                    for suffix, data in (("png", png(level + i)), (kind, label[kind].encode())):
                        info = tarfile.TarInfo(f"{shard}{i:04d}.{suffix}")
                        info.size = len(data)
                        archive.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("kind", ["cls", "json", "txt"])
def test_webdataset_shards(tmp_path: Path, kind: str) -> None:
    """Labels as numbers, names or JSON; parts by the shards' names; a shard alone."""
    webdataset(tmp_path / "set", kind)
    data = read_dataset(tmp_path / "set", split="val")
    if kind == "cls":
        assert data.classes == ("0", "1")
        assert data.labels.tolist() == [0, 0, 0, 1, 1, 1]
    else:
        assert_read(data)
    assert len(read_dataset(tmp_path / "set")) == 12
    assert len(read_dataset(tmp_path / "set/val-000000.tar")) == 3


def test_shards_are_named_as_webdataset_names_them(tmp_path: Path) -> None:
    """By a range that keeps its zeros, a choice or a wildcard; a missing one is an error, not
    fewer images."""
    webdataset(tmp_path / "set", "txt")
    for name in ("{000000..000001}", "{000000,000001}", "*", "00000{0..1}"):
        data = read_dataset(str(tmp_path / f"set/val-{name}.tar"))
        assert len(data) == 6
        assert data.classes == read_dataset(tmp_path / "set", split="val").classes
    assert len(read_dataset(str(tmp_path / "set/val-{000001..000001}.tar"))) == 3
    for name, words in (
        ("val-{000000..000002}", "val-000002"),
        ("val-{1..0}", "range"),
        ("val-{0..999999999}", "range"),
        ("{a,b}" * 18, "more than"),
    ):
        with pytest.raises(DataError, match=words):
            read_dataset(str(tmp_path / f"set/{name}.tar"))


def test_class_folders_in_a_tar_and_what_is_no_tar(tmp_path: Path) -> None:
    """As from a zip; a compressed or a cut one is named."""
    images(tmp_path / "set")
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        archive.add(tmp_path / "set", "set")
    assert_read(read_dataset(tmp_path / "set.tar"))
    with tarfile.open(tmp_path / "set.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "set", "set")
    with pytest.raises(DataError, match="Unpack it"):
        read_dataset(tmp_path / "set.tar.gz")
    whole = (tmp_path / "set.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2 - 300])
    with pytest.raises(DataError):
        read_dataset(tmp_path / "cut.tar")


def hugging_face(folder: Path, layout: str) -> None:
    """What `datasets` writes: parquet as on the Hub, or arrow as `save_to_disk`."""
    pyarrow = pytest.importorskip("pyarrow", reason="the extra dev brings pyarrow")
    from pyarrow import parquet

    rows = [(png(level + i), n) for n, level in enumerate(LEVELS.values()) for i in range(3)]
    table = pyarrow.table(
        {
            "image": [{"bytes": data, "path": f"{i}.png"} for i, (data, _) in enumerate(rows)],
            "label": pyarrow.array([label for _, label in rows], pyarrow.int64()),
        }
    )
    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(LEVELS), "_type": "ClassLabel"},
    }
    for part in ("train", "test"):
        if layout == "hub":
            (folder / "data").mkdir(parents=True, exist_ok=True)
            text = json.dumps({"info": {"features": features}})
            own = table.replace_schema_metadata({"huggingface": text})
            name = folder / f"data/{part}-00000-of-00001.parquet"
            parquet.write_table(own, name, row_group_size=2)
            continue
        (folder / part).mkdir(parents=True)
        (folder / part / "dataset_info.json").write_text(json.dumps({"features": features}))
        with (
            pyarrow.OSFile(str(folder / part / "data-00000-of-00001.arrow"), "wb") as sink,
            pyarrow.ipc.new_stream(sink, table.schema) as writer,
        ):
            writer.write_table(table, max_chunksize=2)


@pytest.mark.parametrize("layout", ["hub", "saved"])
def test_hugging_face_folders(tmp_path: Path, layout: str) -> None:
    """Names of the classes from the file's metadata or dataset_info.json; any order of reading."""
    hugging_face(tmp_path / "set", layout)
    data = read_dataset(tmp_path / "set", split="test")
    assert_read(data)
    assert data.classes == ("cat", "dog")
    assert len(read_dataset(tmp_path / "set")) == 12
    assert int(data[5][0][0, 0, 0]) == 202
    assert int(data[0][0][0, 0, 0]) == 40


def test_a_stream_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    """Between two record batches, and before its end mark alone: fewer images are not the set."""
    hugging_face(tmp_path / "set", "saved")
    file = tmp_path / "set/test/data-00000-of-00001.arrow"
    whole = file.read_bytes()
    assert whole.endswith(b"\xff\xff\xff\xff\0\0\0\0")
    last = whole.rindex(b"\xff\xff\xff\xff", 0, -8)
    for end in (len(whole) - 8, last):
        file.write_bytes(whole[:end])
        with pytest.raises(DataError, match="ends without its end mark"):
            read_dataset(tmp_path / "set", split="test")


def test_hugging_face_boxes(tmp_path: Path) -> None:
    """A column objects of bbox and category, with names in the card's YAML."""
    pyarrow = pytest.importorskip("pyarrow", reason="the extra dev brings pyarrow")
    from pyarrow import parquet

    table = pyarrow.table(
        {
            "image": [{"bytes": png(9), "path": None}] * 2,
            "objects": [
                {"bbox": [[1.0, 2.0, 4.0, 5.0]], "category": [1]},
                {"bbox": [], "category": []},
            ],
        }
    )
    parquet.write_table(table, tmp_path / "train.parquet")
    (tmp_path / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - name: objects\n    sequence:\n    - name: category\n"
        "      dtype:\n        class_label:\n          names:\n            '0': a\n"
        "            '1': stop\n---\n# Card\n"
    )
    data = read_detection_dataset(tmp_path)
    assert data.classes == ("a", "stop")
    assert data[0][1].boxes.tolist() == [[1, 2, 5, 7]]
    assert [len(own) for _, own in data] == [1, 0]


def test_boxes_of_one_class_an_image_are_a_class_each(tmp_path: Path) -> None:
    """A YOLO set of such images is one for classifiers too; another is refused as before."""
    for i, (name, level) in enumerate(LEVELS.items()):
        (tmp_path / f"{name}.png").write_bytes(png(level))
        (tmp_path / f"{name}.txt").write_text(f"{i} 0.5 0.5 0.2 0.2\n{i} 0.2 0.2 0.1 0.1\n")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert_read(read_dataset(tmp_path), 2)
    (tmp_path / "cat.txt").write_text("0 0.5 0.5 0.2 0.2\n1 0.2 0.2 0.1 0.1\n")
    with pytest.raises(DataError, match="for detection"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("suffix", ["heic", "avif", "jxl", "webp", "jp2"])
def test_pictures_of_other_kinds(tmp_path: Path, suffix: str) -> None:
    """Those of phones and of the web, in class folders as in every reader."""
    if suffix == "heic":
        pytest.importorskip("pillow_heif", reason="the extra dev brings pillow-heif")
        import pillow_heif

        pillow_heif.register_heif_opener()
    if suffix == "jxl":
        pytest.importorskip("pillow_jxl", reason="the extra dev brings pillow-jxl-plugin")
        import pillow_jxl  # noqa: F401
    for name, level in LEVELS.items():
        (tmp_path / name).mkdir()
        picture = Image.new("RGB", (64, 48), (level, level, level))
        picture.save(tmp_path / name / f"a.{suffix}")
    data = read_dataset(tmp_path)
    assert len(data) == 2
    for image, label in data:
        assert image.shape == (48, 64, 3)
        assert abs(int(image[0, 0, 0]) - LEVELS[data.classes[label]]) <= 4


def test_a_kind_without_its_plugin_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What to install is named."""
    import sys

    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    (tmp_path / "a.jxl").write_bytes(b"\xff\x0a" + bytes(40))
    with pytest.raises(PhysadvError, match="pip install pillow-jxl-plugin"):
        read_rgb(tmp_path / "a.jxl")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"physadv\[arrow\]"):
        read_dataset(tmp_path / "a.parquet")


def test_sizes_come_from_headers(tmp_path: Path) -> None:
    """Choosing images of a million does not decode them."""
    images(tmp_path)
    data = read_dataset(tmp_path)
    broken = (tmp_path / "cats/0.png").read_bytes()[:-16]
    (tmp_path / "cats/0.png").write_bytes(broken)
    assert data.image_size(0) == (SIDE, SIDE)
    assert data.subset([1, 0]).image_size(1) == (SIDE, SIDE)


@pytest.mark.parametrize(
    ("name", "content", "limit"),
    [
        ("a.csv", b"path,label\n", "no image"),
        ("a.csv", b"path,label\nx.png\n", "cells"),
        ("a.csv", b"a,b\nx,1\n", "lacks the column"),
        ("a.csv", b"path,label\nx.png,1\n", "No such image"),
        ("a.parquet", b"PAR1" + bytes(50), "no readable Arrow or Parquet"),
        ("a.arrow", bytes(64), "no readable Arrow or Parquet"),
        ("a.txt", b"", "lists no image"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    tmp_path: Path, name: str, content: bytes, limit: str
) -> None:
    if not name.endswith((".csv", ".txt")):
        pytest.importorskip("pyarrow", reason="the extra dev brings pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=limit):
        read_dataset(tmp_path / name)


def test_a_label_of_another_form_is_refused(tmp_path: Path) -> None:
    """In shards: JSON without a label, and an image without a label file."""
    webdataset(tmp_path / "set", "json")
    with tarfile.open(tmp_path / "set/val-000002.tar", "w") as archive:
        for name, data in (("x.png", png(1)), ("x.json", b'{"caption": "a"}')):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    with pytest.raises(DataError, match="states no label"):
        read_dataset(tmp_path / "set", split="val")
    assert np.unique(read_dataset(tmp_path / "set", split="train").labels).tolist() == [0, 1]


def test_a_csv_as_a_german_excel_writes_it(tmp_path: Path) -> None:
    """Semicolons, Windows-1252, backslashes, umlauts in names and classes, and a decimal comma in a
    further column."""
    lines = ["Datei;Klasse;Gewicht"]
    for number, name in enumerate(("Grün", "Größe")):
        file = tmp_path / "bilder" / f"Straße {number}.png"
        file.parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(file)
        lines.append(f"bilder\\Straße {number}.png;{name};0,{number}5")
    (tmp_path / "liste.csv").write_bytes("\r\n".join([*lines, ""]).encode("cp1252"))
    data = read_dataset(tmp_path / "liste.csv")
    assert {data.names[i]: data.classes[label] for i, label in enumerate(data.labels)} == {
        "bilder/Straße 0.png": "Grün",
        "bilder/Straße 1.png": "Größe",
    }
    assert data[1][0].shape == (4, 4, 3)
    (tmp_path / "liste.csv").write_text("Foto;Art\na.png;x\n")
    with pytest.raises(DataError, match="has Foto, Art"):
        read_dataset(tmp_path / "liste.csv")


def test_labels_as_a_table_of_numbers_has_them(tmp_path: Path) -> None:
    """1.0 and 2.0 are the classes 1 and 2, not two names in order; no label is one error."""
    for name in ("a.png", "b.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "l.csv").write_text(",path,label\n0,a.png,1.0\n1,b.png,2.0\n")
    data = read_dataset(tmp_path / "l.csv")
    assert data.labels.tolist() == [1, 2]
    assert data.classes == ("0", "1", "2")
    (tmp_path / "l.csv").write_text(",path,label\n0,a.png,cat\n1,b.png,\n")
    with pytest.raises(DataError, match="image 2: Its label is empty"):
        read_dataset(tmp_path / "l.csv")


def test_masks_in_shards_are_no_images_of_their_own(tmp_path: Path) -> None:
    """``key.seg.png`` beside ``key.png`` is left out and counted; two that could be meant are
    refused."""

    def shard(*names: str) -> None:
        with tarfile.open(tmp_path / "val-0.tar", "w") as archive:
            for name in names:
                data = b"1" if name.endswith("cls") else png(1)
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))

    shard("a.png", "a.seg.png", "a.cls", "b.image.png", "b.cls")
    data = read_dataset(tmp_path, split="val")
    assert [name.rpartition("/")[2] for name in data.names] == ["a.png", "b.image.png"]
    assert sum(data.summary.skipped.values()) == 1
    shard("a.png", "a.jpg", "a.cls")
    with pytest.raises(DataError, match="cannot be told"):
        read_dataset(tmp_path, split="val")
