"""The cloak: limits hold on the saved pixels, nothing else changes, embeddings leave the person
and siblings."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import ROOT, environment
from PIL import Image
from tinyface import KnownFinder, drawn_photo, face_at, tiny_embedder

from physadv.core.errors import ImageError, OptionError
from physadv.core.image_io import save_png
from physadv.core.random_streams import generator
from physadv.core.torch_threads import calm_threads
from physadv.models.faces.embedders import FaceEmbedder
from physadv.privacy.batch import plan_jobs, run_folder
from physadv.privacy.cloak_faces import (
    MODES,
    WORKING_SIDE,
    CloakMode,
    FaceWindow,
    _assert_memory,
    _planes,
    cloak_faces,
    mode_named,
)
from physadv.privacy.embedding_loss import (
    CloakGoal,
    CloakMemory,
    decoy_embedding,
    own_embeddings,
    similarity_margin,
)
from physadv.privacy.face_change import ChangeLimits
from physadv.privacy.photo_cloaker import PhotoCloaker, cloaker_settings, face_of
from physadv.privacy.visibility import dssim, patch_color_change

QUICK = replace(MODES["mid"], steps=12, draws=2, every=6)
STRONG = replace(MODES["high"], dssim=0.1, patches=20.0, limits=ChangeLimits(9.0, 0.5, 14.0, 2.0))
"""The tiny embedder sees the light of a face more than its edges."""


@pytest.fixture(scope="module")
def embedder() -> FaceEmbedder:
    return tiny_embedder()


def margin_now(photo: np.ndarray, after: np.ndarray, face: object, embedder: FaceEmbedder) -> float:
    """Margin of the cloaked face to the original one."""
    rows = []
    for pixels in (photo, after):
        window = FaceWindow.around(pixels, face)  # type: ignore[arg-type]
        rows.append(own_embeddings(window.scene, window.face, embedder)[:1])
    return float(similarity_margin(embedder, rows[1], rows[0]))


@pytest.mark.parametrize("mode", ["low", "mid", "high"])
@pytest.mark.parametrize("side", [40, 90, 2 * WORKING_SIDE])
def test_limits_hold_and_all_else_is_bit_identical(
    mode: str, side: int, embedder: FaceEmbedder
) -> None:
    """For small, usual and large faces: largest change, DSSIM of the face box, and every pixel
    outside of it."""
    chosen = replace(MODES[mode], steps=8, draws=2, every=4)
    face = face_at(30, 22, side)
    photo = drawn_photo(side + 60, side + 80, face)
    done, notes = cloak_faces(photo, [face], [embedder], chosen)
    x0, y0, x1, y1 = notes[0].box
    changed = np.abs(done.astype(int) - photo)
    assert changed[y0:y1, x0:x1].max() <= chosen.linf
    assert changed.max() > 0
    changed[y0:y1, x0:x1] = 0
    assert changed.max() == 0
    window = FaceWindow.around(photo, face)
    seen = [window.seen(_planes(p[y0:y1, x0:x1])) for p in (photo, done)]
    assert float(dssim(seen[0], seen[1])) <= chosen.dssim + 1e-6
    assert notes[0].change.dssim <= chosen.dssim + 1e-6
    assert patch_color_change(seen[0], seen[1]) <= chosen.patches + 1e-6


def test_face_leaves_its_own_place(embedder: FaceEmbedder) -> None:
    """The margin to the person falls from 1 to under the threshold, and the note says so."""
    face = face_at(20, 20, 80)
    photo = drawn_photo(120, 120, face)
    done, notes = cloak_faces(photo, [face], [embedder], replace(STRONG, steps=60))
    found = margin_now(photo, done, face, embedder)
    assert found < 0
    assert notes[0].margins["tiny"] < 0.3


def test_equal_noise_does_much_less(embedder: FaceEmbedder) -> None:
    """Random changes of the same DSSIM leave the margin high: it is the direction that counts, not
    the amount."""
    from physadv.privacy.check.channels import noise_like

    face = face_at(20, 20, 80)
    photo = drawn_photo(120, 120, face)
    done, notes = cloak_faces(photo, [face], [embedder], replace(STRONG, steps=30))
    x0, y0, x1, y1 = notes[0].box
    noisy = photo.copy()
    noisy[y0:y1, x0:x1] = noise_like(photo[y0:y1, x0:x1], done[y0:y1, x0:x1], 0, "n")
    assert margin_now(photo, noisy, face, embedder) > margin_now(photo, done, face, embedder) + 0.3


def test_gray_stays_gray(embedder: FaceEmbedder) -> None:
    """A photo with three equal channels comes out with three equal channels."""
    face = face_at(20, 20, 80)
    photo = np.repeat(drawn_photo(120, 120, face)[..., :1], 3, 2)
    done, _ = cloak_faces(photo, [face], [embedder], QUICK)
    assert (done != photo).any()
    assert (done == done[..., :1]).all()


def test_change_fades_at_the_border_of_the_box(embedder: FaceEmbedder) -> None:
    """No seam: along the box's outermost pixels the change is at most half of the limit, and a
    tenth on average."""
    face = face_at(20, 20, 90)
    photo = drawn_photo(130, 130, face)
    mode = replace(QUICK, dssim=0.4, patches=99.0, linf=20)
    done, notes = cloak_faces(photo, [face], [embedder], mode)
    x0, y0, x1, y1 = notes[0].box
    changed = np.abs(done.astype(int) - photo)[y0:y1, x0:x1]
    edge = np.concatenate(
        [changed[0].ravel(), changed[-1].ravel(), changed[:, 0].ravel(), changed[:, -1].ravel()]
    )
    assert edge.max() <= mode.linf / 2
    assert edge.mean() <= mode.linf / 10
    assert changed.max() >= mode.linf * 0.8


def test_same_seed_same_pixels_and_nothing_of_the_users_moves(embedder: FaceEmbedder) -> None:
    """Deterministic; the global generators, the embedder's flags and the photo stay as they
    were."""
    face = face_at(20, 20, 60)
    photo = drawn_photo(100, 100, face)
    copy, state = photo.copy(), torch.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    first, _ = cloak_faces(photo, [face], [embedder], QUICK, seed=3)
    second, _ = cloak_faces(photo, [face], [embedder], QUICK, seed=3)
    other, _ = cloak_faces(photo, [face], [embedder], QUICK, seed=4)
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert np.array_equal(photo, copy)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert all(p.grad is None and not p.requires_grad for p in embedder.parameters())


def test_embedder_that_wants_gradients_gets_none() -> None:
    """Weights left trainable by their owner receive no gradient."""
    open_weights = tiny_embedder().requires_grad_(True)
    face = face_at(20, 20, 60)
    cloak_faces(drawn_photo(100, 100, face), [face], [open_weights], QUICK)
    assert all(p.grad is None and p.requires_grad for p in open_weights.parameters())


def test_two_faces_in_one_photo(embedder: FaceEmbedder) -> None:
    """Each face is cloaked in its own box, and each note belongs to its face."""
    faces = [face_at(10, 20, 60), face_at(90, 20, 60)]
    photo = drawn_photo(100, 160, faces[0])
    photo[20:80, 90:150] = photo[20:80, 10:70][:, ::-1]
    done, notes = cloak_faces(photo, faces, [embedder], QUICK)
    changed = (done != photo).any(2)
    for note, (x0, x1) in zip(notes, ((10, 70), (90, 150)), strict=True):
        assert (note.box[0], note.box[2]) == (x0, x1)
        assert changed[:, x0:x1].any()
        changed[:, x0:x1] = False
    assert not changed.any()


def test_where_nothing_may_change_the_photo_stays_as_it_is(embedder: FaceEmbedder) -> None:
    """The margins are those of the face itself, so that nobody takes it for protected."""
    face = face_at(20, 20, 60)
    photo = drawn_photo(100, 100, face)
    mode = CloakMode("none", linf=0, dssim=0.01, steps=4, draws=1)
    done, (note,) = cloak_faces(photo, [face], [embedder], mode)
    assert np.array_equal(done, photo)
    assert note.margins == {embedder.card.name: pytest.approx(1, abs=0.02)}


def test_memory_knows_siblings_and_only_those(embedder: FaceEmbedder) -> None:
    """Another photo of the person is a sibling, another person's is not; the oldest faces are
    forgotten first."""
    face = face_at(20, 20, 80)

    def clean(person: int, shot: int) -> dict[str, torch.Tensor]:
        window = FaceWindow.around(drawn_photo(120, 120, face, person=person, shot=shot), face)
        return {"tiny": own_embeddings(window.scene, window.face, embedder)[:1]}

    memory = CloakMemory(limit=2)
    memory.add(clean(0, 0), clean(0, 0))
    memory.add(clean(5, 0), clean(5, 0))
    assert len(memory.siblings(clean(0, 1), [embedder])) == 1
    assert len(memory.siblings(clean(9, 1), [embedder])) == 0
    memory.add(clean(7, 0), clean(7, 0))
    assert len(memory) == 2
    assert len(memory.siblings(clean(0, 1), [embedder])) == 0


def test_cloaked_siblings_are_pushed_apart(embedder: FaceEmbedder) -> None:
    """With the memory the second cloaked photo matches the first one less than without it."""
    face = face_at(20, 20, 80)
    shots = [drawn_photo(120, 120, face, shot=k) for k in range(2)]
    mode = replace(STRONG, steps=30)
    found = {}
    for name, memory in (("alone", None), ("remembered", CloakMemory())):
        cloaked = [
            cloak_faces(s, [face], [embedder], mode, memory=memory, name=str(k))[0]
            for k, s in enumerate(shots)
        ]
        found[name] = margin_now(cloaked[0], cloaked[1], face, embedder)
    assert found["remembered"] < found["alone"]


def test_decoy_is_an_average_far_from_the_person(embedder: FaceEmbedder) -> None:
    """Never one real person, always a mean of eight; of the candidates the farthest; refused with
    too few."""
    draw = generator(0, "test")
    others = torch.randn(20, 16, generator=draw)
    own = others.mean(0, keepdim=True)
    found = decoy_embedding(embedder, others, own, generator(1, "d"))
    apart = (others - found).norm(dim=1).min()
    assert float(apart) > 1
    groups = [
        others[torch.randperm(20, generator=generator(k, "x"))[:8]].mean(0) for k in range(20)
    ]
    typical = similarity_margin(embedder, torch.stack(groups), own).median()
    assert float(similarity_margin(embedder, found, own)) < float(typical)
    with pytest.raises(OptionError, match="at least 8"):
        decoy_embedding(embedder, others[:7], own, generator(1, "d"))


def test_decoy_pulls(embedder: FaceEmbedder) -> None:
    """With a decoy the cloaked face ends nearer to it than without."""
    face = face_at(20, 20, 80)
    photo = drawn_photo(120, 120, face)
    target = {"tiny": torch.randn(1, 16, generator=generator(5, "decoy"))}
    mode = replace(STRONG, steps=30)
    near = []
    for decoys in (None, target):
        done, _ = cloak_faces(photo, [face], [embedder], mode, decoys=decoys)
        window = FaceWindow.around(done, face)
        near.append(
            float(
                similarity_margin(
                    embedder,
                    own_embeddings(window.scene, window.face, embedder)[:1],
                    target["tiny"],
                )
            )
        )
    assert near[1] > near[0] + 0.1


def test_goal_counts_siblings_and_decoys(embedder: FaceEmbedder) -> None:
    """The loss falls away from the person, rises towards a cloaked sibling, falls towards a
    decoy."""
    own, sibling, target = torch.eye(16)[:3][:, None]
    goal = CloakGoal({"tiny": own}, {"tiny": own}, {"tiny": sibling}, {"tiny": target})
    far = torch.eye(16)[8:9]
    losses = {
        k: float(goal.loss(embedder, v))
        for k, v in (("own", own), ("sibling", sibling), ("decoy", target), ("far", far))
    }
    assert losses["own"] > losses["far"]
    assert losses["sibling"] > losses["far"]
    assert losses["decoy"] < losses["far"]


def test_album_moves_the_goal_to_what_photos_share(embedder: FaceEmbedder, tmp_path: Path) -> None:
    """Other photos of a person weigh as much as the photo itself; strangers and the very photo
    nothing. A folder without faces is refused."""
    face = face_at(35, 35, 70)
    photo = drawn_photo(140, 140, face)
    window = FaceWindow.around(photo, face)
    own = own_embeddings(window.scene, window.face, embedder)
    near = own[:1] + 0.3 * own[:1].norm() * torch.eye(16)[:1]
    memory = CloakMemory()
    for each in (near, own[:1], -own[:1], near.clone()):  # the same face again counts once
        memory.add_bare({"tiny": each})
    goal = CloakGoal.of(window.scene, window.face, [embedder], memory.copy(), None)
    assert torch.equal(goal.own["tiny"], torch.cat([own, near.expand_as(own)]))
    assert (goal.siblings, goal.others) == ({}, 1)
    memory.add({"tiny": near}, {"tiny": -own[:1]})  # a sibling of the album counts once, too
    goal = CloakGoal.of(window.scene, window.face, [embedder], memory.copy(), None)
    assert torch.equal(goal.own["tiny"], torch.cat([own, near.expand_as(own)]))
    assert (list(goal.siblings), goal.others) == (["tiny"], 1)

    cloaker = PhotoCloaker([KnownFinder()], [embedder], QUICK)
    bare = cloaker_settings(cloaker)
    save_png(tmp_path / "album" / "a.png", photo)
    assert cloaker.learn_album(tmp_path / "album") == 1
    assert cloaker_settings(cloaker) == {**bare, "album": cloaker.album}
    with pytest.raises(OptionError, match="no face"):
        PhotoCloaker([lambda rgb: []], [embedder], QUICK).learn_album(tmp_path / "album")


def test_tool_remembers_and_recalls(embedder: FaceEmbedder) -> None:
    """What was cloaked is remembered once it is written, from pixels and the manifest's row alone,
    so that a later run recalls the same."""
    cloaker = PhotoCloaker([KnownFinder()], [embedder], QUICK)
    photo = drawn_photo(140, 140, face_at(35, 35, 70))
    work = cloaker(photo, "a.png")
    assert len(work.faces) == 1
    assert len(cloaker.memory) == 0
    assert "margins" in work.faces[0]
    assert not any("embedding" in key for key in work.faces[0])
    later = PhotoCloaker([KnownFinder()], [embedder], QUICK)
    later.recall(lambda: photo, lambda: photo[:-1], work.faces)
    assert len(later.memory) == 0  # another photo stands in its place
    later.recall(lambda: photo, lambda: work.rgb, work.faces)
    assert len(later.memory) == 1
    assert face_of(work.faces[0]).box(140, 140) == tuple(work.faces[0]["box"])


def test_tiny_faces_are_skipped_with_a_note(embedder: FaceEmbedder) -> None:
    """A face too small to be recognized is not touched, and the notes say so."""
    photo = drawn_photo(60, 60, face_at(25, 25, 12))
    work = PhotoCloaker([KnownFinder(0.2)], [embedder], QUICK)(photo, "a.png")
    assert work.faces == []
    assert "too small to be recognized: 1" in work.notes[0]
    assert np.array_equal(work.rgb, photo)


def test_threads_and_denormals_are_restored() -> None:
    """Inside: few threads, no denormals. Afterwards, even after an error: as before."""
    before = torch.get_num_threads()
    torch.set_flush_denormal(False)
    tiny_number = torch.full((1,), 1e-38)
    try:
        with pytest.raises(ZeroDivisionError), calm_threads(1):
            _ = 1 // (torch.get_num_threads() - 1)
        with calm_threads(1):
            assert (torch.get_num_threads(), float(tiny_number * 0.5)) == (1, 0)
        assert torch.get_num_threads() == before
        assert float(tiny_number * 0.5) != 0
    finally:
        torch.set_flush_denormal(True)


def test_unknown_mode_and_no_embedder_are_refused() -> None:
    """The errors name what there is."""
    with pytest.raises(OptionError, match="low, mid, high"):
        mode_named("max")
    with pytest.raises(OptionError, match="at least one"):
        cloak_faces(np.zeros((50, 50, 3), np.uint8), [], [], QUICK)


def test_a_face_too_large_for_memory_is_refused(embedder: FaceEmbedder) -> None:
    """Before any work, naming a size that is small enough: with it the same face passes."""
    face = face_at(500, 500, 6000)
    photo = np.broadcast_to(np.uint8(9), (16320, 12240, 3))  # takes no memory
    with pytest.raises(ImageError, match=r"takes 2\.\d+ GB of memory, over 2 GB") as caught:
        cloak_faces(photo, [face], [embedder], MODES["low"], name="a.jpg")
    size = re.search(r"down to (\d+)x(\d+) px", str(caught.value))
    assert size is not None
    width, height = int(size[1]), int(size[2])
    assert width > 9000
    _assert_memory(photo[:height, :width], face.moved(width / 12240, 0, 0), "a.jpg", 2)


def test_a_cloak_in_place_gives_the_same_pixels(embedder: FaceEmbedder) -> None:
    """It saves a copy of the photo; without it the photo stays as it was."""
    face = face_at(20, 20, 80)
    photo = drawn_photo(120, 120, face)
    before = photo.copy()
    apart, _ = cloak_faces(photo, [face], [embedder], QUICK)
    assert np.array_equal(photo, before)
    within, _ = cloak_faces(photo, [face], [embedder], QUICK, in_place=True)
    assert within is photo
    assert np.array_equal(within, apart)
    assert not np.array_equal(within, before)


def test_modes_get_stronger() -> None:
    """low, mid, high: each may be seen more than the one before."""
    low, mid, high = MODES["low"], MODES["mid"], MODES["high"]
    assert low.linf < mid.linf < high.linf
    assert low.dssim < mid.dssim < high.dssim
    assert low.patches < mid.patches < high.patches
    assert low.limits.shift < mid.limits.shift < high.limits.shift


@pytest.mark.parametrize("limit", [0.0005, 0.002])
def test_a_tight_dssim_limit_is_used_up_and_never_passed(
    limit: float, embedder: FaceEmbedder
) -> None:
    """With room in l_inf the structural limit is what binds: it is kept on the saved pixels, and
    most of it is used."""
    face = face_at(30, 22, 90)
    photo = drawn_photo(150, 170, face)
    tight = replace(STRONG, dssim=limit, steps=12, draws=2, every=6)
    done, notes = cloak_faces(photo, [face], [embedder], tight)
    x0, y0, x1, y1 = notes[0].box
    window = FaceWindow.around(photo, face)
    before, after = (window.seen(_planes(p[y0:y1, x0:x1])) for p in (photo, done))
    assert 0.4 * limit < float(dssim(before, after)) <= limit + 1e-7


def test_the_modes_keep_the_limits_that_the_page_promises() -> None:
    """docs/cloak.md tells a user how visible each mode may get: a change here is a change there."""
    limits = {name: (mode.linf, mode.dssim, mode.patches) for name, mode in MODES.items()}
    assert limits == {"low": (30, 0.01, 1.2), "mid": (50, 0.033, 2.4), "high": (60, 0.045, 3.2)}


def test_a_change_enlarged_to_the_photo_keeps_the_largest_step(embedder: FaceEmbedder) -> None:
    """Shifted edges jump by more than that: the saved pixels stay within the limit all the same."""
    side = 2 * WORKING_SIDE
    face = face_at(30, 22, side)
    window = FaceWindow.around(drawn_photo(side + 60, side + 80, face), face)
    height, width = window.mask.shape[-2:]
    sign = torch.arange(width) // 6 % 2 * 2.0 - 1
    gain, flow = sign.expand(1, 1, height, width), sign.expand(1, 2, height, width)
    saved = window.rendered(0.2 * gain, 2 * flow, 1.0, 16)
    steps = (saved.int() - window.original.int()).abs()
    assert int(steps.max()) == 16


@pytest.mark.parametrize("done_before", [1, 2, 3])
def test_a_resumed_cloak_gives_the_same_bytes(
    tmp_path: Path, embedder: FaceEmbedder, done_before: int
) -> None:
    """Three JPEGs of one person, two faces each: later photos depend on how earlier ones stand in
    their files, whether this run or an earlier one wrote them."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for shot in range(3):
        pixels = drawn_photo(140, 140, face_at(35, 35, 70), shot=shot)
        Image.fromarray(pixels).save(photos / f"{shot}.jpg", quality=90)

    def run(out: Path, count: int) -> dict[str, bytes]:
        cloaker = PhotoCloaker([KnownFinder(), KnownFinder(0.3)], [embedder], QUICK)
        jobs, folder = plan_jobs(photos, out)
        steps = run_folder(jobs, folder, cloaker, settings={}, recall=cloaker.recall)
        for _, outcome in zip(range(count), steps, strict=False):
            assert outcome.status in ("cloaked", "already done")
        steps.close()
        return {path.name: path.read_bytes() for path in sorted(out.glob("*.jpg"))}

    undisturbed = run(tmp_path / "one", 3)
    assert len(undisturbed) == 3
    run(tmp_path / "two", done_before)
    assert run(tmp_path / "two", 3) == undisturbed


MEMORY = """
import sys
from dataclasses import replace
from pathlib import Path
import tinyface
from physadv.privacy import batch, cloak_faces
from physadv.privacy.photo_cloaker import PhotoCloaker
from physadv.privacy.photo_io import photo

if len(sys.argv) > 1:
    photo._MOST_OPTIMIZED_PIXELS = int(sys.argv[1])
mode = replace(cloak_faces.MODES["low"], steps=4, draws=1, every=2)
finders, embedders = [tinyface.KnownFinder(0.16)], [tinyface.tiny_embedder()]
cloaker = PhotoCloaker(finders, embedders, mode, in_place=True)
peaks = []
for name in ("small", "large"):
    jobs, out = batch.plan_jobs(name)
    for _ in range(2):  # the second finds the photo done, and remembers its faces
        out.mkdir(exist_ok=True)
        done = list(batch.run_folder(jobs, out, cloaker, settings={}, recall=cloaker.recall))
    assert done[0].status == "already done" and done[0].faces == 1
    # Not ru_maxrss, which is that of the process that started this one if that was larger.
    status = Path("/proc/self/status").read_text()
    peaks.append(1024 * int(status.split("VmHWM:")[1].split()[0]))
assert len(cloaker.memory) == 4
print(peaks[1] - peaks[0], peaks[1])
"""


@pytest.mark.parametrize(
    ("width", "height"),
    [(6528, 4896), pytest.param(16320, 12240, marks=pytest.mark.slow)],
)
def test_a_phones_largest_photo_is_cloaked_within_two_gigabytes(
    tmp_path: Path, width: int, height: int
) -> None:
    """The whole process with 200 megapixels, and a photo of 32 within its share, 11 bytes a pixel:
    read, cloaked, written, remembered, and found done by a second run."""
    exif = Image.Exif()
    exif[0x0112] = 6
    coarse = np.random.default_rng(0).integers(60, 200, (height // 64, width // 64, 3), np.uint8)
    for name, sides in (("small", (200, 150)), ("large", (width, height))):
        (tmp_path / name).mkdir()
        picture = Image.fromarray(coarse).resize(sides, Image.Resampling.BILINEAR)
        picture.save(tmp_path / name / "a.jpg", quality=90, exif=exif)

    surroundings = environment()
    surroundings["PYTHONPATH"] += os.pathsep + str(ROOT / "tests")
    most_optimized = [] if width * height > 120_000_000 else ["0"]  # it is written as a large one
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, *most_optimized],
        cwd=tmp_path,
        env=surroundings,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    grown, whole = map(int, done.stdout.split())
    assert grown < 11 * width * height
    assert whole < 2_000_000_000
