"""The study `physadv study gradient`: one gradient, used once for the weights, once for the input.

After Szegedy et al. (2013): the backward pass that trains a network also tells how to change an
image so that the network errs. Its attack, box-constrained L-BFGS, is measured beside gradient
ascent, FGSM and PGD by the distortion that each needs, and beside noise of the same size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physadv.attacks.attack_result import AttackResult
from physadv.attacks.gradient import fgsm, gradient_ascent, pgd
from physadv.core.errors import DataError
from physadv.core.image_io import list_images, read_image
from physadv.core.rows import Row
from physadv.core.wording import count_noun, format_percent
from physadv.defenses.load_model import load_model
from physadv.evaluation.metrics.intervals import RateInterval, wilson_interval
from physadv.evaluation.metrics.means import MeanInterval, mean_interval
from physadv.models.cards import LoadedModel
from physadv.models.resizing import InputResizing
from physadv.studies.attack_studies_config import GradientConfig
from physadv.studies.box_lbfgs import box_lbfgs
from physadv.studies.page import (
    Axis,
    Block,
    Chart,
    Comparison,
    Formula,
    PageSections,
    Paper,
    Picture,
    Pictures,
    Point,
    Series,
    StudyPage,
    Table,
)
from physadv.studies.small_architectures import perceptron
from physadv.studies.small_classifiers import (
    StudyData,
    accuracy,
    fit_classifier,
    predict,
    read_once,
)
from physadv.studies.spectra import radial_power, spectrum_picture
from physadv.studies.study import Part, PartRows, Study, Workspace

PAPERS = (
    Paper("Szegedy et al.", 2013, "Intriguing properties of neural networks", "arXiv:1312.6199"),
    Paper(
        "Goodfellow et al.",
        2014,
        "Explaining and harnessing adversarial examples",
        "arXiv:1412.6572",
    ),
    Paper(
        "Madry et al.",
        2017,
        "Towards deep learning models resistant to adversarial attacks",
        "arXiv:1706.06083",
    ),
)
LEVELS = (0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3)
"""Distortions that are tried: root mean square change of a value in [0, 1]."""
RELATIVE = (0.0, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1)
"""Steps along the gradient, in lengths of the weights or of the image."""
FLOOR = 1e-6
"""Smallest loss that is drawn; smaller ones are lost in the rounding of probabilities near 1."""
GAIN = 10
"""Factor by which differences are enlarged in pictures."""
PHOTO_EPS255 = 2
"""Radius of the l_inf ball of the attacks on photos, in 255ths."""
TARGET = "ostrich"
"""Word in the name of the class that photos are moved to, as in the paper's figure."""
PUBLISHED_DISTORTION, PUBLISHED_ERROR = 0.058, 0.0164
"""Mean distortion and test error of the paper's FC100-100-10 (table 1)."""
GOALS = {"untargeted": "any other class", "targeted": "a class drawn at random"}
ATTACKS = {"lbfgs": "L-BFGS (2013)", "fgsm": "one step (FGSM)", "ascent": "ascent", "pgd": "PGD"}


class _Correct(NamedTuple):
    """Test images that the network classifies correctly, with a wrong class drawn for each."""

    images: Tensor
    labels: Tensor
    targets: Tensor


def _data(config: GradientConfig, work: Workspace) -> StudyData:
    return read_once(
        work,
        config.data,
        train=config.scaled(500, 20_000, 60_000),
        test=config.scaled(50, 2000, 10_000),
        seed=work.seed_of("data"),
    )


def _net(config: GradientConfig, work: Workspace) -> nn.Module:
    """The paper's network of two hidden layers of 100 sigmoid units."""
    data = _data(config, work)
    values = data.channels * data.image_size**2
    return work.net(
        "perceptron",
        lambda: perceptron(values, (100, 100), len(data.classes), nn.Sigmoid),
        lambda net: fit_classifier(
            net,
            data.train,
            epochs=config.scaled(4, 20, 40),
            seed=work.seed_of("fit"),
            weight_decay=1e-3,
        ),
    )


def _correct(config: GradientConfig, work: Workspace, count: int) -> _Correct:
    """The first ``count`` test images that the network classifies correctly."""
    data, net = _data(config, work), _net(config, work)
    images, labels = data.test.floats(slice(None))
    rows = (predict(net, images) == labels).nonzero()[:, 0][:count]
    offsets = torch.randint(
        1, len(data.classes), (len(labels),), generator=work.generator("targets")
    )
    targets = (labels + offsets) % len(data.classes)
    return _Correct(images[rows], labels[rows], targets[rows])


def _accuracy_rows(config: GradientConfig, work: Workspace) -> list[Row]:
    data, net = _data(config, work), _net(config, work)
    rate = accuracy(net, *data.test.floats(slice(None)))
    return [{"correct": round(rate.rate * rate.n), "n": rate.n, "trained_on": len(data.train)}]


def _two_use_rows(config: GradientConfig, work: Workspace) -> list[Row]:
    """The loss of each image after a step along its own gradient, in the weights and in the
    input."""
    chosen = _correct(config, work, config.scaled(5, 100, 500))
    net = _net(config, work)
    rows = []
    for number, (image, label) in enumerate(zip(chosen.images, chosen.labels, strict=True)):
        losses = losses_along_gradient(net, image[None], label[None], RELATIVE)
        for use, values in losses.items():
            rows += [
                {"image": number, "use": use, "step": step, "loss": value}
                for step, value in zip(RELATIVE, values, strict=True)
            ]
    return rows


def losses_along_gradient(
    net: nn.Module, image: Tensor, label: Tensor, steps: Sequence[float]
) -> dict[str, list[float]]:
    """Return the loss of an image after steps along the gradient of one backward pass.

    Args:
        net: Network; its parameters are left as they are.
        image: Image (1, c, h, w) in [0, 1].
        label: True class (1,).
        steps: Lengths of the steps, in lengths of what is changed.

    Returns:
        Under "weights" the losses after steps down the gradient in the weights, under "input" those
        after steps up the gradient in the image, which is not clipped.
    """
    weights = {name: value.detach().clone() for name, value in net.named_parameters()}
    leaves = {name: value.clone().requires_grad_() for name, value in weights.items()}
    x = image.detach().clone().requires_grad_()

    def loss_of(values: dict[str, Tensor], picture: Tensor) -> Tensor:
        logits: Tensor = torch.func.functional_call(net, values, (picture,))
        return F.cross_entropy(logits, label)

    with torch.enable_grad():
        loss = loss_of(leaves, x)
        slopes = torch.autograd.grad(loss, [x, *leaves.values()])
    slope, own = slopes[0], dict(zip(weights, slopes[1:], strict=True))

    def length(tensors: Sequence[Tensor]) -> float:
        return float(torch.stack([t.square().sum() for t in tensors]).sum().sqrt())

    per_weight = length(list(weights.values())) / max(length(list(own.values())), 1e-30)
    per_pixel = length([image]) / max(length([slope]), 1e-30)
    with torch.no_grad():
        moved = [
            {name: value - step * per_weight * own[name] for name, value in weights.items()}
            for step in steps
        ]
        return {
            "weights": [float(loss_of(values, image)) for values in moved],
            "input": [float(loss_of(weights, image + step * per_pixel * slope)) for step in steps],
        }


def _attacks(steps: int) -> dict[str, Callable[..., AttackResult]]:
    """The l_2 attacks by name, without their radius and targets."""
    return {
        "fgsm": partial(fgsm, norm="l2"),
        "ascent": partial(gradient_ascent, norm="l2", steps=steps),
        "pgd": partial(pgd, norm="l2", steps=steps),
    }


def _attack_rows(config: GradientConfig, work: Workspace, goal: str) -> list[Row]:
    """The smallest distortion at which each attack reaches ``goal``, by image."""
    chosen = _correct(config, work, config.scaled(4, 100, 1000))
    net = _net(config, work)
    targets = chosen.targets if goal == "targeted" else None
    rows = []
    for name, attack in _attacks(config.scaled(5, 30, 100)).items():
        found = smallest_distortions(attack, net, chosen.images, chosen.labels, targets)
        rows += [{"attack": name, "image": k, "distortion": d} for k, d in enumerate(found)]

    towards = _runners_up(net, chosen) if targets is None else targets
    for number, (image, target) in enumerate(zip(chosen.images, towards, strict=True)):
        near = box_lbfgs(
            net,
            image,
            int(target),
            searches=config.scaled(3, 8, 12),
            steps=config.scaled(8, 30, 60),
        )
        distance = None if near is None else rms(near - image)
        rows.append({"attack": "lbfgs", "image": number, "distortion": distance})
    return rows


@torch.no_grad()
def _runners_up(net: nn.Module, chosen: _Correct) -> Tensor:
    """The wrong class with the highest logit."""
    logits: Tensor = net(chosen.images).scatter(1, chosen.labels[:, None], -torch.inf)
    return logits.argmax(1)


def rms(change: Tensor) -> float:
    """Return the root mean square of a change: Szegedy et al.'s distortion."""
    return float(change.double().square().mean().sqrt())


def smallest_distortions(
    attack: Callable[..., AttackResult],
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    targets: Tensor | None,
) -> list[float | None]:
    """Return the distortion of the first success of an attack with growing radius, by image.

    Args:
        attack: l_2 attack that takes ``eps`` and ``targets``.
        net: Network to attack.
        images: Clean images (n, c, h, w) in [0, 1].
        labels: True classes (n,).
        targets: Target classes (n,); None for any other class.

    Returns:
        Root mean square changes; None where no radius of LEVELS sufficed.
    """
    found: list[float | None] = [None] * len(images)
    values = images[0].numel()
    for level in LEVELS:
        rows = torch.tensor([k for k, d in enumerate(found) if d is None], dtype=torch.long)
        if not len(rows):
            break
        goal: dict[str, Any] = {} if targets is None else {"targets": targets[rows]}
        result = attack(net, images[rows], labels[rows], eps=level * values**0.5, **goal)
        for k, image, success in zip(rows.tolist(), result.images, result.success, strict=True):
            if success:
                found[k] = rms(image - images[k])
    return found


def _noise_rows(config: GradientConfig, work: Workspace) -> list[Row]:
    """The share of images that Gaussian noise makes misclassified, by its distortion.

    The noise is not clipped, as in the paper: clipping would brighten the black background.
    """
    chosen = _correct(config, work, config.scaled(4, 100, 1000))
    net = _net(config, work)
    draws = config.scaled(1, 10, 20)
    rows = []
    for level in LEVELS:
        source = work.generator("noise", str(level))
        for _ in range(draws):
            noise = level * torch.randn(chosen.images.shape, generator=source)
            wrong = int((predict(net, chosen.images + noise) != chosen.labels).sum())
            rows.append({"level": level, "wrong": wrong, "n": len(chosen.labels)})
    return rows


def _spectrum_rows(config: GradientConfig, work: Workspace) -> list[Row]:
    """The power of images and of attacks on them by frequency, each relative to white noise."""
    chosen = _correct(config, work, config.scaled(4, 200, 1000))
    net = _net(config, work)
    eps = 0.06 * chosen.images[0].numel() ** 0.5
    moved = pgd(net, chosen.images, chosen.labels, eps=eps, norm="l2", steps=20).images
    spectra = {
        "images": radial_power(chosen.images.mean(1)),
        "change": radial_power((moved - chosen.images).mean(1)),
    }
    return [
        {"of": name, "frequency": frequency, "power": power}
        for name, pairs in spectra.items()
        for frequency, power in pairs
    ]


def _picture_rows(config: GradientConfig, work: Workspace) -> list[Row]:
    """Images of the data set beside what L-BFGS makes of them."""
    chosen, data = _correct(config, work, 3), _data(config, work)
    net = _net(config, work)
    rows = []
    for number, (image, label, target) in enumerate(zip(*chosen, strict=True)):
        near = box_lbfgs(net, image, int(target))
        if near is None:
            continue
        names = [data.classes[int(k)] for k in (label, target)]
        rows.append(_save_row(work, f"image-{number}", image, near, names))
    return rows


def _save_row(
    work: Workspace, stem: str, clean: Tensor, moved: Tensor, classes: Sequence[str]
) -> Row:
    """Write the four pictures of an attack and return their row."""
    change = moved - clean
    pictures = {
        "clean": clean,
        "moved": moved,
        "change": (0.5 + GAIN * change).clamp(0, 1),
        "spectrum": spectrum_picture(change.mean(0)),
    }
    files = {name: work.save_picture(f"{stem}-{name}", p) for name, p in pictures.items()}
    return {
        "files": files,
        "classes": list(classes),
        "rms": rms(change),
        "linf255": float(change.abs().max() * 255),
    }


def _photo_rows(config: GradientConfig, work: Workspace) -> list[Row]:
    """Photos moved to another class within a small ball, and one by L-BFGS as in the paper."""
    model = load_model(config.model, weights=config.weights)
    photos = _photos(config, model, config.scaled(1, 6, 50))
    rows = []
    for number, (name, photo) in enumerate(photos):
        with torch.no_grad():
            logits = model(photo[None])
        label, target = logits.argmax(1), torch.tensor([target_class(model, logits)])
        for goal in GOALS:
            towards: dict[str, Any] = {"targets": target} if goal == "targeted" else {}
            result = pgd(
                model,
                photo[None],
                label,
                eps=PHOTO_EPS255 / 255,
                steps=config.scaled(3, 10, 40),
                levels=255,
                **towards,
            )
            rows.append(
                {"photo": name, "attack": "pgd", "goal": goal, "success": bool(result.success)}
                | (_photo_pictures(work, model, photo, result.images[0], f"photo-{number}-{goal}"))
            )
        if number == 0:
            near = box_lbfgs(
                model,
                photo,
                int(target),
                searches=config.scaled(1, 4, 8),
                steps=config.scaled(3, 15, 30),
            )
            moved, success = rounded_beyond(model, photo, near, int(target))
            rows.append(
                {"photo": name, "attack": "lbfgs", "goal": "targeted", "success": success}
                | _photo_pictures(work, model, photo, moved, "photo-lbfgs")
            )
    return rows


@torch.no_grad()
def rounded_beyond(
    model: nn.Module, clean: Tensor, near: Tensor | None, target: int
) -> tuple[Tensor, bool]:
    """Return an adversarial image rounded to 8 bits, its change enlarged by up to twice where the
    rounding would undo it, and whether it is of the target class.

    Args:
        model: Classifier.
        clean: Clean image (c, h, w) in [0, 1].
        near: Adversarial image; None where none was found, for the clean one.
        target: Class to reach.
    """
    moved = clean
    if near is None:
        return moved, False
    for percent in range(100, 210, 10):
        moved = (clean + percent / 100 * (near - clean)).clamp(0, 1).mul(255).round() / 255
        if int(model(moved[None]).argmax()) == target:
            return moved, True
    return moved, False


def _photos(config: GradientConfig, model: LoadedModel, count: int) -> list[tuple[str, Tensor]]:
    """Evenly spaced photos of the folder in the size of the model's input."""
    files = list_images(config.pictures or "")
    if not files:
        raise DataError(f"{config.pictures}", "holds no picture", "Name a folder of photos")
    resizing = model.card.resizing or InputResizing((224, 224))
    chosen = [
        files[k * len(files) // min(count, len(files))] for k in range(min(count, len(files)))
    ]
    photos = [resizing(read_image(file)[None])[0].clamp(0, 1) for file in chosen]
    return [
        (file.stem, (photo * 255).round() / 255) for file, photo in zip(chosen, photos, strict=True)
    ]


def target_class(model: LoadedModel, logits: Tensor) -> int:
    """Return the class that a photo is moved to: an ostrich, as in the paper, where the model knows
    one and the photo shows none, else the least likely class.

    Args:
        model: Classifier.
        logits: Its logits (1, classes) of the photo.
    """
    named = [k for k, name in enumerate(model.card.classes) if TARGET in name.lower()]
    if named and named[0] != int(logits.argmax()):
        return named[0]
    return int(logits.argmin())


@torch.no_grad()
def _photo_pictures(
    work: Workspace, model: LoadedModel, photo: Tensor, moved: Tensor, stem: str
) -> Row:
    """Write the pictures of an attack on a photo; classes and probabilities with them."""
    shares = model(torch.stack([photo, moved])).softmax(1).max(1)
    names = [model.card.class_name(int(k)).split(",")[0] for k in shares.indices]
    row = _save_row(work, stem, photo, moved, names)
    return row | {"probabilities": [round(float(p), 4) for p in shares.values]}


def gradient_parts(config: GradientConfig) -> list[Part]:
    """Return the parts of the study; photos only where a folder of them is named."""
    parts = [
        Part("accuracy", "training the network of the paper", partial(_accuracy_rows, config)),
        Part("two-uses", "following one gradient both ways", partial(_two_use_rows, config)),
        *(
            Part(goal, f"attacking towards {words}", partial(_attack_rows, config, goal=goal))
            for goal, words in GOALS.items()
        ),
        Part("noise", "adding noise", partial(_noise_rows, config)),
        Part("spectrum", "taking spectra", partial(_spectrum_rows, config)),
        Part("images", "drawing images", partial(_picture_rows, config)),
    ]
    if config.pictures:
        parts.append(Part("photos", "attacking photos", partial(_photo_rows, config)))
    return parts


def gradient_page(config: GradientConfig, rows: PartRows) -> StudyPage:
    """Return the page of the study.

    Args:
        config: Configuration of the study.
        rows: Rows by part.
    """
    sections = PageSections()
    sections.add("The same picture to us, another one to the network", _seen_blocks(rows))
    sections.add("One gradient, two uses", _two_use_blocks(rows["two-uses"]))
    sections.add("How far the nearest error is", _distance_blocks(rows))
    sections.add("What the change is made of", _spectrum_blocks(rows["spectrum"]))
    return StudyPage(
        answer=_answer(rows),
        sections=tuple(sections.sections),
        comparisons=_comparisons(rows),
        limits=_limits(config),
        terms=TERMS,
    )


def _answer(rows: PartRows) -> str:
    moved = _distance(rows["targeted"], "lbfgs")
    reached = _reached(rows["targeted"], "lbfgs")
    if not moved.n:
        return (
            f"L-BFGS moved none of {count_noun(reached.n, 'image')} to a wrong class drawn at "
            "random."
        )
    noise = _noise_rate(rows["noise"], moved.mean)
    return (
        f"L-BFGS moved {reached.of('image')} to a wrong class drawn at random, by a root mean "
        f"square change of {moved} where pixels span 0 to 1; noise of about that size makes "
        f"{noise.of('image')} wrong."
    )


def _distance(rows: Sequence[Row], attack: str) -> MeanInterval:
    """Mean distortion of an attack over the images that it moved."""
    own = [r["distortion"] for r in rows if r["attack"] == attack]
    return mean_interval([d for d in own if d is not None])


def _reached(rows: Sequence[Row], attack: str) -> RateInterval:
    own = [r["distortion"] for r in rows if r["attack"] == attack]
    return wilson_interval(sum(d is not None for d in own), len(own))


def _noise_rate(rows: Sequence[Row], size: float) -> RateInterval:
    """Share of images that the noise nearest to ``size`` makes wrong; images, not draws, count as
    trials."""
    level = min((r["level"] for r in rows), key=lambda one: abs(one - size))
    own = [r for r in rows if r["level"] == level]
    n = own[0]["n"]
    return wilson_interval(round(sum(r["wrong"] for r in own) / len(own)), n)


def _seen_blocks(rows: PartRows) -> list[Block | str]:
    blocks: list[Block | str] = [
        "Each row: the image, the image after the attack, their difference enlarged "
        f"{GAIN} times around gray, and the spectrum of the difference, low frequencies in the "
        "middle, on a logarithmic scale."
    ]
    photos = rows.get("photos", [])
    shown = [r for r in photos if r["attack"] == "lbfgs"]
    others = [r for r in photos if r["attack"] == "pgd"][2:]
    shown += [r for k, r in enumerate(others) if k % 4 in (0, 3)][:3] if others else []
    if shown:
        blocks.append(
            Pictures(
                "photos",
                "Photos before and after. " + _photo_words(photos),
                tuple(_picture_row(row) for row in shown),
            )
        )
    blocks.append(
        Pictures(
            "images",
            "Images of the data set, moved by L-BFGS to a class drawn at random.",
            tuple(_picture_row(row) for row in rows["images"]),
            pixelated=True,
        )
    )
    return blocks


def _photo_words(photos: Sequence[Row]) -> str:
    words = []
    for goal in GOALS:
        own = [r for r in photos if r["attack"] == "pgd" and r["goal"] == goal]
        rate = wilson_interval(sum(r["success"] for r in own), len(own))
        words.append(f"{goal} {rate}")
    return f"PGD within {PHOTO_EPS255}/255 of each value succeeded: {'; '.join(words)}."


def _picture_row(row: Row) -> tuple[Picture, ...]:
    files, (before, after) = row["files"], row["classes"]
    shares = row.get("probabilities")
    details = [f", {format_percent(p, 0)}" for p in shares] if shares else ["", ""]
    way = {"lbfgs": "L-BFGS", "pgd": "PGD"}[row.get("attack", "lbfgs")]
    moved = f"moved by {way}" if row.get("success", True) else f"not moved by {way}"
    return (
        Picture(files["clean"], "image", before + details[0]),
        Picture(files["moved"], moved, after + details[1]),
        Picture(files["change"], f"difference x{GAIN}", f"RMS {row['rms']:.4f}"),
        Picture(files["spectrum"], "its spectrum", f"largest {row['linf255']:.0f}/255"),
    )


def _two_use_blocks(rows: Sequence[Row]) -> list[Block | str]:
    labels = {"weights": "training: down, in the weights", "input": "attack: up, in the image"}
    series = []
    for use, label in labels.items():
        points = []
        for step in RELATIVE:
            losses = [r["loss"] for r in rows if r["use"] == use and r["step"] == step]
            mean = mean_interval(losses)
            middle, low, high = (max(end, FLOOR) for end in (mean.mean, mean.low, mean.high))
            points.append(Point(step, middle, low, high))
        series.append(Series(label, tuple(points)))
    count = len({r["image"] for r in rows})
    return [
        "The loss L says how wrong the network is on one image. One backward pass computes how L "
        "changes with every weight and, at no extra cost, with every pixel. Training steps down "
        "in the weights; an attack steps up in the pixels. Nothing else differs.",
        Formula(
            r"\theta' = \theta - \eta \, \nabla_\theta L(\theta, x, y) \qquad "
            r"x' = x + \eta \, \nabla_x L(\theta, x, y)",
            "New weights are the weights less a step along the gradient in the weights; the new "
            "image is the image plus a step along the gradient in the image.",
        ),
        Chart(
            "two-uses",
            f"Mean loss of {count} correctly classified images after a step along each image's own "
            "gradient, with 95 % intervals: down in the weights, up in the image. Losses below "
            f"{FLOOR:g} are drawn there.",
            Axis("length of the step, relative to the weights or to the image"),
            Axis("loss of the image", scale="log", low=FLOOR),
            tuple(series),
        ),
    ]


def _distance_blocks(rows: PartRows) -> list[Block | str]:
    blocks: list[Block | str] = [
        "The attack of 2013 looks for the nearest image of a chosen class: it weighs the length of "
        "the change against the loss towards that class, keeps pixels between black and white, and "
        "searches for the largest weight c that still succeeds. The other attacks are given a "
        "radius, which grows until they succeed.",
        Formula(
            r"\min_r \; c \, \|r\|^2 + L(\theta, x + r, t) \quad "
            r"\text{with } x + r \in [0, 1]^n",
            "Minimize c times the squared length of r plus the loss of x plus r towards the target "
            "t, with all pixels between zero and one.",
        ),
    ]
    for goal, words in GOALS.items():
        blocks.append(_share_chart(rows, goal, words))
    return [*blocks, _distance_table(rows)]


def _share_chart(rows: PartRows, goal: str, words: str) -> Chart:
    """Share of images that each attack moved, by the distortion allowed."""
    own = rows[goal]
    series = []
    for attack, label in ATTACKS.items():
        found = [r["distortion"] for r in own if r["attack"] == attack]
        points = []
        for level in LEVELS:
            rate = wilson_interval(sum(d is not None and d <= level for d in found), len(found))
            points.append(Point(level, rate.rate, rate.low, rate.high))
        series.append(Series(label, tuple(points)))
    if goal == "untargeted":
        noise = [(level, _noise_rate(rows["noise"], level)) for level in LEVELS]
        points = [Point(level, rate.rate, rate.low, rate.high) for level, rate in noise]
        series.append(Series("Gaussian noise", tuple(points)))
    n = len({r["image"] for r in own})
    return Chart(
        f"reached-{goal}",
        f"Share of {count_noun(n, 'image')} moved to {words} within a distortion, with 95 % "
        "intervals.",
        Axis("root mean square change of a value in [0, 1]", high=LEVELS[-1], low=0.0),
        Axis("images moved", percent=True, low=0.0, high=1.0),
        tuple(series),
    )


def _distance_table(rows: PartRows) -> Table:
    lines = []
    for attack, label in ATTACKS.items():
        cells = [label]
        for goal in GOALS:
            cells += [str(_distance(rows[goal], attack)), str(_reached(rows[goal], attack))]
        lines.append(tuple(cells))
    return Table(
        "distortions",
        "Mean smallest distortion over the images that were moved, and the share of these. "
        "Untargeted, L-BFGS aims at the class with the second-highest logit.",
        ("attack", "distortion, any class", "moved", "distortion, drawn class", "moved"),
        tuple(lines),
        numeric=(1, 2, 3, 4),
    )


def _spectrum_blocks(rows: Sequence[Row]) -> list[Block | str]:
    labels = {"images": "the images", "change": "the change by PGD"}
    series = [
        Series(
            label,
            tuple(Point(r["frequency"], r["power"]) for r in rows if r["of"] == name),
        )
        for name, label in labels.items()
    ]
    edge = max(r["frequency"] for r in rows)
    white = Series("white noise", (Point(0.0, 1.0), Point(edge, 1.0)), "curve", "theory")
    return [
        "A picture is a sum of waves. White noise holds all of them alike; shapes that we see are "
        "made of slow ones. At the slowest waves drawn, the change has "
        f"{_power(rows, 'change', 0):.2g} times the power of white noise (the images "
        f"{_power(rows, 'images', 0):.2g} times); at the fastest, "
        f"{_power(rows, 'change', -1):.2g} times (the images {_power(rows, 'images', -1):.2g}).",
        Chart(
            "spectrum",
            "Mean power of a wave by its frequency, relative to white noise of the same total "
            "power.",
            Axis("frequency (cycles a pixel)", low=0.0, high=0.5),
            Axis("power relative to white noise", scale="log"),
            (*series, white),
        ),
    ]


def _power(rows: Sequence[Row], of: str, number: int) -> float:
    """Relative power of the ``number``-th frequency."""
    return [float(r["power"]) for r in rows if r["of"] == of][number]


def _comparisons(rows: PartRows) -> tuple[Comparison, ...]:
    own, targeted = rows["accuracy"][0], rows["targeted"]
    error = wilson_interval(own["n"] - own["correct"], own["n"])
    cited = PAPERS[0].cited
    return (
        Comparison(
            "Test error of the network with two hidden layers of 100 sigmoid units",
            f"{cited}, table 1",
            f"{format_percent(PUBLISHED_ERROR, 2)} (MNIST, 60,000 training images)",
            f"{error}",
            f"Trained on {count_noun(own['trained_on'], 'image')} of the data set given here.",
        ),
        Comparison(
            "Mean distortion at which L-BFGS reaches a wrong class",
            f"{cited}, table 1",
            f"{PUBLISHED_DISTORTION} (every image)",
            f"{_distance(targeted, 'lbfgs')}; reached {_reached(targeted, 'lbfgs')}",
            "The paper attacks training images and does not state its search over c; here test "
            "images, and the nearest point of the class that L-BFGS visited.",
        ),
        Comparison(
            "Errors under Gaussian noise of standard deviation 0.1",
            f"{cited}, table 2",
            "0 % (FC100-100-10)",
            f"{_noise_rate(rows['noise'], 0.1)}",
            "Not clipped to [0, 1] in either; images that the network classifies correctly.",
        ),
        Comparison(
            "Errors under Gaussian noise of standard deviation 0.3",
            f"{cited}, table 2",
            "5 % (FC100-100-10)",
            f"{_noise_rate(rows['noise'], 0.3)}",
            "As above.",
        ),
    )


def _limits(config: GradientConfig) -> tuple[str, ...]:
    limits = [
        "One network and one training; distances differ from network to network.",
        "Each distance is that of the nearest error that was found; a nearer one may exist.",
        "Distances of the attacks with a radius are found on a grid of radii.",
    ]
    if not config.pictures:
        limits.append("No photos were attacked: name a folder of them with --pictures.")
    return tuple(limits)


TERMS = (
    ("gradient", "The direction in which a number grows fastest, and how fast, for small steps."),
    (
        "loss",
        "A number that is large where the network is wrong: minus the logarithm of the "
        "probability that it gives to the true class.",
    ),
    (
        "RMS change, distortion",
        "Square root of the mean squared change of all pixels: 0.05 where each of them changes by "
        "a twentieth of the way from black to white.",
    ),
    ("FGSM", "Fast gradient (sign) method: a single step along the gradient."),
    (
        "PGD",
        "Projected gradient descent: many small steps along the gradient, each followed by a "
        "return into the allowed distance.",
    ),
    ("L-BFGS", "A method of minimization that estimates curvature from the last few gradients."),
    ("untargeted, targeted", "Towards any wrong class; towards a chosen wrong class."),
)

STUDY = Study(
    name="gradient",
    title="One gradient, two uses",
    question="How far is the nearest image that a network gets wrong, and how is it found?",
    config=GradientConfig,
    papers=PAPERS,
    parts=gradient_parts,
    page=gradient_page,
)
