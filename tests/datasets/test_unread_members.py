"""Whatever of a folder or an archive is not read is counted and named in the summary."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from physadv.core.errors import DataError
from physadv.datasets.base import ImageDataset
from physadv.datasets.read import read_dataset, read_detection_dataset


def png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (level, level, level)).save(buffer, "PNG")
    return buffer.getvalue()


def tar(path: Path, *members: tuple[str, bytes | str, bytes]) -> Path:
    """A tar file of members: name, kind, and content or the name that a link leads to."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type = kind if isinstance(kind, bytes) else tarfile.REGTYPE
            is_link = info.type in (tarfile.SYMTYPE, tarfile.LNKTYPE)
            info.linkname = content.decode() if is_link else ""
            info.size = 0 if is_link else len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


FILE = tarfile.REGTYPE
FILE_MODE = stat.S_IFREG | 0o644
PAIR = (("a/0.png", FILE, png(10)), ("b/0.png", FILE, png(20)))
ODD_MEMBERS = {
    "hard link": ("b/1.png", tarfile.LNKTYPE, b"b/0.png", {"links (b/1.png)": 1}),
    "symbolic link": ("b/1.png", tarfile.SYMTYPE, b"/etc/passwd", {"links (b/1.png)": 1}),
    "device": ("b/1.png", tarfile.CHRTYPE, b"", {"devices and pipes (b/1.png)": 1}),
    "disk": ("b/1.png", tarfile.BLKTYPE, b"", {"devices and pipes (b/1.png)": 1}),
    "pipe": ("b/1.png", tarfile.FIFOTYPE, b"", {"devices and pipes (b/1.png)": 1}),
    "volume": ("b/1.png", b"V", b"", {"members of an unknown kind (b/1.png)": 1}),
    "again": ("a/0.png", FILE, png(30), {"earlier files of the same name (a/0.png)": 1}),
    "again otherwise": (
        "./a/0.png",
        FILE,
        png(30),
        {"earlier files of the same name (a/0.png)": 1},
    ),
}


@pytest.mark.parametrize("odd", ODD_MEMBERS)
def test_what_a_tar_holds_beside_files_is_named(tmp_path: Path, odd: str) -> None:
    """Links, devices and pipes are left out; of two files of one name the last is read."""
    name, kind, content, skipped = ODD_MEMBERS[odd]
    data = read_dataset(tar(tmp_path / "set.tar", *PAIR, (name, kind, content)))
    assert data.names == ("a/0.png", "b/0.png")
    assert data.summary.skipped == skipped
    assert int(data[0][0][0, 0, 0]) == (30 if "again" in odd else 10)
    assert next(iter(skipped)) in "\n".join(data.summary.lines())


def test_a_sparse_file_of_a_tar_is_named(tmp_path: Path) -> None:
    """Its holes would have to be made up."""
    path = tar(tmp_path / "set.tar", *PAIR)
    with tarfile.open(path, "a", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("b/1.png")
        info.pax_headers = {"GNU.sparse.map": "0,8", "GNU.sparse.size": "4096"}
        info.size = 8
        archive.addfile(info, io.BytesIO(bytes(8)))
    data = read_dataset(path)
    assert data.summary.skipped == {"sparse files (b/1.png)": 1}


def zipped(path: Path, *members: tuple[str, int, bytes]) -> Path:
    """A zip file of members: name, mode of Unix, content."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, mode, content in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, content)
    return path


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        (stat.S_IFLNK, "links"),
        (stat.S_IFCHR, "devices and pipes"),
        (stat.S_IFIFO, "devices and pipes"),
        (stat.S_IFSOCK, "devices and pipes"),
    ],
)
def test_what_a_zip_holds_beside_files_is_named(tmp_path: Path, mode: int, kind: str) -> None:
    """A link's content is the name of its target, not a picture."""
    members = [(name, FILE_MODE, content) for name, _, content in PAIR]
    path = zipped(tmp_path / "set.zip", *members, ("b/1.png", mode | 0o777, b"../a/0.png"))
    data = read_dataset(path)
    assert data.names == ("a/0.png", "b/0.png")
    assert data.summary.skipped == {f"{kind} (b/1.png)": 1}


def test_a_member_of_a_zip_without_a_name_is_counted(tmp_path: Path) -> None:
    """It has no place that could be named."""
    members = [(name, FILE_MODE, content) for name, _, content in PAIR]
    path = zipped(tmp_path / "set.zip", *members, ("x", FILE_MODE, b"?"))
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"x")  # the directory's name becomes a part of its extra field
    data[entry - 18 : entry - 14] = bytes([0, 0, 1, 0])
    path.write_bytes(data)
    assert read_dataset(path).summary.skipped == {"files without a name": 1}


def test_an_archive_of_nothing_but_links_says_so(tmp_path: Path) -> None:
    """The error names what is in it."""
    links = [(f"a/{i}.png", tarfile.LNKTYPE, b"x") for i in range(5)]
    with pytest.raises(DataError, match=r"5 links \(a/0.png, a/1.png, a/2.png \.\.\.\)"):
        read_dataset(tar(tmp_path / "set.tar", *links))
    with pytest.raises(DataError, match=r"1 links \(a\.png\)"):
        read_dataset(zipped(tmp_path / "set.zip", ("a.png", stat.S_IFLNK, b"b.png")))


def test_names_are_short_and_few_however_many_members(tmp_path: Path) -> None:
    """A hundred links of names of 10,000 characters are one short line."""
    links = [(f"b/{i}" + "x" * 10_000, tarfile.SYMTYPE, b"y") for i in range(100)]
    data = read_dataset(tar(tmp_path / "set.tar", *PAIR, *links))
    ((reason, count),) = data.summary.skipped.items()
    assert (count, len(reason) < 250) == (100, True)


def test_shards_name_what_they_do_not_hold(tmp_path: Path) -> None:
    """Of shards: their links and repetitions, tar files that are none, files beside them, and this
    whichever part is read."""
    sample = (("0.png", FILE, png(1)), ("0.cls", FILE, b"1"))
    folder = tmp_path / "set"
    folder.mkdir()
    tar(folder / "train-0.tar", *sample, ("1.png", tarfile.LNKTYPE, b"0.png"))
    tar(folder / "val-0.tar", *sample, ("0.cls", FILE, b"0"), ("note.md", FILE, b"?"))
    (folder / "train-1.tar").write_bytes(b"zstd")
    (folder / "sizes.json").write_text("{}")
    (folder / ".index").write_text("")
    for part, label in (("train", 1), ("val", 0)):
        data = read_dataset(folder, split=part)
        assert data.labels.tolist() == [label]
        assert data.summary.skipped == {
            "other files (.md)": 1,
            "hidden files and files of desktops": 1,
            "links (train-0/1.png)": 1,
            "earlier files of the same name (val-0/0.cls)": 1,
            "tar files that cannot be read in place (train-1.tar)": 1,
            "files beside the shards (sizes.json)": 1,
        }


def test_arrays_of_one_name_are_refused(tmp_path: Path) -> None:
    """The member ``images`` and the member ``images.npy`` are the same array's name."""
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((2, 8, 8), np.uint8))
    file = FILE_MODE, buffer.getvalue()
    path = zipped(tmp_path / "set.npz", ("images", *file), ("images.npy", *file))
    with pytest.raises(DataError, match="Two arrays have this name"):
        read_dataset(path)


def class_folders(root: Path) -> Path:
    for name, _, content in PAIR:
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(content)
    return root


OBSTACLES: dict[str, tuple[Callable[[Path], None], str]] = {
    "broken link": (lambda p: p.symlink_to("nowhere"), "links that lead nowhere"),
    "pipe": (lambda p: os.mkfifo(p), "devices and pipes"),
    "second way": (lambda p: p.symlink_to(p.parent), "folders reached again by a link"),
}


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_what_a_folder_holds_beside_files_is_named(tmp_path: Path, obstacle: str) -> None:
    """It is not waited for, and not read twice."""
    make, kind = OBSTACLES[obstacle]
    make(class_folders(tmp_path) / "b" / "1.png")
    data = read_dataset(tmp_path)
    assert data.names == ("a/0.png", "b/0.png")
    assert data.summary.skipped == {f"{kind} (b/1.png)": 1}


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its images are missing, so that the data are others than they seem."""
    (class_folders(tmp_path) / "c").mkdir()
    scan = os.scandir

    def refusing(path: str) -> object:
        if os.path.basename(path) == "c":  # noqa: PTH119 - as os.walk hands it on
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    data = read_dataset(tmp_path)
    assert data.summary.skipped == {"folders that cannot be read (c)": 1}


def test_skipped_files_of_parts_are_counted(tmp_path: Path) -> None:
    """Images and labels of the other part are no other files; what is in neither is one."""
    for part in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / kind / part).mkdir(parents=True)
        (tmp_path / "images" / part / "0.png").write_bytes(png(5))
        (tmp_path / "labels" / part / "0.txt").write_text("0 0.5 0.5 0.2 0.4")
    (tmp_path / "labels" / "train" / "gone.txt").write_text("0 0.5 0.5 0.2 0.4")
    (tmp_path / "classes.txt").write_text("stop")
    (tmp_path / "README.md").write_text("signs")
    data = read_detection_dataset(tmp_path, split="val")
    assert data.summary.skipped == {"other files (.md, .txt)": 2}


def arrow_folder(folder: Path) -> ImageDataset:
    """A folder as `save_to_disk` leaves it after a `map`, read."""
    pyarrow = pytest.importorskip("pyarrow")
    folder.mkdir()
    table = pyarrow.table({"image": [{"bytes": png(1), "path": ""}] * 2, "label": [0, 1]})
    for name in ("data-00000-of-00001.arrow", "cache-0a1b.arrow"):
        with (
            pyarrow.OSFile(str(folder / name), "wb") as sink,
            pyarrow.ipc.new_stream(sink, table.schema) as writer,
        ):
            writer.write_table(table)
    (folder / "state.json").write_text("{}")
    (folder / "notes.txt").write_text("")
    return read_dataset(folder)


def test_caches_beside_arrow_files_are_counted(tmp_path: Path) -> None:
    """They hold rows of the same set; descriptions of the set are no other files."""
    data = arrow_folder(tmp_path / "set")
    assert len(data) == 2
    assert data.summary.skipped == {"caches of computed rows": 1, "other files (.txt)": 1}
