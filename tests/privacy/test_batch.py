"""A folder run resumes after a kill, skips finished photos, survives bad files, preserves
originals, uses flat memory."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from physadv.core.errors import DataError, ImageError, OptionError
from physadv.core.image_io import Array
from physadv.core.rows import read_rows
from physadv.privacy import batch as folder_module
from physadv.privacy.batch import (
    MANIFEST,
    CloakedPhoto,
    PhotoOutcome,
    PixelReader,
    list_unhandled,
    plan_jobs,
    run_folder,
)
from physadv.privacy.check.pairs import match_files
from physadv.privacy.photo_io.photo import read_photo

SETTINGS = {"mode": "low"}


class FakeCloaker:
    """Inverts a corner and counts; a black photo has no face."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.recalled = 0

    def __call__(self, rgb: Array, name: str) -> CloakedPhoto:
        self.names.append(name)
        if not rgb.any():
            return CloakedPhoto(rgb, [])
        done = rgb.copy()
        done[:4, :4] = 255 - done[:4, :4]
        return CloakedPhoto(done, [{"box": [0, 0, 4, 4]}])

    def recall(
        self, before: PixelReader, after: PixelReader, rows: list[dict[str, object]]
    ) -> None:
        assert (before()[:4, :4] != after()[:4, :4]).any()
        self.recalled += len(rows)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png", "trip/c.png", "trip/a.png"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 200, (20, 30, 3)).astype(np.uint8)).save(path)
    return root


def run(photos: Path, cloaker: FakeCloaker, **options: object) -> list[PhotoOutcome]:
    jobs, out = plan_jobs(photos)
    settings = options.pop("settings", SETTINGS)
    return list(run_folder(jobs, out, cloaker, settings=settings, **options))  # type: ignore[arg-type]


def test_structure_is_kept_and_originals_are_not_touched(photos: Path) -> None:
    """Every photo comes out under its own relative name; the originals' bytes and times stay."""
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in photos.rglob("*.png")}
    done = run(photos, FakeCloaker())
    assert [d.status for d in done] == ["cloaked"] * 4
    out = photos.parent / "photos-cloaked"
    assert {str(p.relative_to(out)) for p in out.rglob("*.png")} == {
        "a.png",
        "b.png",
        "trip/a.png",
        "trip/c.png",
    }
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in photos.rglob("*.png")} == before


def test_second_run_skips_everything(photos: Path) -> None:
    """Hashes of original, output and settings agree: nothing is done again, but the faces are
    recalled."""
    run(photos, FakeCloaker())
    again = FakeCloaker()
    assert {d.status for d in run(photos, again, recall=again.recall)} == {"already done"}
    assert again.names == []
    assert again.recalled == 4


def test_what_changed_is_done_again(photos: Path) -> None:
    """A changed original, a changed output, or other settings void the earlier result."""
    run(photos, FakeCloaker())
    Image.fromarray(np.full((20, 30, 3), 77, np.uint8)).save(photos / "b.png")
    cloaker = FakeCloaker()
    run(photos, cloaker)
    assert cloaker.names == ["b.png"]
    (photos.parent / "photos-cloaked" / "a.png").unlink()
    cloaker = FakeCloaker()
    run(photos, cloaker)
    assert cloaker.names == ["a.png"]
    cloaker = FakeCloaker()
    run(photos, cloaker, settings={"mode": "high"}, overwrite=True)
    assert len(cloaker.names) == 4


def test_a_finished_result_of_other_settings_is_not_replaced(photos: Path) -> None:
    """Unless asked to: nothing is written, the difference is named, and the same settings still
    resume."""
    run(photos, FakeCloaker())
    out = photos.parent / "photos-cloaked"
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    with pytest.raises(OptionError, match="other settings"):
        run(photos, FakeCloaker(), settings={"mode": "high"})
    with pytest.raises(OptionError, match="--overwrite"):
        run(photos, FakeCloaker(), keep_metadata=True)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    assert {done.status for done in run(photos, FakeCloaker())} == {"already done"}


@pytest.mark.parametrize("moment", ["before the write", "in the middle"])
def test_resume_after_a_kill(photos: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """Killed between the manifest and the file, or with a half-written manifest line: the rest is
    done, once."""
    jobs, out = plan_jobs(photos)
    if moment == "before the write":
        real = folder_module.write_bytes

        def killed(path: Path, data: bytes) -> Path:
            if path.name == "b.png":
                raise KeyboardInterrupt
            return real(path, data)

        monkeypatch.setattr(folder_module, "write_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            list(run_folder(jobs, out, FakeCloaker(), settings=SETTINGS))
        monkeypatch.undo()
    else:
        steps = run_folder(jobs, out, FakeCloaker(), settings=SETTINGS)
        next(steps)
        steps.close()
        with (out / MANIFEST).open("a", encoding="utf-8") as stream:
            stream.write('{"source": "b.png", "sta')
    cloaker = FakeCloaker()
    statuses = {d.job.name: d.status for d in run(photos, cloaker)}
    assert statuses["a.png"] == "already done"
    assert cloaker.names == ["b.png", "trip/a.png", "trip/c.png"]
    assert {d.status for d in run(photos, FakeCloaker())} == {"already done"}


def test_bad_files_do_not_stop_the_rest(photos: Path) -> None:
    """Empty, foreign, CMYK and unreadable files each get a row with the reason; all others are
    cloaked."""
    (photos / "empty.jpg").write_bytes(b"")
    (photos / "text.png").write_text("hello", encoding="utf-8")
    Image.new("CMYK", (20, 20)).save(photos / "print.jpg")
    done = {d.job.name: d for d in run(photos, FakeCloaker())}
    assert {n for n, d in done.items() if d.status == "failed"} == {
        "empty.jpg",
        "text.png",
        "print.jpg",
    }
    assert "CMYK" in done["print.jpg"].notes[0]
    assert sum(d.status == "cloaked" for d in done.values()) == 4


def test_a_bug_in_the_cloaker_is_not_hidden(photos: Path) -> None:
    """Only known errors become rows; a programming error is raised."""

    def broken(rgb: Array, name: str) -> CloakedPhoto:
        raise TypeError(name)

    jobs, out = plan_jobs(photos)
    with pytest.raises(TypeError):
        list(run_folder(jobs, out, broken, settings=SETTINGS))


def test_photo_without_a_face_is_not_written(photos: Path) -> None:
    """Nothing was protected, so nothing is written that could pass for it; a second run does not
    look again."""
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(photos / "dark.png")
    done = {d.job.name: d.status for d in run(photos, FakeCloaker())}
    assert done["dark.png"] == "no face"
    assert not (photos.parent / "photos-cloaked" / "dark.png").exists()
    assert {d.job.name: d.status for d in run(photos, FakeCloaker())}["dark.png"] == "already done"


def test_foreign_files_are_not_overwritten(photos: Path) -> None:
    """What lies in the output folder and is not ours stays, and the photo is a failure that says
    so."""
    out = photos.parent / "photos-cloaked"
    out.mkdir()
    (out / "a.png").write_bytes(b"precious")
    done = {d.job.name: d for d in run(photos, FakeCloaker())}
    assert done["a.png"].status == "failed"
    assert "not written by this tool" in done["a.png"].notes[0]
    assert (out / "a.png").read_bytes() == b"precious"


def test_failure_in_a_later_run_keeps_the_earlier_output_ours(photos: Path) -> None:
    """After a failed second run the third may still replace what the first one wrote."""
    run(photos, FakeCloaker())
    good = (photos / "a.png").read_bytes()
    (photos / "a.png").write_bytes(b"broken for a while")
    assert run(photos, FakeCloaker())[0].status == "failed"
    (photos / "a.png").write_bytes(good)
    again = run(photos, FakeCloaker(), settings={"mode": "mid"}, overwrite=True)
    assert again[0].status == "cloaked"


def test_output_among_the_originals_is_refused(photos: Path) -> None:
    """The same folder, one inside of it, and the same by a link."""
    link = photos.parent / "link"
    link.symlink_to(photos)
    for out in (photos, photos / "cloaked", link):
        with pytest.raises(OptionError, match="among the originals"):
            plan_jobs(photos, out)
    with pytest.raises(OptionError, match="among the originals"):
        plan_jobs(photos / "a.png", photos)


def test_single_file_and_missing_folder(photos: Path) -> None:
    """One photo works like a folder of one; a missing path is said."""
    jobs, out = plan_jobs(photos / "a.png")
    assert [j.name for j in jobs] == ["a.png"]
    assert next(iter(run_folder(jobs, out, FakeCloaker(), settings=SETTINGS))).status == "cloaked"
    assert (out / "a.png").is_file()
    with pytest.raises(ImageError, match="no such"):
        plan_jobs(photos / "nowhere")


def test_names_that_differ_by_suffix_do_not_meet(photos: Path) -> None:
    """a.gif becomes a.gif.png and leaves a.png alone."""
    Image.fromarray(np.full((20, 20, 3), 9, np.uint8)).save(photos / "a.gif")
    done = run(photos, FakeCloaker())
    assert {d.status for d in done} == {"cloaked"}
    out = photos.parent / "photos-cloaked"
    assert (out / "a.gif.png").is_file()
    assert np.array_equal(read_photo(out / "a.png").rgb[5:], read_photo(photos / "a.png").rgb[5:])


def _resident_mb() -> float:
    return (
        int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        * os.sysconf("SC_PAGE_SIZE")
        / 1e6
    )


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="reads /proc")
def test_memory_stays_flat_over_500_photos(tmp_path: Path) -> None:
    """Between the 50th and the 500th photo of 0.5 MB of pixels each, the process grows by less than
    30 MB."""
    root = tmp_path / "many"
    root.mkdir()
    base = np.random.default_rng(1).integers(0, 200, (40, 40, 3)).astype(np.uint8)
    for k in range(500):
        Image.fromarray(np.kron(np.roll(base, k, 0), np.ones((10, 10, 1), np.uint8))).save(
            root / f"{k:03}.png", compress_level=1
        )
    jobs, out = plan_jobs(root)
    sizes = {}
    for done in run_folder(jobs, out, FakeCloaker(), settings=SETTINGS):
        assert done.status == "cloaked"
        if done.index in (50, 500):
            sizes[done.index] = _resident_mb()
    assert sizes[500] - sizes[50] < 30


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no valid JSON"),
        ("{}", "no settings file of a cloak"),
        ('{"embedders": [{"name": "dlib"}]}', "sha256: is missing"),
    ],
)
def test_a_broken_settings_file_is_one_error(tmp_path: Path, text: str, words: str) -> None:
    """What is no settings file of a cloak is named as such, with a remedy."""
    (tmp_path / folder_module.SETTINGS).write_text(text)
    with pytest.raises(DataError, match=words):
        folder_module.recorded_embedders(tmp_path / folder_module.SETTINGS)
    (tmp_path / folder_module.SETTINGS).write_text(
        '{"embedders": [{"name": "dlib", "sha256": "0a", "x": 1}]}'
    )
    assert folder_module.recorded_embedders(tmp_path / folder_module.SETTINGS) == [
        {"name": "dlib", "sha256": "0a"}
    ]


def test_several_photos_are_those_of_their_folder(photos: Path, tmp_path: Path) -> None:
    """Named one by one, in any spelling, they have the names and targets that a run over the folder
    gives them; a folder among them is refused."""
    whole, folder = plan_jobs(photos)
    files = [str(job.source) for job in whole]
    again = str(whole[0].source.parent / "." / whole[0].source.name)
    jobs, out = plan_jobs([*reversed(files), again])
    assert out.resolve() == folder.resolve()
    assert {(j.name, j.target.resolve()) for j in jobs} == {
        (j.name, j.target.resolve()) for j in whole
    }
    assert len(jobs) == len(whole)
    with pytest.raises(OptionError, match="among several"):
        plan_jobs([files[0], str(photos)])


class Killed(BaseException):
    """A kill: nothing catches it."""


def kill_at(monkeypatch: pytest.MonkeyPatch, photo: str, *, after: bool = False) -> None:
    """The process ends before, or after, ``photo`` is written."""
    real = folder_module.write_bytes

    def write(path: Path, data: bytes) -> Path:
        if path.name != photo:
            return real(path, data)
        if after:
            real(path, data)
        raise Killed

    monkeypatch.setattr(folder_module, "write_bytes", write)


@pytest.mark.parametrize("after", [False, True])
def test_a_kill_makes_no_photo_foreign(
    photos: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    """Killed where it replaces an earlier cloak, old file or new, the next run takes it as its
    own."""
    run(photos, FakeCloaker())
    Image.fromarray(np.full((20, 30, 3), 77, np.uint8)).save(photos / "b.png")
    kill_at(monkeypatch, "b.png", after=after)
    with pytest.raises(Killed):
        run(photos, FakeCloaker())
    monkeypatch.undo()
    statuses = {d.job.name: d.status for d in run(photos, FakeCloaker())}
    assert statuses.pop("b.png") == ("already done" if after else "cloaked")
    assert set(statuses.values()) == {"already done"}


def test_a_photo_in_place_is_done(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between a photo and its last row: the photo is not cloaked again, and the manifest
    then says that it is cloaked."""
    kill_at(monkeypatch, "b.png", after=True)
    with pytest.raises(Killed):
        run(photos, FakeCloaker())
    monkeypatch.undo()
    cloaker = FakeCloaker()
    run(photos, cloaker, recall=cloaker.recall)
    assert cloaker.names == ["trip/a.png", "trip/c.png"]
    assert cloaker.recalled == 4
    newest = {
        r["source"]: r["status"] for r in read_rows(photos.parent / "photos-cloaked" / MANIFEST)
    }
    assert set(newest.values()) == {"cloaked"}


def test_a_full_disk_ends_the_run(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A photo that cannot be written is no photo that cannot be cloaked: the rest is not tried."""

    def full(path: Path, data: bytes) -> Path:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(folder_module, "write_bytes", full)
    cloaker = FakeCloaker()
    with pytest.raises(OSError, match="No space left"):
        run(photos, cloaker)
    assert cloaker.names == ["a.png"]
    monkeypatch.undo()
    assert {d.status for d in run(photos, FakeCloaker())} == {"cloaked"}


def test_a_pipe_among_the_outputs_is_no_hang(photos: Path) -> None:
    """Opened for its digest it would wait for a writer for ever."""
    out = photos.parent / "photos-cloaked"
    out.mkdir()
    os.mkfifo(out / "a.png")
    done = {d.job.name: d for d in run(photos, FakeCloaker())}
    assert "is a pipe" in done["a.png"].notes[0]
    assert [d.status for d in done.values()].count("cloaked") == 3


@pytest.mark.parametrize("first", ["dup.gif", "dup.gif.png"])
def test_photos_whose_outputs_have_one_name_are_both_kept(tmp_path: Path, first: str) -> None:
    """dup.gif becomes a PNG, but not in the place of dup.gif.png, whichever is done first; a second
    run changes nothing, and the check finds the copy of each."""
    photos, names = tmp_path / "photos", ("dup.gif", "dup.gif.png")
    photos.mkdir()
    for value, name in enumerate(sorted(names, key=lambda n: n != first)):
        Image.fromarray(np.full((20, 30, 3), 60 + 90 * value, np.uint8)).save(photos / name)
        run(photos, FakeCloaker())
    out = tmp_path / "photos-cloaked"
    written = {p.name: p.read_bytes() for p in out.glob("*.png")}
    assert len(written) == 2
    assert {d.status for d in run(photos, FakeCloaker())} == {"already done"}
    assert {p.name: p.read_bytes() for p in out.glob("*.png")} == written

    pairs, foreign = match_files(photos, out)
    assert not foreign
    for pair in pairs:
        assert pair.cloaked is not None
        before, after = read_photo(pair.original).rgb, read_photo(pair.cloaked).rgb
        assert np.array_equal(before[5:], after[5:])


def test_files_that_are_no_photos_are_listed(tmp_path: Path) -> None:
    """Raw photos and videos may show faces: they are named, with their kind; photos are not."""
    for name in ("a.jpg", "b.DNG", "trip/c.MOV", "d.jfif", "e.mpo", "notes.txt", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert dict(list_unhandled(tmp_path)) == {
        "b.DNG": "raw photo",
        "notes.txt": "other file",
        "trip/c.MOV": "video",
    }
