"""The promise of a cloak check: green only by recognizers known to have no part in the cloak."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from tinyface import KnownFinder, drawn_photo, tiny_embedder

from physadv.core.files import sha256_of
from physadv.core.random_streams import generator
from physadv.core.rows import append_rows
from physadv.evaluation.metrics.intervals import (
    RateInterval,
    clustered_interval,
    wilson_interval,
)
from physadv.privacy.batch import MANIFEST, SETTINGS
from physadv.privacy.check.embeddings import EmbeddingBank, EmbeddingPlan
from physadv.privacy.check.independence import independent_roles
from physadv.privacy.check.protection_verdict import (
    judge_protection,
    role_of_judge,
    too_few_judges,
    worst_rate,
)
from physadv.privacy.check.provenance import Role, provenance_of
from physadv.privacy.check.run_cloak_check import _judged, run_cloak_check
from physadv.privacy.photo_io.photo import encode_photo, read_photo

FACE = KnownFinder()(np.zeros((140, 140, 3)))[0]


def rates(value: float, n: int = 200) -> RateInterval:
    return wilson_interval(round(value * n), n)


JUDGES = {"first": "held-out", "second": "held-out"}
LOSING = {name: {"png": rates(0.0), "half": rates(0.01)} for name in JUDGES}
MATCHING = {name: rates(1.0) for name in JUDGES}


def test_green_takes_two_held_out_recognizers_that_lose_the_person() -> None:
    """It is had by two, and by nothing less: another part in the cloak, or one recognizer, is
    amber with the reason."""
    assert judge_protection(LOSING, MATCHING, JUDGES, {}).light == "green"
    for role in (each for each in get_args(Role) if each != "held-out"):
        found = judge_protection(LOSING, MATCHING, {**JUDGES, "second": role}, {})
        assert (role, found.light) == (role, "amber")
        assert found.words.startswith("not proven: ")
        assert found.reasons[0].startswith("second ")
    alone = judge_protection({"first": LOSING["first"]}, MATCHING, JUDGES, {})
    assert alone.light == "amber"
    assert "only first is" in alone.words


@pytest.mark.parametrize("role", get_args(Role))
def test_the_worst_recognizer_and_channel_decide(role: str) -> None:
    """One that still matches in one channel decides, whatever its part, beside two that do not."""
    for rate, light in ((0.3, "amber"), (0.9, "red")):
        crossed = {**LOSING, "third": {"png": rates(0.0), "half": rates(rate)}}
        before = {**MATCHING, "third": rates(1.0)}
        found = judge_protection(crossed, before, {**JUDGES, "third": role}, {})
        assert found.light == light
        assert "third" in found.words
        assert "'half'" in found.words


def test_too_few_photos_say_how_many_more() -> None:
    """None matched of 5 people is amber, for it takes 17; of one person's photos likewise."""
    few = clustered_interval([False] * 10, [k // 2 for k in range(10)])
    for one_person, noun in ((False, "people"), (True, "photos")):
        crossed = {name: {"png": few} for name in JUDGES}
        found = judge_protection(crossed, MATCHING, JUDGES, {}, one_person=one_person)
        assert found.light == "amber"
        assert f"about 12 more {noun}" in found.words
    enough = {name: {"png": clustered_interval([False] * 17, range(17))} for name in JUDGES}
    assert judge_protection(enough, MATCHING, JUDGES, {}).light == "green"


@pytest.mark.parametrize(("held_out", "needed"), [(0, "2 recognizers"), (1, "1 recognizer")])
def test_too_few_photos_by_surrogates_say_that_photos_alone_do_not_help(
    held_out: int, needed: str
) -> None:
    """Else one would add photos, and learn only then that judges are missing."""
    few = clustered_interval([False] * 10, [k // 2 for k in range(10)])
    roles = {name: "held-out" if k < held_out else "surrogate" for k, name in enumerate(JUDGES)}
    found = judge_protection({name: {"png": few} for name in JUDGES}, MATCHING, roles, {})
    assert found.words.endswith(f" more people and {needed} with no part in the cloak")


def test_a_red_attack_by_one_who_prepares_caps_the_light() -> None:
    """A poisoned gallery or a trained recognizer that still finds people allows no green."""
    for share, light in ((0.3, "green"), (0.97, "amber")):
        beside = [("trained on cloaks", "first", rates(share))]
        found = judge_protection(LOSING, MATCHING, JUDGES, {}, beside)
        assert found.light == light
    assert found.beside[0].light == "red"
    assert "prepared" in found.reasons[-1]
    assert found.words.startswith("protected only against those who do not prepare")


@pytest.fixture
def cloaked(tmp_path: Path) -> list[Path]:
    """Three photos in a folder with settings (made with "own") and a manifest."""
    root = tmp_path / "cloaked"
    root.mkdir()
    (root / SETTINGS).write_text('{"embedders": [{"name": "own", "sha256": "own"}]}')
    files = []
    for shot in range(3):
        file = root / f"{shot}.png"
        Image.fromarray(drawn_photo(140, 140, FACE, shot=shot)).save(file)
        row = {"source": file.name, "status": "cloaked", "output": file.name}
        append_rows(root / MANIFEST, [{**row, "output_sha256": sha256_of(file)}])
        files.append(file)
    return files


def test_nothing_is_known_of_photos_that_do_not_tell(cloaked: list[Path], tmp_path: Path) -> None:
    """Settings beside photos tell of those that the manifest lists, byte for byte: not of photos
    copied alone, changed, or added."""
    own, judge = (replace(tiny_embedder().card, name=n, sha256=n) for n in ("own", "judge"))
    told = provenance_of(cloaked[0].parent, cloaked)
    assert (told.role_of(own), told.role_of(judge)) == ("surrogate", "held-out")

    (tmp_path / "alone").mkdir()
    alone = [Path(shutil.copy(file, tmp_path / "alone")) for file in cloaked]
    untold = provenance_of(tmp_path / "alone", alone)
    assert (untold.role_of(own), untold.role_of(judge)) == ("unknown", "unknown")
    assert untold.unknown == 3

    Image.fromarray(drawn_photo(140, 140, FACE, shot=9)).save(cloaked[0])
    changed = provenance_of(cloaked[0].parent, cloaked)
    assert (changed.role_of(own), changed.role_of(judge)) == ("surrogate", "unknown")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_a_mark_in_the_photo_tells_its_recognizers(suffix: str, tmp_path: Path) -> None:
    """It survives copying alone; a second cloak adds its own; the same weights under another name
    and another file under the same name are the surrogate still; without the mark nothing is
    known."""
    cards = [
        replace(tiny_embedder().card, name=name, sha256=name[0] * 64)
        for name in ("a-1", "b.2", "c")
    ]
    source = tmp_path / f"photo.{suffix}"
    Image.fromarray(drawn_photo(140, 140, FACE)).save(source)
    for number, card in enumerate(cards[:2]):
        photo = read_photo(source)
        made_with = [{"name": card.name, "sha256": card.sha256}]
        source = tmp_path / f"{number}" / f"photo.{suffix}"
        source.parent.mkdir()
        source.write_bytes(encode_photo(photo, photo.rgb, made_with=made_with, strip_dates=True))

    found = provenance_of(source.parent, [source])
    assert [found.role_of(card) for card in cards] == ["surrogate", "surrogate", "held-out"]
    assert found.role_of(replace(cards[0], name="x")) == "surrogate"
    assert found.role_of(replace(cards[0], sha256="x")) == "surrogate"

    bare = tmp_path / f"bare.{suffix}"
    bare.write_bytes(encode_photo(read_photo(tmp_path / f"photo.{suffix}"), photo.rgb))
    assert provenance_of(bare, [bare]).role_of(cards[2]) == "unknown"


def test_a_recognizer_too_blind_or_a_copy_is_no_judge() -> None:
    """Pushed past strangers it is suspect, whatever the settings say; near the person it is not;
    one net under two names counts once."""
    judge, twin = tiny_embedder(0, "judge"), tiny_embedder(0, "twin")
    draw = generator(3, "people")
    people = [f"p{k // 3}" for k in range(18)]
    clean = torch.randn(6, 16, generator=draw).repeat_interleave(3, 0)
    clean = clean + 0.1 * torch.randn(18, 16, generator=draw)
    stated: dict[str, Role] = {"judge": "held-out"}
    for cloaked, role in ((-clean, "suspect"), (0.9 * clean, "held-out")):
        bank = EmbeddingBank()
        for k, person in enumerate(people):
            bank.add(person, f"{k}")
            bank.put(("judge", "original", "png"), k, clean[k])
            bank.put(("judge", "cloaked", "png"), k, cloaked[k])
            bank.put(("twin", "original", "png"), k, clean[k])
        assert independent_roles([judge], bank, stated) == {"judge": role}

    stated["twin"] = "held-out"
    assert independent_roles([judge, twin], bank, stated)["twin"] == "copy"
    stated["judge"] = "surrogate"
    assert independent_roles([judge, twin], bank, stated)["twin"] == "surrogate"


@pytest.mark.parametrize("change", ["8 bits", "tuned", "mirrored"])
def test_a_net_made_from_another_is_its_copy(change: str) -> None:
    """One whose embeddings rank strangers nearly alike is no second judge; one that ranks them by
    half alike, as different nets do, is."""
    draw = generator(5, change)
    clean = torch.randn(20, 16, generator=draw)
    apart = torch.randn(20, 16, generator=draw)
    derived = {
        "8 bits": (clean * 8).round() / 8 + 0.1 * apart,
        "tuned": clean + 0.25 * apart,
        "mirrored": clean + (clean + 0.2 * apart),
    }[change]
    judge, twin = tiny_embedder(0, "judge"), tiny_embedder(1, "twin")
    for second, role in ((derived, "copy"), (clean + apart, "held-out")):
        bank = EmbeddingBank()
        for k in range(20):
            bank.add(f"p{k}", f"{k}")
            bank.put(("judge", "original", "png"), k, clean[k])
            bank.put(("twin", "original", "png"), k, second[k])
        stated: dict[str, Role] = {"judge": "held-out", "twin": "held-out"}
        assert independent_roles([judge, twin], bank, stated) == {"judge": "held-out", "twin": role}


def test_what_cannot_be_tested_is_not_known() -> None:
    """Photos of nine people, a photo each, are 36 pairs: too few to tell a surrogate or a copy, so
    nothing is held out for certain; ten are enough."""
    judge, clean = tiny_embedder(0, "judge"), torch.randn(10, 16, generator=generator(7, "few"))
    for people, role in ((9, "untested"), (10, "held-out")):
        bank = EmbeddingBank()
        for k in range(people):
            bank.add(f"p{k}", f"{k}")
            bank.put(("judge", "original", "png"), k, clean[k])
        assert independent_roles([judge], bank, {"judge": "held-out"}) == {"judge": role}
        assert independent_roles([judge], bank, {"judge": "surrogate"}) == {"judge": "surrogate"}


def test_a_weak_recognizer_is_no_judge() -> None:
    """One that matches three quarters of the uncloaked photos proves nothing by losing cloaked
    ones; where nothing could be compared, it is not called weak."""
    assert role_of_judge("held-out", rates(0.75)) == "weak"
    assert role_of_judge("held-out", rates(0.85)) == "held-out"
    assert role_of_judge("surrogate", rates(0.75)) == "surrogate"
    assert role_of_judge("held-out", wilson_interval(0, 0)) == "held-out"


def test_the_false_green_is_amber_and_a_true_one_is_green(tmp_path: Path) -> None:
    """Photos that no recognizer here matches, copied alone: by the cloak's own recognizer, by one
    judge beside it, by one net under two names, and by two judges where the mark is gone it is
    amber; by two judges and with the mark it is green."""
    people, side = 18, 72
    face = KnownFinder()(np.zeros((side, side, 3)))[0]
    made_with = [{"name": "own", "sha256": "own"}]
    nets = ["own", "a", "b"]
    for person in range(people):
        for shot in range(2):
            name = f"p{person:02}/{shot}.png"
            photo = drawn_photo(side, side, face, person=person, shot=shot)
            other = drawn_photo(side, side, face, person=person + people, shot=shot)
            cloaked = (0.15 * photo + 0.85 * other).round().astype(np.uint8)
            source = tmp_path / "originals" / name
            for folder in ("originals", "marked", "bare"):
                (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photo).save(source)
            loaded = read_photo(source)
            (tmp_path / "bare" / name).write_bytes(encode_photo(loaded, cloaked))
            marked = encode_photo(loaded, cloaked, made_with=made_with)
            (tmp_path / "marked" / name).write_bytes(marked)

    def light(folder: str, *names: str) -> str:
        result = run_cloak_check(
            tmp_path / folder,
            tmp_path / "originals",
            [tiny_embedder(nets.index(name.rstrip("2")), name, 0.8) for name in names],
            [KnownFinder()],
            folder=tmp_path / "runs" / "-".join((folder, *names)),
            plan=EmbeddingPlan(channels=("png", "half"), baselines=False),
            adaptive=False,
        )
        return result.verdict.light

    assert light("marked", "own") == "amber"
    assert light("marked", "own", "a") == "amber"
    assert light("bare", "own") == "amber"
    assert light("marked", "a", "a2") == "amber"
    assert light("marked", "own", "own2") == "amber"
    assert light("bare", "own", "a", "b") == "amber"
    assert light("marked", "own", "a", "b") == "green"


def test_two_people_in_one_folder_are_no_protection() -> None:
    """Pairs that never matched uncloaked count for nothing: three photos of one person and one of
    another, of which half the pairs are of different people, are no half protected."""
    rows = []
    for folder in range(20):
        for i, j in permutations(range(4), 2):
            pair = {
                "kind": "cross photo",
                "channel": "png",
                "person": f"p{folder}",
                "photo": f"p{folder}/{i}",
                "other": f"p{folder}/{j}",
            }
            same = 3 not in (i, j)
            rows.append({**pair, "variant": "original", "matched_0.01": same})
            rows.append({**pair, "variant": "cloaked", "matched_0.01": same and i == 0})
    judged = _judged(rows)
    assert (judged["png"].n, judged["png"].rate) == (120, pytest.approx(1 / 3))
    before = rates(0.5)
    found = judge_protection(
        dict.fromkeys(JUDGES, judged), dict.fromkeys(JUDGES, before), JUDGES, {}
    )
    assert found.light == "amber"
    assert found.reasons[0].startswith("first matches only 50 % of the uncloaked pairs")
    assert _judged([{**row, "matched_0.01": False} for row in rows])["png"].n == 0


def test_a_requirement_is_judged_by_the_worst_rate_of_enough_judges() -> None:
    """`matched` is the worst recognizer's worst channel; with fewer than two independent
    recognizers, or without a comparison, it proves nothing."""
    crossed = {**LOSING, "third": {"png": rates(0.0), "half": rates(0.3)}}
    before = {**MATCHING, "third": rates(1.0)}
    roles = {**JUDGES, "third": "surrogate"}
    found = judge_protection(crossed, before, roles, {}).as_dict()["findings"]
    assert worst_rate(found).rate == rates(0.3).rate
    recognizers = [{"name": name, "role": role} for name, role in roles.items()]
    assert too_few_judges(recognizers, found) == ""
    assert too_few_judges(recognizers[1:], found).startswith("1 of the 2")
    assert too_few_judges(recognizers, []).startswith("0 of the 2")
    assert worst_rate([]).n == 0
