"""The cloak check: files match their originals, rates are those of known embeddings, a verdict
can be red."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tinyface import KnownFinder, drawn_photo, tiny_embedder

from physadv.core.errors import ImageError, OptionError
from physadv.core.files import sha256_of
from physadv.core.random_streams import generator
from physadv.core.rows import append_rows, read_rows
from physadv.evaluation.metrics.intervals import RateInterval, wilson_interval
from physadv.privacy.batch import MANIFEST, SETTINGS
from physadv.privacy.check import run_cloak_check as run_cloak_check_module
from physadv.privacy.check.adaptive_recognizer import _groups, adaptive_rows
from physadv.privacy.check.embeddings import EmbeddingBank, EmbeddingPlan, aligned_crop, embed_crop
from physadv.privacy.check.match_rates import (
    gallery_rows,
    linear_probe,
    match_thresholds,
    pair_rows,
    rate_of,
)
from physadv.privacy.check.pairs import match_files
from physadv.privacy.check.protection_verdict import judge_protection, light_of
from physadv.privacy.check.run_cloak_check import (
    _judge,
    _plain,
    run_cloak_check,
)
from physadv.privacy.cloak_faces import MODES, cloak_faces
from physadv.privacy.visibility import ImageChange
from physadv.report.cloak_report import _attacks, write_cloak_report

SIDE = 140
FACE = KnownFinder()(np.zeros((SIDE, SIDE, 3)))[0]


def save(path: Path, rgb: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(path)
    return path


def known_bank(
    people: list[str], clean: torch.Tensor, cloaked: torch.Tensor | None = None, name: str = "tiny"
) -> EmbeddingBank:
    """A bank with given embeddings, as saved; no cloaked ones where none are given."""
    bank = EmbeddingBank()
    for k, person in enumerate(people):
        bank.add(person, f"{person}/{k}.png")
        bank.put((name, "original", "png"), k, clean[k])
        if cloaked is not None:
            bank.put((name, "cloaked", "png"), k, cloaked[k])
    return bank


def clusters(
    count: int, each: int, *, spread: float = 0.05, seed: int = 0
) -> tuple[list[str], torch.Tensor]:
    """``each`` unit vectors around each of ``count`` well separated people."""
    draw = generator(seed, "clusters")
    centers = torch.linalg.qr(torch.randn(16, 16, generator=draw))[0][:count]
    rows = centers.repeat_interleave(each, 0) + spread * torch.randn(
        count * each, 16, generator=draw
    )
    return [f"p{k}" for k in range(count) for _ in range(each)], rows


@pytest.mark.parametrize(
    ("original", "cloaked"),
    [
        ("a.jpg", "a.jpg"),
        ("a.jpg", "a.png"),
        ("a.gif", "a.gif.png"),
        ("a.jpg", "a_cloaked.png"),
        ("a.jpg", "a_high_cloaked.png"),
        ("A.JPG", "a_attacked.png"),
        ("x/a.jpg", "x/a.webp"),
    ],
)
def test_cloaked_files_find_their_originals(tmp_path: Path, original: str, cloaked: str) -> None:
    """By relative name, whatever suffix this or another tool gave them."""
    for root, name in (("o", original), ("c", cloaked)):
        path = tmp_path / root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    pairs, foreign = match_files(tmp_path / "o", tmp_path / "c")
    assert [p.cloaked for p in pairs] == [tmp_path / "c" / cloaked]
    assert foreign == []


def test_people_are_folders_or_one(tmp_path: Path) -> None:
    """Folders are people; without folders all photos are of one person; strangers among the cloaked
    are said."""
    for name in (
        "o/ann/1.png",
        "o/bob/1.png",
        "c/ann/1.png",
        "c/bob/9.png",
        "flat/1.png",
        "flat/2.png",
    ):
        save(tmp_path / name, np.zeros((8, 8, 3), np.uint8))
    pairs, foreign = match_files(tmp_path / "o", tmp_path / "c")
    assert [(p.person, p.cloaked is not None) for p in pairs] == [("ann", True), ("bob", False)]
    assert foreign == [tmp_path / "c" / "bob" / "9.png"]
    assert {p.person for p in match_files(tmp_path / "flat")[0]} == {"flat"}
    with pytest.raises(ImageError, match="belong together"):
        match_files(tmp_path / "flat", tmp_path / "c" / "bob")


def test_thresholds_come_from_impostors_or_from_the_card() -> None:
    """With enough pairs of different people the quantile; else the card's, and the source is
    said."""
    embedder = tiny_embedder()
    people, rows = clusters(12, 8, spread=0.3)
    limits = match_thresholds(embedder, known_bank(people, rows))
    scores = embedder.similarity(rows, rows)
    apart = torch.tensor([[a != b for b in people] for a in people]).triu(1)
    assert limits[0].source == "impostor pairs here"
    assert float((scores[apart] >= limits[0].value).float().mean()) == pytest.approx(
        0.01, abs=0.002
    )
    assert limits[1].source == "the recognizer's card"
    few = match_thresholds(embedder, known_bank(people[:9], rows[:9]))
    assert [limit.value for limit in few] == [0.5, 0.5]


def test_rates_of_a_perfect_and_of_no_cloak() -> None:
    """Embeddings that moved away are matched by nobody, those that stayed by everybody; kinds are
    told apart."""
    embedder = tiny_embedder()
    people, rows = clusters(4, 3)
    away = torch.randn(12, 16, generator=generator(1, "away"))
    limits = match_thresholds(embedder, known_bank(people, rows))
    for cloaked, expected in ((rows, 1.0), (-rows, 0.0)):
        found = list(pair_rows(embedder, known_bank(people, rows, cloaked), limits, ["png"]))
        crossed = [r for r in found if r["kind"] == "cross photo" and r["variant"] == "cloaked"]
        assert len(crossed) == 4 * 3 * 2
        assert rate_of(crossed).rate == expected
        before = [r for r in found if r["kind"] == "cross photo" and r["variant"] == "original"]
        assert rate_of(before).rate == 1.0
    paired = [
        r
        for r in pair_rows(embedder, known_bank(people, rows, -rows), limits, ["png"])
        if r["kind"] == "cloaked pair"
    ]
    assert rate_of(paired).rate == 1.0  # all pushed the same way: they still match each other
    random = [
        r
        for r in pair_rows(embedder, known_bank(people, rows, away), limits, ["png"])
        if r["kind"] == "cloaked pair"
    ]
    assert rate_of(random).rate < 0.2


def test_gallery_attacks_on_known_embeddings() -> None:
    """Rank-1 and the poisoned gallery find everybody who is not cloaked, and nobody whose cloak
    went elsewhere."""
    embedder = tiny_embedder()
    people, rows = clusters(6, 4)
    elsewhere = rows[
        torch.arange(24).roll(4)
    ]  # everybody's cloaked photos look like the neighbor's originals
    found = list(gallery_rows(embedder, known_bank(people, rows, elsewhere), ["png"]))
    for kind in ("rank-1", "poisoned 1-NN", "poisoned linear probe"):
        rates = {
            v: rate_of([r for r in found if r["kind"] == kind and r["variant"] == v])
            for v in ("original", "cloaked")
        }
        assert rates["original"].rate == 1.0
        assert rates["cloaked"].rate < 0.3
        assert rates["cloaked"].n == 24


def test_linear_probe_learns_classes() -> None:
    """The closed-form classifier names held-out members of its classes."""
    people, rows = clusters(5, 6, spread=0.1)
    even, odd = list(range(0, 30, 2)), list(range(1, 30, 2))
    assert linear_probe(rows[even], np.asarray(people)[even], rows[odd]) == [people[k] for k in odd]


def test_intervals_are_over_people_or_photos() -> None:
    """Many photos of few people do not make a narrow interval; with one person photos are
    resampled."""
    rows = [
        {"person": f"p{k % 4}", "photo": str(k), "matched_0.01": k % 4 == 0} for k in range(400)
    ]
    found = rate_of(rows)
    assert found.high - found.low > 0.4
    alone = [{**row, "person": "me"} for row in rows]
    assert rate_of(alone).high - rate_of(alone).low < 0.2


def rates(value: float, n: int = 200) -> RateInterval:
    return wilson_interval(round(value * n), n)


def test_verdict_can_be_not_protected() -> None:
    """Red by the worst channel of a held-out recognizer, whatever the surrogate says."""
    crossed = {"judge": {"png": rates(0.0), "half": rates(0.8)}, "own": {"png": rates(0.0)}}
    roles = {"judge": "held-out", "own": "surrogate"}
    found = judge_protection(
        crossed, {"judge": rates(1.0), "own": rates(1.0)}, roles, {"half": "half size"}
    )
    assert found.light == "red"
    assert "not protected" in found.words
    assert "half size" in found.words
    assert "%" not in found.words
    assert "80 %" in found.worst


def test_verdict_leaves_blind_recognizers_out() -> None:
    """A recognizer that cannot match the uncloaked photos says nothing about the cloak."""
    found = judge_protection(
        {"judge": {"png": rates(0.0)}}, {"judge": rates(0.2)}, {"judge": "held-out"}, {}
    )
    assert found.light == "amber"
    assert "nothing could be told" in found.words
    assert "judge" in found.reasons[0]


@pytest.mark.parametrize(
    ("share", "light"),
    [(0.0, "green"), (0.1, "green"), (0.19, "amber"), (0.4, "amber"), (0.6, "red")],
)
def test_lights(share: float, light: str) -> None:
    """Green needs the whole interval under the limit; few comparisons cannot give it."""
    assert light_of(rates(share)) == light
    assert light_of(wilson_interval(0, 3)) == "amber"


def test_adaptive_recognizer_learns_a_common_change() -> None:
    """Trained on other people's photos with a change common to all, it matches what the plain one
    does not."""
    embedder, bank = tiny_embedder(threshold=0.6), EmbeddingBank()
    common = np.kron(np.random.default_rng(5).normal(0, 60, (14, 14, 3)), np.ones((10, 10, 1)))
    for person in range(10):
        for shot in range(2):
            photo = drawn_photo(SIDE, SIDE, FACE, person=person, shot=shot)
            changed = (photo + common).clip(0, 255).round().astype(np.uint8)
            number = bank.add(f"p{person}", f"p{person}/{shot}")
            kept = []
            for variant, pixels in (("original", photo), ("cloaked", changed)):
                crop = aligned_crop(pixels, FACE, embedder)
                bank.put(("tiny", variant, "png"), number, embed_crop(embedder, crop))  # type: ignore[arg-type]
                kept.append(crop.mul(255).round().byte())
            bank.crops.setdefault("tiny", []).append((kept[0], kept[1]))
    weights = [p.clone() for p in embedder.parameters()]

    def crossed(rows: list[dict[str, object]], variant: str = "cloaked") -> float:
        return rate_of(
            [r for r in rows if r["kind"] == "cross photo" and r["variant"] == variant]
        ).rate

    plain = list(pair_rows(embedder, bank, match_thresholds(embedder, bank), ["png"]))
    adapted = list(adaptive_rows(embedder, bank, steps=150))
    assert crossed(plain, "original") > 0.9
    assert crossed(plain) < 0.5
    assert {r["recogniser"] for r in adapted} == {"tiny, adapted"}
    assert {r["person"] for r in adapted} == {f"p{k}" for k in range(10)}
    assert crossed(adapted) > crossed(plain) + 0.3
    assert all(torch.equal(a, b) for a, b in zip(weights, embedder.parameters(), strict=True))


def test_training_moves_small_weights_in_small_steps() -> None:
    """A step is the rate asked for, and never more than a hundredth of the weights it moves: dlib's
    are tiny."""
    large, tiny = torch.nn.Linear(4, 4, bias=False), torch.nn.Linear(4, 4, bias=False)
    torch.nn.init.constant_(large.weight, 1.0)
    torch.nn.init.constant_(tiny.weight, -0.001)
    steps = [group["lr"] for group in _groups(torch.nn.Sequential(large, tiny), 3e-4)]
    assert steps == pytest.approx([3e-4, 1e-5])


@pytest.mark.parametrize(("uncloaked", "believed"), [(0.9, True), (0.01, False)])
def test_a_failed_training_is_reported_without_a_rate(uncloaked: float, believed: bool) -> None:
    """A trained recognizer that no longer matches uncloaked photos: verdict and page say so,
    without its figure."""
    asked = {"png": {"original": {"0.01": rates(1.0)}, "cloaked": {"0.01": rates(0.3)}}}
    trained = {"png": {"original": {"0.01": rates(uncloaked)}, "cloaked": {"0.01": rates(0.77)}}}
    table = {
        "name": "judge",
        "role": "held-out",
        "judged": {"png": rates(0.3)},
        "pairs": {"cross photo": asked},
        "gallery": {},
        "adaptive": {"cross photo": trained},
    }
    found = _judge([table])
    assert bool(found.beside) == believed
    assert any("could not be trained" in reason for reason in found.reasons) != believed
    (question, _, after) = _attacks(_plain(table))[0]
    assert ("no rate" in question) != believed
    assert (after is not None) == believed


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Originals of four people, cloaked copies (made with embedder 0), and a gallery."""
    root = tmp_path_factory.mktemp("check")
    embedder = tiny_embedder(0, "own")
    mode = replace(MODES["high"], steps=12, draws=2, every=6)
    for person in range(4):
        for shot in range(2):
            photo = drawn_photo(SIDE, SIDE, FACE, person=person, shot=shot)
            name = f"p{person}/{shot}.png"
            save(root / "originals" / name, photo)
            done, _ = cloak_faces(photo, [FACE], [embedder], mode, name=name)
            save(root / "cloaked" / name, done)
    for person in range(4, 9):
        save(
            root / "gallery" / f"g{person}" / "0.png", drawn_photo(SIDE, SIDE, FACE, person=person)
        )
    settings = {"embedders": [{"name": "own", "sha256": "own"}]}
    (root / "cloaked" / SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
    for file in sorted((root / "cloaked").glob("*/*.png")):
        name = str(file.relative_to(root / "cloaked"))
        row = {"source": name, "status": "cloaked", "output": name}
        append_rows(root / "cloaked" / MANIFEST, [{**row, "output_sha256": sha256_of(file)}])
    return root


def test_whole_check_and_its_report(folders: Path, tmp_path: Path) -> None:
    """Rows, result and a self-contained report: roles from the settings file, all channels,
    baselines, faces."""
    recognizers = [tiny_embedder(0, "own"), tiny_embedder(1, "judge")]
    seen: list[tuple[int, int, str]] = []
    result = run_cloak_check(
        folders / "cloaked",
        folders / "originals",
        recognizers,
        [KnownFinder()],
        folder=tmp_path / "run",
        gallery=folders / "gallery",
        progress=lambda *a: seen.append(a),
    )
    assert (result.people, result.cloaked, result.photos) == (4, 8, 13)
    assert [r["role"] for r in result.recognizers] == ["surrogate", "held-out"]
    judged = result.recognizers[1]["pairs"]
    assert set(judged) == {"same photo", "cross photo", "cloaked pair"}
    assert len(judged["cross photo"]) == 9
    assert set(judged["cross photo"]["png"]) == {"original", "cloaked", "noise", "blur"}
    assert result.recognizers[0]["pairs"]["cross photo"]["png"]["cloaked"]["0.01"]["n"] == 8
    assert set(result.recognizers[1]["gallery"]) == {
        "rank-1",
        "poisoned 1-NN",
        "poisoned linear probe",
    }
    assert result.recognizers[1]["adaptive"] == {}  # four people are too few
    assert result.quality["linf_max"] <= MODES["high"].linf
    assert result.quality["faces_still_found"] == 8
    assert len(list(read_rows(tmp_path / "run" / "rows.jsonl"))) > 500
    assert seen[0][:2] == (1, 13)
    saved = json.loads((tmp_path / "run" / "check.json").read_text(encoding="utf-8"))
    assert [table["name"] for table in saved["recognisers"]] == ["own", "judge"]
    assert {finding["recogniser"] for finding in saved["verdict"]["findings"]} <= {"own", "judge"}
    page = write_cloak_report(tmp_path / "run", saved).read_text(encoding="utf-8")
    assert "://" not in page.replace("http://www.w3.org", "")
    assert page.count("data:image/png;base64") == 3 * len(saved["pictures"]) > 0
    for said in (
        "Limits of a cloak",
        "already public",
        "held out",
        "half size + JPEG 75",
        "Same-DSSIM noise",
        "<td>as saved, JPEG 90, JPEG 75",
    ):
        assert said in page
    said = saved["verdict"]["words"].partition(":")[0]
    assert f'<div class="big">{said[0].upper()}{said[1:]}</div>' in page


def test_uncloaked_copies_are_not_protected(folders: Path, tmp_path: Path) -> None:
    """Copies of the originals, given as cloaked, get red: the check does not take a tool's word."""
    result = run_cloak_check(
        folders / "originals",
        folders / "originals",
        [tiny_embedder(1, "judge")],
        [KnownFinder()],
        folder=tmp_path / "run",
        gallery=folders / "gallery",
        plan=EmbeddingPlan(channels=("png", "jpeg75"), baselines=False),
    )
    assert result.verdict.light == "red"
    assert "not protected" in result.verdict.words
    assert result.quality["unchanged"] == 8
    assert result.recognizers[0]["role"] == "unknown"


def test_check_refuses_what_it_cannot_do(folders: Path, tmp_path: Path) -> None:
    """No recognizer, a folder that holds a check already, photos without a face: each is said."""
    away = {"folder": tmp_path / "run"}
    with pytest.raises(OptionError, match="no recognizer"):
        run_cloak_check(
            folders / "cloaked", folders / "originals", [], [KnownFinder()], folder=tmp_path / "run"
        )
    with pytest.raises(OptionError, match="no pair"):
        run_cloak_check(
            folders / "cloaked",
            folders / "originals",
            [tiny_embedder()],
            [lambda rgb: []],
            folder=away["folder"],
        )
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / "check.json").write_text("{}", encoding="utf-8")
    with pytest.raises(OptionError, match="already holds"):
        run_cloak_check(
            folders / "cloaked",
            folders / "originals",
            [tiny_embedder()],
            [KnownFinder()],
            folder=away["folder"],
        )


def test_quality_reports_the_worst_photo_not_the_best() -> None:
    """The largest change and the largest DSSIM of all photos stand in the table."""
    changes = [ImageChange(3, 0.001, 50.0), ImageChange(17, 0.02, 38.0), ImageChange(9, 0.01, 44.0)]
    people, rows = clusters(1, 3)
    table = run_cloak_check_module._quality(changes, known_bank(people, rows, rows))
    assert (table["linf_max"], table["dssim_max"]) == (17, 0.02)
    assert table["psnr_mean"] == 44.0
