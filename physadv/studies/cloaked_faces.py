"""The study `physadv study privacy`: the cloak of a photo as an adversarial example for good.

After Shan et al. (2020) and Cherepanova et al. (2021). A face recognizer compares embeddings; a
small change moves a photo's embedding away from the person's other photos. Matches are counted by
budget, by a recognizer that the cloak was made with and by those that it never saw, beside noise
that is as visible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from physadv.core.errors import DataError
from physadv.core.image_io import Array, list_images, read_rgb, to_tensor
from physadv.core.rows import Row
from physadv.core.wording import count_noun, format_percent
from physadv.evaluation.metrics.intervals import RateInterval, clustered_interval
from physadv.models.faces.embedders import FaceEmbedder, load_embedders
from physadv.models.faces.face_detection import DetectedFace, FaceFinder, default_finders
from physadv.privacy.check.channels import CHANNELS, noise_like
from physadv.privacy.check.embeddings import aligned_crop, embed_crop
from physadv.privacy.check.pairs import main_face
from physadv.privacy.cloak_faces import CloakMode, cloak_face
from physadv.privacy.embedding_loss import similarity_margin
from physadv.studies.attack_studies_config import PrivacyConfig
from physadv.studies.page import (
    Axis,
    Block,
    Chart,
    Comparison,
    Formula,
    PageSections,
    Pair,
    Paper,
    Picture,
    Pictures,
    Plane,
    Point,
    Series,
    Shape,
    StudyPage,
    Table,
)
from physadv.studies.study import Part, PartRows, Study, Workspace

PAPERS = (
    Paper(
        "Shan et al.",
        2020,
        "Fawkes: protecting privacy against unauthorized deep learning models",
        "arXiv:2002.08327",
    ),
    Paper(
        "Cherepanova et al.",
        2021,
        "LowKey: leveraging adversarial attacks to protect social media users from facial "
        "recognition",
        "arXiv:2101.07922",
    ),
    Paper(
        "Radiya-Dixit et al.",
        2021,
        "Data poisoning won't save you from facial recognition",
        "arXiv:2106.14851",
    ),
)
BUDGETS = ((4, 0.005), (8, 0.01), (12, 0.015), (20, 0.04))
"""Largest change of a value in 255ths, and largest structural dissimilarity of the face box, of
each cloak. The third is the mode `low` of `physadv cloak`, the fourth `high`."""
SHOWN = 12
"""Budget of the pictures and planes."""
JPEG = "jpeg75"
"""Way of sharing a photo that is tried beside the file as saved."""
GAIN = 10
"""Factor by which differences are enlarged in pictures."""
REFERENCES = 4
"""Largest number of other photos of a person to compare with."""
SHOWN_PEOPLE = 3
"""Number of people whose pictures and embeddings are drawn."""
FAR = "1 %"
"""Share of pairs of different people that the thresholds let pass, as the cards state them."""


@dataclass(frozen=True)
class _Tools:
    """Face detectors and recognizers; the cloak is made with the first of these."""

    finders: list[FaceFinder]
    recognizers: list[FaceEmbedder]

    @property
    def maker(self) -> FaceEmbedder:
        return self.recognizers[0]


@dataclass(frozen=True)
class _Portrait:
    """A photo with its largest face."""

    pixels: Array
    face: DetectedFace


def _tools(config: PrivacyConfig, work: Workspace) -> _Tools:
    return work.once(
        "tools",
        lambda: _Tools(
            default_finders(config.detector_weights),
            load_embedders(config.embedder, config.weights_files),
        ),
    )


def people_of(folder: str, least: int = 2) -> dict[str, list[Path]]:
    """Return the photos of each person of a folder that has ``least`` of them or more.

    Args:
        folder: Folder of people, each a folder of photos.
        least: Smallest number of photos.

    Raises:
        DataError: There is no such person.
    """
    people: dict[str, list[Path]] = {}
    for file in list_images(folder):
        people.setdefault(file.parent.name, []).append(file)
    kept = {name: files for name, files in sorted(people.items()) if len(files) >= least}
    if not kept:
        raise DataError(
            folder,
            f"holds no person with {count_noun(least, 'photo')}",
            "Give a folder of photos a person",
        )
    return kept


def _portraits(config: PrivacyConfig, work: Workspace, number: int) -> list[_Portrait]:
    """Portraits of one person, drawn by ``number``; the first is cloaked."""
    people = people_of(config.people, least=3)
    order = torch.randperm(len(people), generator=work.generator("people")).tolist()
    files = list(people.values())[order[number % len(order)]]
    portraits = []
    for file in files:
        pixels = read_rgb(file)
        face = main_face(pixels, _tools(config, work).finders)
        if face is not None:
            portraits.append(_Portrait(pixels, face))
        if len(portraits) == config.scaled(3, REFERENCES + 1, REFERENCES + 1):
            break
    return portraits


def _embedding(recognizer: FaceEmbedder, pixels: Array, face: DetectedFace) -> Tensor:
    return embed_crop(recognizer, aligned_crop(pixels, face, recognizer))


def _person_rows(config: PrivacyConfig, work: Workspace, number: int) -> list[Row]:
    """Cloak one photo of a person with each budget and compare it with the others."""
    tools, portraits = _tools(config, work), _portraits(config, work, number)
    if len(portraits) < 2:
        return [{"kind": "left out", "faces": len(portraits)}]

    own, others = portraits[0], portraits[1:]
    names = [{"kind": "recognizers", "names": [r.card.name for r in tools.recognizers]}]
    rows: list[Row] = names if number == 0 else []
    references = {
        r.card.name: torch.stack([_embedding(r, p.pixels, p.face) for p in others])
        for r in tools.recognizers
    }
    for name, table in references.items():
        rows += [
            {"kind": "reference", "recognizer": name, "embedding": _plain(embedding)}
            for embedding in table
        ]
    compare = partial(_probe_rows, tools, references, own.face)
    rows += compare(own.pixels, budget=0, variant="original")

    for linf, dissimilarity in _budgets(config):
        mode = CloakMode("study", linf=linf, dssim=dissimilarity, steps=config.scaled(4, 40, 40))
        cloaked, note = cloak_face(
            own.pixels,
            own.face,
            [tools.maker],
            mode,
            rng=work.numpy_generator("cloak", number, linf),
        )
        noisy = noise_like(own.pixels, cloaked, work.seed_of("noise", number), str(linf))
        rows += compare(cloaked, budget=linf, variant="cloaked")
        rows += compare(noisy, budget=linf, variant="noise")
        rows.append({"kind": "change", "budget": linf, "dssim": round(note.change.dssim, 6)})
        if linf == SHOWN and number < SHOWN_PEOPLE:
            rows.append(_pictures(work, number, own, others[0], cloaked))
    return rows


def _budgets(config: PrivacyConfig) -> tuple[tuple[int, float], ...]:
    return config.scaled(BUDGETS[2:3], BUDGETS, BUDGETS)


def _probe_rows(
    tools: _Tools,
    references: Mapping[str, Tensor],
    face: DetectedFace,
    pixels: Array,
    *,
    budget: int,
    variant: str,
) -> list[Row]:
    """Comparisons of one picture with the other photos, as saved and as JPEG."""
    height, width = pixels.shape[:2]
    left, _, right, _ = face.box(height, width)
    rows = []
    for channel in ("png", JPEG):
        arrived = CHANNELS[channel].send(pixels, right - left)
        for recognizer in tools.recognizers:
            name = recognizer.card.name
            embedding = _embedding(recognizer, arrived, face)
            margins = similarity_margin(recognizer, embedding[None], references[name])[0]
            row: Row = {
                "kind": "probe",
                "recognizer": name,
                "budget": budget,
                "variant": variant,
                "channel": channel,
                "margins": _plain(margins),
            }
            if channel == "png" and (variant == "original" or budget == SHOWN):
                row["embedding"] = _plain(embedding)
            rows.append(row)
    return rows


def _plain(values: Tensor) -> list[float]:
    return [round(float(v), 5) for v in values]


def _pictures(
    work: Workspace, number: int, own: _Portrait, other: _Portrait, cloaked: Array
) -> Row:
    """Write the face before and after, the difference, and another photo of the person."""
    before, after = _around(own.pixels, own.face), _around(cloaked, own.face)
    change = to_tensor(after) - to_tensor(before)
    pictures: dict[str, Array | Tensor] = {
        "before": before,
        "after": after,
        "change": (0.5 + GAIN * change).clamp(0, 1),
        "other": _around(other.pixels, other.face),
    }
    files = {
        name: work.save_picture(f"person-{number + 1}-{name}", picture)
        for name, picture in pictures.items()
    }
    return {"kind": "pictures", "files": files, "linf": round(float(change.abs().max() * 255))}


def _around(pixels: Array, face: DetectedFace) -> Array:
    """The face with some of its surroundings."""
    x0, y0, x1, y1 = face.box(*pixels.shape[:2], margin=0.2)
    return pixels[y0:y1, x0:x1]


def privacy_parts(config: PrivacyConfig) -> list[Part]:
    """Return the parts of the study, one a person."""
    count = config.scaled(2, 8, 40)
    return [
        Part(f"person {k + 1}", f"cloaking person {k + 1}", partial(_person_rows, config, number=k))
        for k in range(count)
    ]


def privacy_page(config: PrivacyConfig, rows: PartRows) -> StudyPage:
    """Return the page of the study.

    Args:
        config: Configuration of the study.
        rows: Rows by part.
    """
    people = _people(rows)
    names = _recognizers(people)
    sections = PageSections()
    sections.add("The same face to us", _seen_blocks(people))
    sections.add("What the recognizer sees", _plane_blocks(people, names))
    sections.add("Matches by budget", _budget_blocks(people, names))
    return StudyPage(
        answer=_answer(people, names),
        sections=tuple(sections.sections),
        comparisons=_comparisons(people, names),
        limits=_limits(names, len(rows) - len(people)),
        terms=TERMS,
    )


def _people(rows: PartRows) -> list[Sequence[Row]]:
    """Rows of each person whose face was found in two photos or more."""
    people = [own for own in rows.values() if own[0]["kind"] != "left out"]
    if not people:
        raise DataError("people", "have no face that a detector finds", "Give larger photos")
    return people


def _recognizers(people: Sequence[Sequence[Row]]) -> list[str]:
    """Names of the recognizers, that which cloaks first."""
    return list(dict.fromkeys(r["recognizer"] for r in people[0] if r["kind"] == "probe"))


def match_rate(
    people: Sequence[Sequence[Row]],
    recognizer: str,
    variant: str,
    budget: int,
    channel: str = "png",
) -> RateInterval:
    """Return the share of comparisons that match, with people as the trials of the interval.

    Args:
        people: Rows of each person.
        recognizer: Name of the recognizer.
        variant: "original", "cloaked" or "noise".
        budget: Largest change of a value in 255ths; 0 for the original.
        channel: "png" as saved, or the name of a way of sharing.
    """
    wanted = (recognizer, variant, budget, channel)
    keys = ("recognizer", "variant", "budget", "channel")
    outcomes, clusters = [], []
    for number, own in enumerate(people):
        for row in own:
            if row["kind"] == "probe" and tuple(row[key] for key in keys) == wanted:
                outcomes += [margin > 0 for margin in row["margins"]]
                clusters += [number] * len(row["margins"])
    return clustered_interval(outcomes, clusters)


def _budgets_in(people: Sequence[Sequence[Row]]) -> list[int]:
    return sorted({r["budget"] for own in people for r in own if r["kind"] == "change"})


def _answer(people: Sequence[Sequence[Row]], names: Sequence[str]) -> str:
    judge = names[-1]
    before = match_rate(people, judge, "original", 0)
    after = match_rate(people, judge, "cloaked", SHOWN)
    noise = match_rate(people, judge, "noise", SHOWN)
    seen = (
        f"{judge}, which the cloak never saw,"
        if len(names) > 1
        else f"{judge}, with which the cloak was made (no other recognizer is at hand),"
    )
    return (
        f"With no pixel changed by more than {SHOWN}/255, {seen} matches "
        f"{after.of('comparison')} with other photos of the person; it matched "
        f"{before.of('comparison')} before, and under noise as visible "
        f"{noise.of('comparison')}."
    )


def _seen_blocks(people: Sequence[Sequence[Row]]) -> list[Block | str]:
    lines = []
    for own in people:
        for row in own:
            if row["kind"] == "pictures":
                files = row["files"]
                lines.append(
                    (
                        Picture(files["before"], "photo"),
                        Picture(files["after"], "cloaked", f"largest {row['linf']}/255"),
                        Picture(files["change"], f"difference x{GAIN}"),
                        Picture(files["other"], "another photo", "compared with"),
                    )
                )
    blocks: list[Block | str] = [
        "An adversarial example need not be an attack. Here the owner of a photo changes it so "
        "that a stranger's face recognizer no longer finds the other photos of the same person; "
        "people still do. The change is sought by the gradient of the recognizer, and blurred so "
        "that it looks like light and shade."
    ]
    if lines:
        caption = (
            f"Faces before and after a cloak of at most {SHOWN}/255, their difference enlarged "
            f"{GAIN} times around gray, and another photo of the person."
        )
        blocks.append(Pictures("faces", caption, tuple(lines)))
    return blocks


def _plane_blocks(people: Sequence[Sequence[Row]], names: Sequence[str]) -> list[Block | str]:
    blocks: list[Block | str] = [
        "A recognizer f turns a face into a list of numbers, its embedding, such that photos of "
        "one person lie together. Two photos match where their embeddings are more alike than a "
        f"threshold, which {FAR} of the pairs of different people pass. The cloak lowers the "
        "likeness s to the person's own embedding within two limits on what can be seen.",
        Formula(
            r"\min_\delta \; s\left(f(x + \delta), f(x)\right) \quad \text{with } "
            r"\|\delta\|_\infty \le \epsilon, \; \mathrm{DSSIM}(x, x + \delta) \le \rho",
            "Minimize over delta the likeness of the embeddings of x plus delta and x, with every "
            "value changed by at most epsilon and a structural dissimilarity of at most rho.",
        ),
    ]
    for number, name in enumerate(names):
        figure = _embedding_plane(people, name, made=number == 0)
        if figure is not None:
            blocks.append(figure)
    return blocks


def principal_plane(embeddings: Tensor) -> tuple[Tensor, float]:
    """Return embeddings in the plane in which they differ most, and the share of their variance
    that it holds.

    Args:
        embeddings: Embeddings (n, d), at least three.

    Returns:
        Coordinates (n, 2) around the mean, and the share, 0 to 1.
    """
    centered = (embeddings - embeddings.mean(0)).double()
    _, sizes, directions = torch.linalg.svd(centered, full_matrices=False)
    power = sizes.square()
    return (centered @ directions[:2].T).float(), float(power[:2].sum() / power.sum())


def _embedding_plane(
    people: Sequence[Sequence[Row]], recognizer: str, *, made: bool
) -> Plane | None:
    """Embeddings of all people before and after, in the plane of the originals."""
    before, after, owners = [], [], []
    for number, own in enumerate(people):
        for row in own:
            if row.get("recognizer") != recognizer or "embedding" not in row:
                continue
            if row["kind"] == "reference" or row["variant"] == "original":
                before.append(row["embedding"])
                owners.append(number)
            elif row["variant"] == "cloaked":
                after.append((number, row["embedding"]))
    if len(before) < 3 or not after:
        return None

    everything = torch.tensor(before + [embedding for _, embedding in after])
    places, share = principal_plane(everything)
    spots: list[Pair] = [(float(a), float(b)) for a, b in places]
    moved = {number: spots[len(before) + k] for k, (number, _) in enumerate(after)}
    shapes = []
    for number in range(min(SHOWN_PEOPLE, len(people))):
        own_spots = tuple(s for s, owner in zip(spots, owners, strict=False) if owner == number)
        shapes.append(Shape(f"person {number + 1}", "points", own_spots))
        if number in moved:
            shapes.append(Shape(f"person {number + 1}, cloaked", "points", (moved[number],)))
    rest = tuple(s for s, owner in zip(spots, owners, strict=False) if owner >= SHOWN_PEOPLE)
    if rest:
        shapes.append(Shape("other people", "points", rest, source="published"))

    reach = 1.1 * max(max(abs(a), abs(b)) for a, b in spots)
    role = "with which the cloak was made" if made else "which the cloak never saw"
    return Plane(
        f"embeddings-{recognizer.lower().replace(' ', '-').replace('_', '-')}",
        f"Embeddings by {recognizer}, {role}, in the plane in which they differ most; it holds "
        f"{format_percent(share, 0)} of their variance, so that distances in it are only a part of "
        "the whole.",
        Axis("first principal direction", low=-reach, high=reach),
        Axis("second principal direction", low=-reach, high=reach),
        tuple(shapes),
    )


def _budget_blocks(people: Sequence[Sequence[Row]], names: Sequence[str]) -> list[Block | str]:
    blocks: list[Block | str] = []
    for number, name in enumerate(names):
        made = number == 0
        blocks.append(_budget_chart(people, name, made=made))
    return [*blocks, _budget_table(people, names)]


def _budget_chart(people: Sequence[Sequence[Row]], recognizer: str, *, made: bool) -> Chart:
    budgets = _budgets_in(people)
    start = match_rate(people, recognizer, "original", 0)
    ways = {
        "cloaked, as saved": ("cloaked", "png"),
        "cloaked, JPEG 75": ("cloaked", JPEG),
        "noise as visible": ("noise", "png"),
    }
    series = []
    for label, (variant, channel) in ways.items():
        points = [Point(0.0, start.rate, start.low, start.high)] if channel == "png" else []
        for budget in budgets:
            rate = match_rate(people, recognizer, variant, budget, channel)
            points.append(Point(float(budget), rate.rate, rate.low, rate.high))
        series.append(Series(label, tuple(points)))
    role = "with which the cloak was made" if made else "which the cloak never saw"
    return Chart(
        f"budget-{recognizer.lower().replace(' ', '-').replace('_', '-')}",
        f"Comparisons with other photos of the person that {recognizer}, {role}, still matches; "
        f"{count_noun(len(people), 'person')}, {count_noun(start.n, 'comparison')}, 95 % "
        "intervals over people.",
        Axis("largest change of a value (255ths)", low=0.0),
        Axis("matched", percent=True, low=0.0, high=1.0),
        tuple(series),
    )


def _budget_table(people: Sequence[Sequence[Row]], names: Sequence[str]) -> Table:
    lines = []
    for budget in _budgets_in(people):
        sizes = [
            r["dssim"]
            for own in people
            for r in own
            if r["kind"] == "change" and r["budget"] == budget
        ]
        rates = [str(match_rate(people, name, "cloaked", budget)) for name in names]
        lines.append((f"{budget}/255", f"{sum(sizes) / len(sizes):.4f}", *rates))
    return Table(
        "budgets",
        "Matches as saved, by budget. DSSIM is the mean structural dissimilarity of the face box: "
        "0 for the same picture, 0.5 at most.",
        ("budget", "DSSIM", *names),
        tuple(lines),
        numeric=tuple(range(1, len(names) + 2)),
    )


def _comparisons(people: Sequence[Sequence[Row]], names: Sequence[str]) -> tuple[Comparison, ...]:
    most = _budgets_in(people)[-1]
    rate = match_rate(people, names[-1], "cloaked", most)
    measured = f"{names[-1]} still matches {rate} at {most}/255"
    return (
        Comparison(
            "Protection by a cloak",
            f"{PAPERS[0].cited}, abstract",
            "more than 95 % protection against recognition of the user",
            measured,
            "Another threat: there the stranger's recognizer is trained on cloaked photos and "
            "shown clean ones; here a fixed recognizer compares a cloaked photo with clean ones.",
        ),
        Comparison(
            "Recognition of cloaked photos by commercial services",
            f"{PAPERS[1].cited}, abstract",
            "below 1 %",
            measured,
            "Other recognizers, a gallery search in place of pairs, and a larger budget there.",
        ),
    )


def _limits(names: Sequence[str], left_out: int) -> tuple[str, ...]:
    limits = [
        "A stranger may retrain the recognizer on cloaked photos, or wait for a better one: photos "
        f"that were published stay as they are ({PAPERS[2].cited}).",
        "Few people: intervals are wide, and are over people of one collection.",
        "The face is cut out at the place that was found in the original.",
    ]
    if len(names) < 2:
        limits.insert(
            0,
            "One recognizer alone is at hand, and it made the cloak: how far the cloak reaches to "
            "recognizers it never saw is not shown. `physadv models fetch mobilefacenet` adds one.",
        )
    if left_out:
        limits.append(
            f"Left out: {count_noun(left_out, 'person')}, of whom too few faces were found."
        )
    return tuple(limits)


TERMS = (
    ("embedding", "The list of numbers that a recognizer computes from a face."),
    ("match", "Two embeddings more alike than a threshold."),
    ("DSSIM", "Structural dissimilarity: how much local light, contrast and structure differ."),
    ("JPEG 75", "The photo saved once more as JPEG of quality 75, as many sites do."),
    ("principal direction", "The direction in which points spread most."),
)

STUDY = Study(
    name="privacy",
    title="An adversarial example for good",
    question="Does a change that people hardly see keep a face recognizer from matching a photo?",
    config=PrivacyConfig,
    papers=PAPERS,
    parts=privacy_parts,
    page=privacy_page,
)
